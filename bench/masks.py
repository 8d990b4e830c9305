"""Masks beside bare AES-CTR, in one run: what an edge pays to hide a million parameters, and the hub to unmask their sum.

    python bench/masks.py [--edges 100,1000] [--parameters 1000000] [--repeats 5] [--json]

The limit of an edge is the bare key stream of as many masks as it adds; of the hub, that of as many as it takes away: nobody who
draws his masks from AES-CTR can be faster. Every session is real: keys signed with P-256 and checked under certificates, shares
sealed and opened, a tenth of the edges dropped out after they dealt, and the sum compared with what was put in. Seconds are CPU
seconds, as the machine may be shared: at the edge of one thread, at the hub of one thread (`unmask_s`), and of the longest way
through two (`two_cores_s`: keys are rebuilt by one, masks are taken away by both). `wall_s` is the clock's, with all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from wardround.clock import SystemClock
from wardround.learn.privacy.edge_masks import EdgeMasks
from wardround.learn.privacy.graph import plan
from wardround.learn.privacy.hub_masks import WORKERS, HubMasks, HubState
from wardround.learn.privacy.ring import Scale, add_vector
from wardround.learn.privacy.wire import Session, encode
from wardround.trust.certificates import Authority, new_key
from wardround.trust.peers import Peers, sign_masks

EDGE_S_MAX, UNMASK_S_MAX, UPLOAD_MAX, UNMASK_1000_S_MAX = 0.060, 0.4, 0.01, 5.0
PREFIX = 64  # words of the other edges' vectors: masks are key streams, so a prefix shows that the sum is right


class Spent:
    """CPU seconds of this thread, by what they were spent on."""

    def __init__(self) -> None:
        self.s: dict[str, float] = {}

    def on(self, what: str, work: Any, *args: Any) -> Any:
        begun = time.thread_time()
        result = work(*args)
        self.s[what] = self.s.get(what, 0.0) + time.thread_time() - begun
        return result


def bare(masks: int, words: int) -> float:
    """Seconds of CPU for the key streams alone."""
    zeros, out = bytes(4 * words), np.empty(4 * words + 15, np.uint8)
    begun = time.thread_time()
    for _ in range(masks):
        Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor().update_into(zeros, out.data)
    return time.thread_time() - begun


def measured(n: int, words: int) -> dict[str, Any]:
    """One session of n edges."""
    authority, clock = Authority.in_memory("bench"), SystemClock()
    edges = [f"edge-{i:05}" for i in range(n)]
    keys = {e: new_key() for e in edges}
    certificates = {e: authority.issue_edge(e, keys[e].public_key(), 1.0) for e in edges}
    peers = Peers(lambda: authority.pem, clock.now_us)
    session = Session("bench", 1, 1, "train", "0" * 64, "0" * 64, 3)

    def sign(edge: str) -> Any:
        return lambda data: (sign_masks(keys[edge], data), certificates[edge])

    spent, sent, first = Spent(), 0, edges[0]
    hub = HubMasks(HubState(session), verify=peers.check)
    for edge in edges[1:]:  # so that the measured edge meets certificates that it knows, as in any round but a day's first
        hub.offer(edge, EdgeMasks.begin(session, edge, sign=sign(edge), verify=peers.check).offer())
    hub = HubMasks(HubState(session), verify=peers.check)
    own = spent.on("keys", lambda: EdgeMasks.begin(session, first, sign=sign(first), verify=peers.check))
    masks = {first: own, **{e: EdgeMasks.begin(session, e, sign=sign(e), verify=peers.check) for e in edges[1:]}}
    for edge in edges:
        hub.offer(edge, masks[edge].offer())
    sent += len(encode(own.offer()))
    circle = hub.close_circle()
    deal = spent.on("shares", own.deal, circle)
    sent += len(encode(deal))
    hub.deal(first, deal)
    quick = Peers(lambda: authority.pem, clock.now_us)
    quick.check = lambda *_: None  # type: ignore[method-assign]  # the others' checks are the same work again, and not measured
    for edge in edges[1:]:
        masks[edge]._verify = quick.check
        hub.deal(edge, masks[edge].deal(circle))
    hub.close_deals()
    spent.on("shares", own.take, hub.inbox(first))
    for edge in edges[1:]:
        masks[edge].take(hub.inbox(edge))
    chance = np.random.default_rng(0)
    scale = Scale(n, 4.0, 10_000)
    update = chance.normal(0, 0.01, words - 1).astype(np.float32)
    vector, _ = spent.on("quantise", scale.encode, [update], 500)
    masked = spent.on("mask", own.mask, vector)
    survivors = edges[: n - n // 10]
    total, expected = masked.copy(), vector.copy()
    for edge in survivors[1:]:
        small = chance.integers(0, 2**32, PREFIX, np.uint32)
        add_vector(total[:PREFIX], masks[edge].mask(small))
        expected[:PREFIX] += small
    listed = hub.survive(survivors)
    for edge in survivors:
        vote = spent.on("votes", own.vote, listed) if edge == first else masks[edge].vote(listed)
        hub.vote(edge, vote)
    sent += len(encode(own.vote(listed)))
    assert hub.votes is not None
    for edge in survivors:
        opening = spent.on("votes", own.open, hub.votes) if edge == first else masks[edge].open(hub.votes)
        hub.opening(edge, opening)
        sent += len(encode(opening)) if edge == first else 0
    pairs = len(own._pairs())
    seconds, masks_at_hub = unmasking(hub, total, expected, 1 if n > 500 else 3)
    edge_s = sum(spent.s.values())
    limit_s = min(bare(pairs + 1, words) for _ in range(3))
    size = plan(n)
    return {
        "edges": n,
        "holders": size.holders,
        "threshold": size.threshold,
        "masks_an_edge": pairs + 1,
        "edge_ms": {name: 1e3 * s for name, s in spent.s.items()},
        "edge_s": edge_s,
        "edge_bare_s": limit_s,
        "edge_ratio": edge_s / limit_s,
        "masks_at_hub": masks_at_hub,
        **{name: min(values) for name, values in seconds.items()},
        "unmask_ratio": min(seconds["unmask_s"]) / min(seconds["bare_s"]),
        "extra_upload": sent / (4 * words),
    }


def unmasking(hub: HubMasks, total: Any, expected: Any, repeats: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of unmasking a sum, whose prefix is compared; and the number of masks that are taken away."""
    plus, minus = hub._seeds()
    seconds: dict[str, list[float]] = {"unmask_s": [], "two_cores_s": [], "wall_s": [], "bare_s": []}
    for _ in range(repeats):
        for workers in (1, WORKERS):
            unmasked = total.copy()
            wall, cpu = time.perf_counter(), time.process_time()
            hub.unmask(unmasked, workers=workers)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if workers == 1:
                seconds["unmask_s"].append(cpu)
            if workers == WORKERS:
                begun = time.thread_time()
                hub._seeds()
                alone = time.thread_time() - begun
                seconds["two_cores_s"].append(alone + (cpu - alone) / min(2, WORKERS))
                seconds["wall_s"].append(wall)
            assert (unmasked[:PREFIX] == expected[:PREFIX]).all(), "the sum is wrong"
        seconds["bare_s"].append(bare(len(plus) + len(minus), len(total)))
    return seconds, len(plus) + len(minus)


