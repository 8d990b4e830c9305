"""The API of a running hub: a token from the command line, the console's port, and an edge that joins with an invitation."""

from __future__ import annotations

import json

import httpx
import pytest


@pytest.mark.timeout(300)
def test_a_program_invites_an_edge_and_sees_it_join(site, command):
    site.sign_in()
    home = ("--home", str(site.home))
    made = command("token", "new", "fleet", "--person", "oncall", "--scope", "read", "--scope", "edges", "--json", *home)
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)
    url = f"http://127.0.0.1:{site.start_hub()['console_port']}/api/v1"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token['token']}"}, timeout=60) as client:
        assert client.get("/edges").json()["items"] == []
        invitation = client.post("/edges/icu-z/invitation").json()
        joined = command("edge", "join", "-", "--home", str(site.folder / "icu-z"), stdin=invitation["token"])
        assert joined.returncode == 0, joined.stderr
        (edge,) = client.get("/edges").json()["items"]
        assert edge["name"] == "icu-z"
        with client.stream("GET", "/events") as stream:
            kinds = [line for line in _first(stream.iter_lines(), 3) if line.startswith("event: ")]
        assert kinds
        listed = command("token", "list", *home)
        assert "never" not in listed.stdout
        assert token["token"] not in listed.stdout
        assert command("token", "revoke", token["id"], *home).returncode == 0
        assert client.get("/edges").status_code == 401
    shown = command("audit", "show", "--home", str(site.home), "--json").stdout
    whats = [entry["what"] for entry in json.loads(shown)]
    assert {"wardround token new", "edge invited", "wardround token revoke", "token refused"} <= set(whats)


def _first(lines, count):
    for line in lines:
        yield line
        count -= 1
        if not count:
            return
