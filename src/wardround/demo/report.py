"""What a run came to: counted from the devices' ledger and the lake, scored on held-back subjects, shown as one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from wardround.demo.ledger import Run

Key = tuple[str, str, int, str]  # device, boot, sequence, code

# What a fault may be seen as, too: a lie eight times as large is refused for its length where the edge's own past is short.
ALSO = {"update-poisoned": ("update-refused",)}


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One row of the lake; a repeated one has the same key and index."""

    key: Key
    index: int
    n: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Runs: `acknowledged` are those whose consent lets them travel, `leaked` are in the lake without such consent."""

    acknowledged: int
    acknowledged_all: int
    samples: int
    stored: int
    lost: int
    duplicated: int
    altered: int
    leaked: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Scores:
    """On held-back subjects; `metric` names the measure."""

    metric: str
    local_only_mean: float
    local_only_worst: float
    federated: float
    federated_worst_edge: float
    pooled: float
    gap_closed: float
    worst_edge: str = ""


@dataclass(frozen=True, slots=True)
class AlertFact:
    """One alert; `seconds_to_detect` from the harm, or from the first deviation where the demo did none."""

    kind: str
    edge: str
    seconds_to_detect: float
    response: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Processed:
    """Runs of jobs that had something to do; a part is one subject's span of time."""

    runs: int
    parts: int
    failed: int
    seconds_median: float
    place: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo says at its end."""

    simulated: bool
    source: str
    task: str
    observations: Counted
    rounds: int
    seconds_median: float
    scores: Scores
    alerts: tuple[AlertFact, ...]
    kills: tuple[str, ...]
    seconds: float
    expected: tuple[tuple[str, str], ...] = ()  # kind and edge of each fault that was made on purpose
    notes: tuple[str, ...] = field(default=())
    processed: Processed = Processed(0, 0, 0, 0.0, "")

    @property
    def problems(self) -> list[str]:
        """What must never happen, and did; what must be seen, and was not."""
        counted = self.observations
        found = {
            "observations lost": counted.lost,
            "observations duplicated": counted.duplicated,
            "observations altered": counted.altered,
            "observations in the lake without consent": counted.leaked,
            "parts of jobs that failed": self.processed.failed,
        }
        seen = {(a.kind, a.edge) for a in self.alerts}
        missed = [
            f"no alert {kind} for {edge}"
            for kind, edge in self.expected
            if not any((told, edge) in seen for told in (kind, *ALSO.get(kind, ())))
        ]
        return [f"{n} {what}" for what, n in found.items() if n] + missed

    def as_json(self) -> dict[str, Any]:
        """The facts, with the keys that are promised."""
        counted, scores = self.observations, self.scores
        return {
            "simulated_patients": self.simulated,
            "source": self.source,
            "task": self.task,
            "seconds": round(self.seconds, 1),
            "observations": {
                "acknowledged": counted.acknowledged,
                "stored": counted.stored,
                "lost": counted.lost,
                "duplicated": counted.duplicated,
                "quarantined": counted.quarantined,
                "altered": counted.altered,
                "without_consent_in_lake": counted.leaked,
                "acknowledged_with_local_consent": counted.acknowledged_all - counted.acknowledged,
                "samples": counted.samples,
            },
            "processing": {
                "runs": self.processed.runs,
                "parts": self.processed.parts,
                "failed": self.processed.failed,
                "seconds_median": round(self.processed.seconds_median, 2),
                "place": self.processed.place,
            },
            "rounds": {"count": self.rounds, "seconds_median": round(self.seconds_median, 4)},
            "scores": {
                "metric": scores.metric,
                "local_only_mean": round(scores.local_only_mean, 4),
                "local_only_worst": round(scores.local_only_worst, 4),
                "federated": round(scores.federated, 4),
                "federated_worst_edge": round(scores.federated_worst_edge, 4),
                "pooled": round(scores.pooled, 4),
                "gap_closed": None if scores.gap_closed != scores.gap_closed else round(scores.gap_closed, 4),
            },
            "alerts": [
                {
                    "kind": a.kind,
                    "edge": a.edge,
                    "seconds_to_detect": round(a.seconds_to_detect, 1),
                    "response": a.response,
                    "title": a.title,
                }
                for a in self.alerts
            ],
            "harm": list(self.kills),
            "problems": self.problems,
        }


def count(ledger: Sequence[Run], stored: Sequence[StoredRun], quarantined: int) -> Counted:
    """Compare what devices were receipted with what the lake holds, by number and by content."""
    promised = {(r.device, r.boot, r.seq, r.code): r for r in ledger if r.travels}
    kept_back = {(r.device, r.boot, r.seq, r.code) for r in ledger if not r.travels}
    rows = Counter((s.key, s.index) for s in stored)
    content = {s.key: (s.n, s.checksum) for s in stored}
    return Counted(
        acknowledged=len(promised),
        acknowledged_all=len(ledger),
        samples=sum(r.n for r in ledger),
        stored=len(content),
        lost=sum(1 for key in promised if key not in content),
        duplicated=sum(n - 1 for n in rows.values()),
        altered=sum(1 for key, r in promised.items() if key in content and content[key] != (r.n, r.checksum)),
        leaked=sum(1 for key in content if key in kept_back),
        quarantined=quarantined,
    )


def render(report: Report) -> Group:
    """The table."""
    label = "SIMULATED PATIENTS" if report.simulated else "REAL RECORDINGS"
    counted, scores = report.observations, report.scores
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for whole in (True, True, False):
        grid.add_column(no_wrap=whole)
    grid.add_row("[b]Observations[/]", "", "")
    _rows(
        grid,
        {
            "acknowledged, may travel": f"{counted.acknowledged:,}",
            "stored in the lake": f"{counted.stored:,}",
            "lost": _zero(counted.lost),
            "duplicated": _zero(counted.duplicated),
            "altered or without consent": _zero(counted.altered + counted.leaked),
            "kept at the edge by consent": f"{counted.acknowledged_all - counted.acknowledged:,}",
            "set aside with a reason": f"{counted.quarantined:,}",
            "samples in all": f"{counted.samples:,}",
        },
    )
    processed = report.processed
    grid.add_row("", "", "")
    grid.add_row("[b]Processing[/]", "", processed.place)
    _rows(
        grid,
        {
            "runs of jobs": f"{processed.runs}",
            "parts made, failed": f"{processed.parts:,}, {_zero(processed.failed)}",
            "seconds each, median": f"{processed.seconds_median:.1f}",
        },
    )
    grid.add_row("", "", "")
    grid.add_row("[b]Rounds[/]", "", "")
    _rows(grid, {"committed": f"{report.rounds}", "seconds each, median": f"{report.seconds_median:.2f}"})
    grid.add_row("", "", "")
    grid.add_row("[b]Score[/] on unseen people", f"[dim]{scores.metric.replace('-', ' ')}[/]", "")
    low = min(scores.local_only_mean, scores.local_only_worst, scores.pooled, scores.federated)
    for name, value, note in (
        ("each edge alone, mean", scores.local_only_mean, f"worst {scores.local_only_worst:.3f}"),
        ("federated", scores.federated, f"worst edge {scores.federated_worst_edge:.3f} {scores.worst_edge}"),
        ("pooled, rehearsal only", scores.pooled, ""),
    ):
        grid.add_row(f"  {name}", f"{value:.3f}", Text.assemble((_bar(value, low), "blue"), f" {note}"))
    if scores.gap_closed == scores.gap_closed:
        grid.add_row("  share of the gap closed", f"{scores.gap_closed:.2f}", "")
    alerts = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title="Alerts", title_justify="left", title_style="bold")
    for heading in ("what", "found after", "what was done"):
        alerts.add_column(heading, header_style="dim")
    for title, seconds, response in _grouped(report.alerts):
        alerts.add_row(title, f"{seconds:.1f} s", response)
    harm = Text("Harm done on purpose: " + "; ".join(report.kills) + ".", style="dim")
    lines: list[Any] = [grid, Text(), alerts, Text(), harm]
    lines += [Text(note, style="dim") for note in report.notes]
    title = f"Wardround demo: {report.task}, {label}"
    return Group(Panel(Group(*lines), title=title, title_align="left", subtitle=f"{report.seconds:.0f} s", padding=(1, 2)))


def _grouped(alerts: Sequence[AlertFact]) -> list[tuple[str, float, str]]:
    """One line for the same fault at several edges: several edges may live in one process and die together."""
    groups: dict[tuple[str, str], list[AlertFact]] = {}
    for alert in alerts:
        groups.setdefault((alert.kind, alert.response), []).append(alert)
    lines = []
    for same in groups.values():
        title = same[0].title if len(same) == 1 else f"{same[0].title}, and {len(same) - 1} more like it"
        lines.append((title, max(a.seconds_to_detect for a in same), same[0].response))
    return lines


def _rows(grid: Table, rows: Mapping[str, str]) -> None:
    for name, value in rows.items():
        grid.add_row(f"  {name}", value, "")


def _zero(n: int) -> str:
    return "0" if n == 0 else f"[bold red]{n:,}[/]"


def _bar(value: float, low: float, width: int = 12) -> str:
    floor = max(0.0, low - 0.1)
    return "█" * max(1, round((value - floor) / max(1e-9, 1.0 - floor) * width))
