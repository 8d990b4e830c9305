"""What a study would cost, said before anything runs: at the edges with DP-SGD, and one patient."""

from __future__ import annotations

import json

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, get_epsilon_gaussian
from dp_accounting.pld import PLDAccountant
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.learn.privacy.accounting import Exposure, exposed

STUDY = 'name = "s"\ntask = "activity"\n[learner]\nbatch = 50\n[rounds]\ncount = 10\n[watch]\nrow_counts = false\n'
DP = "[learner.dp_sgd]\nnoise = 20.0\nepsilon_max = 0.25\n"
CENTRAL = '[privacy]\nmode = "clear-dp"\npopulation = 100\nnoise = 4.0\ndelta = 1e-3\n'


@pytest.fixture
def plan(tmp_path):
    def shown(more, *arguments):
        (tmp_path / "s.toml").write_text(STUDY + more)
        result = CliRunner().invoke(app, ["study", "budget", "--plan", str(tmp_path / "s.toml"), *arguments])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    return shown


def test_dp_sgd_is_planned_for_an_edge_of_a_size_and_a_patient_of_it(plan):
    facts = plan(DP, "--examples", "800", "--patient", "3", "--json")
    (edge,) = facts["edges"]
    assert (edge["examples"], edge["rate"], edge["steps_a_round"]) == (800, 0.0625, 16)

    def reckoned(rounds):
        accountant = PLDAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
        return accountant.compose(PoissonSampledDpEvent(0.0625, GaussianDpEvent(20.0)), 16 * rounds).get_epsilon(1e-5)

    assert edge["epsilon"] == pytest.approx(reckoned(10), rel=1e-9)
    fits = edge["rounds_that_fit"]
    assert 0 < fits < edge["at_most"]
    assert reckoned(fits) <= 0.25 < reckoned(fits + 1)
    made = {Exposure(20.0, 0.0625, 3): 160}
    assert facts["patient"]["epsilon"] == pytest.approx(exposed(made, 1e-6).epsilon)
    assert "target_epsilon" not in facts


def test_without_a_size_it_is_several_and_no_patient(plan):
    facts = plan(DP, "--json")
    assert [e["examples"] for e in facts["edges"]] == [100, 1_000]
    assert facts["patient"] is None


def test_noise_of_the_hub_says_what_a_patient_is_charged(plan):
    facts = plan(CENTRAL, "--json")
    assert facts["epsilon"] == pytest.approx(get_epsilon_gaussian(4.0 / 10**0.5, 1e-3))
    assert facts["patient"]["epsilon"] == pytest.approx(get_epsilon_gaussian(2.0 / 10**0.5, 1e-6))  # another update of the edge
    assert facts["edges"] == []
    words = plan(CENTRAL)
    assert "10 rounds cost epsilon" in words
    assert "a patient" in words


def test_a_study_without_noise_has_none(tmp_path):
    (tmp_path / "s.toml").write_text(STUDY)
    result = CliRunner().invoke(app, ["study", "budget", "--plan", str(tmp_path / "s.toml")])
    assert result.exit_code != 0
