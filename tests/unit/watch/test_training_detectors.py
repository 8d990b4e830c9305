"""The detectors of training one by one: what each sees, how soon, and what leaves it quiet."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wardround.row_counts import CONFIDENCE_BINS, INPUT_BINS, input_counts
from wardround.watch.calibration import HEALTHY_ROUNDS, HIGHEST, MARGIN, Calibration
from wardround.watch.detectors.confidence import Confidence, monotone
from wardround.watch.detectors.duration import Duration
from wardround.watch.detectors.first_loss import FirstLoss
from wardround.watch.detectors.global_loss import DEFAULT, GlobalLoss
from wardround.watch.detectors.inputs import Inputs
from wardround.watch.detectors.own_past import OwnPast
from wardround.watch.detectors.seen import Sign
from wardround.watch.model_findings import finding
from wardround.watch.model_watch import EdgeSeen, ModelWatch, RoundSeen, detectors

EDGES = [f"edge-{i:02}" for i in range(12)]
FEATURES = ["rate", "rmssd", "spo2"]


def rows(rng, edge, n=64):
    """Rows of three features on the study's scale; every edge has its own mean and spread."""
    own = np.random.default_rng(EDGES.index(edge))
    return 0.5 * own.normal(size=3) + np.exp(0.2 * own.normal(size=3)) * rng.normal(size=(n, 3))


def sure(rng, n=200, hard=0.0):
    """Counts by confidence of a calibrated model; `hard`: cases nearer to a coin's throw."""
    confidence = np.clip(0.5 + (1 - hard) * 0.5 * rng.beta(3, 1.5, n), 0.5, 0.999)
    right = rng.random(n) < confidence
    place = (confidence * CONFIDENCE_BINS).astype(int)
    all_ = np.bincount(place, minlength=CONFIDENCE_BINS)
    return np.stack([all_, all_, np.bincount(place, right, CONFIDENCE_BINS)], axis=1)


def a_round(rng, number, **fault):
    """A healthy round, or one with a fault: alter(rng, edge) -> facts of EdgeSeen; of the round: step_norm, edges."""
    edges = {}
    for edge in EDGES[: fault.get("edges", len(EDGES))]:
        if rng.random() < 0.1:
            continue
        facts = {
            "examples": 100,
            "loss": 0.5 + 0.5 * np.exp(-number / 8) + 0.03 * rng.normal(),
            "seconds": float(np.exp(1 + 0.15 * rng.normal())),
            "trained_s": float(np.exp(0.5 + 0.1 * rng.normal())),
            "inputs": input_counts(rows(rng, edge), np.zeros(3), np.ones(3)),
            "confidence": sure(rng),
        }
        edges[edge] = EdgeSeen(**(facts | fault.get("alter", lambda _rng, _edge: {})(rng, edge)))
    norm = fault.get("step_norm", 0.2) * np.exp(0.1 * rng.normal())
    return RoundSeen(number=number, edges=edges, asked=len(EDGES), step_norm=float(norm))


@pytest.fixture(scope="module")
def healthy():
    """The state of a watch after 110 healthy rounds, in which it said nothing."""
    watch, rng = ModelWatch("a", features=FEATURES), np.random.default_rng(0)
    assert [d for number in range(110) for d in watch.round(a_round(rng, number))] == []
    assert watch.calibration().calibrated
    return watch.state()


def after(healthy, rounds=12, **fault):
    """What a watch says in the rounds of a fault: new deviations by (kind, edge)."""
    watch, rng = ModelWatch("a", features=FEATURES), np.random.default_rng(1)
    assert watch.restore(healthy)
    found = [d for number in range(110, 110 + rounds) for d in watch.round(a_round(rng, number, **fault))]
    return {(d.kind, d.edge): d for d in reversed(found) if d.state == "new"}


def only(edge, facts):
    return lambda rng, here: facts(rng) if here == edge else {}


def with_feature(edge, change):
    """The rows of one edge with a change of their second feature."""

    def alter(rng, here):
        if here != edge:
            return {}
        x = rows(rng, edge)
        x[:, 1] = change(x[:, 1])
        return {"inputs": input_counts(x, np.zeros(3), np.ones(3))}

    return alter


