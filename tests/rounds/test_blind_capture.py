"""All that a hub receives in a blind study, kept off the wire: what reads a single update in the clear reads nothing there.

Real recordings of motion where WARDROUND_DATA has har_smartphone/, else simulated ones; the product's training, link and masks.
A false alarm of a blind run has a chance below FALSE_ALARM: the bounds are Hoeffding's, which hold for any update.
"""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tests.rounds.programs import World

from motion import recording
from recording_proxy import RecordingProxy
from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name, update_name
from wardround.learn.learners import jax_learner
from wardround.learn.messages import Done
from wardround.learn.models import decode_model
from wardround.learn.privacy.ring import Scale
from wardround.learn.strategies import make_strategy
from wardround.learn.study import TrainingSettings, encode_training, features_digest
from wardround.learn.trainer import Source, Work, Worker
from wardround.process.transforms import TASKS
from wardround.records import Examples, Observation

TASK = TASKS["activity"]
EDGES = ("edge-1", "edge-2", "edge-3")
ROUNDS = 2
CLIP, WEIGHT_MAX = 8.0, 1000
FALSE_ALARM = 1e-9
TESTS = 2 * (len(EDGES) * ROUNDS + 1) + 32 + 1  # correlations by update and over all in two readings, bits, signs
STUDY = f"""\
name = "seen"
task = "activity"
[learner]
hidden = []
epochs = 2
[rounds]
count = {ROUNDS}
edges_min = {len(EDGES)}
deadline_s = 60.0
examples_min = 1
[score]
held_back = 0.0
[privacy]
mode = "{{mode}}"
clip = {CLIP}
weight_max = {WEIGHT_MAX}
"""


# -- what is trained


