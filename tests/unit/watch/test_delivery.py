"""What leaves the hub, when, and what becomes of it when nobody takes it."""

from __future__ import annotations

import threading
import time

import msgspec
import pytest

from wardround.clock import ManualClock
from wardround.errors import SettingsError
from wardround.settings import NotifySettings
from wardround.watch.alerts import AlertBook, Finding, Response
from wardround.watch.delivery import outbox as outbox_module
from wardround.watch.delivery.messages import Origin, body, message, subject, text
from wardround.watch.delivery.outbox import GIVE_UP_S, Outbox, Route
from wardround.watch.delivery.routes import routes
from wardround.watch.delivery.sinks import Alertmanager, DeliveryFailed, Mail, Webhook
from wardround.watch.detectors.sensors import SensorChange
from wardround.watch.sensor_findings import FLAGGED, sensor_finding

ORIGIN = Origin(hub="hub", site="St. Anne", simulated=True, console="https://hub.example")


def finding(kind="edge-silent", edge="icu-a", **changes):
    facts = {"kind": kind, "title": f"{kind} at {edge}", "priority": "medium", "category": "technical", "edge": edge}
    return Finding(**{**facts, "since_us": 0, "detected_us": 1, "action": "Look.", **changes})


class Told:
    """A sink that remembers; `broken` says why it takes nothing now."""

    def __init__(self):
        self.groups, self.broken, self.tries, self.refreshed = [], "", 0, 0
        self.hold = threading.Event()
        self.hold.set()

    def send(self, messages):
        self.tries += 1
        assert self.hold.wait(20)
        if self.broken:
            raise DeliveryFailed(self.broken)
        self.groups.append([m.alert_id for m in messages])

    def refresh(self, alerts):
        self.refreshed += 1


@pytest.fixture
def world(tmp_path):
    opened = []

    class World:
        clock = ManualClock()

        def outbox(self, **routes_):
            made = Outbox(tmp_path / "outbox.sqlite", [Route(n, **r) for n, r in routes_.items()], self.clock, list)
            opened.append(made)
            made.start()
            return made

        def until(self, holds, seconds=10):
            end = time.monotonic() + seconds
            while not holds():
                assert time.monotonic() < end, "it never came"
                time.sleep(0.01)

    yield World()
    for made in opened:
        made.close()


def alerts(count, kind="edge-silent", book=None, **changes):
    book = book or AlertBook()
    return [book.raise_(finding(kind, f"e{i}", **changes), 1_000_000) for i in range(count)]


def test_no_patient_data_leaves():
    book = AlertBook()
    alert = book.raise_(
        finding(
            "news2",
            category="physiological",
            title="NEWS2 9, heart rate 141 of pseudonym-77",
            subject="pseudonym-77",
            device="wristband-9",
            detail="heart rate 141",
            evidence=((1.0, 141.0),),
            action="Give oxygen to pseudonym-77",
        ),
        1,
        Response(what="told the ward about 141"),
    )
    for out in (str(body([message(alert)], ORIGIN)), text([message(alert)], ORIGIN), subject([message(alert)])):
        assert not [secret for secret in ("141", "pseudonym-77", "wristband-9", "news2") if secret in out]
        assert "icu-a" in out
    assert "SIMULATED" in text([message(alert)], ORIGIN)


def made_of(name, what, second=""):
    """The alert that the watch of a hub raises about a device of this name."""
    change = SensorChange(what, False, "icu-a", name, "" if what == "device" else f"loinc:{second or '1'}", 0, 9.0)
    return sensor_finding(change, lambda code: f"Signal {code}", 1)


@pytest.mark.parametrize("what", ["flat", "silent", "device"])
def test_no_name_of_a_device_leaves_as_it_may_be_a_patients(what):
    alert = AlertBook().raise_(made_of("anna-svensson-watch", what), 1, FLAGGED)
    sink = Alertmanager("http://127.0.0.1:1", ORIGIN)
    out = message(alert)
    for left in (str(body([out], ORIGIN)), text([out], ORIGIN), subject([out]), str(sink._alert(out)), repr(out)):
        assert "anna" not in left
        assert "svensson" not in left
        assert "a device at icu-a" in left
    assert "wardround alert show A-0001" in out.action
    bare = message(AlertBook().raise_(finding("new-kind", device="anna-svensson-watch", title="anna-svensson-watch!"), 1))
    assert bare.title == "A device at icu-a should be looked at"


