"""Alerts from a real alert book: groups and lists, evidence with its threshold, roles on buttons, acts that ask for the role."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from wardround.clock import ManualClock
from wardround.console import alerts
from wardround.console.looking import Held, Looking
from wardround.console.model import Overview
from wardround.desks.alerts import HubAlertsDesk
from wardround.errors import NotAllowed, WardroundError
from wardround.trust.roles import check_act
from wardround.watch.alerts import Finding, Response
from wardround.watch.watcher import Watch

MINUTE_US = 60_000_000
KIM = Looking("kim", "operator", address="/alerts")
ROLES = {"kim": "operator", "vera": "viewer"}


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)))


class Site:
    def __init__(self) -> None:
        self.clock, self.log = ManualClock(), []
        self.watch = Watch(clock=self.clock, heartbeat_s=10.0, signal_title=str, on_change=lambda _: None)
        self.desk = HubAlertsDesk(
            self.watch,
            self.clock,
            overview=lambda: Overview(self.clock.now_us(), "h", "1", "s", simulated=True, subjects=0),
            check=lambda who, act: check_act(who, ROLES[who], act),
            record=lambda *entry, **facts: self.log.append((*entry, facts)),
        )

    def raises(self, kind, response=None, **facts):
        now_us = self.clock.now_us()
        known = {"title": f"{kind} of <b>", "priority": "medium", "category": "technical", "edge": "icu-a"} | facts
        known |= {"since_us": now_us - 5 * MINUTE_US, "detected_us": now_us}
        self.watch._raise(Finding(kind=kind, **known), response)

    def shown(self, looking=KIM):
        [screen, _] = alerts.screens(self.desk)
        self.clock.advance(1.0)
        return {key: (text(html), html) for key, html in screen.sections(replace(looking, held=Held())).items()}

    def act(self, name, looking=KIM, **facts):
        return alerts.screens(self.desk)[0].acts[name](facts, looking)


@pytest.fixture
def site():
    return Site()


def furnish(site):
    site.raises("sensor-dead", device="patch-1", detail="No change for 30 s.", causes=("a loose cable", "a dead battery"))
    rounds = tuple((float(k), 1.0 if k < 9 else 9.8) for k in range(12))
    site.raises(
        "update-poisoned",
        Response(what="quarantined in round 9", undo="release:s:icu-a"),
        study="s",
        category="model",
        evidence=rounds,
        evidence_unit="own-history score",
        threshold=6.0,
    )
    site.raises("clock", priority="low")


def test_the_inbox_is_by_need_and_the_first_is_shown_whole(site):
    furnish(site)
    shown = site.shown()
    assert "Three alerts are open. One needs a person now; one was handled and wants checking." in shown["answer"][0]
    order = re.findall(r"Needs a person now|Handled: check the response|Can wait|A-000\d", shown["inbox"][1])
    assert [o for o in order if not o.startswith("A-")] == ["Needs a person now", "Handled: check the response", "Can wait"]
    assert "Open 3 Acknowledged 0 Silenced 0 Resolved" in shown["inbox"][0]
    assert "No change for 30 s." in shown["detail"][0]
    assert "1 a loose cable 2 a dead battery" in shown["detail"][0]
    assert "<b></b>" not in shown["inbox"][1]  # names are made safe
    assert "Goes to more people at" in shown["inbox"][0]


def test_evidence_is_drawn_with_its_threshold_and_its_numbers(site):
    furnish(site)
    html = site.shown(replace(KIM, item="A-0002"))["detail"][1]
    assert "own-history score of icu-a: 9.8 at the end, threshold 6" in html
    assert "Table of this chart" in html
    assert "quarantined in round 9" in html
    assert 'href="/fleet/icu-a"' in html


def test_evidence_by_time_has_a_clock_under_it(site):
    now_us = site.clock.now_us()
    site.raises("completeness", evidence=((now_us - 3600e6, 0.9), (float(now_us), 0.4)), evidence_unit="share of an hour")
    assert "share of an hour, UTC" in site.shown()["detail"][0]


def test_an_empty_inbox_says_so_and_an_unknown_alert_too(site):
    shown = site.shown()
    assert "No alert is open." in shown["answer"][0]
    assert "Nothing is open" in shown["inbox"][0]
    assert "There is no alert A-9999." in site.shown(replace(KIM, item="A-9999"))["detail"][0]
    assert "<script>" not in site.shown(replace(KIM, item="<script>"))["detail"][1]


def test_a_silence_needs_a_reason_an_end_and_a_role_and_its_toast_undoes_it(site):
    furnish(site)
    dialog = site.act("ask-silence", alert="A-0001").dialog
    assert "Silence sensor-dead of &lt;b&gt;?" in dialog
    with pytest.raises(WardroundError, match="needs a reason"):
        site.act("silence", alert="A-0001", minutes="60", reason=" ")
    for wrong in ("", "0", "x", "99999999"):
        with pytest.raises(WardroundError, match="is none"):
            site.act("silence", alert="A-0001", minutes=wrong, reason="works")
    with pytest.raises(NotAllowed):
        site.act("silence", replace(KIM, name="vera", role="operator"), alert="A-0001", minutes="60", reason="works")
    assert site.log == []
    reply = site.act("silence", alert="A-0001", minutes="60", reason="works")
    assert dict(reply.undo) == {"act": "unsilence", "silence": "S-0001"}
    assert site.log[0][:3] == ("change", "alerts: silence", "kim")
    shown = site.shown(replace(KIM, params={"show": "silenced"}))
    assert "Silenced 1" in shown["inbox"][0]
    assert "Silenced by kim until" in shown["detail"][0]
    site.raises("sensor-dead", device="patch-2")
    assert [a.silenced_by for a in site.watch.alerts() if a.finding.device == "patch-2"] == [""]  # that cause alone
    site.act("unsilence", silence="S-0001")
    assert "Silenced 0" in site.shown()["inbox"][0]
    with pytest.raises(WardroundError, match="does not hold"):
        site.act("unsilence", silence="S-0001")


def test_a_pattern_in_a_name_silences_no_other(site):
    site.raises("sensor-dead", device="*")
    site.act("silence", alert="A-0001", minutes="60", reason="works")
    site.raises("sensor-dead", device="patch-1")
    assert {a.finding.device: a.silenced_by for a in site.watch.alerts()} == {"*": "S-0001", "patch-1": ""}


def test_who_looks_only_sees_every_button_disabled_with_who_may(site):
    furnish(site)
    html = site.shown(replace(KIM, name="vera", role="viewer"))["detail"][1]
    buttons = re.findall(r"<button[^>]*>", html)
    assert len(buttons) == 4
    assert all("disabled" in b and "Needs the role" in b for b in buttons)
    for act, facts in (("judge", {"needed": "yes"}), ("unsilence", {"silence": "S-0001"})):
        with pytest.raises(NotAllowed):
            site.act(act, replace(KIM, name="vera"), alert="A-0001", **facts)


def test_people_say_whether_it_needed_something_done_and_the_load_shows_it(site):
    furnish(site)
    site.act("judge", alert="A-0001", needed="yes")
    shown = site.shown()
    assert "Did it need something done? it needed something done" in shown["detail"][0]
    assert "100 % of 1 judged needed something done" in shown["load"][0]


def test_a_thousand_alerts_are_drawn_a_page_at_a_time(site):
    for k in range(300):
        site.raises("sensor-dead", device=f"patch-{k}")
    shown = site.shown()["inbox"]
    assert shown[1].count("data-row") == 40
    assert "1 to 40 of 300 alerts" in shown[0]
