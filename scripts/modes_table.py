"""The table of docs/privacy.md: what each privacy mode can be had with, as `learn.privacy.modes.check_privacy` answers.

`python scripts/modes_table.py` prints it, `--write` puts it into the page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from wardround.errors import StudyError
from wardround.learn.privacy.modes import MODES, PrivacySettings, check_privacy
from wardround.learn.strategies import STRATEGIES
from wardround.learn.study import RoundSettings, StrategySettings, Study, WatchSettings

PAGE = Path(__file__).parents[1] / "docs" / "privacy.md"
BEGIN, END = "<!-- modes: begin -->\n", "<!-- modes: end -->\n"
EDGES = 100


def base(mode: str) -> Study:
    """A study that every mode can be had for."""
    return Study(
        name="s",
        task="activity",
        rounds=RoundSettings(count=3, edges_min=40),
        watch=WatchSettings(row_counts=False),
        strategy=StrategySettings(name="fedavg" if mode != "blind-groups" else "trimmed-mean"),
        privacy=PrivacySettings(mode=mode, population=EDGES, noise=4.0, target_epsilon=100.0),
    )


def changed(part: str, **values: object) -> Callable[[Study], Study]:
    """The same study with other settings in one part of it."""
    return lambda study: msgspec.structs.replace(study, **{part: msgspec.structs.replace(getattr(study, part), **values)})


WISHES: Mapping[str, Callable[[Study], Study]] = {
    'kind = "statistics"': lambda study: msgspec.structs.replace(study, kind="statistics"),
    **{f'strategy.name = "{name}"': changed("strategy", name=name) for name in STRATEGIES},
    'rounds.mode = "buffered"': changed("rounds", mode="buffered"),
    "rounds.over_selection = 1.2": changed("rounds", over_selection=1.2),
    "rounds.edges_max = 50": changed("rounds", edges_max=50),
    "rounds.edges_min = 2": changed("rounds", edges_min=2),
    'compression.update = "float16"': changed("compression", update="float16"),
    "compression.zstd = true": changed("compression", zstd=True),
    'learner.class_weighting = "balanced"': changed("learner", class_weighting="balanced"),
    "watch.row_counts = true": changed("watch", row_counts=True),
    'respond.quarantine.mode = "act"': lambda study: msgspec.structs.replace(
        study,
        respond=msgspec.structs.replace(study.respond, quarantine=msgspec.structs.replace(study.respond.quarantine, mode="act")),
    ),
}


def refusal(mode: str, wish: str) -> str:
    """Why a mode cannot be had with it; empty: it can."""
    try:
        check_privacy(WISHES[wish](base(mode)))
    except StudyError as error:
        return str(error)
    return ""


def table() -> str:
    """Markdown, a row a wish, a column a mode."""
    rows = [f"| with | {' | '.join(f'`{m}`' for m in MODES)} |", f"| --- {'| --- ' * len(MODES)}|"]
    for wish in WISHES:
        said = (refusal(mode, wish) for mode in MODES)
        rows.append(f"| `{wish}` | {' | '.join(f'refused: {_reason(s)}' if s else 'yes' for s in said)} |")
    return "\n".join(rows) + "\n"


def written() -> str:
    """The table that stands in the page."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def _reason(text: str) -> str:
    return text.rpartition(": ")[2].partition("`, and ")[2].replace("|", "\\|") or text.rpartition(": ")[2].replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Print or write."""
    made = table()
    if "--write" in arguments:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page.partition(BEGIN)[0] + BEGIN + made + END + page.partition(END)[2], encoding="utf-8")
    else:
        sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
