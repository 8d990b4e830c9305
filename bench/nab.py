"""What the novelty detector is worth on the streams of the Numenta Anomaly Benchmark, beside detectors of libraries, in one run.

    python bench/nab.py --data DIR [--no-libraries] [--json]

DIR holds data/<category>/<file>.csv and labels/combined_windows.json in the benchmark's layout; any number of its files. Every
detector has one setting for all files and sees a point only when it comes. Scores are the benchmark's, scaled so that silence is
0 and perfection 100: "best" with the one threshold that is best for these files (how its leaderboard counts), "nested" with the
threshold that is best for one half of the files and scored on the other, both ways, as the threshold is all that is chosen here.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.watch.detectors.novelty import Novelty

Scores = NDArray[np.float64]
PROFILES = {"standard": (1.0, 0.11, 1.0), "low FP": (1.0, 0.22, 1.0), "low FN": (1.0, 0.11, 2.0)}  # weights of TP, FP, FN
PROBATION, PROBATION_MAX = 0.15, 750  # rows that nobody is judged by
QUIET = 0.3  # of the probation


@dataclass(frozen=True, slots=True)
class Stream:
    """One file: its windows of anomalies as (first, last) rows."""

    name: str
    t_us: Sequence[int]
    values: Sequence[float]
    windows: Sequence[tuple[int, int]]

    @property
    def probation(self) -> int:
        """Rows before anybody is judged."""
        return math.ceil(min(math.floor(PROBATION * len(self.values)), PROBATION * 5_000))


def load(folder: Path) -> list[Stream]:
    """Every labelled file that is there."""
    labels = json.loads((folder / "labels" / "combined_windows.json").read_text())
    found = []
    for name, windows in sorted(labels.items()):
        path = folder / "data" / name
        if not path.exists():
            continue
        with path.open() as file:
            rows = [(_us(r["timestamp"]), float(r["value"])) for r in csv.DictReader(file)]
        at: dict[int, int] = {}
        for i, (t_us, _) in enumerate(rows):
            at.setdefault(t_us, i)
        spans = [(at[_us(first)], at[_us(last)]) for first, last in windows]
        found.append(Stream(name, [t for t, _ in rows], [v for _, v in rows], spans))
    if not found:
        raise SystemExit(f"no labelled file in {folder}: give the folder that has data/ and labels/")
    return found


def _us(text: str) -> int:
    return int(datetime.fromisoformat(text.partition(".")[0]).replace(tzinfo=UTC).timestamp()) * 1_000_000


# -- the benchmark's score (Lavin and Ahmad 2015, section III)


def _squash(x: Scores) -> Scores:
    return np.where(x > 3.0, -1.0, 2.0 / (1.0 + np.exp(np.minimum(5.0 * x, 50.0))) - 1.0)


def _credits(stream: Stream) -> tuple[NDArray[np.int64], Scores]:
    """Of every row the window it lies in (-1: none, -2: probation), and what a detection there earns or costs."""
    n = len(stream.values)
    row = np.arange(n)
    window, credit = np.full(n, -1), np.full(n, -1.0)
    for k, (first, last) in enumerate(stream.windows):
        width = last - first + 1
        inside = (row >= first) & (row <= last)
        window[inside] = k
        credit[inside] = _squash(-(last - row[inside] + 1) / width) / _squash(np.array(-1.0))
        end = stream.windows[k + 1][0] if k + 1 < len(stream.windows) else n
        after = (row > last) & (row < end)
        credit[after] = _squash((row[after] - last) / max(width - 1, 1))
    window[row < stream.probation] = -2
    return window, credit


def _curve(scores: dict[str, Scores], streams: Sequence[Stream], profile: str) -> tuple[Scores, Scores, float, float]:
    """Thresholds, falling, and the raw score at each; the score of silence and of perfection."""
    tp, fp, fn = PROFILES[profile]
    thresholds, gains, judged, all_windows = [], [], 0, 0
    for stream in streams:
        window, credit = _credits(stream)
        own = scores[stream.name]
        thresholds.append(own[window == -1])
        gains.append(credit[window == -1] * fp)
        all_windows += len(stream.windows)
        for k in range(len(stream.windows)):
            rows = np.flatnonzero(window == k)
            judged += len(rows) > 0
            order = rows[np.argsort(-own[rows], kind="stable")]
            best = np.maximum.accumulate(np.maximum(credit[order] * tp, -fn))
            thresholds.append(own[order])
            gains.append(np.diff(np.r_[-fn, best]))
    every, gain = np.concatenate(thresholds), np.concatenate(gains)
    order = np.argsort(-every, kind="stable")
    every, total = every[order], np.cumsum(gain[order])
    last = np.r_[every[1:] != every[:-1], True]
    silence = -fn * judged
    return np.r_[np.inf, every[last]], np.r_[silence, silence + total[last]], silence, tp * all_windows


def scaled(
    scores: dict[str, Scores], streams: Sequence[Stream], profile: str, threshold: float | None = None
) -> tuple[float, float]:
    """The score of 100, and the threshold: the best one for these files when none is given."""
    thresholds, totals, silence, perfect = _curve(scores, streams, profile)
    at = int(np.argmax(totals)) if threshold is None else int(np.searchsorted(-thresholds, -threshold, side="right")) - 1
    return 100.0 * float(totals[at] - silence) / (perfect - silence), float(thresholds[at])


def halves(streams: Sequence[Stream]) -> tuple[list[Stream], list[Stream]]:
    """The files in two, inside every category, by the digest of their names."""
    one: list[Stream] = []
    other: list[Stream] = []
    by_category: dict[str, list[Stream]] = {}
    for stream in streams:
        by_category.setdefault(stream.name.split("/")[0], []).append(stream)
    for own in (by_category[c] for c in sorted(by_category)):
        for stream in sorted(own, key=lambda s: hashlib.sha256(s.name.encode()).hexdigest()):
            (one if len(one) <= len(other) else other).append(stream)
    return one, other


def nested(scores: dict[str, Scores], streams: Sequence[Stream], profile: str) -> float:
    """Threshold from one half, score on the other; the mean of both ways."""
    one, other = halves(streams)
    ways = ((one, other), (other, one))
    return float(np.mean([scaled(scores, judged, profile, scaled(scores, chosen, profile)[1])[0] for chosen, judged in ways]))


# -- detectors


def novelty(stream: Stream) -> Scores:
    """Ours."""
    own = Novelty(warm_up=stream.probation, quiet=max(1, int(QUIET * stream.probation)))
    return np.array([own.update(t, v) for t, v in zip(stream.t_us, stream.values, strict=True)])


def _quieted(raw: Sequence[float], stream: Stream) -> Scores:
    """The same courtesy for everybody: only a new highest score of the quiet period speaks. It gains every one of them much."""
    quiet = max(1, int(QUIET * stream.probation))
    out = np.zeros(len(raw))
    for i, value in enumerate(raw):
        if value > max(raw[max(0, i - quiet) : i], default=-math.inf):
            out[i] = value
    return out


def half_space_trees(stream: Stream) -> Scores:
    """River's, over the value and its change, as far as seen scaled to 0 and 1."""
    from river import anomaly, preprocessing

    scale = preprocessing.MinMaxScaler()
    trees = anomaly.HalfSpaceTrees(n_trees=10, height=6, window_size=250, seed=1)
    raw, last = [], stream.values[0]
    for value in stream.values:
        x = {"value": value, "change": value - last}
        last = value
        scale.learn_one(x)
        x = {k: min(1.0, max(0.0, v)) for k, v in scale.transform_one(x).items()}
        raw.append(trees.score_one(x))
        trees.learn_one(x)
    return _quieted(raw, stream)


