"""An edge's half of a masked round: a state machine without network, clock or disk.

Every step answers the same message in the same way however often it comes, and refuses another one in its place: the first binds.
`state` is all there is; who drives this keeps it on disk before an answer leaves, so that a restart cannot be talked out of it.
Source: Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017, IACR 2017/281 (figure 4,
with its consistency check); Bell et al., CCS 2020. docs/decisions/0007 says which step refuses what.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.errors import TrustError
from wardround.learn.privacy.graph import EDGES_MAX, EDGES_MIN, Plan, plan
from wardround.learn.privacy.groups import check_group_edges, own_circle
from wardround.learn.privacy.ring import Words, add_masks
from wardround.learn.privacy.shamir import SHARE_BYTES, split
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
    named,
    share_digest,
)

Sign = Callable[[bytes], tuple[bytes, bytes]]  # the signature, and the certificate (PEM) of its key
Verify = Callable[[str, bytes, bytes, bytes], None]  # edge, data, signature, certificate; raises TrustError
Admit = Callable[[bytes, Collection[tuple[str, bytes, bytes]]], None]  # a roster, and edges with certificate and voucher


class Rostered(NamedTuple):
    """Whom an edge takes part with, and how it shows that it is one of them (trust.roster)."""

    vouch: Callable[[bytes], bytes] = lambda _certificate: b""
    admit: Admit = lambda _roster, _members: None  # raises TrustError, with `lie` where only a hub that lies can have said it


ANYBODY: Final = Rostered()
NONCE: Final = bytes(12)  # a box's key seals one box


class Shares(msgspec.Struct, frozen=True, array_like=True):
    """What a dealer has given to this edge."""

    seed: bytes
    key: bytes
    partner: bool


class EdgeState(msgspec.Struct):
    """Everything an edge knows of a session: secrets, and what it has said."""

    session: Session
    edge: str
    mask_secret: bytes
    seal_secret: bytes
    seed: bytes
    keys: Keys
    circle: Circle | None = None  # of its own group, where there are groups
    deal: Deal | None = None
    inbox: bytes = b""  # digest of the one that was taken
    dealt: tuple[str, ...] = ()
    held: dict[str, Shares] = msgspec.field(default_factory=dict)
    masked: bytes = b""  # digest of the vector that the masks are used for: they hide one vector alone
    survivors: tuple[str, ...] = ()
    opened: bool = False


class EdgeMasks:
    """One edge in one session."""

    def __init__(self, state: EdgeState, *, sign: Sign, verify: Verify, rostered: Rostered = ANYBODY) -> None:
        self.state, self._sign, self._verify, self._rostered = state, sign, verify, rostered
        self._digest = state.session.digest

    @classmethod
    def begin(
        cls, session: Session, edge: str, *, sign: Sign, verify: Verify, rostered: Rostered = ANYBODY, opened: int = -1
    ) -> EdgeMasks:
        """Fresh keys. `opened` is the newest round of the study in which this edge has opened a sum.

        Raises:
            MasksRefused: "replayed": a round is opened once, or the hub could subtract two sums; "too-few".
        """
        if session.round_number <= opened:
            raise MasksRefused(
                "replayed",
                f"round {session.round_number} of {session.study}: this edge has opened round {opened} already",
                lie=True,
            )
        check_group_edges(session.group_edges)
        if session.edges_min < EDGES_MIN:
            raise MasksRefused("too-few", f"a sum of {session.edges_min} edges hides nobody: {EDGES_MIN} are the least", lie=True)
        mask, seal, seed = X25519PrivateKey.generate(), X25519PrivateKey.generate(), secrets.token_bytes(32)
        digest = session.digest
        keys = Keys(
            edge=edge,
            mask_key=mask.public_key().public_bytes_raw(),
            seal_key=seal.public_key().public_bytes_raw(),
            commitment=commit(digest, edge, seed),
        )
        signature, certificate = sign(keys.signed_part(digest))
        voucher = rostered.vouch(certificate)
        keys = msgspec.structs.replace(keys, signature=signature, certificate=certificate, voucher=voucher)
        state = EdgeState(session, edge, mask.private_bytes_raw(), seal.private_bytes_raw(), seed, keys)
        return cls(state, sign=sign, verify=verify, rostered=rostered)

    def offer(self) -> Offer:
        """The first thing said."""
        return Offer(self._digest, self.state.keys)

    def deal(self, circle: Circle) -> Deal:
        """Shares of this edge's two secrets for its holders, which it picks by itself.

        Raises:
            MasksRefused: "session", "circle" (another one was shown before, or it is no circle), "too-few", "signature",
                "roster" (somebody is in it whom the roster does not name).
        """
        state = self.state
        self._check_session(circle.session)
        shown = circle_digest(circle)
        if state.circle is not None and state.deal is not None:
            if shown != state.deal.circle:
                raise MasksRefused("circle", "the hub shows two circles in one session", lie=True)
            return state.deal
        self._check_circle(circle)
        own = own_circle(circle, state.session.group_edges, state.edge)
        names = [keys.edge for keys in own.keys]
        sizes = plan(len(names))
        others = [name for name in names if name != state.edge]
        holders = others if sizes.complete else secrets.SystemRandom().sample(others, sizes.holders)
        partners = frozenset(holders[: sizes.partners])
        place = {name: number + 1 for number, name in enumerate(names)}
        spots = [place[name] for name in (state.edge, *holders)]
        seeds, secrets_ = (split(secret, sizes.threshold, spots) for secret in (state.seed, state.mask_secret))
        seal_keys = {keys.edge: keys.seal_key for keys in own.keys}
        state.held[state.edge] = Shares(seeds[place[state.edge]], secrets_[place[state.edge]], False)
        sealed = []
        for holder in (state.edge, *sorted(holders)):
            seed, key = seeds[place[holder]], secrets_[place[holder]]
            partner = holder in partners
            box = b"" if holder == state.edge else self._box(seal_keys[holder], holder, seed + key + bytes([partner]))
            seed_digest, key_digest = (share_digest(self._digest, state.edge, holder, share) for share in (seed, key))
            sealed.append(Sealed(holder, box, seed_digest, key_digest, partner))
        state.circle, state.deal = own, Deal(self._digest, shown, tuple(sealed))
        return state.deal

    def take(self, inbox: Inbox) -> None:
        """Take the shares that others have dealt to this edge. After this it can mask.

        Raises:
            MasksRefused: "session", "order", "inbox", "too-few", "box".
        """
        state = self.state
        self._check_session(inbox.session)
        sizes, digest = self._sizes(), hashlib.sha256(msgspec.msgpack.encode(inbox, order="sorted")).digest()
        if state.inbox:
            if state.inbox != digest:
                raise MasksRefused("inbox", "the hub gives two inboxes in one session", lie=True)
            return
        names = self._names()
        dealt = frozenset(inbox.dealt)
        if list(inbox.dealt) != sorted(dealt & names) or state.edge not in dealt or not set(inbox.boxes) <= dealt - {state.edge}:
            raise MasksRefused("inbox", "the hub names dealers who are not in the circle", lie=True)
        if sizes.complete and set(inbox.boxes) != dealt - {state.edge}:
            raise MasksRefused("inbox", "the hub keeps shares back that were dealt to this edge", lie=True)
        self._check_enough(dealt, "have dealt")
        keys = {k.edge: k.seal_key for k in self._circle().keys}
        opened = {dealer: self._unbox(keys[dealer], dealer, box) for dealer, box in inbox.boxes.items()}
        state.held.update(opened)
        state.dealt, state.inbox = tuple(sorted(dealt)), digest

    def mask(self, vector: Words, *, limbs: int = 1, workers: int = 1) -> Words:
        """The vector under this edge's masks: uniform to whoever lacks the seeds.

        Raises:
            MasksRefused: "order"; "reused": the masks hide another vector already, and two under one mask show their difference.
        """
        state = self.state
        if not state.inbox:
            raise MasksRefused("order", "no shares have been taken yet")
        digest = hashlib.sha256(vector.data).digest()
        if state.masked not in (b"", digest):
            raise MasksRefused("reused", "these masks hide another vector already")
        state.masked = digest
        plus, minus = [state.seed], list[bytes]()
        secret, keys = X25519PrivateKey.from_private_bytes(state.mask_secret), {k.edge: k.mask_key for k in self._circle().keys}
        for other in self._pairs():
            (plus if state.edge < other else minus).append(pair_seed(secret, keys[other], self._digest, state.edge, other))
        masked = vector.copy()
        add_masks(masked, plus, minus, limbs=limbs, workers=workers)
        return masked

    def vote(self, survivors: Survivors) -> Vote:
        """Sign the list of survivors.

        Raises:
            MasksRefused: "session", "order", "survivors" (another list was signed, or it is none), "too-few".
        """
        state = self.state
        self._check_session(survivors.session)
        if not state.masked:
            raise MasksRefused("order", "this edge has masked nothing, and cannot have survived", lie=True)
        if state.survivors and state.survivors != survivors.edges:
            raise MasksRefused("survivors", "the hub names other survivors than before", lie=True)
        listed = frozenset(survivors.edges)
        if list(survivors.edges) != sorted(listed & frozenset(state.dealt)) or state.edge not in listed:
            raise MasksRefused("survivors", "the list of survivors is none of this session, or lacks this edge", lie=True)
        self._check_enough(listed, "have survived")
        state.survivors = survivors.edges
        signature, _ = self._sign(survivors.signed_part())
        return Vote(self._digest, signature)

    def open(self, votes: Votes) -> Opening:
        """Give of each dealer exactly one share, once a quorum has signed the list of survivors that this edge signed.

        Raises:
            MasksRefused: "session", "order", "votes".
        """
        state = self.state
        self._check_session(votes.session)
        if not state.survivors:
            raise MasksRefused("order", "no list of survivors has been signed", lie=True)
        survivors, quorum = frozenset(state.survivors), self._sizes().quorum
        said, good = Survivors(self._digest, state.survivors).signed_part(), 0
        certificates = {k.edge: k.certificate for k in self._circle().keys}
        for edge, signature in votes.signatures.items():
            if good < quorum and edge in survivors and self._holds(edge, said, signature, certificates[edge]):
                good += 1
        if good < quorum:
            raise MasksRefused("votes", f"{good} of {quorum} survivors have signed the list that this edge was shown", lie=True)
        state.opened, state.mask_secret, state.seal_secret, state.seed = True, b"", b"", b""  # nobody needs them any more
        dealers = {dealer: own for dealer, own in state.held.items() if dealer in state.dealt}
        return Opening(
            self._digest,
            {dealer: own.seed for dealer, own in dealers.items() if dealer in survivors},
            {dealer: own.key for dealer, own in dealers.items() if dealer not in survivors},
        )

    # -- checks

    def _check_session(self, digest: bytes) -> None:
        if digest != self._digest:
            raise MasksRefused("session", "the message belongs to another session")

    def _check_circle(self, circle: Circle) -> None:
        state, names = self.state, [keys.edge for keys in circle.keys]
        if names != sorted(set(names)) or len(names) > EDGES_MAX or state.keys not in circle.keys:
            raise MasksRefused("circle", "the circle is not in order, or lacks this edge's own keys", lie=True)
        if len(names) < max(EDGES_MIN, state.session.edges_min):
            raise MasksRefused("too-few", f"{len(names)} edges are in the circle, {state.session.edges_min} are agreed", lie=True)
        for keys in circle.keys:
            if keys.edge != state.edge and not self._holds(
                keys.edge, keys.signed_part(self._digest), keys.signature, keys.certificate
            ):
                raise MasksRefused("signature", f"the keys of {keys.edge[:60]} are not signed by {keys.edge[:60]}", lie=True)
        check_admitted(self._rostered.admit, circle.roster, circle.keys)

    def _check_enough(self, edges: Collection[str], what: str) -> None:
        """A quorum in all, and enough of those that this edge itself picked: else what is left could all be the hub's."""
        sizes, state = self._sizes(), self.state
        least = sizes.quorum if state.session.group_edges else max(sizes.quorum, state.session.edges_min)
        own = {s.holder for s in self._deal().sealed if s.holder != state.edge} & set(edges)
        wanted = sizes.threshold - sizes.complete  # of a complete circle this edge itself is one
        if len(edges) < least or len(own) < wanted:
            raise MasksRefused("too-few", f"{len(edges)} of {least} edges needed {what}, {len(own)} of {wanted} holders")

    def _holds(self, edge: str, data: bytes, signature: bytes, certificate: bytes) -> bool:
        try:
            self._verify(edge, data, signature, certificate)
        except TrustError:
            return False
        return True

    # -- parts

    def _circle(self) -> Circle:
        if self.state.circle is None:
            raise MasksRefused("order", "no circle has been shown yet")
        return self.state.circle

    def _deal(self) -> Deal:
        if self.state.deal is None:
            raise MasksRefused("order", "nothing has been dealt yet")
        return self.state.deal

    def _sizes(self) -> Plan:
        return plan(len(self._circle().keys))

    def _names(self) -> frozenset[str]:
        return frozenset(keys.edge for keys in self._circle().keys)

    def _pairs(self) -> list[str]:
        """Dealers that share a mask with this edge: it picked them, or they picked it."""
        state = self.state
        picked = {s.holder for s in self._deal().sealed if s.partner}
        picked_by = {dealer for dealer, own in state.held.items() if own.partner}
        return sorted((picked | picked_by) & frozenset(state.dealt))

    def _box(self, key: bytes, holder: str, shares: bytes) -> bytes:
        box_key, info = self._box_key(key, self.state.edge, holder)
        return AESGCM(box_key).encrypt(NONCE, shares, info)

    def _unbox(self, key: bytes, dealer: str, box: bytes) -> Shares:
        box_key, info = self._box_key(key, dealer, self.state.edge)
        try:
            shares = AESGCM(box_key).decrypt(NONCE, box, info)
        except InvalidTag as error:
            raise MasksRefused(
                "box", f"the shares of {dealer[:60]} are not what it sealed for this edge in this session"
            ) from error
        if len(shares) != 2 * SHARE_BYTES + 1:
            raise MasksRefused("box", f"the shares of {dealer[:60]} have {len(shares)} bytes")
        return Shares(shares[:SHARE_BYTES], shares[SHARE_BYTES:-1], shares[-1] == 1)

    def _box_key(self, key: bytes, dealer: str, holder: str) -> tuple[bytes, bytes]:
        info = named(b"box", self._digest, dealer, holder)
        shared = exchange(X25519PrivateKey.from_private_bytes(self.state.seal_secret), key)
        return HKDF(hashes.SHA256(), 32, None, info).derive(shared), info


