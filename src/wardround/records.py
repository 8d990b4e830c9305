"""The shared vocabulary: what an observation is, and the identifiers every step uses.

An observation is a run of samples of one signal of one subject (FHIR's SampledData in shape); a scalar is a run of one.
Samples stay on the device's own integer grid: value = origin + count * scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from typing import Annotated, Literal, NewType

import msgspec
import numpy as np
from numpy.typing import NDArray

EdgeId = NewType("EdgeId", str)  # the name in the edge's certificate: [a-z0-9-]{1,40}
DeviceId = NewType("DeviceId", str)
SubjectId = NewType("SubjectId", str)  # a keyed pseudonym, never a hospital number
StudyId = NewType("StudyId", str)
ModelDigest = NewType("ModelDigest", str)  # SHA-256 of the safetensors file, lower-case hex
BootId = NewType("BootId", str)  # one life of a spool or of a device's memory

BUCKETS = 16
SANDBOX = "drill."  # begins the name of a live drill's study, and of no other: a study's own name has no dot
YEAR_1_US, YEAR_9999_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # what every calendar can hold
FROM_FILE = "file/"  # begins the device_boot of an imported observation; no boot of a device has a slash
Floats = NDArray[np.float64]


def is_sandbox(study: str) -> bool:
    """Whether a study is a live drill's: its data are made up, and its model is nobody's."""
    return study.startswith(SANDBOX)


class Validity(IntEnum):
    """How far a value may be believed (IEEE 11073-10207 BICEPS, MeasurementValidity)."""

    VALID = 0
    VALIDATED = 1
    ONGOING = 2
    QUESTIONABLE = 3
    CALIBRATING = 4
    INVALID = 5
    OVERFLOW = 6
    UNDERFLOW = 7
    NOT_AVAILABLE = 8


class Quality(IntFlag):
    """Quality flags of a run of samples; several may be set."""

    NONE = 0
    RANGE = 1
    RATE_OF_CHANGE = 2
    FLAT_LINE = 4
    SATURATED = 8
    LEAD_OFF = 16
    MOTION = 32
    GAP_BEFORE = 64
    CLOCK_UNSYNCED = 128
    LATE = 256
    DUPLICATE_SUPPRESSED = 512
    UNIT_CONVERTED = 1024
    SIMULATED = 2048
    EARLY = 4096  # its time is ahead of the edge that took it
    OUT_OF_ORDER = 8192  # a newer run of its signal was there before it


class Consent(StrEnum):
    """What a subject allows for a signal: leave the edge, train on the edge alone, or not be kept at all."""

    RAW = "raw"
    LOCAL = "local"
    NONE = "none"


class Purpose(StrEnum):
    """What data are wanted for; a subject's consent names it."""

    CARE = "care"  # to be watched and shown: alerts, trends, predictions
    TRAINING = "training"  # models, and their scores
    RESEARCH = "research"  # statistics over subjects, and exports