def test_every_title_of_a_finding_about_a_device_has_one_without_it():
    """Whatever is raised about a device says what it is without the name: the words of every change of a sensor."""
    for what in ("flat", "silent", "device"):
        found = made_of("d-77", what)
        assert "d-77" in found.title
        assert found.title_out
        assert "d-77" not in found.title_out


def test_two_devices_and_two_signals_of_one_edge_are_two_alerts_to_alertmanager():
    book, sink = AlertBook(), Alertmanager("http://127.0.0.1:1", ORIGIN)
    found = [made_of("d-1", "flat"), made_of("d-2", "flat"), made_of("d-2", "flat", "2"), finding(), finding(signal="identity")]
    labels = [sink._alert(message(book.raise_(one, 1)))["labels"] for one in found]
    assert len({tuple(sorted(one.items())) for one in labels}) == len(found)
    assert "alert" not in labels[3]  # what its labels tell apart keeps its identity when it comes back under another number


def test_the_same_state_has_the_same_id_and_another_state_has_another():
    book = AlertBook()
    first = message(book.raise_(finding(), 5))
    again = AlertBook()
    again.restore(book.save())
    assert message(again.alerts()[0]) == first
    assert message(book.acknowledge(first.alert_id, "oncall", 9)).message_id != first.message_id


def test_what_is_not_urgent_goes_together_and_what_is_urgent_goes_at_once(world):
    sink = Told()
    box = world.outbox(pager={"sink": sink, "group_s": 10.0})
    book = AlertBook()
    for alert in (*alerts(3, book=book), *alerts(1, "model-diverged", book=book, priority="high")):
        box.put(alert)
    world.until(lambda: sink.groups)
    time.sleep(0.1)
    assert sink.groups == [["A-0004"]]
    world.clock.advance(11.0)
    world.until(lambda: len(sink.groups) == 2)
    assert sink.groups[1] == ["A-0001", "A-0002", "A-0003"]


def test_a_sink_gets_what_it_is_for(world):
    everything, urgent, second = Told(), Told(), Told()
    box = world.outbox(
        all={"sink": everything, "priority_min": "info", "group_s": 0.0},
        urgent={"sink": urgent, "priority_min": "high", "group_s": 0.0},
        second={"sink": second, "level": 1, "group_s": 0.0},
    )
    book = AlertBook()
    high = book.raise_(finding(priority="high"), 0)
    for alert in (high, book.raise_(finding("note", priority="info"), 0)):
        box.put(alert)
    world.until(lambda: sum(map(len, everything.groups)) == 2)
    world.until(lambda: urgent.groups == [[high.alert_id]])
    assert second.groups == []
    (escalated,) = book.tick(10**12)
    box.put(escalated)
    world.until(lambda: second.groups == [[high.alert_id]])
    book.silence({"kind": "quiet"}, until_us=10**15, who="x", reason="", now_us=0)
    box.put(book.raise_(finding("quiet", priority="high"), 0))
    time.sleep(0.1)
    assert sum(map(len, everything.groups)) == 3  # and not the silenced one


def test_a_sink_that_hangs_holds_up_no_other(world):
    hung, well = Told(), Told()
    hung.hold.clear()
    box = world.outbox(hung={"sink": hung, "group_s": 0.0}, well={"sink": well, "group_s": 0.0})
    for alert in alerts(2):
        box.put(alert)
    world.until(lambda: sum(map(len, well.groups)) == 2)
    assert box.states()["hung"].waiting == 2
    hung.hold.set()
    world.until(lambda: box.states()["hung"].waiting == 0)


def test_what_a_sink_refuses_is_tried_again_behind_what_it_takes_and_given_up_in_the_end(world):
    sink = Told()
    sink.broken = "it answered 500"
    box = world.outbox(pager={"sink": sink, "group_s": 0.0})
    book = AlertBook()
    first, other, last = (alerts(1, kind, book)[0] for kind in ("edge-silent", "round-abandoned", "input-drift"))
    box.put(first)
    world.until(lambda: sink.tries)
    world.until(lambda: box.states()["pager"].failing == "it answered 500")
    sink.broken = ""
    box.put(other)
    world.until(lambda: len(sink.groups) == 1)
    world.clock.advance(5.0)
    world.until(lambda: len(sink.groups) == 2)
    assert box.states()["pager"].waiting == 0
    sink.broken = "gone for ever"
    box.put(last)
    for _ in range(3):
        world.clock.advance(GIVE_UP_S)
        time.sleep(0.7)
    world.until(lambda: box.states()["pager"].given_up == 1)
    assert box.states()["pager"].waiting == 0


