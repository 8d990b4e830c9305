"""Fixtures that tests of every kind may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# PyTorch and XGBoost: their threads wait for each other by spinning, which on a busy machine is most of a test's time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import wardround as _first  # noqa: F401 - before any test imports grpc: see its __init__

settings.register_profile("any-machine", deadline=None)  # a slow moment of a busy machine is no failure
settings.load_profile("any-machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What runs side by side (`make test`): files, but the nodes, which are one set of Podman services for all their tests."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "nodes" if nodeid.startswith("tests/nodes/") else super()._split_scope(nodeid)

    return Files(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings; a test that needs it is skipped, with how to give it, where it is absent."""
    root = Path(os.environ.get("WARDROUND_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (root / "mitbih_subset").is_dir():
        pytest.skip(f"no recordings at {root}: set WARDROUND_DATA to a folder with mitbih_subset/ and har_smartphone/")
    return root


@pytest.fixture(scope="session")
def command():
    """The command line, as a function of its arguments."""
    from programs_under_test import wardround

    return wardround


@pytest.fixture
def site(tmp_path):
    """A hub of its own, to be started, and a way to add edges, devices and people."""
    from programs_under_test import Site

    made = Site(tmp_path)
    yield made
    made.stop()
