"""Where updates and models lie as files: a folder, or memory that loses what was not synced.

`write` and `finish` return when the bytes are on the disk, under their name, whole.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from wardround.errors import StorageFull
from wardround.learn.models import MemoryTensors, ModelFile, TensorSource, decode_model


class Blobs(Protocol):
    """Named files. Names are relative paths made by this package alone."""

    def write(self, name: str, data: bytes | Sequence[memoryview]) -> None:
        """Keep bytes, whole or in parts, under a name, durably and whole."""
        ...

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        """Add to an unfinished file at its end; its size. What is not at the end is ignored."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file, 0 if there is none."""
        ...

    def finish(self, partial: str, name: str) -> None:
        """Make an unfinished file durable and give it its name."""
        ...

    def sha256(self, name: str) -> str: ...

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """The bytes from an offset on, at most `size` of them.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def tensors(self, name: str) -> AbstractContextManager[TensorSource]:
        """The tensors of a safetensors file, read a block at a time."""
        ...

    def delete(self, prefix: str) -> None:
        """Remove a file, or all whose names begin with `prefix/`."""
        ...


class FolderBlobs:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def write(self, name: str, data: bytes | Sequence[memoryview]) -> None:
        path = self._path(name)
        partial = path.with_name(f"{path.name}.{threading.get_ident()}.partial")
        try:
            with partial.open("wb") as out:
                for part in [data] if isinstance(data, bytes) else data:
                    out.write(part)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except OSError as exc:
            partial.unlink(missing_ok=True)
            raise _refused(path, exc) from exc

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        path = self._folder / name
        try:
            if offset == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as out:
                end = out.tell()
                return end + _write_all(out.fileno(), data) if end == offset else end
        except OSError as exc:
            raise _refused(path, exc) from exc

    def size(self, name: str) -> int:
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def finish(self, partial: str, name: str) -> None:
        source, target = self._path(partial), self._path(name)
        try:
            with source.open("rb+") as out:
                os.fsync(out.fileno())
            source.replace(target)
            _sync_folder(target.parent)
        except OSError as exc:
            raise _refused(target, exc) from exc

    def sha256(self, name: str) -> str:
        with self._path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def tensors(self, name: str) -> AbstractContextManager[TensorSource]:
        return ModelFile(self._path(name))

    def delete(self, prefix: str) -> None:
        path = self._folder / prefix
        if path.is_dir():
            for child in path.iterdir():
                self.delete(f"{prefix}/{child.name}")
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class MemoryBlobs:
    """Files in memory; `crash` keeps what was synced and nothing else."""

    def __init__(self) -> None:
        self._durable: dict[str, bytes] = {}
        self._partial: dict[str, bytearray] = {}

    def crash(self) -> None:
        """Lose what was not synced."""
        self._partial.clear()

    def write(self, name: str, data: bytes | Sequence[memoryview]) -> None:
        self._durable[name] = data if isinstance(data, bytes) else b"".join(data)

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        held = self._partial.setdefault(name, bytearray())
        if len(held) == offset:
            held += data
        return len(held)

    def size(self, name: str) -> int:
        return len(self._partial.get(name) or self._durable.get(name) or b"")

    def finish(self, partial: str, name: str) -> None:
        self._durable[name] = bytes(self._partial.pop(partial, b""))

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.read(name)).hexdigest()

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        found = self._partial.get(name, self._durable.get(name))
        if found is None:
            raise FileNotFoundError(name)
        return bytes(found[offset:] if size < 0 else found[offset : offset + size])

    def tensors(self, name: str) -> AbstractContextManager[TensorSource]:
        return _memory_tensors(self.read(name))

    def delete(self, prefix: str) -> None:
        for held in (self._durable, self._partial):
            for name in [n for n in held if n == prefix or n.startswith(prefix + "/")]:
                del held[name]


@contextmanager
def _memory_tensors(data: bytes) -> Iterator[TensorSource]:
    yield MemoryTensors(decode_model(data))


def _write_all(file: int, data: bytes | memoryview) -> int:
    """Write every byte, past the page of Python's own buffer; how many there were."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    return len(data)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refused(path: Path, exc: OSError) -> StorageFull:
    return StorageFull(f"{path.name} could not be written: {exc.strerror}", remedy="free the disk; the sender tries again")
