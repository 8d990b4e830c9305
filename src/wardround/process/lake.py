"""The lake: Delta tables in a folder or an object store, written by one committer a table, each write exactly once.

delta-rs records an application's transaction version but does not enforce it: the same version again is accepted and the rows
are there twice. So a write looks at `transaction_version` and then writes through the same handle, whose log position makes a
commit that came between a conflict; on a conflict the table is read again and the question asked anew.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import ColumnProperties, CommitProperties, DeltaTable, Schema, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs

from wardround.errors import ProcessError
from wardround.process.lake_files import Condition, Files, rows_where
from wardround.process.search import search_parquet
from wardround.process.tables import (
    BRONZE,
    DAY_US,
    OBSERVATIONS,
    PARTITIONS,
    SCHEMAS,
    VERSIONS_HOURS,
    day_of,
    rows_to_observations,
)
from wardround.records import Observation, bucket_of

CONFLICTS_MAX = 20
VERSIONS_MAX = 8
RUN_MAX_US = DAY_US  # longest run of samples in one observation; a reader looks so far back for one that reaches into its time
# Integers as differences, and no dictionary of what never comes again: bronze of single values is six times smaller for it.
_INTEGERS = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
_BYTES = ColumnProperties(dictionary_enabled=False)


def _columns(schema: pa.Schema) -> dict[str, ColumnProperties]:
    integers = {f.name: _INTEGERS for f in schema if pa.types.is_int64(f.type)}
    return integers | {f.name: _BYTES for f in schema if pa.types.is_binary(f.type)}


_WRITERS = {
    name: WriterProperties(compression="ZSTD", compression_level=3, column_properties=_columns(schema))
    for name, schema in SCHEMAS.items()
}


def _kept_for(hours: int) -> dict[str, str]:
    """For how long a table's log tells of earlier versions, and of the files that only they had: longer than these stay."""
    return {
        "delta.logRetentionDuration": f"interval {hours} hours",
        "delta.deletedFileRetentionDuration": f"interval {hours + 2} hours",
    }


class BrokenFile(NamedTuple):
    """A file of a table that cannot be read."""

    day: str
    bucket: int
    words: str


class Snapshot(NamedTuple):
    """A table at one version: every file that it needs, by its name in the table's folder."""

    version: int
    files: list[tuple[str, Path]]


