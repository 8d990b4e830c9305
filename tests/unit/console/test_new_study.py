"""A new study: its text is written, checked and started by whoever may; a model is taken away by whoever may export."""

from __future__ import annotations

import io
import zipfile

import pytest

from wardround.clock import ManualClock
from wardround.console import study_new
from wardround.console.live import FACT_CHARS, LONG_CHARS, facts_of
from wardround.console.looking import Looking
from wardround.errors import NotAllowed, SettingsError, StudyError
from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name
from wardround.learn.learners import make_learner
from wardround.learn.models import decode_model, digest, encode_model
from wardround.learn.study import parse_study
from wardround.model_exports import ModelExports
from wardround.process.transforms import TASKS
from wardround.store import EdgeRecord, ModelRecord, StudyRecord, open_store
from wardround.study_starting import TEXT_MAX, StudyStarting
from wardround.trust.certificates import Authority, key_pem, new_key
from wardround.trust.roles import check_act

ROLES = {"kim": "operator", "vera": "viewer", "dora": "data-officer"}
KIM = Looking("kim", "operator", address=study_new.PATH, params={"task": "activity", "name": "moves"})


class Hub:
    def __init__(self, home):
        self.home, self.store, self.log = home, open_store(home / "hub.sqlite"), []
        for edge in "abc":
            self.store.put_edge(EdgeRecord(edge, 1, "1", 10**17, None))
        rights = {
            "check": lambda who, act: check_act(who, ROLES[who], act),
            "record": lambda *entry, **facts: self.log.append((*entry, facts)),
        }
        self.starting = StudyStarting(self.store, ManualClock(), **rights)
        self.exports = ModelExports(home, self.store, **rights)
        [self.screen] = study_new.screens(self.starting)

    @property
    def text(self):
        return self.starting.draft("activity", "moves")


@pytest.fixture
def hub(tmp_path):
    made = Hub(tmp_path)
    yield made
    made.store.close()


def test_the_text_is_checked_and_then_started_once(hub):
    shown = hub.screen.sections(KIM)["text"]
    assert "name = &quot;moves&quot;" in shown
    asked = hub.screen.acts["ask-start-study"]({"toml": hub.text}, KIM).dialog
    assert "Start moves?" in asked
    assert "3 are joined now" in asked
    assert not hub.store.studies()
    assert hub.log == []

    assert hub.screen.acts["start-study"]({"toml": hub.text}, KIM).go == "/studies/moves"
    [made] = hub.store.studies()
    assert (made.name, made.state, made.toml) == ("moves", "requested", hub.text)
    assert [(kind, what, who, facts["study"]) for kind, what, who, facts in hub.log] == [
        ("change", "study started at the console", "kim", "moves")
    ]
    for act in ("ask-start-study", "start-study"):
        with pytest.raises(StudyError, match="is there already"):
            hub.screen.acts[act]({"toml": hub.text}, KIM)
    assert len(hub.log) == 1


def test_what_does_not_hold_is_said_and_nothing_starts(hub):
    wrong = {
        "rounds.count": hub.text.replace("count = 20", "count = 0"),
        "characters": hub.text + "#" * TEXT_MAX,
        "there is no task|unknown task|task": hub.text.replace('task = "activity"', 'task = "nothing"'),
        "code of your own": hub.text.replace('kind = "mlp"', 'kind = "torch"\nmodule = "os:system"'),
        "edges_min": hub.text.replace("edges_min = 3", "edges_min = 30"),
    }
    for said, text in wrong.items():
        with pytest.raises((SettingsError, StudyError), match=said):
            hub.screen.acts["start-study"]({"toml": text}, KIM)
    assert not hub.store.studies()
    assert hub.log == []


def test_a_text_that_is_too_long_comes_as_one_that_is_too_long(hub):
    sent = facts_of({"toml": "#" * 100_000, "reason": "r" * 1_000})
    assert TEXT_MAX < len(sent["toml"]) == LONG_CHARS["toml"]
    assert len(sent["reason"]) == FACT_CHARS


def test_a_viewer_starts_nothing_and_sees_who_may(hub):
    vera = Looking("vera", "viewer", address=study_new.PATH, params={"task": "activity"})
    sections = hub.screen.sections(vera)
    assert "operator or admin" in sections["task"]
    assert sections["text"] == ""
    for act in ("ask-start-study", "start-study"):
        with pytest.raises(NotAllowed):
            hub.screen.acts[act]({"toml": hub.text}, vera)
    assert not hub.store.studies()


def test_a_name_in_the_address_is_text_and_a_task_that_is_none_is_said(hub):
    hostile = Looking("kim", "operator", address=study_new.PATH, params={"task": "<b>", "name": '"><script>'})
    sections = hub.screen.sections(hostile)
    assert "<script>" not in "".join(sections.values())
    assert "there is no task" in sections["text"]


@pytest.fixture
def model(hub):
    """A study with one model that is kept, and one that is not any more."""
    authority, key = Authority.create(hub.home / "pki", "test"), new_key()
    (hub.home / "pki" / "hub.key").write_bytes(key_pem(key))
    (hub.home / "pki" / "hub.pem").write_bytes(authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 24.0))
    study, task = parse_study(hub.text, where="test"), TASKS["activity"]
    data = encode_model(make_learner(study.learner, len(task.feature_names), len(task.classes)).initial(0))
    hub.store.put_study(StudyRecord("moves", hub.text, "running", "", 1, 1))
    facts = {"lineage": {"updates": {"a": 3}}}
    hub.store.put_models(
        [
            ModelRecord("moves", 1, digest(data), "", "current", 1, 1, 1, facts),
            ModelRecord("moves", 2, "f" * 64, digest(data), "candidate", 2, 1, 1, facts),
        ]
    )
    FolderBlobs(hub.home / "studies" / "moves").write(model_name(digest(data)), data)
    return data


def test_a_model_is_taken_away_with_its_card_and_stands_in_the_audit_log(hub, model):
    with zipfile.ZipFile(io.BytesIO(hub.exports.archive("dora", "moves", 1))) as archive:
        names = archive.namelist()
        plain = archive.read("moves-round-1/model.safetensors")
    assert set(names) == {
        f"moves-round-1/{n}" for n in ("model.safetensors", "card.json", "card.md", "manifest.json", "predict.py")
    }
    assert decode_model(plain).keys() <= decode_model(model).keys()
    [(kind, what, who, facts)] = hub.log
    assert (kind, what, who, facts["round"]) == ("export", "model taken away at the console", "dora", 1)


def test_a_model_is_given_to_nobody_else_and_only_if_it_is_there(hub, model):
    for who in ("kim", "vera"):
        with pytest.raises(NotAllowed):
            hub.exports.archive(who, "moves", 1)
    assert hub.exports.archive("dora", "moves", 7) is None
    assert hub.exports.archive("dora", "another", 1) is None
    with pytest.raises(StudyError, match="not kept any more"):
        hub.exports.archive("dora", "moves", 2)
    assert hub.log == []
