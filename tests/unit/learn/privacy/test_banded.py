"""Noise that rounds share: it cancels as published, it is exact, and no edge comes back sooner than is paid for."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from tests.unit.learn.privacy.test_dp_checks import checked
from tests.unit.learn.privacy.test_dp_rounds import Hub
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.errors import StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.privacy import banded
from wardround.learn.privacy.accounting import epsilon
from wardround.learn.privacy.banded import BAND_MAX, UNIT, Banded, column, diagonals, prefix_error, slot
from wardround.learn.privacy.central import GRID, Plan
from wardround.learn.privacy.dp_checks import NOISE_MAX
from wardround.learn.privacy.ledger import spent
from wardround.learn.privacy.modes import PrivacySettings
from wardround.learn.privacy.noise import SIGMA_MAX

BAND = 3


def matrix(band, rows):
    return sum(np.diag(np.full(rows - j, m), -j) for j, m in enumerate(diagonals(band)) if j < rows)


# -- how well it cancels


@pytest.mark.parametrize(
    ("rounds", "apart", "band", "error"),
    [(200, 50, 1, 20.0), (200, 50, 16, 7.0), (200, 50, 50, 5.4), (1000, 50, 1, 100), (1000, 50, 50, 21)],
)
def test_the_error_of_prefix_sums_is_as_measured_before(rounds, apart, band, error):
    """Root mean square error for noise of deviation 1 over what one unit moves, of the square root in closed form."""
    assert prefix_error(rounds, band, apart) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("band", [1, 2, 7, 40])
def test_the_error_is_that_of_the_whole_matrix(band):
    rows, apart = 60, max(band, 5)
    m = matrix(band, rows)
    errors = np.tril(np.ones((rows, rows))) @ np.linalg.inv(m)
    moved = np.linalg.norm(m, axis=0).max() * np.sqrt(-(-rows // apart))
    assert prefix_error(rows, band, apart) == pytest.approx(np.sqrt((errors**2).sum(1).mean()) * moved)
    assert column(band) == pytest.approx(np.linalg.norm(m, axis=0).max())


# -- what is released


def play(rows, draw, *, names=("w", "b"), lost=()):
    """Rows of y, and the sums that went into them; the state of `lost` rows never reached the disk."""
    blobs = MemoryBlobs()
    rng = np.random.default_rng(3)
    own, said, sums = Banded("s", BAND, blobs), [], []
    for row in range(rows):
        given = {name: rng.integers(-(2**30), 2**30, 4) for name in names}
        out = own.noisy(row, given, 1.0)
        if row in lost:
            blobs.delete(f"noise/{row}.npz")
            given = {name: np.zeros(4, np.int64) for name in names}
        said.append(out)
        sums.append(given)
        own = Banded("s", BAND, blobs)  # a hub that starts again finds what it needs on its disk
    return blobs, said, sums


def test_released_is_the_matrix_times_the_sums_and_exact_noise(monkeypatch):
    drawn = []

    def draw(sigma, size):
        assert sigma == pytest.approx(column(BAND))
        drawn.append(np.random.default_rng(len(drawn)).integers(-(2**35), 2**35, size))
        return drawn[-1]

    monkeypatch.setattr(banded, "discrete_gaussian", draw)
    rows = 9
    blobs, said, sums = play(rows, draw)
    z = {name: np.stack(drawn[i::2]) for i, name in enumerate(("w", "b"))}
    m = matrix(BAND, rows).astype(np.float64)
    for name in ("w", "b"):
        x, y = (np.stack([r[name] for r in rows_]).astype(np.float64) for rows_ in (sums, said))
        np.testing.assert_allclose(y, x + np.linalg.solve(m, z[name].astype(np.float64)), rtol=1e-9, atol=1e-3)
        u = m @ y  # what is left when all that is known is undone: whole numbers
        np.testing.assert_allclose(u, np.round(u), atol=1e-2)
        np.testing.assert_array_equal(np.round(u - z[name]), m @ x)
    assert [bool(blobs.size(f"noise/{row}.npz")) for row in range(rows)] == [False] * 7 + [True] * 2  # no more is kept


def test_a_row_that_a_kill_cut_off_is_as_if_nobody_had_taken_part(monkeypatch):
    monkeypatch.setattr(banded, "discrete_gaussian", lambda _sigma, size: np.zeros(size, np.int64))
    _, said, sums = play(6, None, lost={2})
    for row in (3, 4, 5):  # without noise the sums come out as they went in: nothing of the lost row is left in them
        np.testing.assert_allclose(said[row]["w"], sums[row]["w"])


def test_what_is_kept_and_does_not_hold_stops_the_study():
    blobs = MemoryBlobs()
    own = Banded("s", BAND, blobs)
    own.noisy(0, {"w": np.zeros(4, np.int64)}, 10.0)
    with pytest.raises(StudyError, match="row 0"):
        own.noisy(1, {"w": np.zeros(5, np.int64)}, 10.0)
    blobs.write("noise/0.npz", b"torn")
    with pytest.raises(StudyError, match="row 0"):
        own.noisy(1, {"w": np.zeros(4, np.int64)}, 10.0)


def test_the_noise_of_the_model_is_as_reckoned_and_far_below_that_of_rounds_by_themselves():
    """20,000 coordinates: the share of chance in a measured deviation is half a hundredth."""
    rows, band, size = 24, 8, 20_000
    own, model, squares = Banded("s", band, MemoryBlobs()), np.zeros(size), []
    for row in range(rows):
        model += own.noisy(row, {"w": np.zeros(size, np.int64)}, 1_000.0)["w"]
        squares.append(np.mean(model**2))
    found = np.sqrt(np.mean(squares)) / 1_000.0 * np.sqrt(rows / band)
    assert found == pytest.approx(prefix_error(rows, band, band), rel=0.03)
    assert found < 0.6 * prefix_error(rows, 1, band)


# -- whose turn it is


def test_turns_hang_on_a_name_alone_and_are_about_even():
    slots = [slot("s", f"edge-{i}", 8) for i in range(4_000)]
    assert all(400 < slots.count(k) < 600 for k in range(8))
    assert slots[:50] != [slot("another", f"edge-{i}", 8) for i in range(50)]


NAMES = [f"edge-{i}" for i in range(30)]
MORE = f'mechanism = "banded"\nband = {BAND}'


def hub(count=8, **more):
    own = Hub(count=count, target=1e3, more=MORE, **more)
    own.text = own.text.replace("population = 3", "population = 30")
    own.start()
    own.attach(*NAMES)
    return own


def answer(own):
    """Everybody who is asked for the open round answers; who that was."""
    own.turn(6)
    opened = own.coordinator.open_round
    if opened is None:
        return set()
    now = (opened[0].number, opened[0].attempt)
    asked = {e for e, order in own.orders.items() if (order.round_number, order.attempt) == now}
    assert asked == set(opened[0].participants)
    for edge in sorted(asked):
        own.upload(edge)
    return asked


def check_apart(rows):
    """Each edge is in rows at least a band apart."""
    for edge in NAMES:
        own = [i for i, asked in enumerate(rows) if edge in asked]
        assert all(b - a >= BAND for a, b in itertools.pairwise(own)), (edge, own)


def test_no_edge_is_asked_again_within_a_band_and_one_round_of_each_band_is_paid_for():
    own = hub()
    rows = [answer(own) for _ in range(8)]
    assert own.coordinator.finished
    check_apart(rows)
    assert set().union(*rows[:BAND]) == set(NAMES)
    assert [set(c.folded) for c in own.coordinator.committed()[1:]] == rows
    assert [e.times for e in own.ledger.entries] == [1, 0, 0, 1, 0, 0, 1, 0]
    made = spent(own.ledger.entries)
    assert epsilon(made, 1e-3) == pytest.approx(get_epsilon_gaussian(4.0 / 3**0.5, 1e-3))


def test_a_release_that_a_kill_cut_off_ends_the_turn_of_those_who_were_in_it(monkeypatch):
    own = hub()
    write = own.blobs.write

    def fails(name, *data):
        if name.startswith("models"):
            raise OSError("killed")
        write(name, *data)

    monkeypatch.setattr(own.blobs, "write", fails)
    rows = [answer(own)]
    monkeypatch.undo()
    assert len(own.ledger.entries) == 1
    own.kill()
    own.orders.clear()
    own.attach(*NAMES)
    while not own.coordinator.finished:
        before = len(own.ledger.entries)
        asked = answer(own)
        if len(own.ledger.entries) > before:
            rows.append(asked)
        assert len(rows) < 20
    check_apart(rows)
    assert len(rows) == len(own.ledger.entries) == 9  # one came to nothing


def test_a_round_that_was_open_in_a_kill_goes_on_where_it_is_still_their_turn():
    own = hub()
    opened = own.coordinator.open_round[0]
    one, *others = opened.participants
    own.upload(one)
    own.kill()
    own.attach(*NAMES)
    for edge in others:
        own.upload(edge)
    assert [set(c.folded) for c in own.coordinator.committed()[1:]] == [set(opened.participants)]
    assert not own.ledger.entries[1:]


# -- what it costs, and what is not sound


def test_rounds_that_are_left_are_counted_by_bands():
    own = PrivacySettings(mode="clear-dp", population=100, noise=4.0, mechanism="banded", band=5, target_epsilon=8.0, delta=1e-3)
    plan = Plan.of(own)
    assert plan.expected == 20
    left = plan.left(own, {}, 0)
    assert left % 5 == 0
    assert epsilon({plan.release: plan.paid(left)}, 1e-3) <= 8.0 < epsilon({plan.release: plan.paid(left + 1)}, 1e-3)
    assert plan.left(own, {plan.release: 1}, 1) == left - 1
    assert plan.left(own, {plan.release: 1}, 5) == left - 5


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        ("population = 19", "nobody's turn"),
        ("band = 1", "privacy.band is 1"),
        ('unit = "patient"', "knows no patients"),
        ('sampling = "fixed"\nsample = 0.5', "hangs on no chance"),
        ("clip_quantile = 0.5", "one clip"),
        ('mode = "blind-dp"', "edges share no noise"),
        ('mechanism = "bandit"', "mechanism is `bandit`"),
    ],
    ids=str,
)
def test_what_is_not_sound_is_refused_by_name(privacy, words):
    lines = {line.split(" =")[0]: line for line in ('mechanism = "banded"', "band = 2", *privacy.splitlines())}
    with pytest.raises(StudyError, match=words):
        checked(privacy="\n".join(lines.values()), rounds="examples_min = 1")


def test_a_plan_says_what_bands_cost(tmp_path):
    assert checked(privacy='mechanism = "banded"\nband = 5').privacy.is_banded
    path = tmp_path / "s.toml"
    dp = '[privacy]\nmode = "clear-dp"\npopulation = 100\nnoise = 4.0\ndelta = 1e-3\n'
    path.write_text(f'name = "s"\ntask = "activity"\n[rounds]\ncount = 20\n{dp}{MORE}')
    shown = CliRunner().invoke(app, ["study", "budget", "--plan", str(path), "--json"])
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.stdout)
    assert (facts["mechanism"], facts["band"]) == ("banded", BAND)
    assert facts["epsilon"] == pytest.approx(get_epsilon_gaussian(4.0 / 7**0.5, 1e-3))


def test_the_widest_noise_of_a_study_can_be_drawn():
    assert NOISE_MAX * column(BAND_MAX) * GRID <= SIGMA_MAX


def test_the_matrix_is_the_square_root_in_whole_numbers():
    assert diagonals(1) == (UNIT,)
    whole = matrix(40, 40) / UNIT
    np.testing.assert_allclose((whole @ whole)[:, 0], 1.0, atol=0.15)
