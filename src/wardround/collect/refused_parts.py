"""What of one message is set aside. A message of a megabyte may have ten thousand parts that cannot be read, and each row has the
whole message with it, so that it can be replayed: a device would fill its edge's disk with few of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from wardround.collect.quarantine import WHOLE, SetAside
from wardround.errors import DecodeError

log = structlog.get_logger(__name__)
ROWS_MIN, BYTES_MAX = 100, 8_000_000  # rows of one message: so many, or as many as hold so many bytes


@dataclass
class RefusedParts:
    """Of one message."""

    t_us: int
    device: str
    boot: str
    seq: int
    payload: bytes
    keeps: bool = True  # whether its payload may be kept
    taken: bool = False  # whether anything of it was
    refused: list[tuple[DecodeError, int]] = field(default_factory=list)

    def add(self, error: DecodeError, part: int) -> None:
        """A part cannot be taken."""
        self.refused.append((error, part))

    def rows(self) -> list[SetAside]:
        """A row for each part; where they are too many the message as one, or their beginning if something of it was taken: a
        replay of the whole would take that twice."""
        most = max(ROWS_MIN, BYTES_MAX // max(1, len(self.payload)))
        if len(self.refused) <= most:
            return [self._row(error, part, str(error)) for error, part in self.refused]
        if not self.taken:
            error, _ = self.refused[0]
            return [self._row(error, WHOLE, f"{error}; so are {len(self.refused) - 1:,} other parts")]
        log.warning("more of a message is refused than is kept", device=self.device, refused=len(self.refused), kept=most)
        return [self._row(error, part, str(error)) for error, part in self.refused[:most]]

    def _row(self, error: DecodeError, part: int, words: str) -> SetAside:
        words, payload = (words, self.payload) if self.keeps else (error.reason, b"")  # an error may quote the message
        return SetAside(self.t_us, self.device, self.boot, self.seq, part, error.reason, words, payload, size=len(self.payload))
