"""`wardround study models|rollback|promote|pause|resume|stop|retrain|export`: which model predicts, and how to go back."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import StudyError
from wardround.learn.study import parse_study
from wardround.process.transforms import TASKS

if TYPE_CHECKING:
    from wardround.learn.releases import Entry
    from wardround.learn.study import Study
    from wardround.store import ModelRecord, Store, StudyRecord

ANSWER_S = 30.0  # how long a running hub may take to answer
LOOK_S = 0.1
Name = Annotated[str, typer.Argument(help="The study.")]
Why = Annotated[str, typer.Option(help="Why; it is kept with what happened.")]
Which = "current, canary, previous, a round's number, or the beginning of a digest"


def models(name: Name, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the models of a study: where each stands and why, its score, its calibration, its parent."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study_of(store, name)
        records = store.models(name)
    there = {r.number: (home / "studies" / name / "models" / f"{r.model}.safetensors").exists() for r in records}
    if as_json:
        typer.echo(json.dumps([_facts(r) | {"kept": there[r.number]} for r in records], indent=2))
        return
    if not records:
        typer.echo(f"{name} has made no model yet.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("round", "model", "from", "stage", "score", "worst edge", "ECE, scaled", "updates", "made", "why"):
        table.add_column(heading)
    for record in reversed(records):
        score, calibration = record.facts.get("score"), record.facts.get("calibration")
        after = calibration.get("ece_scaled") if calibration else None
        table.add_row(
            str(record.number),
            record.model[:8] + ("" if there[record.number] else " (gone)"),
            record.parent[:8],
            record.stage,
            f"{score['value']:.3f} {score['metric']}" if score and score["value"] is not None else "-",
            f"{score['worst']:.3f} {score['worst_edge']}" if score and score["worst"] is not None else "-",
            f"{calibration['ece']:.3f}, {f'{after:.3f}' if after is not None else '-'}" if calibration else "-",
            str(len(record.facts.get("lineage", {}).get("updates", {}))),
            f"{utc(record.made_us):%Y-%m-%d %H:%M:%S} UTC",
            record.facts.get("reason", ""),
        )
    Console().print(table)


def rollback(
    name: Name,
    to: Annotated[str, typer.Option(help=f"{Which}. Left out: the model that was current before.")] = "",
    reason: Why = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Go back to an older model: it is what predicts, and the study trains on from it. Undo it by another rollback."""
    from wardround.learn.releases import find, gone_back  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study = study_of(store, name)
        records = store.models(name)
        entries = _entries(records)
        target = find(entries, to) if to else _default(entries)
        moves = gone_back(entries, target.number, "")
        facts: dict[str, Any] = {
            "study": name,
            "to_round": target.number,
            "model": target.model,
            "moves": {m.number: m.stage for m in moves},
            "rounds_undone": len([e for e in entries if e.number > target.number]),
            "done": not dry_run,
        }
        if dry_run:
            words = f"Would go back to the model of round {target.number} ({target.model[:8]})"
        else:
            words = facts["answer"] = ask(store, home, study.name, "rollback", reason, target.number)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(words)
    for move in moves if dry_run else []:
        typer.echo(f"  model of round {move.number}: {move.stage}")
    if dry_run:
        typer.echo("  updates of the round in progress are set aside; the next round starts from that model")


