"""What a round picks at an edge: examples of subjects who allow it now, whichever process wrote down that they do."""

from __future__ import annotations

import numpy as np
import pytest
from tests.motion import recording

from wardround.learn.survey import SurveyedSignal, SurveySettings
from wardround.process.transforms import TASKS
from wardround.process.transforms.activity import ACCELERATION
from wardround.records import Consent, Purpose
from wardround.training_data import examples_of, local_store, values_of
from wardround.trust.at_rest import turn_on
from wardround.trust.consent import ConsentRegister


@pytest.fixture
def home(tmp_path):
    for number, subject in enumerate(("anna", "berta", "clara")):
        local_store(str(tmp_path)).keep(list(recording(subject, "icu-a", number)))
    return str(tmp_path)


def test_an_encrypted_home_trains_on_what_a_plain_one_does(home, register, tmp_path, tmp_path_factory):
    sealed = tmp_path_factory.mktemp("sealed")
    turn_on(sealed, f"file:{tmp_path_factory.mktemp('elsewhere')}/kek")
    others = ConsentRegister(sealed / "consent.sqlite")
    rows = local_store(home).read(TASKS["activity"].signals)
    local_store(str(sealed)).keep(rows)
    for place in (register, others):
        place.set("anna", "*", Consent.RAW)
    plain, opened = examples_of(home, "activity"), examples_of(str(sealed), "activity")
    assert len(plain) > 0
    assert np.array_equal(plain.features, opened.features)
    assert rows[0].values not in b"".join(p.read_bytes() for p in (sealed / "local").iterdir())
    assert rows[0].values in b"".join(p.read_bytes() for p in (tmp_path / "local").iterdir())  # the control
    others.close()


@pytest.fixture
def register(tmp_path):
    made = ConsentRegister(tmp_path / "consent.sqlite")
    yield made
    made.close()


def test_only_subjects_who_allow_training_now_are_picked(home, register):
    register.set("anna", "*", Consent.RAW)
    register.set("berta", "*", Consent.LOCAL)
    register.set("clara", "*", Consent.RAW, Purpose.CARE)
    assert set(examples_of(home, "activity").subjects) == {"anna", "berta"}
    register.set("anna", "*", Consent.NONE, Purpose.TRAINING)
    assert set(examples_of(home, "activity").subjects) == {"berta"}  # at once, though features are fresh
    register.set("anna", "*", Consent.RAW, Purpose.TRAINING)
    assert set(examples_of(home, "activity").subjects) == {"anna", "berta"}


def test_a_survey_sees_only_subjects_who_allow_research(home, register):
    register.set("anna", "*", Consent.LOCAL)
    register.set("berta", "*", Consent.LOCAL, Purpose.TRAINING)
    code = ACCELERATION[0]
    survey = SurveySettings(signals=[SurveyedSignal(code, -100.0, 100.0)], bins=4, last_days=0.0, subjects_min=1)
    assert set(values_of(home, survey)[code]) == {"anna"}
