"""Federated statistics are those of the pooled data; what cannot be true is refused; nobody stands alone at a tail."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clock import ManualClock
from wardround.collect.signals import load_signals
from wardround.collect.storage import MemoryStorage
from wardround.errors import StudyError, UpdateRefused
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.coordinator import SETTLE_S, Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Order, Upload
from wardround.learn.models import decode_model, encode_model
from wardround.learn.scaling import fold_sums
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.learn.study_checks import check
from wardround.learn.survey import (
    QUANTILES,
    SurveyedSignal,
    SurveySettings,
    check_summary,
    decode_survey,
    encode_survey,
    results,
    summarise,
)
from wardround.process.transforms import TASKS
from wardround.records import EdgeId
from wardround.simulation.toy import signed
from wardround.studies import survey_settings
from wardround.watch.detectors.own_history import OwnHistory

HEART = SurveyedSignal("loinc:8867-4", 20.0, 300.0)
SETTINGS = SurveySettings(signals=[HEART], bins=40, last_days=0.0, subjects_min=2)
STUDY = """
name = "resting-heart-rate"
kind = "statistics"
[statistics]
signals = ["heart-rate"]
subjects_min = 2
[rounds]
edges_min = 3
"""


def ward(seed, subjects=4, n=200):
    rng = np.random.default_rng(seed)
    return {f"p{seed}-{k}": rng.normal(60 + 8 * k, 6, n) for k in range(subjects)}


def test_the_result_is_that_of_the_pooled_data():
    wards = [ward(seed) for seed in range(5)]
    total = fold_sums(summarise({HEART.code: w}, SETTINGS)[0] for w in wards)
    [found] = results(total, SETTINGS)
    pooled = np.concatenate([v for w in wards for v in w.values()])
    assert (found.count, found.subjects) == (len(pooled), 20)
    assert found.mean == pytest.approx(pooled.mean(), rel=1e-12)
    assert found.std == pytest.approx(pooled.std(), rel=1e-9)
    for share, value in zip(QUANTILES, found.quantiles, strict=True):
        assert abs(value - np.quantile(pooled, share)) <= found.width
    assert sum(found.histogram) + found.below + found.above == found.count


@given(st.permutations(range(4)))
def test_the_order_of_edges_makes_no_difference(order):
    parts = [summarise({HEART.code: ward(seed, n=20)}, SETTINGS)[0] for seed in range(4)]
    one, other = fold_sums(parts), fold_sums(parts[i] for i in order)
    assert (one["counts"] == other["counts"]).all()
    assert one["sum"] == pytest.approx(other["sum"])


def test_an_edge_with_too_few_subjects_does_not_answer():
    tensors, count = summarise({HEART.code: ward(1, subjects=1)}, SETTINGS)
    assert count == 0
    assert not any(t.any() for t in tensors.values())
    assert results(tensors, SETTINGS) == [None]


def test_nobody_stands_alone_at_a_tail():
    own = {"a": np.full(50, 70.0), "b": np.full(50, 71.0), "c": np.append(np.full(50, 70.5), [250.0, 21.0, 400.0])}
    tensors, count = summarise({HEART.code: own}, SETTINGS)
    counts = tensors["counts"][0]
    assert count == 153  # each still counts
    assert np.count_nonzero(counts) == 1  # in the bin where the others are
    check_summary(tensors, SETTINGS)


def good():
    return summarise({HEART.code: ward(1)}, SETTINGS)[0]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: t.pop("sum"), "shape"),
        (lambda t: t.update(more=np.zeros(1)), "shape"),
        (lambda t: t.update(counts=t["counts"][:, :-1]), "shape"),
        (lambda t: t.update(counts=t["counts"].astype(np.float32)), "shape"),
        (lambda t: t["sum"].__setitem__(0, np.nan), "non-finite"),
        (lambda t: t["counts"].__setitem__((0, 5), -1.0), "impossible"),
        (lambda t: t["counts"].__setitem__((0, 5), 0.5), "impossible"),
        (lambda t: t["subjects"].__setitem__(0, 1.0), "impossible"),
        (lambda t: t["subjects"].__setitem__(0, 1e9), "impossible"),
        (lambda t: t["subjects"].__setitem__(0, 0.0), "impossible"),
        (lambda t: t["sum"].__setitem__(0, 1e12), "impossible"),
    ],
)
def test_what_cannot_be_true_is_refused(spoil, reason):
    tensors = good()
    check_summary(tensors, SETTINGS)
    spoil(tensors)
    with pytest.raises(UpdateRefused) as caught:
        check_summary(tensors, SETTINGS)
    assert caught.value.reason == reason


def test_the_study_names_what_is_wrong_with_it():
    signals = load_signals()
    study = parse_study(STUDY, where="test")
    check(study, TASKS, signals=signals.names())
    assert decode_survey(encode_survey(survey_settings(study, signals))).signals == [HEART]
    wrong = parse_study(STUDY.replace("heart-rate", "hart-rate", 2).replace("resting-hart", "resting-heart"), where="test")
    with pytest.raises(StudyError, match="hart-rate") as caught:
        check(wrong, TASKS, signals=signals.names())
    assert "heart-rate" in caught.value.remedy
    with pytest.raises(StudyError, match="empty"):
        check(parse_study('name = "a"\nkind = "statistics"\n', where="t"), TASKS, signals=signals.names())
    with pytest.raises(StudyError, match="task"):
        check(parse_study('name = "a"\n', where="t"), TASKS)
    with pytest.raises(StudyError, match="kind"):
        check(parse_study('name = "a"\nkind = "survey"\n', where="t"), TASKS)


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_a_hub_that_is_killed_counts_every_edge_once(killed_after):
    storage, blobs, clock = MemoryStorage(), MemoryBlobs(), ManualClock()
    orders, events = {}, []

    def hub():
        return Coordinator(
            parse_study(STUDY, where="test"),
            settings=encode_survey(SETTINGS),
            initial=dict,
            shape=(1, 2),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=OwnHistory("test"),
            journal=Journal(storage.connect),
            blobs=blobs,
            clock=clock,
            send=lambda edge, message: orders.update({edge: message}) if isinstance(message, Order) else None,
            on_event=events.append,
            survey=SETTINGS,
        )

    def attach(coordinator):
        for edge in ("a", "b", "c"):
            coordinator.attach(EdgeId(edge))
        coordinator.tick()
        clock.advance(SETTLE_S + 0.1)
        coordinator.tick()

    coordinator = hub()
    attach(coordinator)
    for number, edge in enumerate(("a", "b", "c")):
        if number == killed_after:
            coordinator = hub()
            attach(coordinator)
        tensors, count = summarise({HEART.code: ward(number)}, SETTINGS)
        data, order = encode_model(tensors), orders[edge]
        assert order.task == "survey"
        upload = Upload(order.study, 0, order.task, order.base, len(data), hashlib.sha256(data).hexdigest(), count)
        upload = signed(edge, upload)
        for _ in range(2):  # the receipt was lost: it sends again
            if not coordinator.finished:
                coordinator.begin(EdgeId(edge), upload, 0)
                coordinator.append(EdgeId(edge), upload, 0, data)
                assert coordinator.finish(EdgeId(edge), upload).accepted
    if killed_after == 3:
        coordinator = hub()
    assert coordinator.finished
    [done] = coordinator.committed()
    total = decode_model(coordinator.model(done.model))
    expected = fold_sums(summarise({HEART.code: ward(n)}, SETTINGS)[0] for n in range(3))
    assert (total["counts"] == expected["counts"]).all()
    assert total["sum"] == pytest.approx(expected["sum"])
    assert total["subjects"].tolist() == [12.0]
