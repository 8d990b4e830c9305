"""What watching costs, and how often it is wrong.

Cost: the screens (own history, twins) and the watch of the training (losses, durations, counts of rows) over a round of 100
edges with a model of 1 million parameters, in CPU seconds, beside the rest of that round at the hub: the updates' arrival over
mutual TLS, the file, the check of every update (digest, finite, norm), and the fold. Arrival is that of a bare gRPC stream, which
keeps nothing and is less than the product's own (bench/transfer.py). Limit: 2 % of the round; the share without arrival is shown
as well.

With --data: the studies of bench/quality.py played with every edge honest, each update judged as a hub judges it. Every refusal
is then a mistake; so many of 1,000 updates, and the edges concerned. Copies and stale steps are put in beside them.

    python bench/watching.py [--edges 100] [--parameters 1000000] [--data ../shared/data] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing as mp
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import quality
from round_latency import make_identities
from transfer import bare_listener, bare_upload
from wardround.learn.blobs import FolderBlobs
from wardround.learn.fleet import Fleet
from wardround.learn.models import MemoryTensors, Parameters, Step, TensorSource, encode_model
from wardround.learn.strategies import Fold, WeightedUpdate, make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, TriageSettings
from wardround.learn.triage import Verdict, check_update
from wardround.learn.virtual_edges import Made
from wardround.row_counts import CONFIDENCE_BINS, CONFIDENCE_COUNTS, RowCounts, decode_rows, encode_rows, input_counts
from wardround.watch.detectors.screens import Screens
from wardround.watch.model_watch import EdgeSeen, ModelWatch, RoundSeen

REPEATS = 5
LIMIT = 0.02
WARM_ROUNDS = 45  # until every screen and every detector of the training speaks
FEATURES = 20
CHECKED = ("activity", "icu", "heart", "eicu", "arrhythmia")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="folder laid out as bench/quality.py describes")
    parser.add_argument("--only", default=",".join(CHECKED), help="studies of --data")
    parser.add_argument("--json", action="store_true", help="print facts instead of a table")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"cost": cost(arguments.edges, arguments.parameters)}
    if arguments.data is not None:
        found["mistakes"] = mistakes(arguments.data, arguments.only.split(","))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    own = found["cost"]
    print(f"{own['edges']} edges x {own['parameters']:,} parameters, CPU seconds at the hub, median of {REPEATS}:")
    for name in ("arrive", "write", "digest", "check", "fold", "screens", "of_it_comparing", "training"):
        print(f"  {name:16} {own[name]:8.4f}")
    print(f"  watching / round {own['share']:8.2%}   limit {LIMIT:.0%}; of it the training {own['training_share']:.2%}")
    print(f"  the same without arrival {own['share_without_arrival']:.2%}")
    for row in found.get("mistakes", []):
        print(f"{row['study']:12} {row['edges']:4} edges, {row['updates']:6} honest: {row['per_1000']:.2f} of 1,000 refused")
        print(f"{'':12} {row['reasons'] or 'no reason'}; copies named {row['copies']}, stale step named {row['stale']}")


def cost(edges: int, parameters: int) -> dict[str, Any]:
    """CPU seconds of each part of a round at the hub, medians of REPEATS rounds."""
    rng = np.random.default_rng(0)
    shape = (parameters // 100, 100)
    base = {"w": rng.normal(size=shape).astype(np.float32)}
    common = 0.01 * rng.normal(size=shape)
    seconds: dict[str, list[float]] = {}
    screens = Screens("bench")
    names = [f"edge-{i:03}" for i in range(edges)]
    made = {name: encode_model({"w": (common + 0.01 * rng.normal(size=shape)).astype(np.float32)}) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, WARM_ROUNDS + REPEATS + 1):
            _round(seconds if number > WARM_ROUNDS else {}, FolderBlobs(Path(folder)), screens, base, made, number)
        make_identities(Path(folder), 1)
        seconds["arrive"] = asyncio.run(_arrival(Path(folder), made[names[0]], edges))
    _training(seconds, names)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    watching = medians["screens"] + medians["training"]
    here = sum(medians[name] for name in ("write", "digest", "check", "fold")) + watching
    whole = here + medians["arrive"]
    shares = {"share": watching / whole, "training_share": medians["training"] / whole, "limit": LIMIT}
    shares["share_without_arrival"] = watching / here
    return {"edges": edges, "parameters": parameters, "features": FEATURES, **medians, **shares}


async def _arrival(home: Path, data: bytes, edges: int) -> list[float]:
    """CPU seconds of this process while so many updates arrive from another one, over mutual TLS, REPEATS times."""
    server, port = await bare_listener(home)
    context = mp.get_context("spawn")
    found = []
    for _ in range(REPEATS):
        ours, theirs = context.Pipe()
        sender = context.Process(target=_send, args=(home / "edge-0", port, data, edges, theirs), daemon=True)
        sender.start()
        await asyncio.to_thread(ours.recv)  # its imports and its channel are not the hub's time, and do not end within it
        began = time.process_time()
        ours.send("go")
        await asyncio.to_thread(ours.recv)
        found.append(time.process_time() - began)
        await asyncio.to_thread(sender.join, 20)
    await server.stop(0.1)
    return found


def _send(identity: Path, port: int, data: bytes, edges: int, pipe: Connection) -> None:
    """Runs in a process of its own."""

    async def all_of_them() -> None:
        pipe.send("ready")
        pipe.recv()
        for _ in range(edges):
            await bare_upload(identity, port, data)
        pipe.send("done")

    asyncio.run(all_of_them())


def _training(seconds: dict[str, list[float]], names: Sequence[str]) -> None:
    """The watch of the training, once every detector has its reference: counts decoded, judged, learned, the state encoded."""
    rng, watch = np.random.default_rng(0), ModelWatch("bench", features=[f"f{i}" for i in range(FEATURES)])
    confidence = np.repeat(np.arange(CONFIDENCE_BINS)[:, None], CONFIDENCE_COUNTS, axis=1).astype(np.uint32)

    def counts() -> bytes:
        inputs = input_counts(rng.normal(size=(256, FEATURES)), np.zeros(FEATURES), np.ones(FEATURES))
        return encode_rows(RowCounts(inputs, confidence))

    for number in range(WARM_ROUNDS + REPEATS):
        sent = {name: (0.5 + 0.02 * rng.normal(), float(np.exp(0.1 * rng.normal())), counts()) for name in names}

        def watched(number: int = number, sent: Mapping[str, tuple[float, float, bytes]] = sent) -> None:
            decoded = {name: decode_rows(rows) for name, (_, _, rows) in sent.items()}
            edges = {
                name: EdgeSeen(
                    examples=100, loss=loss, seconds=s, inputs=decoded[name].inputs, confidence=decoded[name].confidence
                )
                for name, (loss, s, _) in sent.items()
            }
            watch.round(RoundSeen(number=number, edges=edges, asked=len(names), step_norm=1.0))
            watch.state()

        _timed(seconds if number >= WARM_ROUNDS else {}, "training", watched)


def _round(
    seconds: dict[str, list[float]],
    blobs: FolderBlobs,
    screens: Screens,
    base: Parameters,
    made: Mapping[str, bytes],
    number: int,
) -> None:
    """One round; one whose seconds are not kept has what the screens are warmed by alone."""
    old, strategy, settings = MemoryTensors(base), make_strategy(StrategySettings(), LearnerSettings()), TriageSettings()
    if number > 1 and number <= WARM_ROUNDS:
        with ExitStack() as opened:
            screens.judge_round(number, {name: opened.enter_context(blobs.tensors(f"{name}.safetensors")) for name in made})
            screens.stepped(MemoryTensors(base))
        return

    def write() -> None:
        for name, data in made.items():
            blobs.write(f"{name}.safetensors", data)

    _timed(seconds, "write", write)
    _timed(seconds, "digest", lambda: [hashlib.sha256(data).hexdigest() for data in made.values()])
    with ExitStack() as opened:
        sources = {name: opened.enter_context(blobs.tensors(f"{name}.safetensors")) for name in made}
        _timed(seconds, "check", lambda: [check_update(s, old, ["w"], [], settings) for s in sources.values()])
        given = Fold(old, [WeightedUpdate(s, 100) for s in sources.values()])
        folded = _timed(seconds, "fold", lambda: strategy.fold(given))

        def screen() -> None:
            screens.judge_round(number, sources)
            screens.stepped(Step(old, folded.model))

        _timed(seconds, "screens", screen)
        sketched = {name: screens._sketcher.sketch(s) for name, s in sources.items()}
        _timed(seconds, "of_it_comparing", lambda: screens._twins.judge(number, sketched))


def _timed(seconds: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    began = time.process_time()
    done = work()
    seconds.setdefault(name, []).append(time.process_time() - began)
    return done


def mistakes(data: Path, only: Sequence[str]) -> list[dict[str, Any]]:
    """Honest rounds of each study, judged; then the same with two copies of one edge, and with an edge that sends steps back."""
    rows: list[dict[str, Any]] = []

    def judged(problem: quality.Problem, seed: int) -> dict[str, Any]:
        honest = _play(problem, seed, "")
        updates = honest["updates"]
        rows.append(
            {
                "study": problem.name,
                "edges": len(problem.train),
                "updates": updates,
                "per_1000": 1000 * sum(honest["reasons"].values()) / updates,
                "reasons": dict(honest["reasons"]),
                "copies": _play(problem, seed, "copies")["named"],
                "stale": _play(problem, seed, "stale")["named"],
            }
        )
        raise _Enough

    original, quality.compare = quality.compare, judged
    try:
        for name in only:
            folder, load = quality.LOADERS[name]
            if (data / folder).is_dir():
                try:
                    load(data, 0)
                except _Enough:
                    continue
    finally:
        quality.compare = original
    return rows


class _Enough(Exception):
    """The problem has been seen."""


class _Watched:
    """The product's screens, and what they said."""

    def __init__(self, seed: int) -> None:
        self._screens = Screens(f"bench/{seed}")
        self.reasons, self.refused, self.updates = Counter[str](), set[str](), 0
        self.last: TensorSource | None = None  # the hub's step

    def judge_round(self, number: int, updates: Mapping[str, TensorSource], aside: Collection[str] = ()) -> Mapping[str, Verdict]:
        verdicts = self._screens.judge_round(number, updates, aside)
        refused = [e for e, v in verdicts.items() if not v.accepted]
        self.refused.update(refused)
        self.reasons.update(verdicts[e].reason for e in refused)
        self.updates += len(updates)
        return verdicts

    def admit(self, edge: str) -> None:
        self._screens.admit(edge)

    def stepped(self, step: TensorSource) -> None:
        self._screens.stepped(step)
        self.last = step

    def state(self) -> bytes:
        return self._screens.state()

    def restore(self, state: bytes) -> None:
        self._screens.restore(state)


