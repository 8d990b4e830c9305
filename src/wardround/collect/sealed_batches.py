"""Batches of the hub's inbox, sealed: one blob for each subject in a batch, so that a batch of thousands costs a few encryptions.

A sealed batch is a mark and a list of (places, blob): the places, little-endian uint32, say which rows of the batch the bytes of
the blob are, one after the other. Places and sizes are part of what the blob's tag covers, beside edge, boot and sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from wardround.errors import Unreadable
from wardround.malformed import MALFORMED
from wardround.records import head_of
from wardround.trust.at_rest import MARK, Place, Seal

Owner = tuple[str, str, int]  # edge, boot, first sequence
_sections = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


class Batch(Protocol):
    """What is asked of a batch: whose it is, and the size of each row, little-endian uint32, 0 where there is none."""

    @property
    def edge(self) -> str: ...
    @property
    def boot(self) -> str: ...
    @property
    def first_seq(self) -> int: ...
    @property
    def sizes(self) -> bytes: ...


def is_sealed(data: bytes) -> bool:
    """Whether the data of a batch are sections."""
    return data[:1] == MARK


def seal(seal: Seal, owner: Owner, rows: Sequence[bytes], subjects: Sequence[str] | None) -> bytes:
    """Rows as sealed sections; empty where no row is. `subjects` are those of the rows that are not empty, in order."""
    there = [k for k, row in enumerate(rows) if row]
    whose = list(subjects) if subjects is not None else [_subject(rows[k]) for k in there]
    groups: dict[str, list[int]] = {}
    for k, subject in zip(there, whose, strict=True):
        groups.setdefault(subject, []).append(k)
    sections = []
    for subject, places in groups.items():
        own = [rows[k] for k in places]
        at, sizes = np.array(places, "<u4").tobytes(), np.fromiter(map(len, own), "<u4", len(own)).tobytes()
        sections.append((at, seal.seal(subject, _place(owner, at, sizes), b"".join(own))))
    return MARK + msgspec.msgpack.encode(sections) if sections else b""


def places(batch: Batch, data: bytes) -> list[tuple[Place, bytes]]:
    """Each section of a sealed batch, with its place; none where it cannot be told."""
    try:
        return [(place, blob) for _, blob, place in _read(batch, data)]
    except Unreadable:
        return []


def unseal(seal: Seal, batch: Batch, data: bytes) -> tuple[list[bytes], bytes, list[tuple[Unreadable, bytes]]]:
    """The rows of a sealed batch; the sections that open, still sealed; and those that do not, with the reason."""
    rows = [b""] * (len(batch.sizes) // 4)
    sizes = np.frombuffer(batch.sizes, "<u4").tolist()
    kept: list[tuple[bytes, bytes]] = []
    shut: list[tuple[Unreadable, bytes]] = []
    try:
        sections = _read(batch, data)
    except Unreadable as error:
        return rows, b"", [(error, data)]
    for at, blob, place in sections:
        try:
            joined = seal.unseal(place, blob, plain=False)
        except Unreadable as error:
            shut.append((error, msgspec.msgpack.encode((at, blob))))
            continue
        kept.append((at, blob))
        end = 0
        for k in np.frombuffer(at, "<u4").tolist():
            rows[k] = joined[end : end + sizes[k]]
            end += sizes[k]
    return rows, MARK + msgspec.msgpack.encode(kept), shut


def _read(batch: Batch, data: bytes) -> list[tuple[bytes, bytes, Place]]:
    """Places, blob and place of each section.

    Raises:
        Unreadable: these are no sections of this batch.
    """
    owner = (batch.edge, batch.boot, batch.first_seq)
    if not is_sealed(data):
        raise Unreadable("damaged", "a batch of the inbox")
    try:
        sizes = np.frombuffer(batch.sizes, "<u4")
        sections = _sections.decode(memoryview(data)[1:])
        return [(at, blob, _place(owner, at, sizes[np.frombuffer(at, "<u4")].tobytes())) for at, blob in sections]
    except (*MALFORMED, IndexError, ValueError) as exc:
        raise Unreadable("damaged", "a batch of the inbox") from exc


def _place(owner: Owner, at: bytes, sizes: bytes) -> Place:
    return ("inbox", *owner, at, sizes)


def _subject(row: bytes) -> str:
    try:
        return head_of(row).subject
    except MALFORMED:
        return ""  # nobody's key
