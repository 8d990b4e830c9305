"""What share of each patient's signals came hour by hour: for the console and programs, and for the watch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray

from wardround.clock import Clock
from wardround.collect.streams import HOUR_US
from wardround.console.completeness import HOURS
from wardround.console.model import HoursView, SignalHours
from wardround.errors import WardroundError
from wardround.process.lake import Lake
from wardround.process.tables import TREND
from wardround.watch.detectors.completeness import GRACE_US, LOW, HourShare, Incomplete, incomplete
from wardround.watch.detectors.completeness import HOURS as IN_A_ROW

log = structlog.get_logger(__name__)
AGAIN_S, WANTED_S = 30.0, 60.0  # between two looks while somebody looks, as trends change by the hour; after the last of them
IDLE_S = 600.0  # between two looks of the watch, so that whoever comes to the screen finds hours there at once
WATCHED_HOURS = 29  # what the watch looks at, the present one with it


@dataclass(frozen=True, slots=True)
class HourGrid:
    """Of every signal of every subject, in order, how much came in each hour. Arrays, as of 10,000 patients it is millions.

    `came_s` and `asked_s` have a row a signal and a column an hour from `first_us`, float32, in seconds; what came is at most
    what was asked. Asked is 0 before a signal's first hour, and of a signal for which no rate is declared.
    """

    first_us: int
    subjects: Sequence[str]
    codes: Sequence[str]
    came_s: NDArray[np.float32]
    asked_s: NDArray[np.float32]

    def shares(self) -> NDArray[np.float32]:
        """0 to 1; NaN where nothing was asked."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.asked_s > 0, self.came_s / self.asked_s, np.float32(np.nan))

    def newest(self, hours: int) -> HourGrid:
        """The same of the newest hours."""
        first_us = self.first_us + (self.came_s.shape[1] - hours) * HOUR_US
        return HourGrid(first_us, self.subjects, self.codes, self.came_s[:, -hours:], self.asked_s[:, -hours:])