def main() -> int:
    """Measure, print, and end with 1 when something is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", default="100,1000")
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found, missed = [], []
    for n in (int(part) for part in given.edges.split(",")):
        runs = [measured(n, given.parameters + 1) for _ in range(1 if n > 500 else given.repeats)]
        best = min(runs, key=lambda run: run["edge_s"])
        best["edge_s_median"] = statistics.median(run["edge_s"] for run in runs)
        for name in ("unmask_s", "two_cores_s", "wall_s", "unmask_ratio"):
            best[name] = min(run[name] for run in runs)
        found.append(best)
        if n <= 100:
            missed += [f"edge {best['edge_s']:.3f} s"] * (best["edge_s"] > EDGE_S_MAX)
            missed += [f"unmask {best['unmask_s']:.2f} s"] * (best["unmask_s"] > UNMASK_S_MAX)
            missed += [f"extra upload {best['extra_upload']:.2%}"] * (best["extra_upload"] > UPLOAD_MAX)
        else:
            missed += [f"unmask {best['two_cores_s']:.2f} s"] * (best["two_cores_s"] > UNMASK_1000_S_MAX)
        if not given.json:
            parts = ", ".join(f"{name} {ms:.1f}" for name, ms in best["edge_ms"].items())
            print(
                f"{n} edges, {best['holders']} holders, threshold {best['threshold']}: an edge {1e3 * best['edge_s']:.0f} ms"
                f" ({parts}), {best['edge_ratio']:.2f} times the bare key streams of its {best['masks_an_edge']} masks"
            )
            print(
                f"  hub unmasks a tenth dropped in {best['unmask_s']:.2f} s on one core, {best['two_cores_s']:.2f} s on"
                f" two (by the clock {best['wall_s']:.2f}): {best['unmask_ratio']:.2f} times the bare"
                f" {best['masks_at_hub']} key streams; extra upload {best['extra_upload']:.2%}"
            )
    if given.json:
        print(json.dumps({"runs": found, "missed": missed}))
    elif missed:
        print("missed:", "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
