"""What a model file is made of, signed by the hub: an edge believes a model from anywhere if its pieces are those named here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from wardround.errors import LearnError
from wardround.malformed import MALFORMED

CHUNK_BYTES_MAX = 8 * 1024 * 1024
SIZE_MAX = 1 << 40


class Manifest(msgspec.Struct, frozen=True):
    """A model's file: its digest, its size, and the SHA-256 of each piece of `chunk` bytes (the last may be shorter)."""

    study: str
    digest: str
    size: int
    chunk: int
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest as MessagePack, the hub's signature over it, and the hub's certificate (PEM)."""

    manifest: bytes
    signature: bytes
    certificate: bytes


def make_manifest(study: str, digest: str, chunk: int, parts: Iterable[bytes]) -> bytes:
    """The manifest of a file that is given in parts of `chunk` bytes."""
    size, chunks = 0, []
    for part in parts:
        size += len(part)
        chunks.append(hashlib.sha256(part).digest())
    return msgspec.msgpack.encode(Manifest(study, digest, size, chunk, tuple(chunks)))


def read_manifest(data: bytes, digest: str) -> Manifest:
    """A manifest whose signature holds.

    Raises:
        LearnError: it is of another model, or says what cannot be.
    """
    try:
        manifest = msgspec.msgpack.decode(data, type=Manifest)
    except MALFORMED as exc:
        raise LearnError("a model's manifest cannot be read", remedy="the model is fetched from the hub") from exc
    fits = 0 < manifest.chunk <= CHUNK_BYTES_MAX and 0 < manifest.size <= SIZE_MAX
    if manifest.digest != digest or not fits or len(manifest.chunks) != -(-manifest.size // manifest.chunk):
        raise LearnError(f"the manifest is not that of model {digest[:12]}", remedy="the model is fetched from the hub")
    return manifest


def is_chunk(manifest: Manifest, offset: int, data: bytes) -> bool:
    """Whether these bytes are the piece of the file that begins at `offset`."""
    number, within = divmod(offset, manifest.chunk)
    if within or number >= len(manifest.chunks):
        return False
    return hashlib.sha256(data).digest() == manifest.chunks[number]
