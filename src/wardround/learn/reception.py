"""Updates that arrive: from what an upload announces to a checked, synced file. Of rounds it knows the order alone."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from wardround.errors import UpdateRefused
from wardround.learn.blobs import Blobs
from wardround.learn.compression import Decoded, size_max, unpack
from wardround.learn.journal import model_name, partial_name, update_name
from wardround.learn.local import sent_names
from wardround.learn.messages import Upload
from wardround.learn.models import MemoryTensors, TensorSource, decode_model
from wardround.learn.privacy.central import PATIENTS, check_patients
from wardround.learn.privacy.vectors import check_masked, words_of_sums, words_of_update
from wardround.learn.scaling import check_sums
from wardround.learn.strategies import Strategy
from wardround.learn.study import Study
from wardround.learn.survey import SurveySettings, check_summary
from wardround.learn.trees import check_trees
from wardround.learn.triage import check_claim, check_facts, check_norm, check_update, load

SMALL_BYTES = 1_000_000  # a model up to here is kept in memory while its round lasts, and travels inside the order


class Models:
    """The models of a study where they lie: read a block at a time, or kept in memory while small."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._small: tuple[str, bytes, MemoryTensors] | None = None

    def tensors(self, digest: str) -> AbstractContextManager[TensorSource]:
        """The tensors of a model, to be read a block at a time."""
        if (small := self._held(digest)) is not None:
            return _as_context(small[2])
        return self._blobs.tensors(model_name(digest))

    def inline(self, digest: str) -> bytes:
        """The bytes of a small model; empty for a large one."""
        small = self._held(digest)
        return b"" if small is None else small[1]

    def _held(self, digest: str) -> tuple[str, bytes, MemoryTensors] | None:
        held = self._small
        if held is None or held[0] != digest:
            if not 0 < self._blobs.size(model_name(digest)) <= SMALL_BYTES:
                return None
            data = self._blobs.read(model_name(digest))
            held = self._small = (digest, data, MemoryTensors(decode_model(data)))
        return held


class _Digest:
    """The SHA-256 of an upload's first `size` bytes."""

    def __init__(self, name: str) -> None:
        self.name, self.size, self.hash = name, 0, hashlib.sha256()


