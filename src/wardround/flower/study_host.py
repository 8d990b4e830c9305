"""A study's coordinator on a Flower federation: `python -m wardround.flower.study_host FD`, beside the ServerApp.

The coordinator is the hub's own: rounds, triage, screen, strategy and journal, in the folder that the ServerApp names; started
again with the same folder, it goes on in the round it was in. Nodes are its edges. Who a node is, Flower has checked; the name
under each update is put there by this process, so that the coordinator's own check of it holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import select
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from wardround.clock import SystemClock
from wardround.collect.storage import FolderStorage
from wardround.errors import StudyError, UpdateRefused, WardroundError
from wardround.flower.frames import Header, receive, send
from wardround.learn import rounds
from wardround.learn.announcements import announcement
from wardround.learn.blobs import FolderBlobs
from wardround.learn.coordinator import Coordinator
from wardround.learn.journal import Journal
from wardround.learn.learners import check_learner, code_digest, make_learner
from wardround.learn.messages import Order, RoundEvent, Upload
from wardround.learn.models import Parameters, with_controls
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study, encode_training, parse_study, training_settings
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS
from wardround.records import EdgeId
from wardround.trust.certificates import Authority, new_key
from wardround.trust.signatures import edge_signature
from wardround.watch.detectors.screens import Screens

TICK_S = 0.05
CERTIFICATE_HOURS = 24.0 * 365


def checked(text: str) -> Study:
    """A study that can run on a Flower federation.

    Raises:
        StudyError, SettingsError: it cannot.
    """
    study = parse_study(text, where="the study")
    check(study, TASKS)
    if study.kind != "model":
        raise StudyError(
            "a study of kind `statistics` reads the hub's code table", remedy="start it with `wardround study start`"
        )
    if study.strategy.name == "fltrust":
        raise StudyError("strategy.name is `fltrust`: it trains on the hub's own lake", remedy="choose another strategy")
    if study.learner.dp_sgd.on:
        raise StudyError(
            "learner.dp_sgd: a node of a Flower federation keeps no ledger by study",
            remedy="start it with `wardround study start`",
        )
    if study.relay.children:
        raise StudyError("relay: nodes of a Flower federation do not reach each other", remedy="leave [relay] out")
    return study


class StudyHost:
    """One study, and the nodes that it asks."""

    def __init__(self, study: Study, folder: Path, link: socket.socket) -> None:
        """Take up or begin the study in a folder.

        Raises:
            StudyError: this machine cannot run it.
        """
        self._study, self._folder, self._link = study, folder, link
        task = TASKS[study.task]
        shape = (len(task.feature_names), len(task.classes))
        check_learner(study, *shape)
        self._learner = make_learner(study.learner, *shape)
        self._strategy = make_strategy(study.strategy, study.learner)
        self._authority = Authority.in_memory("flower federation")
        self._identities: dict[EdgeId, tuple[ec.EllipticCurvePrivateKey, bytes]] = {}
        self._nodes: dict[EdgeId, int] = {}
        self._last: dict[EdgeId, Upload] = {}  # each node's newest update
        self._history: list[Mapping[str, object]] = []
        self._blobs = FolderBlobs(folder / "study")
        settings = training_settings(study, task, self._strategy.rule, code_digest(study.learner))
        self.coordinator = Coordinator(
            study,
            settings=encode_training(settings),
            initial=self._initial,
            shape=shape,
            strategy=self._strategy,
            screen=Screens(
                study.name,
                threshold=study.triage.screen_threshold,
                rounds_min=study.triage.screen_rounds_min,
                twin_threshold=study.triage.twin_cosine_max,
                trial_rounds=study.triage.trial_rounds,
            ),
            journal=Journal(FolderStorage(folder / "study").connect),
            blobs=self._blobs,
            clock=SystemClock(),
            send=self._send,
            on_event=self._event,
        )

    def run(self) -> None:
        """Until the study is finished, or the ServerApp is gone."""
        while not self.coordinator.finished:
            if select.select([self._link], [], [], TICK_S)[0]:
                header, payload = receive(self._link)
                self._take(header, payload)
            self.coordinator.tick()
        last = self.coordinator.committed()[-1]
        (self._folder / "model.safetensors").write_bytes(self.coordinator.model(last.model))
        (self._folder / "history.json").write_text(json.dumps(self._history, indent=2))
        send(self._link, {"op": "finished"})

    def _take(self, header: Header, payload: bytes) -> None:
        if header["op"] == "nodes":
            here = {EdgeId(f"node-{node}"): int(node) for node in header["nodes"]}
            for edge in sorted(set(self._nodes) - set(here)):
                self.coordinator.lose(edge)
            new = sorted(set(here) - set(self._nodes))
            self._nodes = here
            for edge in new:
                self.coordinator.attach(edge)
            return
        edge = EdgeId(f"node-{header['node']}")
        if header["op"] == "failed":
            self.coordinator.fail(edge, header["round"], header["reason"])
            return
        upload = self._signed(
            edge,
            Upload(
                study=self._study.name,
                round_number=header["round"],
                task=header["task"],
                base=header["base"],
                size=len(payload),
                sha256=hashlib.sha256(payload).hexdigest(),
                examples=header["examples"],
                metrics=header["metrics"],
            ),
        )
        self._last[edge] = upload
        try:
            self.coordinator.begin(edge, upload, 0)
            self.coordinator.append(edge, upload, 0, payload)
        except UpdateRefused:
            pass  # `finish` says why, and tells the round
        receipt = self.coordinator.finish(edge, upload)
        if not receipt.accepted:
            self._say(f"{edge}: update refused: {receipt.reason}: {receipt.detail}")

    def _send(self, edge: EdgeId, message: Order | rounds.Cancel) -> None:
        node = self._nodes.get(edge)
        if node is None:
            return
        if isinstance(message, rounds.Cancel):
            send(self._link, {"op": "cancel", "node": node})
            return
        model = self.coordinator.model(message.base) if message.base and message.task == "train" else b""
        last = self._last.get(edge)
        header = {
            "op": "order",
            "node": node,
            "study": self._study.name,
            "round": message.round_number,
            "task": message.task,
            "base": message.base,
            "settings": base64.b64encode(message.settings).decode(),
            "deadline_s": message.deadline_s,
            "counted": last is not None and self.coordinator.position(edge, last)[1],
        }
        send(self._link, header, model)

    def _signed(self, edge: EdgeId, upload: Upload) -> Upload:
        if edge not in self._identities:
            key = new_key()
            self._identities[edge] = key, self._authority.issue_edge(edge, key.public_key(), CERTIFICATE_HOURS)
        key, certificate = self._identities[edge]
        return replace(upload, signature=edge_signature(key, announcement(upload)), certificate=certificate)

    def _initial(self) -> Parameters:
        model = self._learner.initial(self._study.learner.seed)
        return with_controls(model) if self._strategy.rule.controls else model

    def _event(self, event: RoundEvent) -> None:
        if event.kind == "committed":
            metrics = ", ".join(f"{name} {value:.3f}" for name, value in sorted(event.metrics.items()))
            self._history.append({"round": event.round_number, "nodes": dict(event.folded), "metrics": dict(event.metrics)})
            self._say(
                f"round {event.round_number}: {len(event.folded)} nodes, {event.seconds:.1f} s{', ' if metrics else ''}{metrics}"
            )
        elif event.kind in ("abandoned", "quarantined", "failed"):
            self._say(f"round {event.round_number} {event.kind}: {event.edge} {event.reason}")

    def _say(self, words: str) -> None:
        send(self._link, {"op": "said", "words": f"Wardround: {words}"})


def main(descriptor: str) -> int:
    """Run the study that the ServerApp names."""
    link = socket.socket(fileno=int(descriptor))
    try:
        start, _ = receive(link)
        folder = Path(start["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        StudyHost(checked(start["study"]), folder, link).run()
    except EOFError:
        return 0
    except WardroundError as error:
        print(f"Wardround: {error}{f'; {error.remedy}' if error.remedy else ''}", file=sys.stderr)  # noqa: T201 - the run's log
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
