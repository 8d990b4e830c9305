"""Alerts on their way: a process killed again and again before a webhook that fails, a mail server, Apprise, Alertmanager."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import multiprocessing as mp
import os
import random
import re
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wardround.clock import SystemClock
from wardround.ports import LOOPBACK, free_port
from wardround.trust.certificates import Authority, key_pem, new_key
from wardround.watch.alerts import AlertBook, Finding
from wardround.watch.delivery.messages import Origin, message
from wardround.watch.delivery.outbox import Outbox, Route
from wardround.watch.delivery.sinks import Alertmanager, Apprise, DeliveryFailed, Mail, Webhook
from wardround.watch.metrics import EdgeFacts, Facts, Metrics

ORIGIN = Origin(hub="hub", site="St. Anne")
KEY = b"k" * 32
ALERTS = 100


def finding(number, **changes):
    facts = {"kind": "edge-silent", "title": f"edge {number} is silent", "priority": "high", "category": "technical"}
    return Finding(**{**facts, "since_us": 1_000_000, "detected_us": 1_000_000, "edge": f"e{number}", **changes})


def until(holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


# -- a webhook that fails, hangs and answers 500 at random, before a process that is killed


class Moody(BaseHTTPRequestHandler):
    """Takes about half of what it is given; what it takes is noted before the answer, as a receiver does."""

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        world = self.server.world
        mood = world.chance.random()
        if mood < 0.15:
            return self.send_error(500)
        if mood < 0.25:
            time.sleep(0.3)  # hangs, and closes without an answer
            return None
        expected = "sha256=" + hmac.new(KEY, data, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(self.headers["X-Wardround-Signature"], expected)
        for alert in json.loads(data)["alerts"]:
            world.taken.append((alert["message_id"], alert["alert_id"]))
        if mood < 0.4:
            return None  # taken, and the answer is lost
        self.send_response(204)
        self.end_headers()
        return None

    def log_message(self, *_):
        pass


class Receiver:
    def __init__(self):
        self.chance, self.taken = random.Random(1), []
        self.server = ThreadingHTTPServer((LOOPBACK, 0), Moody)
        self.server.daemon_threads = True
        self.server.world = self
        self.url = f"http://{LOOPBACK}:{self.server.server_port}/hook"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def raise_alerts(folder, url):
    """A hub's part of it: the book is saved, then the outbox is told; on a start, both go on from where the disk says."""
    from wardround.watch.delivery import outbox as module

    module.RETRY_S_MIN = 0.05
    book, saved = AlertBook(), folder / "book"
    if saved.exists():
        book.restore(saved.read_bytes())
    box = Outbox(folder / "outbox.sqlite", [Route("hook", Webhook(url, KEY, ORIGIN))], SystemClock(), list)
    for alert in book.alerts():
        box.put(alert)
    box.start()
    for number in range(len(book.alerts()), ALERTS):
        alert = book.raise_(finding(number), SystemClock().now_us())
        draft = folder / "book.draft"
        draft.write_bytes(book.save())
        draft.replace(saved)
        box.put(alert)
        time.sleep(0.01)
    while box.states()["hook"].waiting:
        time.sleep(0.02)
    (folder / "done").touch()
    time.sleep(60)


@pytest.mark.timeout(360)
def test_100_alerts_reach_a_moody_webhook_through_kills_and_twice_is_the_same_id(tmp_path):
    chance, context = random.Random(2), mp.get_context("forkserver")

    def raised():
        book = AlertBook()
        with contextlib.suppress(FileNotFoundError):
            book.restore((tmp_path / "book").read_bytes())
        return len(book.alerts())

    with Receiver() as receiver:
        for part in (
            *range(10, ALERTS, 15),
            None,
        ):  # killed after so many alerts, somewhere in what it does then; the last one is not
            process = context.Process(target=raise_alerts, args=(tmp_path, receiver.url), daemon=True)
            process.start()
            try:
                until((tmp_path / "done").exists if part is None else lambda part=part: raised() >= part, 60)
                time.sleep(chance.uniform(0.0, 0.1))
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.join(10)
    book = AlertBook()
    book.restore((tmp_path / "book").read_bytes())
    expected = {message(a).message_id for a in book.alerts()}
    assert {m for m, _ in receiver.taken} == expected
    assert len(expected) == ALERTS
    assert len(receiver.taken) > ALERTS  # an answer was lost now and then: the same message came twice, with the same id
    assert len({m for m, _ in receiver.taken}) == len({a for _, a in receiver.taken})


