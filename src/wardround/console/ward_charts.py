"""Charts as text: pure functions from values to SVG, with the finding in their label. Down-sampling was done before."""

from __future__ import annotations

from collections.abc import Sequence

from wardround.console.ward_model import HOUR_US, Point, TrendView, WaveView
from wardround.console.words import clock, count, day, day_clock, number, safe

HIGH, LEFT, RIGHT, STRIP = 96, 40, 8, 12
TREND_WIDE, SCORES_WIDE, WAVE_WIDE = 350, 500, 640  # as wide as they are shown, so that text keeps its size
HATCH = (
    '<defs><pattern id="poor" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0 0V5" stroke="var(--ink-2)" stroke-width="2"/></pattern></defs>'
)
NEWS2_STEPS = ((5, "urgent review"), (7, "emergency assessment"))
POOR = 0.5


def spark(values: Sequence[float], *, width: int = 60, height: int = 16, label: str = "") -> str:
    """A line without axes, its newest point marked; empty with fewer than two values."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    reach = (high - low) or 1.0
    xs = [2 + (width - 6) * i / (len(values) - 1) for i in range(len(values))]
    ys = [height - 3 - (height - 6) * (v - low) / reach if high > low else height / 2 for v in values]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    hidden = f'role="img" aria-label="{safe(label)}"' if label else 'aria-hidden="true"'
    return (
        f'<svg class="spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" {hidden}>'
        f'<polyline points="{points}"/><circle cx="{xs[-1]:.1f}" cy="{ys[-1]:.1f}" r="2"/></svg>'
    )


def trend(view: TrendView, since_us: int, until_us: int) -> str:
    """Mean as a line that breaks where nothing came, reach as a band, and on the same axis what share of it came."""
    place = _Axis(since_us, until_us, TREND_WIDE)
    lows, highs = [p.low for p in view.points], [p.high for p in view.points]
    low, high = (min(lows), max(highs)) if view.points else (0.0, 1.0)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad

    def y(value: float) -> float:
        return 8 + HIGH * (high - value) / (high - low)

    parts = [HATCH]
    for value in (low + pad, (low + high) / 2, high - pad):
        parts.append(f'<path class="gr" d="M{LEFT} {y(value):.1f}H{place.right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for run in _runs(view.points, view.width_us):
        xs = [place.x(p.t_us + view.width_us // 2) for p in run]
        top = " ".join(f"{x:.1f},{y(p.high):.1f}" for x, p in zip(xs, run, strict=True))
        bottom = " ".join(f"{x:.1f},{y(p.low):.1f}" for x, p in reversed(list(zip(xs, run, strict=True))))
        parts.append(f'<polygon class="band" points="{top} {bottom}"/>')
        if len(run) == 1:
            parts.append(f'<circle class="dot" cx="{xs[0]:.1f}" cy="{y(run[0].mean):.1f}" r="2"/>')
        else:
            line = " ".join(f"{x:.1f},{y(p.mean):.1f}" for x, p in zip(xs, run, strict=True))
            parts.append(f'<polyline class="mean" points="{line}"/>')
    parts.append(_strip(view.complete, place, HIGH + 18))
    parts.append(place.ticks(HIGH + STRIP + 36))
    label = f"{view.title}: nothing came"
    if view.points:
        newest = view.points[-1]
        label = (
            f"{view.title}: newest {number(newest.mean)} {view.unit}, between {number(min(lows))} and {number(max(highs))} "
            f"over the time shown"
        )
    return _chart(label, TREND_WIDE, HIGH + STRIP + 42, "".join(parts))


def scores(found: Sequence[tuple[int, int, bool]], since_us: int, until_us: int) -> str:
    """NEWS2 as a step line over the two steps of the published response; open steps are lowest scores."""
    place, top = _Axis(since_us, until_us, SCORES_WIDE), max([10, *(total for _, total, _ in found)])

    def y(value: float) -> float:
        return 8 + HIGH * (top - value) / top

    parts = [f'<rect class="urgent" x="{LEFT}" y="8" width="{place.right - LEFT}" height="{y(7) - 8:.1f}"/>']
    for value, words in NEWS2_STEPS:
        parts.append(f'<path class="step" d="M{LEFT} {y(value):.1f}H{place.right}"/>')
        parts.append(f'<text x="{LEFT + 6}" y="{y(value) - 4:.1f}" class="ink2">{words}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    parts.append(f'<path class="ax" d="M{LEFT} {y(0):.1f}H{place.right}"/>')
    parts.append(f'<text x="{LEFT - 6}" y="{y(0) + 4:.1f}" text-anchor="end">0</text>')
    path, pen = list[str](), -1.0
    for t_us, total, _ in found:
        a, b = max(place.x(t_us - HOUR_US), LEFT), place.x(t_us)
        if b > LEFT:
            joined = abs(pen - a) < 0.5
            path.append(f"V{y(total):.1f}H{b:.1f}" if joined else f"M{a:.1f} {y(total):.1f}H{b:.1f}")
            pen = b
    parts.append(f'<path class="mean" d="{"".join(path)}"/>')
    parts.append(place.ticks(HIGH + 26))
    said = f"NEWS2 by hour: newest {found[-1][1]}, highest {max(t for _, t, _ in found)}" if found else "NEWS2: none"
    return _chart(said, SCORES_WIDE, HIGH + 32, "".join(parts))


def wave(view: WaveView) -> str:
    """Ink on paper grid: 0.2 s and 0.5 units a line for an ECG in mV; a gap stays empty, and says so."""
    plot = WAVE_WIDE - LEFT - RIGHT
    height, drawn = 86, [c for c in view.columns if c is not None]
    if not drawn:
        return ""
    low, high = min(a for a, _ in drawn), max(b for _, b in drawn)
    pad = (high - low) * 0.08 or 1.0
    low, high = low - pad, high + pad

    def y(value: float) -> float:
        return height * (high - value) / (high - low)

    step = plot / len(view.columns)
    grid = "".join(f"M{LEFT + plot * k * 0.2 / view.seconds:.1f} 0V{height}" for k in range(int(view.seconds / 0.2) + 1))
    if view.unit == "mV":
        first, last = int(low / 0.5), int(high / 0.5)
        grid += "".join(f"M{LEFT} {y(k * 0.5):.1f}H{LEFT + plot}" for k in range(first, last + 1) if low <= k * 0.5 <= high)
    path, pen, gaps, gap_from = [], False, [], None
    for i, column in enumerate(view.columns):
        x = LEFT + step * (i + 0.5)
        if column is None:
            gap_from = i if gap_from is None else gap_from
            continue
        if gap_from is not None:
            if i - gap_from > _GAP_COLUMNS:
                gaps.append((gap_from, i))
                pen = False
            gap_from = None
        a, b = column
        path.append(f"{'L' if pen else 'M'}{x:.1f} {y(a):.1f}" + (f"L{x:.1f} {y(b):.1f}" if b > a else ""))
        pen = True
    if gap_from is not None and len(view.columns) - gap_from > _GAP_COLUMNS:
        gaps.append((gap_from, len(view.columns)))
    boxes = "".join(
        f'<rect class="gap" x="{LEFT + a * step:.1f}" y="20" width="{(b - a) * step:.1f}" height="{height - 40}" rx="3"/>'
        + (
            f'<text x="{LEFT + (a + b) / 2 * step:.1f}" y="{height / 2 + 4}" text-anchor="middle">no data</text>'
            if (b - a) * step > 60
            else ""
        )
        for a, b in gaps
    )
    body = f'<path class="paper" d="{grid}"/>{boxes}<path class="ink-line" d="{"".join(path)}"/>'
    ends = (
        f'<text x="{LEFT}" y="{height + 14}">{clock(view.start_us, seconds=True)}</text>'
        f'<text x="{LEFT + plot}" y="{height + 14}" text-anchor="end">'
        f"{clock(view.start_us + round(view.seconds * 1e6), seconds=True)}</text>"
    )
    gap_words = f", {count(len(gaps), 'gap')}" if gaps else ""
    label = f"{view.title}, {view.seconds:.0f} seconds from {clock(view.start_us, seconds=True)} UTC{gap_words}"
    return _chart(label, WAVE_WIDE, height + 20, body + ends)


_GAP_COLUMNS = 8  # a slow waveform has a value every few columns


class _Axis:
    """Time from left to right."""

    def __init__(self, since_us: int, until_us: int, wide: int) -> None:
        self._since, self._until, self.right = since_us, max(until_us, since_us + 1), wide - RIGHT

    def x(self, t_us: float) -> float:
        share = (t_us - self._since) / (self._until - self._since)
        return LEFT + (self.right - LEFT) * min(1.0, max(0.0, share))

    def ticks(self, y: float) -> str:
        """Three times or five; days alone where the axis is long."""
        length = self._until - self._since
        words = clock if length <= 26 * HOUR_US else day_clock if length <= 100 * HOUR_US else day
        n = 4 if self.right > TREND_WIDE else 2
        anchor = {0: "start", n: "end"}
        return "".join(
            f'<text x="{self.x(t):.1f}" y="{y}" text-anchor="{anchor.get(k, "middle")}">{words(t)}</text>'
            for k, t in ((k, self._since + length * k // n) for k in range(n + 1))
        )


def _strip(complete: Sequence[tuple[int, int, float]], place: _Axis, y: float) -> str:
    """A box an hour or a day: filled by its share, hatched when poor; what is missing stays empty."""
    parts = [f'<rect class="strip" x="{LEFT}" y="{y}" width="{place.right - LEFT}" height="{STRIP}"/>']
    for start_us, width_us, share in complete:
        a, b = place.x(start_us), place.x(start_us + width_us)
        if b - a < 0.2 or share <= 0:
            continue
        ink = "url(#poor)" if share < POOR else "var(--seq-2)"
        parts.append(f'<rect x="{a:.1f}" y="{y}" width="{max(0.6, b - a - 0.4):.1f}" height="{STRIP}" fill="{ink}"/>')
    return "".join(parts)


def _runs(points: Sequence[Point], width_us: int) -> list[list[Point]]:
    """Points without a gap between them."""
    runs: list[list[Point]] = []
    for point in points:
        if runs and point.t_us - runs[-1][-1].t_us <= 1.5 * width_us:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _chart(label: str, wide: int, height: float, body: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {wide} {height:g}" role="img" aria-label="{safe(label)}">{body}</svg>'
