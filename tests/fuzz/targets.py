"""What is fuzzed: every decoder of devices' messages and files, and the join token. Each may refuse by name and nothing else."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

from fuzz_seeds import built
from wardround.collect.devices import decoders
from wardround.collect.devices.gatt import Source
from wardround.collect.devices.gatt import decode as decode_characteristic
from wardround.collect.devices.reading import decode_readings
from wardround.collect.files import apple_health, edf, fit, formats, wfdb, wfdb_annotations
from wardround.collect.files.opened import Known, in_memory
from wardround.collect.signals import load_signals
from wardround.errors import DecodeError, JoinRefused
from wardround.trust.join import parse

NOW_US = 1_772_000_000_000_000
SOURCE = Source(NOW_US, ZoneInfo("Europe/Vienna"), 1)
KNOWN = Known(NOW_US, ZoneInfo("Europe/Vienna"), 0)
DATED = Known(NOW_US)
ITEMS_MAX = 100_000
SEED_BYTES_MAX = 60_000
TABLE = load_signals()


def consume(items: object) -> int:
    """Work items through as an import does; how many were readings that the code table knows."""
    taken = 0
    for item in itertools.islice(items, ITEMS_MAX):
        if not isinstance(item, DecodeError):
            try:
                _, reading = TABLE.canonical(item)
            except DecodeError:
                continue
            assert len(reading.samples()) in (0, reading.n)
            assert len(reading.offsets()) == reading.n
            taken += 1
    return taken


def message(format_: decoders.Format) -> Callable[[bytes], object]:
    return lambda data: consume(decoders.decode(format_, data, SOURCE).readings)


def characteristic(data: bytes) -> int:
    number = int.from_bytes(data[:2], "little")
    return consume(
        decode_characteristic(
            (0x2A37, 0x2A1C, 0x2A35, 0x2A5E, 0x2A5F, 0x2A18, 0x2AA7, 0x2A9D)[number % 8], data[2:], SOURCE
        ).readings
    )


def record(data: bytes) -> None:
    """A header and its signal file: the first two bytes say where the one ends."""
    end = 2 + int.from_bytes(data[:2], "little")
    header, rest = data[2:end], data[end:]
    consume(wfdb.read(in_memory(header, "r.hea", {"r.dat": rest, "r.hea": header, "s.hea": rest}), KNOWN))


def annotation_file(data: bytes) -> None:
    consume(
        wfdb_annotations.read(in_memory(data, "r.atr", {"r.hea": b"r 1 360 1000 10:00:00 01/03/2026\nr.dat 16 200/mV"}), DATED)
    )


def file_of(read: Callable[..., object]) -> Callable[[bytes], object]:
    return lambda data: consume(read(in_memory(data), KNOWN))


def any_file(data: bytes) -> int:
    return consume(formats.read(in_memory(data), DATED))


def join_token(data: bytes) -> int:
    return bool(parse(data.decode("latin-1")))


def readings(data: bytes) -> int:
    return consume(iter(decode_readings(data)))


TARGETS: Mapping[str, Callable[[bytes], object]] = {
    "senml": message("senml"),
    "fhir": message("fhir"),
    "gatt": message("gatt"),
    "ghs": message("ghs"),
    "characteristic": characteristic,
    "fit": file_of(fit.read),
    "wfdb": record,
    "wfdb-annotations": annotation_file,
    "edf": file_of(edf.read),
    "apple-health": file_of(apple_health.read),
    "any-file": any_file,
    "readings": readings,
    "join-token": join_token,
}


def one(target: Callable[[bytes], object], data: bytes) -> None:
    """One input: read, or refused by name. Anything else is a finding."""
    with contextlib.suppress(DecodeError, JoinRefused):
        target(data)


def seeds(name: str, folder: Path) -> list[bytes]:
    """Inputs to begin with: small ones that are read, and real ones where the shared data are there, none too large to change."""
    places = {
        "senml": ("senml",), "fhir": ("fhir_r4",), "gatt": ("ble",), "fit": ("fit",), "edf": ("edf",),
        "apple-health": ("apple_health",), "wfdb-annotations": ("wfdb",), "any-file": ("senml", "fhir_r4", "fit", "apple_health"),
    }  # fmt: skip
    found = [p.read_bytes() for place in places.get(name, ()) for p in sorted((folder / place).rglob("*")) if p.is_file()]
    if name == "wfdb":
        for header in sorted((folder / "wfdb").glob("*.hea")):
            text = header.read_bytes().replace(header.stem.encode() + b".dat", b"r.dat")
            found.append(len(text).to_bytes(2, "little") + text + b"\x01\x02\x03" * 2_000)
    return built(name) + [data for data in found if len(data) <= SEED_BYTES_MAX]
