"""Misuses of mutual TLS and of renewal, each judged by what got through.

tests/integration/test_channel.py holds those of a single call: no certificate, an expired one, another authority's, a listener's,
older TLS, revocation in the middle of a stream. docs/security.md lists them all.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

import grpc
import pytest

from wardround.errors import CertificateRefused
from wardround.trust import renewal
from wardround.trust.certificates import Authority, describe, key_pem, listener_name, new_key, signing_request, write_private
from wardround.trust.channel import edge_channel, start_hub_listener, start_listener
from wardround.trust.renewal_link import SERVICE, ask_renewal, renewal_handlers

pytestmark = pytest.mark.timeout(360)
NOBODY_ANSWERS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("authority"), "hub")


def folder_of(authority, folder, pem_of, key_name="edge.key", pem_name="edge.pem"):
    key = new_key()
    write_private(folder / key_name, key_pem(key))
    write_private(folder / pem_name, pem_of(key.public_key()), 0o644)
    write_private(folder / "ca.pem", authority.pem, 0o644)
    return folder


def edge_of(authority, folder, name="icu-a", hours=1.0):
    return folder_of(authority, folder, lambda key: authority.issue_edge(name, key, hours))


class Listening:
    """A listener with the given certificate that keeps what it is sent."""

    def __init__(self, folder, services=None, denied=lambda *_: False):
        self.files = (folder / "edge.key", folder / "edge.pem", folder / "ca.pem")
        self.received: list[bytes] = []
        self._services, self._denied = services, denied

    async def _keep(self, request, _context):
        self.received.append(request)
        return b"kept"

    async def __aenter__(self):
        services = self._services or {"test.Test": {"Keep": grpc.unary_unary_rpc_method_handler(self._keep)}}
        self._server, self.port = await start_listener(
            services, host="127.0.0.1", port=0, files=self.files, denied=self._denied, setting="test"
        )
        return self

    async def __aexit__(self, *_):
        await self._server.stop(0)


async def say(channel, data=b"secret", within_s=3.0):
    """The answer, or the code of the refusal."""
    try:
        return await channel.unary_unary("/test.Test/Keep")(data, timeout=within_s)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await channel.close(None)


def test_an_edge_cannot_stand_in_for_the_hub(authority, tmp_path):
    """Neither with its own certificate nor with a listener's under the hub's address: the edge sends nothing."""
    victim = edge_of(authority, tmp_path / "victim")
    disguises = {
        "listener": lambda key: authority.issue_listener("icu-x", key, ["127.0.0.1", "localhost"], 1.0),
        "edge": lambda key: authority.issue_edge("icu-x", key, 1.0),
        "worker": lambda key: authority.issue_worker("icu-x", key, 1.0),
        "hub": lambda key: authority.issue_hub("hub", key, ["elsewhere.example"], 1.0),  # the control: it gets through
    }

    async def run():
        heard = {}
        for name, pem_of in disguises.items():
            async with Listening(folder_of(authority, tmp_path / name, pem_of)) as listening:
                await say(edge_channel(victim, "127.0.0.1", listening.port))
                heard[name] = listening.received
        return heard

    assert asyncio.run(run()) == {"listener": [], "edge": [], "worker": [], "hub": [b"secret"]}


def test_an_edge_cannot_stand_in_for_another_that_passes_models_on(authority, tmp_path):
    victim = edge_of(authority, tmp_path / "victim")
    relay = folder_of(authority, tmp_path / "b", lambda key: authority.issue_listener("icu-b", key, ["127.0.0.1"], 1.0))

    async def run():
        async with Listening(relay) as listening:
            refused = await say(edge_channel(victim, "127.0.0.1", listening.port, name=listener_name("icu-a")))
            answered = await say(edge_channel(victim, "127.0.0.1", listening.port, name=listener_name("icu-b")), b"named")
            return refused in NOBODY_ANSWERS, answered, listening.received

    assert asyncio.run(run()) == (True, b"kept", [b"named"])


def test_an_edge_that_expires_while_it_is_connected_is_cut_off(authority, tmp_path):
    hub = folder_of(authority, tmp_path / "hub", lambda key: authority.issue_hub("hub", key, ["127.0.0.1"], 1.0))
    edge = edge_of(authority, tmp_path / "edge", hours=3.0 / 3600)

    async def run():
        async with Listening(hub) as listening:
            channel = edge_channel(edge, "127.0.0.1", listening.port)
            call = channel.unary_unary("/test.Test/Keep")
            assert await call(b"in time", timeout=3) == b"kept"
            await asyncio.sleep(max(0.0, describe((edge / "edge.pem").read_bytes()).not_after_us / 1e6 - time.time()) + 0.2)
            late = await say(channel, b"late")
            return late, listening.received

    assert asyncio.run(run()) == (grpc.StatusCode.UNAUTHENTICATED, [b"in time"])


def test_plain_text_on_the_hubs_port_reaches_nobody(authority, tmp_path):
    hub = folder_of(authority, tmp_path / "hub", lambda key: authority.issue_hub("hub", key, ["127.0.0.1"], 1.0))
    edge = edge_of(authority, tmp_path / "edge")

    async def run():
        async with Listening(hub) as listening:
            plain = await say(grpc.aio.insecure_channel(f"127.0.0.1:{listening.port}"), b"plain")
            told = await say(edge_channel(edge, "127.0.0.1", listening.port), b"honest")
            return plain in NOBODY_ANSWERS, told, listening.received

    assert asyncio.run(run()) == (True, b"kept", [b"honest"])


def test_silent_connections_are_dropped_and_keep_nobody_out(authority, tmp_path):
    hub = folder_of(authority, tmp_path / "hub", lambda key: authority.issue_hub("hub", key, ["127.0.0.1"], 1.0))
    edge = edge_of(authority, tmp_path / "edge")

    async def run():
        async with Listening(hub) as listening:
            silent = [socket.create_connection(("127.0.0.1", listening.port), 5) for _ in range(300)]
            try:
                answer = await say(edge_channel(edge, "127.0.0.1", listening.port), within_s=5.0)
                silent[0].settimeout(8)
                dropped = await asyncio.to_thread(silent[0].recv, 1)
            finally:
                for connection in silent:
                    connection.close()
            return answer, dropped

    assert asyncio.run(run()) == (b"kept", b"")


def test_messages_beyond_the_limit_do_not_reach_a_handler(authority, tmp_path):
    hub = folder_of(authority, tmp_path / "hub", lambda key: authority.issue_hub("hub", key, ["127.0.0.1"], 1.0))
    edge = edge_of(authority, tmp_path / "edge")

    async def run():
        async with Listening(hub) as listening:
            credentials = grpc.ssl_channel_credentials(*((edge / f).read_bytes() for f in ("ca.pem", "edge.key", "edge.pem")))
            channel = grpc.aio.secure_channel(
                f"127.0.0.1:{listening.port}", credentials, options=[("grpc.max_send_message_length", -1)]
            )
            return await say(channel, bytes(9 * 1024 * 1024), within_s=100.0), listening.received

    assert asyncio.run(run()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [])


# -- renewal


class Renewals:
    """A hub that renews, and what it gave."""

    def __init__(self, authority, folder, denied=lambda *_: False):
        self.authority, self.given, self._denied = authority, [], denied
        self.pki = folder_of(
            authority, folder, lambda key: authority.issue_hub("hub", key, ["127.0.0.1"], 1.0), "hub.key", "hub.pem"
        )

    def _renew(self, peer, csr, listener):
        now_us = time.time_ns() // 1_000
        self.given.append(
            renewal.renew(self.authority, peer=peer, csr=csr, listener=listener, hours=1.0, now_us=now_us).certificate
        )
        return renewal.Renewed(self.given[-1], listener)

    async def __aenter__(self):
        self._server, self.port = await start_hub_listener(
            {SERVICE: renewal_handlers(self._renew)}, host="127.0.0.1", port=0, pki=self.pki, denied=self._denied
        )
        return self

    async def __aexit__(self, *_):
        await self._server.stop(0)


async def ask(hub, edge, csr, listener):
    channel = edge_channel(edge, "127.0.0.1", hub.port)
    try:
        return describe((await ask_renewal(channel, csr, listener)).certificate).name
    except CertificateRefused as refused:
        return str(refused)
    finally:
        await channel.close(None)


def test_who_is_revoked_or_asks_for_more_gets_no_renewal(authority, tmp_path):
    a, b = edge_of(authority, tmp_path / "a", "icu-a"), edge_of(authority, tmp_path / "b", "icu-b")
    own = authority.issue_listener("icu-a", new_key().public_key(), ["ward.example"], 1.0)
    theirs = authority.issue_listener("icu-b", new_key().public_key(), ["ward.example"], 1.0)
    revoked = describe((b / "edge.pem").read_bytes()).serial

    async def run():
        async with Renewals(authority, tmp_path / "hub", lambda _name, serial: serial == revoked) as hub:
            answers = {
                "honest": await ask(hub, a, signing_request(new_key(), "icu-b"), own),
                "another's listener": await ask(hub, a, signing_request(new_key(), "x"), theirs),
                "rubbish": await ask(hub, a, b"x" * 100, own),
                "too large": await ask(hub, a, b"x" * 20_000, own),
                "revoked": await ask(hub, b, signing_request(new_key(), "x"), theirs),
            }
            return answers, [describe(pem).name for pem in hub.given]

    answers, given = asyncio.run(run())
    assert given == ["icu-a"]
    assert answers["honest"] == "icu-a"  # the request named icu-b
    assert "icu-b's listener" in answers["another's listener"]
    assert "cannot be read" in answers["rubbish"]
    assert "too large" in answers["too large"]
    assert "UNAUTHENTICATED" in answers["revoked"]


def test_the_hubs_listener_speaks_tls_1_3_and_no_older(authority, tmp_path):
    hub = folder_of(authority, tmp_path / "hub", lambda key: authority.issue_hub("hub", key, ["127.0.0.1"], 1.0))
    edge = edge_of(authority, tmp_path / "edge")

    def version(port, newest):
        context = ssl.create_default_context(cafile=edge / "ca.pem")
        context.load_cert_chain(edge / "edge.pem", edge / "edge.key")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, newest
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="127.0.0.1") as tls:
            return tls.version()

    async def run():
        async with Listening(hub) as listening:
            newest = await asyncio.to_thread(version, listening.port, ssl.TLSVersion.TLSv1_3)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(version, listening.port, ssl.TLSVersion.TLSv1_2)
            return newest

    assert asyncio.run(run()) == "TLSv1.3"
