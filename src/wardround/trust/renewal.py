"""Renewal: a certificate lives a day and is replaced at two thirds of its life, with a new key, over mutual TLS.

The edge makes the key and sends a signing request alone; the hub takes the name from the certificate the edge calls with, and the
names of its listener from the listener's present certificate, so that a renewal gives nothing that joining did not give.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from wardround.clock import Clock, utc
from wardround.errors import TrustError
from wardround.trust.certificates import (
    Authority,
    CertificateFacts,
    check_certificate,
    describe,
    hosts_of,
    new_key,
    public_key_of,
    requested_key,
    signing_request,
)
from wardround.trust.identity import IdentityFolder

log = structlog.get_logger(__name__)
RENEW_AT = 2 / 3  # of its life
EARLY = 1 / 12  # of its life: renewals of edges that joined together are spread over so much
LOOK_S = 5.0
RETRY_S_MAX = 300.0
REPLACED = "join again: `wardround hub invite NAME` at the hub, `wardround edge join -` here; the edge keeps its data"


@dataclass(frozen=True, slots=True)
class Renewed:
    """What the hub gives for a signing request, PEM."""

    certificate: bytes
    listener: bytes


def due_us(facts: CertificateFacts, early: float) -> int:
    """When to renew; `early` in [0, 1) spreads edges."""
    return facts.issued_us + round(facts.life_us * (RENEW_AT - EARLY * early))


def retry_s(attempt: int, life_s: float) -> float:
    """How long to wait after the attempt of this number (from 0): doubling, but many tries fit into the third that is left."""
    return min(RETRY_S_MAX, life_s / 30, life_s / 400 * 2.0 ** min(attempt, 20))


def renew(authority: Authority, *, peer: bytes, csr: bytes, listener: bytes, hours: float, now_us: int) -> Renewed:
    """The hub's side: new certificates for the edge that calls with the certificate `peer` (PEM, checked by the caller).

    Raises:
        TrustError: the request is not signed by a new P-256 key, or the listener's certificate is not this edge's.
    """
    key, name = requested_key(csr), describe(peer).name
    if key == public_key_of(peer):
        raise TrustError("a renewal needs a new key", remedy="make one; the old key ends with its certificate")
    # An expired listener's certificate still says which names this edge was given: only its issuer counts.
    facts = check_certificate(listener, authority.bundle, now_us=min(now_us, describe(listener).not_after_us), where="renewal")
    if (facts.role, facts.name) != ("listener", name):
        raise TrustError(f"the listener's certificate is {facts.name}'s {facts.role}", remedy="send the edge's own listener.pem")
    return Renewed(authority.issue_edge(name, key, hours), authority.issue_listener(name, key, hosts_of(listener), hours))


class Renewer:
    """Keeps one edge's identity fresh, and notices when a person has joined it again."""

    def __init__(
        self,
        identity: IdentityFolder,
        *,
        clock: Clock,
        ask: Callable[[bytes, bytes], Awaitable[Renewed]],
        on_renewed: Callable[[], Awaitable[None]],
        spread: Callable[[], float] = random.random,
    ) -> None:
        """`ask(csr, listener)` goes to the hub, or raises TrustError; `on_renewed()` takes the new files into use."""
        self._identity, self._clock = identity, clock
        self._ask, self._on_renewed, self._spread = ask, on_renewed, spread
        self._in_use = describe(identity.certificate.read_bytes())
        self._early, self._attempt, self._retry_us, self._said = spread(), 0, 0, False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(min(LOOK_S, self._in_use.life_us / 1e6 / 100))

    async def look(self) -> None:
        """One look: take into use what has changed, renew what is due."""
        facts = describe(self._identity.certificate.read_bytes())
        if facts.serial != self._in_use.serial:
            await self._adopt(facts)
        now_us = self._clock.now_us()
        if now_us < max(due_us(facts, self._early), self._retry_us):
            return
        if now_us > facts.not_after_us and not self._said:
            self._said = True
            log.error("the certificate has expired", edge_id=facts.name, remedy=REPLACED)
        try:
            await self._renew(facts)
        except TrustError as error:
            wait_s = retry_s(self._attempt, facts.life_us / 1e6)
            self._attempt, self._retry_us = self._attempt + 1, now_us + round(wait_s * 1e6)
            log.warning("renewal failed", edge_id=facts.name, reason=str(error), attempt=self._attempt, retry_s=round(wait_s, 1))

    async def _renew(self, facts: CertificateFacts) -> None:
        key = new_key()
        authority = self._identity.authority.read_bytes()
        renewed = await self._ask(signing_request(key, facts.name), self._identity.listener.read_bytes())
        now_us = self._clock.now_us()
        for pem, role in ((renewed.certificate, "edge"), (renewed.listener, "listener")):
            given = check_certificate(pem, authority, now_us=now_us, where="the renewed identity")
            if (given.role, given.name) != (role, facts.name) or public_key_of(pem) != key.public_key():
                raise TrustError("the hub's answer is not this edge's certificate", remedy="see the hub's log")
        await asyncio.to_thread(
            self._identity.replace, key, certificate=renewed.certificate, listener=renewed.listener, authority=authority
        )
        await self._adopt(describe(renewed.certificate))

    async def _adopt(self, facts: CertificateFacts) -> None:
        self._in_use, self._early = facts, self._spread()
        self._attempt, self._retry_us, self._said = 0, 0, False
        await self._on_renewed()
        ends = f"{utc(facts.not_after_us):%Y-%m-%d %H:%M:%S}"
        log.info("certificate renewed", edge_id=facts.name, serial=facts.serial, ends=ends)
