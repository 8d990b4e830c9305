"""Whether `[respond]` of a study can be run: its limits are limits."""

from __future__ import annotations

import math
import re

from wardround.errors import StudyError
from wardround.settings import RespondSettings

LIMIT_MAX = 100
SHARE_MAX = 0.25  # of a study's edges: beyond it the majority may be what is wrong
KIND = re.compile(r"[a-z][a-z-]{1,39}")


def check_respond(respond: RespondSettings) -> None:
    """Whether a hub can respond as a study asks for.

    Raises:
        StudyError: the first value that does not hold, with what to do.
    """
    for name in respond.__struct_fields__:
        own, key = getattr(respond, name), f"respond.{name}"
        for kind in own.kinds:
            if not KIND.fullmatch(kind):
                raise StudyError(f"{key}.kinds: {kind[:40]!r} is no kind of alert", remedy="docs/runbooks.md has a section each")
        _between(f"{key}.limit", own.limit, 1, LIMIT_MAX)
        _between(f"{key}.limit_rounds", own.limit_rounds, 1, 1_000_000)
        _between(f"{key}.limit_hours", own.limit_hours, 0.0, 24.0 * 365)
    _between("respond.quarantine.rounds", respond.quarantine.rounds, 1, 1_000_000)
    _between("respond.quarantine.share_max", respond.quarantine.share_max, 0.0, SHARE_MAX)
    _between("respond.retrain.rounds", respond.retrain.rounds, 1, 10_000)
    _between("respond.retrain.share_min", respond.retrain.share_min, 0.0, 1.0)


def _between(key: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise StudyError(f"{key} is {value:g}", remedy=f"choose a value from {low:g} to {high:g}")
