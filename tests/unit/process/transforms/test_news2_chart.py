"""NEWS2 against its chart, every cell and every value in it: the chart is written here as it is printed, band by band.

Royal College of Physicians, National Early Warning Score (NEWS) 2, London 2017, chart 1 (scoring system), chart 2 (thresholds).
"""

from __future__ import annotations

import itertools

import pytest

from wardround.process.transforms.early_warning import PARAMETERS, Vitals, news2

# Parameter: points 3 2 1 0 1 2 3, each cell as printed; None: the chart leaves it empty.
CHART = {
    "respiratory_rate": ("<=8", None, "9-11", "12-20", None, "21-24", ">=25"),
    "spo2": ("<=91", "92-93", "94-95", ">=96", None, None, None),
    "systolic": ("<=90", "91-100", "101-110", "111-219", None, None, ">=220"),
    "pulse": ("<=40", None, "41-50", "51-90", "91-110", "111-130", ">=131"),
    "temperature": ("<=35.0", None, "35.1-36.0", "36.1-38.0", "38.1-39.0", ">=39.1", None),
}
SCALE_2_AIR = ("<=83", "84-85", "86-87", ">=88", None, None, None)
SCALE_2_OXYGEN = ("<=83", "84-85", "86-87", "88-92", "93-94", "95-96", ">=97")
POINTS = (3, 2, 1, 0, 1, 2, 3)
SPAN = {"respiratory_rate": (0, 80), "spo2": (0, 100), "systolic": (0, 300), "pulse": (0, 300), "temperature": (250, 450)}


def cells(row, low, high, step):
    """(value, points) of every value from low to high, in steps of the chart."""
    found = {}
    for cell, points in zip(row, POINTS, strict=True):
        if cell is None:
            continue
        if cell.startswith("<="):
            first, last = low, float(cell[2:])
        elif cell.startswith(">="):
            first, last = float(cell[2:]), high
        else:
            first, last = (float(part) for part in cell.split("-"))
        for n in range(round(first / step), round(last / step) + 1):
            value = round(n * step, 1)
            assert value not in found, "two cells have it"
            found[value] = points
    assert len(found) == round((high - low) / step) + 1, "no cell has it"
    return found.items()


@pytest.mark.parametrize("name", CHART)
def test_every_value_of_every_cell(name):
    step = 0.1 if name == "temperature" else 1.0
    low, high = (SPAN[name][0] * 0.1, SPAN[name][1] * 0.1) if name == "temperature" else SPAN[name]
    for value, points in cells(CHART[name], low, high, step):
        score = news2(Vitals(**{name: value}))
        assert (score.total, score.red) == (points, points == 3), (name, value)


@pytest.mark.parametrize(("oxygen", "row"), [(False, SCALE_2_AIR), (True, SCALE_2_OXYGEN)])
def test_every_value_of_the_second_scale(oxygen, row):
    for value, points in cells(row, 0, 100, 1.0):
        score = news2(Vitals(spo2=value, oxygen=oxygen), spo2_scale=2)
        assert score.points == {"spo2": points, "oxygen": 2 if oxygen else 0}, value
        first = news2(Vitals(spo2=value, oxygen=oxygen))
        assert first.points["spo2"] == dict(cells(CHART["spo2"], 0, 100, 1.0))[value]  # oxygen changes nothing on the first


@pytest.mark.parametrize(("word", "points"), [("A", 0), ("C", 3), ("V", 3), ("P", 3), ("U", 3)])
def test_every_word_of_consciousness(word, points):
    score = news2(Vitals(consciousness=word))
    assert (score.points, score.red) == ({"consciousness": points}, points == 3)


@pytest.mark.parametrize(("oxygen", "points"), [(False, 0), (True, 2)])
def test_air_or_oxygen(oxygen, points):
    score = news2(Vitals(oxygen=oxygen))
    assert (score.points, score.red) == ({"oxygen": points}, False)


def test_the_total_is_the_sum_of_the_parts_for_one_value_of_every_pair_of_cells():
    """A representative of each cell: every combination of two parameters' cells, the rest without points."""
    normal = {"respiratory_rate": 16, "spo2": 97, "systolic": 120, "pulse": 70, "temperature": 37.0}
    one_each = {
        name: {
            p: v
            for v, p in cells(
                row,
                25.0 if name == "temperature" else 0,
                45.0 if name == "temperature" else SPAN[name][1],
                0.1 if name == "temperature" else 1.0,
            )
        }
        for name, row in CHART.items()
    }
    for first, second in itertools.combinations(CHART, 2):
        for (p, v), (q, w) in itertools.product(one_each[first].items(), one_each[second].items()):
            score = news2(Vitals(**(normal | {first: v, second: w}), oxygen=False, consciousness="A"))
            assert (score.total, score.complete, score.red) == (p + q, True, 3 in (p, q))
    highest = news2(Vitals(30, 80, True, 80, 140, "U", 34.0))
    assert (highest.total, len(highest.points)) == (20, len(PARAMETERS))
