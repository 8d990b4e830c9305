"""A desk over a real store, with the watch's own book of alerts; calls go through the whole application, in this process."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest

from wardround.api.app import make_api
from wardround.clock import ManualClock
from wardround.console.model import AlertView, EdgeView, HoursView, Overview, RoutineView
from wardround.desks.api import ApiDesk
from wardround.draining import Draining
from wardround.store import EdgeRecord, Person, RoundRecord, StudyRecord, open_store
from wardround.trust.api_tokens import mint_api_token
from wardround.watch.acts import Acts, answer
from wardround.watch.watcher import Watch

START_S = 1_900_000_000


class Pages:
    """What the console's desk would say."""

    def __init__(self, clock, watch):
        self.clock, self.watch = clock, watch
        self.alerts, self.happened, self.edges, self.signals = [], [], [], HoursView((), ())
        self.acts = Acts(
            acknowledge=watch.acknowledge, judge=watch.judge, undo=lambda *words: bool(watch.undo(*words)), silence=watch.silence,
            unsilence=watch.unsilence, test=list, settings="hub.toml", command="wardround alert",
        )  # fmt: skip

    def overview(self):
        return Overview(
            self.clock.now_us(), "hub", "0", "Test <ward>", simulated=True, subjects=3, edges=tuple(self.edges),
            alerts=tuple(self.alerts), happened=tuple(self.happened), studies=1,
        )  # fmt: skip

    def routines(self):
        return (RoutineView("compaction", "Compaction of the lake", "every 6 h", "ok", last_us=START_S * 10**6),)

    def hours(self):
        return self.signals

    def answer(self, act, body, who):
        return answer(self.acts, act, body, who)


class World:
    """One hub's API, and who calls it."""

    def __init__(self, tmp_path):
        self.clock = ManualClock(START_S)
        self.store = open_store(tmp_path / "hub.sqlite")
        self.watch = Watch(clock=self.clock, heartbeat_s=2.0, signal_title=str, on_change=lambda *_: None)
        self.pages = Pages(self.clock, self.watch)
        self.recorded, ids = [], itertools.count(1)
        self.desk = ApiDesk(
            self.pages,
            store=self.store,
            clock=self.clock,
            record=lambda kind, what, who, **facts: self.recorded.append((kind, what, who, facts)),
            silences=self.watch.silences,
            request_id=lambda _: f"r-{next(ids)}",
            invites=lambda: ("hub.example", 7444, b"p" * 32),
        )
        self.attached, self.rounds = set(), {}
        self.drains = Draining(
            self.store,
            self.clock,
            attached=lambda: self.attached,
            rounds=lambda edge: self.rounds.get(edge, ()),
            record=lambda kind, what, who, **facts: self.recorded.append((kind, what, who, facts)),
            happened=lambda *_: None,
        )
        self.app = make_api(self.desk, self.store, self.desk, self.clock, drains=self.drains)
        for person, role in (
            ("viola", "viewer"),
            ("oskar", "operator"),
            ("clara", "clinician"),
            ("dora", "data-officer"),
            ("ada", "admin"),
        ):
            self.store.put_person(Person(person, role, "", None))

    def token(self, person="oskar", scopes=("read", "alerts", "studies", "edges"), days=1):
        text, kept = mint_api_token(person, f"{person}'s", scopes, days=days, now_us=self.clock.now_us())
        self.store.put_api_token(kept)
        return text

    def call(self, method, path, token=None, **more):
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})

        async def called():
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(called())

    def edge(self, name, revoked_us=None):
        now_us = self.clock.now_us()
        self.store.put_edge(EdgeRecord(name, now_us, "1", now_us + 10**12, revoked_us))
        if revoked_us is None:
            self.pages.edges.append(EdgeView(name, "connected", spooled=3, per_s=1.5))

    def study(self, name="beats", rounds=0):
        now_us = self.clock.now_us()
        self.store.put_study(StudyRecord(name, "", "running", "", now_us, now_us))
        for number in range(1, rounds + 1):
            facts = {"folded": ["icu-a"], "aside": ["icu-b"]}
            self.store.put_round(RoundRecord(name, number, now_us + number, 0.5, f"{number:064x}", facts))

    def alert(self, number, *, open_=True, **more):
        view = AlertView(f"A-{number:04d}", f"Alert {number}", "detail", "medium", "technical", START_S * 10**6,
                         START_S * 10**6 + number, open_, needs_person=open_, **more)  # fmt: skip
        self.pages.alerts.append(view)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.store.close()
