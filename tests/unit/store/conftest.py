"""Homes whose records are in a file, and homes whose records are in a real PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from postgres_under_test import running


@pytest.fixture(scope="session")
def postgres():
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path) -> Path:
    """Where a hub, its commands and its backups open the records of a home."""
    home = tmp_path / "hub"
    home.mkdir()
    url = request.getfixturevalue("postgres").database() if request.param == "postgresql" else ""
    (home / "hub.toml").write_text(f"[store]\nurl = {json.dumps(url)}\n")
    return home / "hub.sqlite"
