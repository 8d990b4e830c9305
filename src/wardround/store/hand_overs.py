"""What one shift leaves to the next: a note that one person writes and another confirms. It is never changed otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from wardround.store import Store, schema

KEPT_MAX = 5_000


@dataclass(frozen=True, slots=True)
class HandOver:
    """One note, of the last `hours`. `part` says to whom: clinical, technical. `confirmed_us` is 0 until somebody has."""

    number: int
    part: str
    who: str
    written_us: int
    hours: int
    text: str
    confirmed_by: str = ""
    confirmed_us: int = 0


class HandOvers:
    """The notes in a hub's records. Each method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine

    def add(self, part: str, who: str, *, hours: int, text: str, now_us: int) -> int:
        """Keep a note; its number. The oldest go beyond KEPT_MAX."""
        table = schema.hand_overs
        values = {"part": part, "who": who, "written_us": now_us, "hours": hours, "text": schema.storable(text)}
        with self._engine.begin() as db:
            made = db.execute(sa.insert(table).values(**values, confirmed_by="", confirmed_us=0)).inserted_primary_key
            number = int(made[0]) if made is not None else 0
            db.execute(sa.delete(table).where(table.c.number <= number - KEPT_MAX))
        return number

    def confirm(self, number: int, who: str, now_us: int) -> bool:
        """Somebody else has read it; of two at once one does. False: there is none, it is confirmed, or it is their own."""
        table = schema.hand_overs
        waits = sa.and_(table.c.number == number, table.c.confirmed_us == 0, table.c.who != who)
        with self._engine.begin() as db:
            done = db.execute(sa.update(table).where(waits).values(confirmed_by=who, confirmed_us=now_us))
            return bool(done.rowcount)

    def newest(self, part: str, *, limit: int = 10) -> list[HandOver]:
        """Of one part, the newest first."""
        table = schema.hand_overs
        query = sa.select(table).where(table.c.part == part).order_by(table.c.number.desc()).limit(limit)
        with self._engine.connect() as db:
            return [HandOver(**row) for row in db.execute(query).mappings()]

    def get(self, number: int) -> HandOver | None:
        """One of them."""
        table = schema.hand_overs
        with self._engine.connect() as db:
            row = db.execute(sa.select(table).where(table.c.number == number)).mappings().first()
            return HandOver(**row) if row is not None else None
