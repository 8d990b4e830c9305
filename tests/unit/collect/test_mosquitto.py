"""Mosquitto as the edge starts it, without Mosquitto: what the edge does when it does not come up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from wardround.collect import mosquitto
from wardround.collect.mosquitto import Mosquitto
from wardround.errors import SettingsError, WardroundError
from wardround.ports import free_port
from wardround.trust.certificates import Authority


@pytest.fixture
def broker(tmp_path, monkeypatch):
    """One whose program ends at once, as if it were killed while it starts; every start adds a line to `starts`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mosquitto").write_text(f"#!/bin/sh\necho start >>{tmp_path}/starts\n")
    (programs / "mosquitto").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(mosquitto, "LOOK_S", 0.01)
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "ca.pem").write_bytes(Authority.in_memory("test").pem)
    return Mosquitto(home=tmp_path, host="127.0.0.1", port=free_port(), collector="collector")


def starts(folder: Path) -> int:
    path = folder / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_broker_that_ends_while_it_starts_is_started_again_and_the_edge_goes_on(broker, tmp_path):
    async def until_tried_often():
        watching = asyncio.create_task(broker.watch())
        for _ in range(1_000):
            if starts(tmp_path) >= 3 or watching.done():
                break
            await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await broker.stop()
        return watching.cancelled() and starts(tmp_path) >= 3

    assert asyncio.run(asyncio.wait_for(until_tried_often(), 20))


def test_at_the_edges_own_start_it_is_an_error_with_its_reason(broker):
    with pytest.raises(WardroundError, match="ended at once"):
        asyncio.run(broker.start())


def test_a_broker_that_is_no_longer_installed_ends_the_watch(broker, tmp_path, monkeypatch):
    monkeypatch.setattr(mosquitto, "PROGRAM", "no-such-broker")
    with pytest.raises(SettingsError, match="not installed"):
        asyncio.run(asyncio.wait_for(broker.watch(), 20))
