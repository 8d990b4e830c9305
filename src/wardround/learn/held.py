"""The models an edge holds for its own predictions: one a study, the one the hub said last, whole and signed, across restarts.

A model is on disk under its digest before the facts name it, and the facts are written in one step: a kill leaves the old
one or the new one. The hub's signature is checked when a model arrives; what lies on the disk is checked against it when opened.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import structlog

from wardround.errors import LearnError
from wardround.learn.blobs import Blobs
from wardround.learn.manifests import Signed, read_manifest
from wardround.learn.messages import Release, model_digest
from wardround.learn.models import Parameters, decode_model, without_controls
from wardround.learn.shelf import ModelSource, Shelf
from wardround.malformed import MALFORMED
from wardround.threads import to_its_end

log = structlog.get_logger(__name__)
INDEX = "held.json"


class _Facts(msgspec.Struct, frozen=True):
    number: int
    model: str
    stage: str
    settings: bytes
    temperature: float
    manifest: bytes
    signature: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """A model to predict with."""

    release: Release
    parameters: Parameters


class HeldModels:
    """Use `hold` from one asyncio loop; the rest from any thread."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._moving = asyncio.Lock()
        try:
            found = msgspec.json.decode(blobs.read(INDEX), type=dict[str, _Facts])
        except (FileNotFoundError, *MALFORMED):
            found = {}
        self._facts = {study: facts for study, facts in found.items() if self._is_whole(facts)}  # the others are fetched anew

    def digests(self) -> tuple[str, ...]:
        """The models that are here."""
        return tuple(sorted({f.model for f in self._facts.values()}))

    def _is_whole(self, facts: _Facts) -> bool:
        name = f"{facts.model}.safetensors"
        return self._blobs.size(name) > 0 and self._blobs.sha256(name) == facts.model

    async def hold(self, release: Release, shelf: Shelf, sources: Sequence[ModelSource]) -> None:
        """Keep this model for its study, fetched if it is not here.

        Raises:
            LearnError: no source could give it, or it is no model.
            StorageFull: the disk refused; what was held stays.
        """
        try:
            name = model_digest(release.model)
        except ValueError as exc:
            raise LearnError(f"the hub named {release.model[:80]!r} to predict with", remedy="look at the hub's log") from exc
        held, data = self._facts.get(release.study), b""
        if held is None or held.model != name:
            data = await shelf.get(name, sources)
        signed = shelf.signed(name)
        async with self._moving:
            await to_its_end(self._take_over, release, name, data, signed)

    def _take_over(self, release: Release, name: str, data: bytes, signed: Signed | None) -> None:
        """Keep a model (no data: it is here) and then the facts that name it; one release after the other, whatever its study.

        Raises:
            LearnError, StorageFull: as `hold` says.
        """
        held = self._facts.get(release.study)
        if data:
            self._blobs.write(f"{name}.safetensors", data)
        if signed is not None:
            kept = (signed.manifest, signed.signature, signed.certificate)
        elif held is not None and held.model == name:
            kept = (held.manifest, held.signature, held.certificate)
        else:
            raise LearnError(f"model {name[:12]} came without the hub's signature", remedy="the hub says it again")
        facts = _Facts(release.number, name, release.stage, release.settings, release.temperature, *kept)
        if facts == held:
            return
        following = {**self._facts, release.study: facts}
        self._blobs.write(INDEX, msgspec.json.encode(following))
        self._facts = following
        if held is not None and held.model not in self.digests():
            self._blobs.delete(f"{held.model}.safetensors")
        log.info("holds a model", study=release.study, number=release.number, stage=release.stage, model=name[:12])

    def studies(self) -> tuple[str, ...]:
        """The studies of which a model is held."""
        return tuple(sorted(self._facts))

    def open(self, study: str) -> Held | None:
        """The model to predict with; None when there is none yet.

        Raises:
            LearnError: its file is not what the hub signed.
        """
        facts = self._facts.get(study)
        if facts is None:
            return None
        remedy = "restart the edge while the hub is in reach: it is fetched anew"
        try:
            data = self._blobs.read(f"{facts.model}.safetensors")
        except FileNotFoundError as exc:
            raise LearnError(f"model {facts.model[:12]} of {study} is gone from the disk", remedy=remedy) from exc
        manifest = read_manifest(facts.manifest, facts.model)
        if len(data) != manifest.size or hashlib.sha256(data).hexdigest() != manifest.digest:
            raise LearnError(f"model {facts.model[:12]} of {study} is not what the hub signed", remedy=remedy)
        release = Release(study, facts.number, facts.model, facts.stage, facts.settings, facts.temperature)
        return Held(release, without_controls(decode_model(data)))
