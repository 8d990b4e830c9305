"""Misuses of a broker by who is not a device, and by a device that turned, at both brokers.

Judged by what the edge has kept and by what other devices heard, never by what the attacker was told: a broker may acknowledge
what it throws away. docs/security.md lists them with the names of these tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import ssl
import threading
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from tests.durability.programs import EDGE, World

from wardround.collect.mqtt_link import DeviceLink
from wardround.collect.spool import read_facts
from wardround.collect.storage import FolderStorage
from wardround.edge import EdgeHome
from wardround.records import Consent

HAVE = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
NEEDS = pytest.mark.skipif(not HAVE, reason="Mosquitto is not installed: apt-get install mosquitto")
WAIT_S = 20.0
SETTLE_S = 1.5  # after this, what was going to arrive has arrived: an honest message takes a tenth of it
# paho forgets the socket of a connection that broke while it was made
pytestmark = [
    pytest.mark.timeout(360),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning"),
]
VICTIM, ROGUE = "victim", "rogue"


class Ward(World):
    """An edge that runs, without a hub: what it takes waits in its spool. Two devices, one of which is an attacker's."""

    def make(self):
        super().make()
        home = EdgeHome.open(self.home / EDGE)
        consents = home.consents()
        self.secrets = {}
        for name in (VICTIM, ROGUE):
            self.secrets[name] = home.registry().add(name, f"patient-{name}")
            consents.set(home.pseudonyms().of(f"patient-{name}"), "*", Consent.RAW)
        consents.close()

    @property
    def port(self):
        return self.ports["mqtt"]

    @property
    def authority(self):
        return self.home / EDGE / "identity" / "ca.pem"

    def kept(self):
        return read_facts(FolderStorage(self.home / EDGE / "spool")).observations

    def client(self, username, secret, *, client_id="", clean=True, will=None):
        """Any MQTT client; `heard` are the messages it was given."""
        made = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id or username or "nobody", clean_session=clean)
        if username is not None:
            made.username_pw_set(username, secret)
        made.tls_set_context(ssl.create_default_context(cafile=self.authority))
        if will is not None:
            made.will_set(*will)
        made.heard = []
        made.on_message = lambda _c, _d, message: made.heard.append((message.topic, message.payload))
        made.reconnect_delay_set(1, 1)
        made.connect_async("127.0.0.1", self.port, keepalive=20)
        made.loop_start()
        return made


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=NEEDS)])
def ward(request, tmp_path):
    made = Ward(tmp_path, random.Random(0), broker=request.param, number=997)
    made.make()
    made.start("edge")
    assert wait((tmp_path / EDGE / "listens").exists)
    yield made
    made.__exit__()


@pytest.fixture
def attack(ward):
    """Clients of the attacker, closed at the end."""
    made = []

    def start(username=ROGUE, secret=None, **more):
        made.append(ward.client(username, ward.secrets.get(username, "") if secret is None else secret, **more))
        return made[-1]

    yield start
    for client in made:
        client.disconnect()
        client.loop_stop()


def wait(holds, within_s=WAIT_S):
    until = time.monotonic() + within_s
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.02)
    return bool(found)


def observation(value=60.0):
    return json.dumps([{"n": "heart-rate", "u": "/min", "v": value, "t": time.time()}]).encode()


class Honest:
    """The device that is not the attacker's: numbers its messages, and keeps each until its receipt."""

    def __init__(self, ward):
        self.receipted, self.lost = [], threading.Event()
        self.link = DeviceLink(
            VICTIM,
            ward.secrets[VICTIM],
            boot="life",
            host="127.0.0.1",
            port=ward.port,
            authority=ward.authority,
            on_receipted=self.receipted.extend,
        )
        self._sent = 0
        assert wait(self.link._client.is_connected)
        self.link._client.on_disconnect = lambda *_: self.lost.set()

    def report(self, number=1):
        for _ in range(number):
            self._sent = self.link.publish(observation(60.0 + self._sent), timeout_s=WAIT_S)
        assert self.link.drain(WAIT_S)


@pytest.fixture
def honest(ward):
    made = Honest(ward)
    yield made
    made.link.close()


def publish(client, topic, payload, *, qos=1):
    """As far as the broker lets it; whatever it says is not asked."""
    wait(client.is_connected, 3.0)
    client.publish(topic, payload, qos=qos)
    time.sleep(0.05)


# -- who is nobody


@pytest.mark.parametrize(
    ("username", "secret"),
    [
        (None, ""),
        ("", ""),
        ("stranger", "secret"),
        (VICTIM, "guess"),
        (VICTIM, ""),
        (VICTIM, "another device's"),
        ("wardround-collector", "another device's"),
        (VICTIM + "\u0000", "guess"),
    ],
)
def test_who_is_not_a_device_delivers_nothing(ward, attack, honest, username, secret):
    known = ward.secrets[ROGUE] if secret == "another device's" else secret
    with contextlib.suppress(ValueError):  # the client library itself refuses some names
        stranger = attack(username, known)
        for topic in (f"wr/dev/{VICTIM}/up", f"wr/dev/{username}/up"):
            publish(stranger, topic, observation())
    honest.report()
    time.sleep(SETTLE_S)
    assert ward.kept() == 1  # the honest one's


def test_plain_text_on_the_tls_port_delivers_nothing(ward, honest):
    plain = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="plain")
    plain.username_pw_set(VICTIM, ward.secrets[VICTIM])  # even with the right secret
    with contextlib.suppress(OSError):
        plain.connect("127.0.0.1", ward.port)
    plain.loop_start()
    plain.publish(f"wr/dev/{VICTIM}/up", observation(), qos=1)
    honest.report()
    time.sleep(SETTLE_S)
    plain.loop_stop()
    assert ward.kept() == 1


