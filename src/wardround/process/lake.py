"""The lake: Delta tables in a folder or an object store, written by one committer a table, each write exactly once.

delta-rs records an application's transaction version but does not enforce it: the same version again is accepted and the rows
are there twice. So a write looks at `transaction_version` and then writes through the same handle, whose log position makes a
commit that came between a conflict; on a conflict the table is read again and the question asked anew.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from wardround.errors import ProcessError
from wardround.process.tables import OBSERVATIONS, PARTITIONS, SCHEMAS, rows_to_observations
from wardround.records import Observation, bucket_of

CONFLICTS_MAX = 20
_WRITER = WriterProperties(compression="ZSTD", compression_level=3)


class Lake:
    """Tables by name. One process writes; any number read. Safe to use from several threads."""

    def __init__(self, uri: str | Path, storage_options: dict[str, str] | None = None) -> None:
        self._uri = str(uri)
        self._options = storage_options
        self._handles: dict[str, DeltaTable] = {}
        self._locks = {name: threading.RLock() for name in SCHEMAS}

    @property
    def uri(self) -> str:
        """Where the tables are."""
        return self._uri

    def append(self, table: str, rows: pa.Table, *, app: str, version: int) -> bool:
        """Add rows exactly once for (app, version); False when they are there already.

        Raises:
            ProcessError: the table stays in conflict, or the store refuses.
        """
        return self._write(table, rows, app, version, predicate=None)

    def replace(self, table: str, rows: pa.Table, *, predicate: str, app: str, version: int) -> bool:
        """Put rows in the place of those that match `predicate`, in one commit, exactly once for (app, version)."""
        return self._write(table, rows, app, version, predicate=predicate)

    def transaction_version(self, table: str, app: str) -> int:
        """The newest version an app has committed; -1 when none."""
        with self._locks[table]:
            found = self._fresh(table).transaction_version(app)
        return -1 if found is None else int(found)

    def version(self, table: str) -> int:
        """The table's version; it grows with every commit."""
        with self._locks[table]:
            return int(self._fresh(table).version())

    def read(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        subjects: Collection[str] | None = None,
        buckets: Collection[int] | None = None,
        codes: Collection[str] | None = None,
        task: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Rows that match everything given; subjects prune to their buckets, so other files are not opened.

        Args:
            version: an earlier version of the table; the newest otherwise.
        """
        handle = self._open(table) if version is None else self._at(table, version)
        time = "t0_us" if table == "bronze_observations" else "t_us"
        wanted: list[Any] = []
        if subjects is not None:
            wanted.append(ds.field("bucket").isin(sorted({bucket_of(s) for s in subjects})))
            wanted.append(ds.field("subject").isin(list(subjects)))
        if buckets is not None:
            wanted.append(ds.field("bucket").isin(list(buckets)))
        if codes is not None:
            wanted.append(ds.field("code").isin(list(codes)))
        if task is not None:
            wanted.append(ds.field("task") == task)
        if since_us is not None:
            wanted.append(ds.field(time) >= since_us)
        if until_us is not None:
            wanted.append(ds.field(time) < until_us)
        expression = None
        for part in wanted:
            expression = part if expression is None else expression & part
        return handle.to_pyarrow_dataset(schema=SCHEMAS[table]).to_table(
            columns=list(columns) if columns is not None else None, filter=expression
        )

    def observations(self, **where: Any) -> list[Observation]:
        """Observations of bronze; the arguments are those of `read`."""
        return rows_to_observations(self.read("bronze_observations", columns=OBSERVATIONS.names, **where))

    def subjects_since(self, table: str, after: int, *, upto: int, codes: Collection[str]) -> list[str]:
        """Subjects with rows of these codes in files that version `upto` has and version `after` had not (-1: all).

        A compaction writes old rows into new files: then it is more subjects than necessary, never fewer. What a clock says
        plays no part, so one that was set back hides nothing.
        """
        schema = SCHEMAS[table]
        had: set[str] = set()
        if after >= 0:
            with contextlib.suppress(DeltaError):  # its log has been cleaned away: everything counts as new
                had = {f.path for f in self._at(table, after).to_pyarrow_dataset(schema=schema).get_fragments()}
        now = self._at(table, upto).to_pyarrow_dataset(schema=schema)
        wanted = ds.field("code").isin(list(codes))
        found: set[str] = set()
        for fragment in now.get_fragments():
            if fragment.path not in had:
                rows = fragment.to_table(schema=schema, columns=["subject"], filter=wanted)
                found.update(rows.column("subject").to_pylist())
        return sorted(found)

    def count(self, table: str) -> int:
        """How many rows, from the log alone."""
        with self._locks[table]:
            actions = pa.table(self._fresh(table).get_add_actions(flatten=True))
        return sum(n or 0 for n in actions.column("num_records").to_pylist()) if actions.num_rows else 0

    def files(self, table: str) -> int:
        """How many data files the table has now."""
        with self._locks[table]:
            return len(self._fresh(table).file_uris())

    def compact(self, table: str) -> None:
        """Put small files together. Readers of earlier versions are not disturbed."""
        with self._locks[table]:
            self._fresh(table).optimize.compact(writer_properties=_WRITER)

    # -- how

    def _write(self, table: str, rows: pa.Table, app: str, version: int, predicate: str | None) -> bool:
        properties = CommitProperties(app_transactions=[Transaction(app, version)], max_commit_retries=0)
        with self._locks[table]:
            for _ in range(CONFLICTS_MAX):
                handle = self._fresh(table)
                done = handle.transaction_version(app)
                if done is not None and done >= version:
                    return False
                try:
                    if predicate is None:
                        write_deltalake(handle, rows, mode="append", commit_properties=properties, writer_properties=_WRITER)
                    else:
                        write_deltalake(
                            handle,
                            rows,
                            mode="overwrite",
                            predicate=predicate,
                            commit_properties=properties,
                            writer_properties=_WRITER,
                        )
                except CommitFailedError:
                    continue
                except OSError as exc:
                    raise ProcessError(f"the lake refused a commit to {table}: {exc}", remedy="check its disk or store") from exc
                return True
        raise ProcessError(f"{table} stays in conflict", remedy="only the hub may write the lake; look for a second writer")

    def _fresh(self, table: str) -> DeltaTable:
        """The one writing handle of a table, at its newest version; the table is made when it is not there."""
        handle = self._handles.get(table)
        if handle is not None:
            handle.update_incremental()
            return handle
        where = f"{self._uri}/{table}"
        if not DeltaTable.is_deltatable(where, self._options):
            if "://" not in where:
                Path(where).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(where, SCHEMAS[table], mode="ignore", partition_by=PARTITIONS, storage_options=self._options)
        self._handles[table] = handle = DeltaTable(where, storage_options=self._options)
        return handle

    def _open(self, table: str) -> DeltaTable:
        """A handle of its own for a reader: the writer's may move on in the middle."""
        with self._locks[table]:
            self._fresh(table)
        return DeltaTable(f"{self._uri}/{table}", storage_options=self._options)

    def _at(self, table: str, version: int) -> DeltaTable:
        return DeltaTable(f"{self._uri}/{table}", version=version, storage_options=self._options)
