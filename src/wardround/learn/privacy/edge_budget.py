"""What DP-SGD has cost at one edge: its own ledger of each study, on its disk before a training looks at an example.

The ledger is as the hub's (ledger.py): only the edge knows how many of its examples a step drew, so only the edge can reckon. An
update that came to nothing is paid for all the same: who saw it is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wardround.clock import SystemClock
from wardround.errors import LearnError
from wardround.learn.privacy.accounting import Release, epsilon
from wardround.learn.privacy.ledger import Entry, FileLedger, read_ledger, spent
from wardround.learn.study import DpSgdSettings

FOLDER = "dp-sgd"
SUFFIX = ".ledger"
EPSILON, DELTA = "dp_epsilon", "dp_delta"  # among an update's metrics


def spend(home: Path, study: str, round_number: int, settings: DpSgdSettings, *, rate: float, steps: int) -> dict[str, float]:
    """Write down what a training is about to cost; what the edge reports of it. When this returns it is on the disk.

    Raises:
        LearnError: it would cost more than the study allows an example of this edge; nothing is written, and none may be trained.
        StorageFull, StudyError: as FileLedger.
    """
    if not study:
        raise LearnError(
            "the order names no study, and DP-SGD is paid for by study", remedy="start it with `wardround study start`"
        )
    release = Release(settings.noise, "poisson", rate)
    ledger = FileLedger(home / FOLDER / f"{study}{SUFFIX}")
    try:
        before = spent(ledger.entries)
        after = epsilon({**before, release: before[release] + steps}, settings.delta)
        if after > settings.epsilon_max:
            raise LearnError(
                f"this edge has spent epsilon {epsilon(before, settings.delta):.3g} at delta {settings.delta:g}, and a round "
                f"more would make it {after:.3g}: learner.dp_sgd.epsilon_max is {settings.epsilon_max:g}",
                remedy="nothing: this edge has given what it may; more noise, fewer epochs or rounds make it last longer",
            )
        entry = Entry(round_number, 0, SystemClock().now_us(), release, settings.clip, settings.clip, times=steps)
        ledger.append(entry)
    finally:
        ledger.close()
    return {EPSILON: after, DELTA: settings.delta}


def budgets(home: Path) -> Mapping[str, list[Entry]]:
    """What this edge has spent, by study.

    Raises:
        StudyError: a ledger does not hold.
    """
    return {path.name.removesuffix(SUFFIX): read_ledger(path) for path in sorted((home / FOLDER).glob(f"*{SUFFIX}"))}