Time = Annotated[int, msgspec.Meta(ge=YEAR_1_US, le=YEAR_9999_US)]  # microseconds since 1970 UTC
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class Observation(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):  # it holds nothing that could hold it
    """A run of samples of one signal. Encoded as an array: new fields go to the end and have a default.

    Times are microseconds since 1970 UTC. `values` holds n little-endian integers of `values_type`;
    for n = 1, `value` may be given instead. Irregular runs give `offsets_us` (n little-endian int32 from t0).
    `value_text` is for a run of one that is a word (a rhythm, a sleep stage). What is decoded is within the ranges that the
    lake's columns have, so that nothing an edge sends can hold up the lake.
    """

    subject: str
    device: str
    edge: str
    code: str  # canonical: "loinc:8867-4", "mdc:131330", "wr:accel-x"
    unit: str  # UCUM, the canonical unit of the code
    t0_us: Time  # corrected time of the first sample
    t0_device_us: Int64  # as the device saw it
    clock_offset_us: Int64 = 0
    clock_error_us: Int64 = 0
    t_edge_us: Time = 0
    n: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 1
    period_us: float | None = None
    offsets_us: bytes | None = None
    value: float | None = None
    values: bytes | None = None
    values_type: Literal["i2", "i4"] = "i2"
    scale: float = 1.0
    origin: float = 0.0
    value_text: str | None = None
    validity: Annotated[int, msgspec.Meta(ge=0, le=127)] = 0
    flags: Int32 = 0
    low: float | None = None  # limits of the sensor, in `unit`
    high: float | None = None
    device_boot: str = ""
    device_seq: Int64 = 0  # the device's message
    device_index: Int32 = 0  # the run within that message
    consent_version: Int64 = 0

    @property
    def imported(self) -> bool:
        """Whether it came out of a file: measured whenever, and nothing that goes on."""
        return self.device_boot.startswith(FROM_FILE)

    def counts(self) -> NDArray[np.int32]:
        """The integer samples, shape (n,); empty for a scalar given as `value` and for a word."""
        if self.values is None:
            return np.empty(0, np.int32)
        return np.frombuffer(self.values, "<" + self.values_type).astype(np.int32)

    def samples(self) -> Floats:
        """The samples in `unit`, shape (n,), float64; empty for a word."""
        if self.values is not None:
            return self.origin + self.counts().astype(np.float64) * self.scale
        return np.empty(0) if self.value is None else np.array([self.value])

    def times_us(self) -> NDArray[np.int64]:
        """The time of each sample, shape (n,)."""
        if self.offsets_us is not None:
            return self.t0_us + np.frombuffer(self.offsets_us, "<i4").astype(np.int64)
        if self.n == 1 or self.period_us is None:
            return np.full(self.n, self.t0_us, np.int64)
        return self.t0_us + np.round(np.arange(self.n) * self.period_us).astype(np.int64)

    @property
    def whole(self) -> bool:
        """Whether it holds as many samples and times as it says, and they end before the calendar does."""
        if self.values is not None and len(self.values) != self.n * int(self.values_type[1]):
            return False
        if self.offsets_us is not None:
            return len(self.offsets_us) == 4 * self.n
        return self.n == 1 or self.period_us is None or 0 <= self.n * self.period_us <= YEAR_9999_US - self.t0_us

    @property
    def bucket(self) -> int:
        """The partition of the subject, 0 to 15."""
        return bucket_of(self.subject)


def bucket_of(subject: str) -> int:
    """The lake's partition of a subject: the first byte of SHA-256, modulo BUCKETS."""
    return hashlib.sha256(subject.encode()).digest()[0] % BUCKETS


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Observation)


def encode_observation(observation: Observation) -> bytes:
    """MessagePack, as the spool, the wire and the inbox hold it."""
    return _encoder.encode(observation)


class ObservationHead(msgspec.Struct, frozen=True, array_like=True):
    """Whose observation it is, and of what, without its samples."""

    subject: str
    device: str
    edge: str
    code: str


_head_decoder = msgspec.msgpack.Decoder(ObservationHead)


def head_of(data: bytes) -> ObservationHead:
    """The head of an encoded observation, at a fraction of the cost of the whole.

    Raises:
        msgspec.DecodeError: the bytes are not an observation.
    """
    return _head_decoder.decode(data)


def decode_observation(data: bytes) -> Observation:
    """The inverse of encode_observation.

    Raises:
        msgspec.DecodeError: the bytes are not an observation.
    """
    return _decoder.decode(data)


_ARRAY_32 = b"\xdd"  # how MessagePack begins an array, before its length
_rows_decoder = msgspec.msgpack.Decoder(list[Observation])


def decode_observations(rows: Sequence[bytes]) -> list[Observation]:
    """Each of the rows, decoded.

    Raises:
        msgspec.DecodeError: one of them is not an observation.
    """
    return list(map(_decoder.decode, rows))


