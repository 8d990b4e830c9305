"""The hub's half of a masked round: a state machine without network, clock or disk.

It passes on what it cannot read, counts, and in the end takes away the masks from a sum. Nothing it holds before that tells one
update from noise. `state` is all there is; whoever drives this keeps it on disk before what follows from it is sent, so that a
hub that is killed goes on with the same lists: edges answer no others.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wardround.errors import TrustError
from wardround.learn.privacy.edge_masks import ANYBODY, Admit, Verify, check_admitted, exchange, pair_seed
from wardround.learn.privacy.graph import EDGES_MIN, Plan, plan
from wardround.learn.privacy.groups import split
from wardround.learn.privacy.ring import Words, add_masks
from wardround.learn.privacy.shamir import SHARE_BYTES, join
from wardround.learn.privacy.wire import (
    Circle,
    Deal,
    Inbox,
    Keys,
    MasksRefused,
    Offer,
    Opening,
    Sealed,
    Session,
    Survivors,
    Vote,
    Votes,
    circle_digest,
    commit,
    share_digest,
)

WORKERS = min(8, os.cpu_count() or 1)


class HubState(msgspec.Struct):
    """Everything the hub knows of a session."""

    session: Session
    roster: bytes = b""  # shown with the circle; the same for the whole session
    offers: dict[str, Keys] = msgspec.field(default_factory=dict)
    circle: Circle | None = None  # of one group, where there are groups
    shown: bytes = b""  # digest of the circle that edges were shown, where it is another
    deals: dict[str, Deal] = msgspec.field(default_factory=dict)
    dealt: tuple[str, ...] = ()  # who is in it when masking begins
    survivors: tuple[str, ...] = ()
    votes: dict[str, bytes] = msgspec.field(default_factory=dict)
    seeds: dict[str, dict[str, bytes]] = msgspec.field(default_factory=dict)  # dealer: holder: share
    keys: dict[str, dict[str, bytes]] = msgspec.field(default_factory=dict)


class HubMasks:
    """The hub in one session."""

    def __init__(self, state: HubState, *, verify: Verify, admit: Admit = ANYBODY.admit) -> None:
        """`admit` is asked as edges ask it: one who would spoil the circle for all others is out before it closes."""
        self.state, self._verify, self._admit = state, verify, admit
        self._digest = state.session.digest
        self._shown = state.shown  # digest of the circle
        self._members = frozenset[str]()
        self._boxes: dict[str, dict[str, Sealed]] = {}  # holder: dealer; made when masking begins

    # -- keys

    def offer(self, edge: str, offer: Offer) -> None:
        """Take an edge's keys; the first ones stand.

        Raises:
            MasksRefused: "session", "order", "signature", "key", "roster".
        """
        self._check_session(offer.session)
        keys = offer.keys
        if self.state.circle is not None:
            if keys not in self.state.circle.keys:
                raise MasksRefused("order", f"{edge} offers its keys when the circle is closed")
            return
        if keys.edge != edge:
            raise MasksRefused("signature", f"{edge} offers the keys of {keys.edge[:60]}")
        try:
            self._verify(edge, keys.signed_part(self._digest), keys.signature, keys.certificate)
        except TrustError as error:
            raise MasksRefused("signature", f"the keys of {edge} are not signed by it: {error}") from error
        check_admitted(self._admit, self.state.roster, [keys])
        for key in (keys.mask_key, keys.seal_key):
            exchange(X25519PrivateKey.generate(), key)
        self.state.offers.setdefault(edge, keys)

    def close_circle(self) -> Circle:
        """Nobody joins any more.

        Raises:
            MasksRefused: "too-few".
        """
        state = self.state
        if state.circle is None:
            least = max(EDGES_MIN, state.session.edges_min)
            if len(state.offers) < least:
                raise MasksRefused("too-few", f"{len(state.offers)} of {least} edges have offered keys")
            state.circle = Circle(self._digest, tuple(keys for _, keys in sorted(state.offers.items())), state.roster)
        return state.circle

    def groups(self) -> list[HubMasks]:
        """The hub in each group of the circle that is closed: itself, where there are none."""
        state, circle = self.state, self._circle()
        if not state.session.group_edges:
            return [self]
        found = []
        for own in split(circle, state.session.group_edges):
            offers = {keys.edge: keys for keys in own.keys}
            part = HubState(state.session, state.roster, offers, own, self._circle_digest())
            found.append(HubMasks(part, verify=self._verify, admit=self._admit))
        return found

    @property
    def members(self) -> frozenset[str]:
        """Who is in the circle, once it is closed."""
        circle = self.state.circle
        if circle is not None and not self._members:
            self._members = frozenset(keys.edge for keys in circle.keys)
        return self._members

    # -- shares

    def deal(self, edge: str, deal: Deal) -> None:
        """Take an edge's sealed shares; the first ones stand.

        Raises:
            MasksRefused: "session", "order", "deal".
        """
        self._check_session(deal.session)
        state, sizes = self.state, self._sizes()
        names = [keys.edge for keys in self._circle().keys]
        holders = [s.holder for s in deal.sealed]
        if edge in state.deals:
            return
        if state.dealt:
            raise MasksRefused("order", f"{edge} deals when masking has begun")
        if edge not in names or deal.circle != self._circle_digest():
            raise MasksRefused("deal", f"{edge} deals for another circle")
        if len(set(holders)) != len(holders) or len(holders) != sizes.holders + 1 or not {edge} <= set(holders) <= set(names):
            raise MasksRefused("deal", f"{edge} deals to {len(holders)} holders, not to itself and {sizes.holders} others")
        if sum(s.partner for s in deal.sealed if s.holder != edge) != sizes.partners:
            raise MasksRefused("deal", f"{edge} does not have {sizes.partners} partners")
        state.deals[edge] = deal

    def close_deals(self) -> tuple[str, ...]:
        """Whoever has dealt may mask; the others are out.

        Raises:
            MasksRefused: "too-few".
        """
        state = self.state
        if not state.dealt:
            self._check_enough(state.deals, "have dealt")
            state.dealt = tuple(sorted(state.deals))
        return state.dealt

    def inbox(self, edge: str) -> Inbox:
        """What is sealed for an edge."""
        boxes = {dealer: sealed.box for dealer, sealed in self._held(edge).items() if dealer != edge}
        return Inbox(self._digest, self.state.dealt, boxes)

    # -- survivors

    def survive(self, edges: Collection[str]) -> Survivors:
        """Whose masked updates are in the sum; the first list stands.

        Raises:
            MasksRefused: "order", "too-few".
        """
        state = self.state
        if not state.survivors:
            survivors = tuple(sorted(set(edges) & set(state.dealt)))
            self._check_enough(survivors, "have survived")
            state.survivors = survivors
        return Survivors(self._digest, state.survivors)

    def vote(self, edge: str, vote: Vote) -> None:
        """Take an edge's name under the list.

        Raises:
            MasksRefused: "session", "order", "signature".
        """
        self._check_session(vote.session)
        if edge not in self.state.survivors:
            raise MasksRefused("order", f"{edge} is no survivor that could vote")
        certificate = self.state.offers[edge].certificate
        try:
            self._verify(edge, Survivors(self._digest, self.state.survivors).signed_part(), vote.signature, certificate)
        except TrustError as error:
            raise MasksRefused("signature", f"{edge} has signed another list of survivors: {error}") from error
        self.state.votes[edge] = vote.signature

    @property
    def votes(self) -> Votes | None:
        """The signatures, once they are a quorum."""
        own, quorum = self.state.votes, self._sizes().quorum
        return Votes(self._digest, dict(sorted(own.items())[:quorum])) if len(own) >= quorum else None

    # -- opening

    def opening(self, edge: str, opening: Opening) -> None:
        """Take the shares that an edge gives. One that is not what its dealer dealt is not taken, and neither are the others.

        Raises:
            MasksRefused: "session", "order", "share" (tampered, foreign, of the wrong kind).
        """
        self._check_session(opening.session)
        state = self.state
        if edge not in state.survivors:
            raise MasksRefused("order", f"{edge} is no survivor that could open anything")
        for dealers, shares, kind in ((state.survivors, opening.seeds, "seed"), (self.dropped, opening.keys, "key")):
            for dealer, share in shares.items():
                if dealer not in dealers or len(share) != SHARE_BYTES:
                    raise MasksRefused("share", f"{edge} gives a share of the {kind} of {dealer[:60]}, which nobody asked for")
                sealed = self._held(edge).get(dealer)
                known = b"" if sealed is None else sealed.seed_digest if kind == "seed" else sealed.key_digest
                if not hmac.compare_digest(known, share_digest(self._digest, dealer, edge, share)):
                    raise MasksRefused("share", f"the share of {dealer}'s {kind} that {edge} gives is not what was dealt to it")
        for target, shares in ((state.seeds, opening.seeds), (state.keys, opening.keys)):
            for dealer, share in shares.items():
                target.setdefault(dealer, {})[edge] = share

    @property
    def dropped(self) -> tuple[str, ...]:
        """Who has dealt and not survived: each shares masks with survivors that are still in the sum."""
        return tuple(sorted(set(self.state.dealt) - set(self.state.survivors)))

    @property
    def ready(self) -> bool:
        """Whether every secret that the sum needs can be rebuilt."""
        state, threshold = self.state, self._sizes().threshold
        enough = all(len(state.seeds.get(edge, {})) >= threshold for edge in state.survivors)
        return bool(state.survivors) and enough and all(len(state.keys.get(edge, {})) >= threshold for edge in self.dropped)

    def unmask(self, total: Words, *, limbs: int = 1, workers: int = WORKERS) -> None:
        """Take the masks away from the sum of the survivors' vectors, in place.

        Raises:
            MasksRefused: "order"; "dealer": one dealt shares of something else than what it signed, and is named.
        """
        if not self.ready:
            raise MasksRefused("order", "too few shares are there to unmask the sum")
        plus, minus = self._seeds()
        add_masks(total, plus, minus, limbs=limbs, workers=workers)

    def _seeds(self) -> tuple[list[bytes], list[bytes]]:
        """The seeds of the masks to add and to subtract."""
        state, signed = self.state, {k.edge: k for k in self._circle().keys}
        place = {name: number + 1 for number, name in enumerate(signed)}
        minus = []
        for edge in state.survivors:
            seed = self._joined(edge, state.seeds[edge], place)
            if commit(self._digest, edge, seed) != signed[edge].commitment:
                raise MasksRefused("dealer", f"{edge} dealt shares of another seed than it committed to")
            minus.append(seed)
        plus: list[bytes] = []
        survivors = frozenset(state.survivors)
        for edge in self.dropped:
            secret = X25519PrivateKey.from_private_bytes(self._joined(edge, state.keys[edge], place))
            if secret.public_key().public_bytes_raw() != signed[edge].mask_key:
                raise MasksRefused("dealer", f"{edge} dealt shares of another key than it signed")
            picked = {s.holder for s in state.deals[edge].sealed if s.partner}
            picked_by = {dealer for dealer, sealed in self._held(edge).items() if sealed.partner}
            for other in sorted((picked | picked_by) & survivors):
                seed = pair_seed(secret, signed[other].mask_key, self._digest, edge, other)
                (minus if other < edge else plus).append(seed)  # what the survivor did is undone: the lesser name had added it
        return plus, minus

    def _joined(self, dealer: str, shares: Mapping[str, bytes], place: Mapping[str, int]) -> bytes:
        some = dict(sorted((place[holder], share) for holder, share in shares.items())[: self._sizes().threshold])
        try:
            return join(some)
        except ValueError as error:
            raise MasksRefused("dealer", f"{dealer} dealt shares of nothing") from error

    # -- parts

    def _check_session(self, digest: bytes) -> None:
        if digest != self._digest:
            raise MasksRefused("session", "the message belongs to another session")

    def _check_enough(self, edges: Collection[str], what: str) -> None:
        session, quorum = self.state.session, self._sizes().quorum
        least = quorum if session.group_edges else max(quorum, session.edges_min)
        if len(edges) < least:
            raise MasksRefused("too-few", f"{len(edges)} of {least} edges needed {what}")

    def _circle(self) -> Circle:
        if self.state.circle is None:
            raise MasksRefused("order", "the circle is not closed yet")
        return self.state.circle

    def _circle_digest(self) -> bytes:
        if not self._shown:
            self._shown = circle_digest(self._circle())
        return self._shown

    def _held(self, holder: str) -> Mapping[str, Sealed]:
        """What was dealt to a holder, by dealer."""
        if not self._boxes:
            for dealer in self.state.dealt:
                for sealed in self.state.deals[dealer].sealed:
                    self._boxes.setdefault(sealed.holder, {})[dealer] = sealed
        return self._boxes.get(holder, {})

    def _sizes(self) -> Plan:
        return plan(len(self._circle().keys))


def encode_state(state: HubState) -> bytes:
    """As it lies on the hub's disk."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes) -> HubState:
    """The inverse of encode_state.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.msgpack.decode(data, type=HubState)
