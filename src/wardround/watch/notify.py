"""Alerts to people elsewhere: a signed webhook out of an outbox on disk. No subject and no clinical value ever leaves.

A message is in the outbox before it is sent and leaves it after a 2xx answer; a sink that fails, hangs or is away gets it
later, with the same id. Signature: HMAC-SHA256 over the body, in `X-Wardround-Signature`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import structlog

from wardround.watch.alerts import Alert

log = structlog.get_logger(__name__)
DEADLINE_S = 5.0
RETRY_S_MAX = 300.0
OUTBOX_MAX = 10_000


def message(alert: Alert, *, site: str, simulated: bool) -> dict[str, object]:
    """What leaves: what, where, how urgent; not about whom, and no value."""
    finding = alert.finding
    return {
        "id": alert.alert_id,
        "state": alert.state.value,
        "title": finding.title,
        "priority": finding.priority,
        "category": finding.category,
        "edge": finding.edge,
        "study": finding.study,
        "raised_us": alert.raised_us,
        "response": alert.response.what if alert.response else "",
        "site": site,
        "simulated": simulated,
        "note": "Decision support; do not rely on it as a primary alarm.",
    }


class Outbox:
    """Messages on disk until they are delivered, oldest first; a thread of its own sends them."""

    def __init__(self, path: Path, url: str, key: bytes) -> None:
        self._url, self._key = url, key
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, body TEXT NOT NULL)")
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin sending."""
        self._thread.start()

    def put(self, body: dict[str, object]) -> None:
        """Keep a message, durably; beyond OUTBOX_MAX the oldest goes."""
        with self._lock:
            self._db.execute("INSERT INTO outbox (body) VALUES (?)", (json.dumps(body, sort_keys=True),))
            self._db.execute("DELETE FROM outbox WHERE number <= (SELECT max(number) FROM outbox) - ?", (OUTBOX_MAX,))
        self._wake.set()

    def waiting(self) -> int:
        """How many messages are not delivered yet."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def close(self) -> None:
        """Stop sending; what waits stays on disk."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(DEADLINE_S + 1)
        with self._lock:
            self._db.close()

    def _run(self) -> None:
        wait_s = 1.0
        while not self._stop.is_set():
            with self._lock:
                row = self._db.execute("SELECT number, body FROM outbox ORDER BY number LIMIT 1").fetchone()
            if row is None:
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            if self._send(row[1]):
                with self._lock:
                    self._db.execute("DELETE FROM outbox WHERE number = ?", (row[0],))
                wait_s = 1.0
            else:
                self._stop.wait(wait_s)
                wait_s = min(wait_s * 2, RETRY_S_MAX)

    def _send(self, body: str) -> bool:
        signature = hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()
        request = urllib.request.Request(  # noqa: S310 - the operator's own URL, checked in the settings
            self._url,
            data=body.encode(),
            headers={"Content-Type": "application/json", "X-Wardround-Signature": f"sha256={signature}"},
        )
        started = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
                return 200 <= int(answer.status) < 300
        except (urllib.error.URLError, OSError, ValueError) as error:
            log.warning("webhook failed", error=str(error)[:200], duration_s=round(time.monotonic() - started, 2))
            return False
