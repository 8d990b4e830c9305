"""Revocation by real programs, judged by what arrives: nothing after five seconds, and everything once the edge is back."""

from __future__ import annotations

import asyncio
import shutil
import time

import grpc
import pytest
from tests.rounds.programs import make_identities

from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.mqtt_link import DeviceLink
from wardround.learn.condition import ConditionReader
from wardround.learn.grpc_edge import EdgeLink
from wardround.learn.grpc_hub import HubLink
from wardround.learn.grpc_wire import SERVICE, Beat
from wardround.learn.manifests import Signed
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent
from wardround.trust.certificates import describe
from wardround.trust.channel import edge_channel, peer_certificate, peer_name, start_hub_listener
from wardround.trust.denied import DenyList
from wardround.wire import wardround_pb2 as pb


class Device:
    """A device that reports one number at a time."""

    def __init__(self, site, edge, name, secret):
        self.receipted: set[int] = set()
        self.sent = 0
        self._name = name
        self.link = DeviceLink(
            name,
            secret,
            boot="life-1",
            host="127.0.0.1",
            port=site.mqtt_port(edge),
            authority=site.folder / edge / "identity" / "ca.pem",
            on_receipted=self.receipted.update,
        )

    def report(self, number, timeout_s=5.0):
        for _ in range(number):
            reading = Reading(name="heart-rate", unit="/min", t_us=time.time_ns() // 1_000, value=60.0)
            self.sent = self.link.publish(
                encode_pack([reading], base_name=f"urn:dev:{self._name}:", form="json"), timeout_s=timeout_s
            )


def stored(site, device="d1"):
    rows = Lake(site.home / "lake").read(BRONZE, columns=["device", "device_seq"]).to_pylist()
    return sorted(row["device_seq"] for row in rows if row["device"] == device)


def until(what, within_s=100.0):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.2)
    return False


async def code_of_attach(identity, port):
    """How the hub answers who attaches with this identity."""
    channel = edge_channel(identity, "127.0.0.1", port)
    try:
        call = channel.stream_stream(
            "/wardround.v1.Learn/Attach",
            request_serializer=pb.EdgeMessage.SerializeToString,
            response_deserializer=pb.HubMessage.FromString,
        )(timeout=10)
        await call.read()  # the hub says something at once to whoever may attach
    except grpc.aio.AioRpcError as error:
        return error.code()
    else:
        return None
    finally:
        await channel.close(None)


@pytest.mark.timeout(360)
def test_a_revoked_edge_is_cut_off_and_comes_back_with_a_token_and_all_its_data(site, command):
    site.start_hub()
    edge = site.edge("icu-a")
    secret, _ = site.device("icu-a", "d1", Consent.RAW)
    edge.start()
    edge.wait_ready(150)
    device = Device(site, "icu-a", "d1", secret)
    device.report(10)
    assert until(lambda: len(stored(site)) == 10)
    home = site.folder / "icu-a"
    shutil.copytree(home / "identity", site.folder / "copy")  # a thief's

    assert command("hub", "revoke", "icu-a", "--home", str(site.home)).returncode == 0
    copy = site.folder / "copy"
    assert until(lambda: asyncio.run(code_of_attach(copy, site.ports["grpc"])) is grpc.StatusCode.UNAUTHENTICATED)
    device.report(20)
    assert device.link.drain(100)  # the edge itself goes on collecting
    time.sleep(3.0)
    assert stored(site) == list(range(1, 11))  # and nothing of it arrives
    assert asyncio.run(code_of_attach(site.folder / "copy", site.ports["grpc"])) is grpc.StatusCode.UNAUTHENTICATED

    joined = command("edge", "join", site.token("icu-a"), "--home", str(home))  # beside the running edge
    assert joined.returncode == 0, joined.stderr
    assert "again" in joined.stdout
    device.report(5)
    assert device.link.drain(100)
    device.link.close()
    assert until(lambda: len(stored(site)) == 35)
    assert stored(site) == list(range(1, 36))
    assert edge.running
    # The certificate from before stays shut out, although the edge itself is welcome.
    assert asyncio.run(code_of_attach(site.folder / "copy", site.ports["grpc"])) is grpc.StatusCode.UNAUTHENTICATED
    assert asyncio.run(code_of_attach(home / "identity", site.ports["grpc"])) is None


