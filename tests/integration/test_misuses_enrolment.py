"""Misuses of joining, each judged by what the hub issued or what the attacker received, over real sockets.

docs/security.md lists them with the names of these tests.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from wardround.clock import SystemClock
from wardround.errors import JoinRefused
from wardround.store import CertificateRecord, open_store
from wardround.trust import join
from wardround.trust.certificates import (
    HUB_NAME,
    Authority,
    describe,
    hosts_of,
    key_pem,
    names_host,
    new_key,
    signing_request,
    write_private,
)
from wardround.trust.enrolment import CONNECTIONS_MAX, REQUEST_BYTES_MAX, EnrolmentListener, join_hub

pytestmark = pytest.mark.timeout(360)


class OffsetClock(SystemClock):
    """The machine's clock, moved by the test."""

    added_s = 0.0

    def now_us(self):
        return super().now_us() + round(self.added_s * 1e6)


class Desk:
    """A hub's enrolment desk on loopback, and what it has issued."""

    def __init__(self, folder):
        self.pki, self.clock = folder / "pki", OffsetClock()
        self.authority = Authority.create(self.pki, "hub")
        key = new_key()
        write_private(self.pki / "hub.key", key_pem(key))
        write_private(self.pki / "hub.pem", self.authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0))
        self.store = open_store(folder / "hub.sqlite")
        self.listener = EnrolmentListener(
            host="127.0.0.1",
            port=0,
            pki=self.pki,
            tokens=self.store,
            clock=self.clock,
            hours=1.0,
            facts=lambda: {"site": "Test", "hub_host": "127.0.0.1", "hub_port": 1, "simulated": True},
            on_joined=self.joined,
        )

    def joined(self, name, certificate):
        facts = describe(certificate)
        self.store.joined(CertificateRecord(facts.serial, name, self.clock.now_us(), facts.not_after_us))

    def token(self, name="icu-a", port=0, pin=b""):
        port, pin = port or self.listener.port, pin or self.authority.fingerprint
        return join.mint(self.store, self.clock, name=name, host="127.0.0.1", port=port, pin=pin)

    def issued(self):
        return self.store.certificates()

    def ask(self, token_text, csr, **more):
        """What a program of the attacker's own gets: status and answer."""
        token = join.parse(token_text)
        body = {"id": token.token_id, "secret": base64.urlsafe_b64encode(token.secret).decode(), "csr": csr.decode(), **more}
        return self.post("/enrol", json.dumps(body))

    def post(self, path, body, version=None):
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        if version is not None:
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, version
        connection = http.client.HTTPSConnection("127.0.0.1", self.listener.port, context=context, timeout=10)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def close(self):
        self.listener.close()
        self.store.close()


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    made.close()


class FalseHub(threading.Thread):
    """An attacker between edge and hub: TLS with a certificate of its own choice; keeps everything that it is sent."""

    def __init__(self, certificate, key, answer, folder):
        super().__init__(daemon=True)
        write_private(folder / "false.pem", certificate)
        write_private(folder / "false.key", key_pem(key))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "false.pem", folder / "false.key")
        self._answer, self.received = answer, b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._open = True
        self.port = self._socket.getsockname()[1]
        self.start()

    def run(self):
        while self._open:
            try:
                plain, _ = self._socket.accept()
            except TimeoutError:
                continue
            plain.settimeout(2)
            try:
                with self._context.wrap_socket(plain, server_side=True) as tls:
                    self.received += tls.recv(65_536)
                    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(self._answer)}\r\nconnection: close\r\n\r\n"
                    tls.sendall(head.encode() + self._answer)
            except OSError:
                pass

    def close(self):
        self._open = False
        self.join(5)
        self._socket.close()


@pytest.fixture
def false_hub(tmp_path):
    made = []

    def make(certificate, key, answer):
        made.append(FalseHub(certificate, key, answer, tmp_path))
        return made[-1]

    yield make
    for hub in made:
        hub.close()


def assert_nothing_secret(received, token_text):
    secret = join.parse(token_text).secret
    assert received.startswith(b"GET /ca.pem")  # it did reach the attacker: the test can fail
    for form in (secret, base64.urlsafe_b64encode(secret).rstrip(b"="), b"CERTIFICATE REQUEST", b"POST"):
        assert form not in received


# -- the token


def test_a_token_is_used_once(desk, tmp_path):
    token = desk.token()
    join_hub(token, tmp_path / "first")
    with pytest.raises(JoinRefused, match="already used"):
        join_hub(token, tmp_path / "second")
    assert len(desk.issued()) == 1
    assert not (tmp_path / "second" / "identity" / "edge.pem").exists()


