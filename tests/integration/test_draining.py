"""An edge is drained by command: a running hub says that it is safe to switch it off, and that it is off; it is undone."""

from __future__ import annotations

import json
import time

import pytest

from wardround.draining import SHOWN, shown

DEADLINE_S = 180.0


@pytest.mark.timeout(600)
def test_an_edge_that_is_drained_is_safe_then_off_and_is_used_again(site, command):
    home = ("--home", str(site.home))
    site.start_hub()
    edge = site.edge("icu-a")
    edge.start()
    edge.wait_ready(DEADLINE_S)
    store = site.store()

    def until(stage: str) -> None:
        ends = time.monotonic() + DEADLINE_S
        while stage not in (found := [one.stage for one in shown(store.load_state(SHOWN))]):
            assert time.monotonic() < ends, found
            time.sleep(0.05)

    done = command("edge", "drain", "icu-a", *home)
    assert (done.returncode, "gets no more work" in done.stdout) == (0, True), done.stderr
    until("safe")
    edge.stop()
    until("off")
    (row,) = json.loads(command("edge", "drain", "--json", *home).stdout)
    assert (row["edge"], row["stage"]) == ("icu-a", "off")
    assert command("edge", "drain", "icu-a", "--undo", *home).returncode == 0
    assert "no edge is called" in command("edge", "drain", "icu-z", *home).stderr
    kinds = {entry["what"] for entry in json.loads(command("audit", "show", *home, "--json").stdout)}
    assert {"edge drained", "edge used again", "wardround edge drain"} <= kinds
    store.close()
