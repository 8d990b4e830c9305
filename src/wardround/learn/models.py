"""A model or an update as bytes: safetensors, written one way only, so that equal tensors have equal digests.

Layout (https://github.com/huggingface/safetensors, "Format"): eight bytes little-endian length of the header, the header
as JSON {name: {dtype, shape, data_offsets}}, then the tensors, row-major and little-endian. The library orders tensors and
metadata as it likes and may change; here names are sorted and nothing else is written, so the bytes are a function of
the tensors alone. What arrives is parsed strictly, before anything is allocated: it came from another machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.errors import UpdateRefused
from wardround.records import ModelDigest

Tensor: TypeAlias = NDArray[Any]  # the dtype is the model's own: float32 in our learners, float64 in federated sums
Parameters: TypeAlias = dict[str, Tensor]

HEADER_BYTES_MAX: Final = 1_000_000  # the library allows 100 MB; ten thousand tensors fit in one
TENSORS_MAX: Final = 10_000
DIMENSIONS_MAX: Final = 16
BUFFER_PREFIX: Final = "scale."  # tensors that travel with the model and that training never changes
RUNNING_PREFIX: Final = "running."  # what a model keeps of the batches it saw (BatchNorm): no gradient, but part of an update
CONTROL_PREFIX: Final = "control."  # SCAFFOLD's control variates: they travel with the model and are no part of it
RESERVED_PREFIXES: Final = (BUFFER_PREFIX, RUNNING_PREFIX, CONTROL_PREFIX)

_DTYPES: Final = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES: Final = {np.dtype(code): name for name, code in _DTYPES.items()}


class TensorSource(Protocol):
    """Named tensors that can be read a piece at a time: in memory, or still in their file."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def dtype(self, name: str) -> np.dtype[Any]: ...

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the tensor in row-major order, shape (stop - start,)."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int  # from the start of the data
    end: int


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_header_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry_decoder = msgspec.json.Decoder(_Header)


def is_buffer(name: str) -> bool:
    """Whether a tensor is carried by the model but never trained (the scaling of the features)."""
    return name.startswith(BUFFER_PREFIX)


def is_running(name: str) -> bool:
    """Whether a tensor follows the batches without a gradient: the next model's is a mean of the edges', never a step."""
    return name.startswith(RUNNING_PREFIX)


def is_trained(name: str) -> bool:
    """Whether training descends on a tensor."""
    return not is_buffer(name) and not is_running(name)


def without_controls(parameters: Mapping[str, Tensor]) -> Parameters:
    """The model proper: what a learner knows."""
    return {name: tensor for name, tensor in parameters.items() if not name.startswith(CONTROL_PREFIX)}


def with_controls(parameters: Mapping[str, Tensor]) -> Parameters:
    """A first model with control variates of zero for every tensor that is trained."""
    zeros = {f"{CONTROL_PREFIX}{name}": np.zeros_like(t) for name, t in parameters.items() if is_trained(name)}
    return {**parameters, **zeros}


def encode_model(parameters: Mapping[str, Tensor]) -> bytes:
    """The one byte form of these tensors: a safetensors file with the names in order.

    Raises:
        ValueError: a tensor's dtype has no name in safetensors, or a name is empty or reserved.
    """
    return b"".join(model_parts(parameters))


def model_parts(parameters: Mapping[str, Tensor]) -> list[memoryview]:
    """As encode_model, in parts that are views of the tensors: nothing large is copied.

    Raises:
        ValueError: as encode_model.
    """
    header: dict[str, object] = {}
    parts: list[memoryview] = []
    begin = 0
    for name in sorted(parameters):
        if not name or name == "__metadata__":
            raise ValueError(f"a tensor cannot be named {name!r}")
        tensor = np.asarray(parameters[name])
        little = tensor.dtype.newbyteorder("<")
        if little not in _NAMES:
            raise ValueError(f"tensor {name}: dtype {tensor.dtype} cannot be written")
        flat = np.ascontiguousarray(tensor, little).reshape(-1)
        header[name] = {"dtype": _NAMES[little], "shape": list(tensor.shape), "data_offsets": [begin, begin + flat.nbytes]}
        parts.append(flat.view(np.uint8).data)
        begin += flat.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little")), memoryview(text), *parts]


