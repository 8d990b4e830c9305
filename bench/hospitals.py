"""Hospital tables of the shared data as examples, one row a stay or a patient: raw columns in, NaN where nothing was measured.

Used by the benches alone. Values outside what the sensor or the laboratory can report (and the -1 of the ICU data) become NaN;
the learner puts the fleet's mean in their place, and a column says that the value was missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wardround.records import Examples

# Lowest and highest value that is believed, in the units of the data's README.
RANGES = {
    "HR": (10, 300), "RespRate": (2, 80), "Temp": (25, 45), "SysABP": (20, 300), "DiasABP": (10, 200), "MAP": (15, 250),
    "NISysABP": (20, 300), "NIDiasABP": (10, 200), "NIMAP": (15, 250), "SaO2": (30, 100), "FiO2": (0.2, 1), "GCS": (3, 15),
    "Urine": (0, 5000), "Weight": (20, 300), "pH": (6.5, 8), "PaO2": (20, 700), "PaCO2": (5, 200), "Glucose": (10, 1500),
    "BUN": (1, 250), "Creatinine": (0.1, 25), "Bilirubin": (0.1, 60), "Cholesterol": (30, 500), "Mg": (0.3, 10),
    "Lactate": (0.2, 35), "Na": (90, 190), "K": (1, 12), "HCO3": (3, 60), "HCT": (8, 70), "WBC": (0.1, 200),
    "Platelets": (3, 1500), "Albumin": (0.5, 7), "ALP": (5, 3000), "ALT": (1, 12000), "AST": (1, 20000),
    "TroponinI": (0, 100), "TroponinT": (0, 40), "MechVent": (0, 1),
}  # fmt: skip
SKEWED = ("Urine", "Glucose", "BUN", "Creatinine", "Bilirubin", "Lactate", "ALP", "ALT", "AST", "TroponinI", "TroponinT", "WBC")
UNITS = {1: "coronary", 2: "cardiac-surgery", 3: "medical", 4: "surgical"}
FOLDS = 5
# What is usual in intensive care, of general knowledge and not from these tables: middle and spread, of log(1 + x) where skewed.
# A study with differential privacy scales by public numbers.
USUAL = {
    "HR": (85, 18), "RespRate": (19, 6), "Temp": (37, 0.8), "SysABP": (120, 23), "DiasABP": (60, 13), "MAP": (80, 16),
    "NISysABP": (120, 23), "NIDiasABP": (58, 15), "NIMAP": (77, 15), "SaO2": (97, 3), "FiO2": (0.55, 0.2), "GCS": (11, 4),
    "Urine": (4.6, 1), "Weight": (80, 22), "pH": (7.38, 0.08), "PaO2": (140, 80), "PaCO2": (40, 9), "Glucose": (4.9, 0.4),
    "BUN": (3.1, 0.7), "Creatinine": (0.8, 0.4), "Bilirubin": (0.8, 0.6), "Cholesterol": (160, 45), "Mg": (2, 0.4),
    "Lactate": (1.1, 0.5), "Na": (139, 5), "K": (4.1, 0.7), "HCO3": (23, 5), "HCT": (31, 5), "WBC": (2.5, 0.5),
    "Platelets": (200, 100), "Albumin": (3, 0.7), "ALP": (4.5, 0.7), "ALT": (3.6, 1.2), "AST": (4, 1.2),
    "TroponinI": (1.5, 1), "TroponinT": (0.5, 0.5), "MechVent": (1, 0.5), "Age": (64, 17), "Gender": (0.5, 0.5),
    "Height": (170, 15),
}  # fmt: skip


def icu(data: Path) -> tuple[dict[str, Examples], dict[str, Examples]]:
    """Stays by unit: of set a to train on, of whatever of set b is there to test on."""
    folder = data / "icu_vitals"
    tests = sorted(folder.glob("set_b*_patients.parquet"))
    train, test = _icu_set([folder / "set_a_patients.parquet"]), _icu_set(tests)
    return train, test


def icu_usual(names: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Middle and spread of the features of `icu`, of public numbers alone."""
    found: list[tuple[float, float]] = []
    for name in names:
        parameter, _, what = name.partition(".")
        middle, spread = USUAL.get(parameter, (0.5, 0.5))
        if what.endswith("missing"):
            found.append((0.5, 0.5))
        else:
            found.append({"change": (0.0, spread), "count": (2.0, 1.0)}.get(what, (middle, spread)))
    mean, std = zip(*found, strict=True)
    return np.array(mean, np.float32), np.array(std, np.float32)


