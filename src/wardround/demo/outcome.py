"""What came of a run: counted, scored beside its two references, and put into a report."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from wardround.collect.quarantine import Quarantine
from wardround.collect.storage import FolderStorage
from wardround.demo.ledger import Ledger, checksum
from wardround.demo.references import reference_scores, trainable
from wardround.demo.report import AlertFact, Counted, Processed, Report, Scores, StoredRun, count
from wardround.demo.run import Run
from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name
from wardround.learn.learners import make_learner
from wardround.learn.models import decode_model
from wardround.learn.scores import METRICS, by_group, gap_closed, worst
from wardround.learn.study import Study
from wardround.process.jobs import gold_examples
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.process.transforms import TASKS
from wardround.training_data import examples_of

COUNTED = (
    *("device", "device_boot", "device_seq", "device_index", "code", "n", "t0_device_us"),
    *("values", "values_type", "value", "scale", "origin"),
)


def report_of(run: Run, study: Study, seconds: float) -> Report:
    """Count, score, and say."""
    run.voice.phase("report", 0.1, "counting ledger against lake")
    rounds = [r for r in run.records.rounds(study.name) if r.number > 0]
    alerts = run.records.alerts()
    aside_hub = run.records.quarantine_count()
    lake = Lake(run.hub_home / "lake")
    counted = _count(run, lake, aside_hub)
    run.voice.phase("report", 0.3, "training the two references: each edge alone, all data pooled")
    scores = _scores(run, lake, study, rounds[-1].model)
    facts = [
        AlertFact(
            kind=a.body["finding"]["kind"],
            edge=a.body["finding"].get("edge", ""),
            seconds_to_detect=max(0.0, (a.body["finding"]["detected_us"] - _harm_us(run, a.body["finding"])) / 1e6),
            response=(a.body.get("response") or {}).get("what", "") or "shown to the team",
            title=a.body["finding"]["title"],
        )
        for a in reversed(alerts)
    ]
    run.voice.phase("report", 1.0, "done")
    return Report(
        simulated=run.plan.simulated,
        source=run.plan.source,
        task=run.plan.task,
        observations=counted,
        rounds=len(rounds),
        seconds_median=statistics.median(r.seconds for r in rounds),
        scores=scores,
        alerts=tuple(facts),
        kills=tuple(run.kills),
        seconds=seconds,
        expected=tuple(run.expected),
        notes=run.plan.notes,
        processed=_processed(run),
    )


def _processed(run: Run) -> Processed:
    """What the jobs came to, and where they ran."""
    runs = [r for r in run.records.job_runs(limit=500) if r.state == "done"]
    places = sorted({str(r.facts["place"]) for r in runs}, key=len)
    return Processed(
        runs=len(runs),
        parts=sum(r.parts for r in runs),
        failed=sum(r.failed for r in runs),
        seconds_median=statistics.median((r.changed_us - r.started_us) / 1e6 for r in runs) if runs else 0.0,
        place=places[-1] if places else "",
    )


def _harm_us(run: Run, finding: dict[str, int | str]) -> int:
    return run.harm_us.get(str(finding["kind"]), int(finding["since_us"]))


def _count(run: Run, lake: Lake, aside_hub: int) -> Counted:
    ledger = Ledger(run.folder / "ledger.sqlite")
    stored = [stored_run(row) for row in lake.read(BRONZE, columns=COUNTED).to_pylist()]
    aside = aside_hub
    for edge in run.plan.edges:
        quarantine = Quarantine(FolderStorage(run.edge_home(edge.name) / "spool"))
        aside += sum(quarantine.counts().values())
        quarantine.close()
    counted = count(ledger.runs(), stored, aside)
    ledger.close()
    return counted


def stored_run(row: dict[str, Any]) -> StoredRun:
    values = np.array([row["value"]], np.float64)
    if row["values"] is not None:
        values = row["origin"] + np.frombuffer(row["values"], "<" + row["values_type"]) * row["scale"]
    key = (row["device"], row["device_boot"], row["device_seq"], row["code"])
    return StoredRun(key, row["device_index"], row["n"], checksum(row["t0_device_us"], values))


def _scores(run: Run, lake: Lake, study: Study, model: str) -> Scores:
    """The final model and the two references, on every held-back example the lake has."""
    task = TASKS[study.task]
    learner = make_learner(study.learner, len(task.feature_names), len(task.classes))
    metric = study.score.metric or task.metric
    gold = gold_examples(lake, task, sorted(run.held_back))
    held_back = gold.where(gold.labels >= 0)
    data = FolderBlobs(run.hub_home / "studies" / study.name).read(model_name(model))
    probabilities = learner.predict(decode_model(data), held_back.features)
    owners = lake.read(BRONZE, columns=["subject", "edge"], subjects=sorted(run.held_back)).to_pydict()
    edge_of = dict(zip(owners["subject"], owners["edge"], strict=True))
    edges = np.array([edge_of[str(s)] for s in held_back.subjects], np.str_)
    lowest = worst(by_group(metric, held_back.labels, probabilities, edges)) or ("", float("nan"))
    federated = METRICS[metric](held_back.labels, probabilities)
    local = {
        e.name: trainable(examples_of(str(run.edge_home(e.name)), study.task), frozenset(run.held_back))
        for e in run.plan.training
    }
    alone, pooled = reference_scores(learner, study, metric, local, held_back)
    mean = float(np.mean(list(alone.values())))
    return Scores(
        metric=metric,
        local_only_mean=mean,
        local_only_worst=min(alone.values()),
        federated=federated,
        federated_worst_edge=lowest[1],
        pooled=pooled,
        gap_closed=gap_closed(mean, federated, pooled),
        worst_edge=lowest[0],
    )
