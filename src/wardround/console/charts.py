"""Charts as inline SVG with a table behind each: pure functions from values to text. No smoothing, no hidden zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wardround.console.words import safe

POINTS_MAX = 1_000  # of one line; whoever makes the read model has down-sampled
LEFT, RIGHT, TOP, BOTTOM = 48, 150, 14, 26
LABEL_GAP = 15
Number = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """One series: (x, y) in order of x; a y of None is a gap, and nothing is drawn across it. `ink` is a token."""

    name: str
    points: Sequence[tuple[float, float | None]]
    ink: str = "--series-1"
    width: float = 2.2
    label: str = ""  # at its end; empty: none
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal reference that is named at its end: a threshold, a pooled score."""

    name: str
    y: float
    solid: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at x, as a tick with words."""

    x: float
    words: str


def line_chart(
    *,
    label: str,
    lines: Sequence[Line],
    levels: Sequence[Level] = (),
    band: Sequence[tuple[float, float, float]] = (),
    shade: tuple[float, float, str] | None = None,
    marks: Sequence[Mark] = (),
    x_words: Number = lambda x: f"{x:.0f}",
    y_words: Number = lambda y: f"{y:.2f}",
    x_name: str = "",
    size: tuple[int, int] = (760, 250),
    from_zero: bool = False,
    within: tuple[float, float] | None = None,
) -> str:
    """A chart that says its finding in `label`. `band` is (x, low, high); `shade` an interval of x with its words; `within`
    what a value can be at all: the axis ends there."""
    values = [(x, y) for line in lines for x, y in line.points if y is not None and math.isfinite(y)]
    if not values:
        return ""
    ys = [y for _, y in values] + [level.y for level in levels] + [y for _, low, high in band for y in (low, high)]
    x0, x1 = min(x for x, _ in values), max(x for x, _ in values)
    ticks = _ticks(min(0.0, *ys) if from_zero else min(ys), max(ys))
    if within is not None and within[0] <= min(ys) and max(ys) <= within[1]:
        ticks = [y for y in ticks if within[0] - 1e-9 <= y <= within[1] + 1e-9] or ticks
        ticks = [*([min(ys)] if min(ys) < ticks[0] else []), *ticks, *([max(ys)] if max(ys) > ticks[-1] else [])]
    plot = _Plot(size, x0, x1 if x1 > x0 else x0 + 1, ticks[0], ticks[-1])
    parts = []
    if shade is not None:
        a, b = plot.x(max(x0, shade[0])), plot.x(min(x1, shade[1]))
        parts.append(f'<rect x="{a:.1f}" y="{TOP}" width="{max(0.0, b - a):.1f}" height="{plot.height}" fill="var(--sunken)"/>')
        parts.append(f'<text x="{a + 6:.1f}" y="{TOP + 14}">{safe(shade[2])}</text>')
    parts += [_grid(plot, y, y_words) for y in ticks]
    parts += _x_axis(plot, x_words, x_name)
    if band:
        there = [f"{plot.x(x):.1f} {plot.y(high):.1f}" for x, _, high in band]
        back = [f"{plot.x(x):.1f} {plot.y(low):.1f}" for x, low, _ in reversed(band)]
        parts.append(f'<path d="M{"L".join(there + back)}Z" fill="var(--band)"/>')
    for level in levels:
        dash = "" if level.solid else ' stroke-dasharray="5 4"'
        parts.append(f'<path d="M{LEFT} {plot.y(level.y):.1f}H{plot.right}" stroke="var(--threshold)" stroke-width="1.3"{dash}/>')
    parts += [_line(plot, line) for line in lines]
    for mark in marks:
        x = plot.x(mark.x)
        side = "end" if x > (LEFT + plot.right) / 2 else "start"
        shift = -5 if side == "end" else 5
        parts.append(f'<path d="M{x:.1f} {TOP}V{plot.bottom}" stroke="var(--line-strong)" stroke-dasharray="2 3"/>')
        parts.append(f'<text class="ink2" x="{x + shift:.1f}" y="{TOP + 12}" text-anchor="{side}">{safe(mark.words)}</text>')
    parts += _labels(plot, lines, levels)
    return (
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{safe(label)}">{"".join(parts)}</svg>'
        f"{_table(lines, x_words, y_words, x_name)}"
    )


def spark(values: Sequence[float], ink: str = "--series-1", size: tuple[int, int] = (64, 18)) -> str:
    """A line without axes, for a cell of a table that has the number beside it."""
    kept = [v for v in values if math.isfinite(v)]
    if len(kept) < 2:
        return ""
    low, high = min(kept), max(kept)
    span = (high - low) or 1.0
    step = (size[0] - 6) / (len(kept) - 1)
    at = [(3 + k * step, 3 + (size[1] - 6) * (1 - (v - low) / span)) for k, v in enumerate(kept)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    return (
        f'<svg width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}" aria-hidden="true"><path d="M{path}" '
        f'fill="none" stroke="var({ink})" stroke-width="1.4"/><circle cx="{at[-1][0]:.1f}" cy="{at[-1][1]:.1f}" r="2" '
        f'fill="var({ink})"/></svg>'
    )


@dataclass(frozen=True, slots=True)
class _Plot:
    size: tuple[int, int]
    x0: float
    x1: float
    y0: float
    y1: float

    @property
    def right(self) -> int:
        return self.size[0] - RIGHT

    @property
    def bottom(self) -> int:
        return self.size[1] - BOTTOM

    @property
    def height(self) -> int:
        return self.bottom - TOP

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (self.right - LEFT)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y0) / (self.y1 - self.y0) * self.height


def _ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round numbers around the values, the outermost beyond them."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / n
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def _grid(plot: _Plot, y: float, words: Number) -> str:
    at = plot.y(y)
    return (
        f'<path d="M{LEFT} {at:.1f}H{plot.right}" stroke="var(--grid)"/>'
        f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{safe(words(y))}</text>'
    )


def _x_axis(plot: _Plot, words: Number, name: str) -> list[str]:
    parts = [f'<path d="M{LEFT} {plot.bottom}H{plot.right}" stroke="var(--line-strong)"/>']
    inside = [x for x in _ticks(plot.x0, plot.x1, 6) if plot.x0 <= x <= plot.x1]
    for k, (word, x) in enumerate(_each_once(inside, words)):
        told = f"{name} {word}".strip() if k == 0 else word
        parts.append(f'<text x="{plot.x(x):.1f}" y="{plot.bottom + 18}" text-anchor="middle">{safe(told)}</text>')
    return parts


def _each_once(ticks: Sequence[float], words: Number) -> list[tuple[str, float]]:
    """Each word with its place, once: where ticks are closer than whole numbers, the whole one has the word."""
    found: dict[str, float] = {}
    for x in ticks:
        word = words(x)
        if word not in found or abs(x - round(x)) < 1e-9 < abs(found[word] - round(found[word])):
            found[word] = x
    return sorted(found.items(), key=lambda told: told[1])


def _line(plot: _Plot, line: Line) -> str:
    path, pen_down, last = [], False, None
    for x, y in line.points[-POINTS_MAX:]:
        if y is None or not math.isfinite(y):
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{plot.x(x):.1f} {plot.y(y):.1f}")
        pen_down, last = True, (plot.x(x), plot.y(y))
    dash = ' stroke-dasharray="4 4"' if line.dashed else ""
    drawn = f'<path d="{"".join(path)}" fill="none" stroke="var({line.ink})" stroke-width="{line.width}"{dash}/>'
    if line.label and last is not None:
        drawn += f'<circle cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="3.4" fill="var({line.ink})"/>'
    return drawn


def _labels(plot: _Plot, lines: Sequence[Line], levels: Sequence[Level]) -> list[str]:
    """Names at the ends of lines, pushed apart where they would lie on each other."""
    wanted = [(plot.y(level.y), level.name, "--ink", "") for level in levels]
    for line in lines:
        ends = [y for _, y in line.points if y is not None and math.isfinite(y)]
        if line.label and ends:
            wanted.append((plot.y(ends[-1]), line.label, line.ink, ' class="sb"'))
    placed: list[str] = []
    free = -math.inf
    for y, name, ink, kind in sorted(wanted):
        at = max(y + 4, free)
        free = at + LABEL_GAP
        placed.append(f'<text x="{plot.right + 10}" y="{at:.1f}"{kind} style="fill:var({ink})">{safe(name)}</text>')
    return placed


def _table(lines: Sequence[Line], x_words: Number, y_words: Number, x_name: str) -> str:
    """The same numbers as a table, folded away."""
    xs = sorted({x for line in lines for x, _ in line.points})[-POINTS_MAX:]
    known = [dict(line.points) for line in lines]
    heads = "".join(f'<th class="r" scope="col">{safe(line.name)}</th>' for line in lines)

    def cell(y: float | None) -> str:
        return '<td class="r dim">none</td>' if y is None or not math.isfinite(y) else f'<td class="r">{safe(y_words(y))}</td>'

    body = "".join(f"<tr><td>{safe(x_words(x))}</td>{''.join(cell(one.get(x)) for one in known)}</tr>" for x in xs)
    return (
        f'<details class="behind"><summary>Table of this chart</summary><div class="tw"><table class="tight"><thead><tr>'
        f'<th scope="col">{safe(x_name or "at")}</th>{heads}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )
