"""A real edge without a hub: a device, its alert, a webhook that refuses, SIGKILL in between, and people at the command line."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from wardround.bedside.ledger import BedsideLedger
from wardround.bedside.watching import FOLDER, MEMORY
from wardround.clock import SystemClock
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.mqtt_link import DeviceLink
from wardround.collect.storage import FolderStorage
from wardround.ports import LOOPBACK
from wardround.records import Consent
from wardround.store import opened
from wardround.watch.alerts import AlertBook, Finding
from wardround.watch.bedside import Bedside, Total

SICK = {"heart-rate": ("/min", 139.0), "respiratory-rate": ("/min", 27.0), "spo2": ("%", 89.0)}


class Hook:
    """A receiver that answers 500 until it is told otherwise."""

    def __init__(self):
        self.tried, self.taken, self.good = [], [], False
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                (hook.taken if hook.good else hook.tried).extend(data["alerts"])
                self.send_response(204 if hook.good else 500)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://{LOOPBACK}:{self.server.server_port}/hook"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook():
    made = Hook()
    yield made
    made.close()


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def send(site, device, secret):
    link = DeviceLink(
        device,
        secret,
        boot="life-1",
        host=LOOPBACK,
        port=site.mqtt_port("icu-a"),
        authority=site.folder / "icu-a" / "identity" / "ca.pem",
        on_receipted=lambda _: None,
    )
    now_us = SystemClock().now_us()
    pack = [Reading(name=name, unit=unit, t_us=now_us, value=value) for name, (unit, value) in SICK.items()]
    link.publish(encode_pack(pack, base_name=f"urn:dev:{device}:", form="json"), timeout_s=10)
    assert link.drain(100)
    link.close()


def seven_minutes_ago(home, subject):
    """What the watch would remember, had the patient scored so for seven minutes before the edge was killed."""
    ledger = BedsideLedger(FolderStorage(home / FOLDER))
    memory = msgspec.msgpack.decode(ledger.state(MEMORY), type=dict)
    watch, now_us = Bedside(lambda *_: Total(9, True), horizon_us={"pulse": 3_600_000_000}), SystemClock().now_us()
    for minute in range(8, 1, -1):
        watch.observe(subject, "pulse", now_us - minute * 60_000_000, 139.0)
        assert watch.tick(now_us - minute * 60_000_000) == []
    book = AlertBook()
    ledger.load(book)
    ledger.keep(book, {MEMORY: msgspec.msgpack.encode(memory | {"watch": watch.state(), "cursor": -1})})
    ledger.close()


@pytest.mark.timeout(360)
def test_an_alert_outlives_a_sigkill_before_it_is_delivered_and_no_hub_is_needed(site, hook, command):
    edge, home = site.lone_edge("icu-a"), site.folder / "icu-a"
    toml = home / "edge.toml"
    toml.write_text(f'{toml.read_text()}[[notify]]\nkind = "webhook"\nurl = "{hook.url}"\ngroup_s = 0.0\n')
    secret, subject = site.device("icu-a", "monitor-1", Consent.LOCAL)
    edge.start()
    edge.wait_ready(150)
    send(site, "monitor-1", secret)
    edge.kill()
    seven_minutes_ago(home, subject)

    edge.start()
    until(lambda: hook.tried)  # the eighth minute: raised, kept, and refused by the receiver
    edge.kill()
    tried = {m["message_id"] for m in hook.tried}
    hook.good = True
    edge.start()
    until(lambda: hook.taken)
    assert {m["message_id"] for m in hook.taken} == tried
    (told,) = hook.taken
    assert (told["alert_id"], told["priority"], told["category"], told["edge"]) == ("B-0001", "high", "physiological", "icu-a")
    assert subject not in json.dumps(told)
    assert not re.search(r"(?<![\d.])139(?!\d)", json.dumps(told))  # a number of its own: times and ids may hold its digits

    def alerts(*words):
        ended = command("edge", "alerts", *words, "--home", str(home))
        return ended.returncode, ended.stdout + ended.stderr

    code, shown = alerts("show", "B-0001")
    assert code == 0
    assert "patient-of-monitor-1" in shown
    assert "pulse 139 /min, respiratory-rate 27 /min, spo2 89 %" in shown
    assert "not a primary alarm" in shown
    code, said = alerts("ack", "B-0001", "--actionable")
    assert (code, said.split(" by ")[0]) == (0, "B-0001 is acknowledged")
    (row, *_) = json.loads(alerts("load", "--json")[1])["rows"]
    assert (row["alerts"], row["acknowledged"], row["actionable"]) == (1, 1.0, 1.0)
    until(lambda: len(hook.taken) == 2)  # who else was told learns that somebody is on it
    edge.stop()
    code, said = alerts("ack", "B-0001")
    assert code != 0
    assert "no edge runs" in said


def page(site, name, password, path="/"):
    """A screen as this person gets it: complete before anything is live."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    base = f"http://{LOOPBACK}:{site.ports['console']}"
    with opener.open(f"{base}/login", urllib.parse.urlencode({"name": name, "password": password}).encode(), timeout=30) as said:
        said.read()
    with opener.open(f"{base}{path}", timeout=30) as said:
        return said.read().decode()


