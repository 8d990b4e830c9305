"""A score by round: as lines of text for a terminal, and as an SVG file for a report. No library: two small functions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT, WIDTH_MAX = 6, 72  # of the text: lines, and columns
SVG_WIDTH, SVG_HEIGHT, MARGIN = 640, 320, 48


def text_chart(rounds: Sequence[int], values: Sequence[float]) -> list[str]:
    """One column a round, or the last of several rounds where they are more than fit; lowest value at the bottom."""
    if not values:
        return []
    step = -(-len(values) // WIDTH_MAX)
    shown = [values[min(len(values), start + step) - 1] for start in range(0, len(values), step)]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    eighths = [1 + round((v - low) / span * (8 * HEIGHT - 1)) for v in shown]
    lines: list[str] = []
    for line in range(HEIGHT - 1, -1, -1):
        bars = "".join(BLOCKS[min(8, max(0, e - 8 * line))] for e in eighths)
        edge = f"{high:.3f}" if line == HEIGHT - 1 else f"{low:.3f}" if line == 0 else ""
        lines.append(f"{edge:>7} {bars}")
    lines.append(f"{'round':>7} {rounds[0]}" + f"{rounds[-1]:>{max(1, len(shown) - len(str(rounds[0])))}}")
    return lines


def svg_chart(title: str, metric: str, rounds: Sequence[int], values: Sequence[float]) -> str:
    """The same as a line in an SVG of its own, readable in any browser."""
    low, high = min(values), max(values)
    span, width = (high - low) or 1.0, max(1, rounds[-1] - rounds[0])

    def x(number: int) -> float:
        return MARGIN + (number - rounds[0]) / width * (SVG_WIDTH - 2 * MARGIN)

    def y(value: float) -> float:
        return SVG_HEIGHT - MARGIN - (value - low) / span * (SVG_HEIGHT - 2 * MARGIN)

    points = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in zip(rounds, values, strict=True))
    bottom, left = SVG_HEIGHT - MARGIN, MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SVG_WIDTH} {SVG_HEIGHT}"',
            'font-family="sans-serif" font-size="12">',
            f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>',
            f'<text x="{left}" y="24" font-size="15">{escape(title)}</text>',
            f'<path d="M{left} {MARGIN} V{bottom} H{SVG_WIDTH - MARGIN}" fill="none" stroke="#888"/>',
            f'<text x="{left - 6}" y="{y(high) + 4:.1f}" text-anchor="end">{high:.3f}</text>',
            f'<text x="{left - 6}" y="{y(low) + 4:.1f}" text-anchor="end">{low:.3f}</text>',
            f'<text x="{left}" y="{bottom + 18}">{rounds[0]}</text>',
            f'<text x="{SVG_WIDTH - MARGIN}" y="{bottom + 18}" text-anchor="end">round {rounds[-1]}</text>',
            f'<text x="{SVG_WIDTH - MARGIN}" y="24" text-anchor="end">{escape(metric)}</text>',
            f'<polyline points="{points}" fill="none" stroke="#1667b7" stroke-width="2"/>',
            "</svg>\n",
        ]
    )
