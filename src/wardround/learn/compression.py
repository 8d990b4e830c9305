"""Smaller updates, at a measured loss: half precision, a byte a value, or the largest values alone; zstd as the last stage.

A compressed update is a safetensors file still: beside (or in place of) the values of tensor NAME stand `NAME#scale`,
`NAME#index` and `NAME#count`. Their shapes follow from the base model and the study, so whatever else arrives is refused before
it is read, and the hub decodes a block at a time (Decoded). What a lossy form leaves out is kept at the edge (`residual.NAME`)
and added to its next update; as everything that an edge keeps, it moves on only when the hub counts the update.

Sources: Seide, Fu, Droppo, Li, Yu, 1-Bit Stochastic Gradient Descent, Interspeech 2014 (error feedback); Karimireddy, Rebjock,
Stich, Jaggi, Error Feedback Fixes SignSGD, ICML 2019, arXiv:1901.09847 (why it converges); Aji, Heafield, Sparse Communication
for Distributed Gradient Descent, EMNLP 2017, arXiv:1704.05021 (the largest values of each tensor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, Any, cast

import numpy as np
import zstandard

from wardround.errors import UpdateRefused
from wardround.learn.models import HEADER_BYTES_MAX, MemoryTensors, Parameters, Tensor, TensorSource, encode_model
from wardround.learn.study import CompressionSettings

RESIDUAL = "residual."
SCALED = 1_024  # values that share a scale
BLOCK = 65_536  # top-k: elements whose places are counted together, so that a place takes two bytes
WINDOW_MAX = 8 << 20  # bytes that a zstd stream may look back, hence the memory it may ask for
PART = 1 << 20
ZSTD_LEVEL = 3

Parts = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def compress(update: Mapping[str, Tensor], kept: Mapping[str, Tensor], settings: CompressionSettings) -> tuple[bytes, Parameters]:
    """An update as it is sent, and what the edge keeps of it for the next one."""
    sent: Parameters = {}
    residual: Parameters = {}
    for name, tensor in update.items():
        if not _is_lossy(tensor.dtype, settings):
            sent[name] = tensor
            continue
        whole = tensor + kept[RESIDUAL + name] if RESIDUAL + name in kept else tensor
        flat = np.ascontiguousarray(whole).reshape(-1)
        parts = _encode(name, flat, settings)
        decoded = Decoded(MemoryTensors(parts), MemoryTensors({name: tensor}), (name,), settings).block(name, 0, flat.size)
        residual[RESIDUAL + name] = (flat - decoded).reshape(tensor.shape)
        sent |= parts
    data = encode_model(sent)
    return (zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data) if settings.zstd else data), residual


def unpack(read: Callable[[int, int], bytes], size_max: int) -> Iterator[bytes]:
    """The bytes in a zstd stream, a part at a time; `read(offset, size)` gives those of the stream.

    Raises:
        UpdateRefused: "malformed", or "too-large": it holds more than `size_max` bytes.
    """
    total = 0
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX).stream_reader(
        cast("IO[bytes]", _Stream(read)), read_size=PART
    )
    try:
        while part := reader.read(PART):
            total += len(part)
            if total > size_max:
                raise UpdateRefused("too-large", f"the zstd stream holds more than {size_max} bytes")
            yield part
    except zstandard.ZstdError as exc:
        raise UpdateRefused("malformed", f"not a zstd stream that can be read: {exc}") from exc


def size_max(base: TensorSource, names: Collection[str], settings: CompressionSettings) -> int:
    """The most bytes of an update of these tensors, unpacked."""
    parts = _parts(base, names, settings)
    return 8 + HEADER_BYTES_MAX + sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts.values())


class Decoded:
    """A compressed update, read as if it had never been compressed: names, shapes and dtypes of the base model.

    Raises:
        UpdateRefused: "names", "shape" or "dtype": it is not compressed as the study says; `block`: "malformed".
    """

    def __init__(self, source: TensorSource, base: TensorSource, names: Collection[str], settings: CompressionSettings) -> None:
        expected, found = _parts(base, names, settings), source.shapes()
        if set(found) != set(expected):
            wrong = min(set(found) ^ set(expected))
            raise UpdateRefused("names", f"`{wrong[:60]}` is missing or not asked for; the study compresses: {settings.update}")
        for name, (shape, dtype) in expected.items():
            if tuple(found[name]) != shape:
                raise UpdateRefused("shape", f"`{name[:60]}` has shape {tuple(found[name])}, not {shape}")
            if source.dtype(name) != dtype:
                raise UpdateRefused("dtype", f"`{name[:60]}` is {source.dtype(name)}, not {dtype}")
        self._source, self._settings = source, settings
        self._shapes = {n: tuple(base.shapes()[n]) for n in names}
        self._dtypes = {n: base.dtype(n) for n in names}
        self._starts: dict[str, Tensor] = {}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._dtypes[name]

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """As TensorSource.block."""
        dtype = self._dtypes[name]
        if not _is_lossy(dtype, self._settings):
            return self._source.block(name, start, stop)
        if self._settings.update != "top-k":
            return self._scaled(name, start, stop).astype(dtype)
        out = np.zeros(stop - start, dtype)
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            places, values = self._largest(name, number)
            inside = (places >= start) & (places < stop)
            out[places[inside] - start] = values[inside]
        return out

    def _scaled(self, name: str, start: int, stop: int) -> Tensor:
        first = start // SCALED
        scale = self._source.block(f"{name}#scale", first, -(-stop // SCALED))
        which = np.arange(start, stop) // SCALED - first
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is for triage to refuse
            return np.asarray(self._source.block(name, start, stop).astype(np.float32) * scale[which])

    def _largest(self, name: str, number: int) -> tuple[Tensor, Tensor]:
        """Places in the tensor and values of a block of a top-k update."""
        starts = self._starts.get(name)
        size = math.prod(self._shapes[name])
        if starts is None:
            counts = self._source.block(f"{name}#count", 0, -(-size // BLOCK)).astype(np.int64)
            starts = self._starts[name] = np.concatenate([[0], np.cumsum(counts)])
        begin, end = int(starts[number]), int(starts[number + 1])
        length = min(BLOCK, size - number * BLOCK)
        if starts[-1] != _top(size, self._settings) or end - begin > length:
            raise UpdateRefused("malformed", f"`{name[:60]}#count` does not add up")
        places = self._source.block(f"{name}#index", begin, end).astype(np.int64)
        if places.size and (places[-1] >= length or bool((np.diff(places) <= 0).any())):
            raise UpdateRefused("malformed", f"`{name[:60]}#index` is not in order, or beyond the tensor")
        return places + number * BLOCK, self._scaled(name, begin, end)


class _Stream:
    """What zstandard reads from."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read, self._offset = read, 0

    def read(self, size: int) -> bytes:
        data = self._read(self._offset, size)
        self._offset += len(data)
        return data


