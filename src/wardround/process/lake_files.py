"""Which files of a table a reader needs: from the table's log alone, kept in columns, a few hundred bytes a file.

delta-rs would make a dataset of a version with an expression for the lowest and highest of every column of every file: 72 kB a
file, measured, so that some thousand files of the newest few versions filled a gigabyte.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

PLACE = ("day", "bucket")
SIZE = "size_bytes"
OpenFiles = Callable[[dict[str, int]], fs.FileSystem]  # of the files whose sizes are given, by path
AT_ONCE = 256  # files
RANGES = ("made", "t_us", "t0_us", "t1_us", "code", "job")  # columns whose lowest and highest of each file are looked at
_FORMAT = ds.ParquetFileFormat()


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row must fulfil: `column how value`. `in`: the value is a list."""

    column: str
    how: Literal["in", "<", "<=", ">", ">="]
    value: Any

    def of_rows(self) -> Any:
        """As an expression that Arrow filters rows with."""
        field = ds.field(self.column)
        if self.how == "in":
            return field.isin(self.value) if self.value else ds.scalar(False)  # an empty list has no type to compare with
        return {"<": field < self.value, "<=": field <= self.value, ">": field > self.value, ">=": field >= self.value}[self.how]

    def of_files(self, low: Any, high: Any) -> Any:
        """Whether each file may hold such a row, by the lowest and highest of its column; null where the log does not say."""
        if self.how == "in":
            least, most = (min(self.value), max(self.value)) if self.value else (None, None)
            if least is None:
                return pa.repeat(pa.scalar(False), len(low))
            return pc.and_(pc.less_equal(low, pa.scalar(most, low.type)), pc.greater_equal(high, pa.scalar(least, high.type)))
        side = high if self.how[0] == ">" else low
        compare = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}[self.how]
        return compare(side, pa.scalar(self.value, side.type))


class Files:
    """The files of one version of a table. May be asked from any thread."""

    def __init__(self, actions: pa.Table) -> None:
        """`actions`: what the log has added and not removed, a file a row, with `min.` and `max.` of columns, flat."""
        kept = {"path": "path", SIZE: SIZE} | {f"partition.{name}": name for name in PLACE}
        kept |= {f"{end}.{name}": f"{end}.{name}" for name in RANGES for end in ("min", "max")}
        found = [name for name in kept if name in actions.column_names]
        # Copied: a column that is a view of the log's own batches would hold all of them.
        columns = [pa.concat_arrays([pc.take(actions.column(name).combine_chunks(), _every(actions.num_rows))]) for name in found]
        self._table = pa.Table.from_arrays(columns, [kept[name] for name in found])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def datasets(self, schema: pa.Schema, opened: OpenFiles, conditions: Sequence[Condition]) -> Iterator[ds.Dataset]:
        """Of the files that may hold a row which fulfils every condition, AT_ONCE files in each; at least one dataset.

        A file that has been read keeps its footer for as long as its dataset lives.
        """
        needed = self._needed(conditions)
        for at in range(0, max(1, needed.num_rows), AT_ONCE):
            part = needed.slice(at, AT_ONCE)
            paths, sizes, *places = (part.column(name).to_pylist() for name in ("path", SIZE, *PLACE))
            paths = [unquote(path) for path in paths]
            files = opened(dict(zip(paths, sizes, strict=True)))
            fragments = [
                _FORMAT.make_fragment(path, files, (ds.field("day") == day) & (ds.field("bucket") == bucket), file_size=size)
                for path, size, day, bucket in zip(paths, sizes, *places, strict=True)
            ]
            yield ds.FileSystemDataset(fragments, schema, _FORMAT, files)

    def days(self, conditions: Sequence[Condition]) -> list[str]:
        """The days of the files that may hold a row which fulfils every condition, oldest first."""
        return sorted({str(day) for day in pc.unique(self._needed(conditions).column("day")).to_pylist()})

    def _needed(self, conditions: Sequence[Condition]) -> pa.Table:
        table = self._table
        if not table.num_rows:
            return table.select([name for name in table.column_names if name in ("path", SIZE, *PLACE)])
        masks = []
        for condition in conditions:
            if condition.column in PLACE:
                own = table.column(condition.column)
                if condition.how == "in":
                    masks.append(pc.is_in(own, value_set=pa.array(condition.value, own.type)))
                else:
                    masks.append(condition.of_files(own, own))
            elif {f"min.{condition.column}", f"max.{condition.column}"} <= set(table.column_names):
                said = condition.of_files(table.column(f"min.{condition.column}"), table.column(f"max.{condition.column}"))
                masks.append(pc.fill_null(said, True))
        return table.filter(functools.reduce(pc.and_, masks)) if masks else table


def rows_where(conditions: Sequence[Condition]) -> Any:
    """All conditions as one expression; None without any."""
    return functools.reduce(lambda a, b: a & b, (c.of_rows() for c in conditions)) if conditions else None


def _every(n: int) -> Any:
    return pa.array(range(n), pa.int64())
