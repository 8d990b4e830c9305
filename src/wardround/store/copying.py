"""All records from one store into another, whichever of SQLite and PostgreSQL each is: at one moment, whole or not at all.

So a hub moves to PostgreSQL or back, and so a backup holds the same file whatever the records are kept in.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from wardround.errors import WardroundError
from wardround.store import schema
from wardround.store.opening import migrate, open_engine, shown

ROWS = 1_000  # written at once
OWN = ("lease",)  # who runs at the source says nothing of the target


def copy_records(source: sa.Engine, target: sa.Engine) -> dict[str, int]:
    """Copy every row; how many, by table. Both are of this version's schema.

    Raises:
        WardroundError: the target holds records already.
    """
    copied: dict[str, int] = {}
    with source.connect() as read, target.begin() as write:
        if source.dialect.name == "postgresql":
            read.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table in schema.metadata.sorted_tables:
            if table.name not in OWN and write.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
                raise WardroundError(
                    f"{shown(target)} holds records already ({table.name})",
                    remedy="copy into an empty database, of this hub alone",
                )
        for table in schema.metadata.sorted_tables:
            if table.name in OWN:
                continue
            copied[table.name] = 0
            for rows in read.execute(sa.select(table)).mappings().partitions(ROWS):
                write.execute(sa.insert(table), [{key: schema.storable(value) for key, value in row.items()} for row in rows])
                copied[table.name] += len(rows)
            if target.dialect.name == "postgresql" and table.autoincrement_column is not None and copied[table.name]:
                column = table.autoincrement_column
                sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
                write.execute(sa.select(sa.func.setval(sequence, sa.select(sa.func.max(column)).scalar_subquery())))
    return copied


def count_records(engine: sa.Engine) -> dict[str, int]:
    """How many rows there are, by table; of the tables that are there."""
    there = set(sa.inspect(engine).get_table_names())
    with engine.connect() as db:
        tables = [table for table in schema.metadata.sorted_tables if table.name in there]
        return {t.name: int(db.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()) for t in tables}


def take_out(path: Path, to: Path) -> None:
    """The records of a home, wherever they are, into a SQLite file that is not there yet.

    Raises:
        WardroundError: the database cannot be reached.
    """
    source, target = open_engine(path), open_engine(f"sqlite:///{to}")
    try:
        migrate(source)
        migrate(target)
        copy_records(source, target)
    finally:
        source.dispose()
        target.dispose()
