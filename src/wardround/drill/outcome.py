"""What a drill has shown: each run looked at with the knowledge of who was struck, and all of them added up."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wardround.drill.faults import AT_ONCE, Fault
from wardround.drill.run import Run, Sighting
from wardround.watch.alerts import Rules
from wardround.watch.model_watch import COMMON

MUTE_ROUNDS = 30  # the same detector of the same edge is one alarm for so long
FALSE_PER_1000_MAX, INNOCENT_MAX, SCORE_APART_MAX = 2.0, 1, 0.01

# What an alert of the study explains of its edges: as the book of alerts has it.
_EXPLAINED = tuple((i.source, target) for i in Rules().inhibitions if i.equal == ("study",) for target in i.targets)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run with a fault."""

    fault: str
    seed: int
    struck: tuple[str, ...]
    detected: bool
    delay: int | None  # rounds from the first with the fault to the first sighting; 0 is the same round
    by: tuple[str, ...]  # detectors, who saw most first
    named: tuple[str, ...]  # of those struck
    others_named: tuple[str, ...]  # and by no alert of the study explained
    innocent_aside: tuple[str, ...]  # set aside from the fault's first round on
    struck_aside: int
    false_alarms: int  # before the fault
    score: float | None  # of edges that are not struck, mean
    undisturbed: float | None  # the same edges' in the run without a fault
    done: tuple[str, ...] = ()  # about the study, from the fault's first round on, in order: rollback, pause

    @property
    def apart(self) -> float | None:
        """How much worse the healthy edges' score is than undisturbed; below zero: better."""
        return None if self.score is None or self.undisturbed is None else self.undisturbed - self.score


def look_at(run: Run, undisturbed: Run) -> Outcome:
    """A run, beside the one of its seed in which nothing was wrong."""
    first = max(1, run.from_round)
    after = [s for s in run.sightings if s.number >= first]
    told = [s for s in _unexplained(after) if run.struck or not s.detector.startswith(COMMON)]  # that names the study
    seen = [s for s in after if (s.edge in run.struck if run.struck else not s.edge)]
    by = Counter(s.detector for s in seen)
    healthy = [e for e in run.scores if e not in run.struck]
    return Outcome(
        fault=run.fault,
        seed=run.seed,
        struck=tuple(sorted(run.struck)),
        detected=bool(seen),
        delay=min((s.number - first for s in seen), default=None),
        by=tuple(name for name, _ in by.most_common()),
        named=tuple(sorted({s.edge for s in seen if s.edge})),
        others_named=tuple(sorted({s.edge for s in told if s.edge and s.edge not in run.struck})),
        innocent_aside=tuple(sorted(e for e, at in run.aside.items() if at >= first and e not in run.struck)),
        struck_aside=len(run.struck & set(run.aside)),
        false_alarms=len(alarms(s for s in run.sightings if s.number < first)),
        score=_mean(run, healthy),
        undisturbed=_mean(undisturbed, healthy),
        done=tuple(act.value for at, act in run.done if at >= first),
    )


def alarms(sightings: Iterable[Sighting]) -> list[Sighting]:
    """The first of each edge and detector; it speaks anew after MUTE_ROUNDS."""
    told: dict[tuple[str, str], int] = {}
    found: list[Sighting] = []
    for one in sightings:
        key = (one.edge, one.detector)
        if key not in told or one.number - told[key] >= MUTE_ROUNDS:
            told[key] = one.number
            found.append(one)
    return found


def _unexplained(sightings: Sequence[Sighting]) -> list[Sighting]:
    """Those that no alert of the study explains in their round."""
    common = {(s.number, s.detector.split(" ")[0]) for s in sightings if not s.edge}
    return [s for s in sightings if not any((s.number, a) in common for a, kind in _EXPLAINED if kind == s.detector)]


def _mean(run: Run, edges: Sequence[str]) -> float | None:
    found = [run.scores[e] for e in edges if e in run.scores]
    return statistics.fmean(found) if found else None


@dataclass
class Drilled:
    """All runs of a drill."""

    from_round: int
    faults: list[Fault]
    outcomes: list[Outcome] = field(default_factory=list)
    healthy_rounds: int = 0
    healthy_alarms: list[Sighting] = field(default_factory=list)

    def add_healthy(self, run: Run) -> None:
        """A run in which nothing was wrong: whatever was said is a false alarm."""
        self.healthy_rounds += run.rounds
        self.healthy_alarms += alarms(_unexplained(run.sightings))

    def of(self, fault: Fault) -> list[Outcome]:
        """The runs with a fault."""
        return [o for o in self.outcomes if o.fault == fault.name]

    @property
    def missed(self) -> list[str]:
        """Faults that a run did not see."""
        return [f.name for f in self.faults if any(not o.detected for o in self.of(f))]

    @property
    def per_1000(self) -> float | None:
        """False alarms in 1,000 healthy rounds."""
        return 1000 * len(self.healthy_alarms) / self.healthy_rounds if self.healthy_rounds else None

    def row(self, fault: Fault) -> dict[str, Any]:
        """A fault's line of the table."""
        runs = self.of(fault)
        delays = [o.delay for o in runs if o.delay is not None]
        apart = [o.apart for o in runs if o.apart is not None]
        by = Counter(name for o in runs for name in o.by[:2])
        return {
            "fault": fault.name,
            "runs": len(runs),
            "detected": sum(o.detected for o in runs),
            "by": [name for name, _ in by.most_common(3)],
            "delay_median": statistics.median(delays) if delays else None,
            "delay_goal": fault.delay_max,
            "struck": sum(len(o.struck) for o in runs),
            "named": sum(len(o.named) for o in runs),
            "others_named": sum(len(o.others_named) for o in runs),
            "struck_aside": sum(o.struck_aside for o in runs),
            "innocent_aside": sum(len(o.innocent_aside) for o in runs),
            "done": dict(Counter(act for o in runs for act in o.done)),
            "score_worse_by": max(apart) if apart else None,
        }

    def facts(self) -> dict[str, Any]:
        """Everything, as plain values, with the goals beside."""
        rows = [self.row(f) for f in self.faults if self.of(f)]
        quick = [o.delay for o in self.outcomes if o.delay is not None and _goal(self.faults, o.fault) == AT_ONCE]
        return {
            "from_round": self.from_round,
            "faults": rows,
            "runs": [asdict(o) for o in self.outcomes],
            "healthy": {
                "rounds": self.healthy_rounds,
                "false_alarms": len(self.healthy_alarms),
                "per_1000": self.per_1000,
                "by": dict(Counter(s.detector for s in self.healthy_alarms)),
                "alarms": [asdict(s) for s in self.healthy_alarms],
            },
            "totals": {
                "detected": sum(o.detected for o in self.outcomes),
                "runs": len(self.outcomes),
                "named": sum(len(o.named) for o in self.outcomes),
                "struck": sum(len(o.struck) for o in self.outcomes),
                "delay_median": statistics.median(quick) if quick else None,
                "others_named": sum(len(o.others_named) for o in self.outcomes),
                "innocent_aside": sum(len(o.innocent_aside) for o in self.outcomes),
            },
            "goals": {
                "delay_median": AT_ONCE,
                "per_1000": FALSE_PER_1000_MAX,
                "innocent_aside": INNOCENT_MAX,
                "score_worse_by": SCORE_APART_MAX,
            },
        }


def _goal(faults: Sequence[Fault], name: str) -> int:
    return next((f.delay_max for f in faults if f.name == name), AT_ONCE)
