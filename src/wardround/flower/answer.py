"""An edge's answer to a Flower message: in the training worker, which keeps the app's own process beside it.

The app is one that stands in this edge's `flower.apps` folder, byte for byte the hub's: putting it there is the edge's consent to
run it. Its process has the worker's limits and ends with it.
"""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from wardround.errors import LearnError, StudyError
from wardround.flower.apps import open_app
from wardround.flower.check import EXAMPLES_KEYS
from wardround.flower.frames import receive, send
from wardround.flower.parcel import METRICS, decode
from wardround.flower.run import CRASHED, Data, EdgeOrder
from wardround.learn.messages import Done
from wardround.learn.study import ScoreSettings, is_held_back
from wardround.learn.trainer import Work
from wardround.process.transforms import TASKS
from wardround.records import Examples
from wardround.settings import EdgeSettings, FlowerSettings, load_settings
from wardround.training_data import examples_of

EXAMPLES_KEY = "wardround-examples"  # in Context.node_config
GUEST = Path(__file__).with_name("guest")


@dataclass
class _Guest:
    """An app's process, and what it was started for."""

    key: tuple[object, ...]
    process: subprocess.Popen[bytes]
    link: socket.socket

    def end(self) -> None:
        self.link.close()
        self.process.kill()
        self.process.wait()


_guests: dict[str, _Guest] = {}  # by the edge's home: one each
_written: dict[str, tuple[Path, float, Examples]] = {}  # examples as they were written last, by home


def answer(home: str, work: Work) -> Done:
    """Hand one message to the edge's app; its reply.

    Raises:
        LearnError: the app is not here, is another version, failed, or its process ended.
    """
    order = msgspec.msgpack.decode(work.settings, type=EdgeOrder)
    settings = load_settings(Path(home) / "edge.toml", EdgeSettings).flower
    guest = _guest(home, settings, order)
    config = dict(settings.node_config)
    if order.data.task:
        config[EXAMPLES_KEY] = str(_examples_file(home, work.source.edge, order.data))
    header = {
        "op": "message",
        "message": msgspec.to_builtins(order.message),
        "content_size": len(work.model),
        "node_config": config,
    }
    try:
        send(guest.link, header, work.model + work.kept)
        said, data = receive(guest.link)
    except (EOFError, OSError) as exc:
        _guests.pop(home).end()
        raise LearnError(f"{CRASHED} in the middle of a message", remedy="see the edge's log") from exc
    if said["op"] != "reply":
        raise LearnError(said["reason"])
    at = said["content_size"]
    return Done(data[:at], max(1, _examples(data[:at])), {}, data[at:])


def _guest(home: str, settings: FlowerSettings, order: EdgeOrder) -> _Guest:
    """The process of an app, started if need be."""
    key = (order.app, order.digest, order.run_id, tuple(sorted(order.run_config.items())), settings.python, settings.apps)
    held = _guests.get(home)
    if held is not None and held.key == key and held.process.poll() is None:
        return held
    if held is not None:
        _guests.pop(home).end()
    if not settings.python or not settings.apps:
        raise StudyError("this edge runs no Flower apps", remedy="set flower.python and flower.apps in its edge.toml")
    folder = Path(settings.apps) / Path(order.app).name
    if not folder.is_dir():
        raise StudyError(f"this edge has no Flower app {folder.name}", remedy="put a copy of it into its flower.apps folder")
    app = open_app(folder)
    if app.digest != order.digest:
        raise StudyError(
            f"Flower app {app.name} is another version here ({app.digest[:12]}) than at the hub ({order.digest[:12]})",
            remedy="put the hub's version into this edge's flower.apps folder",
        )
    ours, theirs = socket.socketpair()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        process = subprocess.Popen(  # noqa: S603 - the interpreter that this edge's own settings name
            [settings.python, str(GUEST), "client", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except OSError as exc:
        ours.close()
        raise StudyError(
            f"flower.python {settings.python} cannot be started: {exc.strerror}", remedy="correct edge.toml"
        ) from exc
    finally:
        theirs.close()
    guest = _guests[home] = _Guest(key, process, ours)
    start = {
        "op": "start",
        "folder": str(app.folder),
        "clientapp": app.clientapp,
        "run_config": order.run_config,
        "run_id": order.run_id,
        "node_id": order.node_id,
    }
    try:
        send(ours, start)
        said, _ = receive(ours)
    except (EOFError, OSError) as exc:
        _guests.pop(home).end()
        raise LearnError(
            f"{CRASHED} before it was ready", remedy="is flwr installed for flower.python? See the edge's log"
        ) from exc
    if said["op"] != "ready":
        _guests.pop(home).end()
        raise LearnError(f"the ClientApp cannot be loaded: {said['reason']}")
    return guest


def _examples_file(home: str, edge: str, data: Data) -> Path:
    """The edge's own examples for a task as a .npz file: features, labels (-1: none), subjects, feature_names; as they are now.

    Raises:
        LearnError: there are none.
    """
    if data.task not in TASKS:
        raise StudyError(f"this edge knows no task {data.task[:60]!r}", remedy="bring edge and hub to the same version")
    examples = examples_of(home, data.task)
    path = Path(home) / "learn" / "flower" / f"{data.task}.npz"
    written = _written.get(home)
    if written is not None and written[:2] == (path, data.held_back) and written[2] is examples and path.exists():
        return path
    score = ScoreSettings(held_back=data.held_back)
    own = examples.where(np.array([not is_held_back(score, str(s), edge) for s in examples.subjects], bool))
    if len(own) == 0:
        raise LearnError(f"there are no examples of {data.task} here", remedy="wait for more data")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        features=own.features,
        labels=own.labels,
        subjects=np.asarray(own.subjects, np.str_),
        feature_names=np.array(own.feature_names, np.str_),
    )
    partial.replace(path)  # an app that reads meets the one or the other, whole
    _written[home] = (path, data.held_back, examples)
    return path


def _examples(reply: bytes) -> int:
    """What the reply says of its examples, for the edge's own status."""
    for record in decode(reply):
        for key in EXAMPLES_KEYS:
            value = record.values.get(key) if record.kind == METRICS else None
            if isinstance(value, int | float) and value == value:  # noqa: PLR0124 - NaN is no number of examples
                return max(0, int(min(value, 1e15)))
    return 0
