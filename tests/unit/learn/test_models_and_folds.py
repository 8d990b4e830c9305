"""Models as files, federated sums, FedAvg and scores, each against its definition or a library."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as safetensors_load
from sklearn import metrics as sklearn_metrics

from wardround.errors import UpdateRefused
from wardround.learn.models import ModelFile, decode_model, digest, encode_model
from wardround.learn.scaling import balanced_weights, check_sums, feature_sums, fold_sums, mean_std, with_scaling
from wardround.learn.scores import METRICS, by_group, gap_closed, worst
from wardround.records import Examples


def model(seed=0, n=7):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(n, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32), "n": np.arange(4)}


# -- files


def test_a_model_has_one_byte_form_that_others_can_read():
    parameters = model()
    data = encode_model(parameters)
    assert data == encode_model(dict(reversed(parameters.items())))
    for decoded in (decode_model(data), safetensors_load(data)):
        assert set(decoded) == set(parameters)
        for name, tensor in parameters.items():
            np.testing.assert_array_equal(decoded[name], tensor)
            assert decoded[name].dtype == tensor.dtype
    assert len(digest(data)) == 64


def test_a_file_is_read_block_by_block(tmp_path):
    parameters = model(n=1_000)
    (tmp_path / "m").write_bytes(encode_model(parameters))
    with ModelFile(tmp_path / "m") as file:
        assert file.shapes()["w"] == (1_000, 3)
        np.testing.assert_array_equal(file.block("w", 10, 25), parameters["w"].reshape(-1)[10:25])


def header(**entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


BROKEN = {
    "empty": b"",
    "a header that claims too much": (2**40).to_bytes(8, "little") + b"{}",
    "a header that is no JSON": (4).to_bytes(8, "little") + b"abcd",
    "overlapping tensors": header(
        a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    )
    + b"1234",
    "a hole": header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}) + b"12345678",
    "a shape that does not fit": header(a={"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}) + b"1234",
    "a negative shape": header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"1234",
    "an unknown dtype": header(a={"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}) + b"1234",
    "bytes at the end": encode_model(model()) + b"x",
    "cut short": encode_model(model())[:-1],
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_model_is_refused(data, tmp_path):
    with pytest.raises(UpdateRefused) as refused:
        decode_model(data)
    assert refused.value.reason == "malformed"
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(UpdateRefused):
        ModelFile(tmp_path / "m")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_no_single_byte_makes_it_fail_in_another_way(position, value):
    data = bytearray(encode_model(model()))
    data[position % len(data)] = value
    with contextlib.suppress(UpdateRefused):
        decode_model(bytes(data))


# -- federated sums


def examples(seed, n=50, subject="s"):
    rng = np.random.default_rng(seed)
    return Examples(
        features=(rng.normal(size=(n, 4)) * [1, 10, 100, 0.1] + [5, 0, -50, 3]).astype(np.float32),
        labels=rng.integers(-1, 3, n).astype(np.int32),
        subjects=np.full(n, subject),
        t_us=np.arange(n),
        feature_names=("a", "b", "c", "d"),
    )


def test_federated_sums_scale_as_pooled_data_would():
    parts = [examples(seed, n) for seed, n in ((1, 30), (2, 500), (3, 7))]
    sums = fold_sums(feature_sums(part, 3) for part in parts)
    pooled = np.concatenate([p.features for p in parts]).astype(np.float64)
    mean, std = mean_std(sums)
    np.testing.assert_allclose(mean, pooled.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, pooled.std(axis=0), rtol=1e-4)
    labels = np.concatenate([p.labels for p in parts])
    np.testing.assert_array_equal(sums["classes"], [(labels == c).sum() for c in range(3)])


def test_broken_values_and_constant_features_do_no_harm():
    part = examples(1)
    part.features[0, 0], part.features[1, 1], part.features[:, 3] = np.nan, np.inf, 7.0
    sums = feature_sums(part, 3)
    check_sums(sums, 4, 3)
    mean, std = mean_std(sums)
    assert np.isfinite(mean).all()
    assert std[3] == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("sum"), "shape"),
        (lambda s: s.update(sum=s["sum"].astype(np.float32)), "shape"),
        (lambda s: s.update(sum=np.full(4, np.nan)), "non-finite"),
        (lambda s: s.update(count=-s["count"]), "impossible"),
        (lambda s: s.update(sum=s["sum"] * 1e6), "impossible"),
        (lambda s: s.update(extra=np.zeros(1)), "shape"),
    ],
)
def test_sums_that_cannot_be_are_refused(change, reason):
    sums = feature_sums(examples(1), 3)
    change(sums)
    with pytest.raises(UpdateRefused) as refused:
        check_sums(sums, 4, 3)
    assert refused.value.reason == reason


def test_balanced_weights_let_classes_count_alike():
    classes = np.array([90.0, 10.0, 0.0])
    weights = balanced_weights(classes)
    assert weights[0] * 90 == pytest.approx(weights[1] * 10)
    assert (weights * classes).sum() == pytest.approx(100)
    scaled = with_scaling(model(), feature_sums(examples(1), 3), class_weighting="balanced")
    assert {"scale.mean", "scale.std", "scale.class_weights"} < set(scaled)


# -- scores, against scikit-learn


@pytest.mark.parametrize("seed", range(5))
def test_scores_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    p = np.round(np.clip(labels * 0.3 + rng.random(300) * 0.7, 0, 1), 2)  # with ties
    probabilities = np.stack([1 - p, p], axis=1).astype(np.float64)
    assert METRICS["average-precision"](labels, probabilities) == pytest.approx(
        sklearn_metrics.average_precision_score(labels, p), abs=1e-9
    )
    assert METRICS["auroc"](labels, probabilities) == pytest.approx(sklearn_metrics.roc_auc_score(labels, p), abs=1e-9)
    guess = probabilities.argmax(axis=1)
    assert METRICS["accuracy"](labels, probabilities) == pytest.approx(sklearn_metrics.accuracy_score(labels, guess))
    assert METRICS["macro-f1"](labels, probabilities) == pytest.approx(sklearn_metrics.f1_score(labels, guess, average="macro"))


def test_a_score_that_is_not_defined_is_no_number():
    one_class = np.ones(5, np.int32)
    probabilities = np.tile([0.4, 0.6], (5, 1))
    assert np.isnan(METRICS["auroc"](one_class, probabilities))
    groups = np.array(["a", "a", "b", "b", "b"])
    assert by_group("auroc", one_class, probabilities, groups) == {}
    assert worst({}) is None
    assert worst({"a": 0.9, "b": 0.4}) == ("b", 0.4)
    assert gap_closed(0.6, 0.8, 1.0) == pytest.approx(0.5)
    assert np.isnan(gap_closed(0.9, 0.9, 0.9))