def _is_lossy(dtype: np.dtype[Any], settings: CompressionSettings) -> bool:
    return settings.update != "none" and dtype.kind == "f"


def _top(size: int, settings: CompressionSettings) -> int:
    """How many values of a tensor are sent."""
    return min(size, max(1, round(settings.top_k_share * size)))


def _parts(base: TensorSource, names: Collection[str], settings: CompressionSettings) -> Parts:
    """The tensors of a compressed update: shapes and dtypes follow from the base and the study alone."""
    parts: Parts = {}
    for name in names:
        shape, dtype = tuple(base.shapes()[name]), base.dtype(name)
        if not _is_lossy(dtype, settings):
            parts[name] = (shape, dtype)
            continue
        size = math.prod(shape)
        if settings.update == "top-k":
            count = _top(size, settings)
            parts[f"{name}#index"] = ((count,), np.dtype(np.uint16))
            parts[f"{name}#count"] = ((-(-size // BLOCK),), np.dtype(np.uint32))
            size = count
        parts[name] = ((size,), np.dtype(np.int8 if settings.update == "int8" else np.float16))
        parts[f"{name}#scale"] = ((-(-size // SCALED),), np.dtype(np.float32))
    return parts


def _encode(name: str, flat: Tensor, settings: CompressionSettings) -> Parameters:
    if settings.update != "top-k":
        return _with_scale(name, flat, settings.update)
    count = _top(flat.size, settings)
    places = np.sort(np.argpartition(np.abs(flat), flat.size - count)[flat.size - count :]) if count else np.zeros(0, np.int64)
    counts = np.bincount(places // BLOCK, minlength=-(-flat.size // BLOCK)).astype(np.uint32)
    index: Parameters = {f"{name}#index": (places % BLOCK).astype(np.uint16), f"{name}#count": counts}
    return {**_with_scale(name, flat[places], "float16"), **index}


def _with_scale(name: str, values: Tensor, form: str) -> Parameters:
    """Values as multiples of the largest of every SCALED of them: of its 127th part as int8, of itself as float16."""
    starts = np.arange(0, values.size, SCALED)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.maximum.reduceat(np.abs(values), starts) if values.size else values
        scale = (largest / (127 if form == "int8" else 1)).astype(np.float32)
        scale[scale == 0] = 1
        parts = values / np.repeat(scale, SCALED)[: values.size]
        whole = np.clip(np.rint(parts), -127, 127).astype(np.int8) if form == "int8" else parts.astype(np.float16)
    return {name: whole, f"{name}#scale": scale}
