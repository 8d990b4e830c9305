"""Studies from a real coordinator's journal: scores, who took part, decisions, models, budget; acts that ask for the role."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape

import pytest
from tests.unit.learn.test_coordinator import STUDY, Hub

from wardround.clock import ManualClock
from wardround.console import studies
from wardround.console.looking import Held, Looking
from wardround.desks import studies as studies_desk
from wardround.desks.studies import HubStudiesDesk
from wardround.errors import NotAllowed, StudyError
from wardround.learn.privacy.accounting import rounds_within
from wardround.learn.privacy.central import Plan
from wardround.learn.privacy.ledger import NAME, Entry, FileLedger
from wardround.learn.study import parse_study
from wardround.records import EdgeId
from wardround.store import EdgeRecord, ModelRecord, RoundRecord, StudyRecord, open_store
from wardround.trust.roles import check_act

KIM = Looking("kim", "operator", address="/studies/s", item="s")
ROLES = {"kim": "operator", "vera": "viewer"}


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)))


class Running:
    """What the hub does when it is asked."""

    def __init__(self, hub):
        self.running, self.hub, self.asked = {"s": hub}, hub, []
        hub.newest = None  # as before the first round since the hub's start

    def ask(self, kind, study, *, who, reason, to_round, request_id):
        self.asked.append((kind, study, who, reason, to_round))
        act, _, edge = kind.partition(":")
        if act == "quarantine":
            self.hub.coordinator.quarantine(EdgeId(edge), 0, reason, until=to_round)
        elif act == "release":
            self.hub.coordinator.release(EdgeId(edge))
        return f"{kind} is done"


class Site:
    def __init__(self, home):
        folder = self.folder = home / "studies" / "s"
        folder.mkdir(parents=True)
        self.store, self.clock, self.log = open_store(home / "hub.sqlite"), ManualClock(), []
        for edge in "abc":
            self.store.put_edge(EdgeRecord(edge, 1, "1", 10**17, None))
        self.hub = Hub(folder)
        self.running = Running(self.hub)
        self.desk = HubStudiesDesk(
            home, self.store, self.clock, studies=self.running, request_id=lambda _: "r-1",
            check=lambda who, act: check_act(who, ROLES[who], act),
            record=lambda *entry, **facts: self.log.append((*entry, facts)),
        )  # fmt: skip
        self.screens = {screen.path: screen for screen in studies.screens(self.desk)}

    def put(self, toml=STUDY):
        self.store.put_study(StudyRecord("s", toml, "running", "", 1, 1))
        scores = {"metric": "macro-f1", "worst_edge": "b", "examples": 9}
        for done in self.hub.coordinator.committed():
            value = 0.5 + done.number / 10
            score = scores | {"value": value, "worst": value - 0.2, "by_edge": {"a": value + 0.1, "b": value - 0.2}}
            facts = {"folded": dict(done.folded), "aside": list(done.aside), "score": score}
            self.store.put_round(RoundRecord("s", done.number, done.t_us, 1.0, done.model, facts))
            stage = {1: "retired", 2: "current"}.get(done.number, "candidate")
            facts = {"score": score, "lineage": {"updates": {"a": 1}}, "reason": "passed"}
            self.store.put_models([ModelRecord("s", done.number, done.model, done.base, stage, done.number, 1, 1, facts)])

    def shown(self, looking=KIM, path="/studies/{item}"):
        self.clock.advance(5.0)
        return {key: (text(html), html) for key, html in self.screens[path].sections(replace(looking, held=Held())).items()}

    def act(self, name, looking=KIM, **facts):
        return self.screens["/studies/{item}"].acts[name](facts, looking)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def two_rounds(site):
    site.hub.attach("a", "b", "c")
    for _ in range(3):  # the statistics, then two rounds
        site.hub.round("a", "b", "c")


def test_an_empty_list_teaches_the_first_command(site):
    shown = site.shown(replace(KIM, item="", address="/studies"), "/studies")
    assert "No study yet" in shown["studies"][0]
    assert escape(studies.NEW) in shown["studies"][0]
    assert "There is no study s." in site.shown()["answer"][0]


BUDGET = """[watch]
row_counts = false
[privacy]
mode = "clear-dp"
population = 30
noise = 4.0
delta = 0.001
target_epsilon = 4.0
sampling = "poisson"
sample = 0.5
"""


def test_a_budget_is_what_the_ledger_says_and_is_reckoned_again_when_it_has_grown(site, monkeypatch):
    site.put(STUDY + BUDGET)
    own = parse_study(STUDY + BUDGET, where="test").privacy
    release, reckoned = Plan.of(own).release, []
    real = studies_desk.epsilon
    monkeypatch.setattr(studies_desk, "epsilon", lambda *of: reckoned.append(of) or real(*of))
    ledger = FileLedger(site.folder / NAME)
    for number in (1, 2):
        ledger.append(Entry(number, 0, number, release, 1.0, 1.0))
    ledger.close()

    budget = site.desk.study("s").budget
    assert budget.spent[-1] == (2.0, real({release: 2}, own.delta))
    assert budget.forecast[-1] == (5.0, real({release: 5}, own.delta))  # of the study's five rounds
    assert budget.rounds_left == rounds_within(release, own.target_epsilon, own.delta, {release: 2})

    times = len(reckoned)
    site.clock.advance(5.0)
    assert site.desk.study("s").budget == budget
    assert len(reckoned) == times
    ledger = FileLedger(site.folder / NAME)
    ledger.append(Entry(3, 0, 3, release, 1.0, 1.0))
    ledger.close()
    site.clock.advance(5.0)
    assert site.desk.study("s").budget.spent[-1] == (3.0, real({release: 3}, own.delta))


def test_a_new_round_is_on_the_page_at_once(site):
    two_rounds(site)
    site.put()
    assert site.desk.study("s").row.rounds == 2
    site.hub.round("a", "b", "c")
    site.put()
    assert site.desk.study("s").row.rounds == 2  # the clock stands still
    site.hub.newest = site.store.rounds("s")[-1]
    assert site.desk.study("s").row.rounds == 3


def test_a_study_says_its_score_its_worst_edge_and_its_lineage(site):
    two_rounds(site)
    site.put()
    shown = site.shown()
    assert "s scores macro F1 0.700; b is the worst with 0.500." in shown["answer"][0]
    assert "macro F1 by round: 0.700 for all edges in round 2, b 0.500 the worst" in shown["score"][1]
    assert "round 2 predicts" in shown["models"][0]
    assert "from 1, 1 update" in shown["models"][0]
    assert "it has no budget" in shown["budget"][0]
    listed = site.shown(replace(KIM, address="/studies"), "/studies")["studies"][0]
    assert "b 0.500" in listed


def test_who_differs_is_named_and_why(site):
    two_rounds(site)
    site.hub.coordinator.fail(EdgeId("b"), 3, "out of memory")
    site.hub.upload("a")
    site.put()
    shown = site.shown()
    part = shown["part"][0]
    assert "2 accepted, 1 arrived" in part
    assert "2 accepted, 1 failed" in part
    assert "2 accepted, 1 training" in part
    assert part.index("failed") < part.index("arrived")  # who differs first
    assert "failed" in shown["triage"][0]
    assert "out of memory" in shown["triage"][0]


def test_a_thousand_edges_as_expected_are_one_line(site):
    two_rounds(site)
    site.hub.coordinator.quarantine(EdgeId("b"), 9, "far off")
    site.put()
    for i in range(997):
        site.store.put_edge(EdgeRecord(f"far-{i:03}", 1, "1", 10**17, None))
    shown = site.shown()["part"]
    assert "999 edges as expected" in shown[0]
    assert "far off" in shown[0]
    assert "far-001" not in shown[0]
    assert len(shown[1]) < 10_000
    assert "1 to 50 of 1,000 edges" in site.shown(replace(KIM, params={"all": "1"}))["part"][0]


def test_acts_say_what_will_happen_and_can_be_undone(site):
    two_rounds(site)
    site.put()
    dialog = text(site.act("ask-roll-back", study="s", round="1").dialog)
    assert "The model of round 1 becomes current. The model of round 2 becomes rolled back." in dialog
    reply = site.act("roll-back", study="s", round="1", reason="worse for b")
    assert reply.undo == {"act": "roll-back", "study": "s", "round": "2", "reason": studies.UNDONE}
    assert site.running.asked[-1] == ("rollback", "s", "kim", "worse for b", 1)
    assert "its updates weigh nothing" in text(site.act("ask-set-aside", study="s", edge="b").dialog).lower()
    reply = site.act("set-aside", study="s", edge="b", rounds="10", reason="cable")
    assert site.hub.coordinator.set_aside(EdgeId("b")) == (12, "cable")
    assert "b is set aside" in site.shown()["answer"][0]
    site.act(reply.undo["act"], **{k: v for k, v in reply.undo.items() if k != "act"})
    assert site.hub.coordinator.set_aside(EdgeId("b")) is None
    assert site.act("hold-study", study="s", kind="pause", reason="night").undo["kind"] == "resume"
    assert [entry[1] for entry in site.log] == ["study: rollback", "study: quarantine", "study: release", "study: pause"]


def test_nobody_without_the_role_asks_anything_of_a_study(site):
    two_rounds(site)
    site.put()
    vera = replace(KIM, name="vera", role="viewer")
    assert "Needs the role operator or admin" in site.shown(vera)["answer"][1]
    assert 'data-act="ask-set-aside"' not in site.shown(vera)["part"][1]
    for act in ("hold-study", "roll-back", "set-aside", "count-edge"):
        with pytest.raises(NotAllowed):
            site.act(act, vera, study="s", edge="b", round="1", kind="pause", reason="x")
    assert site.running.asked == site.log == []


@pytest.mark.parametrize(
    ("kind", "reason", "says"),
    [
        ("pause", " ", "needs a reason"),
        ("release:nobody", "x", "no edge"),
        ("stop", "x", "not asked"),
        ("pause:a", "x", "not asked"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_words(site, kind, reason, says):
    site.put()
    with pytest.raises(StudyError, match=says):
        site.desk.ask("s", kind, "kim", reason)
    assert site.log == []
