"""`wardround backup` and `wardround restore`: a home into one file without keys, and back into an empty folder."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.backup.wrapped_keys import WRAPPED_KEYS, check_wrapped_keys, copy_wrapped_keys
from wardround.cli.hub import DEFAULT_HOME, AsJson
from wardround.clock import Clock, SystemClock, utc
from wardround.errors import ProcessError, SettingsError, WardroundError
from wardround.settings import EdgeSettings, HubSettings, load_settings
from wardround.trust.audit_files import role_of

if TYPE_CHECKING:
    from wardround.backup.archive import Manifest
    from wardround.store import Store

Home = Annotated[Path, typer.Option(help="The folder of a hub or of an edge.")]
TAKEN_S = 3_600.0  # a job that runs comes to its end first
LOOK_S = 0.2


def backup(
    out: Annotated[Path, typer.Argument(help="The archive: a file that is not there yet, or a folder to name it in.")],
    home: Home = DEFAULT_HOME,
    wrapped_keys: Annotated[
        Path | None, typer.Option(help="Where values are sealed at rest: copy keys/keys.sqlite to this file, elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Back up a hub or an edge, running or not, into one file that holds no key; what it leaves out is named.

    The file holds patients' data under pseudonyms: keep it encrypted, and no longer than erasures may take. Keep apart, once: a
    hub's pki/ca.key, and an edge's `wardround edge key export`. A hub backs itself up by the clock with [backup] in hub.toml.
    """
    role, clock = role_of(home), SystemClock()
    check_wrapped_keys(home, wrapped_keys, out)
    if role == "hub":
        hub = load_settings(home / "hub.toml", HubSettings)
        out = _file(out, role, hub.name, clock)
        manifest = _hub(home, hub, out)
    else:
        name = load_settings(home / "edge.toml", EdgeSettings).name
        out = _file(out, role, name, clock)
        manifest = _edge(home, name, out)
    if wrapped_keys is not None:  # after the data: it has the key of every row that is in them
        copy_wrapped_keys(home / WRAPPED_KEYS, wrapped_keys)
    if as_json:
        typer.echo(json.dumps({"archive": str(out), "bytes": out.stat().st_size, **_facts(manifest)}, indent=1))
        return
    typer.echo(f"{out}: {len(manifest.items)} files, {out.stat().st_size:,} bytes, of {role} {manifest.name}")
    for left in manifest.left_out:
        typer.echo(f"  left out: {left.name} ({left.why})")


