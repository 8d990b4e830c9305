"""Where updates and models lie as files: a folder, or memory that loses what was not synced.

`write`, `name` and `finish` return when the bytes are on the disk, under their name, whole.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from wardround.errors import StorageFull
from wardround.learn.models import MemoryTensors, ModelFile, TensorSource, decode_model

GROWING_MAX = 64  # files that are open while they grow
WRITE_BACK = 4 * 1024 * 1024  # bytes appended before the disk begins on them


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

    def sync(self, partial: str) -> None:
        """Make the bytes of an unfinished file durable."""
        ...

    def name(self, files: Mapping[str, str]) -> None:
        """Give unfinished files that were synced their names, durably: several in one go, for the price of one."""
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


class _Growing:
    """A file that grows, held open from one append to the next. `fd` is -1 once it is closed."""

    def __init__(self, path: Path) -> None:
        self.lock, self.fd = threading.Lock(), -1
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._begun = 0  # bytes that the system was told to write to the disk

    def append(self, offset: int, data: bytes | memoryview) -> int:
        """As Blobs.append; call it under the lock."""
        end = os.fstat(self.fd).st_size
        if end != offset:
            return end
        end += _write_all(self.fd, data)
        if end - self._begun >= WRITE_BACK:
            _begin_write_back(self.fd, self._begun, end - self._begun)
            self._begun = end
        return end

    def close(self) -> None:
        """Waits for an append that is under way."""
        with self.lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class FolderBlobs:
    """Files in a folder. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._growing: dict[str, _Growing] = {}  # the files that grew last, newest last; at most GROWING_MAX

    def write(self, name: str, data: bytes | Sequence[memoryview]) -> None:
        path = self._path(name)
        partial = path.with_name(f"{path.name}.{threading.get_ident()}.partial")
        try:
            with partial.open("wb") as out:
                begun = done = 0
                for part in [data] if isinstance(data, bytes) else data:
                    view = memoryview(part)
                    for at in range(0, len(view), WRITE_BACK):
                        done += out.write(view[at : at + WRITE_BACK])
                        if done - begun >= WRITE_BACK:
                            _begin_write_back(out.fileno(), begun, done - begun)
                            begun = done
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except OSError as exc:
            partial.unlink(missing_ok=True)
            raise _refused(path, exc) from exc

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        try:
            while True:
                file = self._opened(name)
                with file.lock:
                    if file.fd >= 0:  # else it was closed in between, to make room for others
                        return file.append(offset, data)
        except OSError as exc:
            raise _refused(self._folder / name, exc) from exc

    def size(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return 0

    def sync(self, partial: str) -> None:
        self._closed(partial)
        path = self._folder / partial
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            raise _refused(path, exc) from exc

    def name(self, files: Mapping[str, str]) -> None:
        folders = set()
        for partial, name in files.items():
            self._closed(partial)
            target = self._path(name)
            try:
                (self._folder / partial).replace(target)
            except OSError as exc:
                raise _refused(target, exc) from exc
            folders.add(target.parent)
        for folder in folders:
            try:
                _sync_folder(folder)
            except OSError as exc:
                raise _refused(folder, exc) from exc

    def finish(self, partial: str, name: str) -> None:
        self.sync(partial)
        self.name({partial: name})

    def sha256(self, name: str) -> str:
        with self._path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        fd = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            rest = max(0, os.fstat(fd).st_size - offset)
            return _read_all(fd, offset, rest if size < 0 else min(size, rest))
        finally:
            os.close(fd)

    def tensors(self, name: str) -> AbstractContextManager[TensorSource]:
        return ModelFile(self._path(name))

    def delete(self, prefix: str) -> None:
        path = self._folder / prefix
        self._closed(prefix)
        if path.is_dir():
            for child in path.iterdir():
                self.delete(f"{prefix}/{child.name}")
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    def _opened(self, name: str) -> _Growing:
        """The open file of this name; the one that grew longest ago makes room for it."""
        oldest = None
        with self._lock:
            file = self._growing.pop(name, None)
            if file is None:
                file = _Growing(self._path(name))
                if len(self._growing) >= GROWING_MAX:
                    oldest = self._growing.pop(next(iter(self._growing)))
            self._growing[name] = file
        if oldest is not None:
            oldest.close()
        return file

    def _closed(self, prefix: str) -> None:
        """Hold no file of this name, or below it, open."""
        with self._lock:
            names = [name for name in self._growing if name == prefix or name.startswith(f"{prefix}/")]
            files = [self._growing.pop(name) for name in names]
        for file in files:
            file.close()

    def _path(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class MemoryBlobs:
    """Files in memory; `crash` keeps what was synced and nothing else."""

    def __init__(self) -> None:
        self._durable: dict[str, bytes] = {}
        self._partial: dict[str, bytearray] = {}
        self._synced: dict[str, bytes] = {}  # of unfinished files; what is named without it is lost

    def crash(self) -> None:
        """Lose what was not synced and named."""
        self._partial.clear()
        self._synced.clear()

    def write(self, name: str, data: bytes | Sequence[memoryview]) -> None:
        self._durable[name] = data if isinstance(data, bytes) else b"".join(data)

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        held = self._partial.setdefault(name, bytearray())
        if len(held) == offset:
            held += data
        return len(held)

    def size(self, name: str) -> int:
        return len(self._partial.get(name) or self._durable.get(name) or b"")

    def sync(self, partial: str) -> None:
        self._synced[partial] = bytes(self._partial.get(partial, b""))

    def name(self, files: Mapping[str, str]) -> None:
        for partial, name in files.items():
            self._partial.pop(partial, None)
            self._durable[name] = self._synced.pop(partial, b"")

    def finish(self, partial: str, name: str) -> None:
        self.sync(partial)
        self.name({partial: name})

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
        for held in (self._durable, self._partial, self._synced):
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


def _read_all(file: int, offset: int, size: int) -> bytes:
    """So many bytes from an offset on, fewer if the file shrank; one read gives 2 GiB at most."""
    data = os.pread(file, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    while data and (rest := size - sum(map(len, parts))):
        data = os.pread(file, rest, offset + size - rest)
        parts.append(data)
    return b"".join(parts)


def _begin_write_back(file: int, start: int, size: int) -> None:
    """Have the system begin to write these bytes to the disk, so that the sync at the end is short. Promises nothing."""
    if _sync_file_range is not None:
        _sync_file_range(file, start, size, _SYNC_FILE_RANGE_WRITE)


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's call, which Python does not offer; None elsewhere."""
    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes, found.restype = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint), ctypes.c_int
    return found


_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = _find_sync_file_range()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refused(path: Path, exc: OSError) -> StorageFull:
    return StorageFull(f"{path.name} could not be written: {exc.strerror}", remedy="free the disk; the sender tries again")
