"""Sensors that have died: a waveform that has become a flat line, a signal that has stopped while its device goes on, or a
device that has stopped altogether.

A flat line is judged by the length of signal that is flat, in the signal's own time, so that it holds at any speed-up; silence
is judged by the wall clock, against the stream's usual interval.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter

from wardround.records import FROM_FILE, Observation, Quality

STREAMS_MAX = 50_000
FLAT_S = 5.0  # a lead that is off is flat within a second; five rule out a pause or a calibration step
SILENT_INTERVALS = 8.0
SILENT_S_MIN = 5.0
DEVICE_SILENT_S_MIN = 30.0  # a device that changes its place is gone for as long
_stream_of = attrgetter("device_boot", "edge", "device", "code")
USUAL_MIN = 5  # intervals before a stream has a usual one


@dataclass
class _Stream:
    edge: str
    device: str
    code: str
    last_us: int
    usual_s: float = 0.0
    seen: int = 0
    flat_since_us: int = 0
    flat_s: float = 0.0
    dead: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class SensorChange:
    """A sensor has died or come back. `what` is flat, silent, or device: all its signals have stopped, and `code` is empty."""

    what: str
    over: bool
    edge: str
    device: str
    code: str
    since_us: int
    seconds: float


class Sensors:
    """Every stream (device, code), with bounded memory: the ones unheard longest are forgotten first."""

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[str, str], _Stream] = OrderedDict()
        self._device_last_us: OrderedDict[str, int] = OrderedDict()  # in step with the streams: as many at most
        self._silent_devices: dict[str, str] = {}  # with their edge

    def observe_all(self, observations: Sequence[Observation], now_us: int) -> list[SensorChange]:
        """Runs of samples that have come at once; the changes they make. What came out of a file is left out.

        Of values one by one it matters which streams they are of, and how many: they are counted, not looked at each.
        """
        found: list[SensorChange | None] = []
        for (boot, edge, device, code), n in Counter(_stream_of(o) for o in observations if o.n < 2).items():
            if not boot.startswith(FROM_FILE):  # a recording ends, and no sensor has died
                found.append(self._heard(edge, device, code, now_us, n)[1])
        found += [self.observe(o, now_us) for o in observations if o.n > 1 and not o.imported]
        return [change for change in found if change is not None]

    def observe(self, o: Observation, now_us: int) -> SensorChange | None:
        """A new run of samples; a change if it makes one."""
        stream, change = self._heard(o.edge, o.device, o.code, now_us)
        return change if change is not None else self._flatness(stream, o)

    def _heard(self, edge: str, device: str, code: str, now_us: int, runs: int = 1) -> tuple[_Stream, SensorChange | None]:
        """So many runs of a stream have come; the change if it had been silent."""
        key = (device, code)
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= STREAMS_MAX:
                self._streams.popitem(last=False)
            stream = self._streams[key] = _Stream(edge, device, code, now_us)
        self._streams.move_to_end(key)
        interval_s = (now_us - stream.last_us) / 1e6
        if stream.seen and interval_s > 0:
            stream.usual_s = interval_s if stream.seen == 1 else 0.9 * stream.usual_s + 0.1 * interval_s
        stream.seen += runs
        stream.last_us = self._device_last_us[device] = now_us
        self._device_last_us.move_to_end(device)
        if len(self._device_last_us) > STREAMS_MAX:
            gone, _ = self._device_last_us.popitem(last=False)
            self._silent_devices.pop(gone, None)
        if self._silent_devices.pop(device, None) is not None:
            stream.silent = False
            return stream, SensorChange("device", True, stream.edge, device, "", now_us, interval_s)
        if stream.silent:
            stream.silent = False
            return stream, SensorChange("silent", True, stream.edge, device, code, now_us, interval_s)
        return stream, None

    def tick(self, now_us: int, out_of_reach: Collection[str] = ()) -> list[SensorChange]:
        """Streams that have stopped while their device sends others, and devices of which every stream has stopped.

        Of devices at edges that are `out_of_reach` nothing can be said.
        """
        found = []
        usual: dict[str, tuple[float, str]] = {}  # by device: the usual interval of its most frequent signal, and its edge
        for stream in self._streams.values():
            quiet_s = (now_us - stream.last_us) / 1e6
            if stream.seen >= USUAL_MIN and not stream.silent and stream.edge not in out_of_reach:
                usual[stream.device] = min(usual.get(stream.device, (stream.usual_s, stream.edge)), (stream.usual_s, stream.edge))
            if stream.silent or stream.seen < USUAL_MIN or quiet_s < max(SILENT_S_MIN, SILENT_INTERVALS * stream.usual_s):
                continue
            if self._device_last_us[stream.device] - stream.last_us < 1e6 * quiet_s / 2:
                continue  # the whole device is quiet: that is another finding
            stream.silent = True
            found.append(SensorChange("silent", False, stream.edge, stream.device, stream.code, stream.last_us, quiet_s))
        for device, (usual_s, edge) in usual.items():
            last_us = self._device_last_us.get(device, now_us)
            quiet_s = (now_us - last_us) / 1e6
            if device not in self._silent_devices and quiet_s >= max(DEVICE_SILENT_S_MIN, SILENT_INTERVALS * usual_s):
                self._silent_devices[device] = edge
                found.append(SensorChange("device", False, edge, device, "", last_us, quiet_s))
        return found

    def _flatness(self, stream: _Stream, o: Observation) -> SensorChange | None:
        if o.period_us is None or o.n < 2:
            return None
        if o.flags & Quality.FLAT_LINE:
            if stream.flat_s == 0.0:
                stream.flat_since_us = stream.last_us
            stream.flat_s += o.n * o.period_us / 1e6
            if not stream.dead and stream.flat_s >= FLAT_S:
                stream.dead = True
                return SensorChange("flat", False, stream.edge, stream.device, stream.code, stream.flat_since_us, stream.flat_s)
            return None
        stream.flat_s = 0.0
        if stream.dead:
            stream.dead = False
            return SensorChange("flat", True, stream.edge, stream.device, stream.code, stream.last_us, 0.0)
        return None