# -- mail


class MailServer(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as a client needs, with STARTTLS and AUTH PLAIN."""

    def handle(self):
        world = self.server.world
        self.say("220 mail.test ESMTP")
        secret = False
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "EHLO":
                self.say("250-mail.test")
                self.say("250 AUTH PLAIN" if secret else "250 STARTTLS")
            elif verb == "STARTTLS":
                self.say("220 go on")
                try:
                    self.connection = world.context.wrap_socket(self.connection, server_side=True)
                except ssl.SSLError:  # the client does not trust us
                    self.connection.detach()
                    return
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
                secret = True
            elif verb == "AUTH":
                world.logins.append((line.split()[-1], secret))
                self.say("235 welcome")
            elif verb == "DATA":
                self.say("354 go on")
                lines = []
                while (text := self.rfile.readline().decode()) != ".\r\n":
                    lines.append(text)
                world.mails.append("".join(lines))
                self.say("250 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                self.connection.close()
                return
            else:
                self.say("250 ok")

    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")


@contextlib.contextmanager
def mail_server(tmp_path):
    authority = Authority.create(tmp_path / "pki", "test")
    key = new_key()
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    (tmp_path / "cert.pem").write_bytes(authority.issue_hub("mail", key.public_key(), [LOOPBACK], 1.0))

    class World:
        mails, logins = [], []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trusts = ssl.create_default_context(cadata=authority.pem.decode())

    World.context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), MailServer) as server:
        server.daemon_threads = True
        server.world = World
        threading.Thread(target=server.serve_forever, daemon=True).start()
        World.port = server.server_address[1]
        yield World
        server.shutdown()


def test_a_mail_goes_over_tls_with_the_password_and_says_what_people_need(tmp_path):
    alert = AlertBook().raise_(
        finding(1, action="Check the power.", title="edge 1 is silent\r\nBcc: x@y.z"), 1_700_000_000_000_000
    )
    with mail_server(tmp_path) as world:
        url = f"smtp://ward@{LOOPBACK}:{world.port}"
        mail = Mail(url, "wardround@site.example", ("oncall@site.example",), "secret", ORIGIN, lambda: world.trusts)
        mail.send([message(alert)])
        with pytest.raises(DeliveryFailed):  # a server that we have no reason to trust gets neither password nor mail
            Mail(url, "a@b.c", ("d@e.f",), "secret", ORIGIN).send([message(alert)])
    assert [secret for _, secret in world.logins] == [True]
    (mail_,) = world.mails
    assert "Subject: [high] edge 1 is silent  Bcc: x@y.z" in mail_
    assert "\nBcc:" not in mail_.partition("\r\n\r\n")[0]
    assert "to do: Check the power." in mail_
    assert "Message-ID: <A-0001-1700000000000000@hub.wardround>" in mail_
    assert "not rely on it as a primary alarm" in mail_


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # Apprise's
def test_apprise_reaches_a_service_and_says_when_it_does_not():
    alert = AlertBook().raise_(finding(1), 1_000_000)
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sink = Apprise(f"json://{LOOPBACK}:{server.server_port}/", ORIGIN)
        sink.send([message(alert)])
        server.shutdown()
    assert got[0]["title"] == "[high] edge 1 is silent"
    with pytest.raises(DeliveryFailed):
        sink.send([message(alert)])


# -- Prometheus' Alertmanager, as Debian has it

needs_alertmanager = pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None, reason="Debian's prometheus-alertmanager is not installed"
)
CONFIG = """\
route:
  receiver: hook
  group_by: [alertname, hub]
  group_wait: 1s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: hook
    webhook_configs:
      - url: {url}
        send_resolved: true
"""


class Groups:
    """What Alertmanager tells its own receiver."""

    def __init__(self):
        self.told = []
        groups = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                groups.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://{LOOPBACK}:{self.server.server_port}/"

    def of(self, name, status):
        return [
            {a["labels"].get("edge", "") for a in g["alerts"] if a["status"] == status}
            for g in self.told
            if g["groupLabels"].get("alertname") == name and g["status"] == status
        ]


class Manager:
    def __init__(self, folder: Path, config: str) -> None:
        (folder / "config.yml").write_text(config)
        self.folder, self.port = folder, free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.process = None

    def start(self):
        command = [
            "prometheus-alertmanager",
            f"--config.file={self.folder}/config.yml",
            f"--storage.path={self.folder}/data",
            f"--web.listen-address={LOOPBACK}:{self.port}",
            "--cluster.listen-address=",
        ]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        until(self.ready, 20)

    def ready(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
            return answer.status == 200
        return False

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


@needs_alertmanager
@pytest.mark.timeout(360)
def test_alertmanager_groups_silences_and_resolves_and_learns_again_after_a_restart_of_either_side(tmp_path):
    groups = Groups()
    manager = Manager(tmp_path, CONFIG.format(url=groups.url))
    manager.start()
    try:
        sink, book, clock = Alertmanager(manager.url, ORIGIN), AlertBook(), SystemClock()
        made = [book.raise_(finding(n), clock.now_us()) for n in (1, 2)]
        sink.send([message(a) for a in made])
        until(lambda: {"e1", "e2"} in groups.of("WardroundEdgeSilent", "firing"), 20)  # one message for both

        silence = {
            "matchers": [{"name": "edge", "value": "e3", "isRegex": False, "isEqual": True}],
            "startsAt": "2020-01-01T00:00:00Z",
            "endsAt": "2100-01-01T00:00:00Z",
            "createdBy": "test",
            "comment": "works",
        }
        data = json.dumps(silence).encode()
        request = urllib.request.Request(f"{manager.url}/api/v2/silences", data, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=5).close()
        sink.send([message(book.raise_(finding(3), clock.now_us()))])

        over = book.clear(finding(1).fingerprint, clock.now_us())
        sink.send([message(over)])
        until(
            lambda: [g for g in groups.told for a in g["alerts"] if (a["status"], a["labels"]["edge"]) == ("resolved", "e1")], 20
        )
        assert not [g for g in groups.told for a in g["alerts"] if a["labels"].get("edge") == "e3"]

        manager.stop()
        shutil.rmtree(tmp_path / "data")  # it forgets everything, and is told again by the next sign of life
        with pytest.raises(DeliveryFailed):
            sink.refresh(book.open_alerts())
        groups.told.clear()
        manager.start()
        again = AlertBook()  # and so is a hub that was started again
        again.restore(book.save())
        Alertmanager(manager.url, ORIGIN).refresh(again.open_alerts())
        until(lambda: [g for g in groups.told if g["groupLabels"].get("alertname") == "WardroundEdgeSilent"], 20)
        known = json.load(urllib.request.urlopen(f"{manager.url}/api/v2/alerts", timeout=5))
        assert {a["labels"].get("edge", "") for a in known} == {"e2", "e3", ""}  # the last is the watchdog
    finally:
        manager.stop()
        groups.server.shutdown()
        groups.server.server_close()


def test_nobody_there_is_a_failed_delivery_not_a_fault():
    alert = AlertBook().raise_(finding(1), 1_000_000)
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
    for sink in (Webhook(f"http://{LOOPBACK}:{port}/", KEY, ORIGIN), Alertmanager(f"http://{LOOPBACK}:{port}", ORIGIN)):
        with pytest.raises(DeliveryFailed):
            sink.send([message(alert)])


# -- the whole way: an edge falls silent, people are told, and act from the command line


@pytest.mark.timeout(360)
def test_an_edge_falls_silent_and_people_are_told_and_act(site, command):
    with Receiver() as receiver:
        receiver.chance = random.Random()
        receiver.chance.random = lambda: 1.0  # in a good mood
        toml = site.home / "hub.toml"
        toml.write_text(toml.read_text() + f'[[notify]]\nkind = "webhook"\nurl = "{receiver.url}"\ngroup_s = 0.0\n')
        key = site.home / "webhook.key"
        key.write_bytes(KEY)
        key.chmod(0o600)
        site.start_hub()

        def alert(*words):
            ended = command("alert", *words, "--home", str(site.home))
            return ended.returncode, ended.stdout + ended.stderr

        code, said = alert("test")
        assert (code, said.strip()) == (0, "sent to webhook")
        until(lambda: receiver.taken, 20)
        edge = site.edge("icu-a")
        edge.start()
        edge.wait_ready(150)
        until(lambda: "edge attached" in (site.folder / "hub.log").read_text(), 20)
        edge.stop()
        until(lambda: "A-0001" in [a for _, a in receiver.taken], 30)
        assert "acknowledged" in alert("ack", "A-0001")[1]
        code, said = alert("silence", "edge=icu-*", "--for", "2h", "--reason", "works on the ward")
        assert (code, said.split()[0]) == (0, "S-0001")
        shown = json.loads(alert("list", "--json")[1])[0]
        assert (shown["finding"]["title"], shown["silenced_by"], shown["state"]) == ("icu-a is silent", "S-0001", "acknowledged")
        assert "works on the ward" in alert("silences")[1]
        shown = alert("show", "A-0001")[1]
        assert "Check the power and the link of icu-a." in shown
        assert "acknowledged" in shown
        code, said = alert("silence", "patient=x")
        assert code != 0
        assert "no label `patient`" in said
        edge.start()
        until(lambda: len([a for _, a in receiver.taken if a == "A-0001"]) >= 3, 30)  # firing, acknowledged, resolved
        assert "Nothing is wrong" in alert("list")[1]


# -- Prometheus, as Debian has it, over our /metrics and our rules

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed")
PROMETHEUS = """\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
scrape_configs:
  - job_name: wardround
    static_configs: [{{targets: ["{target}"]}}]
rule_files: [{rules}]
alerting:
  alertmanagers: [{{static_configs: [{{targets: ["{manager}"]}}]}}]
"""


@needs_prometheus
@needs_alertmanager
@pytest.mark.timeout(360)
def test_prometheus_fires_our_rules_and_alertmanager_tells_and_is_told_when_it_is_over(tmp_path):
    """The product's own rules, with seconds instead of their minutes; every part is killed and started again once."""
    state = {"up": True}
    metrics = Metrics(lambda: Facts(edges=[EdgeFacts("e1", up=state["up"]), EdgeFacts("e2", up=state["up"])]))
    target = metrics.serve(LOOPBACK, free_port())
    rules = (Path(__file__).parents[2] / "deploy/prometheus/wardround.rules.yml").read_text()
    (tmp_path / "rules.yml").write_text(re.sub(r"for: \d+m", "for: 1s", rules))
    groups = Groups()
    manager = Manager(tmp_path, CONFIG.format(url=groups.url).replace("[alertname, hub]", "[alertname]"))
    manager.start()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        PROMETHEUS.format(target=f"{LOOPBACK}:{target}", rules=tmp_path / "rules.yml", manager=f"{LOOPBACK}:{manager.port}")
    )
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--rules.alert.resend-delay=1s",
    ]

    def start():
        with (tmp_path / "prometheus.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    prometheus = start()
    try:
        until(lambda: groups.of("WardroundWatchdog", "firing"), 40)
        assert not groups.of("WardroundEdgeDown", "firing")
        state["up"] = False
        until(lambda: {"e1", "e2"} in groups.of("WardroundEdgeDown", "firing"), 30)  # one message for both
        prometheus.kill()
        prometheus.wait(10)
        manager.stop()
        shutil.rmtree(tmp_path / "data")
        groups.told.clear()
        manager.start()
        prometheus = start()
        until(lambda: {"e1", "e2"} in groups.of("WardroundEdgeDown", "firing"), 40)  # told again by itself
        state["up"] = True
        until(lambda: {"e1", "e2"} in groups.of("WardroundEdgeDown", "resolved"), 40)
    finally:
        prometheus.kill()
        prometheus.wait(10)
        manager.stop()
        metrics.close()
        groups.server.shutdown()
        groups.server.server_close()
