"""The table of docs/formats.md: what a folder of files gives, as `wardround edge import --dry-run` reads them.

`python scripts/formats_table.py FOLDER` prints it, `--write` puts it into the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from wardround.cli.files import dry_run

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def table(folder: Path) -> str:
    """Markdown, a row a file."""
    rows = ["| file | observations | samples | signals | not taken, and why |", "| --- | ---: | ---: | --- | --- |"]
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md" and p.suffix != ".csv"):
        found = dry_run(path)
        signals = ", ".join(f"{n} {key}" for key, n in found.signals.items())
        refused = "; ".join(f"{reason} ({n}): {_cell('; '.join(found.why[reason]))}" for reason, n in found.refused.items())
        rows.append(f"| {path.relative_to(folder)} | {found.observations} | {found.samples} | {signals} | {refused} |")
    return "\n".join(rows) + "\n"


def written() -> str:
    """The table that stands in the page."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(arguments: list[str]) -> int:
    """Print or write."""
    folders = [a for a in arguments if not a.startswith("-")]
    if len(folders) != 1:
        sys.stderr.write("usage: formats_table.py FOLDER [--write]\n")
        return 2
    made = table(Path(folders[0]))
    if "--write" in arguments:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page.partition(BEGIN)[0] + BEGIN + made + END + page.partition(END)[2], encoding="utf-8")
    else:
        sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
