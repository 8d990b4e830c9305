"""A wearable's CSV, one row a sample, to examples of a study: the same transforms as at an edge.

Nothing is repaired: a cell that is no number, a time that goes back, or a unit that cannot be right stops the reading with the
line. A row with an empty cell is a gap. Samples of an uneven clock are put on an even grid by straight lines between neighbours.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.collect.signals import load_signals
from wardround.errors import StudyError
from wardround.process.transforms import Task
from wardround.process.transforms.activity import ACCELERATION, RATE_HZ
from wardround.process.transforms.alignment import GAP_PERIODS, RATE_SHARE_MIN
from wardround.records import YEAR_9999_US, Examples, Observation, concatenate
from wardround.rehearsal.sheet_columns import PER_SECOND, Columns, Sheet, opened_sheet

ROWS_MAX = 50_000_000  # about 4 GB of samples
STEP_ROWS = 5_000  # between two words of progress
GRAVITY = (5.0, 15.0)  # m/s2: what the median of movement's acceleration lies in, as most of it is gravity
COUNTS = 2**28  # steps that the span of a signal is cut into


@dataclass(slots=True)
class _Wearer:
    """Samples of one person in the order of the file."""

    edge: str
    t_us: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("b"))
    values: list[array[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SheetExamples:
    """Examples by edge, and what the file held."""

    edges: Mapping[str, Examples]
    rows: int
    gaps: int  # rows with an empty cell
    rates_hz: Mapping[str, float]  # by subject
    seconds: float


def read_sheet(path: Path, columns: Columns, task: Task, *, heard: Callable[[int], None]) -> SheetExamples:
    """Examples of a CSV as its mapping says.

    Args:
        heard: is told how many bytes were read, now and then.

    Raises:
        StudyError: a column, a number, a time, a unit or a label does not hold, with its line; or no example comes of it.
    """
    with opened_sheet(path) as sheet:
        wearers, rows, gaps = _read(sheet, columns, task, heard)
    if not wearers:
        raise StudyError(f"{path} has no row with all of its values", remedy="export a recording that holds samples")
    _check_values(path, columns, wearers)
    edges: dict[str, list[Examples]] = {}
    rates: dict[str, float] = {}
    for subject, one in wearers.items():
        observations, rates[subject] = _observations(path, subject, one, columns, task)
        edges.setdefault(one.edge, []).append(task.examples(observations))
    made = {edge: concatenate(parts, task.feature_names) for edge, parts in edges.items()}
    if not any((e.labels >= 0).any() for e in made.values()):
        raise StudyError(
            f"{path} gives no labelled window", remedy="a window is 2.56 s of one label without a gap: check the label column"
        )
    span = sum((w.t_us[-1] - w.t_us[0]) / 1e6 for w in wearers.values())
    return SheetExamples(made, rows, gaps, rates, span)


def _read(sheet: Sheet, columns: Columns, task: Task, heard: Callable[[int], None]) -> tuple[dict[str, _Wearer], int, int]:
    time = sheet.place(columns.time.column, "time")
    label = sheet.place(columns.label, "label")
    subject = sheet.place(columns.subject, "subject") if columns.subject else None
    edge = sheet.place(columns.edge, "edge") if columns.edge else None
    places = [(sheet.place(c.column, f"signals.{key}"), key) for key, c in columns.signals.items()]
    codes = {word: task.classes.index(name) + 1 for name, words in columns.labels.items() for word in words}
    codes |= dict.fromkeys(("", *columns.ignore), 0)
    wearers: dict[str, _Wearer] = {}
    rows = gaps = 0
    for line, row in sheet.rows:
        rows += 1
        if rows % STEP_ROWS == 0:
            heard(sheet.file.tell())
        if rows > ROWS_MAX:
            raise StudyError(f"{sheet.path} has more than {ROWS_MAX:,} rows", remedy="cut it into several files")
        who = row[subject].strip() if subject is not None else sheet.path.stem
        if not who:
            raise StudyError(f"{sheet.path}, line {line}: no subject", remedy="say in every row who wore it")
        where = row[edge].strip() if edge is not None else who
        one = wearers.get(who)
        if one is not None and one.edge != where:
            raise StudyError(f"{sheet.path}, line {line}: {who} is at {one.edge} and at {where}", remedy="one edge a subject")
        if not all(row[place].strip() for place, _ in places):
            gaps += 1
            continue
        word = row[label].strip()
        if word not in codes:
            raise StudyError(
                f"{sheet.path}, line {line}: label {word[:60]!r} is in no class",
                remedy="add it to [labels], or to `ignore`, in the file of columns",
            )
        t_us = _time(row[time], columns, sheet, line)
        if one is None:
            one = wearers[who] = _Wearer(where, values=[array("d") for _ in places])
        elif t_us <= one.t_us[-1]:
            raise StudyError(
                f"{sheet.path}, line {line}: the time of {who} does not go on: {row[time]!r}",
                remedy="sort the rows by time, leave no row twice, and give each person's rows a `subject` of its own",
            )
        for values, (place, key) in zip(one.values, places, strict=True):
            values.append(_number(row[place], columns, f"{sheet.path}, line {line}: {key} in column {sheet.header[place]!r}"))
        one.t_us.append(t_us)
        one.labels.append(codes[word])
    return wearers, rows, gaps


def _number(cell: str, columns: Columns, where: str) -> float:
    text = cell.strip()
    try:
        number = float(text.replace(",", ".") if columns.decimal == "," else text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        comma = columns.decimal == "." and "," in text
        remedy = 'write decimal = "," in the file of columns' if comma else "mend the cell, or empty it to leave a gap"
        raise StudyError(f"{where}: {text[:40]!r} is no number", remedy=remedy)
    return number


def _time(cell: str, columns: Columns, sheet: Sheet, line: int) -> int:
    where = f"{sheet.path}, line {line}: time in column {columns.time.column!r}"
    if columns.time.unit == "iso":
        try:
            at = datetime.fromisoformat(cell.strip())
        except ValueError as exc:
            raise StudyError(f"{where}: {cell[:40]!r} is no ISO 8601 time", remedy="write 2026-03-01T08:30:00.020Z") from exc
        if at.tzinfo is None:
            raise StudyError(f"{where}: {cell[:40]!r} has no time zone", remedy="end it with Z or an offset such as +01:00")
        return round(at.timestamp() * 1e6)
    number = _number(cell, columns, where) / PER_SECOND[columns.time.unit] * 1e6
    if not 0 <= number <= YEAR_9999_US:
        raise StudyError(f"{where}: {cell[:40]!r} {columns.time.unit} is no time since 1970", remedy="check `time.unit`")
    return round(number)


def _check_values(path: Path, columns: Columns, wearers: Mapping[str, _Wearer]) -> None:
    """Whether the numbers can be in the units that are said: within the sensor's range, and with gravity in acceleration."""
    signals = load_signals()
    keys = list(columns.signals)
    for subject, one in wearers.items():
        square = np.zeros(len(one.t_us))
        for i, key in enumerate(keys):
            signal = signals.resolve(key)
            change = signals.conversion(columns.signals[key].unit, signal)
            values = np.frombuffer(one.values[i]) * change.factor + change.offset
            low, high = float(values.min()), float(values.max())
            if (signal.low is not None and low < signal.low) or (signal.high is not None and high > signal.high):
                raise StudyError(
                    f"{path}: {key} of {subject} goes from {low:.4g} to {high:.4g} {signal.unit}, outside of {signal.low:g} to "
                    f"{signal.high:g}",
                    remedy=f"check signals.{key}.unit, now {columns.signals[key].unit!r}",
                )
            if signal.code in ACCELERATION:
                square += np.square(values)
        size = float(np.median(np.sqrt(square)))
        if not GRAVITY[0] <= size <= GRAVITY[1]:
            raise StudyError(
                f"{path}: acceleration of {subject} has a median of {size:.3g} m/s2, where gravity alone gives 9.8",
                remedy="check the units of acceleration ([g], mg, m/s2); linear acceleration, without gravity, cannot be used",
            )


