"""Windows of movement: where they lie, what they are called, and that messages and gaps change nothing but the gap."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.process.transforms import TASKS
from wardround.process.transforms.activity import ACCELERATION, LABEL_CODE, ROTATION, WINDOW, low_pass
from wardround.records import Observation

TASK = TASKS["activity"]
T0 = 1_700_000_000_000_000
SCALE = {**dict.fromkeys(ACCELERATION, 0.003), **dict.fromkeys(ROTATION, 0.02), LABEL_CODE: 1.0}


def movement(labels, seed=0) -> dict[str, np.ndarray]:
    """Counts of all six signals and the labels: noise around gravity, with steps where someone walks."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    step = np.where(np.asarray(labels) == 1, np.sin(2 * np.pi * 2 * np.arange(n) / 50), 0.0)
    counts = {code: np.round(rng.normal(0, 20, n) + 600 * step).astype("<i2") for code in (*ACCELERATION, *ROTATION)}
    counts["wr:accel-x"] = (counts["wr:accel-x"] + round(9.81 / 0.003)).astype("<i2")
    return {**counts, LABEL_CODE: np.asarray(labels, "<i2")}


def messages(signals, size=500, subject="s", t0_us=T0, left_out=()) -> list[Observation]:
    out = []
    for code, counts in signals.items():
        for k, first in enumerate(range(0, len(counts), size)):
            if (code, k) in left_out:
                continue
            part = counts[first : first + size]
            t_us = t0_us + first * 20_000
            out.append(
                Observation(
                    subject=subject,
                    device="d",
                    edge="e",
                    code=code,
                    unit="",
                    t0_us=t_us,
                    t0_device_us=t_us,
                    n=len(part),
                    period_us=20_000.0,
                    values=part.tobytes(),
                    scale=SCALE[code],
                )
            )
    return out


def same(a, b) -> None:
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.t_us, b.t_us)


LABELS = [1] * 700 + [0] * 300 + [4] * 400 + [7] * 200 + [6] * 400


@pytest.mark.parametrize("size", [1, 37, 128, 500, 2000])
def test_the_size_of_messages_makes_no_difference(size):
    signals = movement(LABELS)
    shuffled = messages(signals, size)
    np.random.default_rng(0).shuffle(shuffled)
    same(TASK.examples(shuffled), TASK.examples(messages(signals)))


def test_a_label_that_is_said_once_a_second_is_enough():
    """As docs/study.md has it; a program that marks activities need not do so for every sample."""
    signals = movement(LABELS)
    often = TASK.examples(messages(signals))
    marks = [
        Observation(
            subject="s", device="marks", edge="e", code=LABEL_CODE, unit="1", t0_us=t_us, t0_device_us=t_us, n=10,
            period_us=1e6, values=np.asarray(LABELS[first : first + 500 : 50], "<i2").tobytes(), scale=1.0,
        )
        for first in range(0, len(LABELS), 500)
        for t_us in [T0 + first * 20_000]
    ]  # fmt: skip
    del signals[LABEL_CODE]
    seldom = TASK.examples(messages(signals) + marks)
    assert set(seldom.labels) >= {0, 3, 5}
    labelled = (often.labels >= 0).sum()
    assert labelled - 6 <= (seldom.labels >= 0).sum() <= labelled  # a window at each end of a stretch may go
    for at_us, label in zip(seldom.t_us[seldom.labels >= 0], seldom.labels[seldom.labels >= 0], strict=True):
        middle = (int(at_us) - T0) // 20_000 + WINDOW // 2
        assert LABELS[middle] == label + 1


def test_windows_lie_in_one_stretch_and_carry_its_label():
    examples = TASK.examples(messages(movement(LABELS)))
    starts = (examples.t_us - T0) // 20_000
    for start, label in zip(starts, examples.labels, strict=True):
        inside = set(LABELS[start : start + WINDOW])
        assert inside == {label + 1} if label >= 0 else not inside & {1, 2, 3, 4, 5, 6}
    assert np.bincount(examples.labels + 1).tolist() == [5, 9, 0, 0, 5, 0, 5]  # floor((n - 128) / 64) + 1 each
    assert examples.features.dtype == np.float32
    assert np.isfinite(examples.features).all()
    assert examples.features.shape[1] == len(TASK.feature_names) == len(set(TASK.feature_names))


