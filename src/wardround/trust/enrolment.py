"""Enrolment: how an edge turns its join token into an identity.

The hub listens with TLS 1.3 and no client certificate, as the edge has none yet. The edge makes its key, fetches the
authority without trust, compares it with the token's pin, connects again with that authority as its only root, and sends id,
secret and a signing request. Its name comes from the token, never from the request.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from wardround.clock import Clock
from wardround.errors import JoinRefused, PortTaken, TrustError
from wardround.trust import join
from wardround.trust.audit_files import remember_authority
from wardround.trust.certificates import HUB_NAME, Authority, hosts_of, requested_key, signing_request
from wardround.trust.homes import make_private
from wardround.trust.identity import IdentityFolder
from wardround.trust.names import check_name

log = structlog.get_logger(__name__)
REQUEST_BYTES_MAX = 16_384
CONNECTIONS_MAX = 32
DEADLINE_S = 5.0
VISIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Joined:
    """What the hub told the edge when it joined."""

    name: str
    site: str
    hub_host: str
    hub_port: int
    simulated: bool


class EnrolmentListener:
    """The hub's side. `on_joined(name, certificate)` and `on_refused(peer, reason)` say what came of a request."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        pki: Path,
        tokens: join.TokenStore,
        clock: Clock,
        hours: float,
        facts: Callable[[], dict[str, Any]],
        on_joined: Callable[[str, bytes], None],
        on_refused: Callable[[str, str], None] = lambda _peer, _reason: None,
    ) -> None:
        """`facts()` gives what the edge needs to know: site, hub_host, hub_port, simulated.

        Raises:
            PortTaken: another process listens there.
        """
        self._authority = Authority.load(pki)
        self._tokens, self._clock, self._hours = tokens, clock, hours
        self._facts, self._on_joined, self.on_refused = facts, on_joined, on_refused
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context, self._pki = context, pki
        self.renew()
        try:
            self._server = _Server((host, port), _handler(self), context)
        except OSError as exc:
            raise PortTaken(host, port, setting="enrolment.port") from exc
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="enrolment", daemon=True).start()

    def renew(self) -> None:
        """Take the hub's certificate, as it is on disk, into use."""
        self._context.load_cert_chain(self._pki / "hub.pem", self._pki / "hub.key")

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def enrol(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request; certificates and facts.

        Raises:
            JoinRefused: the token does not hold.
            TrustError: the signing request does not.
        """
        try:
            secret = base64.urlsafe_b64decode(request["secret"])
            csr, token_id = request["csr"].encode(), str(request["id"])
            hosts = [str(h) for h in request.get("hosts", [])][:8]
            expected = str(request.get("name", ""))
        except (KeyError, ValueError, AttributeError, TypeError) as exc:
            raise TrustError("the request is malformed", remedy="use `wardround edge join`") from exc
        key = requested_key(csr)
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        name = join.redeem(self._tokens, self._clock, token_id=token_id, secret=secret, public_key_der=der, expected=expected)
        certificate = self._authority.issue_edge(name, key, self._hours)
        listener = self._authority.issue_listener(name, key, [*hosts, f"{name}.local"], self._hours)
        self._on_joined(name, certificate)
        return {
            "name": name,
            "certificate": certificate.decode(),
            "listener": listener.decode(),
            **self._facts(),
        }

    @property
    def authority_pem(self) -> bytes:
        """What GET /ca.pem answers."""
        return self._authority.pem


class _Server(ThreadingHTTPServer):
    """A connection is wrapped in TLS in its own thread, with a deadline, so a silent one blocks nobody."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext) -> None:
        super().__init__(address, handler)
        self._context = context
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        # Each read has a deadline, and so has the whole visit: a byte now and then would hold a place for ever.
        held = request.dup()
        end = threading.Timer(VISIT_S, _hang_up, [held])
        end.start()
        try:
            request.settimeout(DEADLINE_S)
            wrapped = self._context.wrap_socket(request, server_side=True)
            super().process_request_thread(wrapped, client_address)
        except OSError:  # an interrupted handshake is the visitor's matter
            self.shutdown_request(request)
        finally:
            end.cancel()
            held.close()
            self._slots.release()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has gone by itself
        connection.shutdown(socket.SHUT_RDWR)


def _handler(listener: EnrolmentListener) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = DEADLINE_S

        def do_GET(self) -> None:
            if self.path == "/ca.pem":
                self._answer(200, listener.authority_pem)
            else:
                self._answer(404, b"")

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if self.path != "/enrol" or not 0 < length <= REQUEST_BYTES_MAX:
                self._answer(413 if length > REQUEST_BYTES_MAX else 404, b"")
                return
            try:
                request = json.loads(self.rfile.read(length))
                answer = listener.enrol(request if isinstance(request, dict) else {})
                self._answer(200, json.dumps(answer).encode())
                log.info("edge joined", edge_id=answer["name"])
            except TrustError as error:
                log.warning("join refused", reason=str(error), peer=self.client_address[0])
                listener.on_refused(str(self.client_address[0]), str(error))
                self._answer(403, json.dumps({"error": str(error), "remedy": error.remedy}).encode())
            except ValueError:
                self._answer(400, json.dumps({"error": "the request is not JSON", "remedy": ""}).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Requests are logged above, as events."""

    return Handler


def join_hub(
    token_text: str, home: Path, *, listener_hosts: Sequence[str] = ("127.0.0.1", "localhost"), name_before: str = ""
) -> Joined:
    """The edge's side: write `identity/` into its home; an edge that joins again gets a new key and keeps everything else.

    Args:
        name_before: the name of the edge whose home it is, when it has joined before.

    Raises:
        JoinRefused: the token is not one, the hub is another than the token names, or the hub refuses.
    """
    token = join.parse(token_text)
    make_private(home)
    identity = IdentityFolder(home / "identity")
    authority = _pinned_authority(token)
    key = identity.joining_key()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority.decode())
    body = json.dumps(
        {
            "id": token.token_id,
            "secret": base64.urlsafe_b64encode(token.secret).decode(),
            "csr": signing_request(key, "edge").decode(),
            "hosts": list(listener_hosts),
            "name": name_before,
        }
    )
    status, answer = _request(token, context, "POST", "/enrol", body)
    facts = json.loads(answer or b"{}")
    if status != 200:
        raise JoinRefused(facts.get("error") or f"the hub answered {status}", remedy=facts.get("remedy") or "ask for a new token")
    name = check_name(facts["name"], what="edge name")
    with contextlib.suppress(FileNotFoundError):
        if (before := identity.authority.read_bytes()) != authority:
            remember_authority(home, before)
    identity.replace(key, certificate=facts["certificate"].encode(), listener=facts["listener"].encode(), authority=authority)
    return Joined(name, facts["site"], facts["hub_host"], int(facts["hub_port"]), bool(facts["simulated"]))


def hosts_of_listener(home: Path) -> list[str]:
    """The names under which devices reach the edge of this home so far; none when it cannot be said."""
    try:
        return hosts_of(IdentityFolder(home / "identity").listener.read_bytes())
    except (OSError, TrustError):
        return []


def _pinned_authority(token: join.JoinToken) -> bytes:
    """Fetch the authority from a hub nobody has verified yet, and keep it only if it is the pinned one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing secret is sent on this connection; the pin decides
    _, pem = _request(token, context, "GET", "/ca.pem", None)
    try:
        authority = x509.load_pem_x509_certificate(pem)
    except ValueError:
        authority = None
    if authority is None or authority.fingerprint(hashes.SHA256()) != token.pin:
        raise JoinRefused(
            f"the hub at {token.host}:{token.port} is not the one this token was made for; nothing was sent",
            remedy="check the address, and that nobody stands between; ask for a new token",
        )
    return authority.public_bytes(serialization.Encoding.PEM)  # and nothing that was sent beside it


def _request(token: join.JoinToken, context: ssl.SSLContext, method: str, path: str, body: str | None) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(token.host, token.port, timeout=10)
    try:
        plain = socket.create_connection((token.host, token.port), 10)
        # By its reserved name: an edge may hold a certificate for any address, and could stand in for the hub by it.
        connection.sock = context.wrap_socket(plain, server_hostname=HUB_NAME)
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read(REQUEST_BYTES_MAX * 4)
    except ssl.SSLError as exc:
        raise JoinRefused(
            f"the hub at {token.host}:{token.port} could not be verified: {exc.reason or exc}; nothing was sent",
            remedy="check the address in the token against the hub's `public_host`",
        ) from exc
    except OSError as exc:
        raise JoinRefused(
            f"the hub at {token.host}:{token.port} cannot be reached: {exc}",
            remedy="check that `wardround hub run` runs there and that its enrolment port is open",
        ) from exc
    finally:
        connection.close()
