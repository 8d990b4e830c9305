"""Observations out to files that others read: FHIR R4, SenML and WFDB, without loss of their numbers.

What is written here, `wardround edge import` reads back to the same numbers. What a format cannot hold is not bent to fit: it is
left out and counted by name. A number that must not be believed does not travel as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.collect.devices.fhir_export import resources
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import RELATIVE_BELOW, encode_pack
from wardround.collect.files.wfdb_samples import INVALID
from wardround.records import Observation, Validity

File = tuple[str, bytes]  # name and content
BUNDLE_ENTRIES, PACK_READINGS = 500, 200
PART_BYTES = 700_000  # a pack of a megabyte is refused by readers
NO_NUMBER = (Validity.CALIBRATING, Validity.INVALID, Validity.NOT_AVAILABLE)
FINER_MAX = 1 << 15  # how much finer than the recorder's a grid may become so that its origin lies on it
STEP_US = 1.5  # times are whole microseconds: so far a run may be from where the one before ends


def to_fhir(observations: Iterable[Observation]) -> Iterator[File]:
    """Bundles of type `collection` of R4 Observations."""
    found = (r for o in observations for r in resources(o, "R4"))
    for number, part in enumerate(_parts(found, BUNDLE_ENTRIES)):
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in part]}
        yield f"observations-{number:05d}.fhir.json", msgspec.json.encode(bundle)


def to_senml(observations: Iterable[Observation], left: Counter[str]) -> Iterator[File]:
    """Packs in JSON, each of one device; names are the code table's codes. Quality flags are left behind."""
    good = (o for o in observations if _is_number(o, left) and _has_date(o, left))
    number = 0
    for (edge, device), group in groupby(good, key=lambda o: (o.edge, o.device)):
        for part in _parts((_reading(o) for o in group), PACK_READINGS):
            yield f"pack-{number:05d}.senml.json", encode_pack(part, base_name=f"urn:dev:wr:{edge}:{device}:", form="json")
            number += 1


def to_wfdb(observations: Iterable[Observation], left: Counter[str]) -> Iterator[File]:
    """A record of one signal for each stretch without a gap: its header and its samples, 16 or 32 bits.

    Scalars, words and irregular runs are no waveforms, and are left out. Times are UTC.
    """
    waves = [o for o in observations if _is_number(o, left) and _is_waveform(o, left)]
    waves.sort(key=lambda o: (o.code, o.device, o.t0_us))
    for number, stretch in enumerate(_stretches(waves)):
        first = stretch[0]
        made = _grid(np.concatenate([o.counts() for o in stretch]).astype(np.int64), first.scale, first.origin)
        if made is None:
            left["wfdb-grid"] += len(stretch)
            continue
        counts, gain, baseline = made
        format_ = 16 if counts.min() > INVALID[16] and counts.max() < -INVALID[16] else 32
        name = f"{first.code.partition(':')[2].replace(':', '-')}-{number:05d}"
        begins = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=first.t0_us)
        assert first.period_us is not None  # noqa: S101 - a waveform has one
        checksum = int(counts.sum()) & 0xFFFF
        yield (
            f"{name}.hea",
            f"{name} 1 {1e6 / first.period_us!r} {len(counts)} {begins:%H:%M:%S.%f} {begins:%d/%m/%Y}\n"
            f"{name}.dat {format_} {gain!r}({baseline})/{first.unit} 0 0 {int(counts[0])} {checksum} 0 {first.code}\n".encode(),
        )
        yield f"{name}.dat", counts.astype("<i2" if format_ == 16 else "<i4").tobytes()


def _parts(items: Iterable[Any], count_max: int) -> Iterator[list[Any]]:
    """Lists of so many items, or of about PART_BYTES."""
    part: list[Any] = []
    size = 0
    for item in items:
        part.append(item)
        size += len(msgspec.json.encode(item))
        if len(part) >= count_max or size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _is_number(o: Observation, left: Counter[str]) -> bool:
    left["no-number"] += (bad := Validity(o.validity) in NO_NUMBER)
    return not bad


def _has_date(o: Observation, left: Counter[str]) -> bool:
    """SenML takes an earlier time for one that is relative to now."""
    left["before-1978"] += (bad := o.t0_us < RELATIVE_BELOW * 1_000_000)
    return not bad


def _is_waveform(o: Observation, left: Counter[str]) -> bool:
    left["no-waveform"] += (bad := o.values is None or o.period_us is None or o.n < 2)
    return not bad


def _reading(o: Observation) -> Reading:
    return Reading(
        name=o.code,
        unit=o.unit,
        t_us=o.t0_us,
        n=o.n,
        period_us=o.period_us,
        offsets_us=o.offsets_us,
        value=o.value,
        values=o.values,
        values_type=o.values_type,
        scale=o.scale,
        origin=o.origin,
        text=o.value_text,
    )


def _stretches(waves: Sequence[Observation]) -> Iterator[list[Observation]]:
    """Runs of one signal that follow each other without a gap, on one grid."""
    stretch: list[Observation] = []
    samples = 0
    for o in waves:
        if stretch and not _follows(stretch[0], samples, o):
            yield stretch
            stretch, samples = [], 0
        stretch.append(o)
        samples += o.n
    if stretch:
        yield stretch


def _follows(first: Observation, samples: int, o: Observation) -> bool:
    same = (first.code, first.device, first.unit, first.period_us, first.scale, first.origin)
    if same != (o.code, o.device, o.unit, o.period_us, o.scale, o.origin) or first.period_us is None:
        return False
    return abs(first.t0_us + samples * first.period_us - o.t0_us) <= STEP_US


def _grid(counts: NDArray[np.int64], scale: float, origin: float) -> tuple[NDArray[np.int64], float, int] | None:
    """Counts, gain and whole baseline of WFDB for the same values; None where no grid of 32 bits has them.

    WFDB's value is (count - baseline) / gain, its baseline a whole number. Where the origin is no whole number of steps, the
    grid is made finer.
    """
    if not scale:
        return None
    steps = Fraction(origin / scale).limit_denominator(FINER_MAX)
    if abs(float(steps) * scale - origin) > 1e-12 * max(abs(origin), abs(scale)):
        return None
    finer = steps.denominator
    made = counts * finer
    baseline = -steps.numerator
    if max(abs(baseline), int(np.abs(made).max())) > -INVALID[32] - 1:
        return None
    return made, finer / scale, baseline
