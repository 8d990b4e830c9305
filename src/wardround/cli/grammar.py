"""The command line's grammar, as its parser has it: every command with its arguments and options; docs/cli.md is made of it.

python -m wardround.cli.grammar > docs/cli.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from wardround.errors import WardroundError

HEAD = """\
# Command line

Made from the commands themselves (`python -m wardround.cli.grammar > docs/cli.md`); each says more with `--help`.

`wardround --debug COMMAND` shows the traceback of an error. `wardround completion bash` prints what completes commands by
TAB, also for `zsh` and `fish`; `wardround completion --help` says where to put it.

| exit code | meaning |
| --- | --- |
"""
CODES = {
    0: "done",
    1: "it failed, and the lines `error:` and `do:` say why and what to do; or what was looked at is not as it must be",
    2: "the command line, a settings file or a study does not hold: nothing was begun",
    75: "of `hub run`: it held the lease no more and ended at once, as another hub may run now; start it again with `--standby`",
    130: "stopped by Ctrl-C",
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words after `wardround`, its arguments, its options, and what it does, whole."""

    words: tuple[str, ...]
    arguments: tuple[str, ...]
    options: tuple[str, ...]
    help: str

    @property
    def first_sentence(self) -> str:
        """What it does, in short."""
        paragraph = " ".join(self.help.strip().split("\n\n")[0].split())
        end = paragraph.find(". ")
        return paragraph if end < 0 else paragraph[: end + 1]


def parser() -> Any:
    """The real parser: a group of Click's kind."""
    from wardround.cli.main import app  # noqa: PLC0415 - that module takes in this one's neighbours

    return typer.main.get_command(app)


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command under a group, in the order of its help."""
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, (*words, name))
        elif not found.hidden:
            context = found.make_context(name, [], resilient_parsing=True)
            pieces = [p.get_usage_pieces(context) for p in found.params if p.param_type_name == "argument"]
            arguments = [" ".join(piece).strip("{}").replace("}", "").upper() for piece in pieces]
            options = [p.opts[-1] for p in found.params if p.param_type_name == "option" and "--help" not in p.opts]
            yield Command((*words, name), tuple(arguments), tuple(options), found.help or "")


def exit_codes() -> set[int]:
    """Those that an error of ours may lead to."""

    def of(kind: type[WardroundError]) -> Iterator[int]:
        yield kind.exit_code
        for one in kind.__subclasses__():
            yield from of(one)

    return set(of(WardroundError))


def page() -> str:
    """docs/cli.md."""
    lines = [HEAD.rstrip("\n"), *(f"| {code} | {words} |" for code, words in CODES.items())]
    group = ""
    for command in sorted(commands(parser()), key=lambda c: (len(c.words) > 1, c.words)):
        here = command.words[0] if len(command.words) > 1 else "wardround"
        if here != group:
            group = here
            lines += [
                "",
                f"## `{here}`" if here == "wardround" else f"## `wardround {here}`",
                "",
                "| command | what it does | options |",
            ]
            lines.append("| --- | --- | --- |")
        said = " ".join(["wardround", *command.words, *command.arguments])
        options = " ".join(f"`{option}`" for option in command.options)
        lines.append(f"| `{_cell(said)}` | {_cell(command.first_sentence)} | {options} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - a page for a file
