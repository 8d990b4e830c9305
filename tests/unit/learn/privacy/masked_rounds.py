"""Masked rounds in one process: edges and a hub from the product's own halves, with every message through its wire form."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np

from wardround.errors import CertificateRefused
from wardround.learn.privacy import edge_masks, hub_masks
from wardround.learn.privacy.edge_masks import EdgeMasks
from wardround.learn.privacy.hub_masks import HubMasks, HubState
from wardround.learn.privacy.ring import add_vector
from wardround.learn.privacy.wire import MasksRefused, Session, encode, from_edge, from_hub


def sign(edge):
    """A signature that costs nothing; the real ones are in the tests of the link."""
    key = hashlib.sha256(edge.encode()).digest()
    return lambda data: (hmac.digest(key, data, "sha256"), b"certificate of " + edge.encode())


def verify(edge, data, signature, certificate):
    if sign(edge)(data) != (signature, certificate):
        raise CertificateRefused("not signed by it")


def session(round_number=1, attempt=1, study="s", edges_min=3):
    return Session(study, round_number, attempt, "train", "base", "settings", edges_min)


def names(n):
    return [f"edge-{i:03}" for i in range(n)]


class Round:
    """One session. Each step takes who takes part in it; `restart` puts both sides through their disks after every step."""

    def __init__(self, edges, of=None, *, restart=False):
        self.session, self.restart = of or session(), restart
        self.hub = HubMasks(HubState(self.session), verify=verify)
        self.edges = {e: EdgeMasks.begin(self.session, e, sign=sign(e), verify=verify) for e in edges}

    def _again(self):
        if self.restart:
            self.hub = HubMasks(hub_masks.decode_state(hub_masks.encode_state(self.hub.state)), verify=verify)
            for edge, own in self.edges.items():
                state = edge_masks.decode_state(edge_masks.encode_state(own.state))
                self.edges[edge] = EdgeMasks(state, sign=sign(edge), verify=verify)

    def up(self, message):
        return from_edge(encode(message))

    def down(self, message):
        return from_hub(encode(message))

    def meet(self, offering=None):
        for edge in offering or self.edges:
            self.hub.offer(edge, self.up(self.edges[edge].offer()))
        self.circle = self.down(self.hub.close_circle())
        self._again()

    def deal(self, dealing=None):
        for edge in dealing or self.edges:
            self.hub.deal(edge, self.up(self.edges[edge].deal(self.circle)))
        self.hub.close_deals()
        self._again()
        for edge in self.hub.state.dealt:
            self.edges[edge].take(self.down(self.hub.inbox(edge)))
        self._again()

    def mask(self, vectors, limbs=1):
        self.masked = {e: self.edges[e].mask(v, limbs=limbs) for e, v in vectors.items() if e in self.hub.state.dealt}
        self._again()
        return self.masked

    def agree(self, survivors, voting=None):
        self.survivors = self.down(self.hub.survive(survivors))
        for edge in voting or survivors:
            self.hub.vote(edge, self.up(self.edges[edge].vote(self.survivors)))
        self._again()
        self.votes = self.hub.votes

    def open(self, opening):
        if self.votes is None:
            raise MasksRefused("too-few", "no quorum has signed")
        for edge in opening:
            self.hub.opening(edge, self.up(self.edges[edge].open(self.down(self.votes))))
        self._again()

    def sum(self, survivors, limbs=1, workers=1):
        total = np.zeros(len(next(iter(self.masked.values()))), np.uint32)
        for edge in survivors:
            add_vector(total, self.masked[edge], limbs=limbs)
        self.hub.unmask(total, limbs=limbs, workers=workers)
        return total
