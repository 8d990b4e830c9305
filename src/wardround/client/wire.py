"""Calls over HTTP: one connection a call, bounded answers, deadlines; what may be sent again is, a few times.

What is sent again: calls that change nothing, and those with an idempotency key, when no answer came or the hub said when to ask
again. An act without a key is sent once: whether it was done is then not known, and the error says so.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from wardround.client.refusals import ApiRefused, HubUnreachable, refusal
from wardround.errors import SettingsError

ANSWER_MAX = 64 * 1024 * 1024
TRIES = 4
WAIT_S_MAX = 30.0
STATUS_WAIT = (429, 503)


class Wire:
    """One hub, and the token to call it with."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        ca: Path | None = None,
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            address: `https://HUB:7480`; plain http is for this machine alone.
            ca: the authority that signed the hub's certificate, in PEM; None: those that this machine trusts.

        Raises:
            SettingsError: the address is none, or the token would travel in the clear.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"{address!r} is no address of a hub", remedy="write it as https://HUB:7480")
        if parts.scheme == "http" and not _loopback(parts.hostname):
            raise SettingsError(
                f"{address} would carry the token in the clear", remedy="use https://, and --ca for the hub's own authority"
            )
        if not token or not token.isascii() or not token.isprintable():
            raise SettingsError(
                "this is no token of the API", remedy="`wardround token new NAME --person WHO` makes one at the hub"
            )
        self.address = address.rstrip("/")
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._token, self._timeout_s, self._sleep = token, timeout_s, sleep
        self._tls = _tls(ca) if parts.scheme == "https" else None

    def call(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: object = None, key: str = ""
    ) -> bytes:
        """The body of the answer.

        Raises:
            ApiRefused: the hub says no. HubUnreachable: there is no answer.
        """
        again = method == "GET" or bool(key)
        for left in reversed(range(TRIES if again else 1)):
            try:
                with self.opened(method, path, query=query, body=body, key=key) as answer:
                    text = answer.read(ANSWER_MAX + 1)
                    if len(text) > ANSWER_MAX:
                        raise HubUnreachable(f"{self.address} sends more than {ANSWER_MAX} bytes", remedy="ask for less at once")
                    return bytes(text)
            except ApiRefused as refused:
                if not left or refused.status not in STATUS_WAIT or not 0.0 < refused.retry_after_s <= WAIT_S_MAX:
                    raise
                self._sleep(refused.retry_after_s)
            except (OSError, http.client.HTTPException) as failed:
                if not left:
                    known = "" if again else "; whether it was done is not known"
                    raise self.unreachable(failed, known) from failed
                self._sleep(float(2 ** (TRIES - 1 - left)) / 2.0)
        raise AssertionError("the last try ends the loop")

    @contextmanager
    def opened(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """One call, sent once; its answer while it is read. Raises ApiRefused, OSError, HTTPException."""
        asked = {k: str(v) for k, v in (query or {}).items() if v not in ("", None)}
        where = f"/api/v1{path}" + (f"?{urlencode(asked)}" if asked else "")
        sent: dict[str, str] = {"Authorization": f"Bearer {self._token}", "Accept": "*/*", **(headers or {})}
        data = None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        if key:
            sent["Idempotency-Key"] = key
        connection = self._connection(timeout_s or self._timeout_s)
        try:
            connection.request(method, where, data, sent)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise refusal(answer.status, answer.read(1_000_000), answer.headers.get("Retry-After", ""))
            yield answer
        finally:
            connection.close()

    def unreachable(self, failed: BaseException, more: str = "") -> HubUnreachable:
        """In words, with what to do."""
        if isinstance(failed, ssl.SSLCertVerificationError):
            remedy = "give the hub's authority with --ca: its pki/ca.pem, brought here by a way that you trust"
            return HubUnreachable(f"the certificate of {self.address} is not trusted: {failed.verify_message}", remedy=remedy)
        reason = getattr(failed, "strerror", None) or str(failed) or type(failed).__name__
        return HubUnreachable(f"{self.address} does not answer: {reason}{more}", remedy="see that the hub runs, and its address")

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)

    def __repr__(self) -> str:
        return f"Wire({self.address})"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(
            f"{ca} holds no certificate that can be read", remedy="give the authority's certificate in PEM"
        ) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
