"""Beats as examples: labels, intervals and shapes of beats that are known."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.process.transforms import TASKS
from wardround.process.transforms.beats import (
    LABEL_CODE,
    interval_features,
    match_labels,
    qrs_width_s,
    shape_features,
)
from wardround.records import Observation

TASK = TASKS["ventricular-beats"]
T0 = 1_700_000_000_000_000
RATE = 360.0


def patient(seconds=120, every=7):
    """An ECG with a ventricular beat, early and wide, after every `every - 1` normal ones: mV, beat times, labels."""
    rng = np.random.default_rng(0)
    beats, labels, at = [], [], 0.5
    while at < seconds - 1:
        ventricular = len(beats) % every == every - 1
        beats.append(at - (0.28 if ventricular else 0.0))
        labels.append(int(ventricular))
        at += 0.8 + rng.normal(0, 0.01)
    t = np.arange(round(seconds * RATE)) / RATE
    x = rng.normal(0, 0.01, len(t))
    for beat, label in zip(beats, labels, strict=True):
        wide = 3.5 if label else 1.0
        x += (1.4 if label else 1.0) * np.exp(-np.square((t - beat) / (0.012 * wide)) / 2)
        x -= (0.7 if label else 0.15) * np.exp(-np.square((t - beat - 0.05 * wide) / (0.014 * wide)) / 2)
    return x, np.array(beats), np.array(labels)


def messages(x, beats, labels, seconds=10.0, subject="s", code="mdc:131330") -> list[Observation]:
    counts = np.round(x * 200).astype("<i2")
    size = round(seconds * RATE)
    out = []
    for first in range(0, len(counts), size):
        part = counts[first : first + size]
        t_us = T0 + round(first / RATE * 1e6)
        common = {"subject": subject, "device": "d", "edge": "e", "unit": "mV", "t0_device_us": 0}
        out.append(
            Observation(**common, code=code, t0_us=t_us, n=len(part), period_us=1e6 / RATE, values=part.tobytes(), scale=1 / 200)
        )
        here = (beats * RATE >= first) & (beats * RATE < first + size)
        if here.any():
            times = T0 + np.round(beats[here] * 1e6).astype(np.int64)
            out.append(
                Observation(
                    **common,
                    code=LABEL_CODE,
                    t0_us=int(times[0]),
                    n=int(here.sum()),
                    offsets_us=(times - times[0]).astype("<i4").tobytes(),
                    values=labels[here].astype("<i2").tobytes(),
                )
            )
    return out


def mark(t_us: int, value: int) -> Observation:
    return Observation(
        subject="s", device="d", edge="e", code=LABEL_CODE, unit="1", t0_us=t_us, t0_device_us=t_us, value=float(value)
    )


def test_every_beat_is_an_example_with_its_label():
    x, beats, labels = patient()
    examples = TASK.examples(messages(x, beats, labels))
    assert len(examples) == len(beats)
    np.testing.assert_array_equal(examples.labels, labels)
    assert np.abs(examples.t_us - T0 - beats * 1e6).max() < 30_000
    assert np.isfinite(examples.features).all()
    assert examples.features.shape[1] == len(TASK.feature_names) == len(set(TASK.feature_names))


@pytest.mark.parametrize("seconds", [0.5, 3.0, 120.0])
def test_the_size_of_messages_makes_no_difference(seconds):
    x, beats, labels = patient()
    a = TASK.examples(messages(x, beats, labels))
    shuffled = messages(x, beats, labels, seconds)
    np.random.default_rng(1).shuffle(shuffled)
    b = TASK.examples(shuffled)
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.t_us, b.t_us)


def test_ventricular_beats_differ_where_they_should():
    x, beats, labels = patient()
    examples = TASK.examples(messages(x, beats, labels))
    column = dict(zip(TASK.feature_names, examples.features.T, strict=True))
    pvc = examples.labels == 1
    assert column["interval before"][pvc].max() < -0.2 < column["interval before"][~pvc].min() + 0.1
    assert column["interval after"][pvc].min() > 0.2
    assert column["qrs width ratio"][pvc].min() > 1.5 > np.quantile(column["qrs width ratio"][~pvc], 0.9)
    assert column["qrs correlation"][~pvc].min() > 0.95 > column["qrs correlation"][pvc].max()


def test_a_gap_costs_its_own_beats_alone():
    x, beats, labels = patient()
    whole = messages(x, beats, labels)
    ecg = [o for o in whole if o.code != LABEL_CODE]
    examples = TASK.examples([o for o in whole if o is not ecg[5]])
    lost = (beats >= 49.9) & (beats <= 60.1)
    assert len(examples) >= len(beats) - lost.sum() - 2
    assert not ((examples.t_us > T0 + 50_050_000) & (examples.t_us < T0 + 59_950_000)).any()
    assert np.abs(examples.features[:, TASK.feature_names.index("interval before")]).max() < 1.0  # no interval spans it


def test_without_labels_beats_are_still_there():
    x, beats, labels = patient(60)
    examples = TASK.examples([o for o in messages(x, beats, labels) if o.code != LABEL_CODE])
    assert len(examples) == len(beats)
    assert set(examples.labels) == {-1}


def test_subjects_do_not_mix_and_the_longer_lead_counts():
    x, beats, labels = patient(60)
    other = messages(0.5 * x[: len(x) // 2], beats[beats < 29], labels[beats < 29], subject="b")
    both = TASK.examples(
        [*messages(x, beats, labels, subject="a"), *other, *messages(x, beats, labels, subject="b", code="mdc:131329")]
    )
    a, b = both.where(both.subjects == "a"), both.where(both.subjects == "b")
    np.testing.assert_array_equal(a.features, b.features)


@pytest.mark.parametrize("gain", [0.6, 3.0])
def test_the_gain_of_a_lead_makes_no_difference(gain):
    x, beats, labels = patient(60)
    a, b = (TASK.examples(messages(g * x, beats, labels)).features for g in (1.0, gain))
    assert a.shape == b.shape
    assert np.quantile(np.abs(a - b), 0.99) < 0.1  # counts are coarse at a low gain
    assert np.abs(a - b).mean() < 0.02


def test_labels_go_to_the_nearest_peak_within_150_ms():
    peaks = np.array([1.0, 2.0, 3.0]) * 1e6
    marks = [mark(1_100_000, 1), mark(2_151_000, 1), mark(2_900_000, 0), mark(3_010_000, 1)]
    assert match_labels(peaks, marks).tolist() == [1, -1, 1]


def test_a_label_that_is_no_class_is_not_a_label():
    assert match_labels(np.array([1e6]), [mark(1_000_000, 7)]).tolist() == [-1]


def test_intervals_of_a_regular_rhythm_are_zero_and_a_pause_is_not():
    steady = interval_features(np.arange(30) * 0.8)
    np.testing.assert_allclose(steady[:, :4], 0, atol=1e-9)
    np.testing.assert_allclose(steady[:, 4], np.log(0.8))
    early = np.arange(30) * 0.8
    early[15] -= 0.3
    f = interval_features(early)
    assert f[15, 0] == pytest.approx(np.log(0.5 / 0.8))
    assert f[15, 1] == pytest.approx(np.log(1.1 / 0.8))
    assert interval_features(np.array([1.0])).tolist() == [[0.0] * 5]


def test_the_width_of_a_complex():
    t = (np.arange(185) - 75) / 250
    narrow, wide = (np.exp(-np.square(t / s) / 2) for s in (0.01, 0.03))
    widths = qrs_width_s(np.stack([narrow, wide]))
    assert widths[1] / widths[0] == pytest.approx(3.0, rel=0.15)


def test_a_beat_like_the_median_beat_differs_by_nothing():
    own = np.exp(-np.square((np.arange(185) - 75) / 250 / 0.012) / 2)
    row = dict(zip(TASK.feature_names[5:], shape_features(own[None], own)[0], strict=True))
    assert row["qrs correlation"] == pytest.approx(1.0)
    assert row["qrs difference"] == pytest.approx(np.log(0.01))
    assert row["qrs width ratio"] == pytest.approx(1.0)
    assert all(abs(v) < 1e-9 for name, v in row.items() if name.startswith("difference"))
