"""Masked updates added on their way to the hub: what decision 11 proposes, measured on the product's own masks, in one run.

    python bench/masked_relays.py [--edges 100] [--fan-in 10] [--parameters 1000000] [--json]

One session as a round has it, a tenth of the edges dropped out: once each edge sends its masked vector to the hub, once to a
relay, which adds what it got and sends one sum with the list of who is in it. Both are unmasked by the same shares, and the sums
are compared word by word. Bytes are those of vectors, lists and announcements that reach the hub; seconds are CPU seconds of one
thread: `take` is hashing what came, as reception does, `add` adding it, `unmask` taking the masks away. Then the check that would
catch a relay whose sum is not that of its edges' vectors: random linear sums modulo 2^32, drawn after the vectors are fixed. A
wrong sum passes one of them with a chance of a half at most (an error of 2^31 meets an even factor), all with 2^-CHECKS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from wardround.clock import SystemClock
from wardround.learn.privacy.edge_masks import EdgeMasks
from wardround.learn.privacy.hub_masks import HubMasks, HubState
from wardround.learn.privacy.ring import Words, add_vector
from wardround.learn.privacy.wire import Session
from wardround.trust.certificates import Authority, new_key
from wardround.trust.peers import Peers, sign_masks

CHECKS = 40
ANNOUNCED = 400  # bytes of a signed announcement, about: its certificate is in the circle already


def session_of(n: int) -> tuple[HubMasks, dict[str, EdgeMasks]]:
    """A session of n edges in which masking has begun. Signatures are real; those of others are not checked again and again."""
    authority = Authority.in_memory("bench")
    edges = [f"edge-{i:05}" for i in range(n)]
    keys = {e: new_key() for e in edges}
    certificates = {e: authority.issue_edge(e, keys[e].public_key(), 1.0) for e in edges}
    peers = Peers(lambda: authority.pem, SystemClock().now_us)
    peers.check = lambda *_: None  # type: ignore[method-assign]  # bench/masks.py measures them
    session = Session("bench", 1, 1, "train", "0" * 64, "0" * 64, 3)

    def begin(edge: str) -> EdgeMasks:
        def sign(data: bytes) -> tuple[bytes, bytes]:
            return sign_masks(keys[edge], data), certificates[edge]

        return EdgeMasks.begin(session, edge, sign=sign, verify=peers.check)

    masks = {e: begin(e) for e in edges}
    hub = HubMasks(HubState(session), verify=peers.check)
    for edge, own in masks.items():
        hub.offer(edge, own.offer())
    circle = hub.close_circle()
    for edge, own in masks.items():
        hub.deal(edge, own.deal(circle))
    hub.close_deals()
    for edge, own in masks.items():
        own.take(hub.inbox(edge))
    return hub, masks


def opened(hub: HubMasks, masks: dict[str, EdgeMasks], survivors: list[str]) -> None:
    """The survivors agree and give their shares."""
    listed = hub.survive(survivors)
    for edge in survivors:
        hub.vote(edge, masks[edge].vote(listed))
    assert hub.votes is not None
    for edge in survivors:
        hub.opening(edge, masks[edge].open(hub.votes))


def arrived(vectors: list[Words]) -> tuple[Words, float, float]:
    """What the hub does with vectors that came: their sum, and seconds for hashing and for adding."""
    begun = time.thread_time()
    for vector in vectors:
        hashlib.sha256(vector.data).digest()
    hashed = time.thread_time()
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        add_vector(total, vector)
    return total, hashed - begun, time.thread_time() - hashed


def linear_sums(vector: Words, seed: bytes) -> Words:
    """CHECKS random linear sums of a vector, shape (CHECKS,), modulo 2^32: the sum of vectors has the sum of them."""
    found = np.empty(CHECKS, np.uint32)
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(vector.nbytes)
    for number in range(CHECKS):
        found[number] = np.dot(np.frombuffer(stream.update(zeros), np.uint32), vector)
    return found


def measured(n: int, fan_in: int, words: int) -> dict[str, Any]:
    """One session, both ways."""
    hub, masks = session_of(n)
    chance = np.random.default_rng(0)
    survivors = sorted(masks)[: n - n // 10]
    expected = np.zeros(words, np.uint32)
    masked: dict[str, Words] = {}
    for edge in survivors:
        vector = chance.integers(0, 2**20, words, np.uint32)
        add_vector(expected, vector)
        masked[edge] = masks[edge].mask(vector)
    bundles = [survivors[i : i + fan_in] for i in range(0, len(survivors), fan_in)]
    sums, relay_s = [], 0.0
    for bundle in bundles:
        one, take_s, add_s = arrived([masked[e] for e in bundle])
        sums.append(one)
        relay_s = max(relay_s, take_s + add_s)
    opened(hub, masks, survivors)
    ways: dict[str, dict[str, float]] = {}
    for name, vectors in (("direct", list(masked.values())), ("relayed", sums)):
        total, take_s, add_s = arrived(vectors)
        begun = time.thread_time()
        hub.unmask(total, workers=1)
        unmask_s = time.thread_time() - begun
        assert (total == expected).all(), f"{name}: the sum is wrong"
        size = 4 * words * len(vectors) + ANNOUNCED * len(survivors)
        ways[name] = {"bytes": size, "take_s": take_s, "add_s": add_s, "unmask_s": unmask_s}
    seed = os.urandom(32)
    begun = time.thread_time()
    own = linear_sums(masked[bundles[0][0]], seed)
    check_s = time.thread_time() - begun
    told = own + sum((linear_sums(masked[e], seed) for e in bundles[0][1:]), np.zeros(CHECKS, np.uint32))
    assert (linear_sums(sums[0], seed) == told).all(), "an honest sum does not pass"
    wrong = sums[0].copy()
    wrong[words // 2] ^= np.uint32(2**31)  # what passes most easily
    caught = not (linear_sums(wrong, seed) == told).all()
    return {
        "edges": n,
        "fan_in": fan_in,
        "sums": len(sums),
        "relay_s": relay_s,
        "check_s": check_s,
        "caught": caught,
        **ways,
        "bytes_ratio": ways["direct"]["bytes"] / ways["relayed"]["bytes"],
    }


def main() -> int:
    """Measure and print; 1 when a wrong sum was not caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--fan-in", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measured(given.edges, given.fan_in, given.parameters + 1)
    if given.json:
        print(json.dumps(found))
        return 0 if found["caught"] else 1
    print(f"{found['edges']} edges of {given.parameters:,} parameters, a tenth dropped, fan-in {found['fan_in']}")
    for name in ("direct", "relayed"):
        way = found[name]
        print(
            f"  {name:8} {way['bytes'] / 1e6:7.1f} MB reach the hub; CPU: take {way['take_s']:.2f} s, add {way['add_s']:.3f} s,"
            f" unmask {way['unmask_s']:.2f} s"
        )
    print(f"  {found['bytes_ratio']:.1f} times less; a relay takes and adds in {1e3 * found['relay_s']:.0f} ms")
    print(f"  the check: {CHECKS} linear sums of a vector in {1e3 * found['check_s']:.0f} ms; caught: {found['caught']}")
    return 0 if found["caught"] else 1


if __name__ == "__main__":
    sys.exit(main())
