"""Personal models of a study: which studies have them, what is known by round and by edge, and what is not."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from wardround.console.study_model import Personal
from wardround.console.study_personal import personal
from wardround.desks.study_personal import personal_of, with_edges
from wardround.learn.study import parse_study
from wardround.store import RoundRecord

STUDY = 'name = "beats"\ntask = "ventricular-beats"\n[strategy]\nname = "{}"\n'


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)))


def rounds(*metrics):
    return [RoundRecord("beats", n, n, 1.0, "m", {"metrics": found}) for n, found in enumerate(metrics)]


def journal(asked, **edges):
    def accepted(number):
        asked.append(number)
        return {edge: SimpleNamespace(metrics=metrics) for edge, metrics in edges.items()}

    return SimpleNamespace(accepted=accepted)


@pytest.mark.parametrize("name", ["ditto", "fine-tuning"])
def test_a_study_with_models_of_the_edges_own_says_what_they_are_worth(name):
    study = parse_study(STUDY.format(name), where="test")
    found = personal_of(
        study, rounds({}, {"accuracy": 0.8, "personal_accuracy": 0.85}, {"accuracy": 0.82, "personal_accuracy": 0.9})
    )
    assert found == Personal(name, ((1.0, 0.8, 0.85), (2.0, 0.82, 0.9)))
    asked = []
    edges = {
        "icu-a": {"accuracy": 0.8, "personal_accuracy": 0.95},
        "icu-b": {"accuracy": 0.9, "personal_accuracy": 0.85},
        "icu-c": {},
    }
    found = with_edges(found, journal(asked, **edges))
    assert asked == [2]
    assert found.by_edge == (("icu-b", 0.9, 0.85), ("icu-a", 0.8, 0.95))
    html = personal(found)
    assert "accuracy by round: personal models 0.900, what edges sent 0.820 in round 2" in html
    assert "icu-b 0.900 0.850 -0.050 icu-a 0.800 0.950 +0.150" in text(html)
    assert "That model stays at its edge" in text(html)


def test_other_studies_have_none():
    assert (
        personal_of(parse_study(STUDY.format("fedavg"), where="test"), rounds({"accuracy": 1.0, "personal_accuracy": 1.0}))
        is None
    )
    assert with_edges(None, journal([])) is None
    assert personal(None) == ""


def test_what_the_hub_does_not_see_is_said_and_figures_that_are_none_are_left_out():
    study = parse_study(STUDY.format("ditto"), where="test")
    found = personal_of(study, rounds({}, {"accuracy": 0.8}, {"accuracy": float("nan"), "personal_accuracy": 0.5}))
    assert found == Personal("ditto")
    assert with_edges(found, journal([])) == found
    assert "where updates are masked or noisy the hub has no numbers of it" in text(personal(found))


def test_a_thousand_edges_are_the_twelve_that_gain_least_and_names_are_made_safe():
    edges = tuple((f"<script>{n}", 0.5, 0.5 + n / 10_000) for n in range(1_000))
    html = personal(Personal("ditto", ((1.0, 0.5, 0.6),), edges))
    assert html.count("<tr data-key") == 12
    assert "and 988 edges that gain more" in html
    assert "<script>" not in html
