"""Sketches, and what is judged by them: the same numbers as when each tensor, and each edge, was reckoned with by itself.

Histories are kept across versions, so a sketch that comes out otherwise would accuse every edge. The figures here were made by
the code before its loops went into NumPy; float32 sums in another order differ by 1e-7.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from wardround.learn.models import MemoryTensors
from wardround.watch.detectors.inputs import Inputs
from wardround.watch.detectors.own_history import OwnHistory
from wardround.watch.detectors.seen import EdgeSeen, RoundSeen
from wardround.watch.detectors.updates import BATCH, DIMENSIONS, PLANS_MAX, Sketcher
from wardround.watch.model_watch import ModelWatch

SHAPES = {
    "small": {"w": (20,), "b": (1,)},
    "large": {"w": (700, 700), "b": (333,), "v": (64, 64, 3, 7)},
    "many": {f"l{i}": (4000, 30 + i) for i in range(40)},
}
PINNED = {  # first three columns, columns weighted by their number, norm, size
    "small": ([0.0211434174, -0.3159793863, 0.0592567083], 2.3461885215, 4.3256106183, 21),
    "large": ([0.0481525918, 0.1740244057, 0.0355596569], -48.6365179545, 759.0696742427, 576_349),
    "many": ([0.0557258434, 0.1121385123, 0.0595699680], 16.4771140402, 2811.3698849870, 7_920_000),
}


def update(shapes, seed=5):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def sketch(parameters, sketcher=None):
    return (sketcher or Sketcher("pinned")).sketch(MemoryTensors(parameters))


@pytest.mark.parametrize("name", SHAPES)
def test_a_sketch_is_the_one_that_older_versions_made(name):
    made = sketch({**update(SHAPES[name]), "count": np.arange(7)})
    columns, weighted, norm, size = PINNED[name]
    np.testing.assert_allclose(made.direction[:3], columns, atol=1e-6)
    assert float(made.direction @ np.arange(DIMENSIONS)) == pytest.approx(weighted, abs=1e-4)
    assert (made.norm, made.size) == (pytest.approx(norm, rel=1e-6), size)


@pytest.mark.parametrize("sizes", [[129, 300], [8192], [8193, 127], [BATCH - 1, 3, 40_000], [70_000] * 5, [0, 300]])
def test_the_sketch_of_a_sum_lies_between_the_sketches_of_its_parts_whatever_the_sizes(sizes):
    sketcher = Sketcher("seed")
    shapes = {f"t{i}": (size,) for i, size in enumerate(sizes)}
    one, other = update(shapes, 1), update(shapes, 2)
    parts = np.array([sketch(p, sketcher).direction for p in (one, other)])
    whole = sketch({name: one[name] - 2 * other[name] for name in shapes}, sketcher).direction
    weights, *_ = np.linalg.lstsq(parts.T, whole, rcond=None)
    np.testing.assert_allclose(weights @ parts, whole, atol=1e-5)
    assert weights[0] > 0 > weights[1]


def test_a_small_update_is_read_whole_and_its_norm_is_exact():
    parameters = update({"w": (90, 401), "b": (7,)})
    norm = np.sqrt(sum(float((t.astype(np.float64) ** 2).sum()) for t in parameters.values()))
    assert sketch(parameters).norm == pytest.approx(norm, rel=1e-6)


def test_counters_and_control_variates_are_no_part_of_a_sketch():
    plain = update({"w": (90, 401), "b": (7,)})
    more = {**plain, "a": np.full(300, 10**6), "z": np.ones(5, np.uint8), "control.w": np.ones((90, 401), np.float32)}
    made, beside = sketch(plain), sketch(more)
    np.testing.assert_allclose(made.direction, beside.direction, rtol=0, atol=1e-6)
    assert (made.norm, made.size) == (pytest.approx(beside.norm, rel=1e-6), beside.size)


def test_updates_of_ever_other_shapes_take_no_more_memory():
    sketcher = Sketcher("seed")
    for size in range(1, 30):
        sketch({"w": np.ones(size, np.float32)}, sketcher)
    assert len(sketcher._plans) == PLANS_MAX


def test_own_history_says_what_it_said_when_it_looked_at_one_edge_after_the_other():
    rng, screen = np.random.default_rng(4), OwnHistory("pinned")
    seen = {}
    for number in range(1, 41):
        updates = {}
        for i in range(8):
            own = np.random.default_rng(100 + i).normal(size=400)
            turned = -1 if (i, number) == (3, 40) else 1
            made = turned * (own + 1 + 0.7 * rng.normal(size=400)) / (1 + 0.05 * number)
            updates[f"e{i}"] = {"w": made.astype(np.float32)}
        verdicts = screen.judge_round(number, {edge: MemoryTensors(u) for edge, u in updates.items()})
        seen[number] = [(v.score, v.reason) for v in verdicts.values()]
        screen.stepped(MemoryTensors({"w": np.mean([u["w"] for u in updates.values()], axis=0)}))
    assert [score for score, _ in seen[6]] == pytest.approx([0.07, 0.53, 0.03, 0.1, 0.03, 0.21, 0.53, 0.03], abs=0.011)
    assert [score for score, _ in seen[35]] == pytest.approx([1.04, 0.93, 1.02, 0.82, 0.99, 0.85, 0.96, 0.87], abs=0.011)
    assert [score for score, _ in seen[40]] == pytest.approx([0.88, 1.19, 1.05, 16.36, 1.01, 1.01, 1.47, 0.93], abs=0.011)
    assert [reason for _, reason in seen[40]] == ["", "", "", "own-history-direction", "", "", "", ""]


def counts(features, rows=64):
    return np.full((features, 9), rows // 9 + 1, np.uint32)


def test_of_the_inputs_features_are_named_where_there_is_an_alarm_and_nowhere_else():
    inputs = Inputs(["heart rate", "temperature"])
    for number in range(40):
        usual, moved = counts(2), counts(2)
        if number >= 30:
            moved[1] = [0, 0, 0, 0, 0, 0, 0, 72, 0]
        edges = {"a": EdgeSeen(inputs=usual), "b": EdgeSeen(inputs=moved), "c": EdgeSeen(inputs=counts(3)), "d": EdgeSeen()}
        edges["e"] = EdgeSeen(inputs=np.zeros((2, 9), np.uint32))  # no rows at all
        seen = RoundSeen(number=number, edges=edges)
        found = inputs.score(seen)
        inputs.learn(seen, ())
    assert set(found["inputs"]) == {"a", "b", "c"}
    assert found["inputs"]["a"].parts == found["inputs"]["c"].parts == ()
    assert found["inputs"]["b"].parts[0][0] == "temperature"
    assert found["inputs"]["b"].score > 1 > found["inputs"]["a"].score


def test_evidence_that_an_older_version_kept_as_pairs_is_taken_up():
    watch = ModelWatch("study")
    rng = np.random.default_rng(0)
    for number in range(1, 60):
        edges = {f"e{i}": EdgeSeen(examples=10, loss=0.5 + 0.02 * rng.normal()) for i in range(6)}
        watch.round(RoundSeen(number=number, edges=edges, asked=6))
    saved = msgspec.msgpack.decode(watch.state())
    kept = [[sign, edge, np.frombuffer(series).reshape(-1, 2).tolist()] for sign, edge, series in saved["evidence"]]
    again = ModelWatch("study")
    assert kept
    assert again.restore(msgspec.msgpack.encode({**saved, "evidence": kept}))
    assert again.scores() == watch.scores()
    assert again.state() == watch.state()
