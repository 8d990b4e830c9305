"""The ward's read models over a real lake: by need, by consent, by role; what is opened is in the audit log first."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ward_under_test as rows
from wardround.clock import ManualClock
from wardround.collect.signals import load_signals
from wardround.console.ward_model import PER_PAGE, SPANS
from wardround.desks.seen import Seen
from wardround.desks.ward import AGAIN_S, IDLE_S, Ward, columns_of, may_see
from wardround.errors import NotAllowed, StorageFull
from wardround.process.lake import Lake
from wardround.records import Consent, Observation
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.watch.alerts import Finding

NOW_US = 1_764_000_900_000_000


class World:
    def __init__(self, tmp_path, **filled):
        self.clock = ManualClock(NOW_US)
        self.lake = Lake(tmp_path / "lake")
        self.who = rows.fill(self.lake, NOW_US, **filled)
        self.consents = ConsentRegister(tmp_path / "consent.sqlite")
        rows.allow(self.consents, self.who)
        self.alerts, self.entries, self.full = [], [], False
        self.edge_of = {s: "resp-1" if s == rows.WORSE or rows.hash_of(s) % 2 else "surg-1" for s in self.who}
        self.roles = {"cleo": "clinician", "olga": "operator"}
        self.ward = Ward(
            self.lake, self.consents, self.clock, edge_of=self.edge_of, alerts=lambda: self.alerts,
            signal=lambda code: load_signals().resolve(code), role=lambda who: self.roles.get(who, ""), record=self.record,
        )  # fmt: skip

    def record(self, kind, what, who, **facts):
        if self.full:
            raise StorageFull("no room", remedy="make some")
        self.entries.append((kind, what, who, facts))

    def listed(self, **asked):
        self.ward.subjects("cleo", **asked)
        self.clock.advance(AGAIN_S)
        self.ward.look()
        return self.ward.subjects("cleo", **asked)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("ward"), year=True)
    yield world
    world.consents.close()


@pytest.fixture
def world(shared):
    shared.entries.clear()
    shared.alerts, shared.full = [], False
    shared.ward._recorded = Seen(shared.clock)
    return shared


def test_who_needs_somebody_stands_first(world):
    found = world.listed()
    assert found.total == found.matching == len(world.who)
    assert found.rows[0].subject == rows.WORSE
    assert found.rows[0].news2 == 7
    assert found.rows[0].at_least  # oxygen and consciousness are not measured
    assert [r.news2 for r in found.rows] == sorted((r.news2 for r in found.rows), reverse=True)
    calm = found.rows[-1].subject
    finding = Finding(kind="news2", title="t", priority="high", category="physiological", since_us=1, detected_us=1, subject=calm)
    world.alerts = [SimpleNamespace(finding=finding, open=True, alert_id="A-1", changed_us=1)]
    assert world.listed().rows[0].subject == calm


def test_an_open_page_keeps_its_order_and_says_what_moved(world):
    found = world.listed()
    kept = [r.subject for r in found.rows]
    finding = Finding(
        kind="news2", title="t", priority="high", category="physiological", since_us=1, detected_us=1, subject=kept[-1]
    )
    world.alerts = [SimpleNamespace(finding=finding, open=True, alert_id="A-1", changed_us=1)]
    world.listed()
    again = world.ward.subjects("cleo", kept=kept)
    assert [r.subject for r in again.rows] == kept
    assert again.rows[-1].priority == "high"
    assert again.newer > 0


def test_edge_and_beginning_of_a_pseudonym_choose(world):
    found = world.listed(edge="surg-1")
    assert {r.edge for r in found.rows} == {"surg-1"}
    assert world.listed(find="q7k4").rows[0].subject == rows.WORSE
    assert world.listed(find="%").matching == 0


def test_a_record_has_points_usual_range_trend_and_waves(world):
    record = world.ward.record("cleo", rows.WORSE, span="12h", why="A-2209")
    vitals = {v.code: v for v in record.vitals}
    breaths = vitals["loinc:9279-1"]
    assert breaths.points == 3
    assert breaths.value > 23
    assert breaths.usual[0] < 17 < breaths.usual[1] < 20  # its own, of the days before
    assert record.news2.news2 == 7
    assert record.missing == ("oxygen", "consciousness")
    assert {w.code for w in record.waves} == {"mdc:131330", "mdc:150452"}
    gaps = {w.code: sum(c is None for c in w.columns) for w in record.waves}
    assert gaps["mdc:131330"] < 20 < 100 < gaps["mdc:150452"]
    assert len(record.trends) == len(rows.VITALS)
    [entry] = world.entries
    assert entry[:3] == ("view", "a patient's record opened at the console", "cleo")
    assert entry[3]["why"] == "A-2209"
    assert rows.WORSE not in str(entry)


@pytest.mark.parametrize("span", SPANS)
def test_every_span_has_at_most_a_thousand_points(world, span):
    record = world.ward.record("cleo", rows.WORSE, span=span)
    of = {t.code: t for t in record.trends}["loinc:8867-4"]
    assert 0 < len(of.points) <= 1_000
    assert all(p.low <= p.mean <= p.high for p in of.points)
    assert record.until_us - record.since_us == SPANS[span][1]


def test_a_link_to_a_moment_shows_that_moment(world):
    then = NOW_US - 8 * rows.HOUR_US
    record = world.ward.record("cleo", rows.WORSE, span="4h", at_us=then)
    assert not record.live
    assert record.news2.news2 < 7
    assert all(v.at_us <= then for v in record.vitals)


@pytest.mark.parametrize("who", ["olga", "nobody"])
def test_nobody_else_sees_patients(world, who):
    with pytest.raises(NotAllowed):
        world.ward.subjects(who)
    with pytest.raises(NotAllowed):
        world.ward.record(who, rows.WORSE, span="12h")
    assert not may_see(world.roles.get(who, ""))
    assert may_see("clinician")


def test_what_cannot_be_recorded_is_not_shown(world):
    world.full = True
    with pytest.raises(StorageFull):
        world.ward.record("cleo", rows.WORSE, span="12h")


def test_consent_decides_signal_by_signal(tmp_path):
    world = World(tmp_path, subjects=3)
    hidden, partly = world.who[1], world.who[0]
    edge = world.edge_of[hidden]
    world.consents.apply([ConsentRecord(hidden, "*", Consent.LOCAL, 2)], edge)
    world.consents.apply([ConsentRecord(partly, "loinc:8867-4", Consent.LOCAL, 2)], "resp-1")
    found = {r.subject: r for r in world.listed().rows}
    assert hidden not in found
    assert found[partly].news2 is None  # a score says something of every signal it is made of
    assert world.ward.record("cleo", hidden, span="12h") is None
    record = world.ward.record("cleo", partly, span="12h")
    assert "loinc:8867-4" not in {v.code for v in record.vitals} | {t.code for t in record.trends}
    assert record.scores == ()
    assert world.ward.record("cleo", "no-such", span="12h") is None
    world.consents.close()


def test_ten_thousand_subjects_are_paged_at_the_server(world):
    many = {f"{i:04}-x": "resp-1" for i in range(10_000)}
    world.consents.apply([ConsentRecord(s, "*", Consent.RAW, 1) for s in many], "resp-1")
    world.edge_of.update(many)
    try:
        first, last = world.listed(), world.ward.subjects("cleo", page=10**9)
        assert len(first.rows) == PER_PAGE
        assert first.rows[0].subject == rows.WORSE
        assert first.matching == 10_000 + len(world.who)
        assert last.page == last.pages
    finally:
        for s in many:
            del world.edge_of[s]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=400), st.integers(1, 64))
def test_a_peak_never_disappears(counts, columns):
    o = Observation(
        subject="s", device="d", edge="e", code="mdc:131330", unit="mV", t0_us=0, t0_device_us=0, n=len(counts),
        period_us=8e6 / len(counts), values=np.array(counts, "<i2").tobytes(),
    )  # fmt: skip
    _, drawn = columns_of([o], 8.0, columns)
    kept = [c for c in drawn if c is not None]
    assert max(b for _, b in kept) == max(counts)
    assert min(a for a, _ in kept) == min(counts)


def test_a_list_that_nobody_looks_at_is_read_now_and_then_and_shows_nobody_whose_consent_has_ended(world):
    subject = world.listed().rows[-1].subject
    looked = world.ward.subjects("cleo").looked_us
    world.clock.advance(IDLE_S)
    world.ward.look()
    found = world.ward.subjects("cleo")
    assert found.looked_us > looked
    assert subject in [r.subject for r in found.rows]
    world.consents.wish(subject, "*", Consent.NONE)
    assert subject not in [r.subject for r in world.ward.subjects("cleo").rows]  # before the list is read again
    world.consents.wish(subject, "*", Consent.RAW)
