"""A hub whose authority is signed by an offline root: edges join, report, renew and get in after the authority was renewed.

The root signs with the very command of docs/security.md.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from wardround.clock import SystemClock
from wardround.errors import TrustError
from wardround.trust.certificates import Authority, check_certificate, describe, key_pem, new_key, write_private
from wardround.trust.channel import edge_channel, start_hub_listener
from wardround.trust.offline import install_authority, request_authority

OPENSSL = shutil.which("openssl")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
pytestmark = [
    pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed"),
    pytest.mark.timeout(360),
]


class Root:
    """A root in a folder of its own, made and used with openssl as the page says."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        commands = re.search(r"```bash\n(# the root.*?)```", PAGE.read_text(), re.S).group(1)
        self._make, self._sign = (part for part in re.split(r"^# .*\n", commands, flags=re.M) if part.strip())
        self._run(self._make)

    def _run(self, text):
        subprocess.run(["bash", "-euc", text], cwd=self.folder, check=True, capture_output=True)

    def sign(self, request):
        shutil.copy(request, self.folder / "authority.csr")
        self._run(self._sign)
        return self.folder / "signed.pem"


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "root")


def pki_of(folder, root):
    """A hub's pki under this root, with the hub's own certificate."""
    request = request_authority(folder, "hub")
    install_authority(folder, root.sign(request).read_bytes(), now_us=SystemClock().now_us())
    authority, key = Authority.load(folder), new_key()
    write_private(folder / "hub.key", key_pem(key))
    write_private(folder / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), 0o644)
    return authority


def edge_of(folder, authority, name="icu-a"):
    key = new_key()
    write_private(folder / "edge.key", key_pem(key))
    write_private(folder / "edge.pem", authority.issue_edge(name, key.public_key(), 1.0), 0o644)
    write_private(folder / "ca.pem", authority.pem, 0o644)
    return folder


async def answers(pki, edges):
    """What each edge gets of a hub: b"here", or the code of the refusal."""

    async def here(_request, _context):
        return b"here"

    services = {"test.Test": {"Here": grpc.unary_unary_rpc_method_handler(here)}}
    server, port = await start_hub_listener(services, host="127.0.0.1", port=0, pki=pki, denied=lambda *_: False)
    got = []
    for edge in edges:
        channel = edge_channel(edge, "127.0.0.1", port)
        try:
            got.append(await channel.unary_unary("/test.Test/Here")(b"", timeout=5))
        except grpc.aio.AioRpcError as error:
            got.append(error.code())
        await channel.close(None)
    await server.stop(0)
    return got


def test_leaves_carry_their_authority_and_are_checked_under_the_root_alone(tmp_path, root):
    authority = pki_of(tmp_path / "pki", root)
    pem = authority.issue_edge("icu-a", new_key().public_key(), 1.0)
    now_us = SystemClock().now_us()
    assert pem.count(b"BEGIN CERTIFICATE") == 2
    assert check_certificate(pem, authority.pem, now_us=now_us, where="x").name == "icu-a"
    leaf = pem.partition(b"-----END CERTIFICATE-----\n")
    assert check_certificate(b"".join(leaf[:2]), authority.bundle, now_us=now_us, where="x").name == "icu-a"
    with pytest.raises(TrustError, match="not issued"):
        check_certificate(b"".join(leaf[:2]), authority.pem, now_us=now_us, where="x")
    impostor = Authority.in_memory("impostor")
    forged = impostor.issue_edge("icu-a", new_key().public_key(), 1.0) + impostor.pem
    with pytest.raises(TrustError, match="not issued"):
        check_certificate(forged, authority.pem, now_us=now_us, where="x")
    # An edge is no authority, whatever it signs.
    key = new_key()
    edge = authority.issue_edge("icu-x", key.public_key(), 1.0)
    from cryptography import x509

    minted = Authority(x509.load_pem_x509_certificate(edge), key).issue_edge("icu-a", new_key().public_key(), 1.0)
    with pytest.raises(TrustError, match="not issued"):
        check_certificate(minted + edge, authority.pem, now_us=now_us, where="x")