def _observations(path: Path, subject: str, one: _Wearer, columns: Columns, task: Task) -> tuple[list[Observation], float]:
    """What an edge would keep of one person: an observation a signal and stretch without a gap; and the rate in Hz."""
    t = np.frombuffer(one.t_us, np.int64)
    if len(t) < 2:
        raise StudyError(f"{path}: {subject} has one row alone", remedy="leave it out, or check the subject column")
    period = float(np.median(np.diff(t)))
    if 1e6 / period < RATE_SHARE_MIN * RATE_HZ:
        raise StudyError(
            f"{path}: {subject} has {1e6 / period:.3g} samples a second; `{task.name}` needs {RATE_SHARE_MIN * RATE_HZ:g}",
            remedy=f"check time.unit, now {columns.time.unit!r}, or record at a higher rate",
        )
    if 1e6 / period > 2_000:
        raise StudyError(
            f"{path}: {subject} has {1e6 / period:,.0f} samples a second, as no wearable has",
            remedy=f"check time.unit, now {columns.time.unit!r}",
        )
    signals = load_signals()
    labels = np.frombuffer(one.labels, np.int8)
    made: list[Observation] = []
    bounds = [0, *(np.flatnonzero(np.diff(t) > GAP_PERIODS * period) + 1).tolist(), len(t)]
    for a, b in itertools.pairwise(bounds):
        if b - a < 2:
            continue
        grid = np.arange(t[a], t[b - 1] + 0.5 * period, period)
        grid = np.linspace(t[a], t[b - 1], b - a) if len(grid) == b - a else grid
        if len(grid) < 2:
            continue
        step = float(grid[1] - grid[0])
        near = np.minimum(np.searchsorted(t[a:b], grid - step / 2), b - a - 1)
        made.append(_run(subject, task.label_code, "1", t[a], step, labels[a:b][near].astype(np.int32), 1.0, 0.0))
        for i, (key, column) in enumerate(columns.signals.items()):
            signal = signals.resolve(key)
            change = signals.conversion(column.unit, signal)
            values = np.interp(grid, t[a:b], np.frombuffer(one.values[i])[a:b]) * change.factor + change.offset
            low, scale = float(values.min()), max(float(np.ptp(values)), 1e-9) / COUNTS
            counts = np.round((values - low) / scale).astype(np.int32)
            made.append(_run(subject, signal.code, signal.unit, t[a], step, counts, scale, low))
    return made, 1e6 / period


