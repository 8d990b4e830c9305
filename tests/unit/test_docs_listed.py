"""What runs each command of README.md and docs/ is said, and is there; targets and scripts that pages name, too."""

from __future__ import annotations

import re

from docs_under_test import ELSEWHERE, LIVE, LONG, PAGES, ROOT, commands, steps, where


def test_something_runs_each_command_of_the_pages_and_nothing_runs_what_no_page_has():
    shown = commands()
    assert len(shown) > 100
    assert sorted(shown - set(where())) == [], "say in tests/docs_under_test.py what runs it"
    assert sorted(set(where()) - shown) == [], "no page shows it any more"


def test_each_command_stands_once_and_the_test_that_runs_it_is_there():
    listed = [s.command for s in steps() if not s.command.startswith("python: ")] + [*LIVE, *LONG, *ELSEWHERE]
    assert sorted(listed) == sorted(where())
    for command, (file, words) in {**LIVE, **ELSEWHERE, **{c: test for c, (_, test) in LONG.items()}}.items():
        assert words in (ROOT / file).read_text(), f"{command}: {file} does not have {words}"


def test_every_make_target_and_bench_that_a_page_names_is_there_and_make_help_has_every_target():
    makefile = (ROOT / "Makefile").read_text()
    told = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    phony = {
        name for line in re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, re.MULTILINE) for name in re.findall(r"[a-z-]+", line)
    }
    assert phony == told, "each target says what it is for, behind ##"
    for page in PAGES:
        text = page.read_text()
        asked = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE))
        assert asked <= told, page
        for script in re.findall(r"(?:bench|scripts|tests)/[a-z_/-]+\.py", text):
            assert (ROOT / script).exists(), f"{page}: {script}"
