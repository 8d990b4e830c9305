"""From an ECG on the edge's disk to an alert: the worker's own function, a trained model, a run of ventricular beats."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from wardround.bedside.live import HeldOnLive
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.demo.patients import ECG_HZ, ECG_MV_PER_COUNT, Beats, simulate_beats, simulate_ecg_mv
from wardround.errors import LearnError
from wardround.learn.held import Held
from wardround.learn.learners import make_learner
from wardround.learn.limits import Limits
from wardround.learn.messages import Release
from wardround.learn.models import encode_model
from wardround.learn.scaling import fold_sums, with_scaling
from wardround.learn.study import LearnerSettings, LocalRule, ScoreSettings, TrainingSettings, encode_training, features_digest
from wardround.learn.trainer import Trainer, Work, Worker
from wardround.process.transforms import TASKS
from wardround.records import Consent, Observation, Purpose
from wardround.training_data import live_of
from wardround.trust.consent import ConsentRegister

TASK, NOW_US = TASKS["ventricular-beats"], 1_700_000_000_000_000
SECONDS = 120


def ecg(beats, seed, subject, t0_us, *, label=False):
    wave = simulate_ecg_mv(np.random.default_rng(seed), beats, SECONDS)
    facts = {"device": f"d-{subject}", "edge": "icu-a", "subject": subject, "t0_device_us": t0_us, "t_edge_us": t0_us}
    counts = np.round(wave / ECG_MV_PER_COUNT).astype("<i2")
    found = [
        Observation(
            code="mdc:131330",
            unit="mV",
            t0_us=t0_us,
            n=len(counts),
            period_us=1e6 / ECG_HZ,
            values=counts.tobytes(),
            scale=ECG_MV_PER_COUNT,
            device_seq=1,
            **facts,
        )
    ]
    if label:
        for i, (at, ectopic) in enumerate(zip(beats.times_s, beats.ectopic, strict=True)):
            t_us = t0_us + round(at * 1e6)
            found.append(
                Observation(code=TASK.label_code, unit="1", value=float(ectopic), device_seq=2 + i, **(facts | {"t0_us": t_us}))
            )
    return found


def with_run(beats, first, length):
    """The same rhythm, with so many ventricular beats in a row, fast."""
    ectopic, wide = np.zeros(len(beats.times_s), bool), np.zeros(len(beats.times_s))
    ectopic[first : first + length] = True
    wide[first : first + length] = 1.0
    intervals = np.diff(beats.times_s, prepend=0.0)
    intervals[first : first + length] *= 0.6
    times = np.cumsum(intervals)
    inside = times < SECONDS - 0.5
    return Beats(times[inside], ectopic[inside], wide[inside])


@pytest.fixture(scope="module")
def release():
    """A small model of ventricular beats, trained on six simulated patients."""
    rows = []
    for seed in range(6):
        rows += ecg(simulate_beats(np.random.default_rng(seed), SECONDS), seed, f"t{seed}", 0, label=True)
    examples = TASK.examples(rows)
    examples = examples.where(examples.labels >= 0)
    own = LearnerSettings(kind="mlp", hidden=(16,), epochs=12, batch=32, learning_rate=0.02)
    learner = make_learner(own, len(TASK.feature_names), 2)
    model = with_scaling(learner.initial(1), fold_sums([learner.statistics(examples)]), class_weighting=own.class_weighting)
    update = learner.train(model, examples, seed=1, round=1).update
    model = {name: tensor + update[name] if name in update else tensor for name, tensor in model.items()}
    settings = TrainingSettings(
        task=TASK.name,
        learner=own,
        score=ScoreSettings(),
        examples_min=1,
        features=features_digest(TASK.feature_names),
        classes=2,
        rule=LocalRule(),
    )
    return Held(Release("beats", 3, "m", "current", encode_training(settings), 1.0), model)


class Holder:
    def __init__(self, held):
        self.held = held

    def studies(self):
        return ("beats",)

    def open(self, study):
        assert study == "beats"
        return self.held


def asked(world, release, patients):
    """The watch has heard what the model says of these patients' last two minutes; `patients`: subject to beats."""
    now_us = world.clock.now_us()
    t0_us = now_us - (SECONDS + 10) * 1_000_000
    local = LocalStore(FolderStorage(world.folder / "local"))
    consents = ConsentRegister(world.folder / "consent.sqlite")
    for number, (subject, beats) in enumerate(patients.items()):
        local.keep(ecg(beats, 50 + number, subject, t0_us))
        consents.set(subject, "*", Consent.LOCAL)
    consents.set("not-for-care", "*", Consent.NONE, purpose=Purpose.CARE)
    consents.close()
    home = str(world.folder)
    live = HeldOnLive("icu-a", home, held=Holder(release), local=local, run=lambda work, _deadline: Worker().run(work))
    world.watch.hear(live.look(now_us))
    local.close()
    return {a.finding.subject: a for a in world.physiological()}


def test_a_run_is_told_and_a_patient_without_one_or_whom_nobody_may_watch_is_not(world, release):
    calm = simulate_beats(np.random.default_rng(31), SECONDS)
    calm = Beats(calm.times_s, np.zeros(len(calm.times_s), bool), np.zeros(len(calm.times_s)))
    run = with_run(simulate_beats(np.random.default_rng(32), SECONDS), 60, 8)
    found = asked(world, release, {"calm": calm, "runs": run, "not-for-care": run})
    assert set(found) == {"runs"}
    alert = found["runs"]
    assert (alert.finding.kind, alert.finding.category, alert.finding.edge) == ("ectopic-run", "physiological", "icu-a")
    assert "% sure" in alert.finding.detail
    began_s = (alert.finding.since_us - (world.clock.now_us() - (SECONDS + 10) * 1_000_000)) / 1e6
    assert began_s == pytest.approx(run.times_s[60], abs=3.0)
    world.clock.advance(700)
    world.watch.hear([])
    assert not world.physiological()[0].open


def test_temperature_makes_it_less_sure_and_a_busy_worker_or_no_new_data_says_nothing(world, release):
    run = with_run(simulate_beats(np.random.default_rng(32), SECONDS), 60, 8)
    softer = Held(
        Release("beats", 3, "m", "current", release.release.settings, 20.0),
        release.parameters,
    )
    assert asked(world, softer, {"runs": run}) == {}
    busy = HeldOnLive("icu-a", str(world.folder), held=Holder(release), local=world.local, run=lambda *_: None)
    assert list(busy.look(world.clock.now_us())) == []
    none = HeldOnLive("icu-a", str(world.folder), held=Holder(release), local=world.local, run=lambda *_: pytest.fail("asked"))
    assert list(none.look(world.clock.now_us() + 10**10)) == []


def test_a_model_of_other_features_is_refused_in_words(world, release):
    settings = msgspec.msgpack.decode(release.release.settings)
    other = msgspec.msgpack.encode(settings | {"features": "0" * 64})
    ask = msgspec.msgpack.encode({"since_us": 0, "temperature": 1.0})
    work = Work(None, "live", other, encode_model(release.parameters), 1, ask)
    with pytest.raises(LearnError, match="features of ventricular-beats are not those here"):
        live_of(str(world.folder), work)


def test_a_worker_that_trains_is_not_waited_for():
    trainer = Trainer(limits=Limits(10**9, 1.0), deadline_s=1.0)
    with trainer._lock:
        assert trainer.run_if_free(Work(None, "live", b"", b"", 1), 1.0) is None
    assert trainer.pid is None
