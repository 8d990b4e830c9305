"""Where a rehearsal's examples come from: simulated patients, recordings, or tables of examples.

Everything goes through the same transforms as at an edge: recordings become observations, observations become examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.collect.devices.reading import Reading
from wardround.collect.signals import Signals, load_signals
from wardround.demo.motion import simulate_motion
from wardround.demo.patients import simulate_patient
from wardround.demo.recording import Recording
from wardround.demo.records import find_recordings
from wardround.errors import StudyError
from wardround.learn.study import ScoreSettings, is_held_back
from wardround.process.transforms import Task
from wardround.records import Examples, Observation, concatenate
from wardround.rehearsal.split import split_by_label

EXAMPLES_EACH = 60  # of a virtual edge with simulated patients, on average
PATIENTS_MIN = 40  # so that held-back ones are several
PATIENTS_MAX = 1_000  # a quarter of an hour of simulation
PATIENT_S = (120.0, 1500.0)  # of a simulated recording: the least and the most
MESSAGE_S = 10.0
TABLE_SUFFIXES = (".parquet", ".csv")
Heard = Callable[[str, int, int], None]  # what is done, how much of it, of how many


@dataclass(frozen=True, slots=True)
class Population:
    """Edges that train, examples of subjects that never do, and where all of it comes from, in words."""

    edges: Mapping[str, Examples]
    held_back: Examples
    source: str
    simulated: bool


def simulated_population(task: Task, score: ScoreSettings, *, edges: int, alpha: float, seed: int, heard: Heard) -> Population:
    """Simulated patients, those held back by the study's own rule left out, split over the edges.

    Raises:
        StudyError: no patients are simulated for this task.
    """
    simulate, per_s = _simulators(task)
    wanted = edges * EXAMPLES_EACH / max(0.1, 1 - score.held_back)
    duration_s = min(PATIENT_S[1], max(PATIENT_S[0], wanted / PATIENTS_MIN / per_s))
    patients = max(PATIENTS_MIN, round(wanted / per_s / duration_s))
    if patients > PATIENTS_MAX:
        most = round(edges * PATIENTS_MAX / patients)
        raise StudyError(
            f"{edges} edges need {patients} simulated patients, more than {PATIENTS_MAX}",
            remedy=f"rehearse at most {most} edges, or give recordings or tables with --data",
        )
    signals = load_signals()
    parts: list[Examples] = []
    for i in range(patients):
        heard("simulating patients", i, patients)
        recording = simulate(f"S{i:04d}", f"patch-{i:04d}", seed=seed * 100_003 + i, duration_s=duration_s)
        parts.append(task.examples(observations_of(recording, f"S{i:04d}", signals, task)))
    pool = concatenate(parts, task.feature_names)
    mask = np.array([is_held_back(score, str(s), "") for s in pool.subjects], bool)
    made = split_by_label(pool.where(~mask), edges, alpha=alpha, seed=seed)
    return Population(made, pool.where(mask), f"{patients} simulated patients, {duration_s / 60:.0f} minutes each", True)


def _simulators(task: Task) -> tuple[Callable[..., Recording], float]:
    """What makes a patient for a task, and how many examples a second of one gives."""
    known: dict[str, tuple[Callable[..., Recording], float]] = {
        "ventricular-beats": (simulate_patient, 1.2),
        "activity": (simulate_motion, 0.7),
    }
    if task.name not in known:
        raise StudyError(
            f"there are no simulated patients for the task `{task.name}`", remedy="give recordings or tables with --data"
        )
    return known[task.name]


def recorded_population(
    folder: Path, task: Task, score: ScoreSettings, *, edges: int | None, alpha: float, seed: int, heard: Heard
) -> Population:
    """Recordings or tables of a folder: each file is an edge of its own, or all of them are split over `edges`.

    Raises:
        WardroundError: the folder holds neither, or nothing of it fits the task.
    """
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a folder", remedy="give a folder of recordings, or of tables, to --data")
    tables = sorted(p for p in folder.glob("*") if p.suffix in TABLE_SUFFIXES and is_table(p, task))
    own: dict[str, Examples] = {}
    if tables:
        for i, path in enumerate(tables):
            heard("reading tables", i, len(tables))
            own |= read_table(path, task)
        source = f"{len(tables)} tables of {folder.name}"
    else:
        layout, found = find_recordings(folder)
        signals = load_signals()
        for i, one in enumerate(found):
            heard("reading recordings", i, len(found))
            recording = one.open()
            own[one.name] = task.examples(observations_of(recording, recording.patient, signals, task))
        source = f"{len(found)} recordings of {folder.name} ({layout})"
    labelled = {name: e.where(e.labels >= 0) for name, e in own.items()}
    if not any(len(e) for e in labelled.values()):
        raise StudyError(
            f"nothing in {folder} is a labelled example of the task `{task.name}`",
            remedy="check that the study's task fits the recordings, and that they have annotations",
        )
    held, training = [], {}
    for name, examples in labelled.items():
        mask = np.array([is_held_back(score, str(s), name) for s in examples.subjects], bool)
        held.append(examples.where(mask))
        training[name] = examples.where(~mask)
    if edges is not None and edges != len(training):
        pool = concatenate(training.values(), task.feature_names)
        return Population(
            split_by_label(pool, edges, alpha=alpha, seed=seed), concatenate(held, task.feature_names), source, False
        )
    return Population({n: e for n, e in training.items() if len(e)}, concatenate(held, task.feature_names), source, False)


def observations_of(recording: Recording, subject: str, signals: Signals, task: Task) -> list[Observation]:
    """What an edge would keep of a recording for a task: coded, in the code table's units."""
    made: list[Observation] = []
    for _, readings in recording.messages(MESSAGE_S):
        for reading in readings:
            signal = signals.resolve(reading.name)
            if signal.code in task.signals:
                made.append(_observation(reading, subject, recording.device, signals))
    return made


