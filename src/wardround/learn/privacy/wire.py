"""What hub and edges say to each other while they mask, as plain values; MessagePack on the wire and on disk.

One session is one attempt at one round of one study. Its digest stands under every signature, key and sealed share, so that
nothing of one session means anything in another.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import msgspec

from wardround.errors import LearnError
from wardround.malformed import MALFORMED

CONTEXT = b"wardround masks v1\0"


class MasksRefused(LearnError):
    """A masked round is not as agreed. `reason` is a short constant; `lie`: only a hub that lies can have caused it."""

    def __init__(self, reason: str, message: str, *, lie: bool = False) -> None:
        super().__init__(
            message, remedy="nothing of this edge's update is opened; look at the hub" if lie else "the round is given up"
        )
        self.reason, self.lie = reason, lie


class Session(msgspec.Struct, frozen=True):
    """What every edge of a round must agree on before it masks anything."""

    study: str
    round_number: int
    attempt: int
    task: str
    base: str
    settings_sha256: str  # of Order.settings and Order.masks: clip, weights and a nonce are in there
    edges_min: int
    group_edges: int = 0  # edges of a group at least; 0: the circle is one

    @property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        return hashlib.sha256(CONTEXT + b"session\0" + msgspec.msgpack.encode(self)).digest()


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """An edge's keys for one session, fresh, signed with its own lasting key."""

    edge: str
    mask_key: bytes  # X25519, public: pairwise masks
    seal_key: bytes  # X25519, public: shares on their way
    commitment: bytes  # SHA-256 of the seed of its own mask
    signature: bytes = b""
    certificate: bytes = b""  # PEM, of the key that signed
    voucher: bytes = b""  # of the edge's lasting key, for the certificate: trust.roster

    def signed_part(self, session: bytes) -> bytes:
        """The bytes that the edge signs."""
        return _signed(b"keys", session, self.edge, self.mask_key, self.seal_key, self.commitment)


class Circle(msgspec.Struct, frozen=True, tag="circle"):
    """Hub to edges: everybody whose keys are in this session."""

    session: bytes
    keys: tuple[Keys, ...]
    roster: bytes = b""  # who may be in it, signed away from the hub; empty: this hub has none


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """Two shares for one holder, which it alone can open; and the digests by which the hub knows them when they are given."""

    holder: str
    box: bytes
    seed_digest: bytes
    key_digest: bytes
    partner: bool


class Deal(msgspec.Struct, frozen=True, tag="deal"):
    """Edge to hub: shares for its holders, itself among them."""

    session: bytes
    circle: bytes  # digest of what the edge was shown
    sealed: tuple[Sealed, ...]


class Inbox(msgspec.Struct, frozen=True, tag="inbox"):
    """Hub to one edge: who has dealt, and what is sealed for it, by dealer."""

    session: bytes
    dealt: tuple[str, ...]
    boxes: dict[str, bytes]


class Survivors(msgspec.Struct, frozen=True, tag="survivors"):
    """Hub to survivors: whose masked updates are in the sum."""

    session: bytes
    edges: tuple[str, ...]

    def signed_part(self) -> bytes:
        """The bytes that every survivor signs."""
        return _signed(b"survivors", self.session, *self.edges)


class Vote(msgspec.Struct, frozen=True, tag="vote"):
    """Edge to hub: its name under the list of survivors."""

    session: bytes
    signature: bytes


class Votes(msgspec.Struct, frozen=True, tag="votes"):
    """Hub to survivors: the signatures, by edge."""

    session: bytes
    signatures: dict[str, bytes]


class Opening(msgspec.Struct, frozen=True, tag="opening"):
    """Edge to hub: of each dealer exactly one share: of its seed if it survived, of its key if it dropped out."""

    session: bytes
    seeds: dict[str, bytes]
    keys: dict[str, bytes]


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """Edge to hub: its keys."""

    session: bytes
    keys: Keys


FromHub: TypeAlias = Circle | Inbox | Survivors | Votes
FromEdge: TypeAlias = Offer | Deal | Vote | Opening
_from_hub = msgspec.msgpack.Decoder[FromHub](Circle | Inbox | Survivors | Votes)
_from_edge = msgspec.msgpack.Decoder[FromEdge](Offer | Deal | Vote | Opening)


def encode(message: FromHub | FromEdge) -> bytes:
    """MessagePack."""
    return msgspec.msgpack.encode(message)


def from_hub(data: bytes) -> FromHub:
    """A message of the hub.

    Raises:
        MasksRefused: "malformed".
    """
    try:
        message: FromHub = _from_hub.decode(data)
    except MALFORMED as error:
        raise MasksRefused("malformed", f"the hub's message cannot be read: {error}") from error
    return message


def from_edge(data: bytes) -> FromEdge:
    """A message of an edge.

    Raises:
        MasksRefused: "malformed".
    """
    try:
        message: FromEdge = _from_edge.decode(data)
    except MALFORMED as error:
        raise MasksRefused("malformed", f"an edge's message cannot be read: {error}") from error
    return message


def circle_digest(circle: Circle) -> bytes:
    """What an edge says it was shown: everybody's keys, in order, without the signatures under them."""
    return hashlib.sha256(b"".join(keys.signed_part(circle.session) for keys in circle.keys)).digest()


def share_digest(session: bytes, dealer: str, holder: str, share: bytes) -> bytes:
    """By which the hub knows a share. A share has 256 bits that nobody can guess, so its digest gives nothing away."""
    return hashlib.sha256(_signed(b"share", session, dealer, holder, share)).digest()


def commit(session: bytes, edge: str, seed: bytes) -> bytes:
    """An edge's commitment to the seed of its own mask."""
    return hashlib.sha256(_signed(b"seed", session, edge, seed)).digest()


def named(what: bytes, session: bytes, *names: str) -> bytes:
    """The info of a key derivation: what it is for, in which session, between whom."""
    return _signed(what, session, *names)


def _signed(what: bytes, *parts: bytes | str) -> bytes:
    """Parts with their lengths, so that no two lists of parts give the same bytes."""
    out = [CONTEXT, what, b"\0"]
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        out += [len(data).to_bytes(4), data]
    return b"".join(out)
