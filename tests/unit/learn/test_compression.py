"""Compressed updates: their loss is bounded, what is left out comes later, and what does not fit is refused."""

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import StudyError, UpdateRefused
from wardround.learn.compression import BLOCK, RESIDUAL, SCALED, Decoded, compress, size_max, unpack
from wardround.learn.models import MemoryTensors, decode_model, encode_model
from wardround.learn.study import CompressionSettings, parse_study
from wardround.learn.study_checks import COMPRESSIONS, check
from wardround.process.transforms import TASKS

LOSSY = [c for c in COMPRESSIONS if c != "none"]


def tensors(seed=0, size=3 * BLOCK + 77):
    rng = np.random.default_rng(seed)
    return {
        "big": (rng.standard_normal(size) * 1e-3).astype(np.float32),
        "w": rng.standard_normal((5, 7)).astype(np.float32),
        "double": rng.standard_normal(3),
        "count": np.array([3, 4], np.int64),
        "none": np.zeros((0, 4), np.float32),
    }


def outcome(work):
    """The reason of a refusal, and what came of the work."""
    try:
        return "", work()
    except UpdateRefused as error:
        return error.reason, None


def decoded(data, base, own):
    if own.zstd:
        packed = data
        data = b"".join(unpack(lambda at, n: packed[at : at + n], size_max(MemoryTensors(base), list(base), own)))
    source = MemoryTensors(decode_model(data))
    read = source if own.update == "none" else Decoded(source, MemoryTensors(base), list(base), own)
    return {n: read.block(n, 0, t.size).reshape(t.shape) for n, t in base.items()}, read


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("form", COMPRESSIONS)
def test_names_shapes_and_dtypes_come_back_and_integers_exactly(form, zstd):
    base, own = tensors(), CompressionSettings(update=form, zstd=zstd)
    found, read = decoded(compress(base, {}, own)[0], base, own)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    assert read.shapes() == {n: t.shape for n, t in base.items()}
    np.testing.assert_array_equal(found["count"], base["count"])
    if form == "none":
        np.testing.assert_array_equal(found["big"], base["big"])


@pytest.mark.parametrize(("form", "of_largest"), [("float16", 2.0**-11), ("int8", 0.5 / 127)])
def test_each_value_is_off_by_at_most_half_a_step_of_its_own_block(form, of_largest):
    base, own = tensors(), CompressionSettings(update=form)
    found, _ = decoded(compress(base, {}, own)[0], base, own)
    for start in range(0, base["big"].size, SCALED):
        part, back = base["big"][start : start + SCALED], found["big"][start : start + SCALED]
        assert np.abs(part - back).max() <= np.abs(part).max() * of_largest * 1.001


def test_top_k_sends_the_largest_and_nothing_else():
    base, own = tensors(), CompressionSettings(update="top-k", top_k_share=0.01)
    data, _ = compress(base, {}, own)
    found, _ = decoded(data, base, own)
    count = round(0.01 * base["big"].size)
    largest = np.argsort(np.abs(base["big"]))[-count:]
    assert set(np.flatnonzero(found["big"])) == set(largest)
    assert len(data) < base["big"].nbytes / 50


@pytest.mark.parametrize("form", LOSSY)
def test_what_was_sent_and_what_is_kept_is_what_was_learned(form):
    own, kept = CompressionSettings(update=form, top_k_share=0.05), {}
    learned, arrived = np.zeros(5_000), np.zeros(5_000)
    for seed in range(40):
        update = {"w": np.random.default_rng(seed).standard_normal(5_000).astype(np.float32)}
        data, kept = compress(update, kept, own)
        learned += update["w"]
        arrived += decoded(data, update, own)[0]["w"]
    np.testing.assert_allclose(arrived + kept[RESIDUAL + "w"], learned, atol=2e-4)


