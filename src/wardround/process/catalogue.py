"""Every job there is: what it reads, what it makes of it, in which parts, how often, with how much memory.

A transform is pure; the functions here only put its result into the columns of a table. Jobs are listed in the order in which
they run: what reads silver comes after what makes it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from wardround.process import tables
from wardround.process.tables import BRONZE, DAY_US, GOLD, SILVER, example_rows, rows_of
from wardround.process.transforms import TASKS, Task
from wardround.process.transforms.alignment import Series, at_rate, by_subject, join
from wardround.process.transforms.beats import LEADS
from wardround.process.transforms.cleaning import Clean, clean
from wardround.process.transforms.early_warning import HORIZON_US, news2
from wardround.process.transforms.early_warning import Vitals as NewsVitals
from wardround.process.transforms.ecg import RATE_HZ as ECG_HZ
from wardround.process.transforms.ecg import Indices, r_peaks
from wardround.process.transforms.pulse import pulses
from wardround.process.transforms.respiration import from_beats
from wardround.process.transforms.trends import trends
from wardround.process.transforms.variability import variability
from wardround.process.transforms.vitals import VITALS, vital_windows
from wardround.process.work import Known, Part, between
from wardround.records import Observation
from wardround.sketches import sketch

HOUR_US = 3_600_000_000
MARGIN_US = 300_000_000  # filters settle and running medians fill in far less


NEWS2_CODES: Mapping[str, str] = MappingProxyType(  # which signals a parameter may come from
    {
        "loinc:9279-1": "respiratory_rate",
        "loinc:59408-5": "spo2",
        "loinc:8480-6": "systolic",
        "loinc:8867-4": "pulse",
        "mdc:149530": "pulse",
        "loinc:8310-5": "temperature",
    }
)
PPG = "mdc:150452"


@dataclass(frozen=True)
class Job:
    """One job. A part is one subject's span of `span_us`, which divides a day; it is made and replaced as a whole."""

    name: str
    title: str
    source: str  # the table it reads
    codes: frozenset[str] | None  # signals it reads; None: all
    target: str  # the table it writes
    rows: Callable[[Sequence[Any], Part, Known], pa.Table]  # pure: inputs of a part and its margins -> rows of the part
    span_us: int
    margin_us: int = 0  # of input around the span that the transform also sees
    interval_s: float | None = None  # between runs; None: the hub's own interval
    memory_bytes: int = 1_000_000_000  # that a part may need; a worker has at least so much

    @functools.cached_property
    def code(self) -> str:
        """Names the code behind the job: with other code everything is made anew."""
        return hashlib.sha256(f"{self.name} {_sources()}".encode()).hexdigest()[:12]


@functools.cache
def _sources() -> str:
    """A digest of every transform and of the tables: what a job's rows depend on."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    others = (package / "tables.py", package / "catalogue.py", package.parent / "sketches.py")
    for path in (*sorted(package.glob("transforms/*.py")), *others):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _examples(task: Task) -> Job:
    """The examples of one task: made from what was received, by the code that edges run on the same."""

    def rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
        return between(example_rows(task.name, task.examples(inputs)), part)

    return Job(
        name=f"examples-{task.name}",
        title=f"Examples of {task.name}",
        source=BRONZE,
        codes=task.signals,
        target=GOLD,
        rows=rows,
        span_us=4 * HOUR_US,
        margin_us=MARGIN_US,
    )


def _clean_rows(inputs: Sequence[Observation], part: Part, known: Known) -> pa.Table:
    return tables.clean_rows(clean(inputs, part.start_us, part.end_us, ranges=known.ranges))


def _vital_rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
    return between(tables.vital_rows(vital_windows(inputs)), part)


def _trend_rows(inputs: Sequence[Clean], part: Part, _known: Known) -> pa.Table:
    found = [
        {**{f: getattr(t, f) for f in t.__slots__}, "completeness": t.completeness}
        for t in trends(inputs)
        if part.start_us <= t.t_us < part.end_us
    ]
    return rows_of(tables.TREND, found)


def _sketch_rows(inputs: Sequence[Clean], part: Part, known: Known) -> pa.Table:
    found = []
    for code, group in itertools.groupby(inputs, key=lambda c: c.code):  # they come by signal and time
        low, high = known.ranges.get(code, (None, None))
        if low is None or high is None or not high > low:
            continue
        values = np.concatenate([np.where(c.good, c.values, np.nan) for c in group]).astype(np.float64)
        s = sketch(values, low, high)
        row = {"low": low, "high": high, "counts": s.counts.tolist(), "missing": s.missing, "total": s.total}
        found.append({"subject": part.subject, "code": code, "t_us": part.start_us, **row})
    return rows_of(tables.SKETCH, found)


def _leads(inputs: Sequence[Observation]) -> Iterator[tuple[str, Series, Indices]]:
    """The best lead's stretches at 250 Hz, with the times of their R peaks: the first of LEADS that there is."""
    own = by_subject(inputs)
    for signals in own.values():
        code = next((c for c in LEADS if signals.get(c)), None)
        for series in at_rate(join(signals[code]), ECG_HZ) if code is not None else []:
            peaks = r_peaks(series.values)
            yield code or "", series, peaks


