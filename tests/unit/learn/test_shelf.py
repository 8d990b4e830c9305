"""The models an edge has: pieces are believed for what the hub signed, whoever gives them."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from wardround.errors import CertificateRefused, LearnError, StudyError
from wardround.learn.blobs import FolderBlobs, MemoryBlobs
from wardround.learn.manifests import Signed, make_manifest, read_manifest
from wardround.learn.shelf import Piece, Shelf, SourceFailed
from wardround.learn.study import parse_study
from wardround.learn.study_checks import check

CHUNK = 10
DATA = bytes(range(97))
DIGEST = hashlib.sha256(DATA).hexdigest()


def manifest(data=DATA, digest=DIGEST):
    return make_manifest("s", digest, CHUNK, (data[i : i + CHUNK] for i in range(0, len(data), CHUNK)))


GOOD = Signed(manifest(), b"signed by the hub", b"hub")


def verify(signed):
    if signed.signature != b"signed by the hub":
        raise CertificateRefused("not signed by the hub")


class Given:
    """A source with a fault."""

    def __init__(self, name="the hub", *, data=DATA, signed=GOOD, stop_at=None, tries=1, wait=None):
        self.name, self.tries = name, tries
        self._data, self._signed, self._stop_at, self._wait = data, signed, stop_at, wait
        self.asked: list[int] = []

    async def pieces(self, digest, offset):
        self.asked.append(offset)
        signed = self._signed
        for start in range(offset, len(self._data), CHUNK):
            if self._stop_at is not None and start >= self._stop_at:
                raise SourceFailed(f"{self.name} is gone")
            if self._wait is not None:
                await self._wait(start)
            yield Piece(self._data[start : start + CHUNK], signed)
            signed = None


@pytest.fixture(params=["memory", "folder"])
def shelf(request, tmp_path):
    return Shelf(MemoryBlobs() if request.param == "memory" else FolderBlobs(tmp_path), verify=verify, keep=2, pause_s=0.001)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 10))


def test_a_model_comes_whole_and_is_not_fetched_again(shelf):
    source = Given()
    assert run(shelf.get(DIGEST, [source])) == DATA
    assert run(shelf.get(DIGEST, [source])) == DATA
    assert source.asked == [0]


def test_it_goes_on_at_the_piece_where_the_relay_died(shelf):
    relay, hub = Given("edge-1", stop_at=40), Given()
    assert run(shelf.get(DIGEST, [relay, hub])) == DATA
    assert (relay.asked, hub.asked) == ([0], [40])


def test_a_relay_that_lies_is_found_at_its_first_wrong_piece(shelf):
    wrong = bytearray(DATA)
    wrong[35] ^= 1
    relay, hub = Given("edge-1", data=bytes(wrong)), Given()
    assert run(shelf.get(DIGEST, [relay, hub])) == DATA
    assert hub.asked == [30]


@pytest.mark.parametrize(
    "signed",
    [
        Signed(manifest(), b"signed by edge-1", b"edge-1"),
        Signed(manifest(digest="0" * 64), b"signed by the hub", b"hub"),
        Signed(b"rubbish", b"signed by the hub", b"hub"),
        None,
    ],
)
def test_a_manifest_that_the_hub_did_not_sign_for_this_model_is_worth_nothing(shelf, signed):
    relay, hub = Given("edge-1", signed=signed), Given()
    assert run(shelf.get(DIGEST, [relay, hub])) == DATA
    assert hub.asked == [0]


def test_when_nobody_can_give_it_that_is_said_and_can_be_tried_again(shelf):
    with pytest.raises(SourceFailed, match=r"edge-1, the hub"):
        run(shelf.get(DIGEST, [Given("edge-1", stop_at=0), Given(stop_at=20, tries=3)]))
    assert run(shelf.get(DIGEST, [Given()])) == DATA


def test_it_is_passed_on_while_it_still_arrives(shelf):
    async def play():
        may_go = {start: asyncio.Event() for start in range(0, len(DATA), CHUNK)}
        source = Given(wait=lambda start: may_go[start].wait())
        fetching = asyncio.create_task(shelf.get(DIGEST, [source]))
        await asyncio.sleep(0)
        passed = shelf.pieces(DIGEST, 0, [])
        got = b""
        for start, go in may_go.items():  # each piece is passed on before the next one is let in
            go.set()
            piece = await asyncio.wait_for(anext(passed), 5)
            assert (piece.signed is not None) == (start == 0)
            got += piece.data
        assert got == DATA == await fetching
        with pytest.raises(StopAsyncIteration):
            await anext(passed)

    run(play())


def test_two_who_ask_make_one_fetch(shelf):
    async def play():
        source = Given()
        both = await asyncio.gather(shelf.get(DIGEST, [source]), shelf.get(DIGEST, [source]))
        assert both == [DATA, DATA]
        assert source.asked == [0]
        return [piece async for piece in shelf.pieces(DIGEST, 50, [])]

    assert b"".join(p.data for p in run(play())) == DATA[50:]


def test_a_relay_fetches_what_it_is_asked_for_and_does_not_have(shelf):
    async def play():
        return b"".join([p.data async for p in shelf.pieces(DIGEST, 0, [Given()])])

    assert run(play()) == DATA

    async def in_vain():
        return [p async for p in shelf.pieces("1" * 64, 0, [Given(stop_at=0)])]

    with pytest.raises(SourceFailed):
        run(in_vain())


def test_only_the_newest_models_stay(shelf):
    for i in range(4):
        data = bytes([i]) * 25
        digest = hashlib.sha256(data).hexdigest()
        run(shelf.get(digest, [Given(data=data, signed=Signed(manifest(data, digest), b"signed by the hub", b"hub"))]))
        assert shelf.has(digest)
    assert sum(shelf.has(hashlib.sha256(bytes([i]) * 25).hexdigest()) for i in range(4)) == 2


def test_what_is_here_survives_a_restart(tmp_path):
    run(Shelf(FolderBlobs(tmp_path), verify=verify).get(DIGEST, [Given()]))
    again = Shelf(FolderBlobs(tmp_path), verify=verify)
    assert run(again.get(DIGEST, [])) == DATA


def test_a_manifest_that_cannot_be_is_refused():
    with pytest.raises(LearnError):
        read_manifest(make_manifest("s", DIGEST, 0, [DATA]), DIGEST)
    with pytest.raises(LearnError):
        read_manifest(make_manifest("s", DIGEST, CHUNK, [DATA]), DIGEST)  # one piece of 97 bytes is not ten


class Task:
    classes, feature_names, metric = ("a", "b"), ("x",), "accuracy"


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ('a = ["b"]\nb = ["a"]', "circle"),
        ('a = ["a"]', "circle"),
        ('a = ["c"]\nb = ["c"]', "two relays"),
        ('a = ["z"]', "has not joined"),
    ],
)
def test_a_tree_that_is_none_is_refused_by_name(tree, said):
    study = parse_study(f'name = "s"\ntask = "t"\n[rounds]\nedges_min = 1\n[relay.children]\n{tree}\n', where="t")
    with pytest.raises(StudyError, match=said):
        check(study, {"t": Task()}, edges=["a", "b", "c"])
