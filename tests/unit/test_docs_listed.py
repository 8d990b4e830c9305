"""What runs each command of README.md and docs/ is said, and is there; targets and scripts that pages name, too."""

from __future__ import annotations

import re
import tomllib

from docs_under_test import ELSEWHERE, LIVE, LONG, PAGES, ROOT, commands, steps, where
from wardround.console.frame import SCREENS
from wardround.settings import EdgeSettings, HubSettings


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


def test_every_extra_is_in_the_table_of_what_is_installed_where():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]) - {"dev"}
    section = (ROOT / "docs" / "operations.md").read_text().partition("## Installing it\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(extras)


def test_the_layers_of_the_page_are_those_that_imports_are_held_to():
    text = (ROOT / ".importlinter").read_text().partition("layers =\n")[2].partition("\n\n")[0]
    held = [re.findall(r"\w+", line) for line in text.splitlines()]
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## The layers\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert [[name.removesuffix(".py").removesuffix("/") for name in re.findall(r"`([^`]+)`", row)] for row in rows] == held


def test_the_page_of_the_console_has_every_screen_in_the_order_of_its_navigation():
    page = (ROOT / "docs" / "console.md").read_text().partition("| --- ")[2]
    assert re.findall(r"^\| ([A-Z][a-z-]+) \|", page, re.MULTILINE) == [place.title for place in SCREENS]


def test_the_ports_of_the_page_are_those_of_the_settings():
    edge = EdgeSettings(name="a", hub_host="b", hub_port=1)
    section = (ROOT / "docs" / "security.md").read_text().partition("## Ports\n")[2].partition("\n## ")[0]
    told = re.findall(r"^\| (\d+) [^|]*\| `(\w+)\.port` \| (hub|edge) \|", section, re.MULTILINE)
    at = {"hub": HubSettings(), "edge": edge}
    ports = {(who, key) for who, s in at.items() for key in s.__struct_fields__ if hasattr(getattr(s, key), "port")}
    assert {(who, key) for _, key, who in told} == ports
    assert [int(port) for port, _, _ in told] == [getattr(at[who], key).port for _, key, who in told]


def anchors(page: str) -> set[str]:
    """What may follow `#` in a link to a page, made of its headings as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere_and_every_page_is_led_to_from_the_readme():
    led, links = set(), 0
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("https://", "http://", "mailto:")):
                continue
            links += 1
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), f"{page.relative_to(ROOT)}: {target}"
            assert not anchor or anchor in anchors(there.read_text()), f"{page.relative_to(ROOT)}: {target}"
            led |= {there} if page.name == "README.md" else set()
    assert links > 100
    top = {page.resolve() for page in PAGES if page.parent == ROOT / "docs"}
    assert sorted(p.name for p in top - led) == [], "README.md leads to every page"