class Reception:
    """Keeps the bytes of uploads and checks them. Safe to use from several threads, for uploads of different edges."""

    def __init__(
        self,
        study: Study,
        *,
        blobs: Blobs,
        models: Models,
        strategy: Strategy,
        shape: tuple[int, int],
        survey: SurveySettings | None,
    ) -> None:
        """`shape` is (features, classes) of the study's task."""
        self._study, self._blobs, self._models, self._strategy = study, blobs, models, strategy
        self.shape, self._survey = shape, survey
        self._expected: tuple[str, Collection[str]] = ("", ())
        self._digests: dict[str, _Digest] = {}  # one an edge: of the upload that arrives
        self._alone: dict[str, threading.Lock] = {}  # one an edge

    def alone(self, edge: str) -> threading.Lock:
        """Held while an upload of this edge is checked and kept: a call that broke off may still run when the next one begins."""
        return self._alone.setdefault(edge, threading.Lock())

    def size(self, edge: str, upload: Upload) -> int:
        """How many bytes of an upload are here."""
        return self._blobs.size(_partial(edge, upload))

    def announce(self, edge: str, upload: Upload, offset: int) -> None:
        """Check what an upload announces; at offset 0 it starts anew, whatever was here.

        Raises:
            UpdateRefused: it cannot count, whatever its bytes are.
        """
        check_claim(size=upload.size, examples=upload.examples, settings=self._study.triage)
        if upload.task == "train":
            check_facts(upload.metrics, (*self._strategy.needs, *((PATIENTS,) if self._study.privacy.by_patient else ())))
        if offset == 0:
            with self.alone(edge):
                self._blobs.delete(_partial(edge, upload))
                self._digests[edge] = _Digest(_partial(edge, upload))

    def append(self, edge: str, upload: Upload, offset: int, data: bytes | memoryview) -> int:
        """Keep bytes of an upload; how many are here now."""
        name = _partial(edge, upload)
        size = self._blobs.append(name, offset, data)
        digest = self._digests.get(edge)
        if digest is not None and digest.name == name and digest.size == offset and size == offset + len(data):
            digest.hash.update(data)
            digest.size = size
        return size

    def check(self, edge: str, upload: Upload, past_norms: Sequence[float]) -> float:
        """Check a whole upload against its announcement and its base; its L2 norm (0 for sums).

        Raises:
            UpdateRefused: it cannot count.
        """
        partial = _partial(edge, upload)
        if (size := self._blobs.size(partial)) != upload.size:
            raise UpdateRefused("truncated", f"{size} of {upload.size} bytes arrived")
        if self._sha256(edge, partial, size) != upload.sha256:
            raise UpdateRefused("digest", "the bytes do not have the digest that was announced")
        with self._blobs.tensors(self._unpacked(edge, upload)) as tensors:
            if self._study.privacy.mode.startswith("blind"):
                check_masked(tensors, self._words(upload))
                return 0.0
            if self._survey is not None:
                check_summary(load(tensors), self._survey)
                return 0.0
            if upload.task == "statistics":
                check_sums(load(tensors), *self.shape)
                return 0.0
            if self._strategy.rule.trees:
                norm = check_trees(tensors, self.shape, self._study.learner)
                check_norm(norm, past_norms, self._study.triage)
                return norm
            with self._models.tensors(upload.base) as base:
                names = self.expected(upload.base, base)
                if self._study.privacy.by_patient:  # of which one must not decide whether the others count: no past is looked at
                    norm = check_update(self.decoded(tensors, upload.base), base, names, (), self._study.triage)
                    check_patients(norm, upload.metrics, self._study.privacy.clip_norm)
                    return norm
                return check_update(self.decoded(tensors, upload.base), base, names, past_norms, self._study.triage)

    def _words(self, upload: Upload) -> int:
        """How long the masked answer to an order is."""
        if upload.task == "statistics":
            return words_of_sums(self.shape)
        with self._models.tensors(upload.base) as base:
            return words_of_update(base, self.expected(upload.base, base))

    def check_again(self, round_number: int, edge: str, digest: str) -> None:
        """Check a kept update of train rounds against a model that may be newer than its base.

        Raises:
            UpdateRefused: it cannot count.
        """
        with self._blobs.tensors(update_name(round_number, edge)) as tensors:
            if self._strategy.rule.trees:
                check_trees(tensors, self.shape, self._study.learner)
                return
            with self._models.tensors(digest) as base:
                check_update(self.decoded(tensors, digest), base, self.expected(digest, base), (), self._study.triage)

    def decoded(self, tensors: TensorSource, digest: str) -> TensorSource:
        """An update of that base as its edge meant it, however it travelled.

        Raises:
            UpdateRefused: it is not compressed as the study says.
        """
        own = self._study.compression
        if own.update == "none":
            return tensors
        with self._models.tensors(digest) as base:
            return Decoded(tensors, base, self.expected(digest, base), own)

    def _packs(self, upload: Upload) -> bool:
        return self._study.compression.zstd and upload.task == "train"

    def _unpacked(self, edge: str, upload: Upload) -> str:
        """The file of an upload's tensors; written here if they came as a zstd stream, and no larger than its base allows.

        Raises:
            UpdateRefused: "malformed" or "too-large".
        """
        partial = _partial(edge, upload)
        if not self._packs(upload):
            return partial
        with self._models.tensors(upload.base) as base:
            limit = size_max(base, self.expected(upload.base, base), self._study.compression)
        self._blobs.delete(whole := f"{partial}.whole")
        size = self._blobs.append(whole, 0, b"")
        for part in unpack(lambda offset, length: self._blobs.read(partial, offset, length), limit):
            size = self._blobs.append(whole, size, part)
        return whole

    def _sha256(self, edge: str, partial: str, size: int) -> str:
        """The digest of a whole upload: as it was computed while the bytes came, else of the file (a restart came between)."""
        digest = self._digests.pop(edge, None)
        if digest is not None and (digest.name, digest.size) == (partial, size):
            return digest.hash.hexdigest()
        return self._blobs.sha256(partial)

    def expected(self, digest: str, base: TensorSource) -> Collection[str]:
        """The tensors that an update of this base carries."""
        if self._expected[0] != digest:
            self._expected = (digest, sent_names(self._strategy.rule, list(base.shapes())))
        return self._expected[1]

    def sync(self, edge: str, upload: Upload) -> None:
        """Make the bytes of a checked upload durable; it does not count yet.

        Raises:
            StorageFull: the disk refused.
        """
        self._blobs.sync(self._checked(edge, upload))

    def keep(self, uploads: Mapping[str, Upload], round_number: int) -> None:
        """Make synced uploads, by edge, durable updates of the round they count in.

        Raises:
            StorageFull: the disk refused.
        """
        self._blobs.name({self._checked(edge, upload): update_name(round_number, edge) for edge, upload in uploads.items()})
        for edge, upload in uploads.items():
            if self._packs(upload):
                self._blobs.delete(_partial(edge, upload))

    def _checked(self, edge: str, upload: Upload) -> str:
        """The file that was checked."""
        return f"{_partial(edge, upload)}.whole" if self._packs(upload) else _partial(edge, upload)

    def drop(self, edge: str, upload: Upload) -> None:
        """Forget the bytes of an upload."""
        for name in (_partial(edge, upload), f"{_partial(edge, upload)}.whole"):
            self._blobs.delete(name)


@contextmanager
def _as_context(tensors: TensorSource) -> Iterator[TensorSource]:
    yield tensors


def _partial(edge: str, upload: Upload) -> str:
    return partial_name(upload.round_number, edge, upload.sha256)