def _play(problem: quality.Problem, seed: int, fault: str) -> dict[str, Any]:
    """All rounds of a study with every update judged; refused ones are set aside."""
    watched = _Watched(seed)
    fleet = Fleet(quality._study(problem, seed), problem.train, classes=problem.classes, screen=watched)
    victim, helper = fleet.names[0], fleet.names[1]
    train = fleet.edges.each

    def tampered(model: Parameters, edges: Sequence[str], number: int) -> Iterator[tuple[str, Made | str]]:
        made = dict(train(model, edges, number))
        own, others = made.get(helper), made.get(victim)
        if isinstance(own, Made) and isinstance(others, Made) and fault == "copies":
            made[helper] = replace(own, tensors=_noisy(others.tensors, number))
        elif isinstance(own, Made) and fault == "stale" and watched.last is not None:
            made[helper] = replace(own, tensors=_noisy(watched.last, number, only=own.tensors.shapes()))
        return iter(made.items())

    fleet.edges.each = tampered  # type: ignore[method-assign]  # the fleet's own training, with one edge that cheats
    for _ in fleet.run():
        pass
    cheats = {"copies": {helper, victim}, "stale": {helper}}.get(fault, set())
    return {"reasons": watched.reasons, "updates": watched.updates, "named": sorted(watched.refused & cheats)}


def _noisy(source: Any, number: int, only: Any = None) -> MemoryTensors:
    """A copy with a twentieth of noise."""
    rng = np.random.default_rng(number)
    made = {}
    for name, shape in (only or source.shapes()).items():
        flat = np.asarray(source.block(name, 0, int(np.prod(shape))), np.float64)
        made[name] = (flat + 0.05 * float(np.std(flat)) * rng.normal(size=flat.shape)).astype(np.float32).reshape(shape)
    return MemoryTensors(made)


if __name__ == "__main__":
    main()
