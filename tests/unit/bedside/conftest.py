from __future__ import annotations

import pytest

from bedside_under_test import World


@pytest.fixture
def world(tmp_path):
    """An edge's bedside watch."""
    made = World(tmp_path)
    yield made
    made.close()
