"""Commands as they are told: docs/cli.md is the parser's; every command in a page or a remedy is one that there is."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from docs_under_test import LONG, PAGES, filled, lines
from wardround.cli import attack, grammar
from wardround.cli.completion import Shell
from wardround.cli.examples import EXAMPLES
from wardround.cli.main import app

ROOT = Path(__file__).parents[2]
INLINE = re.compile(r"`{1,2}wardround +([^`\n]+)`")
WORD = re.compile(r"[a-z][a-z-]*")


@pytest.fixture(scope="module")
def parser():
    return grammar.parser()


def test_the_page_is_what_the_parser_has():
    assert (ROOT / "docs" / "cli.md").read_text() == grammar.page(), "make it anew: python -m wardround.cli.grammar > docs/cli.md"


def test_every_command_says_what_it_does(parser):
    found = list(grammar.commands(parser))
    assert len(found) > 80
    silent = [command.words for command in found if len(command.first_sentence) < 10]
    assert silent == []
    assert grammar.exit_codes() <= set(grammar.CODES)


EXAMPLE = re.compile(r"(?:For example:?|Example:) `?(wardround [^`\n]+)`?")


def shown(parser) -> dict[tuple[str, ...], list[str]]:
    """The examples in the help of each command, its end included."""
    found = {}
    for command in grammar.commands(parser):
        group = parser
        for word in command.words:
            group = group.commands[word]
        found[command.words] = EXAMPLE.findall(f"{group.help}\n{group.epilog or ''}")
    return found


def test_every_command_shows_an_example_of_itself_that_the_parser_takes(parser, monkeypatch):
    for name in ("HUB", "TOKEN_FILE"):
        monkeypatch.setenv(f"WARDROUND_{name}", "https://hub.example")
    wrong = []
    for words, examples in shown(parser).items():
        if not examples:
            wrong.append(f"{' '.join(words)}: no example; write one in cli/examples.py")
        for example in examples:
            typed = shlex.split(example.partition(" > ")[0])[1:]
            if tuple(typed[: len(words)]) != words:
                wrong.append(f"{' '.join(words)}: an example of another command")
                continue
            try:
                parse(parser, typed)
            except Exception as error:  # whatever the parser says
                if "does not exist" not in str(error):  # a file of the reader's
                    wrong.append(f"{example}: {error!r} {error}")
    assert wrong == []
    assert {" ".join(words) for words in shown(parser)} >= set(EXAMPLES)  # none is of a command that is gone


def parse(group, words: list[str]) -> dict[str, object]:
    """What each option and argument is. Raises what the parser raises; nothing is run, and no file is looked for."""
    context = group.make_context("wardround", list(words))
    while hasattr(context.command, "commands"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context.params


def test_the_commands_of_a_page_are_found():
    typed = "$ x && wardround study new activity > s.toml   # a remark\nwardround a --b 'c d'   words\n"
    page = f"```toml\na = 1\n```\n```sh\n{typed}```\n"
    assert lines(page) == [["study", "new", "activity"], ["a", "--b", "c d"]]
    assert lines("```sh install\nwardround a\n```\n```sh\nwardround b\n```\n") == [["a"], ["b"]]
    assert sum(len(lines(page.read_text())) for page in PAGES) > 110


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_in_a_page_is_one_that_the_parser_takes(parser, page, monkeypatch):
    for name in ("HUB", "TOKEN_FILE", "CA"):  # as docs/client.md sets them
        monkeypatch.setenv(f"WARDROUND_{name}", "https://hub.example")
    wrong = []
    for words in lines(page.read_text()):
        try:
            parse(parser, words)
        except Exception as error:  # whatever the parser says
            if "does not exist" not in str(error):  # a file of the reader's
                wrong.append(f"wardround {' '.join(words)}: {error!r} {error}")
    assert wrong == []


def test_what_makes_the_long_commands_ask_for_less_is_taken(parser, tmp_path, monkeypatch):
    """`make test-docs` is run seldom: that it can be typed at all is known here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").touch()
    (tmp_path / "tables").mkdir()
    plans = 0
    for command, (less, _) in LONG.items():
        given = parse(parser, [*filled(command, {}), *less.split()])
        if command.startswith("study attack"):
            asked = {name: given[name] for name in inspect.signature(attack._plan).parameters}
            attack._plan(**asked).check()
            plans += 1
    assert plans > 3


def unknown(group, text: str) -> str:
    """The first word that is no command, in something like `edge join - --home X`; empty where all are."""
    for word in text.split():
        if not hasattr(group, "commands") or not WORD.fullmatch(word):
            break
        if word not in group.commands:
            return word
        group = group.commands[word]
    return ""


def test_every_command_that_a_remedy_or_a_page_names_is_one_that_there_is(parser):
    """What an error tells people to type, too."""
    named = 0
    for path in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        for text in INLINE.findall(path.read_text()):
            named += 1
            assert not unknown(parser, text.partition("|")[0]), f"{path.relative_to(ROOT)}: wardround {text}"
    assert named > 100


@pytest.mark.parametrize("shell", list(Shell))
def test_a_shell_is_told_how_to_complete(shell):
    done = CliRunner().invoke(app, ["completion", shell.value])
    assert done.exit_code == 0
    assert "_WARDROUND_COMPLETE" in done.output
    if shell is Shell.BASH:  # a real bash reads it
        script = f"{done.output}\ncomplete -p wardround\n"
        read = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=50, check=True)
        assert "-F" in read.stdout
