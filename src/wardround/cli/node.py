"""`wardround node`: the machines that run worker containers for the hub."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from wardround.cli.doctor import show
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock
from wardround.errors import SettingsError
from wardround.records import NodeRecord
from wardround.settings import HubSettings, load_settings
from wardround.trust.names import check_name

app = typer.Typer(
    no_args_is_help=True,
    help="Nodes: machines whose Podman runs the hub's workers. Without one, the hub works on its own machine.",
)
Name = Annotated[str, typer.Argument(help="The node's name: a-z, 0-9 and '-'.")]
Url = Annotated[
    str,
    typer.Argument(help="unix:///run/podman/podman.sock (this machine), ssh://USER@HOST[:PORT][/SOCKET], tcp://127.0.0.1:PORT."),
]
GB = 1_000_000_000


@app.command()
def build(
    base: Annotated[str, typer.Option(help="The image to start from; it has Python 3.11.")] = "",
    no_registry: Annotated[
        bool,
        typer.Option("--no-registry", help="Make the base from Debian packages, and build without a network."),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also when the image is there already.")] = False,
) -> None:
    """Build the workers' image for this version of Wardround. `node add` and the hub copy it to the nodes."""
    from wardround.process.nodes import image  # noqa: PLC0415 - the hub's libraries take a second

    if image.present() and not again:
        typer.echo(f"{image.reference()} is there.")
        return
    with Console().status("building the workers' image") as status:
        name = image.build_any(say=status.update) if no_registry else image.build(base=base or image.BASE, say=status.update)
    typer.echo(f"{name} is built.")


@app.command()
def key(home: Home = DEFAULT_HOME) -> None:
    """Print the hub's SSH key, made at the first call: it goes into a node's ~/.ssh/authorized_keys."""
    from wardround.process.nodes.links import make_ssh_key  # noqa: PLC0415

    typer.echo(make_ssh_key(_keys(home)))


@app.command()
def add(
    name: Name,
    url: Url,
    home: Home = DEFAULT_HOME,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker containers on it.")] = 1,
    memory: Annotated[float, typer.Option(min=0.5, help="Memory of one worker, GB.")] = 1.5,
    cpus: Annotated[float, typer.Option(min=0.1, help="Cores of one worker.")] = 1.0,
    lake: Annotated[str, typer.Option(help="Where the node sees the hub's lake; the same path when not given.")] = "",
    host_key: Annotated[str, typer.Option(help="For ssh: the host's key as its owner says it (SHA256:...).")] = "",
) -> None:
    """Add a node: reach it, copy the image, try a container, and note it. A running hub starts workers there within seconds."""
    from wardround.process.nodes import image  # noqa: PLC0415
    from wardround.process.nodes.examine import examine  # noqa: PLC0415
    from wardround.process.nodes.links import parse_address  # noqa: PLC0415
    from wardround.processing import hub_id  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    check_name(name)
    settings, keys = load_settings(home / "hub.toml", HubSettings), _keys(home)
    record = NodeRecord(name, url, workers, round(memory * GB), cpus, lake, False, SystemClock().now_us())
    if parse_address(url).scheme == "ssh":
        _take_host_key(url, keys, host_key)
    if not image.present():
        raise SettingsError(f"the workers' image {image.reference()} is not built", remedy="run `wardround node build` first")
    _copy_image(record, keys, hub_id(keys))
    with Console().status(f"looking at {name}") as status:
        checks = list(examine(record, **_around(settings, home), hub_id=hub_id(keys), keys=keys, say=status.update))
    if any(c.good is False for c in checks):
        show(f"{name} cannot be used yet", checks, as_json=False)
    with opened(home / "hub.sqlite") as store:
        store.put_node(record)
    typer.echo(f"{name} is added: {workers} worker{'s' if workers > 1 else ''}. See it with: wardround node list --home {home}")