@pytest.mark.parametrize("form", COMPRESSIONS)
def test_a_block_is_the_same_wherever_it_begins(form):
    base, own = tensors(), CompressionSettings(update=form)
    found, read = decoded(compress(base, {}, own)[0], base, own)
    for start, stop in [(0, 1), (1_000, 1_100), (BLOCK - 3, BLOCK + 5), (2 * BLOCK, 3 * BLOCK + 77), (5, 5)]:
        np.testing.assert_array_equal(read.block("big", start, stop), found["big"][start:stop])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", LOSSY)
def test_what_is_not_finite_arrives_as_not_finite(form, value):
    update = {"w": np.ones(3_000, np.float32)}
    update["w"][1_500] = value
    found, _ = decoded(compress(update, {}, CompressionSettings(update=form))[0], update, CompressionSettings(update=form))
    assert not np.isfinite(found["w"]).all()


def test_a_zstd_stream_that_holds_more_than_the_model_is_refused_before_it_fills_the_disk():
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(200_000_000))
    kept = []
    with pytest.raises(UpdateRefused) as refused:
        kept.extend(len(part) for part in unpack(lambda at, n: bomb[at : at + n], 3_000_000))
    assert refused.value.reason == "too-large"
    assert sum(kept) <= 3_000_000


def test_a_zstd_stream_that_asks_for_a_large_window_is_refused():
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True))
    stream = wide.compressobj()
    data = stream.compress(np.random.default_rng(0).bytes(1_000_000)) + stream.flush()
    with pytest.raises(UpdateRefused, match="zstd"):
        list(unpack(lambda at, n: data[at : at + n], 10_000_000))


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(LOSSY), data=st.data())
def test_whatever_the_parts_hold_they_are_decoded_or_refused(form, data):
    base, own = {"w": np.zeros(70_000, np.float32)}, CompressionSettings(update=form, top_k_share=0.0005)
    parts = decode_model(compress({"w": np.arange(70_000, dtype=np.float32)}, {}, own)[0])
    name = data.draw(st.sampled_from(sorted(parts)))
    change = data.draw(st.sampled_from(["bytes", "drop", "shape", "dtype"]))
    if change == "bytes":
        raw = bytearray(parts[name].tobytes())
        for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=8)):
            raw[at] = data.draw(st.integers(0, 255))
        parts[name] = np.frombuffer(bytes(raw), parts[name].dtype)
    elif change == "drop":
        del parts[name]
    elif change == "shape":
        parts[name] = np.concatenate([parts[name], parts[name][:1]])
    else:
        parts[name] = parts[name].astype(np.float64)
    arrived = decode_model(encode_model(parts))
    reason, block = outcome(lambda: Decoded(MemoryTensors(arrived), MemoryTensors(base), ("w",), own).block("w", 0, 70_000))
    assert reason in ("", "names", "shape", "dtype", "malformed")
    if not reason:
        assert change == "bytes"
        assert (block.shape, block.dtype) == ((70_000,), np.float32)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_zstd_stream_are_refused_or_give_few_bytes(data):
    reason, parts = outcome(lambda: list(unpack(lambda at, n: data[at : at + n], 1_000)))
    assert reason in ("", "malformed", "too-large")
    assert sum(map(len, parts or [])) <= 1_000


@pytest.mark.parametrize(
    ("form", "strategy"), [("int8", "scaffold"), ("float16", "feddyn"), ("top-k", "coordinate-median"), ("top-k", "trimmed-mean")]
)
def test_what_cannot_be_combined_is_said_when_the_study_is_checked(form, strategy):
    text = 'name = "s"\ntask = "activity"\n[compression]\nupdate = "{}"\n[strategy]\nname = "{}"\n[learner]\nmomentum = 0.0\n'
    with pytest.raises(StudyError, match=r"compression\.update"):
        check(parse_study(text.format(form, strategy), where="t"), TASKS)
    check(parse_study(text.format("none", strategy), where="t"), TASKS)
    check(parse_study(text.format(form, "fedavg"), where="t"), TASKS)