def promote(
    name: Name,
    model: Annotated[str, typer.Option(help=f"{Which}.")],
    stage: Annotated[str, typer.Option(help="canary or current.")] = "current",
    reason: Why = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Make a model canary or current by hand, whatever the gates say."""
    from wardround.learn.releases import find  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    if stage not in ("canary", "current"):
        raise StudyError(f"a model is not made {stage!r} by hand", remedy="choose canary or current")
    with opened(home / "hub.sqlite") as store:
        study = study_of(store, name)
        found = find(_entries(store.models(name)), model)
        typer.echo(ask(store, home, study.name, f"promote-{stage}", reason, found.number))


def pause(name: Name, reason: Why = "", home: Home = DEFAULT_HOME) -> None:
    """Begin no new round; the one in progress comes to its end."""
    _act(home, name, "pause", reason)


def resume(name: Name, reason: Why = "", home: Home = DEFAULT_HOME) -> None:
    """Go on with a study that was paused or stopped."""
    _act(home, name, "resume", reason)


def stop(name: Name, reason: Why = "", home: Home = DEFAULT_HOME) -> None:
    """Stop a study at once: the round in progress is given up, what had arrived is kept."""
    _act(home, name, "stop", reason)


def retrain(
    name: Name,
    rounds: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 10,
    reason: Why = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Give a study more rounds, also one that has finished: it goes on from its newest model on the data of today.

    Whether what comes of it predicts is for the gates of `[release]` to say, as ever.
    """
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study = study_of(store, name)
        typer.echo(f"{name}: {ask(store, home, study.name, 'retrain', reason, rounds)}")


def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    model: Annotated[str, typer.Option(help=f"{Which}.")] = "current",
    form: Annotated[str, typer.Option("--format", help="safetensors or onnx.")] = "safetensors",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write a model as a folder: the file, its card, its signed manifest, and a program that predicts with NumPy alone.

    The program is left out for a PyTorch network of your own, which `--format onnx` writes so that it runs without your code.
    """
    from wardround.learn.blobs import FolderBlobs  # noqa: PLC0415
    from wardround.learn.cards import Registered  # noqa: PLC0415
    from wardround.learn.exports import FORMATS, export_model  # noqa: PLC0415
    from wardround.learn.journal import model_name  # noqa: PLC0415
    from wardround.learn.manifests import Signed  # noqa: PLC0415
    from wardround.learn.releases import find  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415
    from wardround.trust.signatures import HubSigner  # noqa: PLC0415

    if form not in FORMATS:
        raise StudyError(f"there is no format {form!r}", remedy=f"choose one of: {', '.join(FORMATS)}")
    with opened(home / "hub.sqlite") as store:
        study = parse_study(study_of(store, name).toml, where=name)
        records = {r.number: r for r in store.models(name)}
    record = records[find(_entries(list(records.values())), model).number]
    if form == "onnx" and study.learner.kind != "torch":
        raise StudyError(
            f"{name} trains with learner.kind `{study.learner.kind}`, which has no ONNX form",
            remedy="export safetensors: predict.py runs with NumPy alone; ONNX needs a PyTorch learner and wardround[torch,onnx]",
        )
    try:
        data = FolderBlobs(home / "studies" / name).read(model_name(record.model))
    except FileNotFoundError as exc:
        raise StudyError(f"model {record.model[:8]} is not kept any more", remedy="choose a newer one") from exc
    signer = HubSigner(home / "pki")
    registered = Registered(record.number, record.model, record.parent, record.stage, record.made_us, record.facts)
    files = export_model(out, study, TASKS[study.task], registered, data, lambda m: Signed(m, signer.sign(m), signer.certificate))
    if form == "onnx":
        (out / "model.onnx").write_bytes(_onnx(study, data))
        files.append("model.onnx")
    if as_json:
        typer.echo(json.dumps({"folder": str(out), "model": record.model, "round": record.number, "files": files}))
    else:
        typer.echo(f"The {record.stage} model of round {record.number} is in {out}: {', '.join(files)}")
        if "predict.py" not in files and form != "onnx":
            typer.echo("The network is your code; tensors have its state_dict's names. --format onnx runs without it.")


def _onnx(study: Study, data: bytes) -> bytes:
    """The model as ONNX.

    Raises:
        StudyError: a library is not installed here.
    """
    from wardround.learn.models import decode_model, without_controls  # noqa: PLC0415

    try:
        from wardround.learn.learners.onnx_export import export_onnx  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise StudyError(f"{exc.name} is not installed here", remedy="pip install 'wardround[torch,onnx]'") from exc
    task = TASKS[study.task]
    return export_onnx(study.learner, len(task.feature_names), len(task.classes), without_controls(decode_model(data)))


def add_to(app: typer.Typer) -> None:
    """The commands of this file, under `wardround study`."""
    for command in (models, rollback, promote, pause, resume, stop, retrain, export):
        app.command()(command)


def study_of(store: Store, name: str) -> StudyRecord:
    record = next((s for s in store.studies() if s.name == name), None)
    if record is None:
        raise StudyError(f"there is no study {name!r}", remedy="`wardround study status` lists them")
    return record


def _entries(records: list[ModelRecord]) -> list[Entry]:
    from wardround.learn.releases import Entry, Stage  # noqa: PLC0415

    return [Entry(r.number, r.model, Stage(r.stage), r.since_round) for r in records]


def _default(entries: list[Entry]) -> Entry:
    """The model that was current before; without one, the current model when rounds have gone on from it."""
    from wardround.learn.releases import Stage, at, previous  # noqa: PLC0415

    current = at(entries, Stage.CURRENT)
    newest = max((e.number for e in entries), default=0)
    found = previous(entries) or (current if current is not None and current.number < newest else None)
    if found is None:
        raise StudyError("no older model has ever been current", remedy="name one with --to; `study models` lists them")
    return found


def _act(home: Path, name: str, kind: str, reason: str) -> None:
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study = study_of(store, name)
        typer.echo(f"{name}: {ask(store, home, study.name, kind, reason)}")


def ask(store: Store, home: Path, study: str, kind: str, reason: str, to_round: int = -1) -> str:
    """Ask the hub, and wait for its answer; a hub that is stopped does it first of all when it starts.

    Raises:
        StudyError: the hub refused, or did not answer.
    """
    from wardround.processing import held, new_id  # noqa: PLC0415
    from wardround.store import StudyRequest  # noqa: PLC0415

    clock = SystemClock()
    request = StudyRequest(new_id(clock), study, kind, to_round, getpass.getuser(), reason, clock.now_us())
    store.put_study_request(request)
    if not held(home):
        return "asked for: no hub runs here, and it is the first thing done when one starts"
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        answered = store.study_request(request.request_id)
        if answered is not None and answered.state == "done":
            return answered.answer
        if answered is not None and answered.state == "refused":
            raise StudyError(answered.answer, remedy="nothing has changed")
        time.sleep(LOOK_S)
    raise StudyError(f"the hub has not answered in {ANSWER_S:.0f} s; it may still do it", remedy="see `wardround study models`")


def _facts(record: ModelRecord) -> dict[str, Any]:
    return {field: getattr(record, field) for field in record.__slots__}
