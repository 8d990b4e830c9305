"""Fleet over a real store and watch: who needs something first, the tree, invitations step by step, revoke, roles, 1,000."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest

from wardround.clock import ManualClock
from wardround.console import fleet
from wardround.console.fleet_model import Branch, FleetEdge, FleetView
from wardround.console.looking import Held, Looking
from wardround.console.model import EdgeView, Overview
from wardround.desks.api import ApiDesk
from wardround.desks.fleet import HubFleetDesk
from wardround.draining import Draining
from wardround.errors import NotAllowed, WardroundError
from wardround.learn.condition import Condition
from wardround.learn.grpc_wire import Beat
from wardround.learn.tree import STATE, StudyTree, Tree, TreeEdge
from wardround.store import EdgeRecord, RoundRecord, open_store
from wardround.trust.join import parse
from wardround.trust.roles import check_act
from wardround.watch.alerts import Finding
from wardround.watch.watcher import Watch

HOUR_US = 3_600_000_000
KIM = Looking("kim", "operator", address="/fleet")
VERA = replace(KIM, name="vera", role="viewer")
ROLES = {"kim": "operator", "vera": "viewer"}
NOBODY = Condition(charging=False, battery=None, network="wired", signal_dbm=None, metered=False, load=0.1)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)))


class Site:
    def __init__(self, folder) -> None:
        self.clock, self.log, self.beats, self.attached = ManualClock(1_900_000_000), [], {}, set()
        self.store = open_store(folder / "hub.sqlite")
        self.watch = Watch(clock=self.clock, heartbeat_s=10.0, signal_title=str, on_change=lambda _: None)

        def record(kind, what, who, **facts):
            self.log.append((kind, what, who, facts))

        acts = ApiDesk(
            None, store=self.store, clock=self.clock, record=record, silences=list, request_id=str,
            invites=lambda: ("hub.example", 7443, b"p" * 32),
        )  # fmt: skip
        self.draining = Draining(
            self.store, self.clock, attached=lambda: self.attached, rounds=lambda _: (), record=record, happened=lambda *_: None
        )
        self.desk = HubFleetDesk(
            self.store, self.watch, self.clock, beats=self.beats, attached=lambda: self.attached, overview=self.overview,
            check=lambda who, act: check_act(who, ROLES[who], act), acts=acts, draining=self.draining,
        )  # fmt: skip

    def overview(self):
        known = [e.name for e in self.store.edges() if e.revoked_us is None]
        views = tuple(EdgeView(n, "connected" if n in self.attached else "silent", per_s=250.0) for n in known)
        return Overview(self.clock.now_us(), "h", "1", "s", simulated=True, subjects=0, edges=views)

    def joins(self, name, *, here=True, hours=20.0, condition=NOBODY, **beat):
        now_us = self.clock.now_us()
        self.store.put_edge(EdgeRecord(name, now_us, "1", now_us + round(hours * HOUR_US), None))
        if here:
            self.attached.add(name)
            self.beats[name] = Beat(
                **{"examples": 1, "spooled": 0, "spool_bytes": 0, "working_on": ""} | beat, condition=condition
            )

    def shown(self, looking=KIM):
        self.clock.advance(11.0)
        found = fleet.screens(self.desk)[0].sections(replace(looking, held=Held()))
        return {key: (text(html), html) for key, html in found.items()}

    def act(self, name, looking=KIM, **facts):
        return fleet.screens(self.desk)[0].acts[name](facts, looking)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def furnish(site):
    site.joins("calm")
    site.joins("away", here=False)
    site.joins("low", condition=replace(NOBODY, battery=9.0))
    site.joins("alarmed", spooled=1_204, spool_bytes=2_000_000, model="m2")
    site.joins("ended", hours=-1.0)
    now_us = site.clock.now_us()
    finding = Finding(kind="clock", title="Clock of <alarmed>", priority="medium", category="technical", edge="alarmed",
                      since_us=now_us, detected_us=now_us)  # fmt: skip
    site.watch._raise(finding, None)


def names(html):
    return re.findall(r'<tr data-key="([^"]+)"', html)


def test_those_that_need_something_are_first_and_each_says_what(site):
    furnish(site)
    shown = site.shown()
    assert names(shown["edges"][1]) == ["ended", "away", "alarmed", "low", "calm"]
    told = shown["edges"][0]
    one = replace(site.desk.fleet(), edges=tuple(e for e in site.desk.fleet().edges if e.name == "alarmed"))
    assert "1 of 1 edge is connected. Clock of &lt;alarmed&gt;. " in text(fleet.answer(one, KIM))  # its name is in the title
    for words in (
        "its certificate has ended",
        "not seen since the hub started",
        "Clock of &lt;alarmed&gt;",
        "battery 9 %",
        "as expected",
        "1,204",
    ):
        assert words in told
    assert (
        "4 of 5 edges are connected. ended: its certificate has ended. away, alarmed and 1 more need something, too."
        in shown["answer"][0]
    )
    assert "not known" in told  # of the one that has said nothing


def test_one_edge_by_its_address_and_one_that_is_not_there(site):
    furnish(site)
    told = site.shown(replace(KIM, item="alarmed", address="/fleet/alarmed"))["edge"][0]
    assert "2.0 MB" in told
    assert "mains, wired" in told
    assert "There is no edge gone." in site.shown(replace(KIM, item="gone"))["edge"][0]


def test_the_model_is_its_round_and_the_tree_shows_who_passes_it_on(site):
    furnish(site)
    site.store.put_round(RoundRecord("beats", 7, site.clock.now_us(), 1.0, "m2", {}))
    edges = tuple(
        TreeEdge(n, above, n != "away", False, "", 0, 0, "")
        for n, above in (("alarmed", ""), ("calm", "alarmed"), ("away", "alarmed"))
    )
    site.store.save_state(STATE, msgspec.json.encode(Tree(site.clock.now_us(), (StudyTree("beats", "m2", edges),))))
    site.shown()
    shown = site.shown()
    assert "round 7" in shown["edges"][0]
    assert re.search(r"hub alarmed relay calm away away", shown["tree"][0].replace("  ", " "))
    assert "beats" in shown["tree"][0]


def test_above_thirty_edges_the_tree_is_folded_and_opens_one_branch():
    tree = (Branch("r", "", True), *(Branch(f"e{i:03}", "r" if i % 2 else "", i != 1) for i in range(1_000)))
    view = FleetView(1, tree=tree)
    folded = fleet.sections(view, KIM)["tree"]
    assert "500 edges, 1 away, show" in folded
    assert folded.count("<li") == 3
    opened = fleet.sections(view, replace(KIM, params={"open": "r"}))["tree"]
    assert "e001" in opened
    assert "and 450 more" in opened
    assert len(opened) < 15_000
    few = fleet.sections(replace(view, tree=tree[:20]), KIM)["tree"]
    assert few.count("<li") == 20


def test_a_thousand_edges_are_paged_and_sorted_here():
    edges = tuple(
        FleetEdge(f"e{i:04}", "connected", 9, spooled=(i * 37) % 1_000, certificate_us=9, told=True) for i in range(1_000)
    )
    html = fleet.sections(FleetView(1, edges), replace(KIM, held=Held(), params={"edges-sort": "-spool"}))["edges"]
    assert len(names(html)) == 50
    assert "1 to 50 of 1,000 edges" in html
    assert names(html)[0] == max(edges, key=lambda e: e.spooled).name
    assert len(html) < 100_000


def test_an_invitation_goes_step_by_step_and_its_token_is_in_no_page(site):
    assert site.act("ask-invite").dialog
    reply = site.act("invite", edge="icu-z")
    token = re.search(r"wr1\.[\w.-]+", reply.dialog)[0]
    assert parse(token).host == "hub.example"
    assert "wardround edge join -" in reply.dialog

    def waiting():
        shown = site.shown()
        assert not [key for key, (_, html) in shown.items() if token in html or parse(token).token_id in html]
        assert shown["invite-steps"][1] in shown["invites"][1]
        return shown["invite-steps"][1].count('class="waiting"')

    assert waiting() == 2
    site.store.burn(parse(token).token_id, b"k" * 32)
    assert waiting() == 1
    site.joins("icu-z")
    assert waiting() == 0
    assert "has joined" in site.shown()["invites"][0]
    assert site.shown(VERA)["invite-steps"][1] == ""
    assert [entry[:3] for entry in site.log] == [("change", "edge invited", "kim")]


def test_a_token_that_nobody_used_in_time_is_said_to_hold_no_more(site):
    site.act("invite", edge="icu-z")
    site.clock.advance(901.0)
    assert "its token holds no more" in site.shown()["invites"][0]


@pytest.mark.parametrize("name", ["", "../x", "<b>", "A", "x" * 300])
def test_a_name_that_may_not_be_makes_no_token(site, name):
    with pytest.raises(WardroundError):
        site.act("invite", edge=name)
    assert site.log == []


def test_an_edge_that_is_connected_is_not_invited_again(site):
    site.joins("icu-a")
    with pytest.raises(WardroundError, match="connected already"):
        site.act("invite", edge="icu-a")


def test_revoke_says_what_will_happen_and_wants_the_name_typed(site):
    furnish(site)
    dialog = site.act("ask-revoke", edge="alarmed").dialog
    assert 'data-must="alarmed"' in dialog
    assert "What waits there (1,204 observations) stays at the edge" in text(dialog)
    assert "Nothing was done" in site.act("revoke", edge="alarmed", typed="calm").toast  # the server asks, not the page alone
    assert site.log == []
    assert "is revoked" in site.act("revoke", edge="alarmed", typed="alarmed").toast
    assert "alarmed" not in names(site.shown()["edges"][1])
    assert [e.name for e in site.store.edges() if e.revoked_us] == ["alarmed"]
    assert site.log == [("change", "edge revoked", "kim", {"edge": "alarmed"})]
    with pytest.raises(WardroundError, match="may come in"):
        site.act("revoke", edge="alarmed", typed="alarmed")
    assert "no such edge" in site.act("ask-revoke", edge="nobody").toast


def test_drain_says_what_will_happen_then_how_far_it_is_and_is_undone(site):
    site.joins("icu-a", spooled=12)
    dialog = text(site.act("ask-drain", edge="icu-a").dialog)
    for words in (
        "gets no new work",
        "waits in its spool (12 observations)",
        "its silence is no alert",
        "Nothing is deleted",
    ):
        assert words in dialog
    assert site.log == []
    assert "icu-a gets no more work" in site.act("drain", edge="icu-a").toast
    site.draining.heard("icu-a", site.beats["icu-a"])
    site.draining.look()
    assert "drained: emptying its spool" in site.shown()["edges"][0]
    assert "12 observations wait in its spool" in site.shown(replace(KIM, item="icu-a"))["edge"][0]
    site.beats["icu-a"] = replace(site.beats["icu-a"], spooled=0)
    site.clock.advance(11.0)
    site.draining.heard("icu-a", site.beats["icu-a"])
    site.draining.look()
    assert [e.need for e in site.desk.fleet().edges] == ["drained: safe to switch off"]
    assert "1 of 1 edge is connected. icu-a: drained, safe to switch off. " in site.shown()["answer"][0]
    site.attached.clear()
    shown = site.shown()
    assert "drained, away" in shown["edges"][0]
    assert "None needs anything" in shown["answer"][0]
    assert "is used again" in site.act("undrain", edge="icu-a").toast
    assert "not seen since the hub started" in site.shown()["edges"][0]
    assert [entry[1] for entry in site.log] == ["edge drained", "edge used again"]
    assert "no such edge" in site.act("ask-drain", edge="nobody").toast


def test_a_viewer_sees_the_buttons_disabled_and_is_refused_at_the_hub(site):
    furnish(site)
    shown = site.shown(VERA)
    assert 'data-act="ask-' not in shown["edges"][1] + shown["answer"][1]
    assert "Needs the role operator or admin" in shown["edges"][0]
    tries = {
        "ask-invite": {},
        "invite": {"edge": "x"},
        "ask-revoke": {"edge": "calm"},
        "revoke": {"edge": "calm", "typed": "calm"},
        "ask-drain": {"edge": "calm"},
        "drain": {"edge": "calm"},
        "undrain": {"edge": "calm"},
    }
    assert set(tries) == set(fleet.screens(site.desk)[0].acts)
    for name, facts in tries.items():
        with pytest.raises(NotAllowed):
            site.act(name, VERA, **facts)
    assert site.log == []


def test_an_empty_fleet_says_what_to_do_next(site):
    shown = site.shown()
    assert "No edge has joined yet." in shown["answer"][0]
    assert "wardround hub invite NAME" in shown["edges"][0]
    assert "wardround study start" in shown["tree"][0]


def test_an_edge_that_was_seen_says_for_how_long_it_is_silent(site):
    site.joins("icu-a")
    site.watch.edge_seen("icu-a")
    site.attached.clear()
    site.clock.advance(120.0)
    assert "silent 2 min" in site.shown()["edges"][0]