def _observation(reading: Reading, subject: str, device: str, signals: Signals) -> Observation:
    signal = signals.resolve(reading.name)
    conversion = signals.conversion(reading.unit, signal)
    return Observation(
        subject=subject,
        device=device,
        edge="rehearsal",
        code=signal.code,
        unit=signal.unit,
        t0_us=reading.t_us,
        t0_device_us=reading.t_us,
        n=reading.n,
        period_us=reading.period_us,
        offsets_us=reading.offsets_us,
        value=None if reading.value is None else reading.value * conversion.factor + conversion.offset,
        values=reading.values,
        values_type=reading.values_type,
        scale=reading.scale * conversion.factor,
        origin=reading.origin * conversion.factor + conversion.offset,
    )


def is_table(path: Path, task: Task) -> bool:
    """Whether a file is a table with the task's features, rather than a recording."""
    import polars as pl  # noqa: PLC0415 - half a second of import that only tables pay

    table = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_csv(path)
    with _readable(path):
        return set(task.feature_names) <= set(table.collect_schema().names())


def read_table(path: Path, task: Task) -> dict[str, Examples]:
    """Examples by edge: one column a feature, `label` (a class's name or its number), and perhaps `subject` and `edge`.

    Raises:
        StudyError: there is no label, or one that the task does not have.
    """
    import polars as pl  # noqa: PLC0415

    with _readable(path):
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema_length=None)
        features = table.select(pl.col(list(task.feature_names)).cast(pl.Float32)).to_numpy().astype(np.float32)
    if "label" not in table.columns:
        raise StudyError(
            f"{path} has no column `label`", remedy=f"add one with {', '.join(task.classes)}, or their numbers from 0"
        )
    n = len(table)
    labels = [_label(value, path, task) for value in table["label"].to_list()]
    subjects = table["subject"].cast(pl.String).to_list() if "subject" in table.columns else [path.stem] * n
    examples = Examples(
        features=features,
        labels=np.array(labels, np.int32),
        subjects=np.array(subjects, np.str_),
        t_us=np.zeros(n, np.int64),
        feature_names=task.feature_names,
    )
    if "edge" not in table.columns:
        return {path.stem: examples}
    owner = np.array(table["edge"].cast(pl.String).to_list(), np.str_)
    return {str(edge): examples.where(owner == edge) for edge in np.unique(owner)}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from polars.exceptions import PolarsError  # noqa: PLC0415

    try:
        yield
    except PolarsError as exc:
        words = (str(exc).splitlines() or [""])[0]
        raise StudyError(
            f"{path} cannot be read: {words[:200]}", remedy="every feature's column holds numbers or nothing"
        ) from exc


def _label(value: object, path: Path, task: Task) -> int:
    if value is None:
        return -1
    if isinstance(value, str) and value in task.classes:
        return task.classes.index(value)
    number = int(value) if isinstance(value, int | float) or (isinstance(value, str) and value.lstrip("-").isdigit()) else None
    if number is None or not -1 <= number < len(task.classes):
        raise StudyError(
            f"{path}: label {value!r} is none of the task `{task.name}`", remedy=f"use {', '.join(task.classes)}, or 0, 1, ..."
        )
    return number
