"""What decoding raises for bytes that do not hold: msgspec has no error of its own for a string that is no UTF-8."""

from __future__ import annotations

import msgspec

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError)
