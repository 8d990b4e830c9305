"""The watch of a study's training, fed with rounds of simulated edges."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.watch.model_watch import COMMON, EdgeSeen, ModelWatch, RoundSeen

EDGES = [f"edge-{i:02}" for i in range(20)]


def losses(rng, number, worse=(), by=0.0, aside=()):
    """A round of losses that come down at first and differ between edges."""
    edges = {}
    for i, edge in enumerate(EDGES):
        if rng.random() < 0.8:
            loss = 0.4 + 0.01 * i + 0.5 * np.exp(-number / 8) + 0.03 * rng.normal() + (by if edge in worse else 0.0)
            edges[edge] = EdgeSeen(examples=100, loss=loss, aside=edge in aside)
    return RoundSeen(number=number, edges=edges, asked=len(EDGES))


def play(watch, rng, rounds, make=losses, **facts):
    return [deviation for number in rounds for deviation in watch.round(make(rng, number, **facts))]


def new(deviations):
    return {(s.kind, s.edge) for s in deviations if s.state == "new"}


def test_healthy_rounds_are_quiet_and_calibrate():
    watch = ModelWatch("a")
    assert "not calibrated yet: 0 of 70" in watch.calibration().words
    assert new(play(watch, np.random.default_rng(0), range(400))) == set()
    assert watch.calibration().calibrated
    assert watch.calibration().rounds_seen == 400


def test_an_edge_whose_loss_rises_is_named_soon_and_is_over_when_it_is_well():
    watch, rng = ModelWatch("a"), np.random.default_rng(1)
    play(watch, rng, range(120))
    found = play(watch, rng, range(120, 130), worse=["edge-03"], by=0.3)
    assert new(found) == {("edge-loss", "edge-03")}
    first = next(s for s in found if s.state == "new")
    assert first.round_number <= 126
    assert first.value > first.usual
    assert first.score > first.threshold
    assert first.evidence[-1] == (first.round_number, pytest.approx(first.score, abs=1e-3))
    over = [s for s in play(watch, rng, range(130, 170)) if s.state == "over"]
    assert [(s.kind, s.edge) for s in over] == [("edge-loss", "edge-03")]


def test_what_many_edges_show_is_one_deviation_that_names_them():
    watch, rng = ModelWatch("a"), np.random.default_rng(2)
    play(watch, rng, range(120))
    worse = EDGES[:8]
    found = play(watch, rng, range(120, 150), worse=worse, by=0.4)
    assert (COMMON, "") in new(found)
    last = [s for s in found if s.kind == COMMON][-1]
    assert set(last.edges) == set(worse)
    open_, over = new(found), {(s.kind, s.edge) for s in found if s.state == "over"}
    assert open_ - over == {(COMMON, ""), ("model-diverged", "")}


def test_a_state_is_taken_up_where_it_was_and_not_for_another_configuration():
    one, rng = ModelWatch("a"), np.random.default_rng(3)
    play(one, rng, range(100))
    two, other = ModelWatch("a"), ModelWatch("b")
    assert two.restore(one.state())
    assert not other.restore(one.state())
    assert not other.restore(b"nonsense")
    assert other.calibration().rounds == 0
    seeds = (np.random.default_rng(4), np.random.default_rng(4))
    first, second = (play(w, r, range(100, 130), worse=["edge-07"], by=0.3) for w, r in zip((one, two), seeds, strict=True))
    assert first == second
    assert one.state() == two.state()


def test_a_run_of_edges_that_are_set_aside_is_known_also_after_a_restart():
    watch = ModelWatch("a")

    def play_aside(*rounds):
        for number, aside in rounds:
            edges = {e: EdgeSeen(examples=100, loss=0.5, aside=e in aside) for e in EDGES if e != "edge-09"}
            watch.round(RoundSeen(number=number, edges=edges))
        return watch.setting_aside()

    one, two = {"edge-01"}, {"edge-01", "edge-02"}
    assert play_aside((1, ()), (2, ())) == (0, 0)
    assert play_aside((3, one), (4, one), (5, one)) == (3, 3)  # it still is, and nobody else
    assert play_aside((6, two), (7, two)) == (3, 6)
    again = ModelWatch("a")
    assert again.restore(watch.state())
    assert again.setting_aside() == (3, 6)
    assert play_aside((20, two), (21, one)) == (3, 6)
    assert play_aside((22, two)) == (22, 22)  # it counted again in between


def test_a_run_lasts_while_others_stand_accused_of_their_loss_and_none_begins_by_that():
    watch, rng = ModelWatch("a"), np.random.default_rng(1)
    play(watch, rng, range(100))
    play(watch, rng, range(100, 106), worse=["edge-07"], by=0.5)
    assert ("edge-loss", "edge-07", "") in watch.standing()
    assert watch.setting_aside() == (0, 0)  # accused, and nobody set aside
    play(watch, rng, range(106, 115), worse=["edge-07"], by=0.5, aside=["edge-01"])
    first, newest = watch.setting_aside()
    assert first in (106, 107, 108)  # the first that edge-01 answers
    assert newest == 114
    play(watch, rng, range(115, 130), worse=["edge-07"], by=0.5, aside=["edge-01", "edge-07"])
    assert watch.setting_aside()[0] == first
    assert watch.setting_aside()[1] < 118  # nobody is left to be found


def test_where_most_edges_are_accused_it_is_the_model_and_a_run_goes_on_for_nobody():
    watch, rng = ModelWatch("a"), np.random.default_rng(1)
    play(watch, rng, range(100))
    play(watch, rng, range(100, 112), worse=EDGES, by=0.5, aside=["edge-01"])
    assert watch.standing()
    assert watch.setting_aside()[1] < 104


def test_what_was_shown_last_is_known_until_it_is_over():
    watch, rng = ModelWatch("a"), np.random.default_rng(1)
    play(watch, rng, range(120))
    assert watch.shown() == {}
    found = play(watch, rng, range(120, 130), worse=["edge-03"], by=0.3)
    last = max(s.round_number for s in found if s.state != "over")
    assert watch.shown() == {"edge-loss": last}
    play(watch, rng, range(130, 170))
    assert watch.shown() == {}
