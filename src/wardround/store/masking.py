"""A text written over wherever it stands in the records, so that nothing of an erased subject is left in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from wardround.store import schema


def write_over(engine: sa.Engine, text: str, mask: str) -> int:
    """Write `mask`, which is as long, over `text`; how many cells.

    The length stays, so that what is kept inside a cell (JSON, MessagePack) can still be read. What held it is written anew: on
    SQLite the file, on PostgreSQL every table. PostgreSQL's write-ahead log and its own backups keep what they have until they
    are recycled.
    """
    if len(text.encode()) != len(mask.encode()):
        raise ValueError("a mask is as long as what it covers")
    with engine.begin() as db:
        changed = sum(_mask_table(db, table, text, mask) for table in schema.metadata.sorted_tables)
    anew = ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]
    if engine.dialect.name == "postgresql":
        anew = [f"VACUUM FULL {table.name}" for table in schema.metadata.sorted_tables] if changed else []
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        for statement in anew:
            db.exec_driver_sql(statement)
    return changed


def tables_with(engine: sa.Engine, text: str) -> list[str]:
    """Tables with a cell that holds a text, whole or as a part."""
    with engine.connect() as db:
        return [table.name for table in schema.metadata.sorted_tables if next(_cells_with(db, table, text), None) is not None]


def _mask_table(db: sa.Connection, table: sa.Table, text: str, mask: str) -> int:
    changed = 0
    for column, one, cell in list(_cells_with(db, table, text)):
        new = cell.replace(text.encode(), mask.encode()) if isinstance(cell, bytes) else cell.replace(text, mask)
        value = json.loads(new) if isinstance(column.type, sa.JSON) else new
        changed += db.execute(sa.update(table).where(one).values({column.name: value})).rowcount
    return changed


def _cells_with(
    db: sa.Connection, table: sa.Table, text: str
) -> Iterator[tuple[sa.Column[Any], sa.ColumnElement[bool], str | bytes]]:
    """Cells that hold a text: the column, the condition for the row, and what stands there."""
    keys = list(table.primary_key.columns)
    for column in table.columns:
        plain: sa.ColumnElement[Any] = column
        query = sa.select(*keys, column.label("masked_cell"))
        if isinstance(column.type, sa.Text | sa.JSON):
            plain = sa.cast(column, sa.Text)
            query = sa.select(*keys, plain.label("masked_cell")).where(plain.contains(text, autoescape=True))
        elif not isinstance(column.type, sa.LargeBinary):  # of these there are few rows, and no portable way to look inside
            continue
        for row in db.execute(query).mappings().all():
            cell = row["masked_cell"]
            found = text.encode() in cell if isinstance(cell, bytes) else text in (cell or "")
            if found:
                yield column, sa.and_(*(key == row[key.name] for key in keys)), cell
