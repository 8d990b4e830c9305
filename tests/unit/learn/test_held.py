"""The model an edge predicts with: fetched, signed, there after a restart, and replaced in one step."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from wardround.errors import LearnError
from wardround.learn.blobs import FolderBlobs
from wardround.learn.held import INDEX, HeldModels
from wardround.learn.manifests import Signed, make_manifest
from wardround.learn.messages import Release
from wardround.learn.models import digest, encode_model
from wardround.learn.shelf import Piece, Shelf, SourceFailed

CHUNK = 64


def model(value):
    return encode_model({"w": np.full((4, 3), value, np.float32), "control.w": np.ones(2, np.float32)})


class Source:
    """A hub that has some models."""

    name, tries = "the hub", 1

    def __init__(self, *models):
        self.models = {digest(data): data for data in models}
        self.asked = 0

    async def pieces(self, name, offset):
        self.asked += 1
        if name not in self.models:
            raise SourceFailed("it has none")
        data = self.models[name]
        parts = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
        signed = Signed(make_manifest("s", name, CHUNK, parts), b"signature", b"certificate")
        for i in range(offset // CHUNK, len(parts)):
            yield Piece(parts[i], signed)


class Edge:
    def __init__(self, folder):
        self.folder = folder
        self.restart()

    def restart(self):
        self.shelf = Shelf(FolderBlobs(self.folder / "models"), verify=lambda _signed: None, keep=1, pause_s=0)
        self.held = HeldModels(FolderBlobs(self.folder / "held"))

    def hold(self, source, data, study="s", number=1, stage="current"):
        release = Release(study, number, digest(data), stage, b"settings", 1.5)
        asyncio.run(self.held.hold(release, self.shelf, [source]))


@pytest.fixture
def edge(tmp_path):
    return Edge(tmp_path)


def test_a_model_is_held_across_restarts_with_what_it_needs_to_predict(edge):
    first = model(1)
    edge.hold(Source(first), first)
    edge.restart()
    held = edge.held.open("s")
    assert (held.release.number, held.release.stage, held.release.temperature) == (1, "current", 1.5)
    assert set(held.parameters) == {"w"}
    assert edge.held.digests() == (digest(first),)
    assert edge.held.open("another") is None


def test_a_newer_one_takes_its_place_and_the_old_file_goes(edge):
    first, second = model(1), model(2)
    source = Source(first, second)
    edge.hold(source, first)
    edge.hold(source, first, stage="canary")  # the same model, another stage: nothing is fetched
    assert source.asked == 1
    assert edge.held.open("s").release.stage == "canary"
    edge.hold(source, second, number=2)
    assert edge.held.open("s").parameters["w"][0, 0] == 2
    assert [p.stem for p in (edge.folder / "held").glob("*.safetensors")] == [digest(second)]


def test_a_model_that_cannot_be_had_leaves_the_old_one(edge):
    first = model(1)
    edge.hold(Source(first), first)
    with pytest.raises(LearnError):
        edge.hold(Source(), model(2), number=2)
    assert edge.held.open("s").release.number == 1
    with pytest.raises(LearnError, match="named"):
        asyncio.run(edge.held.hold(Release("s", 3, "../x", "current", b""), edge.shelf, []))


def test_a_file_that_has_changed_is_not_predicted_with_and_is_fetched_anew(edge):
    first = model(1)
    source = Source(first)
    edge.hold(source, first)
    file = edge.folder / "held" / f"{digest(first)}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    with pytest.raises(LearnError, match="not what the hub signed"):
        edge.held.open("s")
    edge.restart()
    assert edge.held.open("s") is None
    edge.hold(source, first)
    assert edge.held.open("s").parameters["w"][0, 0] == 1


def test_studies_are_held_apart(edge):
    first, second = model(1), model(2)
    source = Source(first, second)
    edge.hold(source, first, study="a")
    edge.hold(source, second, study="b")
    edge.hold(source, second, study="a", number=2)
    assert edge.held.open("a").release.number == 2
    assert edge.held.open("b").release.number == 1


class Stalling(FolderBlobs):
    """A disk that stands still once, before the first facts are written."""

    def __init__(self, folder):
        super().__init__(folder)
        self.stalled, self.go_on = threading.Event(), threading.Event()

    def write(self, name, data):
        if name == INDEX and not self.stalled.is_set():
            self.stalled.set()
            assert self.go_on.wait(30)
        super().write(name, data)


@pytest.mark.parametrize("study", ["s", "another"])
def test_a_release_that_comes_while_another_is_written_is_kept_with_it(edge, study):
    """Of the same study, it takes its place, also on the disk; of another, both are held."""
    first, second = model(1), model(2)
    source = Source(first, second)
    blobs = Stalling(edge.folder / "held")
    held = HeldModels(blobs)

    async def play():
        older = asyncio.create_task(held.hold(Release("s", 1, digest(first), "current", b""), edge.shelf, [source]))
        assert await asyncio.to_thread(blobs.stalled.wait, 30)
        if study == "s":
            older.cancel()
        newer = asyncio.create_task(held.hold(Release(study, 2, digest(second), "current", b""), edge.shelf, [source]))
        await asyncio.wait([newer], timeout=0.2)  # it cannot end yet: what must not happen has time to
        blobs.go_on.set()
        await newer
        await asyncio.gather(older, return_exceptions=True)

    asyncio.run(asyncio.wait_for(play(), 60))
    expected = {"s": 2} if study == "s" else {"s": 1, "another": 2}
    edge.restart()
    for holds in (held, edge.held):
        assert {name: holds.open(name).release.number for name in holds.studies()} == expected