def gaussian(stream: Stream) -> Scores:
    """River's Gaussian scorer over the last 2,000 points."""
    from river import anomaly

    scorer, raw = anomaly.GaussianScorer(window_size=2_000), []
    for value in stream.values:
        raw.append(scorer.score_one(None, value))
        scorer.learn_one(None, value)
    return _quieted(raw, stream)


def ecod(stream: Stream) -> Scores:
    """PyOD's ECOD over six features of windows, fitted again to all that was seen every 500 points."""
    from pyod.models.ecod import ECOD

    x = np.array(stream.values)
    sums, squares = np.cumsum(np.r_[0.0, x]), np.cumsum(np.r_[0.0, x * x])
    row = np.arange(len(x))
    columns = [x, np.r_[0.0, np.diff(x)]]
    for size in (10, 50):
        low = np.maximum(0, row + 1 - size)
        mean = (sums[row + 1] - sums[low]) / (row + 1 - low)
        columns += [mean, np.sqrt(np.maximum((squares[row + 1] - squares[low]) / (row + 1 - low) - mean**2, 0.0))]
    features, raw = np.stack(columns, 1), np.zeros(len(x))
    for start in range(max(stream.probation, 50), len(x), 500):
        model = ECOD().fit(features[:start])
        raw[start : start + 500] = model.decision_function(features[start : start + 500])
    return _quieted(raw.tolist(), stream)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--no-libraries", action="store_true")
    parser.add_argument("--json", action="store_true")
    own = parser.parse_args()
    streams = load(own.data)
    rivals: list[tuple[str, Callable[[Stream], Scores]]] = [("novelty (Wardround)", novelty)]
    if not own.no_libraries:
        rivals += [("ECOD (PyOD)", ecod), ("HalfSpaceTrees (river)", half_space_trees), ("GaussianScorer (river)", gaussian)]
    points, table = sum(len(s.values) for s in streams), []
    for name, detector in rivals:
        began = time.process_time()
        try:
            scores = {s.name: detector(s) for s in streams}
        except ImportError as error:
            print(f"{name}: left out, {error.name} is not installed: pip install 'wardround[advisory]'")
            continue
        microseconds = 1e6 * (time.process_time() - began) / points
        row = {"detector": name, "us_per_point": microseconds}
        for profile in PROFILES:
            row[f"best {profile}"] = scaled(scores, streams, profile)[0]
            row[f"nested {profile}"] = nested(scores, streams, profile)
        table.append(row)
    if own.json:
        print(json.dumps({"files": len(streams), "points": points, "detectors": table}, indent=2))
        return
    windows = sum(len(s.windows) for s in streams)
    print(f"{len(streams)} files, {points:,} points, {windows} windows of anomalies; 0: silence, 100: perfect")
    three = f"{'low FP':>7} {'low FN':>7}"
    print(f"{'detector':24} {'standard':>9} {three}   {'nested':>7} {three}   {'us/point':>8}")
    for row in table:
        best, held = ([row[f"{kind} {p}"] for p in PROFILES] for kind in ("best", "nested"))
        print(
            f"{row['detector']:24} {best[0]:9.1f} {best[1]:7.1f} {best[2]:7.1f}   {held[0]:7.1f} {held[1]:7.1f} {held[2]:7.1f}"
            f"   {row['us_per_point']:8.1f}"
        )
    print("best: one threshold, the best for these files. nested: it is chosen on one half and judged on the other, both ways.")


if __name__ == "__main__":
    main()
