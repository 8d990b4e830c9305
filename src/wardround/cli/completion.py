"""`wardround completion`: what a shell needs to complete commands by TAB."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import shell_complete


class Shell(StrEnum):
    """Shells that can."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(help="Which shell.")],
) -> None:
    """Print what makes TAB complete commands and options.

    \b
    wardround completion bash >> ~/.bashrc
    wardround completion zsh >> ~/.zshrc
    wardround completion fish > ~/.config/fish/completions/wardround.fish
    """
    cli = context.find_root().command
    raise typer.Exit(shell_complete(cli, {}, "wardround", "_WARDROUND_COMPLETE", f"source_{shell}"))
