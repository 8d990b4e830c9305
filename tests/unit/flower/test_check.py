"""Triage of Flower replies: what Flower's own strategies would have folded is refused, each with its reason."""

from __future__ import annotations

import io

import numpy as np
import pytest

from wardround.errors import UpdateRefused
from wardround.flower.check import check_reply, far_off
from wardround.flower.parcel import ARRAYS, METRICS, ArrayPart, Record
from wardround.learn.study import TriageSettings

SETTINGS = TriageSettings(examples_max=1_000)


def array(value, name="0", *, legacy=False, **changed):
    value = np.asarray(value)
    out = io.BytesIO()
    np.save(out, value, allow_pickle=False)
    facts = {"dtype": "" if legacy else str(value.dtype), "shape": () if legacy else value.shape, "stype": "numpy.ndarray"}
    return ArrayPart(name, **({**facts, "data": out.getvalue()} | changed))


def arrays(*parts, name="arrays"):
    return Record(name, ARRAYS, parts)


def metrics(**values):
    return Record("metrics", METRICS, values={k.replace("_", "-"): v for k, v in values.items()})


SENT = [arrays(array(np.zeros((4, 3), np.float32)))]
ONES = np.ones((4, 3), np.float32)


def check(*reply, sent=SENT, train=True, same_shapes=True):
    return check_reply(reply, sent, train=train, same_shapes=same_shapes, settings=SETTINGS)


def test_a_good_reply_says_its_examples_and_how_far_it_went():
    found = check(arrays(array(ONES)), metrics(num_examples=60, loss=0.5))
    assert (found.examples, found.norm) == (60, pytest.approx(np.sqrt(12)))
    assert found.metrics == {"num-examples": 60.0, "loss": 0.5}


def test_the_older_interface_names_its_records_in_another_way():
    sent = [Record("fitins.parameters", ARRAYS, (array(np.zeros(3, np.float32), legacy=True),))]
    reply = Record("fitres.parameters", ARRAYS, (array(np.ones(3, np.float32), legacy=True),))
    examples = Record("fitres.num_examples", METRICS, values={"num_examples": 7})
    assert check(reply, examples, sent=sent).examples == 7


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ([arrays(array(ONES * np.nan))], "not-finite"),
        ([arrays(array(ONES * np.inf))], "not-finite"),
        ([arrays(array(ONES[:1]))], "shape"),  # NumPy would broadcast it
        ([arrays(array(ONES, "w"))], "names"),
        ([arrays(array(ONES), array(ONES, "1"))], "names"),
        ([arrays(array(ONES, dtype="float64"))], "shape"),  # said to be another array than it is
        ([arrays(array(ONES, stype="torch.pickle"))], "array-type"),
        ([arrays(array(ONES, data=b"not npy"))], "malformed"),
        ([arrays(array(ONES, data=array(ONES).data[:-4]))], "malformed"),
        ([arrays(array(np.array(["a", "b"])))], "dtype"),
        ([arrays(array(ONES)), metrics(num_examples=-9)], "examples"),
        ([arrays(array(ONES)), metrics(num_examples=0)], "examples"),
        ([arrays(array(ONES)), metrics(num_examples=10**9)], "examples"),
        ([arrays(array(ONES)), metrics(num_examples=float("nan"))], "examples"),
        ([arrays(array(ONES)), metrics(loss=float("nan"))], "not-finite"),
    ],
)
def test_what_would_spoil_the_model_is_refused(reply, reason):
    with pytest.raises(UpdateRefused) as caught:
        check(*reply)
    assert caught.value.reason == reason


def test_an_object_array_is_never_unpickled():
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UpdateRefused, match="numbers are asked for"):
        check(arrays(array(ONES, data=out.getvalue())))


PAST = {"a": (1.0, 1.2, 0.9), "b": (1.0, 1.0, 1.0), "c": (1.0, 1.0, 1.0)}


def test_a_norm_far_from_its_own_past_and_from_its_round_is_named():
    assert list(far_off({"a": 100.0, "b": 1.0, "c": 1.1}, PAST, SETTINGS)) == ["a"]
    assert "this edge's usual is 1" in far_off({"a": 100.0, "b": 1.0, "c": 1.1}, PAST, SETTINGS)["a"]


def test_a_second_model_is_no_fault_of_the_edges():
    assert far_off({"a": 100.0, "b": 110.0, "c": 90.0}, PAST, SETTINGS) == {}


def test_an_edge_without_a_past_is_not_judged_by_its_norm():
    assert far_off({"d": 100.0, "b": 1.0, "c": 1.1}, PAST, SETTINGS) == {}


def test_counters_and_their_mean_answer_to_each_other():
    assert check(arrays(array(ONES.astype(np.int64)))).norm == pytest.approx(np.sqrt(12))
    assert check(arrays(array(ONES)), sent=[arrays(array(np.zeros((4, 3), np.int64)))]).norm == pytest.approx(np.sqrt(12))


def test_float64_answers_to_float32_and_the_other_way_round():
    assert check(arrays(array(ONES.astype(np.float64)))).norm == pytest.approx(np.sqrt(12))


def test_trees_may_have_any_shape_where_the_run_says_so():
    trees = array(np.frombuffer(b"a tree's bytes", np.uint8))
    with pytest.raises(UpdateRefused):
        check(arrays(trees), sent=[arrays(array(np.zeros(0, np.uint8)))])
    assert check(arrays(trees), sent=[arrays(array(np.zeros(0, np.uint8)))], same_shapes=False).norm == 0.0


def test_an_evaluation_may_find_that_the_loss_is_infinite():
    assert check(metrics(num_examples=5, loss=float("inf")), train=False).examples == 5


def test_column_major_arrays_are_read_as_they_are():
    assert check(arrays(array(np.asfortranarray(ONES)))).norm == pytest.approx(np.sqrt(12))
