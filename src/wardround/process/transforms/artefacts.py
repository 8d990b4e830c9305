"""Which samples of a signal not to believe: outside what a body can do, stuck, saturated, a spike, a lead that is off.

The rules are those of signal quality in critical care (Clifford, Behar, Li, Rezek, Signal quality indices and data fusion for
determining clinical acceptability of electrocardiograms, Physiol. Meas. 33(9), 2012; PhysioNet/CinC Challenge 2011): a flat
line, a line at the rail, and steps that no physiology makes. Every rule looks at a sample's neighbourhood alone, so a chunk
gives the same flags whatever lies beyond it by more than the longest window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wardround.records import Floats, Quality

FLAT_S = 0.5  # of a waveform: the isoelectric line between two beats is never that still
FLAT_SAMPLES_MIN = 20  # a slow signal may well stay the same; so many samples in a row may not
LEAD_OFF_S = 2.0  # flat for so long: nothing is connected
RAIL_SAMPLES = 4  # in a row, at the highest or the lowest value of the stretch
SPIKE_STEPS = 30.0  # times the usual step
SPIKE_ALONE = 0.2  # of the spike's height: what its neighbours may move
SPIKE_STEPS_MIN = 50
WAVEFORM_HZ = 20.0

Flags = NDArray[np.uint16]
_BIT = {flag: np.uint16(flag) for flag in Quality}


def artefacts(values: Floats, rate_hz: float, *, low: float | None = None, high: float | None = None) -> Flags:
    """Flags of each sample: bits of `records.Quality`, shape (n,). A missing sample (NaN) has none.

    Args:
        values: one signal in its unit, shape (n,), evenly sampled, NaN where nothing was measured.
        rate_hz: 0 for an irregular signal: then its values are looked at one by one.
        low: plausible range, in the same unit; None: no limit.
        high: as low.
    """
    values = np.asarray(values, np.float64)
    flags = np.zeros(len(values), np.uint16)
    there = np.isfinite(values)
    if not there.any():
        return flags
    if low is not None:
        flags[there & (values < low)] |= _BIT[Quality.RANGE]
    if high is not None:
        flags[there & (values > high)] |= _BIT[Quality.RANGE]
    if rate_hz >= WAVEFORM_HZ:
        runs = _run_lengths(values)
        flat = runs >= max(FLAT_SAMPLES_MIN, FLAT_S * rate_hz)
        flags[flat] |= _BIT[Quality.FLAT_LINE]
        flags[runs >= LEAD_OFF_S * rate_hz] |= _BIT[Quality.LEAD_OFF]
        rail = (runs >= RAIL_SAMPLES) & ~flat & ((values == np.nanmax(values)) | (values == np.nanmin(values)))
        flags[rail] |= _BIT[Quality.SATURATED]
        flags[_spikes(values)] |= _BIT[Quality.RATE_OF_CHANGE]
    return flags


def usable_share(flags: Flags, there: NDArray[np.bool_]) -> float:
    """Share of samples that are there and have no flag; 0 for none at all."""
    return float((there & (flags == 0)).mean()) if len(flags) else 0.0


def _run_lengths(values: Floats) -> NDArray[np.int64]:
    """For each sample, how many equal ones in a row it belongs to; 0 for a missing one, shape (n,)."""
    new = np.concatenate([[True], values[1:] != values[:-1]])  # NaN differs from NaN
    run = np.cumsum(new) - 1
    lengths = np.bincount(run)[run]
    return np.where(np.isfinite(values), lengths, 0)


def _spikes(values: Floats) -> NDArray[np.bool_]:
    """Single samples that leave the line and come back at once, by a step no physiology makes, shape (n,)."""
    found = np.zeros(len(values), bool)
    steps = np.diff(values)
    if np.isfinite(steps).sum() < SPIKE_STEPS_MIN:
        return found
    usual = np.nanmedian(np.abs(steps))
    before, up, down, after = steps[:-3], steps[1:-2], steps[2:-1], steps[3:]
    with np.errstate(invalid="ignore"):
        height = np.minimum(np.abs(up), np.abs(down))
        alone = np.maximum(np.abs(before), np.abs(after)) < SPIKE_ALONE * height  # an R wave climbs over several samples
        found[2:-2] = (height > SPIKE_STEPS * usual) & (np.sign(up) == -np.sign(down)) & alone
    return found if usual > 0 else np.zeros(len(values), bool)
