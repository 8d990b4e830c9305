"""What a home that came out of a backup knows of itself: since when, and which key of pseudonyms is its own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from wardround.errors import TrustError
from wardround.malformed import MALFORMED

RESTORED = "restored.json"


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """The mark of a restored home; it stays."""

    role: str
    made_us: int  # the backup
    restored_us: int
    pseudonym_key: str = ""  # by which the edge's key is recognised: pseudonyms.key_check


def restored(home: Path) -> Restored | None:
    """The mark of a home; None where it never was restored.

    Raises:
        TrustError: it cannot be read.
    """
    try:
        return msgspec.json.decode((home / RESTORED).read_bytes(), type=Restored)
    except FileNotFoundError:
        return None
    except MALFORMED as exc:
        raise TrustError(f"{home / RESTORED} cannot be read", remedy="restore the home once more") from exc
