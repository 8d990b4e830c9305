"""What the hub answered, as a person at the edge sees it."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import pytest

import wardround
from wardround.clock import ManualClock
from wardround.learn.blobs import FolderBlobs
from wardround.learn.messages import Done, Order, UploadReceipt
from wardround.learn.participant import Participant
from wardround.learn.receipts import ADVICE, KEPT_MAX, Receipts, advice

FOLD_ALONE = {"empty", "reference", "untrusted"}  # raised while the hub folds: no edge is told
ORDER = Order("s", 3, 1, "train", "b" * 64, b"", 1.0)


@pytest.fixture
def receipts(tmp_path):
    numbers = count()
    return Receipts(FolderBlobs(tmp_path), lambda: next(numbers))


def test_every_reason_that_the_hub_can_give_says_what_to_do():
    source = Path(wardround.__file__).parent / "learn"
    text = "\n".join(path.read_text() for path in source.rglob("*.py"))
    reasons = set(re.findall(r'UpdateRefused\(\s*"([a-z-]+)"', text)) - FOLD_ALONE
    assert len(reasons) > 15
    assert not {r for r in reasons if r not in ADVICE}
    assert all(advice("refused", r) for r in reasons)
    assert advice("aside", "own-history-course")
    assert advice("accepted", "") == ""


def test_an_answer_is_there_after_a_restart_the_newest_first(tmp_path):
    clock = ManualClock()
    edge = Participant(FolderBlobs(tmp_path), clock)
    edge.keep(ORDER, Done(b"update", 5))
    edge.answered(ORDER, UploadReceipt(accepted=False, reason="norm", detail="too long"))
    assert edge.ready(ORDER) is None  # as `settle` says
    clock.advance(1.0)
    edge.receipts.note("other", 1, "accepted")
    first, second = Participant(FolderBlobs(tmp_path)).receipts.newest()
    assert (first.study, first.verdict) == ("other", "accepted")
    assert (second.study, second.round_number, second.verdict, second.reason) == ("s", 3, "refused", "norm")
    assert first.t_us - second.t_us == 1_000_000


def test_only_the_newest_are_kept(receipts):
    for n in range(KEPT_MAX + 5):
        receipts.note("s", n, "accepted")
    found = receipts.newest()
    assert [a.round_number for a in found] == list(range(KEPT_MAX + 4, 4, -1))


def test_what_is_told_twice_is_there_once_and_said_again_after_a_release(receipts):
    receipts.note("s", 1, "accepted")
    receipts.note("s", 1, "accepted")
    receipts.note("s", 2, "aside", "twins-peer", "until round 9")
    receipts.note("s", 3, "accepted")
    receipts.note("s", 4, "aside", "twins-peer", "until round 9")  # at an attachment
    receipts.note("other", 4, "aside", "twins-peer", "until round 9")
    receipts.note("s", 5, "released")
    receipts.note("s", 6, "aside", "twins-peer", "until round 9")
    shown = [(a.study, a.round_number, a.verdict) for a in reversed(receipts.newest())]
    assert shown == [
        ("s", 1, "accepted"),
        ("s", 2, "aside"),
        ("s", 3, "accepted"),
        ("other", 4, "aside"),
        ("s", 5, "released"),
        ("s", 6, "aside"),
    ]


def test_a_file_that_cannot_be_read_is_no_history(tmp_path, receipts):
    FolderBlobs(tmp_path).write("receipts/newest.json", b"{")
    receipts.note("s", 1, "accepted")
    assert len(receipts.newest()) == 1
