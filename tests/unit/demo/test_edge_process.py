"""The demo's liar: from a round on, and never before the hub knows it."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.demo.edge_process import FACTOR, HONEST_MIN, poisoner
from wardround.learn.messages import Done, Order
from wardround.learn.models import decode_model, encode_model

MODEL = {"w": np.arange(4, dtype=np.float32)}


def told(alter, round_number, task="train"):
    """The first weight that is not zero, as it is sent in a round."""
    order = Order("s", round_number, 1, task, "base", b"", 20.0)
    return float(decode_model(alter(order, Done(encode_model(MODEL), 10)).data)["w"][1])


def test_lies_begin_after_the_named_round_however_late_the_file_is_read(tmp_path):
    (tmp_path / "poison").write_text("14")
    alter = poisoner(tmp_path)
    assert [told(alter, n) for n in range(1, 15)] == [1.0] * 14
    assert not (tmp_path / "poisoned").exists()
    assert told(alter, 15) == FACTOR
    assert (tmp_path / "poisoned").exists()
    assert told(alter, 16) == FACTOR


@pytest.mark.parametrize("first", [14, 20])
def test_who_came_late_is_honest_until_the_hub_knows_it(tmp_path, first):
    (tmp_path / "poison").write_text("14")
    alter = poisoner(tmp_path)
    sent = [told(alter, n) for n in range(first, first + HONEST_MIN + 2)]
    assert sent == [1.0] * HONEST_MIN + [FACTOR] * 2


def test_without_the_file_and_in_other_tasks_nothing_is_changed(tmp_path):
    alter = poisoner(tmp_path)
    assert [told(alter, n) for n in range(20, 40)] == [1.0] * 20
    (tmp_path / "poison").write_text("14")
    assert told(alter, 41, task="statistics") == 1.0
