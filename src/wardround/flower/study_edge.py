"""One training for a study on a Flower federation: `python -m wardround.flower.study_edge FD`, a frame in, a frame out."""

from __future__ import annotations

import base64
import os
import socket
import sys
from pathlib import Path

from wardround.errors import LearnError
from wardround.flower.frames import receive, send
from wardround.learn.limits import end_with
from wardround.learn.messages import Order
from wardround.learn.privacy.willing import why_not
from wardround.learn.trainer import Source, Work, Worker, said
from wardround.settings import EdgeSettings, load_settings

EXAMPLES = "wardround.training_data:examples_of"


def check_willing(home: Path, work: Work) -> None:
    """An edge's own `[privacy]` holds whoever asks; a home without settings has none.

    Raises:
        LearnError: it forbids this work.
        SettingsError: its settings do not hold.
    """
    if not (home / "edge.toml").exists():
        return
    own = load_settings(home / "edge.toml", EdgeSettings)
    order = Order("", work.round_number, 0, work.task, "", work.settings, 0.0)
    if reason := why_not(own.privacy, order):
        raise LearnError(reason, remedy="Flower's federations have no masks and no noise: ask this edge from a hub")


def main(descriptor: str) -> int:
    """Answer one order."""
    end_with(os.getppid())
    link = socket.socket(fileno=int(descriptor))
    header, payload = receive(link)
    at = header["model_size"]
    work = Work(
        Source(EXAMPLES, header["home"], header["edge"]),
        header["task"],
        base64.b64decode(header["settings"]),
        payload[:at],
        header["round"],
        payload[at:],
    )
    try:
        check_willing(Path(header["home"]), work)
        done = Worker().run(work)
    except Exception as error:  # noqa: BLE001 - whatever a learner does, the node gets an answer
        send(link, {"op": "failed", "reason": said(error)})
        return 1
    send(
        link,
        {"op": "update", "size": len(done.data), "examples": done.examples, "metrics": dict(done.metrics)},
        done.data + done.kept,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