def test_an_edge_of_another_hub_under_the_same_root_is_not_let_in(tmp_path, root):
    mine, other = pki_of(tmp_path / "mine", root), pki_of(tmp_path / "other", root)
    edges = [edge_of(tmp_path / "a", mine), edge_of(tmp_path / "b", other)]
    assert asyncio.run(answers(tmp_path / "mine", edges)) == [b"here", grpc.StatusCode.UNAUTHENTICATED]


def test_an_authority_is_renewed_and_no_edge_joins_again(tmp_path, root):
    before = pki_of(tmp_path / "pki", root)
    edge = edge_of(tmp_path / "a", before)
    install_authority(tmp_path / "pki", root.sign(tmp_path / "pki" / "authority.csr").read_bytes(), now_us=SystemClock().now_us())
    after, key = Authority.load(tmp_path / "pki"), new_key()
    assert after.certificate != before.certificate
    write_private(tmp_path / "pki" / "hub.key", key_pem(key))
    write_private(tmp_path / "pki" / "hub.pem", after.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), 0o644)
    assert asyncio.run(answers(tmp_path / "pki", [edge, edge_of(tmp_path / "b", after, "icu-b")])) == [b"here", b"here"]


def test_what_is_no_authority_of_this_hub_is_refused(tmp_path, root):
    pki, now_us = tmp_path / "pki", SystemClock().now_us()
    request = request_authority(pki, "hub")
    with pytest.raises(TrustError, match="is not signed yet"):
        Authority.load(pki)
    signed = root.sign(request).read_bytes()
    another = Root(tmp_path / "another")
    theirs = another.sign(request).read_bytes()
    ours, foreign = ((folder / "root.pem").read_bytes() for folder in (root.folder, another.folder))
    for pem, said in (
        (b"rubbish", "no certificates"),
        (ours, "0 certificates of this hub's key"),
        (signed.replace(ours, b"") + foreign, "not signed by the root"),
    ):
        with pytest.raises(TrustError, match=said):
            install_authority(pki, pem, now_us=now_us)
    with pytest.raises(TrustError, match="out of its time"):
        install_authority(pki, signed, now_us=now_us + 40 * 365 * 86_400_000_000)
    install_authority(pki, signed, now_us=now_us)
    with pytest.raises(TrustError, match="trust another root"):
        install_authority(pki, theirs, now_us=now_us)


@pytest.mark.timeout(360)
def test_a_hub_under_an_offline_root_from_init_to_renewal(tmp_path, root, site, command):
    from wardround.hub import take_authority

    made = command("hub", "init", "--home", str(tmp_path / "other"), "--authority", "offline", "--json")
    assert made.returncode == 0, made.stderr
    waiting = command("hub", "run", "--home", str(tmp_path / "other"))
    assert waiting.returncode == 1
    assert "hub authority" in waiting.stderr
    signed = root.sign(tmp_path / "other" / "pki" / "authority.csr")
    taken = command("hub", "authority", str(signed), "--home", str(tmp_path / "other"))
    assert taken.returncode == 0, taken.stderr
    assert "pin that root" in taken.stdout

    # The same for the hub of the test, whose ports are its own; its certificates live for seconds.
    shutil.rmtree(site.home / "pki")
    request = request_authority(site.home / "pki", "hub")
    take_authority(site.home, root.sign(request).read_bytes())
    settings = site.home / "hub.toml"
    settings.write_text(f"certificate_hours = {15 / 3600}\n" + settings.read_text())
    site.start_hub()
    edge = site.edge("icu-a")
    site.certify("icu-a", 3600.0)
    edge.start()
    edge.wait_ready(150)
    site.certify("icu-a", 15.0)
    identity = site.folder / "icu-a" / "identity"
    first = describe((identity / "edge.pem").read_bytes()).serial
    until = time.monotonic() + 60
    while describe((identity / "edge.pem").read_bytes()).serial == first and time.monotonic() < until:
        time.sleep(0.1)
    assert describe((identity / "edge.pem").read_bytes()).serial != first
    assert (identity / "ca.pem").read_bytes() == Authority.load(site.home / "pki").pem
    store = site.store()
    assert len(store.certificates("icu-a")) >= 2
    store.close()
    assert edge.running
