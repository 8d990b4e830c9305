"""Who is who in a run of the demo: which recording plays on which device of which edge, with which consent.

Simulated: a number of edges with three training patients each (consent raw, local, local) and one held-back patient (raw); the
first edge has one more whose consent is `none`. MIT-BIH: de Chazal's split (IEEE TBME 51(7), 2004) as far as the records are
there, paced records left out; each training record is an edge, held-back records are further patients of those edges. Activity:
each subject is an edge; the official test subjects are held-back edges that never train. WFDB: every third record is held back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wardround.demo.patients import simulate_patient
from wardround.demo.recording import Recording
from wardround.demo.records import Found, find_recordings
from wardround.errors import WardroundError
from wardround.records import Consent

SIMULATED_S = 1500.0
PACED = {"102", "104", "107", "217"}
DS2 = {
    *("100", "103", "105", "111", "113", "117", "121", "123", "200", "202", "210"),
    *("212", "213", "214", "219", "221", "222", "228", "231", "232", "233", "234"),
}
HAR_TEST = {"02", "04", "09", "10", "12", "13", "18", "20", "24"}
WARDS = ("icu-a", "icu-b", "cardio-1", "cardio-2", "resp-1", "surg-1", "surg-2", "gen-1", "gen-2", "rehab-1", "home-n", "home-s")


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One device of an edge; `open` makes its recording when it is needed."""

    device: str
    patient: str
    consent: Consent
    held_back: bool
    open: Callable[[], Recording]


@dataclass(frozen=True, slots=True)
class PlannedEdge:
    """One edge and its devices."""

    name: str
    devices: tuple[PlannedDevice, ...]
    held_back: bool = False  # it never trains


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    task: str
    simulated: bool
    source: str
    edges: tuple[PlannedEdge, ...]
    edges_per_process: int = 1
    dead_signal: str = "ecg-ii"  # of the first training device of the edge whose sensor dies
    notes: tuple[str, ...] = field(default=())

    @property
    def training(self) -> tuple[PlannedEdge, ...]:
        """The edges that train."""
        return tuple(e for e in self.edges if not e.held_back)


def make_plan(records: Path | None, *, edges: int, seed: int) -> Plan:
    """The plan of a run.

    Raises:
        WardroundError: there are too few edges or recordings to train and to score.
    """
    if records is None:
        return _simulated(edges, seed)
    layout, found = find_recordings(records)
    if layout == "har":
        return _activity(found)
    return _arrhythmia(found, layout)


def _simulated(edges: int, seed: int) -> Plan:
    if not 3 <= edges <= len(WARDS):
        raise WardroundError(f"{edges} edges cannot be rehearsed", remedy=f"choose 3 to {len(WARDS)}")

    def device(number: int, edge: str, place: int, consent: Consent, *, held_back: bool = False) -> PlannedDevice:
        patient, name = f"P{number:03d}", f"patch-{edge}-{place}"
        return PlannedDevice(
            name,
            patient,
            consent,
            held_back,
            lambda: simulate_patient(patient, name, seed=seed * 1_000 + number, duration_s=SIMULATED_S),
        )

    planned = []
    for i, name in enumerate(WARDS[:edges]):
        devices = [
            device(i * 5 + place, name, place, consent)
            for place, consent in enumerate((Consent.RAW, Consent.LOCAL, Consent.LOCAL), 1)
        ]
        devices.append(device(i * 5 + 4, name, 4, Consent.RAW, held_back=True))
        if i == 0:
            devices.append(device(500, name, 5, Consent.NONE))
        planned.append(PlannedEdge(name, tuple(devices)))
    return Plan("ventricular-beats", True, "simulated patients", tuple(planned))


def _arrhythmia(found: list[Found], layout: str) -> Plan:
    if layout == "mitbih":
        usable = [f for f in found if f.name not in PACED]
        held_back = [f for f in usable if f.name in DS2]
    else:
        usable = found
        held_back = usable[2::3]
    training = [f for f in usable if f not in held_back]
    if len(training) < 3 or not held_back:
        raise WardroundError(
            f"{len(training)} records to train on and {len(held_back)} to score with are too few",
            remedy="give at least five annotated records",
        )
    planned = []
    for i, record in enumerate(training):
        consent = Consent.LOCAL if i % 2 else Consent.RAW
        devices = [_replayed(record, consent, held_back=False)]
        devices += [_replayed(r, Consent.RAW, held_back=True) for r in held_back[i :: len(training)]]
        planned.append(PlannedEdge(f"ward-{_plain(record.name)}", tuple(devices)))
    left_out = sorted({f.name for f in found} - {f.name for f in usable})
    notes = (f"left out: {', '.join(left_out)} (paced, as AAMI EC57 says)",) if left_out else ()
    return Plan("ventricular-beats", False, f"{layout} recordings", tuple(planned), notes=notes)


def _activity(found: list[Found]) -> Plan:
    planned = []
    for i, subject in enumerate(found):
        held_back = subject.name in HAR_TEST
        consent = Consent.RAW if held_back or i % 3 == 0 else Consent.LOCAL
        device = _replayed(subject, consent, held_back=held_back)
        planned.append(PlannedEdge(f"subject-{subject.name}", (device,), held_back=held_back))
    training = [e for e in planned if not e.held_back]
    if len(training) < 3 or len(training) == len(planned):
        raise WardroundError(
            "too few subjects to train and to score",
            remedy="give at least three training subjects and one of the official test subjects",
        )
    return Plan("activity", False, "activity recordings", tuple(planned), edges_per_process=6, dead_signal="accel-x")


def _replayed(found: Found, consent: Consent, *, held_back: bool) -> PlannedDevice:
    name = f"device-{_plain(found.name)}"
    return PlannedDevice(name, f"record-{found.name}", consent, held_back, found.open)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())[:30].strip("-")
