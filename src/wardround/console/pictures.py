"""Pictures as text: pure functions from values to SVG. Colours are the tokens' alone; every picture says its finding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wardround.console.model import AlertView, EdgeView, Part, Priority, StudyView
from wardround.console.words import clock, safe

ARCS_MAX = 60  # of the ring of a round
EDGES_DRAWN = 12
DAY_US = 86_400_000_000
_SHAPES = {
    "high": '<path class="s" d="M5.6 .8h6.8l4.8 4.8v6.8l-4.8 4.8H5.6L.8 12.4V5.6z"/>',
    "medium": '<path class="s" d="M9 1.1c.5 0 .9.2 1.1.6l7.2 13.2c.4.8-.1 1.8-1.1 1.8H1.8c-1 0-1.5-1-1.1-1.8L7.9 1.7'
    'c.2-.4.6-.6 1.1-.6z"/>',
    "low": '<circle class="s" cx="9" cy="9" r="7.7"/>',
    "info": '<circle class="s" cx="9" cy="9" r="7.2"/>',
}
_GLYPHS = {
    "high": ("!!!", 8.6, 12.9, 10.5),
    "medium": ("!!", 9, 14.4, 9.5),
    "low": ("!", 9, 12.8, 10.5),
    "info": ("i", 9, 12.8, 10.5),
}
_NAMES = {"high": "High priority", "medium": "Medium priority", "low": "Low priority", "info": "Information"}
LOGO = (
    '<svg width="24" height="24" viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke-width="3" stroke-linecap="round">'
    '<g stroke="var(--ink)"><path d="M13.5 3.1a9 9 0 0 1 7.4 7.4"/><path d="M20.9 13.5a9 9 0 0 1-7.4 7.4"/>'
    '<path d="M10.5 20.9a9 9 0 0 1-7.4-7.4"/></g><path d="M3.1 10.5a9 9 0 0 1 7.4-7.4" stroke="var(--accent)"/>'
    '<circle cx="12" cy="12" r="2.6" fill="var(--ink)" stroke="none"/></svg>'
)


def mark(priority: Priority, size: int = 17, *, at: tuple[float, float] | None = None) -> str:
    """A priority's shape, colour and glyph, with its word for those who do not see it."""
    glyph, x, y, font = _GLYPHS[priority]
    place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" ' if at is not None else ""
    return (
        f'<svg {place}class="mk mk-{priority}" width="{size}" height="{size}" viewBox="0 0 18 18" role="img" '
        f'aria-label="{_NAMES[priority]}">{_SHAPES[priority]}<text class="t" x="{x}" y="{y}" text-anchor="middle" '
        f'style="font-size:{font}px;font-weight:800">{glyph}</text></svg>'
    )


def tick(size: int = 15) -> str:
    """As expected: no colour."""
    return (
        f'<svg class="mk mk-ok" width="{size}" height="{size}" viewBox="0 0 18 18" role="img" aria-label="As expected">'
        '<path class="s" d="M3.5 9.6l3.6 3.6 7.4-8" fill="none"/></svg>'
    )


def _viz(label: str, body: str) -> str:
    return f'<svg class="viz" viewBox="0 0 296 168" role="img" aria-label="{safe(label)}">{body}</svg>'


