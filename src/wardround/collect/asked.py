"""What people ask of a running gateway at the command line: new names of signals, replays of what was set aside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from wardround.collect.gateway import Gateway
from wardround.collect.names import SignalNames
from wardround.collect.quarantine import Quarantine
from wardround.errors import WardroundError

log = structlog.get_logger(__name__)
Ask = Callable[[Callable[[], None]], Awaitable[None]]


class Asked:
    """Looked at again and again; `ask` has work done between two messages, in its order."""

    def __init__(self, names: SignalNames, quarantine: Quarantine, gateway: Gateway, ask: Ask, *, edge: str) -> None:
        self._names, self._quarantine, self._gateway, self._ask, self._edge = names, quarantine, gateway, ask, edge

    async def look(self) -> None:
        """Hand over what is new.

        Replays are read first and done last: who maps a name and then asks for a replay has that replay read by the new name,
        whenever this looks. The first look takes the names in any case: one may have been mapped since the edge began to start.
        """
        rows = await asyncio.to_thread(self._quarantine.asked)
        if self._names.changed():
            try:
                await self._ask(partial(self._gateway.use, self._names.table()))
            except WardroundError as error:  # the names in force stay
                log.error("names of signals not taken", edge_id=self._edge, reason=str(error))
        for row in rows:
            await self._ask(partial(self._gateway.replay, row))