def read_grid(lake: Lake, now_us: int, hours: int) -> HourGrid:
    """The newest so many hours, the present one as far as it is.

    Raises:
        ProcessError: a file cannot be read.
    """
    first = now_us // HOUR_US - hours + 1
    columns = ["subject", "code", "t_us", "width_us", "completeness"]
    if lake.version(TREND) < 0:
        return HourGrid(first * HOUR_US, (), (), *np.zeros((2, 0, hours), np.float32))
    rows = lake.read(TREND, columns=columns, since_us=first * HOUR_US).filter(pc.field("width_us") == HOUR_US)
    place = rows.column("t_us").to_numpy() // HOUR_US - first
    within = (place >= 0) & (place < hours)  # a clock may have been ahead
    subjects, subject_at = _ranked(rows.column("subject"))
    codes, code_at = _ranked(rows.column("code"))
    signals, at = np.unique(subject_at[within] * max(1, len(codes)) + code_at[within], return_inverse=True)

    came_s, known = np.zeros((len(signals), hours), np.float32), np.zeros((len(signals), hours), bool)
    came_s[at, place[within]] = 3600.0 * rows.column("completeness").to_numpy()[within]
    known[at, place[within]] = True
    elapsed_s = np.full(hours, 3600.0, np.float32)
    elapsed_s[-1] = now_us % HOUR_US / 1e6
    begun = np.arange(hours) >= known.argmax(axis=1)[:, None]
    declared = np.any(came_s > 0, axis=1, keepdims=True)
    asked_s = np.where(begun & declared, elapsed_s, np.float32(0.0))
    own = [(subjects[signal // len(codes)], codes[signal % len(codes)]) for signal in signals.tolist()]
    return HourGrid(
        first * HOUR_US, [subject for subject, _ in own], [code for _, code in own], np.minimum(came_s, asked_s), asked_s
    )


def _ranked(names: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The names in order, and which of them each one is."""
    coded = names.combine_chunks().dictionary_encode()
    known = coded.dictionary.to_pylist()
    order = sorted(range(len(known)), key=known.__getitem__)
    rank = np.empty(len(known), np.int64)
    rank[order] = np.arange(len(known))
    return [known[k] for k in order], rank[coded.indices.to_numpy()] if len(known) else np.zeros(0, np.int64)


class SignalRows(Sequence[SignalHours]):
    """Rows of a grid in an order, each made when it is asked for: a page shows fifty of 70,000."""

    def __init__(self, grid: HourGrid, order: NDArray[np.int64], title: Callable[[str], str]) -> None:
        self._grid, self._order, self._title = grid, order, title

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> SignalHours: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[SignalHours]: ...
    def __getitem__(self, at: int | slice) -> SignalHours | Sequence[SignalHours]:
        if isinstance(at, slice):
            return SignalRows(self._grid, self._order[at], self._title)
        row = int(self._order[at])
        came_s, asked_s = self._grid.came_s[row], self._grid.asked_s[row]
        shares = tuple(float(c / a) if a > 0 else None for c, a in zip(came_s, asked_s, strict=True))
        code, total_s = self._grid.codes[row], float(asked_s.sum())
        mean = float(came_s.sum()) / total_s if total_s > 0 else None
        return SignalHours(self._grid.subjects[row], code, self._title(code), self._grid.first_us, shares, mean)


def view_of(grid: HourGrid, title: Callable[[str], str]) -> HoursView:
    """What screens and programs are given; `title(code)` is a signal's name."""
    asked_s = grid.asked_s.sum(axis=1)
    with np.errstate(invalid="ignore"):
        mean = grid.came_s.sum(axis=1) / np.where(asked_s > 0, asked_s, np.nan)
    least_first = np.argsort(mean, kind="stable")  # those of which nothing is asked are last
    return HoursView(SignalRows(grid, least_first, title), SignalRows(grid, np.arange(len(mean)), title))


def holes(grid: HourGrid, edge_of: Callable[[str], str], now_us: int) -> list[Incomplete]:
    """What comes with holes now. Looked at closely are the signals of an edge of which somebody's newest hours are low."""
    newest = ((now_us - GRACE_US) // HOUR_US * HOUR_US - HOUR_US - grid.first_us) // HOUR_US
    shares = grid.shares()
    last = shares[:, newest - IN_A_ROW + 1 : newest + 1]
    low = np.flatnonzero(((last > 0) & (last < LOW)).all(axis=1)).tolist()  # as nobody's usual is over 1
    edges = {subject: edge_of(subject) for subject in (grid.subjects if low else ())}
    asked = {(edges[grid.subjects[row]], grid.codes[row]) for row in low}
    return incomplete(
        (
            HourShare(edges[subject], code, subject, grid.first_us + k * HOUR_US, float(share))
            for row, (subject, code) in enumerate(zip(grid.subjects, grid.codes, strict=True))
            if low and edges[subject] and (edges[subject], code) in asked
            for k, share in enumerate(shares[row])
            if not math.isnan(share)
        ),
        now_us,
    )


class HoursBoard:
    """One hub's. `shown` may be called from any thread; `look` from one at a time."""

    def __init__(
        self,
        lake: Lake,
        clock: Clock,
        title: Callable[[str], str],
        edge_of: Callable[[str], str],
        tell: Callable[[Sequence[Incomplete]], None],
    ) -> None:
        """`title(code)` is the signal's name; `edge_of(subject)` is empty where it is not known; `tell` gets what has holes."""
        self._lake, self._clock, self._title = lake, clock, title
        self._edge_of, self._tell = edge_of, tell
        self._shown: HoursView | None = None
        self._looked_s = self._wanted_s = float("-inf")
        self._told_s = clock.monotonic_s()  # a hub that has just started waits for what was spooled meanwhile

    def shown(self) -> HoursView | None:
        """The newest look; None when there was none yet. Somebody is looking now."""
        self._wanted_s = self._clock.monotonic_s()
        return self._shown

    def look(self) -> None:
        """Look again if it is time: sooner where somebody looks."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < (AGAIN_S if now_s - self._wanted_s <= WANTED_S else IDLE_S):
            return
        self._looked_s, now_us = now_s, self._clock.now_us()
        try:
            grid = read_grid(self._lake, now_us, WATCHED_HOURS)
        except WardroundError as error:  # the last look stays, and what is open stays so
            log.error("completeness could not be read", error=str(error))
            return
        self._shown = view_of(grid.newest(HOURS), self._title)
        if now_s - self._told_s >= IDLE_S:
            self._told_s = now_s
            self._tell(holes(grid, self._edge_of, now_us))
