"""The commented study that `wardround study new` writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from wardround.learn.study import LearnerSettings

# What to start from, by task: chosen by leaving out training subjects, never by looking at those held back.
PRESETS: Mapping[str, LearnerSettings] = MappingProxyType(
    {
        "activity": LearnerSettings(hidden=(), epochs=3, batch=16),
        "ventricular-beats": LearnerSettings(class_weighting="balanced"),
    }
)
EXAMPLE = """\
# A study: one model, trained for one purpose by edges that keep their data.
# Check it with `wardround study check STUDY.toml`; docs/settings.md lists every key.
name = "{name}"
task = "{task}"             # what an example is: {tasks}

[learner]
kind = "mlp"
hidden = {hidden}            # units of each hidden layer; [] is logistic regression
epochs = {epochs}                  # passes over an edge's own examples in a round
batch = {batch}                  # examples in one step of gradient descent
learning_rate = {learning_rate}
l2 = {l2}
seed = 0                    # the same seed and data give the same model
class_weighting = "{class_weighting}" # "balanced": rare classes count alike, by the counts of all edges together

[learner.dp_sgd]            # noise in every step at the edge hides each example from the hub, too; docs/privacy.md
noise = 0.0                 # in clips; 1.0 is a start. It asks for watch.row_counts = false and class_weighting = "none"
clip = 1.0                  # length of one example's gradient
epsilon_max = 8.0           # what an edge may spend on one of its examples in this study
delta = 1e-5

[rounds]
count = 20
edges_min = 3               # quorum; of two edges, each could subtract itself and see the other
deadline_s = 60.0           # then the round commits with those who answered
examples_min = 10           # an edge with fewer labelled examples is not asked
interval_s = 0.0            # pause between rounds

[score]
held_back = 0.2             # share of subjects that score every model and never train one

[triage]
norm_ratio_max = 10.0       # an update this many times larger than the edge's own past is set aside
quarantine_rounds = 30
trial_rounds = 0            # updates of an edge that joins later which weigh nothing while it is looked at; 8 is a start

[respond.quarantine]
mode = "dry-run"            # what the hub does by itself about alerts: off, dry-run (says what it would do), act; docs/alerts.md

[respond.rollback]
mode = "dry-run"
"""


SURVEY = """\
# A study of kind "statistics": how these signals are spread over all edges. One round adds up counts, sums and histograms;
# no patient's value leaves an edge, and no model is made. A model needs other signals:
{others}# Check it with `wardround study check STUDY.toml`, read it with `wardround study result {name}`.
name = "{name}"
kind = "statistics"

[statistics]
signals = [
{signals}]
bins = 40                   # of each signal's plausible range, which stands beside it above
last_days = 0.0             # 0: everything that an edge keeps
subjects_min = 5            # an edge with fewer patients does not answer for a signal, and the hub publishes none of fewer

[rounds]
edges_min = 3               # quorum; of two edges, each could subtract itself and see the other
deadline_s = 60.0           # then the round commits with those who answered
"""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A signal that was chosen: its key, and what people should know of it."""

    key: str
    title: str
    unit: str
    low: float | None
    high: float | None


def example_survey(name: str, chosen: Sequence[Chosen], tasks: Mapping[str, str]) -> str:
    """The text of a study of some signals of which nothing can be learned here.

    Args:
        tasks: what is learned here, and from what.
    """
    width = max(len(one.key) for one in chosen) + 3
    rows = "".join(f"    {_quoted(one.key):{width}} # {one.title}, {one.unit}{_span(one)}\n" for one in chosen)
    others = "".join(f"#   {task}: {what}\n" for task, what in tasks.items())
    return SURVEY.format(name=name, signals=rows, others=others)


def _quoted(key: str) -> str:
    """A key as a value of a list."""
    return f'"{key}",'


def _span(one: Chosen) -> str:
    return "" if one.low is None or one.high is None else f", {one.low:g} to {one.high:g}"


def example_study(name: str, task: str, tasks: Collection[str]) -> str:
    """The text of a study to start from."""
    learner = PRESETS.get(task, LearnerSettings())
    return EXAMPLE.format(
        name=name,
        task=task,
        tasks=", ".join(f'"{t}"' for t in sorted(tasks)),
        hidden=list(learner.hidden),
        epochs=learner.epochs,
        batch=learner.batch,
        learning_rate=learner.learning_rate,
        l2=learner.l2,
        class_weighting=learner.class_weighting,
    )
