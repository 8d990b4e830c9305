"""What state an edge's machine is in: power, network, load. Read from Linux's own files, all of them text, under a given root.

Nothing here needs a library or a right: /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power), /proc/net/route,
/proc/net/wireless, /proc/stat. A file that is missing says what its absence says: no battery is mains, no wireless interface is a
wire.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

SMOOTH_S = 30.0
HERTZ = 100  # ticks of a second in /proc/stat, on every Linux that has not been built otherwise


@dataclass(frozen=True, slots=True)
class Condition:
    """What an edge says of its machine in every heartbeat."""

    charging: bool  # on mains, or its battery fills or is full; a machine without a battery is on mains
    battery: float | None  # per cent; None: it has none
    network: str  # wired, wifi; empty: no default route
    signal_dbm: float | None  # of Wi-Fi
    metered: bool
    load: float  # share of the processors' time that went to others than training, lately
    unwilling: str = ""  # why its own schedule forbids training now; a constant of schedule.py


class ConditionReader:
    """Reads the condition again and again. The load is smoothed, and stands still while this edge itself trains."""

    def __init__(self, root: Path = Path("/"), *, metered: Sequence[str] = ()) -> None:
        """`metered` are patterns (fnmatch) of the names of interfaces that cost by the byte."""
        self._root, self._metered = root, metered
        self._last = _jiffies(_text(root / "proc/stat"))
        self._load: float | None = None
        self._lock = threading.Lock()

    def read(self, *, at_work: bool = False) -> Condition:
        """The condition now; `at_work`: a training of this edge runs, or ran since the last reading."""
        table = _text(self._root / "proc/stat")
        with self._lock:
            busy, total = _jiffies(table)
            spent, passed = busy - self._last[0], total - self._last[1]
            self._last = busy, total
            if passed > 0 and not at_work:
                share = min(1.0, max(0.0, spent / passed))
                fades = math.exp(-passed / (HERTZ * SMOOTH_S * _cores(table)))
                self._load = share if self._load is None else share + (self._load - share) * fades
            load = self._load or 0.0
        return replace(read_condition(self._root, metered=self._metered), load=load)


def read_condition(root: Path = Path("/"), *, metered: Sequence[str] = ()) -> Condition:
    """The condition now, but for the load, which takes two readings."""
    charging, battery = _power(root / "sys/class/power_supply")
    interface = _default_interface(_text(root / "proc/net/route"))
    levels = _wireless(_text(root / "proc/net/wireless"))
    network = "" if not interface else "wifi" if interface in levels else "wired"
    costs = any(fnmatch(interface, pattern) for pattern in metered)
    return Condition(charging, battery, network, levels.get(interface), costs, 0.0)


def _jiffies(table: str) -> tuple[int, int]:
    """Time of all processors since the start, in ticks: at work, and altogether (proc_stat(5); idle and iowait are no work)."""
    line = table.partition("\n")[0].split()
    if len(line) < 5 or line[0] != "cpu" or not all(field.isdigit() for field in line[1:]):
        return 0, 0
    times = [int(field) for field in line[1:9]]  # guest time is in user time already
    idle = times[3] + (times[4] if len(times) > 4 else 0)
    return sum(times) - idle, sum(times)


def _cores(table: str) -> int:
    return max(1, sum(line.startswith("cpu") for line in table.splitlines()) - 1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("."))
    except ValueError:
        return None


def _power(folder: Path) -> tuple[bool, float | None]:
    """Whether it charges, and how full its batteries are; those of mice and keyboards (scope Device) do not count."""
    online = charging = discharging = False
    levels: list[float] = []
    for supply in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _text(supply / "scope") == "Device":
            continue
        if _text(supply / "type") == "Battery":
            status = _text(supply / "status")
            charging |= status in ("Charging", "Full")
            discharging |= status == "Discharging"
            level = _number(_text(supply / "capacity"))
            if level is not None:
                levels.append(level)
        else:
            online |= _text(supply / "online") not in ("", "0")
    has_battery = bool(levels) or charging or discharging
    return (not has_battery or online or (charging and not discharging)), min(levels, default=None)


def _default_interface(routes: str) -> str:
    """The interface of the default route with the lowest metric (proc_pid_net(5): hexadecimal, destination 0 is the default)."""
    best: tuple[int, str] | None = None
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == "00000000" and fields[7] == "00000000" and fields[6].isdigit():
            found = (int(fields[6]), fields[0])
            best = found if best is None else min(best, found)
    return best[1] if best is not None else ""


def _wireless(table: str) -> dict[str, float | None]:
    """Wireless interfaces with their signal level in dBm; a level that is not negative is a driver's own unit, and unknown."""
    levels: dict[str, float | None] = {}
    for line in table.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        level = _number(fields[2]) if len(fields) >= 3 else None
        levels[name.strip()] = level if level is not None and level < 0 else None
    return levels
