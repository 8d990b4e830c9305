"""The archive of a backup: a tar file of plain files, and a manifest that has the SHA-256 of each.

It is read as something that may be damaged or made by somebody else: a name that leaves the folder, a link, a device, a key, a
name twice, a file that the manifest does not have or that is another than it says, and a format from the future are refused; and
nothing is left where it was to be unpacked.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NamedTuple

import msgspec

from wardround.backup.keys import SUFFIXES, Needles
from wardround.errors import StorageFull, TrustError
from wardround.malformed import MALFORMED

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 256 * 1024 * 1024
NAME_MAX = 1_000
CHUNK = 1024 * 1024


class Source(NamedTuple):
    """A file of a backup: its name in the home, and where its bytes are."""

    name: str
    file: Path


class Item(msgspec.Struct, frozen=True):
    """A file in an archive."""

    name: str
    size: int
    sha256: str


class LeftOut(msgspec.Struct, frozen=True):
    """What a backup does not hold, and why; `do` is what a restored home needs instead, or empty."""

    name: str
    why: str
    do: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive is, and all that is in it."""

    format: int = FORMAT
    role: str  # hub, edge
    name: str  # of the hub or the edge
    software: str
    made_us: int
    items: tuple[Item, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    lake: dict[str, int] = {}  # tables, and the version of each
    inbox_number: int = -1  # the lake has no batch of the inbox beyond this one
    edges: tuple[str, ...] = ()  # that have joined the hub
    people: tuple[str, ...] = ()  # who may sign in to its console
    pseudonym_key: str = ""  # by which the edge's key is recognised: pseudonyms.key_check


class ArchiveBroken(TrustError):
    """The file is no backup, is damaged, or holds what no backup holds."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} cannot be restored: {why}", remedy="take another backup; nothing was unpacked")


def write_archive(out: Path, sources: Sequence[Source], manifest: Manifest, needles: Needles) -> Manifest:
    """Write an archive (0600), whole or not at all; the manifest as it stands there.

    Raises:
        TrustError: a file holds a key.
        StorageFull: the disk refused.
    """
    partial = out.with_name(f".{out.name}.partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                items = tuple(_add(tar, source, needles) for source in sorted(sources))
                manifest = msgspec.structs.replace(manifest, items=items)
                data = msgspec.json.encode(manifest)
                needles.check(data, MANIFEST)
                info = tarfile.TarInfo(MANIFEST)
                info.size, info.mode = len(data), 0o600
                tar.addfile(info, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
        _sync(out.parent)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise StorageFull(f"{out} cannot be written: {exc}", remedy="give the backup another disk") from exc
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return manifest


def read_manifest(path: Path) -> Manifest:
    """What an archive says of itself; its files are not looked at.

    Raises:
        ArchiveBroken: it is none, or of a later format.
    """
    with _opened(path) as tar:
        return _manifest(path, tar)


def verify_archive(path: Path) -> Manifest:
    """Read every byte of an archive.

    Raises:
        ArchiveBroken: something is not as the manifest says.
    """

    def look(_item: Item, data: Iterator[bytes]) -> None:
        for _ in data:  # it is hashed as it passes
            pass

    return _read(path, look)


def unpack(path: Path, folder: Path) -> Manifest:
    """Write an archive's files (0600) into a folder of its own.

    Raises:
        ArchiveBroken: something is not as the manifest says; what was written until then is the caller's to remove.
        StorageFull: the disk refused.
    """

    def put(item: Item, data: Iterator[bytes]) -> None:
        target = folder / item.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                for chunk in data:
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
        except FileExistsError as exc:
            raise ArchiveBroken(path, f"{item.name!r} is there twice") from exc
        except OSError as exc:
            raise StorageFull(f"{target} cannot be written: {exc}", remedy="restore onto another disk") from exc

    return _read(path, put)


# -- how


def _add(tar: tarfile.TarFile, source: Source, needles: Needles) -> Item:
    with source.file.open("rb") as file:
        info = tarfile.TarInfo(source.name)
        info.size, info.mode = os.fstat(file.fileno()).st_size, 0o600
        watched = _Watched(file, info.size, needles, source.name)
        tar.addfile(info, watched)
    return Item(source.name, info.size, watched.sha256.hexdigest())


class _Watched:
    """A file on its way into the archive: hashed, and searched for keys. It gives `size` bytes, though it may grow meanwhile."""

    def __init__(self, file: BinaryIO, size: int, needles: Needles, name: str) -> None:
        self._file, self._left, self._needles, self._name = file, size, needles, name
        self._tail = b""
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """As tarfile asks."""
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self.sha256.update(data)
        self._needles.check(self._tail + data, self._name)
        self._tail = (self._tail + data)[-self._needles.longest :] if self._needles.longest else b""
        return data


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, mode="r:") as tar:
            yield tar
    except FileNotFoundError as exc:
        raise ArchiveBroken(path, "there is no such file") from exc
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise ArchiveBroken(path, f"it is no archive, or is cut off ({exc})") from exc


def _manifest(path: Path, tar: tarfile.TarFile) -> Manifest:
    found = [m for m in tar.getmembers() if m.name == MANIFEST]
    if len(found) != 1 or not _plain(found[0]) or found[0].size > MANIFEST_BYTES_MAX:
        raise ArchiveBroken(path, "it has no manifest: it is no backup of Wardround, or is cut off")
    data = tar.extractfile(found[0])
    assert data is not None  # noqa: S101 - it is a plain file
    read = data.read()
    try:
        form = msgspec.json.decode(read, type=dict[str, msgspec.Raw]).get("format")
        if form is None or (number := msgspec.json.decode(form, type=int)) > FORMAT:
            newer = f"it is of format {number}, and this program reads up to {FORMAT}" if form else "it is no backup of Wardround"
            raise ArchiveBroken(path, newer)
        manifest = msgspec.json.decode(read, type=Manifest)
    except MALFORMED as exc:
        raise ArchiveBroken(path, f"its manifest cannot be read: {exc}") from exc
    if manifest.role not in ("hub", "edge"):
        raise ArchiveBroken(path, f"it is of a {manifest.role[:40]!r}")
    return manifest


def _plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _read(path: Path, take: Callable[[Item, Iterator[bytes]], None]) -> Manifest:
    """Give every file to `take`, bytes checked while they pass."""
    with _opened(path) as tar:
        manifest = _manifest(path, tar)
        wanted = {item.name: item for item in manifest.items}
        if len(wanted) != len(manifest.items):
            raise ArchiveBroken(path, "its manifest has a name twice")
        for member in tar.getmembers():
            if member.name == MANIFEST:
                continue
            item = wanted.pop(member.name, None)
            if item is None:
                raise ArchiveBroken(path, f"{member.name[:80]!r} is not in its manifest, or is there twice")
            if item.name.endswith(SUFFIXES):
                raise ArchiveBroken(path, f"{item.name!r} is a key, and no backup holds one")
            if not _plain(member) or not _inside(member.name) or member.size != item.size:
                raise ArchiveBroken(path, f"{member.name[:80]!r} is no plain file of the home")
            data = tar.extractfile(member)
            assert data is not None  # noqa: S101 - it is a plain file
            digest = hashlib.sha256()
            take(item, _passing(data, digest.update))
            if digest.hexdigest() != item.sha256:
                raise ArchiveBroken(path, f"{item.name!r} is damaged")
        if wanted:
            raise ArchiveBroken(path, f"{len(wanted)} files are missing, such as {sorted(wanted)[0]!r}")
    return manifest


def _passing(data: IO[bytes], note: Callable[[bytes], None]) -> Iterator[bytes]:
    while chunk := data.read(CHUNK):
        note(chunk)
        yield chunk


def _inside(name: str) -> bool:
    """Whether a name is a plain path below the home, spelt as this program spells it."""
    path = PurePosixPath(name)
    return (
        0 < len(name) <= NAME_MAX
        and not path.is_absolute()
        and str(path) == name
        and name not in (".", MANIFEST)
        and not {"..", "."} & set(path.parts)
        and not any(c in name for c in "\\\0")
    )


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
