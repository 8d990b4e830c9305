"""Small inputs that are read: without one, a fuzzer that cannot see into a parser written in C finds only its refusals."""

from __future__ import annotations

import json
import struct

from wardround.clock import ManualClock
from wardround.collect.devices.reading import Reading, encode_readings
from wardround.trust.join import mint

# One a characteristic, of the examples in their specifications.
NOTIFICATIONS = {
    0x2A37: "163c0004",
    0x2A1C: "006c0100ff",
    0x2A35: "04780050005d004600",
    0x2A5E: "0061004200",
    0x2A5F: "0061004200",
    0x2A18: "020100ea070301081e005fb011",
    0x2AA7: "06005d000a00",
    0x2A9D: "00a83e",
}
SPO2, PERCENT = 150_456, 262_688  # MDC codes


class _Nowhere:
    def add(self, record: object) -> None:
        """A token for a fuzzer is kept by no hub."""


def built(name: str) -> list[bytes]:
    """For a target; empty where the shared data have them."""
    if name == "gatt":
        each = [{"characteristic": f"{number:04X}", "value": value, "t": 1.77e9} for number, value in NOTIFICATIONS.items()]
        return [json.dumps(each).encode(), *(json.dumps(one).encode() for one in each)]
    if name == "characteristic":
        return [struct.pack("<H", i) + bytes.fromhex(value) for i, value in enumerate(NOTIFICATIONS.values())]
    if name == "ghs":
        return [_ghs()]
    if name in ("edf", "any-file"):
        return [_edf("", 4), _edf("EDF+C", 4)]
    if name == "readings":
        run = Reading(name="ecg-ii", unit="mV", t_us=1_770_000_000_000_000, n=2, period_us=4e3, values=bytes(4), scale=0.005)
        return [encode_readings([Reading(name="heart-rate", unit="/min", t_us=1_770_000_000_000_000, value=72.0), run])]
    if name == "join-token":
        return [mint(_Nowhere(), ManualClock(), name="icu-a", host="hub.example", port=8443, pin=bytes(32)).encode()]
    return []


def _ghs() -> bytes:
    """A number with its code, unit and elapsed time."""
    time = struct.pack("<BIHBb", 0b10_0010, 825_000_000, 0, 1, 0)
    body = struct.pack("<HI", 3, SPO2) + time + struct.pack("<HI", PERCENT & 0xFFFF, 975 | 0xFF << 24)
    return bytes([0]) + struct.pack("<H", len(body)) + body


def _edf(kind: str, samples: int) -> bytes:
    """A second of one ECG lead, and for EDF+ the channel of annotations."""
    cells = [("ECG II", "mV", -5, 5, -2048, 2047, samples)]
    body = bytes(2 * samples)
    if kind:
        cells.append(("EDF Annotations", "", -1, 1, -32768, 32767, 8))
        body += b"+0\x14\x14\0".ljust(16, b"\0")
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    columns = list(zip(*[(label, "", unit, *limits, "", n, "") for label, unit, *limits, n in cells], strict=True))
    fixed = [("0", 8), ("X X X X", 80), ("Startdate 01-MAR-2026 X X X", 80), ("01.03.26", 8), ("10.00.00", 8)]
    fixed += [(256 * (len(cells) + 1), 8), (kind, 44), (1, 8), (1, 8), (len(cells), 4)]
    fixed += [(value, width) for column, width in zip(columns, widths, strict=True) for value in column]
    return b"".join(str(value).encode().ljust(width) for value, width in fixed) + body