def _icu_set(patients: Sequence[Path]) -> dict[str, Examples]:
    stays = pl.concat([pl.read_parquet(p) for p in patients])
    events = pl.concat([pl.read_parquet(p.with_name(p.name.replace("patients", "events"))) for p in patients])
    limits = pl.DataFrame(
        {"parameter": list(RANGES), "low": [float(a) for a, _ in RANGES.values()], "high": [float(b) for _, b in RANGES.values()]}
    )
    events = (
        events.with_columns(pl.col("parameter").cast(pl.String))
        .join(limits, on="parameter")
        .filter((pl.col("value") >= pl.col("low")) & (pl.col("value") <= pl.col("high")))
        .with_columns(
            pl.when(pl.col("parameter").is_in(SKEWED)).then(pl.col("value").log1p()).otherwise(pl.col("value")).alias("value")
        )
        .sort("RecordID", "parameter", "minute")
    )
    of = pl.col("value")
    summary = events.group_by("RecordID", "parameter").agg(
        of.first().alias("first"),
        of.last().alias("last"),
        of.mean().alias("mean"),
        of.min().alias("min"),
        of.max().alias("max"),
        (of.last() - of.first()).alias("change"),
        of.len().cast(pl.Float32).log1p().alias("count"),
    )
    columns = ["first", "last", "mean", "min", "max", "change", "count"]
    features = [stays["RecordID"].to_numpy()]
    names: list[str] = []
    found: list[NDArray[np.float64]] = []
    for parameter in RANGES:
        own = stays.select("RecordID").join(
            summary.filter(pl.col("parameter") == parameter), on="RecordID", how="left", maintain_order="left"
        )
        for column in columns:
            values = own[column].to_numpy().astype(np.float64)
            found.append(np.nan_to_num(values) if column == "count" else values)
            names.append(f"{parameter}.{column}")
    for name in ("Age", "Gender", "Height"):
        values = stays[name].cast(pl.Float64).to_numpy().astype(np.float64)
        found.append(np.where(values < 0, np.nan, values))
        names.append(name)
    found += [(stays["ICUType"] == unit).to_numpy().astype(np.float64) for unit in UNITS]
    names += list(UNITS.values())
    examples = _examples(np.stack(found, axis=1), stays["In-hospital_death"].to_numpy(), features[0], names, missing=("last",))
    units = stays["ICUType"].to_numpy()
    return {name: examples.where(units == unit) for unit, name in UNITS.items()}


def eicu(data: Path) -> list[tuple[dict[str, Examples], dict[str, Examples]]]:
    """Hospitals to train on and hospitals never seen, five times over: each hospital is unseen once."""
    stays = pl.read_parquet(data / "eicu_demo" / "apache_day1.parquet")
    left_out = ("patientunitstayid", "hospitalid", "diedinhospital")
    columns = [c for c in stays.columns if c not in left_out]
    rows = stays.select(pl.col(columns).cast(pl.Float64)).to_numpy().copy()
    for i, name in enumerate(columns):
        values = rows[:, i]
        values[values < 0] = np.nan
        if name == "age":
            values[values == 0] = np.nan
        if name in {"urine", "wbc", "creatinine", "bun", "glucose", "bilirubin"}:
            rows[:, i] = np.log1p(values)
    examples = _examples(
        rows, stays["diedinhospital"].to_numpy(), stays["patientunitstayid"].to_numpy(), columns, missing=tuple(columns)
    )
    hospitals = stays["hospitalid"].to_numpy()
    edges = {f"hospital-{h}": examples.where(hospitals == h) for h in np.unique(hospitals)}
    place = {name: int(hashlib.sha256(name.encode()).hexdigest(), 16) % FOLDS for name in edges}
    return [
        ({n: e for n, e in edges.items() if place[n] != fold}, {n: e for n, e in edges.items() if place[n] == fold})
        for fold in range(FOLDS)
    ]


def heart(data: Path) -> tuple[dict[str, Examples], dict[str, Examples]]:
    """FLamby's task: four hospitals, its own split."""
    train: dict[str, Examples] = {}
    test: dict[str, Examples] = {}
    numbers = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
    for path in sorted((data / "heart_disease").glob("*.csv")):
        table = pl.read_csv(path, infer_schema_length=1000).drop("slope", "ca", "thal").drop_nulls()
        columns = [table[c].cast(pl.Float64).to_numpy() for c in numbers]
        columns += [(table["cp"].cast(pl.Float64) == level).to_numpy().astype(np.float64) for level in (2, 3, 4)]
        columns += [(table["restecg"].cast(pl.Float64) == level).to_numpy().astype(np.float64) for level in (1, 2)]
        names = [*numbers, "cp2", "cp3", "cp4", "restecg1", "restecg2"]
        ids = np.array([f"{path.stem}-{r}" for r in table["row"]])
        examples = _examples(np.stack(columns, axis=1), (table["num"] > 0).to_numpy(), ids, names, missing=())
        fold = table["fold"].to_numpy()
        train[path.stem], test[path.stem] = examples.where(fold == "train"), examples.where(fold == "test")
    return train, test


def _examples(
    rows: NDArray[np.float64], labels: NDArray[np.generic], ids: NDArray[np.generic], names: Sequence[str], missing: Sequence[str]
) -> Examples:
    """Examples with a column for each value of `missing` columns (by name or ending) that says it was not measured."""
    flags = [i for i, name in enumerate(names) if name in missing or name.rpartition(".")[2] in missing]
    rows = np.concatenate([rows, np.isnan(rows[:, flags]).astype(np.float64)], axis=1)
    return Examples(
        features=rows.astype(np.float32),
        labels=labels.astype(np.int32),
        subjects=ids.astype(np.str_),
        t_us=np.zeros(len(rows), np.int64),
        feature_names=(*names, *(f"{names[i]}.missing" for i in flags)),
    )
