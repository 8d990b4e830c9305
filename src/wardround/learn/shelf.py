"""The models an edge has: fetched piece by piece, each piece checked before it is kept or passed on.

A fetch tries its sources in their order (the relay above, then the hub) and goes on at the piece where the last one failed. Those
who fetch from this edge get each piece as soon as it is here: a tree of edges passes a model on while it is still arriving.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from wardround.errors import LearnError, WardroundError
from wardround.learn.blobs import Blobs
from wardround.learn.manifests import Manifest, Signed, is_chunk, read_manifest
from wardround.malformed import MALFORMED

log = structlog.get_logger(__name__)
INDEX = "shelf.json"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a model from where the one before ended; the first of a stream comes with the signed manifest."""

    data: bytes
    signed: Signed | None = None


class ModelSource(Protocol):
    """Where a model may be fetched: an edge above, or the hub."""

    @property
    def name(self) -> str: ...

    @property
    def tries(self) -> int:
        """How often in a row it is asked before the next source is."""
        ...

    def pieces(self, digest: str, offset: int) -> AsyncIterator[Piece]:
        """The pieces from an offset on.

        Raises:
            SourceFailed: it cannot give them, or not now.
        """
        ...


class SourceFailed(LearnError):
    """A source of models is gone, or gave what it should not."""


