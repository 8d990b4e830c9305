"""Which of several hubs runs: one row in the records that a hub holds, for a while, by the database's clock.

The holder renews it. Another takes it once it has ended, and gets the next term. Both reckon from the same clock, the database's;
the holder reckons its own end from before it asked, on a clock that nobody sets, so it always ends before another may begin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql, sqlite

from wardround.clock import Clock
from wardround.errors import WardroundError
from wardround.store.schema import lease as table

log = structlog.get_logger(__name__)
NAME = "hub"
RENEWALS = 4  # in the life of a lease


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds the lease, since which term, and for how long still (below 0: it has ended)."""

    holder: str
    term: int
    left_s: float


class Lease:
    """One hub's hold on it, or its wish for it."""

    def __init__(self, engine: sa.Engine, holder: str, clock: Clock, life_s: float) -> None:
        """`holder` is one process's own name: two that are called alike would both hold it."""
        self._engine, self._holder, self._clock, self.life_s = engine, holder, clock, life_s
        self._term = 0
        self._until_s = 0.0

    def take(self) -> bool:
        """Take it when nobody holds it; False when somebody else does.

        Raises:
            WardroundError: the records cannot be reached.
        """
        asked_s = self._clock.monotonic_s()
        now = _now_us(self._engine)
        free = sa.or_(table.c.ends_us <= now, table.c.holder == self._holder)
        ours = {"holder": self._holder, "term": table.c.term + 1, "ends_us": now + round(self.life_s * 1e6)}
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        row = insert(table).values(name=NAME, holder="", term=0, ends_us=0).on_conflict_do_nothing()
        try:
            with self._engine.begin() as db:
                db.execute(row)
                if db.execute(sa.update(table).where(table.c.name == NAME, free).values(**ours)).rowcount != 1:
                    return False
                self._term = int(db.execute(sa.select(table.c.term).where(table.c.name == NAME)).scalar_one())
        except sa.exc.SQLAlchemyError as exc:
            raise WardroundError(
                f"the records cannot be reached: {exc}".splitlines()[0], remedy="is PostgreSQL running?"
            ) from exc
        self._until_s = asked_s + self.life_s
        return True

    def renew(self) -> bool:
        """Hold it for another life from now; False when it has ended, or somebody else has taken it."""
        asked_s = self._clock.monotonic_s()
        now = _now_us(self._engine)
        mine = sa.and_(table.c.name == NAME, table.c.holder == self._holder, table.c.term == self._term, table.c.ends_us > now)
        with self._engine.begin() as db:
            if db.execute(sa.update(table).where(mine).values(ends_us=now + round(self.life_s * 1e6))).rowcount != 1:
                return False
        self._until_s = asked_s + self.life_s
        return True

    def give_back(self) -> None:
        """Let the next begin at once."""
        mine = sa.and_(table.c.name == NAME, table.c.holder == self._holder, table.c.term == self._term)
        with self._engine.begin() as db:
            db.execute(sa.update(table).where(mine).values(ends_us=0))

    @property
    def left_s(self) -> float:
        """For how long this process may still act, by its own clock."""
        return self._until_s - self._clock.monotonic_s()


def held(engine: sa.Engine) -> Held | None:
    """Who holds it or held it last; None: nobody ever has."""
    with engine.connect() as db:
        row = db.execute(
            sa.select(table.c.holder, table.c.term, table.c.ends_us, _now_us(engine)).where(table.c.name == NAME)
        ).first()
    return Held(row[0], row[1], (row[2] - row[3]) / 1e6) if row is not None else None


class Keeper:
    """Renews a lease in a thread of its own until it is closed; `lost` is called, once, when it can no longer be kept.

    Then this process must not write another byte: another hub may be about to begin.
    """

    def __init__(self, lease: Lease, lost: Callable[[str], None]) -> None:
        self._lease, self._lost = lease, lost
        self._closed = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="lease-end", daemon=True)
        self._gone = threading.Lock()

    def start(self) -> None:
        """Begin."""
        self._renewing.start()
        self._watching.start()

    def close(self) -> None:
        """Stop renewing, and give it back if it is still ours."""
        self._closed.set()
        self._renewing.join(self._lease.life_s)
        try:
            self._lease.give_back()
        except sa.exc.SQLAlchemyError as error:  # it ends by itself
            log.warning("the lease could not be given back", error=str(error))

    def _renew(self) -> None:
        while not self._closed.wait(self._lease.life_s / RENEWALS):
            try:
                if not self._lease.renew():
                    self._lose("another hub has taken the lease")
                    return
            except sa.exc.SQLAlchemyError as error:
                log.warning(
                    "the lease could not be renewed", error=str(error).splitlines()[0], left_s=round(self._lease.left_s, 1)
                )

    def _watch(self) -> None:
        """Apart from what renews: that may be waiting for a database that does not answer."""
        margin_s = self._lease.life_s / 10
        while not self._closed.wait(max(0.01, min(self._lease.left_s - margin_s, self._lease.life_s / 20))):
            if self._lease.left_s <= margin_s:
                self._lose("the records could not be reached for as long as the lease holds")
                return

    def _lose(self, why: str) -> None:
        if self._gone.acquire(blocking=False) and not self._closed.is_set():
            log.critical("this hub may no longer run", reason=why)
            self._lost(why)


def _now_us(engine: sa.Engine) -> sa.ColumnElement[int]:
    """Now by the database's clock, microseconds since 1970 UTC."""
    if engine.dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1_000_000, sa.BigInteger)
    return sa.cast((sa.func.julianday("now") - 2_440_587.5) * 86_400_000_000, sa.BigInteger)