@pytest.mark.timeout(360)
def test_one_certificate_alone_can_be_revoked(site, command):
    site.start_hub()
    site.edge("icu-a")
    site.edge("icu-b")
    serial = describe((site.folder / "icu-a" / "identity" / "edge.pem").read_bytes()).serial
    revoked = command("hub", "revoke", "--serial", serial, "--home", str(site.home))
    assert revoked.returncode == 0, revoked.stderr
    assert "icu-a" in revoked.stdout
    refused = site.folder / "icu-a" / "identity"
    assert until(lambda: asyncio.run(code_of_attach(refused, site.ports["grpc"])) is grpc.StatusCode.UNAUTHENTICATED)
    codes = [asyncio.run(code_of_attach(site.folder / n / "identity", site.ports["grpc"])) for n in ("icu-a", "icu-b")]
    assert codes == [grpc.StatusCode.UNAUTHENTICATED, None]
    unknown = command("hub", "revoke", "--serial", "abc", "--home", str(site.home))
    assert unknown.returncode == 2
    assert "hub edges" in unknown.stderr
    neither = command("hub", "revoke", "--home", str(site.home))
    assert neither.returncode == 2


@pytest.mark.timeout(360)
@pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
def test_a_revoked_devices_open_session_ends_and_its_secret_opens_none(site, command, broker):
    if broker == "mosquitto" and shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed: apt install mosquitto")
    site.start_hub()
    edge = site.edge("icu-a")
    settings = site.folder / "icu-a" / "edge.toml"
    settings.write_text(settings.read_text() + f'broker = "{broker}"\n')
    secrets = {name: site.device("icu-a", name, Consent.RAW)[0] for name in ("d1", "d2")}
    edge.start()
    edge.wait_ready(150)
    lost, kept = (Device(site, "icu-a", name, secrets[name]) for name in ("d1", "d2"))
    lost.report(10)
    kept.report(10)
    assert lost.link.drain(100)
    assert kept.link.drain(100)
    home = str(site.folder / "icu-a")
    assert command("edge", "devices", "revoke", "d1", "--home", home).returncode == 0
    assert until(lambda: not lost.link._client.is_connected())
    lost.report(10)
    kept.report(10)
    assert kept.link.drain(100)
    assert not lost.link.drain(3)
    assert not lost.link._client.is_connected()
    assert until(lambda: len(stored(site, "d2")) == 20)
    assert stored(site, "d1") == list(range(1, 11))

    again = command("edge", "device", "d1", "--patient", "patient-of-d1", "--consent", "raw", "--home", home)
    lost.link.close()
    back = Device(site, "icu-a", "d1", again.stdout.split(": ", 1)[1].strip())
    back.link._boot = "life-2"
    back.report(3)
    assert back.link.drain(100)
    back.link.close()
    kept.link.close()
    assert until(lambda: len(stored(site, "d1")) == 13)
    listed = command("edge", "devices", "list", "--home", home, "--json")
    assert '"may sign in"' in listed.stdout


def test_the_deny_list_reaches_edges_that_pass_models_on(tmp_path):
    """At attach and at every change: an edge that gives models to others must not give one to who is shut out."""
    told: list[DenyList] = []

    async def run():
        heard = asyncio.Semaphore(0)
        make_identities(tmp_path, ["icu-a"])
        link = HubLink(
            studies=dict,
            peer_name=peer_name,
            peer_certificate=peer_certificate,
            on_attached=lambda *_: None,
            on_beat=lambda *_: None,
            on_lost=lambda _edge: None,
            sign=lambda manifest: Signed(manifest, b"", b""),
        )
        link.deny(DenyList(frozenset({"icu-x"}), frozenset({"ab"})))
        server, port = await start_hub_listener(
            {SERVICE: link.handlers()}, host="127.0.0.1", port=0, pki=tmp_path / "pki", denied=lambda *_: False
        )
        channel = edge_channel(tmp_path / "icu-a", "127.0.0.1", port)
        edge = EdgeLink(
            channel=channel,
            participant=None,
            train=None,
            beat=lambda: Beat(0, 0, 0, ""),
            heartbeat_s=5.0,
            version="test",
            fetch=None,
            condition=lambda at_work: ConditionReader(tmp_path).read(at_work=at_work),
            sign=lambda data: data,
            on_denied=lambda denied: (told.append(denied), heard.release()),
        )
        running = asyncio.create_task(edge.run())
        await asyncio.wait_for(heard.acquire(), 10)
        link.deny(DenyList(frozenset({"icu-x"}), frozenset({"ab"})))  # the same: not sent again
        link.deny(DenyList(frozenset({"icu-x", "icu-y"}), frozenset()))
        await asyncio.wait_for(heard.acquire(), 10)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await channel.close(None)
        await server.stop(0)

    asyncio.run(run())
    assert told == [DenyList(frozenset({"icu-x"}), frozenset({"ab"})), DenyList(frozenset({"icu-x", "icu-y"}), frozenset())]
    assert [told[0].holds(*who) for who in (("icu-x", ""), ("icu-a", "ab"), ("icu-a", "cd"))] == [True, True, False]
