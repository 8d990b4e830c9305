"""Every combination of a mode with what else a study may ask for: had, or refused by name; and the page says the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from wardround.learn.privacy.modes import MODES
from wardround.learn.strategies import STRATEGIES

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "modes_table.py"
spec = importlib.util.spec_from_file_location("modes_table", SCRIPT)
assert spec is not None
assert spec.loader is not None
modes_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(modes_table)

# What looks at single updates or at an edge's past, whatever the mode is called that hides or blurs them.
UNSOUND = {
    "clear": set(),
    "clear-dp": {
        *(s for s in STRATEGIES if s not in {"fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi"}),
        'kind = "statistics"',
        'rounds.mode = "buffered"',
        "rounds.over_selection = 1.2",
        "rounds.edges_max = 50",
        'compression.update = "float16"',
        'learner.class_weighting = "balanced"',
        "watch.row_counts = true",
        'respond.quarantine.mode = "act"',
    },
    "blind": {
        *("fednova", "scaffold", "feddyn", "qfedavg", "coordinate-median", "trimmed-mean", "krum", "multi-krum"),
        *("geometric-median", "centered-clipping", "fltrust", "bagging"),
        'kind = "statistics"',
        'rounds.mode = "buffered"',
        "rounds.over_selection = 1.2",
        "rounds.edges_min = 2",
        'compression.update = "float16"',
        "compression.zstd = true",
    },
    "blind-groups": {
        *(s for s in STRATEGIES if s not in {"coordinate-median", "trimmed-mean", "geometric-median", "centered-clipping"}),
        'kind = "statistics"',
        'rounds.mode = "buffered"',
        "rounds.over_selection = 1.2",
        "rounds.edges_min = 2",
        'compression.update = "float16"',
        "compression.zstd = true",
    },
}
UNSOUND["blind-dp"] = {*UNSOUND["clear-dp"], "rounds.edges_min = 2", "compression.zstd = true"}


def key(wish):
    return wish.split('"')[1] if wish.startswith("strategy.name") else wish


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_sound_in_a_mode_is_refused_by_name_and_all_else_is_had(mode):
    refused = {key(wish): modes_table.refusal(mode, wish) for wish in modes_table.WISHES}
    assert {wish for wish, said in refused.items() if said} == UNSOUND[mode]
    for wish, said in refused.items():
        if said:
            assert f"`{mode}`" in said
            part, _, name = (wish if wish in modes_table.WISHES else "strategy.name").split(" = ")[0].partition(".")
            assert part in said
            assert part == "compression" or name.partition(".")[0] in said


def test_the_page_says_what_the_code_does():
    assert modes_table.written() == modes_table.table(), "python scripts/modes_table.py --write"
