"""`wardround edge key`: the key of an edge's pseudonyms, kept apart from its backups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wardround.cli.edge_status import DEFAULT_HOME, Home
from wardround.errors import SettingsError
from wardround.settings import EdgeSettings, load_settings
from wardround.trust.pseudonym_key import export_key, import_key

app = typer.Typer(no_args_is_help=True, help="The key of this edge's pseudonyms: keep it apart from backups, bring it back.")
FILE_BYTES_MAX = 4_096
PassphraseFile = Annotated[Path | None, typer.Option(help="Where the passphrase stands; it is asked for otherwise.")]


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="A file that is not there yet.")],
    passphrase_file: PassphraseFile = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Write the key, sealed with a passphrase, to keep it where backups are not: with both, patients can be found by number.

    Without it a restored edge cannot say which pseudonym is whose, and does not start.
    """
    load_settings(home / "edge.toml", EdgeSettings)
    sealed = export_key(home, _passphrase(passphrase_file, twice=True))
    try:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise SettingsError(f"{out} cannot be written: {exc.strerror}", remedy="give a file that is not there yet") from exc
    with os.fdopen(fd, "w") as file:
        file.write(sealed + "\n")
    typer.echo(f"{out}: keep it and the passphrase apart from each other, and from backups.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `wardround edge key export` wrote.")],
    passphrase_file: PassphraseFile = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Bring the key back into a restored edge; the key of another edge is refused."""
    load_settings(home / "edge.toml", EdgeSettings)
    with file.open(encoding="utf-8", errors="replace") as opened:
        text = opened.read(FILE_BYTES_MAX)
    import_key(home, text, _passphrase(passphrase_file, twice=False))
    typer.echo("The key is back: patients have the pseudonyms that they had.")


def _passphrase(file: Path | None, *, twice: bool) -> str:
    if file is None:
        return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=twice, err=True))
    try:
        return file.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{file} cannot be read as a passphrase: {exc}", remedy="give a text file with one line") from exc