def test_a_feature_that_has_died_is_named_in_a_round(healthy):
    found = after(healthy, rounds=3, alter=with_feature("edge-04", lambda x: np.full_like(x, 0.3)))
    dead = found["input-dead", "edge-04"]
    assert dead.round_number <= 111
    assert dead.parts[0][0] == "rmssd"
    assert {edge for _, edge in found} == {"edge-04"}


def test_a_wrong_unit_and_missing_values_are_drift_of_that_feature(healthy):
    for change in (lambda x: 1.8 * x + 3.2, lambda x: np.where(np.arange(len(x)) % 2, x, np.nan)):
        found = after(healthy, rounds=4, alter=with_feature("edge-04", change))
        assert found["input-drift", "edge-04"].parts[0][0] == "rmssd"
        assert {edge for _, edge in found} == {"edge-04"}


def test_a_slow_edge_is_named_and_its_training_told_apart(healthy):
    found = after(healthy, alter=only("edge-02", lambda rng: {"seconds": float(np.exp(1 + 0.15 * rng.normal())) * 2.5}))
    assert set(found) == {("edge-slow", "edge-02")}
    slow = found["edge-slow", "edge-02"]
    assert slow.value > 1.7 * slow.usual
    assert dict(slow.parts)["training"] == pytest.approx(dict(slow.parts)["training usually"], rel=0.5)


def test_an_edge_that_is_a_little_slower_in_every_round_is_named_too():
    for slower in (1.0, 2.5):
        detector, rng, scores = Duration(), np.random.default_rng(0), []
        for number in range(120):
            factor = slower if number >= 100 else 1.0
            seen = RoundSeen(number=number, edges={"a": EdgeSeen(seconds=float(factor * np.exp(0.28 * rng.normal())))})
            scores += [s.score for s in detector.score(seen)["duration"].values() if number >= 100]
            detector.learn(seen, {"a"} if number >= 100 else set())
        limit = detector.signs["duration"].default
        spoke = float(np.mean(np.array(scores) > limit))
        assert spoke > 0.5 if slower > 1 else spoke == 0.0


def test_a_larger_step_of_the_hub_is_the_study_s(healthy):
    found = after(healthy, rounds=3, step_norm=2.4)
    assert set(found) == {("model-diverged", "")}
    assert found["model-diverged", ""].sign == "step"


def test_a_loss_that_rises_everywhere_is_the_model_s_and_the_federation_s(healthy):
    found = after(healthy, rounds=8, alter=lambda rng, _edge: {"loss": 0.9 + 0.03 * rng.normal()})
    assert ("model-diverged", "") in found
    assert ("federation-shift", "") in found


def test_half_of_the_edges_missing_is_low_participation(healthy):
    found = after(healthy, edges=6)
    assert set(found) == {("participation-low", "")}


def test_fewer_edges_make_longer_steps_and_no_divergence_but_a_hub_that_oversteps_is_one_all_the_same(healthy):
    fewer = math.sqrt((1 / 6 - 0.95 / 12) / (1 / 11 - 0.95 / 12))
    assert fewer > 2
    found = after(healthy, edges=6, step_norm=0.2 * fewer)
    assert set(found) == {("participation-low", "")}
    assert ("model-diverged", "") in after(healthy, edges=6, step_norm=2.4)
    assert ("model-diverged", "") in after(healthy, step_norm=0.2 * fewer)  # of as many edges as always it is one


def test_a_loss_that_has_come_down_again_shows_nothing_two_rounds_later():
    watch, rng = GlobalLoss(), np.random.default_rng(0)
    for number in range(80):
        watch.learn(a_round(rng, number), ())
    scores = {}
    for number in range(80, 100):
        higher = {"alter": lambda rng, _: {"loss": 0.9 + 0.03 * rng.normal()}} if number < 90 else {}
        scores[number] = watch.score(a_round(rng, number, **higher))["global-loss"][""].score
    assert all(scores[n] > DEFAULT for n in range(82, 91))
    assert all(scores[n] < DEFAULT for n in range(92, 100))