def _run(
    subject: str, code: str, unit: str, t0_us: int, period_us: float, counts: NDArray[np.int32], scale: float, origin: float
) -> Observation:
    return Observation(
        subject=subject,
        device="csv",
        edge="rehearsal",
        code=code,
        unit=unit,
        t0_us=int(t0_us),
        t0_device_us=int(t0_us),
        n=len(counts),
        period_us=period_us,
        values=counts.astype("<i4").tobytes(),
        values_type="i4",
        scale=scale,
        origin=origin,
    )


def write_table(path: Path, edges: Mapping[str, Examples], task: Task) -> None:
    """Labelled examples as a table that `wardround study rehearse --data` reads; there whole, or not at all."""
    import polars as pl  # noqa: PLC0415 - half a second of import that only tables pay

    kept = {edge: e.where(e.labels >= 0) for edge, e in edges.items()}
    whole = concatenate(list(kept.values()), task.feature_names)
    frame = pl.DataFrame(whole.features, schema=list(task.feature_names), orient="row").with_columns(
        pl.Series("label", [task.classes[i] for i in whole.labels]),
        pl.Series("subject", whole.subjects.tolist()),
        pl.Series("edge", [edge for edge, e in kept.items() for _ in range(len(e))]),
    )
    part = path.with_name(f".{path.name}.part")
    frame.write_parquet(part)
    part.replace(path)
