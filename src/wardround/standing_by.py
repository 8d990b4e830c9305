"""Whose turn it is to be the hub: the lock on the home, and with PostgreSQL a lease in the records as well.

The lock keeps two processes apart wherever the home's file system keeps locks: on one machine, and over NFS 4 or a cluster's. The
lease keeps machines apart whose file system does not, and tells the standby when the other is gone. A hub that can no longer keep
its lease ends at that moment as if it were killed: everything it does is made for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from wardround.clock import SystemClock
from wardround.errors import WardroundError
from wardround.processing import only_one
from wardround.settings import HubSettings, load_settings
from wardround.store import open_store
from wardround.store.lease import Keeper, Lease, held
from wardround.store.opening import elsewhere
from wardround.threads import to_its_end

log = structlog.get_logger(__name__)
LOOK_S = 0.25
EX_TEMPFAIL = 75  # sysexits.h: try again; units start it anew


@contextlib.asynccontextmanager
async def turn(home: Path, stop: asyncio.Event, *, standby: bool) -> AsyncIterator[bool]:
    """Hold the home for as long as the block lasts; False when `stop` came before it was this process's turn.

    Raises:
        WardroundError: another hub runs, and this one is no standby.
    """
    async with contextlib.AsyncExitStack() as stack:
        if elsewhere(home / "hub.sqlite") is not None and not await _lease(home, stop, stack, standby=standby):
            yield False
            return
        yield await _lock(home, stop, stack, standby=standby)


async def _lease(home: Path, stop: asyncio.Event, stack: contextlib.AsyncExitStack, *, standby: bool) -> bool:
    life_s = load_settings(home / "hub.toml", HubSettings).store.lease_s
    holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
    store = await to_its_end(open_store, home / "hub.sqlite")
    stack.callback(store.close)
    lease = Lease(store.engine, holder, SystemClock(), life_s)
    clock, seen = SystemClock(), ""
    patient_s = clock.monotonic_s() + 1.5 * life_s  # a hub that was killed here holds it for as long as that at most
    while not (taken := await _taken(lease, standby=standby)):
        now = await to_its_end(held, store.engine) if taken is False else None
        if now is not None and seen != now.holder:
            log.info("another hub holds the lease; this one waits", holder=now.holder, left_s=round(now.left_s, 1))
            seen = now.holder
        if not standby and now is not None and clock.monotonic_s() > patient_s:
            raise WardroundError(
                f"a hub runs already: {now.holder} holds the lease",
                remedy="stop it, or run this one with --standby: it waits, and takes over",
            )
        if await _stopped(stop):
            return False
    keeper = Keeper(lease, _end_at_once)
    keeper.start()
    stack.push_async_callback(to_its_end, keeper.close)
    return True


async def _taken(lease: Lease, *, standby: bool) -> bool | None:
    """None: the records could not be asked, which a standby outlasts."""
    try:
        return await to_its_end(lease.take)
    except WardroundError as error:
        if not standby:
            raise
        log.warning("standing by without an answer", error=str(error))
        return None


async def _lock(home: Path, stop: asyncio.Event, stack: contextlib.AsyncExitStack, *, standby: bool) -> bool:
    said = False
    while True:
        try:
            stack.enter_context(only_one(home, wait_s=0.0 if standby else 1.0))
        except WardroundError:
            if not standby:
                raise
            if not said:
                log.info("another process holds the home; this one waits", home=str(home))
                said = True
        else:
            return True
        if await _stopped(stop):
            return False


async def _stopped(stop: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), LOOK_S)
    return stop.is_set()


def _end_at_once(_why: str) -> None:
    os._exit(EX_TEMPFAIL)