def from_the_start(rng, number, swapped=(), away=()):
    """A study that begins untrained; at edges of `swapped` the loss rises as it falls elsewhere, `away` are not in round 1."""
    learned = 1 - np.exp(-number / 4)
    edges = {
        e: EdgeSeen(examples=100, loss=0.7 + learned * (0.3 if e in swapped else -0.01 * i) + 0.04 * rng.normal())
        for i, e in enumerate(EDGES)
        if number > 1 or e not in away
    }
    return RoundSeen(number=number, edges=edges, asked=len(EDGES))


def named_by_first_loss(rounds, **fault):
    watch, rng = FirstLoss(), np.random.default_rng(0)
    found = set()
    for number in rounds:
        found |= {e for e, s in watch.score(from_the_start(rng, number, **fault))["first-loss"].items() if s.score > 1}
        again = FirstLoss()
        again.restore(watch.state())
        watch = again
    return found


def test_an_edge_that_is_worse_than_untrained_while_others_become_better_is_named_also_if_it_joins_late():
    swapped = ("edge-03", "edge-07")
    assert named_by_first_loss(range(1, 30), swapped=swapped, away=("edge-07",)) == set(swapped)
    assert named_by_first_loss(range(1, 60)) == set()


def test_where_nobody_has_learned_or_the_first_round_was_not_watched_nothing_is_said_of_it():
    assert named_by_first_loss(range(1, 30), swapped=EDGES) == set()
    assert named_by_first_loss(range(2, 30), swapped=("edge-03",)) == set()


def test_an_alert_of_an_edge_that_is_worse_than_untrained_says_so():
    watch, rng = ModelWatch("a"), np.random.default_rng(0)
    rounds = [watch.round(from_the_start(rng, number, swapped=("edge-03",))) for number in range(1, 20)]
    (first,) = [d for deviations in rounds for d in deviations if d.state == "new"]
    assert (first.kind, first.edge, first.sign) == ("edge-loss", "edge-03", "first-loss")
    said = finding("s", first, 0)
    assert said.title == "The model fits edge-03 worse than one that has learned nothing"
    assert "labels" in said.causes[0]


def test_harder_cases_lower_the_confidence_and_a_changed_concept_does_not(healthy):
    found = after(healthy, alter=only("edge-01", lambda rng: {"confidence": sure(rng, hard=0.5)}))
    assert set(found) == {("confidence-low", "edge-01")}

    def wrong(rng):
        counts = sure(rng)
        counts[:, 2] = 0  # as sure as ever, and never right
        return {"confidence": counts}

    assert ("confidence-low", "edge-01") not in after(healthy, alter=only("edge-01", wrong))


def test_the_estimated_accuracy_is_near_the_real_one():
    detector, rng = Confidence(), np.random.default_rng(5)
    seen = [RoundSeen(number=n, edges={"a": EdgeSeen(examples=1, confidence=sure(rng, 2_000))}) for n in range(50)]
    for one in seen:
        detector.score(one)
        detector.learn(one, ())
    hard = sure(rng, 5_000, hard=0.6)
    scored = detector.score(RoundSeen(number=51, edges={"a": EdgeSeen(examples=1, confidence=hard)}))["confidence"]["a"]
    assert scored.value == pytest.approx(hard[:, 2].sum() / hard[:, 0].sum(), abs=0.03)
    assert scored.usual > scored.value + 0.1


def test_counts_that_cannot_be_are_not_judged():
    detector = Inputs(FEATURES)
    for bad in (np.full((3, INPUT_BINS), np.nan), -np.ones((3, INPUT_BINS)), np.ones((3, 2)), np.zeros((3, INPUT_BINS))):
        seen = RoundSeen(number=1, edges={"a": EdgeSeen(inputs=bad)})
        for _ in range(30):
            assert not detector.score(seen)["inputs"]
            detector.learn(seen, ())
    more = np.ones((3, CONFIDENCE_BINS)), np.ones((CONFIDENCE_BINS, 3)) * [1, 2, 3]
    for bad in more:
        assert not Confidence().score(RoundSeen(number=1, edges={"a": EdgeSeen(confidence=bad)}))["confidence"]


