"""Ways to people: a signed webhook, mail, Alertmanager, and through Apprise nearly everything else.

A sink takes a group of messages, or raises DeliveryFailed; it never hangs for longer than DEADLINE_S.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from wardround.clock import utc
from wardround.errors import SettingsError, WardroundError
from wardround.watch.alerts import Alert
from wardround.watch.delivery.messages import NOTE, WATCHDOG, Message, Origin, body, message, subject, text

DEADLINE_S = 5.0
SIGNATURE, MESSAGE_ID = "X-Wardround-Signature", "X-Wardround-Id"
GONE_BY_ITSELF_S = 300  # Alertmanager forgets what is not sent again within its resolve_timeout, five minutes by default


class DeliveryFailed(WardroundError):
    """A sink did not take what it was given."""


class Sink(Protocol):
    """One way to people."""

    def send(self, messages: Sequence[Message]) -> None:
        """Give a group of messages away.

        Raises:
            DeliveryFailed: they were not taken; they are kept and sent again.
        """
        ...

    def refresh(self, alerts: Sequence[Alert]) -> None:
        """A sign of life, and everything that is open; called at the sink's own interval.

        Raises:
            DeliveryFailed: it was not taken.
        """
        ...


@dataclass(frozen=True, slots=True)
class Webhook:
    """POST of JSON, with HMAC-SHA256 over the body in `X-Wardround-Signature`."""

    url: str
    key: bytes = field(repr=False)
    origin: Origin

    def send(self, messages: Sequence[Message]) -> None:
        self._post(body(messages, self.origin), messages[0].message_id)

    def refresh(self, alerts: Sequence[Alert]) -> None:
        counted = sum(1 for a in alerts if not a.quiet)
        self._post({"id": WATCHDOG, "watchdog": True, "open": counted, "origin": {"hub": self.origin.hub}}, WATCHDOG)

    def _post(self, value: Mapping[str, object], message_id: str) -> None:
        data = json.dumps(value, sort_keys=True).encode()
        signature = hmac.new(self.key, data, hashlib.sha256).hexdigest()
        _post(self.url, data, {SIGNATURE: f"sha256={signature}", MESSAGE_ID: message_id})


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """Alertmanager's API v2. Identity is its labels alone, so scores and times stand in annotations.

    It forgets an alert that is not sent again, so `refresh` sends all that are open, and one that always is: the watchdog.
    """

    url: str
    origin: Origin

    def send(self, messages: Sequence[Message]) -> None:
        self._post([self._alert(m) for m in messages])

    def refresh(self, alerts: Sequence[Alert]) -> None:
        labels = {"alertname": "WardroundWatchdog", "severity": "none", "hub": self.origin.hub}
        watchdog = {"labels": labels, "annotations": {"summary": "Wardround watches. Alert when this one goes away."}}
        self._post([watchdog, *(self._alert(message(a)) for a in alerts if a.open and not a.quiet)])

    def _alert(self, m: Message) -> dict[str, Any]:
        labels = {"alertname": _camel(m.kind), "severity": _SEVERITY[m.priority], "hub": self.origin.hub}
        labels |= {
            name: value
            for name, value in (("edge", m.edge), ("study", m.study), ("job", m.job), ("category", m.category))
            if value
        }
        if m.category == "physiological" or m.numbered:
            labels["alert"] = m.alert_id  # nothing else that leaves tells two patients or two devices apart
        annotations = {"summary": m.title, "runbook_url": m.runbook, "alert_id": m.alert_id, "action": m.action, "note": NOTE}
        found: dict[str, Any] = {"labels": labels, "annotations": annotations, "startsAt": _rfc3339(m.raised_us)}
        if m.state == "resolved":
            found["endsAt"] = _rfc3339(max(m.changed_us, m.raised_us + 1_000))  # the same time twice is refused
        return found

    def _post(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        _post(self.url.rstrip("/") + "/api/v2/alerts", json.dumps(alerts).encode(), {})


@dataclass(frozen=True, slots=True)
class Mail:
    """SMTP: `smtp://` with STARTTLS, `smtps://` with TLS from the beginning, `smtp+plain://` in the clear, for a local relay."""

    url: str
    sender: str
    to: Sequence[str]
    password: str = field(repr=False)
    origin: Origin
    context: Callable[[], ssl.SSLContext] = ssl.create_default_context

    def send(self, messages: Sequence[Message]) -> None:
        self._mail(subject(messages), text(messages, self.origin), messages[0].message_id, messages[0].changed_us)

    def refresh(self, alerts: Sequence[Alert]) -> None:
        """Nothing: a mail every minute helps nobody."""

    def _mail(self, subject_: str, content: str, message_id: str, t_us: int) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = self.sender, ", ".join(self.to), subject_
        mail["Message-ID"] = f"<{message_id}@{self.origin.hub}.wardround>"
        mail["Date"] = format_datetime(utc(t_us))
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(content)
        parts = urlsplit(self.url)
        host, port = parts.hostname or "localhost", parts.port or {"smtps": 465, "smtp": 587}.get(parts.scheme, 25)
        try:
            if parts.scheme == "smtps":
                server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=DEADLINE_S, context=self.context())
            else:
                server = smtplib.SMTP(host, port, timeout=DEADLINE_S)
            with server:
                if parts.scheme == "smtp":
                    server.starttls(context=self.context())
                if parts.username:
                    server.login(parts.username, self.password)
                server.send_message(mail)
        except (smtplib.SMTPException, OSError) as exc:
            raise DeliveryFailed(f"{host}:{port}: {exc}", remedy="check the mail server's address, name and password") from exc


class Apprise:
    """Any of Apprise's services (Slack, Teams, PagerDuty, ntfy, Matrix...): `wardround[apprise]`."""

    def __init__(self, url: str, origin: Origin) -> None:
        """Raises SettingsError: Apprise is not installed, or does not know the address."""
        try:
            import apprise  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise SettingsError("notify.kind `apprise` needs Apprise", remedy="pip install 'wardround[apprise]'") from exc
        self._apprise, self._origin = apprise.Apprise(), origin
        if not self._apprise.add(url):
            raise SettingsError("Apprise does not know the address of a notify entry", remedy="see its list of services")

    def send(self, messages: Sequence[Message]) -> None:
        if not self._apprise.notify(title=subject(messages), body=text(messages, self._origin)):
            raise DeliveryFailed("Apprise's service did not take it", remedy="try its address with the `apprise` command")

    def refresh(self, alerts: Sequence[Alert]) -> None:
        """Nothing: a message every minute helps nobody."""


_SEVERITY = {"high": "critical", "medium": "warning", "low": "info", "info": "none"}


def _camel(kind: str) -> str:
    return "Wardround" + "".join(part.capitalize() for part in kind.split("-"))


def _rfc3339(t_us: int) -> str:
    return utc(t_us).isoformat(timespec="milliseconds")


def _post(url: str, data: bytes, headers: Mapping[str, str]) -> None:
    request = urllib.request.Request(  # noqa: S310 - the operator's own address, checked in the settings
        url, data=data, headers={"Content-Type": "application/json", "User-Agent": "Wardround", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            status = int(answer.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        raise DeliveryFailed(f"{_host(url)} answered {exc.code}", remedy="look at the receiver's log") from exc
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as exc:
        raise DeliveryFailed(f"{_host(url)}: {exc}"[:300], remedy="check that the receiver runs and can be reached") from exc
    if not 200 <= status < 300:
        raise DeliveryFailed(f"{_host(url)} answered {status}", remedy="look at the receiver's log")


def _host(url: str) -> str:
    """An address without what may be secret in its path."""
    return urlsplit(url).netloc.rpartition("@")[2]
