"""What is not sound with differential privacy is refused by name."""

from __future__ import annotations

import msgspec
import pytest

from wardround.errors import StudyError
from wardround.learn.privacy.dp_checks import DP_STRATEGIES, WHY_NOT
from wardround.learn.replays import check_allowed
from wardround.learn.study import parse_study
from wardround.learn.study_checks import STRATEGY_NAMES, check
from wardround.process.transforms import TASKS

TEXT = """
name = "s"
task = "activity"
{top}
[learner]
momentum = 0.0
{learner}
[rounds]
count = 10
{rounds}
[strategy]
{strategy}
[watch]
row_counts = {rows}
[compression]
{compression}
[respond.quarantine]
{respond}
[privacy]
mode = "clear-dp"
population = 50
noise = 4.0
{privacy}
"""
EMPTY = dict.fromkeys(("top", "learner", "rounds", "strategy", "compression", "respond", "privacy"), "")


def checked(**parts):
    text = TEXT.format(**{**EMPTY, "rows": "false", **parts})
    for line in parts.get("privacy", "").splitlines():  # what a part says instead
        key = line.split(" =")[0]
        text = "\n".join(t for t in text.splitlines() if not (t.startswith(f"{key} =") and t != line))
    study = parse_study(text, where="test")
    check(study, TASKS)
    return study


def test_a_sound_study_may_run():
    assert checked().privacy.mode == "clear-dp"
    checked(privacy='sampling = "fixed"\nsample = 0.2')
    checked(privacy='sampling = "poisson"\nsample = 0.8')
    checked(privacy="clip_quantile = 0.5\npopulation = 100")
    checked(compression="zstd = true")
    checked(privacy='unit = "patient"', rounds="examples_min = 1")


@pytest.mark.parametrize("name", DP_STRATEGIES)
def test_strategies_that_see_the_mean_alone_may(name):
    checked(strategy=f'name = "{name}"')


@pytest.mark.parametrize("name", sorted(set(STRATEGY_NAMES) - set(DP_STRATEGIES) - {"bagging"}))
def test_every_other_strategy_is_refused_with_its_reason(name):
    with pytest.raises(StudyError) as caught:
        checked(strategy=f'name = "{name}"')
    assert f"`{name}`" in str(caught.value)
    assert WHY_NOT[name] in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"rounds": 'mode = "buffered"'}, "rounds.mode"),
        ({"rounds": "over_selection = 1.2\nedges_max = 10"}, "over_selection"),
        ({"rounds": "edges_max = 10"}, "edges_max"),
        ({"learner": 'class_weighting = "balanced"'}, "class_weighting"),
        ({"compression": 'update = "int8"'}, "compression.update"),
        ({"rows": "true"}, "row_counts"),
        ({"respond": 'mode = "act"'}, "respond.quarantine"),
        ({"privacy": "population = 0"}, "population"),
        ({"privacy": "delta = 0.02"}, "delta"),
        ({"privacy": "noise = 0.0"}, "privacy.noise"),
        ({"privacy": "clip_norm = 0.0"}, "clip_norm"),
        ({"privacy": 'unit = "row"'}, "privacy.unit"),
        ({"privacy": 'unit = "patient"'}, "examples_min"),
        ({"privacy": 'unit = "patient"\nsampling = "fixed"\nsample = 0.5', "rounds": "examples_min = 1"}, "privacy.sampling"),
        ({"privacy": 'unit = "patient"\nclip_quantile = 0.5', "rounds": "examples_min = 1"}, "clip_quantile"),
        ({"privacy": 'sampling = "some"'}, "privacy.sampling"),
        ({"privacy": 'sampling = "poisson"\nsample = 0.1'}, "5 edges take part"),
        ({"privacy": 'sampling = "fixed"\nsample = 0.02'}, "1 edges are drawn"),
        ({"privacy": 'sampling = "fixed"\nsample = 1.5'}, "privacy.sample is"),
        ({"privacy": "clip_quantile = 0.5\nnoise = 6.0"}, "clip_quantile"),
    ],
)
def test_what_is_not_sound_is_refused_by_name(parts, said):
    with pytest.raises(StudyError, match=said) as caught:
        checked(**parts)
    assert caught.value.remedy


def test_statistics_have_no_noise():
    study = checked()
    statistics = msgspec.structs.replace(study.statistics, signals=("heart-rate",))
    study = msgspec.structs.replace(study, kind="statistics", statistics=statistics)
    with pytest.raises(StudyError, match="its sums have no noise"):
        check(study, TASKS, signals=["heart-rate"])


def test_a_study_that_would_overspend_is_refused_with_the_rounds_that_fit():
    with pytest.raises(StudyError, match=r"10 rounds cost epsilon .* 4 rounds fit"):
        checked(privacy="target_epsilon = 2.2")


def test_nothing_is_replayed():
    with pytest.raises(StudyError):
        check_allowed(checked())