@dataclass
class _Arriving:
    """A model that is being fetched."""

    size: int = 0
    manifest: Manifest | None = None
    signed: Signed | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Tell those who wait that there is more, or that it is over."""
        self.moved.set()
        self.moved = asyncio.Event()


class Shelf:
    """Use it from one asyncio loop."""

    def __init__(self, blobs: Blobs, *, verify: Callable[[Signed], None], keep: int = 4, pause_s: float = 0.2) -> None:
        """`verify(signed)` raises a TrustError unless the hub signed the manifest; `keep` models stay, the newest."""
        self._blobs, self._verify, self._keep, self._pause_s = blobs, verify, max(1, keep), pause_s
        self._arriving: dict[str, _Arriving] = {}
        self._finishing = threading.Lock()
        try:
            self._index: dict[str, tuple[bytes, bytes, bytes]] = msgspec.json.decode(
                blobs.read(INDEX), type=dict[str, tuple[bytes, bytes, bytes]]
            )
        except (FileNotFoundError, *MALFORMED):
            self._index = {}

    def has(self, digest: str) -> bool:
        """Whether a model is here, whole."""
        return digest in self._index

    def signed(self, digest: str) -> Signed | None:
        """The manifest of a model that is here whole, as the hub signed it."""
        return self._signed(digest, None)

    async def get(self, digest: str, sources: Sequence[ModelSource]) -> bytes:
        """The bytes of a model, from here or from the first source that can give them.

        Raises:
            SourceFailed: none of them could.
        """
        if not self.has(digest):
            await self.fetch(digest, sources)
        return await asyncio.to_thread(self._blobs.read, f"{digest}.safetensors")

    async def fetch(self, digest: str, sources: Sequence[ModelSource]) -> None:
        """Bring a model here; two who ask for the same one wait for the same fetch.

        Raises:
            SourceFailed: no source could give it.
        """
        arriving = self._arriving.get(digest)
        if arriving is None:
            arriving = self._arriving[digest] = _Arriving()
            arriving.task = asyncio.create_task(self._fetch(digest, arriving, sources))
        assert arriving.task is not None  # noqa: S101 - set with the entry
        await asyncio.shield(arriving.task)

    async def pieces(self, digest: str, offset: int, sources: Sequence[ModelSource]) -> AsyncIterator[Piece]:
        """Pass a model on from an offset, which must be where a piece begins; fetched first, or meanwhile, if it is not here.

        Raises:
            SourceFailed: it could not be had, or there is no piece that begins there.
        """
        if not self.has(digest) and digest not in self._arriving:
            task = asyncio.create_task(self.fetch(digest, sources))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())
            await asyncio.sleep(0)
        first = True
        while True:
            arriving = self._arriving.get(digest)
            signed = self._signed(digest, arriving)
            if signed is not None:
                manifest = read_manifest(signed.manifest, digest)
                if offset >= manifest.size:
                    return
                here = manifest.size if arriving is None else arriving.size
                name = f"{digest}.safetensors" if arriving is None else f"{digest}.partial"
                if offset % manifest.chunk:
                    raise SourceFailed(f"no piece of model {digest[:12]} begins at {offset}")
                if offset + manifest.chunk <= here or (here == manifest.size and offset < here):
                    with contextlib.suppress(FileNotFoundError):  # it was finished between the look and the read
                        data = await asyncio.to_thread(self._blobs.read, name, offset, manifest.chunk)
                        yield Piece(data, signed if first else None)
                        first, offset = False, offset + len(data)
                    continue
            if arriving is None:
                raise SourceFailed(f"model {digest[:12]} is not here")
            await arriving.moved.wait()

    def _signed(self, digest: str, arriving: _Arriving | None) -> Signed | None:
        if arriving is not None:
            return arriving.signed
        held = self._index.get(digest)
        return Signed(*held) if held is not None else None

    async def _fetch(self, digest: str, arriving: _Arriving, sources: Sequence[ModelSource]) -> None:
        partial = f"{digest}.partial"
        await asyncio.to_thread(self._blobs.delete, partial)
        try:
            for source in sources:
                for attempt in range(source.tries):
                    if attempt:
                        await asyncio.sleep(min(2.0, self._pause_s * 2**attempt))
                    try:
                        await self._take(digest, arriving, source)
                    except WardroundError as error:
                        log.info("a model's source failed", source=source.name, model=digest[:12], reason=str(error))
                    else:
                        await asyncio.to_thread(self._finish, digest, arriving)
                        return
            raise SourceFailed(f"model {digest[:12]} could not be had from {', '.join(s.name for s in sources)}")
        finally:
            del self._arriving[digest]
            arriving.wake()

    async def _take(self, digest: str, arriving: _Arriving, source: ModelSource) -> None:
        """Pieces from one source until the model is whole.

        Raises:
            SourceFailed, TrustError: the source stopped, or a piece or its manifest is not what the hub signed.
        """
        rest = b""
        async for piece in source.pieces(digest, arriving.size):
            if piece.signed is not None and arriving.manifest is None:
                self._verify(piece.signed)
                arriving.manifest, arriving.signed = read_manifest(piece.signed.manifest, digest), piece.signed
            manifest = arriving.manifest
            if manifest is None:
                raise SourceFailed(f"{source.name} gave no manifest")
            rest = rest + piece.data if rest else piece.data
            while len(rest) >= (size := min(manifest.chunk, manifest.size - arriving.size)) > 0:
                data, rest = rest[:size], rest[size:]
                if not is_chunk(manifest, arriving.size, data):
                    raise SourceFailed(f"{source.name} gave bytes that are not of model {digest[:12]}")
                arriving.size = await asyncio.to_thread(self._blobs.append, f"{digest}.partial", arriving.size, data)
                arriving.wake()
        if rest and arriving.manifest is not None and arriving.size == arriving.manifest.size:
            raise SourceFailed(f"{source.name} gave more bytes than model {digest[:12]} has")
        if arriving.manifest is None or arriving.size != arriving.manifest.size:
            raise SourceFailed(f"{source.name} stopped at byte {arriving.size}")

    def _finish(self, digest: str, arriving: _Arriving) -> None:
        """Every piece was checked against what the hub signed for this digest, so the file is not read again."""
        assert arriving.signed is not None  # noqa: S101 - a whole model came with its manifest
        self._blobs.finish(f"{digest}.partial", f"{digest}.safetensors")
        signed = arriving.signed
        with self._finishing:  # two that are whole at once: the index on the disk must be the newest, and name both
            self._index[digest] = (signed.manifest, signed.signature, signed.certificate)
            for old in list(self._index)[: -self._keep]:
                del self._index[old]
                self._blobs.delete(f"{old}.safetensors")
            self._blobs.write(INDEX, msgspec.json.encode(self._index))
