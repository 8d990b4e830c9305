"""The same promises at both brokers: the one inside the edge, and Mosquitto."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import threading
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from tests.durability.programs import EDGE, World

from wardround.collect.mqtt_link import DeviceLink, _tls
from wardround.collect.spool import read_facts
from wardround.collect.storage import FolderStorage
from wardround.edge import EdgeHome

HAVE = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
NEEDS = pytest.mark.skipif(not HAVE, reason="Mosquitto is not installed: apt-get install mosquitto")
BOTH = pytest.mark.parametrize("world", ["embedded", pytest.param("mosquitto", marks=NEEDS)], indirect=True)
WAIT_S = 20.0
# paho forgets the socket of a connection that broke while it was made
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def world(request, tmp_path):
    """An edge that runs, and no hub: what it takes waits in its spool."""
    made = World(tmp_path, random.Random(0), broker=request.param, number=998)
    made.make()
    made.start("edge")
    assert wait((tmp_path / EDGE / "listens").exists)
    yield made
    made.__exit__()


def wait(holds) -> bool:
    until = time.monotonic() + WAIT_S
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.02)
    return bool(found)


class Plain:
    """Any MQTT client, with what it was told."""

    def __init__(self, world, name, secret, *, protocol=MQTTProtocolVersion.MQTTv311):
        clean = None if protocol is MQTTProtocolVersion.MQTTv5 else False
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean, protocol=protocol)
        self.client.username_pw_set(name, secret)
        self.client.tls_set_context(_tls(world.home / EDGE / "identity" / "ca.pem"))
        self.acknowledged, self.heard, self.reasons = [], [], []
        self.client.on_publish = lambda _c, _d, mid, reason, _p: self.acknowledged.append(mid)
        self.client.on_message = lambda _c, _d, message: self.heard.append(message.topic)
        self.client.on_connect = lambda _c, _d, _f, reason, _p: self.reasons.append(str(reason))
        self.subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", world.ports["mqtt"], keepalive=20)
        self.client.loop_start()

    def send(self, records, *, topic, qos=1):
        return self.client.publish(topic, json.dumps(records).encode(), qos=qos).mid

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def plain(world):
    made = []

    def make(name="", secret="", **more):
        known = name or next(iter(world.devices))
        made.append(Plain(world, known, secret or world.devices[known][1], **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def waiting(world) -> int:
    return read_facts(FolderStorage(world.home / EDGE / "spool")).observations


def record(value=60.0, **more):
    return {"n": "heart-rate", "u": "/min", "v": value} | more


@BOTH
def test_a_numbered_device_gets_its_receipts_and_is_kept_once_over_a_kill_of_the_edge(world):
    name = next(iter(world.devices))
    told = []
    link = DeviceLink(
        name,
        world.devices[name][1],
        boot="life",
        host="127.0.0.1",
        port=world.ports["mqtt"],
        authority=world.home / EDGE / "identity" / "ca.pem",
        on_receipted=told.extend,
    )
    for number in range(30):
        link.publish(json.dumps([record(60.0 + number)]).encode(), timeout_s=WAIT_S)
        if number == 15:
            world.kill("edge")
            world.start("edge")
    assert link.drain(WAIT_S)
    link.close()
    assert told == list(range(1, 31))
    assert waiting(world) == 30


@BOTH
@pytest.mark.parametrize("qos", [1, 2])
def test_a_plain_device_is_acknowledged_and_kept_once(world, plain, qos):
    device, topic = plain(), f"wr/dev/{next(iter(world.devices))}/up"
    now = time.time()
    device.send([record(t=now)], topic=topic, qos=qos)
    device.send([record(t=now)], topic=topic, qos=qos)  # the same measurement again
    device.send([record(61.0)], topic=topic, qos=qos)
    device.send([record(61.0)], topic=topic, qos=qos)  # measured twice: neither has a time of its own
    assert wait(lambda: len(device.acknowledged) == 4)
    assert wait(lambda: waiting(world) == 3)
    time.sleep(0.2)
    assert waiting(world) == 3


@pytest.mark.parametrize("world", ["embedded"], indirect=True)
def test_the_embedded_broker_acknowledges_after_the_commit_and_holds_it_back_while_there_is_no_room(world, plain):
    if not world.fill(full=True):
        pytest.skip("a small file system can be mounted by root alone")
    device, topic = plain(), f"wr/dev/{next(iter(world.devices))}/up"
    for number in range(5):
        device.send([record(60.0 + number)], topic=topic)
    time.sleep(1.5)
    assert device.acknowledged == []
    assert waiting(world) == 0
    world.fill(full=False)
    assert wait(lambda: len(device.acknowledged) == 5)
    assert waiting(world) == 5


@NEEDS
@pytest.mark.parametrize("world", ["mosquitto"], indirect=True)
def test_mosquitto_keeps_for_a_killed_edge_what_it_has_acknowledged(world, plain):
    device, topic = plain(), f"wr/dev/{next(iter(world.devices))}/up"
    device.send([record(50.0)], topic=topic)
    assert wait(lambda: waiting(world) == 1)
    world.kill("edge")
    for number in range(50):
        device.send([record(60.0 + number)], topic=topic)
    assert wait(lambda: len(device.acknowledged) == 51)
    world.start("edge")
    assert wait(lambda: waiting(world) == 51)


@NEEDS
@pytest.mark.parametrize("world", ["mosquitto"], indirect=True)
def test_mosquitto_is_started_again_and_a_device_registered_later_may_connect(world, plain):
    assert world.kill_broker()
    home = EdgeHome.open(world.home / EDGE)
    secret = home.registry().add("late", "patient-0")
    device = plain("late", secret)
    assert wait(lambda: "Success" in device.reasons)
    device.send([record()], topic="wr/dev/late/up")
    assert wait(lambda: waiting(world) == 1)


@BOTH
def test_a_device_is_kept_to_its_own_topics(world, plain):
    _own, other = world.devices
    device, listener = plain(), plain(other)
    for topic in (f"wr/dev/{other}/down/#", "wr/dev/+/down/receipt", "#", f"wr/dev/{other}/up"):
        device.client.subscribe(topic)
    assert wait(lambda: "Success" in device.reasons and "Success" in listener.reasons)
    listener.send([record(61.0)], topic=f"wr/dev/{other}/up/life/1")
    assert wait(lambda: waiting(world) == 1)
    device.send([record(62.0)], topic=f"wr/dev/{other}/up")
    time.sleep(1.0)
    assert waiting(world) == 1
    assert device.heard == []


@BOTH
def test_a_wrong_secret_does_not_connect(world, plain):
    stranger = plain(secret="not-the-secret")
    assert wait(lambda: stranger.reasons)
    assert "Success" not in stranger.reasons
    with contextlib.suppress(ValueError):
        stranger.send([record()], topic="wr/dev/numbered-0/up")
    time.sleep(0.5)
    assert waiting(world) == 0