def restore(
    archive: Annotated[Path, typer.Argument(help="What `wardround backup` wrote.")],
    home: Annotated[Path | None, typer.Option(help="A folder that is empty or not there yet.")] = None,
    ca_key: Annotated[Path | None, typer.Option(help="A hub's pki/ca.key as it was kept: edges need not join again.")] = None,
    wrapped_keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The newest copy of keys/keys.sqlite, for sealed values.")
    ] = None,
    nothing_since: Annotated[
        bool, typer.Option("--nothing-since", help="It has not run after the backup: privacy budgets go on.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Read every byte of the archive, and restore nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a hub or an edge out of a backup, whole or not at all, and say what it still needs.

    Who was erased after the backup stays erased: a restored hub uses nothing of an edge's patients until the edge has attached
    and said what they allow and who is erased; a restored edge is told of every erasure when it joins.
    """
    from wardround.backup.archive import read_manifest, verify_archive  # noqa: PLC0415
    from wardround.backup.restoring import needs  # noqa: PLC0415
    from wardround.backup.restoring import restore as carry_out  # noqa: PLC0415

    if check:
        manifest = verify_archive(archive)
        missing = needs(manifest, authority_given=ca_key is not None, nothing_since=nothing_since)
    else:
        if home is None:
            raise SettingsError("it is not said where to", remedy="give --home an empty folder, or --check")
        role = read_manifest(archive).role
        if ca_key is not None and role != "hub":
            raise SettingsError("--ca-key is for a hub, and this is the backup of an edge", remedy="leave it out")
        manifest = carry_out(
            archive, home, SystemClock(), lambda made: _give_keys(made, role, ca_key, wrapped_keys), nothing_since=nothing_since
        )
        missing = needs(manifest, authority_given=ca_key is not None, nothing_since=nothing_since)
    missing = [line for line in missing if wrapped_keys is None or not line.startswith("keys/")]
    if as_json:
        typer.echo(json.dumps({"home": str(home or ""), **_facts(manifest), "needs": missing}, indent=1))
        return
    typer.echo(
        f"{manifest.role} {manifest.name} as of {utc(manifest.made_us):%Y-%m-%d %H:%M:%S} UTC, {len(manifest.items)} files"
    )
    typer.echo("Every byte is as it was written." if check else f"It is in {home}. Before it is whole again:")
    for number, line in enumerate(missing, 1):
        typer.echo(f"  {number}. {line}")


def _file(out: Path, role: str, name: str, clock: Clock) -> Path:
    from wardround.backup.making import archive_name  # noqa: PLC0415

    return (out / archive_name(role, name, clock.now_us()) if out.is_dir() else out).absolute()


def _edge(home: Path, name: str, out: Path) -> Manifest:
    from wardround.backup.home import gather_edge  # noqa: PLC0415
    from wardround.backup.making import check_place, make  # noqa: PLC0415
    from wardround.backup.snapshots import stage  # noqa: PLC0415
    from wardround.trust.pseudonym_key import check_of  # noqa: PLC0415

    check_place(home, out)
    with stage(out) as folder:
        gathered = gather_edge(home, stage=folder)
        return make(out, gathered, role="edge", name=name, clock=SystemClock(), pseudonym_key=check_of(home))


def _hub(home: Path, settings: HubSettings, out: Path) -> Manifest:
    """By the running hub, or here when none runs."""
    from wardround.backup.archive import read_manifest  # noqa: PLC0415
    from wardround.backup.making import check_place  # noqa: PLC0415
    from wardround.backup.service import Backups  # noqa: PLC0415
    from wardround.processing import held, only_one, open_lake  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    check_place(home, out)
    with opened(home / "hub.sqlite") as store:
        if not held(home):
            with only_one(home):
                return Backups(home, settings, lake=open_lake(home, settings), store=store, clock=SystemClock()).make(out)
        _ask(home, store, out)
    return read_manifest(out)


def _ask(home: Path, store: Store, out: Path) -> None:
    from wardround.backup.service import TOPIC  # noqa: PLC0415
    from wardround.processing import held, new_id  # noqa: PLC0415
    from wardround.store import Request  # noqa: PLC0415

    clock = SystemClock()
    request = Request(new_id(clock), TOPIC, "make", {"out": str(out)}, getpass.getuser(), clock.now_us())
    store.put_request(request)
    until = time.monotonic() + TAKEN_S
    while time.monotonic() < until:
        found = store.request(request.request_id)
        if found is not None and found.state == "done":
            return
        if found is None or found.state == "refused":
            raise WardroundError(
                f"the hub made no backup: {found.answer if found else 'the request is gone'}", remedy="see its log"
            )
        if not held(home):
            raise ProcessError("the hub has stopped meanwhile", remedy="run the same command again")
        time.sleep(LOOK_S)
    raise ProcessError("the hub made no backup within an hour", remedy="see `wardround process status` for a job that runs")


def _give_keys(home: Path, role: str, ca_key: Path | None, wrapped_keys: Path | None) -> None:
    if wrapped_keys is not None:
        copy_wrapped_keys(wrapped_keys, home / WRAPPED_KEYS)
    if role == "hub":
        from wardround.hub import give_home_keys  # noqa: PLC0415

        give_home_keys(home, ca_key, SystemClock())


def _facts(manifest: Manifest) -> dict[str, object]:
    return {
        "role": manifest.role,
        "name": manifest.name,
        "made_us": manifest.made_us,
        "files": len(manifest.items),
        "lake": manifest.lake,
        "left_out": [{"name": x.name, "why": x.why} for x in manifest.left_out],
    }