class Lake:
    """Tables by name. One process writes; any number read. Safe to use from several threads."""

    def __init__(self, uri: str | Path, storage_options: dict[str, str] | None = None) -> None:
        self._uri = str(uri)
        self._options = storage_options
        self._handles: dict[str, DeltaTable] = {}  # to write
        self._readers: dict[str, DeltaTable] = {}
        self._locks = {name: threading.RLock() for name in SCHEMAS}
        self._files: dict[tuple[str, int], Files] = {}
        self._commits = dict.fromkeys(SCHEMAS, 0)

    @property
    def uri(self) -> str:
        """Where the tables are."""
        return self._uri

    def append(self, table: str, rows: pa.Table, *, app: str, version: int) -> bool:
        """Add rows exactly once for (app, version); False when they are there already.

        Raises:
            ProcessError: the table stays in conflict, or the store refuses.
        """
        return self._write(table, rows.to_batches, predicate=None, transaction=(app, version), notes={})

    def replace(
        self,
        table: str,
        batches: Callable[[], Iterable[pa.RecordBatch]],
        *,
        predicate: str,
        transaction: tuple[str, int] | None = None,
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Put rows in the place of those that match `predicate`, in one commit.

        Args:
            batches: gives the rows, as often as it is asked; they are written as they come.
            transaction: (app, version): exactly once for it. None: as often as it is called, which changes nothing.
            notes: stand beside the commit in the table's history.
        """
        return self._write(table, batches, predicate=predicate, transaction=transaction, notes=notes)

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
        jobs: Collection[str] | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        made_after: int | None = None,
        version: int | None = None,
        broken: list[BrokenFile] | None = None,
    ) -> pa.Table:
        """Rows that match everything given; files that cannot hold any are not opened.

        Args:
            since_us: rows with a sample at this time or later.
            until_us: rows with a sample before this time.
            made_after: rows that came after this version of the table.
            version: an earlier version of the table; the newest otherwise.
            broken: takes the files that cannot be read, and the rest is read; without it one such file is an error.

        Raises:
            ProcessError: a file cannot be read.
        """
        wanted = _conditions(table, subjects, since_us, until_us, {"bucket": buckets, "code": codes, "job": jobs})
        if made_after is not None:
            wanted.append(Condition("made", ">", made_after))
        expression = rows_where(wanted)
        names = list(columns) if columns is not None else None
        parts = []
        for dataset in self._datasets(table, version, wanted):
            try:
                parts.append(dataset.to_table(columns=names, filter=expression))
            except (OSError, pa.ArrowException) as exc:
                if broken is None:
                    remedy = "restore it, or look at the disk"
                    raise ProcessError(f"a file of {table} cannot be read: {exc}", remedy=remedy) from exc
                parts.append(self._readable(table, dataset, names, expression, broken))
        return pa.concat_tables(parts) if len(parts) > 1 else parts[0]

    def days(
        self,
        table: str,
        *,
        subjects: Collection[str] | None = None,
        codes: Collection[str] | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
    ) -> list[str]:
        """Days on which rows that `read` would find with this may begin, oldest first: from the log alone, no file is opened."""
        files = self._listed(table, None)
        return files.days(_conditions(table, subjects, since_us, until_us, {"code": codes})) if files is not None else []

    def _readable(
        self, table: str, dataset: ds.Dataset, columns: list[str] | None, expression: Any, broken: list[BrokenFile]
    ) -> pa.Table:
        """File by file, the ones that can be read."""
        fields = columns if columns is not None else SCHEMAS[table].names
        parts = [pa.schema([SCHEMAS[table].field(name) for name in fields]).empty_table()]
        for fragment in dataset.get_fragments(filter=expression):
            try:
                parts.append(fragment.to_table(schema=dataset.schema, columns=columns, filter=expression))
            except (OSError, pa.ArrowException) as exc:
                place = ds.get_partition_keys(fragment.partition_expression)
                broken.append(BrokenFile(str(place["day"]), int(place["bucket"]), f"{fragment.path} cannot be read: {exc}"[:300]))
        return pa.concat_tables(parts)

    def observations(self, **where: Any) -> list[Observation]:
        """Observations of bronze; the arguments are those of `read`."""
        return rows_to_observations(self.read(BRONZE, columns=OBSERVATIONS.names, **where))

    def count(self, table: str) -> int:
        """How many rows, from the log alone."""
        with self._locks[table]:
            actions = pa.table(self._fresh(table).get_add_actions(flatten=True))
        return sum(n or 0 for n in actions.column("num_records").to_pylist()) if actions.num_rows else 0

    def commits(self, table: str) -> int:
        """How many commits this process has made to a table, those of upkeep aside."""
        return self._commits[table]

    def compact(self, table: str, *, day: str | None = None, file_bytes: int | None = None) -> None:
        """Put small files together, of one day or of all. Readers of earlier versions are not disturbed.

        Args:
            file_bytes: how large files may become; one that is so large already is not written again. None: as delta-rs has it.
        """
        filters: Any = [("day", "=", day)] if day is not None else None
        with self._locks[table], _said(table, "compaction"):
            self._fresh(table).optimize.compact(
                partition_filters=filters, target_size=file_bytes, writer_properties=_WRITERS[table]
            )

    def files_by_day(self, table: str) -> dict[str, tuple[int, int]]:
        """How many files, in how many buckets, each day has."""
        with self._locks[table], _said(table, "look at its files"):
            actions = pa.table(self._fresh(table).get_add_actions(flatten=True))
        if not actions.num_rows:
            return {}
        days, buckets = (actions.column(f"partition.{name}").to_pylist() for name in PARTITIONS)
        found: dict[str, list[int]] = {}
        for day, bucket in zip(days, buckets, strict=True):
            found.setdefault(str(day), []).append(bucket)
        return {day: (len(own), len(set(own))) for day, own in found.items()}

    def delete(self, table: str, predicate: str) -> int:
        """Remove the rows of whole partitions; how many. Their files stay until `clean_up`, for readers of an earlier version.

        Args:
            predicate: of day and bucket alone: what is left of a file would be written in types that readers cannot filter.
        """
        with self._locks[table], _said(table, "removal"):
            done = self._fresh(table).delete(predicate)
        return int(done.get("num_deleted_rows") or 0)

    def clean_up(self, table: str) -> int:
        """Forget versions older than VERSIONS_HOURS: their log entries and the files that only they had; how many files.

        Files first, as the log may not tell of them any more once a checkpoint is made; with them go those of writes that a kill
        cut off. Then the checkpoint, so that a reader needs no entry that goes.
        """
        with self._locks[table], _said(table, "clean-up"):
            handle = self._fresh(table)
            hours = VERSIONS_HOURS[table]
            removed = handle.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False, full=True)
            handle.create_checkpoint()
            handle.cleanup_metadata()
            return len(removed)

    def erase(self, subject: str, mask: str) -> dict[str, int]:
        """Take a subject out of every table, down to the last byte: rows by table, for each table that held any.

        Rows are deleted and their files removed, with every earlier version of the table; where the log names the subject (in a
        predicate, or as the lowest or highest of a file), `mask`, which is as long, is written over the name, so that the history
        stays readable. Does nothing again when it is called again, and goes on where it was cut off.
        """
        return {table: rows for table in SCHEMAS if (rows := self._erase(table, subject, mask)) is not None}

    def _erase(self, table: str, subject: str, mask: str) -> int | None:
        """None: the table has never heard of the subject."""
        where = f"{self._uri}/{table}"
        with self._locks[table], _said(table, "erasure"):
            if not DeltaTable.is_deltatable(where, self._options):
                return None
            handle = self._fresh(table)
            quoted = subject.replace("'", "''")
            predicate = f"bucket = {bucket_of(subject)} AND subject = '{quoted}'"
            rows = int(self.read(table, columns=["subject"], subjects=[subject]).num_rows)
            if rows:  # as an overwrite: files that delta-rs writes in a delete have string_view, which Arrow cannot filter
                write_deltalake(
                    handle, _nothing(SCHEMAS[table]), mode="overwrite", predicate=predicate, writer_properties=_WRITERS[table]
                )
            log = _Log(where, self._options)
            if not rows and not log.mentions(subject):
                return None
            handle = self._fresh(table)
            handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
            log.mask(subject, mask)
            handle = self._fresh(table)
            handle.create_checkpoint()
            log.keep_checkpoint(handle.version())
            for key in [k for k in self._files if k[0] == table]:
                del self._files[key]
            self._readers.pop(table, None)
            return rows

    def history(self, table: str, limit: int = 20) -> list[dict[str, Any]]:
        """The newest commits first, with the notes they carry."""
        with self._locks[table]:
            return [dict(entry) for entry in self._fresh(table).history(limit)]

    # -- how

    def tables(self) -> list[str]:
        """The tables that there are."""
        return [name for name in SCHEMAS if DeltaTable.is_deltatable(f"{self._uri}/{name}", self._options)]

    def snapshot(self, table: str) -> Snapshot:
        """A table as it stands now, file by file; of a lake in an object store the version alone.

        The files stay until the table is put in order or somebody is erased from it.
        """
        with self._locks[table]:
            version = int(self._fresh(table).version())
            if "://" in self._uri:
                return Snapshot(version, [])
            folder = Path(self._uri, table)
            handle = DeltaTable(str(folder), version=version)
            files = [Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri) for uri in handle.file_uris()]
            files += [path for path in sorted((folder / "_delta_log").iterdir()) if _log_version(path) <= version]
            return Snapshot(
                version, [(path.relative_to(folder.absolute()).as_posix(), path) for path in map(Path.absolute, files)]
            )

    def _write(
        self,
        table: str,
        batches: Callable[[], Iterable[pa.RecordBatch]],
        *,
        predicate: str | None,
        transaction: tuple[str, int] | None,
        notes: Mapping[str, str],
    ) -> bool:
        properties = CommitProperties(
            app_transactions=[Transaction(*transaction)] if transaction is not None else None,
            max_commit_retries=0,
            custom_metadata=dict(notes) or None,
        )
        with self._locks[table]:
            for _ in range(CONFLICTS_MAX):
                handle = self._fresh(table)
                if transaction is not None:
                    done = handle.transaction_version(transaction[0])
                    if done is not None and done >= transaction[1]:
                        return False
                rows = _stamped(batches(), SCHEMAS[table], handle.version() + 1)
                how: dict[str, Any] = {"mode": "append"} if predicate is None else {"mode": "overwrite", "predicate": predicate}
                with _said(table, "commit"):
                    try:
                        write_deltalake(handle, rows, commit_properties=properties, writer_properties=_WRITERS[table], **how)
                    except CommitFailedError:
                        continue
                self._commits[table] += 1
                return True
        raise ProcessError(f"{table} stays in conflict", remedy="only the hub may write the lake; look for a second writer")

    def _fresh(self, table: str) -> DeltaTable:
        """The one writing handle of a table, at its newest version; made, or given new columns, when that is needed."""
        handle = self._handles.get(table)
        if handle is not None:
            handle.update_incremental()
            return handle
        where = f"{self._uri}/{table}"
        if not DeltaTable.is_deltatable(where, self._options):
            if "://" not in where:
                Path(where).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                where,
                SCHEMAS[table],
                mode="ignore",
                partition_by=PARTITIONS,
                configuration=_kept_for(VERSIONS_HOURS[table]),
                storage_options=self._options,
            )
        handle = DeltaTable(where, storage_options=self._options)
        known = {f.name for f in handle.schema().fields}
        added = [f for f in Schema.from_arrow(SCHEMAS[table]).fields if f.name not in known]
        if added:
            handle.alter.add_columns(added)  # older rows have null there
        wanted = _kept_for(VERSIONS_HOURS[table])
        if not wanted.items() <= handle.metadata().configuration.items():  # of a table that an older version made
            handle.alter.set_table_properties(wanted)
        self._handles[table] = handle
        return handle

    def _datasets(self, table: str, version: int | None, wanted: Sequence[Condition]) -> Iterator[ds.Dataset]:
        """Those files of a version that may hold what is wanted. Writes nothing."""
        files, where = self._listed(table, version), f"{self._uri}/{table}"
        if files is None:
            return iter([ds.dataset(SCHEMAS[table].empty_table())])
        return files.datasets(SCHEMAS[table], functools.partial(_reader_files, where, self._options), wanted)

    def _listed(self, table: str, version: int | None) -> Files | None:
        """The files of a version, the newest by default; None: there is no such table yet. What the log says of the newest few
        versions is kept: reading it is most of the work."""
        where = f"{self._uri}/{table}"
        with self._locks[table]:
            newest = None
            if version is None:
                newest = self._readers.get(table)
                if newest is None:
                    if not DeltaTable.is_deltatable(where, self._options):
                        return None
                    self._readers[table] = newest = DeltaTable(where, storage_options=self._options)
                newest.update_incremental()
                version = newest.version()
            found = self._files.get((table, version))
            if found is None:
                handle = newest or DeltaTable(where, version=version, storage_options=self._options)
                found = Files(pa.table(handle.get_add_actions(flatten=True)))
                self._files[table, version] = found
                while len(self._files) > VERSIONS_MAX:
                    self._files.pop(next(iter(self._files)), None)
        return found


def _conditions(
    table: str,
    subjects: Collection[str] | None,
    since_us: int | None,
    until_us: int | None,
    among: Mapping[str, Collection[Any] | None],
) -> list[Condition]:
    """What `read` asks of rows."""
    names = SCHEMAS[table].names
    first, last = ("t0_us", "t1_us") if "t1_us" in names else ("t_us", "t_us")
    wanted: list[Condition] = []
    if subjects is not None:
        wanted.append(Condition("bucket", "in", sorted({bucket_of(s) for s in subjects})))
        wanted.append(Condition("subject", "in", list(subjects)))
    if since_us is not None:
        wanted += [Condition("day", ">=", day_of(since_us - RUN_MAX_US)), Condition(last, ">=", since_us)]
    if until_us is not None:
        wanted += [Condition("day", "<=", day_of(until_us)), Condition(first, "<", until_us)]
    return wanted + [Condition(name, "in", list(values)) for name, values in among.items() if values is not None]


def _reader_files(where: str, options: dict[str, str] | None, sizes: dict[str, int] | None = None) -> fs.FileSystem:
    """A folder is read by Arrow itself. Through Python, as an object store is, its threads may outlive the interpreter by a
    moment, and the process would end with an abort.

    `sizes` are those of the files to read. delta-rs would ask the store for one that it is not told, and hold the interpreter's
    lock meanwhile: a worker's way to the store leads through Python of the same process (worker.py), and both would stand still.
    """
    if "://" in where:
        return fs.PyFileSystem(DeltaStorageHandler(where, options, sizes))
    return fs.SubTreeFileSystem(where, fs.LocalFileSystem())


class _Log:
    """The files of a table's log, in a folder or an object store."""

    def __init__(self, where: str, options: dict[str, str] | None) -> None:
        self._whole = "://" in where  # an object store shows an object whole, or not at all
        self._files = _reader_files(where, options)

    def mentions(self, subject: str) -> bool:
        """Whether a commit or a checkpoint names a subject."""
        return any(self._names(path, subject) for path in self._paths())

    def mask(self, subject: str, mask: str) -> None:
        """Write over a subject's name in every commit; a reader meets the old file or the new one, never half of one."""
        for path in self._paths():
            if path.endswith(".json") and self._names(path, subject):
                data = self._read(path).replace(subject.encode(), mask.encode())
                aside = path if self._whole else f"{path}.partial"
                with self._files.open_output_stream(aside) as out:
                    out.write(data)
                if aside != path:
                    self._files.move(aside, path)

    def keep_checkpoint(self, version: int) -> None:
        """Remove every checkpoint but that of a version."""
        for path in self._paths():
            if ".checkpoint" in path and path.endswith(".parquet") and f"{version:020d}" not in path:
                self._files.delete_file(path)

    def _paths(self) -> list[str]:
        found = self._files.get_file_info(fs.FileSelector("_delta_log", allow_not_found=True))
        return sorted(f.path for f in found if f.type == fs.FileType.File)

    def _names(self, path: str, subject: str) -> bool:
        if path.endswith(".parquet"):
            with self._files.open_input_file(path) as file:
                return search_parquet(file, subject)[0]
        return subject.encode() in self._read(path)

    def _read(self, path: str) -> bytes:
        with self._files.open_input_stream(path) as file:
            return bytes(file.read())


def _log_version(path: Path) -> int:
    """The version that a file of a log is of: its number, or the one that `_last_checkpoint` names."""
    if path.name == "_last_checkpoint":
        return int(msgspec.json.decode(path.read_bytes())["version"])
    number = path.name.partition(".")[0]
    return int(number) if number.isdigit() and path.suffix in (".json", ".parquet") else 1 << 62


@contextlib.contextmanager
def _said(table: str, what: str) -> Iterator[None]:
    """What the store refuses, in our words."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as exc:
        raise ProcessError(f"the lake refused a {what} of {table}: {exc}", remedy="check its disk or store") from exc


def _nothing(schema: pa.Schema) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(schema, [])


def _stamped(batches: Iterable[pa.RecordBatch], schema: pa.Schema, version: int) -> pa.RecordBatchReader:
    """The rows with the version that brings them, as they come."""

    def rows() -> Iterator[pa.RecordBatch]:
        place = schema.get_field_index("made")
        for batch in batches:
            columns = [batch.column(name) if name != "made" else None for name in schema.names]
            columns[place] = pa.repeat(pa.scalar(version, pa.int64()), batch.num_rows)
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, rows())


@functools.lru_cache(maxsize=4)
def reader(uri: str, options: tuple[tuple[str, str], ...] = ()) -> Lake:
    """A lake to read from, kept for as long as the process lives: what a worker uses, task after task."""
    return Lake(uri, {**dict(options), **_own_options} or None)


def use_options(options: Mapping[str, str]) -> None:
    """What this process alone knows of the store, and no task brings along: its keys, and its own way there."""
    _own_options.update(options)
    reader.cache_clear()


_own_options: dict[str, str] = {}