def _rhythm_rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
    """One row a window: where a gap cuts one in two, the piece with more beats speaks for it."""
    best: dict[int, dict[str, Any]] = {}
    for code, series, peaks in _leads(inputs):
        for v in variability(series.times_us(peaks)):
            if v.t_us not in best or v.beats > best[v.t_us]["beats"]:
                best[v.t_us] = {"subject": part.subject, "code": code, **{f: getattr(v, f) for f in v.__slots__}}
    return between(rows_of(tables.HEART, [best[t] for t in sorted(best)]), part)


def _breathing_rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
    found = [
        {"subject": part.subject, "code": code, "t_us": b.t_us, "rate": b.rate, "variation": b.variation, "good": b.good}
        for code, series, peaks in _leads(inputs)
        for b in from_beats(series.times_us(peaks), series.values[peaks])
    ]
    return between(rows_of(tables.BREATH, found), part)


def _pulse_rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
    found = [
        {"subject": part.subject, **{f: getattr(p, f) for f in p.__slots__}, "doubt": int(p.doubt)}
        for series in join(inputs)
        for p in pulses(series.values, series.anchors[0][1], series.rate_hz)
    ]
    return between(rows_of(tables.PULSE, found), part)


def _warning_rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
    """The score at the end of every hour that has a value of its own, from the newest values that are young enough.

    Oxygen and consciousness are no signals of a device: they are named as missing, so a score is a lowest one.
    """
    windows = vital_windows(inputs, codes=NEWS2_CODES)
    names = np.array([NEWS2_CODES[str(code)] for code in windows.codes], np.str_)
    order = np.argsort(windows.t_us, kind="stable")
    names, times, values = names[order], windows.t_us[order], windows.mean[order]
    of = {name: (times[names == name], values[names == name]) for name in sorted(set(names.tolist()))}
    found = []
    for end_us in (np.unique(times // HOUR_US) + 1) * HOUR_US:
        newest: dict[str, Any] = {}
        for name, (own_times, own_values) in of.items():
            at = int(np.searchsorted(own_times, end_us)) - 1
            if at >= 0 and own_times[at] >= end_us - HORIZON_US[name.replace("_", "-")]:
                newest[name] = float(own_values[at])
        score = news2(NewsVitals(**newest))
        row = {"total": score.total, "red": score.red, "points": msgspec.json.encode(score.points, order="sorted").decode()}
        found.append({"subject": part.subject, "t_us": int(end_us) - 1, "missing": ",".join(score.missing), **row})
    return between(rows_of(tables.WARNING, found), part)


_ALL = (
    Job(
        name="signals",
        title="Clean, aligned signals",
        source=BRONZE,
        codes=None,
        target=SILVER,
        rows=_clean_rows,
        span_us=4 * HOUR_US,
        margin_us=60_000_000,
        interval_s=30.0,
    ),
    Job(
        name="vitals",
        title="Vital signs by the minute",
        source=BRONZE,
        codes=frozenset(VITALS),
        target=tables.VITALS,
        rows=_vital_rows,
        span_us=DAY_US,
    ),
    Job(
        name="rhythm",
        title="Heart rhythm and its variability by five minutes",
        source=BRONZE,
        codes=frozenset(LEADS),
        target=tables.HEART,
        rows=_rhythm_rows,
        span_us=4 * HOUR_US,
        margin_us=MARGIN_US,
        interval_s=60.0,
    ),
    Job(
        name="breathing",
        title="Breaths by the minute, from the ECG",
        source=BRONZE,
        codes=frozenset(LEADS),
        target=tables.BREATH,
        rows=_breathing_rows,
        span_us=4 * HOUR_US,
        margin_us=MARGIN_US,
        interval_s=60.0,
    ),
    Job(
        name="pulse",
        title="Pulse waves by the minute, and what a saturation is worth",
        source=BRONZE,
        codes=frozenset({PPG}),
        target=tables.PULSE,
        rows=_pulse_rows,
        span_us=4 * HOUR_US,
        margin_us=MARGIN_US,
        interval_s=60.0,
    ),
    Job(
        name="early-warning",
        title="Early warning score by the hour",
        source=BRONZE,
        codes=frozenset(NEWS2_CODES),
        target=tables.WARNING,
        rows=_warning_rows,
        span_us=DAY_US,
        margin_us=12 * HOUR_US,
        interval_s=60.0,
    ),
    Job(
        name="trends",
        title="Hourly and daily trends",
        source=SILVER,
        codes=None,
        target=tables.TREND,
        rows=_trend_rows,
        span_us=DAY_US,
        interval_s=60.0,
    ),
    Job(
        name="sketches",
        title="Daily histograms, to see drift",
        source=SILVER,
        codes=None,
        target=tables.SKETCH,
        rows=_sketch_rows,
        span_us=DAY_US,
        interval_s=300.0,
    ),
    *(_examples(task) for task in TASKS.values()),
)
JOBS: Mapping[str, Job] = MappingProxyType({job.name: job for job in _ALL})