def decode_model(data: bytes) -> Parameters:
    """The tensors, as arrays of their own memory.

    Raises:
        UpdateRefused: `malformed`; the message says what does not hold.
    """
    view = memoryview(data)
    start, entries = _parse(bytes(view[:8]), lambda n: bytes(view[8 : 8 + n]), len(view))
    return {
        e.name: np.frombuffer(view[start + e.begin : start + e.end], e.dtype).reshape(e.shape).copy() for e in entries.values()
    }


def digest(data: bytes | Sequence[memoryview]) -> ModelDigest:
    """The name of a model: SHA-256 of its file, whole or in parts, lower-case hex."""
    hash_ = hashlib.sha256()
    for part in [data] if isinstance(data, bytes) else data:
        hash_.update(part)
    return ModelDigest(hash_.hexdigest())


class MemoryTensors:
    """Tensors that are in memory anyway, as a source."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._flat = {name: np.ascontiguousarray(tensor).reshape(-1) for name, tensor in parameters.items()}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._flat[name].dtype

    def block(self, name: str, start: int, stop: int) -> Tensor:
        return self._flat[name][start:stop]


class Step:
    """A model minus its base, formed a block at a time; tensors that the base lacks are left out."""

    def __init__(self, base: TensorSource, model: Mapping[str, Tensor]) -> None:
        self._base, self._model = base, MemoryTensors(model)
        there = base.shapes()
        self._shapes = {name: shape for name, shape in self._model.shapes().items() if tuple(there.get(name, ())) == shape}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._model.dtype(name)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        return self._model.block(name, start, stop) - self._base.block(name, start, stop)


class ModelFile:
    """An update that stays in its file and is read block by block: pread, so no page of it counts as ours.

    Raises:
        UpdateRefused: `malformed`, as decode_model.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(self._file).st_size
            self._start, self._entries = _parse(os.pread(self._file, 8, 0), lambda n: os.pread(self._file, n, 8), size)
        except BaseException:
            os.close(self._file)
            raise

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: e.shape for name, e in self._entries.items()}

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._entries[name].dtype

    def block(self, name: str, start: int, stop: int) -> Tensor:
        e = self._entries[name]
        data = os.pread(self._file, (stop - start) * e.dtype.itemsize, self._start + e.begin + start * e.dtype.itemsize)
        return np.frombuffer(data, e.dtype)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _parse(length: bytes, read_header: Callable[[int], bytes], size: int) -> tuple[int, dict[str, _Entry]]:
    """Where the data starts, and the tensors in it; every claim is checked against the size of the file."""
    if len(length) < 8:
        raise _malformed("it is shorter than a header")
    header_size = int.from_bytes(length, "little")
    if header_size > HEADER_BYTES_MAX or header_size > size - 8:
        raise _malformed(f"its header claims {header_size} bytes")
    try:
        headers = _header_decoder.decode(read_header(header_size))
        if len(headers) > TENSORS_MAX:
            raise _malformed(f"it has {len(headers)} tensors")
        entries = [_entry(name, _entry_decoder.decode(raw)) for name, raw in headers.items() if name != "__metadata__"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _malformed(f"its header is not a table of tensors ({exc})") from exc
    start = 8 + header_size
    position = 0
    for e in sorted(entries, key=lambda e: (e.begin, e.end)):
        if e.begin != position:
            raise _malformed(f"tensor {e.name} starts at {e.begin}, not where the one before ends ({position})")
        position = e.end
    if position != size - start:
        raise _malformed(f"its tensors take {position} bytes, and {size - start} are there")
    return start, {e.name: e for e in entries}


def _entry(name: str, header: _Header) -> _Entry:
    if header.dtype not in _DTYPES:
        raise _malformed(f"tensor {name[:60]} has the unknown dtype {header.dtype[:20]}")
    if len(header.shape) > DIMENSIONS_MAX or any(n < 0 for n in header.shape):
        raise _malformed(f"tensor {name[:60]} has an impossible shape")
    dtype = np.dtype(_DTYPES[header.dtype])
    begin, end = header.data_offsets
    if begin < 0 or end - begin != math.prod(header.shape) * dtype.itemsize:
        raise _malformed(f"tensor {name[:60]} of shape {tuple(header.shape)} does not fit its {end - begin} bytes")
    return _Entry(name, dtype, tuple(header.shape), begin, end)


def _malformed(what: str) -> UpdateRefused:
    return UpdateRefused("malformed", f"not a safetensors file: {what}")
