"""`wardround roster`: from a key to a roster that the hub has and edges go by."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.errors import TrustError
from wardround.trust.roster import HUB_ROSTER, PinnedRoster, read_roster


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words, given=None):
        group = ["roster"] if words[0] in ("new", "sign", "show") else []
        done = CliRunner().invoke(app, [*group, *words], input=given)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


def edge(tmp_path, run, name, *more):
    home = tmp_path / name
    (home / "identity").mkdir(parents=True, exist_ok=True)
    (home / "edge.toml").write_text(f'name = "{name}"\nhub_host = "127.0.0.1"\nhub_port = 1\n')
    return json.loads(run("edge", "roster", "--home", str(home), "--json", *more).stdout)


def test_a_roster_is_made_changed_and_given_to_the_hub(tmp_path, run):
    key = run("new").stdout.splitlines()[0]
    first, second = (edge(tmp_path, run, name, "--pin", key) for name in ("icu-a", "icu-b"))
    assert first["pinned"] == key == PinnedRoster(tmp_path / "icu-a" / "identity").key
    run("sign", first["entry"])
    run("sign", "-", given=f"\n{second['entry']}\n")
    shown = json.loads(run("show", "roster.json", "--json").stdout)
    both = {"icu-a": first["fingerprint"], "icu-b": second["fingerprint"]}
    assert shown == {"number": 2, "key": key, "edges": both}
    assert second["fingerprint"] in run("show", "roster.json").stdout
    hub = tmp_path / "hub"
    hub.mkdir()
    run("hub", "roster", "roster.json", "--home", str(hub))
    older = (hub / HUB_ROSTER).read_bytes()
    run("sign", "--remove", "icu-a")
    run("hub", "roster", "roster.json", "--home", str(hub))
    assert set(read_roster((hub / HUB_ROSTER).read_bytes())[0].edges) == {"icu-b"}
    (tmp_path / "older.json").write_bytes(older)
    with pytest.raises(TrustError, match="roster 3 is there"):
        run("hub", "roster", "older.json", "--home", str(hub))


def test_another_key_under_a_name_is_taken_only_when_it_is_said(tmp_path, run):
    run("new")
    first = edge(tmp_path, run, "icu-a")
    assert first["pinned"] == ""
    run("sign", first["entry"])
    (tmp_path / "icu-a" / "identity" / "lasting.key").unlink()
    second = edge(tmp_path, run, "icu-a")
    assert second["fingerprint"] != first["fingerprint"]
    with pytest.raises(TrustError, match="with another key"):
        run("sign", second["entry"])
    run("sign", second["entry"], "--replace", "icu-a")
    assert read_roster((tmp_path / "roster.json").read_bytes())[0].edges == {"icu-a": second["fingerprint"]}


def test_what_would_change_nothing_or_spoil_something_is_refused(tmp_path, run):
    run("new")
    with pytest.raises(TrustError, match="is there already"):
        run("new")
    with pytest.raises(TrustError, match="nothing would change"):
        run("sign")
    with pytest.raises(TrustError, match="no entry"):
        run("sign", "wre1.icu-a.x.y")
    run("sign", edge(tmp_path, run, "icu-a")["entry"])
    with pytest.raises(TrustError, match="is not in"):
        run("sign", "--remove", "icu-b")
    run("new", "--key", "other.key")
    with pytest.raises(TrustError, match="another roster key"):
        run("sign", edge(tmp_path, run, "icu-b")["entry"], "--key", "other.key")
    assert not (tmp_path / "roster.key").stat().st_mode & 0o077