def collect(edges: Sequence[EdgeView]) -> str:
    """Edges and their links to the hub; a dashed link is silent. Beyond a dozen, those that differ and one row for the rest."""
    drawn, rest = _drawn(edges)
    rows = [(e.name, e.state == "silent", e.per_s) for e in drawn]
    if rest:
        rows.append((f"{len(rest):,} as usual", False, max(e.per_s for e in rest)))
    most = max((r for _, _, r in rows), default=0.0) or 1.0
    gap = min(13.2, 150 / max(1, len(rows)))
    top = 84 - gap * (len(rows) - 1) / 2
    parts = []
    for i, (name, silent, per_s) in enumerate(rows):
        y = top + i * gap
        path = f"M84 {y:.1f}C158 {y:.1f} 172 84 232 84"
        if silent:
            parts.append(f'<path d="{path}" fill="none" stroke="var(--ink-3)" stroke-dasharray="2 4"/>')
            parts.append(f'<circle cx="84" cy="{y:.1f}" r="3.4" fill="none" stroke="var(--ink-2)" stroke-width="1.3"/>')
        else:
            width = 1.2 + 3.2 * math.sqrt(per_s / most)
            parts.append(
                f'<path d="{path}" fill="none" stroke="var(--series-1)" stroke-opacity=".38" stroke-width="{width:.1f}"/>'
            )
            if per_s > 0:
                parts.append(
                    f'<circle r="1.7" fill="var(--series-1)"><animateMotion dur="{2.3 + 0.2 * i:.1f}s" begin="-{0.4 * i:.1f}s" '
                    f'repeatCount="indefinite" path="{path}"/></circle>'
                )
            parts.append(f'<circle cx="84" cy="{y:.1f}" r="3.4" fill="var(--ink-2)"/>')
        weight = "ink sb" if silent else "ink2"
        parts.append(f'<text x="74" y="{y + 4:.1f}" text-anchor="end" class="{weight}">{safe(name[:14])}</text>')
    parts.append(
        '<path d="M252 84H296" stroke="var(--series-1)" stroke-opacity=".38" stroke-width="6"/>'
        '<rect x="222" y="64" width="40" height="38" rx="8" fill="var(--surface)" stroke="var(--ink)" stroke-width="1.6"/>'
        '<text x="242" y="88" text-anchor="middle" class="ink sb">hub</text>'
    )
    silent_names = [e.name for e in edges if e.state == "silent"]
    label = f"{len(edges) - len(silent_names)} of {len(edges)} edges send to the hub"
    return _viz(label + (f"; silent: {', '.join(silent_names[:5])}" if silent_names else ""), "".join(parts))


def _drawn(edges: Sequence[EdgeView]) -> tuple[list[EdgeView], list[EdgeView]]:
    if len(edges) <= EDGES_DRAWN:
        return list(edges), []
    differ = [e for e in edges if e.state != "connected"][: EDGES_DRAWN - 1]
    names = {e.name for e in differ}
    return differ, [e for e in edges if e.name not in names]


def process(behind_s: float | None, waiting: int) -> str:
    """Bronze, silver, gold as one stream: points as received, aligned, then a curve."""
    dots = "".join(
        f'<rect x="{8 + 8 * i + (i * 7 % 3)}" y="{70 + 26 * math.sin(i * 0.9) + (i * 5 % 11):.1f}" width="2.6" height="2.6" '
        'fill="var(--ink-3)"/>'
        for i in range(9)
    )
    aligned = "".join(
        f'<rect x="{104 + 8 * i}" y="{76 + 26 * math.sin(i * 0.9):.1f}" width="4" height="4" fill="var(--ink-2)"/>'
        for i in range(9)
    )
    curve = " ".join(f"{'M' if i == 0 else 'L'}{200 + 2 * i} {78 + 28 * math.sin(i * 0.225):.1f}" for i in range(36))
    boxes = "".join(
        f'<rect x="{x}" y="26" width="80" height="116" rx="6" fill="var(--surface-2)" stroke="var(--line)"/>'
        f'<text x="{x + 40}" y="160" text-anchor="middle" class="ink2">{name}</text>'
        for x, name in ((0, "bronze"), (98, "aligned"), (196, "gold"))
    )
    flow = '<path d="M80 84H98M178 84H196M276 84H296" stroke="var(--series-1)" stroke-opacity=".38" stroke-width="5"/>'
    line = f'<path d="{curve}" fill="none" stroke="var(--series-1)" stroke-width="2.2"/>'
    behind = "" if behind_s is None else f", {behind_s:.0f} s behind live"
    return _viz(f"Bronze to gold{behind}, {waiting} observations waiting", flow + boxes + dots + aligned + line)