def test_tls_below_1_2_is_refused(ward):
    def version(newest):
        context = ssl.create_default_context(cafile=ward.authority)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
        with context.wrap_socket(socket.create_connection(("127.0.0.1", ward.port), 5), server_hostname="127.0.0.1") as tls:
            return tls.version()

    assert version(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert version(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        version(ssl.TLSVersion.TLSv1_1)


# -- a device that turned


@pytest.mark.parametrize(
    "topic",
    [
        f"wr/dev/{VICTIM}/up",
        f"wr/dev/{VICTIM}/up/life/1",
        f"wr/dev/{ROGUE}/../{VICTIM}/up",
        "wr/dev//up",
        "wr",
        f"wr/dev/{ROGUE}",
    ],
)
def test_a_device_cannot_report_as_another(ward, attack, honest, topic):
    publish(attack(), topic, observation())
    honest.report()
    time.sleep(SETTLE_S)
    assert ward.kept() == 1


@pytest.mark.parametrize("topic", ["#", "wr/#", "wr/dev/+/up/#", f"wr/dev/{VICTIM}/down/#", f"wr/dev/{VICTIM}/up/#", "$SYS/#"])
def test_a_device_hears_nothing_of_another(ward, attack, honest, topic):
    spy = attack()
    assert wait(spy.is_connected)
    spy.subscribe(topic, qos=1)
    time.sleep(0.3)
    honest.report(3)
    time.sleep(SETTLE_S)
    assert spy.heard == []
    assert ward.kept() == 3


def listens_for_receipts(ward, attack):
    """A second connection of the victim's own, which hears what the victim would."""
    ear = attack(VICTIM, client_id="ear")
    assert wait(ear.is_connected)
    ear.subscribe(f"wr/dev/{VICTIM}/down/#", qos=1)
    time.sleep(0.3)
    return ear


def test_a_device_cannot_forge_a_receipt(ward, attack):
    """A forged receipt would have the victim forget what the edge has never had."""
    ear = listens_for_receipts(ward, attack)
    forged = json.dumps({"boot": "life", "seq": 1_000}).encode()
    publish(attack(), f"wr/dev/{VICTIM}/down/receipt", forged)
    time.sleep(SETTLE_S)
    assert ear.heard == []


def test_a_last_will_cannot_forge_a_receipt_or_a_report(ward, attack):
    """A broker publishes a will in its own name, when the connection breaks."""
    ear = listens_for_receipts(ward, attack)
    forged = json.dumps({"boot": "life", "seq": 1_000}).encode()
    for topic, payload in ((f"wr/dev/{VICTIM}/down/receipt", forged), (f"wr/dev/{VICTIM}/up", observation())):
        rogue = ward.client(ROGUE, ward.secrets[ROGUE], will=(topic, payload, 1, False))
        wait(rogue.is_connected, 3.0)
        rogue.loop_stop()
        with contextlib.suppress(OSError, AttributeError):
            rogue.socket().shutdown(socket.SHUT_RDWR)  # without a goodbye
    time.sleep(SETTLE_S)
    assert ear.heard == []
    assert ward.kept() == 0


@pytest.mark.parametrize("who", [ROGUE, "stranger"])
@pytest.mark.parametrize("clean", [True, False])
def test_nobody_ends_or_takes_over_another_session_by_its_identifier(ward, attack, honest, who, clean):
    """MQTT gives an identifier to whoever claims it last; the victim's is its name."""
    honest.report(2)
    thief = attack(who, client_id=VICTIM, clean=clean)
    publish(thief, f"wr/dev/{VICTIM}/up", observation())
    honest.report(3)
    time.sleep(SETTLE_S)
    assert not honest.lost.is_set()
    assert thief.heard == []
    assert ward.kept() == 5


def test_an_identifier_of_the_edges_own_collector_disturbs_nothing(ward, attack, honest):
    thief = attack(ROGUE, client_id="wardround-collector", clean=False)
    assert wait(thief.is_connected, 5.0)
    honest.report(3)
    time.sleep(SETTLE_S)
    assert thief.heard == []
    assert ward.kept() == 3


# -- too much


def test_an_oversized_message_is_not_kept_and_the_broker_goes_on(ward, attack, honest):
    publish(attack(), f"wr/dev/{ROGUE}/up", b"[" + b" " * 9_000_000, qos=1)
    honest.report(2)
    time.sleep(SETTLE_S)
    assert ward.kept() == 2


def test_silent_connections_keep_no_device_out(ward):
    """More than half of the broker's places, with TLS and without a word."""
    context = ssl.create_default_context(cafile=ward.authority)
    silent = [
        context.wrap_socket(socket.create_connection(("127.0.0.1", ward.port), 5), server_hostname="127.0.0.1") for _ in range(60)
    ]
    try:
        honest = Honest(ward)
        honest.report()
        honest.link.close()
        if ward.broker == "embedded":  # Mosquitto drops them after a minute
            silent[0].settimeout(20)
            assert silent[0].recv(1) == b""
    finally:
        for connection in silent:
            connection.close()
    assert ward.kept() == 1


def test_rubbish_instead_of_mqtt_disturbs_nobody(ward, honest):
    chance = random.Random(1)
    context = ssl.create_default_context(cafile=ward.authority)
    for size in (1, 2, 20, 2_000, 100_000):
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(socket.create_connection(("127.0.0.1", ward.port), 5), server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(chance.randbytes(size))
    honest.report(2)
    assert not honest.lost.is_set()
    assert ward.kept() == 2
