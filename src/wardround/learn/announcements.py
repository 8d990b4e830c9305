"""What an edge puts its name to: the announcement of an update, signed with the edge's own key.

TLS says who holds the connection; the signature says, to anybody and for ever, that this edge made this update for this round of
this study, from this model, and claimed so many examples and these numbers for it. The hub checks it before a byte is kept, and
keeps it with the update it accepted (journal.py), so that `wardround study updates --verify` can check it again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping

import msgspec

from wardround.errors import CertificateRefused, UpdateRefused
from wardround.learn.journal import Accepted, SignedAnnouncement
from wardround.learn.messages import Upload
from wardround.malformed import MALFORMED
from wardround.trust.certificates import check_certificate, describe
from wardround.trust.signatures import check_edge_signature


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is signed, as JSON with its fields in this order."""

    study: str
    round: int
    task: str
    base: str
    size: int
    sha256: str
    examples: int
    metrics_sha256: str
    rows_sha256: str = ""  # left out where there are none


def announcement(upload: Upload) -> bytes:
    """The bytes that an edge signs for an upload."""
    return msgspec.json.encode(
        Announcement(
            upload.study,
            upload.round_number,
            upload.task,
            upload.base,
            upload.size,
            upload.sha256,
            upload.examples,
            metrics_digest(upload.metrics),
            hashlib.sha256(upload.rows).hexdigest() if upload.rows else "",
        )
    )


def metrics_digest(metrics: Mapping[str, float]) -> str:
    """SHA-256 of the metrics, by name: each name's length (4 bytes), the name in UTF-8, the value as a big-endian double."""
    found = hashlib.sha256()
    for name, value in sorted(metrics.items()):
        own = name.encode()
        found.update(struct.pack(">I", len(own)) + own + struct.pack(">d", value))
    return found.hexdigest()


def check_signed(edge: str, upload: Upload) -> None:
    """Whether the edge on the connection has signed what it announces.

    Raises:
        UpdateRefused: "signature".
    """
    try:
        check_edge_signature(announcement(upload), upload.signature, upload.certificate, edge)
    except CertificateRefused as error:
        raise UpdateRefused("signature", f"{error}; {error.remedy}") from error


def signed_announcement(upload: Upload, now_us: int) -> SignedAnnouncement:
    """What the journal keeps of the signature of an upload whose signature holds."""
    serial = describe(upload.certificate).serial
    return SignedAnnouncement(announcement(upload), upload.signature, serial, upload.certificate, now_us)


def wrong_with(
    update: Accepted,
    kept: SignedAnnouncement | None,
    *,
    study: str,
    authority: bytes,
    file_sha256: str = "",
) -> str:
    """Why a kept update is not what its edge signed, in words; empty when everything holds.

    Args:
        authority: of the hub, PEM.
        file_sha256: the digest of the update's file; empty when the bytes are gone, or do not lie as they travelled.
    """
    if kept is None:
        return "no signature was kept with it"
    try:
        check_certificate(kept.certificate, authority, now_us=kept.t_us, where="its certificate")
        check_edge_signature(kept.announcement, kept.signature, kept.certificate, update.edge)
        signed = msgspec.json.decode(kept.announcement, type=Announcement)
    except CertificateRefused as error:
        return str(error)
    except MALFORMED:
        return "what was signed cannot be read"
    return next(_differences(update, signed, study, file_sha256), "")


def _differences(update: Accepted, signed: Announcement, study: str, file_sha256: str) -> Iterator[str]:
    for what, kept, said in (
        ("study", study, signed.study),
        ("round", update.based_on, signed.round),
        ("digest", update.sha256, signed.sha256),
        ("metrics", metrics_digest(update.metrics), signed.metrics_sha256),
    ):
        if kept != said:
            yield f"the journal's {what} is not the one that was signed"
    if update.examples > signed.examples:
        yield f"it counts {update.examples} examples, and {signed.examples} were signed"
    if file_sha256 and file_sha256 != signed.sha256:
        yield "its file is not the one that was signed"
