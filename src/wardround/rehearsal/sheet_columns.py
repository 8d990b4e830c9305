"""What the columns of a wearable's CSV are: the reader's mapping, and one proposed from the file's header and first rows.

Only what a file says is proposed; what it leaves open is written as "?", and a mapping with a "?" is refused.
"""

from __future__ import annotations

import csv
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Literal, TextIO

import msgspec

from wardround.collect.signals import load_signals
from wardround.errors import DecodeError, StudyError
from wardround.process.transforms import Task
from wardround.process.transforms.activity import ACCELERATION, ACTIVITY, ROTATION

OPEN = "?"
PER_SECOND: Mapping[str, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
LABELS_MAX = 100  # different ones: a column with more is no label
HEAD_ROWS = 200
STEP_S = (0.002, 0.1)  # between two samples of movement: what tells the unit of the times
_NAMES = {"accel": ("acc",), "gyro": ("gyr", "rotation", "angularvelocity")}
_UNITS = {"accel": (("ms2", "m/s2"), ("mss", "m/s2"), ("mg", "mg"), ("g", "[g]")), "gyro": (("dps", "deg/s"), ("degs", "deg/s"))}
_RADIANS = (("rads", "rad/s"), ("rps", "rad/s"))
_CLASSES = {
    "upstairs": ("upstair", "stairsup", "ascend"),
    "downstairs": ("downstair", "stairsdown", "descend"),
    "walking": ("walk",),
    "sitting": ("sit",),
    "standing": ("stand",),
    "laying": ("lay", "lying", "lie"),
}


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column, and the unit of its numbers."""

    column: str
    unit: str


class Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The column of times: numbers in a unit, or text as ISO 8601."""

    column: str
    unit: Literal["s", "ms", "us", "ns", "iso", "?"]


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the columns of a CSV are. An empty `subject` is the file's own name; an empty `edge` is the subject's own."""

    task: str
    time: Clock
    label: str
    signals: dict[str, Column]
    labels: dict[str, list[str]]
    subject: str = ""
    edge: str = ""
    ignore: list[str] = []
    decimal: Literal[".", ","] = "."


def load_columns(path: Path, tasks: Mapping[str, Task]) -> tuple[Columns, Task]:
    """A mapping from its file, checked as far as can be without the CSV.

    Raises:
        StudyError: it cannot be read, leaves something open, or names a task, signal, unit or class that there is not.
    """
    try:
        columns = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Columns)
    except OSError as exc:
        raise StudyError(f"{path} cannot be read: {exc.strerror}", remedy=_PROPOSE) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as exc:
        raise StudyError(f"{path} does not hold: {exc}", remedy=f"mend it, or begin again: {_PROPOSE}") from exc
    task = movement_task(columns.task, tasks)
    _check_open(columns, path)
    signals = load_signals()
    needed = {signals.resolve(code).key for code in task.signals if code != task.label_code}
    if missing := sorted(needed - columns.signals.keys()):
        raise StudyError(
            f"{path}: [signals] lacks {', '.join(missing)}, which `{task.name}` needs",
            remedy="name their columns; a wearable without them cannot be used for this task",
        )
    if strange := sorted(columns.signals.keys() - needed):
        raise StudyError(f"{path}: [signals] {', '.join(strange)} is not read by `{task.name}`", remedy="take it out")
    for key, column in columns.signals.items():
        try:
            signals.conversion(column.unit, signals.resolve(key))
        except DecodeError as exc:
            raise StudyError(f"{path}: {exc}", remedy="write the unit that the wearable's manual gives, in UCUM") from exc
    if strange := sorted(columns.labels.keys() - set(task.classes)):
        raise StudyError(f"{path}: [labels] {', '.join(strange)} is no class", remedy=f"use {', '.join(task.classes)}")
    words = [w for ws in columns.labels.values() for w in ws] + columns.ignore
    if twice := sorted({w for w in words if words.count(w) > 1}):
        raise StudyError(f"{path}: label {', '.join(twice)} stands in two places", remedy="leave it in one")
    return columns, task


def movement_task(name: str, tasks: Mapping[str, Task]) -> Task:
    """The task of that name, if its samples can be read from a CSV.

    Raises:
        StudyError: there is no such task, or its samples come from elsewhere.
    """
    if name not in tasks:
        raise StudyError(f"there is no task {name!r}", remedy=f"choose one of: {', '.join(sorted(tasks))}")
    if name != ACTIVITY.name:
        raise StudyError(
            f"samples in CSV are read for the task `{ACTIVITY.name}` alone, and not for `{name}`",
            remedy="give recordings as WFDB, or tables of examples, to `wardround study rehearse --data`",
        )
    return tasks[name]


_PROPOSE = "`wardround study columns FILE.csv --task activity > columns.toml`"


def _check_open(columns: Columns, path: Path) -> None:
    fields = {"time.column": columns.time.column, "time.unit": columns.time.unit, "label": columns.label}
    for key, column in columns.signals.items():
        fields |= {f"signals.{key}.column": column.column, f"signals.{key}.unit": column.unit}
    if left := [name for name, text in fields.items() if text == OPEN]:
        raise StudyError(
            f'{path}: {", ".join(left)} is still "{OPEN}"', remedy="write what the wearable's manual says; nothing is guessed"
        )


@dataclass(frozen=True, slots=True)
class Sheet:
    """An open CSV: its header, its separator, and its rows with their line numbers."""

    path: Path
    header: list[str]
    separator: str
    rows: Iterator[tuple[int, list[str]]]
    file: TextIO

    def place(self, column: str, what: str) -> int:
        """Where a column stands.

        Raises:
            StudyError: there is none of that name, or two.
        """
        if (n := self.header.count(column)) != 1:
            raise StudyError(
                f"{self.path}: {what}: {'no' if not n else 'more than one'} column {column!r}",
                remedy=f"the file's columns are {', '.join(self.header)}",
            )
        return self.header.index(column)


@contextmanager
def opened_sheet(path: Path) -> Iterator[Sheet]:
    """A CSV with a header, separated by comma, semicolon or tab.

    Raises:
        StudyError: it cannot be read, is empty, or a row has more or fewer cells than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(100_000)
            separator = max(",;\t", key=first.count)
            header = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
            if len(header) < 2:
                raise StudyError(f"{path} has no header of columns in its first line", remedy="separate them by , or ; or TAB")
            yield Sheet(path, header, separator, _rows(path, file, separator, len(header)), file)
    except OSError as exc:
        raise StudyError(f"{path} cannot be read: {exc.strerror}", remedy="give a CSV file") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise StudyError(f"{path} is no CSV in UTF-8: {exc}", remedy="export it as CSV, UTF-8") from exc


def _rows(path: Path, file: TextIO, separator: str, width: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(iter(file.readline, ""), delimiter=separator)  # readline leaves tell() usable, for progress
    for row in reader:
        line = reader.line_num + 1
        if not row:
            continue
        if len(row) != width:
            raise StudyError(f"{path}, line {line}: {len(row)} cells under {width} columns", remedy="mend or delete the line")
        yield line, row


def propose(path: Path) -> str:
    """A commented mapping of a CSV for the task `activity`, to be read and mended by a person.

    Raises:
        StudyError: it is no CSV, or holds no rows.
    """
    with opened_sheet(path) as sheet:
        plain = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in sheet.header}
        label = _first(plain, ("label", "activity", "class", "annotation"))
        time = _first(plain, ("timestamp", "time", "datetime", "date", "t"))
        subject = _first(plain, ("subject", "person", "participant", "user", "patient", "wearer"))
        head: list[list[str]] = []
        found: set[str] = set()
        for _, row in sheet.rows:
            if len(head) < HEAD_ROWS:
                head.append(row)
            if label != OPEN and len(found) <= LABELS_MAX:
                found.add(row[sheet.header.index(label)].strip())
    if not head:
        raise StudyError(f"{path} has a header and no rows", remedy="export a recording that holds samples")
    if len(found) > LABELS_MAX:
        label, found = OPEN, set()
    unit = OPEN if time == OPEN else _time_unit([row[sheet.header.index(time)] for row in head])
    lines = [
        f'# What the columns of {path.name} are. Read it, and replace every "{OPEN}"; then: wardround study examples',
        'task = "activity"',
        f"time = {{ column = {_text(time)}, unit = {_text(unit)} }}  # s, ms, us, ns; iso: text such as 2026-03-01T08:30:00Z",
        f"label = {_text(label)}",
        f"subject = {_text('' if subject == OPEN else subject)}  # who wore it; empty: one person, called as the file",
        'edge = ""  # whose edge trains on it: a ward, a home; empty: each subject has one',
        f"decimal = {_text(',' if _has_decimal_comma(head, sheet.separator) else '.')}",
    ]
    classes: dict[str, list[str]] = {name: [] for name in ACTIVITY.classes}
    ignored: list[str] = []
    for word in sorted(found - {""}):
        short = re.sub(r"[^a-z]", "", word.lower())
        where = next((c for c, parts in _CLASSES.items() if any(p in short for p in parts)), None)
        (ignored if where is None else classes[where]).append(word)
    lines += [f"ignore = [{', '.join(map(_text, ignored))}]  # labels that are none of the classes", "", "[signals]"]
    for code in (*ACCELERATION, *ROTATION):
        key = load_signals().resolve(code).key
        column, its = _signal(plain, key)
        lines.append(f"{key} = {{ column = {_text(column)}, unit = {_text(its)} }}")
    lines += ["", "[labels]", *(f"{name} = [{', '.join(map(_text, words))}]" for name, words in classes.items())]
    return "\n".join(lines) + "\n"


def _text(word: str) -> str:
    return msgspec.json.encode(word).decode()  # TOML's basic strings escape as JSON's do


def _first(plain: Mapping[str, str], words: tuple[str, ...]) -> str:
    exact = (name for word in words for name, short in plain.items() if short == word)
    starts = (name for word in words if len(word) > 1 for name, short in plain.items() if short.startswith(word))
    return next(exact, None) or next(starts, OPEN)


def _signal(plain: Mapping[str, str], key: str) -> tuple[str, str]:
    """The column of an axis, and its unit where the header says it."""
    kind, _, axis = key.partition("-")
    for name, short in plain.items():
        word = next((w for w in _NAMES[kind] if short.startswith(w)), None)
        if word is None or (rest := re.fullmatch(r"[a-z]*?([xyz])(ms2|mss|mg|g|dps|degs|rads|rps)?", short[len(word) :])) is None:
            continue
        if rest[1] == axis:
            units = dict((*_UNITS[kind], *(_RADIANS if kind == "gyro" else ())))
            return name, units.get(rest[2] or "", OPEN)
    return OPEN, OPEN


def _time_unit(cells: list[str]) -> str:
    try:
        times = [float(cell.replace(",", ".")) for cell in cells]
    except ValueError:
        try:
            datetime.fromisoformat(cells[0].strip())
        except ValueError:
            return OPEN
        return "iso"
    steps = [b - a for a, b in itertools.pairwise(times) if b > a]
    if not steps:
        return OPEN
    return next((unit for unit, per in PER_SECOND.items() if STEP_S[0] <= median(steps) / per <= STEP_S[1]), OPEN)


def _has_decimal_comma(head: list[list[str]], separator: str) -> bool:
    return separator != "," and any(re.fullmatch(r"-?\d+,\d+", cell.strip()) for row in head for cell in row)