def test_of_twelve_at_once_one_gets_in(desk, tmp_path):
    token = desk.token()

    def use(number):
        try:
            return join_hub(token, tmp_path / str(number)).name
        except JoinRefused:
            return None

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        names = list(pool.map(use, range(12)))
    assert [n for n in names if n] == ["icu-a"]
    assert len(desk.issued()) == 1


def test_a_token_ends_after_fifteen_minutes(desk, tmp_path):
    token = desk.token()
    desk.clock.added_s = 901
    with pytest.raises(JoinRefused, match="expired"):
        join_hub(token, tmp_path / "edge")
    assert desk.issued() == []


def test_a_guessed_secret_and_an_unknown_token_get_the_same_answer(desk):
    right = join.parse(desk.token())
    csr = signing_request(new_key(), "icu-a").decode()
    answers = set()
    for token_id in (right.token_id, "unknown"):
        body = {"id": token_id, "secret": base64.urlsafe_b64encode(bytes(32)).decode(), "csr": csr}
        answers.add(desk.post("/enrol", json.dumps(body)))
    assert len(answers) == 1
    assert answers.pop()[0] == 403
    assert desk.issued() == []


def test_a_token_of_another_hub_is_refused(desk, tmp_path):
    other = Desk(tmp_path / "other")
    try:
        foreign = other.token(port=desk.listener.port, pin=desk.authority.fingerprint)
        with pytest.raises(JoinRefused, match="not of this hub"):
            join_hub(foreign, tmp_path / "edge")
    finally:
        other.close()
    assert desk.issued() == []


def test_a_token_for_another_edge_does_not_take_over_a_home_and_is_not_spent(desk, tmp_path):
    home = tmp_path / "edge"
    join_hub(desk.token("icu-a"), home)
    before = (home / "identity" / "edge.pem").read_bytes()
    token = desk.token("icu-b")
    with pytest.raises(JoinRefused, match="this token is for icu-b"):
        join_hub(token, home, name_before="icu-a")
    assert (home / "identity" / "edge.pem").read_bytes() == before
    assert join_hub(token, tmp_path / "right").name == "icu-b"


def test_a_lost_answer_is_no_lost_token_and_a_second_key_gets_nothing(desk, tmp_path):
    token = desk.token()
    key = new_key()
    first = desk.ask(token, signing_request(key, "x"))
    assert desk.ask(token, signing_request(key, "x"))[0] == first[0] == 200
    assert desk.ask(token, signing_request(new_key(), "x"))[0] == 403
    valid = [c for c in desk.issued() if c.revoked_us is None]
    assert len(valid) == 1  # the answer that was lost opens nothing


# -- what is asked for


def test_a_signing_request_for_admin_gives_the_tokens_name_and_an_edges_role(desk):
    key = new_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://wardround/hub/hub")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    status, answer = desk.ask(desk.token(), request)
    assert status == 200
    given = json.loads(answer)["certificate"].encode()
    assert (describe(given).role, describe(given).name) == ("edge", "icu-a")
    certificate = x509.load_pem_x509_certificate(given)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_an_rsa_key_is_refused_and_the_token_kept(desk, tmp_path):
    key = rsa.generate_private_key(65_537, 2_048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "icu-a")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    token = desk.token()
    status, answer = desk.ask(token, csr.public_bytes(serialization.Encoding.PEM))
    assert status == 403
    assert b"P-256" in answer
    assert desk.issued() == []
    assert join_hub(token, tmp_path / "edge").name == "icu-a"


def test_a_request_that_its_key_did_not_sign_is_refused(desk):
    mine, theirs = signing_request(new_key(), "a"), signing_request(new_key(), "a")
    spliced = x509.load_pem_x509_csr(mine).public_bytes(serialization.Encoding.DER)
    signature = x509.load_pem_x509_csr(theirs).signature
    forged = spliced.replace(x509.load_pem_x509_csr(mine).signature, signature)
    if len(signature) != len(x509.load_pem_x509_csr(mine).signature):
        forged = spliced[:-1] + bytes([spliced[-1] ^ 1])
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(forged) + b"-----END CERTIFICATE REQUEST-----\n"
    status, _ = desk.ask(desk.token(), pem)
    assert status == 403
    assert desk.issued() == []


def test_no_edge_gets_a_certificate_under_a_reserved_name(desk):
    status, answer = desk.ask(desk.token(), signing_request(new_key(), "x"), hosts=[HUB_NAME])
    assert status == 403
    assert b"reserved" in answer


# -- who answers


def test_a_hub_with_an_authority_of_its_own_is_sent_nothing(desk, tmp_path, false_hub):
    """Its own authority, its own certificate: the pin in the token does not fit."""
    theirs, key = Authority.in_memory("evil"), new_key()
    attacker = false_hub(theirs.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), key, theirs.pem)
    token = desk.token(port=attacker.port)
    with pytest.raises(JoinRefused, match="nothing was sent"):
        join_hub(token, tmp_path / "edge")
    assert_nothing_secret(attacker.received, token)