def learn(study: StudyView | None) -> str:
    """The newest round as a ring: one arc an edge, solid if it counted, hatched if set aside, dotted if absent."""
    line = '<path d="M0 84H80M216 84H296" stroke="var(--series-1)" stroke-opacity=".38" stroke-width="4"/>'
    if study is None or not study.parts:
        empty = '<circle cx="148" cy="84" r="62" fill="none" stroke="var(--line-strong)" stroke-dasharray="2 5"/>'
        words = "no round yet" if study is not None else "no study"
        text = f'<text x="148" y="88" text-anchor="middle">{words}</text>'
        return _viz("No round has been committed", line + empty + text)
    arcs = [_arc(first, count, len(study.parts), part) for first, count, part in _spans([part for _, part in study.parts])]
    taken = sum(part == "accepted" for _, part in study.parts)
    text = (
        '<text x="148" y="66" text-anchor="middle">round</text>'
        '<text x="148" y="95" text-anchor="middle" class="ink sb" style="font-size:28px;letter-spacing:-.02em">'
        f'{study.round_number}</text><text x="148" y="114" text-anchor="middle">{taken} of {len(study.parts)} in</text>'
    )
    return _viz(f"Round {study.round_number}: {taken} of {len(study.parts)} edges counted", line + "".join(arcs) + text)


def _spans(parts: Sequence[Part]) -> list[tuple[int, int, Part]]:
    """Where each arc begins, of how many edges, and their state: one an edge, or beyond a few dozen one a state."""
    if len(parts) <= ARCS_MAX:
        return [(i, 1, part) for i, part in enumerate(parts)]
    ordered: tuple[Part, ...] = ("accepted", "set-aside", "absent")
    counts = [(parts.count(part), part) for part in ordered if part in parts]
    return [(sum(n for n, _ in counts[:k]), n, part) for k, (n, part) in enumerate(counts)]


def _arc(first: int, count: int, n: int, part: Part) -> str:
    a, b = (2 * math.pi * at / n - math.pi / 2 for at in (first, first + count))
    gap = min(0.04, (b - a) / 4) if count < n else 0.001
    a, b = a + gap, b - gap
    xa, ya, xb, yb = 148 + 62 * math.cos(a), 84 + 62 * math.sin(a), 148 + 62 * math.cos(b), 84 + 62 * math.sin(b)
    path = f"M{xa:.2f} {ya:.2f}A62 62 0 {int(b - a > math.pi)} 1 {xb:.2f} {yb:.2f}"
    style = {
        "accepted": 'stroke="var(--series-1)" stroke-width="12"',
        "set-aside": 'stroke="var(--medium-line)" stroke-width="12" stroke-dasharray="2.4 2"',
        "absent": 'stroke="var(--line-strong)" stroke-width="1.4" stroke-dasharray="2 4"',
    }[part]
    return f'<path d="{path}" fill="none" {style}/>'


def watch(alerts: Sequence[AlertView], now_us: int) -> str:
    """Alerts of the last 24 hours on a time line: a mark if open, an outline if resolved."""
    start = now_us - DAY_US
    parts = ['<path d="M0 84H6c6 0 8 42 8 42" fill="none" stroke="var(--series-1)" stroke-opacity=".38" stroke-width="3"/>']
    parts.append('<path d="M14 126H284" stroke="var(--line-strong)"/>')
    heights: dict[int, int] = {}
    recent = [a for a in alerts if a.raised_us >= start]
    for alert in sorted(recent, key=lambda a: a.raised_us)[-60:]:
        column = int((alert.raised_us - start) / DAY_US * 15)
        level = heights.get(column, 0)
        heights[column] = level + 1
        if level > 6:
            continue
        x, y = 14 + 18 * column + 9, 115 - 15 * level
        if alert.open:
            parts.append(mark(alert.priority, 17, at=(x - 8.5, y - 10)))
        else:
            parts.append(f'<circle cx="{x}" cy="{y}" r="4.6" fill="none" stroke="var(--line-strong)" stroke-width="1.3"/>')
    for x, t_us, anchor in ((14, start, "start"), (149, now_us - DAY_US // 2, "middle")):
        parts.append(f'<path d="M{x} 126v4" stroke="var(--line-strong)"/>')
        parts.append(f'<text x="{x}" y="144" text-anchor="{anchor}">{clock(t_us)}</text>')
    parts.append('<path d="M284 126v4" stroke="var(--line-strong)"/><text x="284" y="144" text-anchor="end">now</text>')
    parts.append('<text x="14" y="20">alerts raised in 24 h</text><text x="14" y="36">outline = resolved</text>')
    still = sum(a.open for a in recent)
    return _viz(f"Alerts in the last 24 hours: {len(recent) - still} resolved, {still} open", "".join(parts))
