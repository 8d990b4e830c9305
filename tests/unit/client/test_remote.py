"""`wardround remote` against the real API, and the examples of docs/client.md as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.client import HubClient
from wardround.client.refusals import NotCovered
from wardround.errors import SettingsError

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def remote(serving, tmp_path):
    """The command line with a token of an operator in a file."""

    def run(*words, person="oskar", scopes=("read", "alerts", "studies", "edges")):
        (tmp_path / "token").write_text(serving.world.token(person, scopes) + "\n")
        place = {
            "WARDROUND_HUB": serving.address,
            "WARDROUND_TOKEN_FILE": str(tmp_path / "token"),
            "WARDROUND_CA": str(serving.ca),
        }
        done = CliRunner().invoke(app, ["remote", *words], env=place)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


def test_a_hub_elsewhere_is_looked_at_and_acted_on(serving, remote):
    world = serving.world
    assert "No edge has joined" in remote("edges").output
    world.edge("icu-a")
    world.study("beats", rounds=3)
    world.watch.edge_quarantined("beats", "icu-a", 3, reason="course", score=9.4, threshold=6.0, until_round=13)
    (raised,) = world.watch.alerts()
    world.alert(int(raised.alert_id.split("-")[1]))
    assert json.loads(remote("status", "--json").output)["edges"] == 1
    assert "Test <ward>" in remote("status").output
    assert [edge["name"] for edge in json.loads(remote("edges", "--json").output)] == ["icu-a"]
    assert raised.alert_id in remote("alerts").output
    assert "oskar" in remote("ack", raised.alert_id).output
    assert remote("undo", raised.alert_id, "--reason", "it was calibrated").exit_code == 0
    assert "beats" in remote("studies").output
    assert "asked" in remote("study", "beats", "pause", "--reason", "works", "--wait-s", "0").output
    (asked,) = world.store.study_requests()
    assert (asked.kind, asked.who, asked.reason) == ("pause", "oskar", "works")
    assert "wr1." in remote("invite", "icu-b").output
    assert remote("revoke", "icu-a").exit_code == 0
    assert json.loads(remote("watch", "--count", "1", "--json").output)["kind"] == "alert"


def test_what_cannot_be_is_said_before_or_by_the_hub(remote):
    with pytest.raises(NotCovered):
        remote("invite", "icu-a", person="viola", scopes=["read"])
    for words in (("alerts", "--state", "odd"), ("study", "beats", "explode", "--reason", "why not")):
        with pytest.raises(SettingsError) as refused:
            remote(*words)
        assert "choose one of" in refused.value.remedy


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_run_as_they_stand(serving, example, monkeypatch, capsys):
    serving.world.edge("icu-a")
    serving.world.study("beats")
    monkeypatch.setattr(HubClient, "at", lambda *_, **__: serving.client())
    serving.world.alert(1)
    exec(compile(example, str(PAGE), "exec"), {})  # our own page
    assert capsys.readouterr().out