@app.command("list")
def list_nodes(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the nodes, and how the running hub sees them."""
    from wardround.processing import held, node_statuses  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    load_settings(home / "hub.toml", HubSettings)
    with opened(home / "hub.sqlite") as store:
        records, seen = store.nodes(), {s.name: s for s in node_statuses(store)}
    runs = held(home)
    if as_json:
        facts = [asdict(r) | {"seen": asdict(seen[r.name]) if runs and r.name in seen else None} for r in records]
        typer.echo(json.dumps(facts, indent=2))
        return
    if not records:
        typer.echo("No nodes: the hub works on its own machine. Add one: wardround node add NAME ssh://USER@HOST")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "state", "workers", "memory", "address", "what was last said"):
        table.add_column(heading)
    for r in records:
        status = seen.get(r.name) if runs else None
        state = status.state if status is not None else ("drained" if r.drained else "no hub runs")
        words = " ".join(filter(None, (status.words, status.remedy))) if status is not None else ""
        running = f"{status.workers if status is not None else 0} of {r.workers}"
        table.add_row(r.name, state, running, f"{r.memory_bytes / GB:g} GB", r.url, escape(words[:120]))
    Console().print(table)


@app.command()
def drain(name: Name, home: Home = DEFAULT_HOME) -> None:
    """Take no more work to a node: what it has in hand is finished first. `node resume` brings it back."""
    _change(home, name, drained=True)
    typer.echo(f"{name} is drained: its workers finish what they have and go.")


@app.command()
def resume(name: Name, home: Home = DEFAULT_HOME) -> None:
    """Use a drained node again."""
    _change(home, name, drained=False)
    typer.echo(f"{name} is used again.")


@app.command()
def remove(name: Name, home: Home = DEFAULT_HOME) -> None:
    """Forget a node; a running hub removes its containers there first."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        if not store.remove_node(name):
            raise _unknown(name, [r.name for r in store.nodes()])
    typer.echo(f"{name} is removed.")


@app.command()
def doctor(name: Name, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Look at a node the way the hub uses it: the way there, Podman, the image, a confined container, the lake."""
    from wardround.process.nodes.examine import examine  # noqa: PLC0415
    from wardround.processing import hub_id  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    settings, keys = load_settings(home / "hub.toml", HubSettings), _keys(home)
    with opened(home / "hub.sqlite") as store:
        records = {r.name: r for r in store.nodes()}
    if name not in records:
        raise _unknown(name, records)
    with Console(stderr=True).status(f"looking at {name}") as status:
        checks = list(examine(records[name], **_around(settings, home), hub_id=hub_id(keys), keys=keys, say=status.update))
    show(f"node {name}", checks, as_json=as_json)


def _around(settings: HubSettings, home: Path) -> dict[str, Any]:
    """Where the lake is, as `examine` wants to know it."""
    return {"lake": settings.processing.lake or str(home / "lake"), "lake_options": settings.processing.lake_options}


def _keys(home: Path) -> Path:
    load_settings(home / "hub.toml", HubSettings)  # its error says how to make a hub
    folder = home / "nodes"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _take_host_key(url: str, keys: Path, expected: str) -> None:
    """Note the host's key after a person, or --host-key, has said that it is the right one."""
    from wardround.process.nodes.links import fingerprint, host_keys, make_ssh_key, parse_address  # noqa: PLC0415

    make_ssh_key(keys)
    address = parse_address(url)
    lines = host_keys(address)
    shown = fingerprint(lines[0])
    if expected and shown != expected:
        raise SettingsError(f"{address.host} shows the key {shown}, not {expected}", remedy="ask its owner which is right")
    if not expected:
        typer.confirm(f"{address.host} shows the host key {shown}. Is that what its owner says?", abort=True)
    known = keys / "known_hosts"
    old = known.read_text(encoding="ascii").splitlines() if known.exists() else []
    whose = {line.split()[0] for line in lines}
    kept = [line for line in old if line.split()[0] not in whose]
    known.write_text("\n".join([*kept, *lines]) + "\n", encoding="ascii")


def _copy_image(record: NodeRecord, keys: Path, hub: str) -> None:
    from wardround.process.nodes import image  # noqa: PLC0415
    from wardround.process.nodes.containers import NodeApi  # noqa: PLC0415
    from wardround.process.nodes.links import make_link  # noqa: PLC0415
    from wardround.process.relays import Relays  # noqa: PLC0415

    relays = Relays()
    link = make_link(record.url, name=f"{record.name}-add", hub_id=hub, keys=keys, relays=relays)
    try:
        api = NodeApi(link.open())
        if api.has_image(image.reference()):
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"copying the image to {record.name}", total=None)
            api.load_image(image.archive(lambda sent: progress.update(task, completed=sent)))
        api.close()
    finally:
        link.close()
        relays.close_all()


def _change(home: Path, name: str, *, drained: bool) -> None:
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        records = {r.name: r for r in store.nodes()}
        if name not in records:
            raise _unknown(name, records)
        store.put_node(replace(records[name], drained=drained))


def _unknown(name: str, known: object) -> SettingsError:
    names = ", ".join(known) if isinstance(known, (list, dict)) and known else "none yet"
    return SettingsError(f"no node is called {name!r}", remedy=f"nodes are: {names}")