def test_an_authority_sent_beside_the_pinned_one_is_not_trusted(desk, tmp_path, false_hub):
    """The true authority first, so that the pin fits, and the attacker's after it."""
    theirs, key = Authority.in_memory("evil"), new_key()
    attacker = false_hub(theirs.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), key, desk.authority.pem + theirs.pem)
    token = desk.token(port=attacker.port)
    with pytest.raises(JoinRefused, match="nothing was sent"):
        join_hub(token, tmp_path / "edge")
    assert_nothing_secret(attacker.received, token)
    assert not (tmp_path / "edge" / "identity" / "ca.pem").exists()


def test_an_edges_own_certificate_for_the_hubs_address_does_not_make_it_a_hub(desk, tmp_path, false_hub):
    """An edge may ask for a listener's certificate under any address: under the hub's it would pass for the hub."""
    key = new_key()
    status, answer = desk.ask(desk.token("icu-evil"), signing_request(key, "x"), hosts=["127.0.0.1"])
    assert status == 200
    listener = json.loads(answer)["listener"].encode()
    assert "127.0.0.1" in hosts_of(listener)
    assert not names_host(listener, HUB_NAME)
    attacker = false_hub(listener, key, desk.authority.pem)
    token = desk.token(port=attacker.port)
    with pytest.raises(JoinRefused, match="nothing was sent"):
        join_hub(token, tmp_path / "edge")
    assert_nothing_secret(attacker.received, token)


@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_a_token_that_was_tampered_with_is_refused(desk, tmp_path, part):
    """1: address, 2: pin, 3: id, 4: secret."""
    parts = desk.token().split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4)))
    raw[0] ^= 1
    parts[part] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    with pytest.raises(JoinRefused):
        join_hub(".".join(parts), tmp_path / "edge")
    assert desk.issued() == []


# -- how much, how slowly


def test_older_tls_is_refused_at_the_enrolment_desk(desk):
    assert desk.post("/enrol", "{}", version=ssl.TLSVersion.TLSv1_3)[0] == 403
    with pytest.raises((ssl.SSLError, ConnectionError)):
        desk.post("/enrol", "{}", version=ssl.TLSVersion.TLSv1_2)


@pytest.mark.parametrize("body", ["", "[]", "{", "null", '{"id": 1}', '{"secret": "x", "csr": 4, "id": {}}', '{"hosts": 7}'])
def test_malformed_requests_are_refused_and_the_desk_stays_open(desk, tmp_path, body):
    status, _ = desk.post("/enrol", body)
    assert 400 <= status < 500
    assert join_hub(desk.token(), tmp_path / "edge").name == "icu-a"


def test_an_oversized_request_is_refused_unread(desk):
    context = ssl.create_default_context(cadata=desk.authority.pem.decode())
    plain = socket.create_connection(("127.0.0.1", desk.listener.port), 5)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
        tls.sendall(f"POST /enrol HTTP/1.1\r\ncontent-length: {REQUEST_BYTES_MAX + 1}\r\n\r\n".encode())  # and not one byte of it
        assert tls.recv(100).split()[1] == b"413"


def join_while(desk, home, within_s):
    """Try to join, as a person would, until it works; seconds."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        try:
            join_hub(desk.token(), home)
        except JoinRefused:
            time.sleep(0.2)
        else:
            return time.monotonic() - began
    raise AssertionError("the desk let nobody in")


def test_silent_visitors_keep_nobody_out(desk, tmp_path):
    """More connections than the desk has places say nothing: they are dropped within seconds."""
    silent = [socket.create_connection(("127.0.0.1", desk.listener.port), 5) for _ in range(CONNECTIONS_MAX + 8)]
    try:
        join_while(desk, tmp_path / "edge", 15.0)
    finally:
        for connection in silent:
            connection.close()


def test_visitors_that_say_a_byte_now_and_then_keep_nobody_out(desk, tmp_path):
    """As many as there are places, each sending one byte of a header a second, without end."""
    context = ssl.create_default_context(cadata=desk.authority.pem.decode())
    slow = [
        context.wrap_socket(socket.create_connection(("127.0.0.1", desk.listener.port), 5), server_hostname="127.0.0.1")
        for _ in range(CONNECTIONS_MAX)
    ]
    for tls in slow:
        tls.sendall(b"POST /enrol HTTP/1.1\r\nx: ")
    stop = threading.Event()

    def trickle():
        while not stop.wait(1.0):
            for tls in slow:
                with contextlib.suppress(OSError):
                    tls.sendall(b"x")

    trickling = threading.Thread(target=trickle)
    trickling.start()
    try:
        join_while(desk, tmp_path / "edge", 25.0)
    finally:
        stop.set()
        trickling.join()
        for tls in slow:
            tls.close()