def test_without_labels_windows_are_still_there():
    signals = movement(LABELS)
    del signals[LABEL_CODE]
    examples = TASK.examples(messages(signals))
    assert set(examples.labels) == {-1}
    assert len(examples) == (len(LABELS) - WINDOW) // 64 + 1


def test_no_window_spans_a_gap_of_any_signal():
    signals = movement([1] * 2000)
    examples = TASK.examples(messages(signals, left_out={("wr:gyro-y", 1)}))
    starts = (examples.t_us - T0) // 20_000
    assert len(starts) > 0
    assert all(start + WINDOW <= 500 or start >= 1000 for start in starts)


def test_a_signal_that_is_not_there_gives_no_windows():
    signals = movement(LABELS)
    del signals["wr:gyro-z"]
    assert len(TASK.examples(messages(signals))) == 0
    assert TASK.examples([]).features.shape == (0, len(TASK.feature_names))


def test_subjects_do_not_mix():
    one, two = movement(LABELS, 1), movement(LABELS, 2)
    both = TASK.examples([*messages(two, subject="b"), *messages(one, subject="a")])
    assert list(dict.fromkeys(both.subjects)) == ["a", "b"]
    same(both.where(both.subjects == "a"), TASK.examples(messages(one)))


def test_two_recordings_of_one_subject_are_two_stretches():
    later = T0 + 3_600_000_000
    signals = movement(LABELS)
    examples = TASK.examples([*messages(signals), *messages(signals, t0_us=later)])
    half = len(examples) // 2
    np.testing.assert_array_equal(examples.features[:half], examples.features[half:])
    np.testing.assert_array_equal(examples.t_us[half:] - examples.t_us[:half], 3_600_000_000)


def test_gravity_is_what_is_left_below_a_third_of_a_hertz():
    t = np.arange(3000) / 50
    walking = np.sin(2 * np.pi * 2 * t)
    gravity = low_pass(np.stack([9.81 + walking, 0 * t, 0.5 * np.sin(2 * np.pi * 0.05 * t)]))
    np.testing.assert_allclose(gravity[0, 200:-200], 9.81, atol=0.01)
    np.testing.assert_allclose(gravity[2, 500:-500], 0.5 * np.sin(2 * np.pi * 0.05 * t)[500:-500], atol=0.01)


def test_features_mean_what_they_are_called():
    """Standing upright and still: x is up, gravity is 9.81, and the body does not move."""
    n = 512
    signals = {code: np.zeros(n, "<i2") for code in (*ACCELERATION, *ROTATION)} | {LABEL_CODE: np.full(n, 5, "<i2")}
    signals["wr:accel-x"] = np.full(n, 3270, "<i2")
    examples = TASK.examples(messages(signals))
    row = dict(zip(examples.feature_names, examples.features[0].tolist(), strict=True))
    assert row["gravity-x mean"] == pytest.approx(9.81, abs=1e-4)
    assert row["gravity angle x"] == pytest.approx(1.0)
    assert row["gravity angle y"] == pytest.approx(0.0, abs=1e-6)
    assert row["body-x std"] == pytest.approx(-3.0, abs=1e-2)  # the logarithm's floor
    assert row["gravity-magnitude max"] == pytest.approx(9.81, abs=1e-4)
    assert set(examples.labels) == {4}


def test_a_turned_sensor_shows_in_the_angles():
    """Rotation by 90 degrees about z: what was x is y now."""
    signals = movement(LABELS)
    turned = {**signals, "wr:accel-x": signals["wr:accel-y"], "wr:accel-y": signals["wr:accel-x"]}
    names = TASK.feature_names
    before, after = TASK.examples(messages(signals)).features, TASK.examples(messages(turned)).features
    np.testing.assert_array_equal(before[:, names.index("gravity angle x")], after[:, names.index("gravity angle y")])
    np.testing.assert_array_equal(before[:, names.index("body-x std")], after[:, names.index("body-y std")])
