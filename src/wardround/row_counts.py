"""What an edge says of the rows it trains on: counts, never values.

For each feature how many rows fall in each of eight bins of the study's own scale, and how many are missing; and how sure the
round's base model is of them, with how often it is right where that is known. Edges send it with an update, signed; the watch
compares it with what the same edge sent before. A few kilobytes, whatever the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.malformed import MALFORMED

INPUT_EDGES = (-2.0, -1.25, -0.6, 0.0, 0.6, 1.25, 2.0)  # standard deviations of the study's own scaling: eight bins
INPUT_BINS = len(INPUT_EDGES) + 2  # the last one counts what is missing
CONFIDENCE_BINS = 10  # of the largest probability, from 0 to 1
CONFIDENCE_COUNTS = 3  # rows; of them labelled; of those right
FEATURES_MAX = 4_096
BYTES_MAX = 4 * (FEATURES_MAX * INPUT_BINS + CONFIDENCE_BINS * CONFIDENCE_COUNTS) + 256

Counts = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """`inputs` has shape (n_features, INPUT_BINS); `confidence` (CONFIDENCE_BINS, CONFIDENCE_COUNTS), None where not known."""

    inputs: Counts
    confidence: Counts | None = None


class _Packed(msgspec.Struct, frozen=True):
    features: int
    inputs: bytes  # uint32, little-endian
    confidence: bytes = b""


def input_counts(features: NDArray[Any], mean: NDArray[Any], std: NDArray[Any]) -> Counts:
    """Histograms of rows, shape (n, n_features), on the study's own scale; shape (n_features, INPUT_BINS)."""
    scaled = (np.asarray(features, np.float64) - mean) / std
    place = np.searchsorted(np.array(INPUT_EDGES), scaled, side="right")
    place[~np.isfinite(scaled)] = INPUT_BINS - 1
    n_features = scaled.shape[1]
    flat = np.bincount((place + INPUT_BINS * np.arange(n_features)).ravel(), minlength=n_features * INPUT_BINS)
    return flat.reshape(n_features, INPUT_BINS).astype(np.uint32)


def confidence_counts(probabilities: NDArray[Any], labels: NDArray[np.int32]) -> Counts:
    """How sure a model is: probabilities of shape (n, n_classes), labels (n,) with -1 where there is none."""
    surest = probabilities.max(axis=1)
    place = np.clip(np.nan_to_num(surest) * CONFIDENCE_BINS, 0, CONFIDENCE_BINS - 1).astype(np.int64)
    labelled = labels >= 0
    right = labelled & (probabilities.argmax(axis=1) == labels)
    columns = [np.bincount(place[mask], minlength=CONFIDENCE_BINS) for mask in (np.ones(len(labels), bool), labelled, right)]
    return np.stack(columns, axis=1).astype(np.uint32)


def encode_rows(counts: RowCounts) -> bytes:
    """MessagePack, as it travels with an update."""
    confidence = b"" if counts.confidence is None else counts.confidence.astype("<u4").tobytes()
    return msgspec.msgpack.encode(_Packed(len(counts.inputs), counts.inputs.astype("<u4").tobytes(), confidence))


def decode_rows(data: bytes) -> RowCounts:
    """The inverse of encode_rows.

    Raises:
        ValueError: the bytes are no such counts; the words say why.
    """
    if len(data) > BYTES_MAX:
        raise ValueError(f"{len(data)} bytes of row counts; at most {BYTES_MAX} are read")
    try:
        packed = msgspec.msgpack.decode(data, type=_Packed)
    except MALFORMED as error:
        raise ValueError(f"row counts cannot be read: {error}") from error
    if not 0 < packed.features <= FEATURES_MAX or len(packed.inputs) != 4 * packed.features * INPUT_BINS:
        raise ValueError(f"row counts of {packed.features} features have {len(packed.inputs)} bytes")
    inputs = np.frombuffer(packed.inputs, "<u4").reshape(packed.features, INPUT_BINS)
    if not packed.confidence:
        return RowCounts(inputs)
    if len(packed.confidence) != 4 * CONFIDENCE_BINS * CONFIDENCE_COUNTS:
        raise ValueError(f"counts of confidence have {len(packed.confidence)} bytes")
    return RowCounts(inputs, np.frombuffer(packed.confidence, "<u4").reshape(CONFIDENCE_BINS, CONFIDENCE_COUNTS))
