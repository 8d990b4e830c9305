"""`wardround study budget --plan` of noise at the edges, and of what a study costs one patient: before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wardround.errors import StudyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from wardround.learn.study import Study

SIZES = (100, 1_000)  # examples of an edge, where nobody says how many
EXAMPLES_MAX = 10_000_000
FURTHER = 4  # times the study's rounds: beyond, nobody looks how many fit


def of_edges(study: Study, examples: int) -> list[dict[str, Any]]:
    """What DP-SGD costs one example at an edge of so many (0: of several sizes), in all rounds of the study."""
    from wardround.learn.learners.dp_sgd import steps_of  # noqa: PLC0415
    from wardround.learn.privacy.accounting import Release, epsilon, rounds_within  # noqa: PLC0415

    own, found = study.learner.dp_sgd, list[dict[str, Any]]()
    for size in (examples,) if examples else SIZES:
        steps = steps_of(study.learner, size)
        release = Release(own.noise, "poisson", steps.rate)
        within = rounds_within(release, own.epsilon_max, own.delta, most=FURTHER * study.rounds.count * steps.number)
        facts = {"examples": size, "rate": steps.rate, "steps_a_round": steps.number}
        facts["epsilon"] = epsilon({release: study.rounds.count * steps.number}, own.delta)
        found.append(facts | {"rounds_that_fit": within // steps.number, "at_most": FURTHER * study.rounds.count})
    return found


def of_patient(study: Study, examples: int, own: int) -> dict[str, Any]:
    """What the study costs a patient with `own` of an edge's `examples`, as the edge's ledger of patients counts it.

    Raises:
        StudyError: DP-SGD, and nobody says how many examples the edge has.
    """
    from wardround.learn.learners.dp_sgd import steps_of  # noqa: PLC0415
    from wardround.learn.privacy.accounting import Exposure, exposed  # noqa: PLC0415
    from wardround.learn.privacy.central import Plan  # noqa: PLC0415
    from wardround.settings import EdgePrivacySettings  # noqa: PLC0415

    delta, count = EdgePrivacySettings().patient_delta, study.rounds.count
    if study.learner.dp_sgd.on:
        if not examples:
            raise StudyError("DP-SGD costs a patient by the size of the edge", remedy="say --examples as well")
        steps = steps_of(study.learner, examples)
        made = {Exposure(study.learner.dp_sgd.noise, steps.rate, own): count * steps.number}
    else:
        made = {Exposure(study.privacy.patient_noise): Plan.of(study.privacy).paid(count)}
    figure = exposed(made, delta)
    return {"examples": own, "epsilon": figure.epsilon, "at_least": figure.least, "delta": delta}


def show(console: Console, study: Study, edges: Sequence[dict[str, Any]], patient: dict[str, Any] | None) -> None:
    """The same in words."""
    own, count = study.learner.dp_sgd, study.rounds.count
    for row in edges:
        more = "or more" if row["rounds_that_fit"] >= row["at_most"] else "rounds"
        console.print(
            f"DP-SGD at an edge with {row['examples']:,} examples: {row['steps_a_round']} steps a round with rate "
            f"{row['rate']:.3g}; {count} rounds cost epsilon {row['epsilon']:.3g} of {own.epsilon_max:g} at delta {own.delta:g}, "
            f"for one example. Within it: {row['rounds_that_fit']:,} {more}.",
            highlight=False,
        )
    if patient is not None:
        whose = f"a patient with {patient['examples']:,} examples" if own.on else "a patient"
        least = "at least " if patient["at_least"] else ""
        console.print(
            f"All rounds cost {whose} epsilon {least}{patient['epsilon']:.3g} at delta {patient['delta']:g}: so their edge "
            "counts it, over all studies (`wardround edge budget`).",
            highlight=False,
        )
