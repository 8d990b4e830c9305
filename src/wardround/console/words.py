"""Values in the words people read: numbers with as many digits as are sure, times with their zone, text made safe."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

DAY_US = 86_400_000_000
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def safe(text: str) -> str:
    """For HTML and its attributes."""
    return escape(text, quote=True)


def clock(t_us: int, *, seconds: bool = False) -> str:
    """03:12, or 03:12:40."""
    return f"{datetime.fromtimestamp(t_us / 1e6, UTC):{'%H:%M:%S' if seconds else '%H:%M'}}"


def day_clock(t_us: int) -> str:
    """24 Nov 03:12."""
    return f"{datetime.fromtimestamp(t_us / 1e6, UTC):%d %b %H:%M}"


def lately(t_us: int, now_us: int) -> str:
    """03:12 within a day; 24 Nov 03:12 beyond it, where the clock alone would name another day."""
    return clock(t_us) if abs(now_us - t_us) < DAY_US else day_clock(t_us)


def day(t_us: int) -> str:
    """24 Nov."""
    return f"{datetime.fromtimestamp(t_us / 1e6, UTC):%d %b}"


def number(value: float) -> str:
    """As many digits as are sure: 1,204, 114, 37.8, 0.64."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 or value == round(value) else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


UNITS = {"Cel": "°C", "mm[Hg]": "mmHg", "/min": "/min", "uV": "µV"}


def unit(ucum: str) -> str:
    """A UCUM unit as people write it."""
    return UNITS.get(ucum, ucum)


def full_clock(t_us: int) -> str:
    """Tue 24 Nov, 03:12:40."""
    return f"{datetime.fromtimestamp(t_us / 1e6, UTC):%a %d %b, %H:%M:%S}"


def percent(share: float) -> str:
    """97 %. What is not all of it is never 100 %, and what is some of it never 0 %."""
    n = round(100 * share)
    return f"{min(99, max(1, n)) if 0 < share < 1 else n} %"


def spoken(n: int) -> str:
    """Twelve and under as a word."""
    return NUMBERS[n] if n < len(NUMBERS) else f"{n:,}"


def count(n: int, one: str, many: str = "") -> str:
    """4 edges, 1 edge."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """38 s, 41 min, 6 h 10 min, 3 d 2 h."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min"
    if s < 86_400:
        return f"{s // 3600} h {s % 3600 // 60} min"
    return f"{s // 86_400} d {s % 86_400 // 3600} h"


def rate(per_s: float) -> tuple[str, str]:
    """A figure and its unit: ("31.4", "k/s")."""
    for limit, unit in ((1e6, "M/s"), (1e3, "k/s")):
        if per_s >= limit:
            return f"{per_s / limit:.1f}", unit
    return f"{per_s:.0f}", "/s"


METRICS = {"average-precision": "AUPRC", "auroc": "AUROC", "accuracy": "accuracy", "macro-f1": "macro F1"}


def metric(name: str) -> str:
    """A score's short name."""
    return METRICS.get(name, name.replace("-", " "))
