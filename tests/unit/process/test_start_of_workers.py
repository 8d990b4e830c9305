"""Workers that do not start: a job that fails, for the next turn to try again, and not the end of the hub."""

from __future__ import annotations

import pytest

from wardround.errors import ProcessError
from wardround.process.dask_runner import DaskRunner


class Cluster:
    closed = False

    def __init__(self, **_settings):
        pass

    def close(self, timeout):
        assert timeout > 0
        self.closed = True


class Refuses:
    def __init__(self, *_parts, **_settings):
        raise RuntimeError("Nanny failed to start.")


@pytest.mark.parametrize("which", ["LocalCluster", "Client"])
def test_workers_that_do_not_start_are_a_refused_job(monkeypatch, which):
    made = []

    class Kept(Cluster):
        def __init__(self, **settings):
            super().__init__(**settings)
            made.append(self)

    monkeypatch.setattr("distributed.LocalCluster", Kept)
    monkeypatch.setattr(f"distributed.{which}", Refuses)
    runner = DaskRunner(workers=1, memory_bytes=10**9)
    for _ in range(2):  # the next turn tries again
        with pytest.raises(ProcessError, match="no worker could be started: Nanny failed to start"):
            runner.start()
    assert all(cluster.closed for cluster in made)
    assert len(made) == (2 if which == "Client" else 0)
    runner.close()