def check_admitted(admit: Admit, roster: bytes, keys: Collection[Keys]) -> None:
    """Whether a roster names everybody who has these keys.

    Raises:
        MasksRefused: "roster".
    """
    try:
        admit(roster, [(own.edge, own.certificate, own.voucher) for own in keys])
    except TrustError as error:
        raise MasksRefused("roster", f"{error}; {error.remedy}", lie=getattr(error, "lie", False)) from error


def pair_seed(secret: X25519PrivateKey, key: bytes, session: bytes, edge: str, other: str) -> bytes:
    """The seed of the mask that two edges share; the same from either side. The lesser name adds it, the other subtracts it."""
    low, high = sorted((edge, other))
    return HKDF(hashes.SHA256(), 32, None, named(b"pair", session, low, high)).derive(exchange(secret, key))


def exchange(secret: X25519PrivateKey, key: bytes) -> bytes:
    """The secret that two keys share.

    Raises:
        MasksRefused: "key": it is no public key, or one whose secret anybody knows.
    """
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError as error:
        raise MasksRefused("key", "a public key of 32 bytes that hides a secret is wanted") from error


def encode_state(state: EdgeState) -> bytes:
    """As it lies on the edge's disk."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes) -> EdgeState:
    """The inverse of encode_state.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.msgpack.decode(data, type=EdgeState)