def decode_joined(data: bytes | memoryview, n: int) -> list[Observation]:
    """The `n` observations whose encodings follow on one another: quicker than one by one.

    Raises:
        msgspec.DecodeError: the bytes are not so many observations.
    """
    return _rows_decoder.decode(b"".join((_ARRAY_32, n.to_bytes(4, "big"), data)))


class Examples(msgspec.Struct, frozen=True, kw_only=True):
    """Training rows made from observations. An example is one row, a sample is one point of a signal."""

    features: NDArray[np.float32]  # (n, n_features)
    labels: NDArray[np.int32]  # (n,), -1 = not labelled
    subjects: NDArray[np.str_]  # (n,)
    t_us: NDArray[np.int64]  # (n,)
    feature_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Examples:
        """The rows where a mask, shape (n,), is true; or the rows of these numbers, in their order."""
        return Examples(
            features=self.features[rows],
            labels=self.labels[rows],
            subjects=self.subjects[rows],
            t_us=self.t_us[rows],
            feature_names=self.feature_names,
        )


def concatenate(parts: Iterable[Examples], feature_names: Sequence[str]) -> Examples:
    """One set of examples out of many; an empty one when there is none."""
    kept = [p for p in parts if len(p)]
    names = tuple(feature_names)
    if not kept:
        return Examples(
            features=np.empty((0, len(names)), np.float32),
            labels=np.empty(0, np.int32),
            subjects=np.empty(0, np.str_),
            t_us=np.empty(0, np.int64),
            feature_names=names,
        )
    return Examples(
        features=np.concatenate([p.features for p in kept]),
        labels=np.concatenate([p.labels for p in kept]),
        subjects=np.concatenate([p.subjects for p in kept]),
        t_us=np.concatenate([p.t_us for p in kept]),
        feature_names=names,
    )


class AlertAbout(msgspec.Struct, frozen=True):
    """What the hub is told of an alert at an edge beside its number, where the patient lets values reach the hub for care."""

    subject: str
    kind: str
    title: str
    since_us: int
    news2: int | None = None  # the newest score
    acknowledged_by: str = ""


class OpenAlert(msgspec.Struct, frozen=True, omit_defaults=True):
    """An alert that is open at an edge, as the hub is told: but for `about`, no word of whom, of what, or of any value."""

    alert_id: str
    priority: str
    category: str
    state: str
    about: AlertAbout | None = None

    def bare(self) -> OpenAlert:
        """Without a word of whom: as it may lie on the hub's disk."""
        return OpenAlert(self.alert_id, self.priority, self.category, self.state)


class EdgeLoad(msgspec.Struct, frozen=True):
    """The alarm load of one category at one edge over seven days: numbers alone. `judged` are those of which somebody said
    whether they needed something done; `answer_s` is the median time to the first acknowledgement."""

    category: str
    alerts: int
    patient_days: float
    acknowledged: int
    answer_s: float | None
    judged: int
    actionable: int


@dataclass(frozen=True, slots=True)
class ApiTokenRecord:
    """A token of the API, as the hub keeps it: of whom, for what (scopes, with spaces between), and SHA-256 of its secret."""

    token_id: str
    person: str
    name: str
    scopes: str
    secret_sha256: bytes
    created_us: int
    expires_us: int
    used_us: int | None = None
    revoked_us: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What the hub keeps of a join token: never its secret. `used_by` is SHA-256 of the public key that burnt it."""

    token_id: str
    name: str
    secret_sha256: bytes
    expires_us: int
    used_by: bytes | None = None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A machine that runs worker containers for the hub."""

    name: str
    url: str  # unix:///path, tcp://127.0.0.1:port, ssh://user@host[:port][/path of the socket]
    workers: int
    memory_bytes: int  # of one worker
    cpus: float  # of one worker
    lake: str  # where the node sees the hub's lake; empty: at the same path
    drained: bool
    added_us: int


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a doctor looked at. `good` is None when it does not matter here."""

    what: str
    good: bool | None
    found: str
    remedy: str = ""