def found_at(home, *subjects):
    """An edge's watch has found each of these patients worse."""
    (home / FOLDER).mkdir()
    ledger, book = BedsideLedger(FolderStorage(home / FOLDER)), AlertBook(prefix="B")
    facts = {"title": "NEWS2 9 or more lasts", "priority": "high", "category": "physiological", "edge": "icu-a"}
    for subject in subjects:
        book.raise_(Finding(kind="news2", subject=subject, since_us=1, detected_us=1, **facts), SystemClock().now_us())
    ledger.keep(book, {})
    ledger.close()


@pytest.mark.timeout(360)
def test_a_clinician_at_the_hub_is_told_of_whom_where_consent_lets_it_and_of_nobody_else(site):
    site.start_hub()
    edge, home = site.edge("icu-a"), site.folder / "icu-a"
    _, local = site.device("icu-a", "monitor-1", Consent.LOCAL)
    secret, raw = site.device("icu-a", "monitor-2", Consent.RAW)
    found_at(home, local, raw)
    edge.start()
    edge.wait_ready(150)
    send(site, "monitor-2", secret)  # so that the hub knows whose patient it is
    passwords = {role: site.sign_in(f"a-{role}", role) for role in ("clinician", "operator")}

    def shown(role):
        return page(site, f"a-{role}", passwords[role], "/bedside")

    until(lambda: raw in shown("clinician"), 120)
    told = shown("clinician")
    assert "NEWS2 9 or more lasts" in told
    assert "B-0001" in told
    assert local not in told
    assert raw not in shown("operator")
    kept = b"".join(p.read_bytes() for p in site.home.glob("hub.sqlite*"))
    assert b"B-0002" in kept
    assert raw.encode() not in kept


@pytest.mark.timeout(360)
def test_the_hub_is_told_how_many_are_open_at_an_edge_and_nothing_of_whom(site, command):
    site.start_hub()
    edge = site.edge("icu-a")
    _, subject = site.device("icu-a", "monitor-1", Consent.LOCAL)
    found_at(site.folder / "icu-a", subject)
    edge.start()

    passwords = {role: site.sign_in(f"a-{role}", role) for role in ("clinician", "operator")}
    with opened(site.home / "hub.sqlite") as store:
        until(lambda: store.load_state("edge-alerts") not in (None, b"{}"), 60)
    told = json.loads(command("alert", "edges", "--json", "--home", str(site.home)).stdout)
    assert told == {"icu-a": [{"alert_id": "B-0001", "priority": "high", "category": "physiological", "state": "firing"}]}
    kept = b"".join(p.read_bytes() for p in site.home.glob("hub.sqlite*"))
    assert b"B-0001" in kept
    assert subject.encode() not in kept
    assert b"NEWS2 9" not in kept
    # and the console says where to look, to who should: the number and the edge, and to others that there is something
    until(lambda: "B-0001" in page(site, "a-clinician", passwords["clinician"]))
    shown = page(site, "a-clinician", passwords["clinician"])
    assert "A patient at icu-a should be looked at: who and why stands at that edge." in shown
    assert "wardround edge alerts show B-0001" in shown
    other = page(site, "a-operator", passwords["operator"])
    assert "1 alert about patients" in other
    assert "B-0001" not in other
    assert subject not in shown + other