@cache
def examples_of(edge: str, _task: str) -> Examples:
    """Forty seconds of one subject, or simulated ones."""
    number = EDGES.index(edge)
    root = Path(os.environ.get("WARDROUND_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "har_smartphone"
    files = sorted(root.glob("subject*.parquet"))
    runs = real_recording(files[number], edge) if len(files) >= len(EDGES) else recording(f"p-{number}", edge, number)
    examples = TASK.examples(list(runs))
    return examples.where(examples.labels >= 0)


def real_recording(path: Path, edge: str):
    """The last forty labelled seconds of a subject's first experiment, which have walking and stairs; 50 Hz, in g and rad/s."""
    import pyarrow.parquet as pq

    first = pq.read_table(path, columns=["exp"])["exp"][0].as_py()
    rows = pq.read_table(path, filters=[("exp", "=", first)])
    end = int(np.flatnonzero(rows["label"].to_numpy())[-1]) + 1
    rows = rows[max(0, end - 2_000) : end]
    common = {"subject": path.stem, "device": path.stem, "edge": edge, "t0_us": 1_700_000_000_000_000, "period_us": 20_000.0}
    for code, unit, column, factor, scale in (
        *((f"wr:accel-{axis}", "m/s2", f"a{axis}", 9.80665, 0.003) for axis in "xyz"),
        *((f"wr:gyro-{axis}", "deg/s", f"g{axis}", math.degrees(1), 0.02) for axis in "xyz"),
        ("wr:activity-label", "1", "label", 1.0, 1.0),
    ):
        counts = np.round(rows[column].to_numpy() * factor / scale).astype("<i2")
        at = common["t0_us"]
        yield Observation(**common, code=code, unit=unit, t0_device_us=at, n=len(counts), values=counts.tobytes(), scale=scale)


class Motion:
    """The study as a hub gives it to its edges, trained by their worker."""

    loaded = jax_learner  # imported once, before processes are forked
    shape = (len(TASK.feature_names), len(TASK.classes))
    worker = Worker()

    def settings(self, study):
        return encode_training(
            TrainingSettings(
                task=study.task,
                learner=study.learner,
                score=study.score,
                examples_min=study.rounds.examples_min,
                features=features_digest(TASK.feature_names),
                classes=len(TASK.classes),
                rule=make_strategy(study.strategy, study.learner).rule,
                compression=study.compression,
            )
        )

    def initial(self, study):
        from wardround.learn.learners import make_learner

        return make_learner(study.learner, *self.shape).initial(study.learner.seed)

    def train(self, edge, order, model, kept):
        return self.trained(edge, order.task, order.settings, model, order.round_number, kept)

    def trained(self, edge, task, settings, model, number, kept=b"") -> Done:
        source = Source("tests.rounds.test_blind_capture:examples_of", edge, edge)
        return self.worker.run(Work(source, task, settings, model, number, kept))


motion = Motion()


# -- what was received


class Seen(NamedTuple):
    wire: dict  # by edge: the bytes of all it has sent, over every stream
    words: dict  # by (round, edge): its upload's tensors as uint32; a masked one begins with its weight
    updates: dict  # by (round, edge): the update that is in there, as tensors, trained once more
    examples: dict  # by edge


def play(home: Path, mode: str) -> Seen:
    """Play a study with every edge behind a proxy, and train each update once more from what its edge had."""
    home.mkdir()
    world = World(home, STUDY.format(mode=mode), list(EDGES), train_s=0.0, parts="tests.rounds.test_blind_capture:motion")
    proxies = {edge: RecordingProxy(home / "pki", home / edge, world.port) for edge in EDGES}
    world.doors.update({edge: proxy.port for edge, proxy in proxies.items()})
    with world:
        assert world.wait(world.finished, 150), f"{mode}: stuck after {world.rounds()} rounds"
    wire = {edge: b"\0".join(proxy.sent) for edge, proxy in proxies.items()}
    for proxy in proxies.values():
        proxy.close()
    committed, blobs = world.journal().committed(), FolderBlobs(home / "study")
    settings = motion.settings(world.study)
    seen = Seen(wire, {}, {}, {})
    for before, after in zip([committed[0], *committed], committed, strict=False):
        assert set(after.folded) == set(EDGES)
        model = blobs.read(model_name(before.model))
        for edge in EDGES:
            task = "train" if after.number else "statistics"
            done = motion.trained(edge, task, settings, model, after.number)
            seen.updates[after.number, edge], seen.examples[edge] = decode_model(done.data), done.examples
            if after.number:
                tensors = decode_model(blobs.read(update_name(after.number, edge)))
                for tensor in tensors.values():  # what the hub took is what was on the wire
                    assert tensor.tobytes() in wire[edge]
                seen.words[after.number, edge] = np.concatenate([tensors[n].reshape(-1).view("<u4") for n in sorted(tensors)])
        if after.number:  # and what is trained here is what its edge had: their mean is the step that the model took
            base, made = decode_model(model), decode_model(blobs.read(model_name(after.model)))
            whole = sum(seen.examples.values())
            for name in seen.updates[after.number, EDGES[0]]:
                mean = sum(seen.examples[e] * seen.updates[after.number, e][name].astype(float) for e in EDGES) / whole
                np.testing.assert_allclose(made[name] - base[name], mean, atol=2e-6)
    return seen


# -- who looks for updates in it


def found(wire: bytes, tensors) -> tuple[int, int]:
    """How many pairs of neighbours among the tensors' values are anywhere in the bytes, at whatever place; and of how many.

    Two values are 64 bits or more: by chance one is there with at most len(wire) * pairs / 2^64.
    """
    pairs = {t.reshape(-1)[i : i + 2].tobytes() for t in tensors for i in range(t.size - 1) if np.all(t.reshape(-1)[i : i + 2])}
    size = min(map(len, pairs))
    windows = {wire[at : at + size] for at in range(len(wire))}
    return sum(pair[:size] in windows for pair in pairs), len(pairs)


def ordered(words):
    """The bits of float32 as integers in the order of the floats: one to one, so what is uniform stays so."""
    signed = words.view("<i4").astype(np.int64)
    return np.where(signed >= 0, signed, -(2**31) - signed - 1)


def correlation(signed, truth) -> tuple[float, float]:
    """Of words, read as integers, with what they are said to hold; and Hoeffding's bound on it if the words are uniform."""
    v = truth.astype(float) - truth.mean()
    v /= np.linalg.norm(v)
    u = signed / 2.0**32
    bound = math.sqrt(math.log(2 * TESTS / FALSE_ALARM) / 2)  # of sum(u v), as each u has a range of 1
    spread = float(np.linalg.norm(u - u.mean()))
    return abs(float(u @ v)) / spread, bound / spread


def predictors(words: dict, updates: dict) -> dict[str, tuple[float, float]]:
    """By predictor: how far it is from chance, and how far chance goes. Words and updates are by (round, edge), flat."""
    said: dict[str, tuple[float, float]] = {}
    every, truth = np.concatenate([words[k] for k in words]), np.concatenate([updates[k] for k in words])
    chance = math.sqrt(math.log(2 * TESTS / FALSE_ALARM) / 2 / np.count_nonzero(truth))
    positive = (every >> 31 == 0)[truth != 0]  # the sign of a float, and of an integer
    said["sign"] = abs(float(np.mean(positive == (truth[truth != 0] > 0))) - 0.5), chance
    ones = np.array([np.mean(every >> bit & 1) for bit in range(32)])
    said["bits"] = float(np.abs(ones - 0.5).max()), math.sqrt(math.log(2 * TESTS / FALSE_ALARM) / 2 / every.size)
    for reading, read, target in (
        ("float", ordered, lambda t: ordered(t.astype("<f4").view("<u4"))),
        ("integer", lambda w: w.view("<i4").astype(np.int64), lambda t: t),
    ):
        said[f"{reading}, all"] = correlation(read(every), target(truth))
        for key, own in words.items():
            said[f"{reading}, {key}"] = correlation(read(own), target(updates[key]))
    assert len(said) == TESTS - 31
    return said


def flat(tensors):
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)])