def test_messages_survive_the_process_and_what_was_delivered_is_not_sent_again(world):
    broken, sink = Told(), Told()
    broken.broken = "away"
    made = alerts(2)
    box = world.outbox(pager={"sink": broken, "group_s": 0.0})
    for alert in made:
        box.put(alert)
    world.until(lambda: broken.tries)
    box.close()
    world.clock.advance(400.0)
    again = world.outbox(pager={"sink": sink, "group_s": 0.0})
    for alert in made:  # as a hub does when it starts
        again.put(alert)
    world.until(lambda: sum(map(len, sink.groups)) == 2)
    for alert in made:
        again.put(alert)
    time.sleep(0.2)
    assert sorted(id_ for group in sink.groups for id_ in group) == [a.alert_id for a in made]


def test_a_sink_is_told_that_the_monitor_lives(world):
    sink = Told()
    world.outbox(pager={"sink": sink, "refresh_s": 60.0})
    world.until(lambda: sink.refreshed == 1)
    world.clock.advance(61.0)
    world.until(lambda: sink.refreshed == 2)


def test_an_outbox_is_bounded(world, monkeypatch):
    monkeypatch.setattr(outbox_module, "WAITING_MAX", 3)
    sink = Told()
    box = world.outbox(pager={"sink": sink, "group_s": 1_000.0})
    for alert in alerts(5):
        box.put(alert)
    assert (box.states()["pager"].waiting, box.states()["pager"].given_up) == (3, 2)


def test_a_full_disk_stops_nobody_and_what_could_not_be_kept_is_put_again(world):
    sink, made = Told(), alerts(300)
    box = world.outbox(pager={"sink": sink, "group_s": 1_000.0})
    box._db.execute("PRAGMA max_page_count = 8")  # SQLite then says what it says on a full disk
    for alert in made:
        box.put(alert)
    kept = box.states()["pager"].waiting
    assert box.behind
    assert kept < len(made)
    box._db.execute("PRAGMA max_page_count = 100000")
    box.behind = False
    for alert in made:
        box.put(alert)
    assert (box.states()["pager"].waiting, box.behind) == (len(made), False)


def entry(**changes):
    return msgspec.convert(changes, NotifySettings)


def test_routes_from_settings(tmp_path):
    secret = tmp_path / "slack.url"
    secret.write_text("https://hooks.example/T0/secret\n")
    secret.chmod(0o600)
    made = routes(
        [
            entry(kind="webhook", url_file="slack.url"),
            entry(kind="webhook", url="http://127.0.0.1:9/x", level=1),
            entry(kind="alertmanager", url="http://127.0.0.1:9093"),
            entry(kind="smtp", url="smtp://ward@mail.example:587", sender="a@b.c", to=["d@e.f"], password_file="slack.url"),
        ],
        tmp_path,
        ORIGIN,
        lambda path, data: path.write_bytes(data),
    )
    assert [(r.name, type(r.sink), r.level, r.refresh_s) for r in made] == [
        ("webhook", Webhook, 0, 0.0),
        ("webhook-2", Webhook, 1, 0.0),
        ("alertmanager", Alertmanager, 0, 60.0),
        ("smtp", Mail, 0, 0.0),
    ]
    assert made[0].sink.url == "https://hooks.example/T0/secret"
    assert "secret" not in repr(made[3].sink).replace("slack", "")
    assert made[0].sink.key == made[1].sink.key == (tmp_path / "webhook.key").read_bytes()


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # Apprise's
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "webhook"}, "no address"),
        ({"kind": "webhook", "url": "ftp://x/y"}, "ftp is no address"),
        ({"kind": "webhook", "url": "http://a:b@x/y"}, "password stands in the address"),
        ({"kind": "webhook", "url_file": "none"}, "cannot be read"),
        ({"kind": "webhook", "url_file": "open.url"}, "read by others"),
        ({"kind": "smtp", "url": "smtp://x"}, "mail addresses"),
        ({"kind": "smtp", "url": "smtp://x", "sender": "a@b", "to": ["x\ny@z"]}, "mail addresses"),
        ({"kind": "apprise", "url": "nothing://x"}, "does not know"),
    ],
)
def test_an_entry_that_cannot_work_is_refused_by_name(changes, words, tmp_path):
    (tmp_path / "open.url").write_text("https://x")
    (tmp_path / "open.url").chmod(0o644)
    with pytest.raises(SettingsError, match=words):
        routes([entry(**changes)], tmp_path, ORIGIN, lambda *_: None)