def test_a_report_of_other_features_begins_anew():
    detector, rng = Inputs(), np.random.default_rng(0)
    for n in range(40):
        features = 3 if n < 20 else 5
        counts = input_counts(rng.normal(size=(64, features)), np.zeros(features), np.ones(features))
        seen = RoundSeen(number=n, edges={"a": EdgeSeen(inputs=counts)})
        scored = detector.score(seen)["inputs"]
        assert bool(scored) == (10 <= n < 20 or n >= 30)
        assert all(s.score < 1 for s in scored.values())
        detector.learn(seen, ())


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20))
def test_pooling_is_monotone_and_keeps_the_total(pairs):
    right, n = (np.array(x, float) for x in zip(*[(min(a, b), max(a, b)) for a, b in pairs], strict=True))
    shares = monotone(right, n)
    assert shares.shape == right.shape
    assert (np.diff(shares) >= -1e-12).all()
    assert float(shares @ n) == pytest.approx(right.sum())


@example([1e308, -1.79e308] * 12)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=80))
def test_a_past_survives_any_number_and_its_own_state(values):
    past = OwnPast(sd_min=0.1)
    for value in values:
        judged = past.z("a", value)
        assert judged is None or abs(judged[0]) <= 15
        past.learn("a", value)
    copy = OwnPast(sd_min=0.1)
    copy.load(msgspec.msgpack.decode(msgspec.msgpack.encode(past.save()), type=type(past).Kept))
    judged = past.z("a", 1.0)
    assert copy.z("a", 1.0) == judged
    assert judged is None or all(map(math.isfinite, judged))


ANY = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(EDGES), st.tuples(ANY, ANY, ANY), max_size=4), max_size=60))
def test_no_detector_breaks_at_what_an_edge_claims_and_a_restored_one_goes_on_alike(played):
    seen = [
        RoundSeen(number=n, edges={e: EdgeSeen(examples=n, loss=a, seconds=b, trained_s=c) for e, (a, b, c) in edges.items()})
        for n, edges in enumerate(played)
    ]
    for one, two in zip(detectors(), detectors(), strict=True):
        for now in seen:
            first, second = one.score(now), two.score(now)
            assert first == second
            assert all(np.isfinite(s.score) for each in first.values() for s in each.values())
            one.learn(now, ["edge-01"])
            two.learn(now, ["edge-01"])
            state = two.state()
            two.restore(state)
            assert two.state() == state


def test_a_threshold_is_the_healthy_maximum_with_its_margin_and_never_under_the_default():
    signs = {"low": Sign("a", 5.0, ""), "high": Sign("b", 5.0, ""), "wild": Sign("c", 5.0, "")}
    calibration, rng = Calibration("x", signs), np.random.default_rng(0)
    for _ in range(HEALTHY_ROUNDS):
        assert calibration.threshold("high") == 5.0
        calibration.healthy({"low": 1 + 0.1 * rng.random(), "high": 5 + 0.1 * rng.random(), "wild": 5 * rng.pareto(1)})
    report = calibration.report()
    by = {t.sign: t for t in report.thresholds}
    assert by["low"].value == 5.0
    assert by["high"].value == pytest.approx(MARGIN * by["high"].highest)
    assert by["wild"].value == HIGHEST * 5.0
    assert by["wild"].per_1000 > report.budget_per_1000
    assert "over its budget" in report.words
    calibration.again()
    assert calibration.report().rounds == 0


def test_a_budget_that_is_smaller_moves_thresholds_up():
    signs, found = {"one": Sign("a", 1.0, "")}, []
    for budget in (2.0, 0.01):
        calibration, rng = Calibration("x", signs, budget_per_1000=budget), np.random.default_rng(0)
        for _ in range(HEALTHY_ROUNDS):
            calibration.healthy({"one": 0.8 + 0.1 * rng.exponential()})
        found.append(calibration.report())
    assert found[0].thresholds[0].value < found[1].thresholds[0].value
    assert found[1].per_1000 <= 0.0101


def test_rounds_with_something_open_are_not_healthy():
    watch, rng = ModelWatch("a", features=FEATURES), np.random.default_rng(0)
    for number in range(60):
        seen = a_round(rng, number)
        watch.round(RoundSeen(number=number, edges=seen.edges, asked=12, step_norm=seen.step_norm, healthy=number < 40))
    assert watch.calibration().rounds == 40 - 10  # the first ten are judged by nothing yet
    watch.calibrate_again()
    assert watch.calibration().rounds == 0