@pytest.mark.timeout(360)
def test_what_reads_every_update_off_the_wire_in_the_clear_reads_none_in_a_blind_study(tmp_path):
    clear, blind = play(tmp_path / "clear", "clear"), play(tmp_path / "blind", "blind")
    trains = [(number, edge) for number in range(1, ROUNDS + 1) for edge in EDGES]

    # Every stream, every place: round 0's statistics, updates as they were trained, and as they are before the masks.
    scale = Scale(len(EDGES), CLIP, WEIGHT_MAX)
    bare = {k: scale.encode([t for _, t in sorted(blind.updates[k].items())], blind.examples[k[1]])[0] for k in trains}
    for edge in EDGES:
        mine = [t for k, tensors in clear.updates.items() if k[1] == edge for t in tensors.values()]
        there, of = found(clear.wire[edge], [t for t in mine if t.dtype == np.float32])
        assert there == of > 1000
        there, of = found(clear.wire[edge], [t for t in mine if t.dtype == np.float64])
        assert there == of > 100
        own = [t for k, tensors in blind.updates.items() if k[1] == edge for t in tensors.values()]
        for kind in (np.float32, np.float64):
            assert found(blind.wire[edge], [t for t in own if t.dtype == kind])[0] == 0
        assert found(blind.wire[edge], [w for k, w in bare.items() if k[1] == edge])[0] == 0

    # The very words of an update: predictors that are right in the clear, or without masks, are as good as a coin.
    known = predictors({k: clear.words[k] for k in trains}, {k: flat(clear.updates[k]) for k in trains})
    assert known["sign"][0] == 0.5
    assert all(value > 0.999 for name, (value, _) in known.items() if name.startswith("float"))
    updates = {k: flat(blind.updates[k]) for k in trains}
    unmasked = predictors({k: bare[k][1:] for k in trains}, updates)  # over all, weights differ: less than 1
    assert all(value > 0.99 for name, (value, _) in unmasked.items() if name.startswith("integer, ("))
    masked = predictors({k: blind.words[k][1:] for k in trains}, updates)
    for control, kind in ((known, "float"), (unmasked, "integer")):
        able = {name for name, (value, _) in control.items() if value > masked[name][1]}
        assert able >= {"bits", "sign", *(name for name in masked if name.startswith(kind))}
    assert not {name: said for name, said in masked.items() if said[0] > said[1]}
