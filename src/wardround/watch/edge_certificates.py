"""Edges whose certificate has ended, or ends without having been renewed. Pure: what the hub has issued comes in.

An edge renews at two thirds of its certificate's life and tries again many times in the third that is left; one that has not by
the last quarter is out of reach, or fails. That it has ended is another cause than that it will: then only a new token helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from wardround.watch.alerts import Finding

LEFT_SHARE = 0.25  # of the life: with less left, people are told
ENDED, ENDING = "ended", "ending"


def certificate_fingerprint(edge: str, what: str) -> str:
    """Of the alert about an edge's certificate that has ended, or is ending."""
    return "|".join(("certificate", edge, "", what, ""))


def certificate_findings(ends: Mapping[str, tuple[int, int]], now_us: int) -> Iterator[tuple[str, str, Finding | None]]:
    """Edge, what could be wrong, and the finding if it is.

    Args:
        ends: by edge, when its newest certificate was issued and when it ends, microseconds since 1970 UTC.
    """
    for edge, (issued_us, not_after_us) in ends.items():
        told_us = not_after_us - round(LEFT_SHARE * (not_after_us - issued_us))
        what = ENDED if now_us >= not_after_us else ENDING if now_us >= told_us else ""
        yield edge, ENDED, _ended(edge, not_after_us, now_us) if what == ENDED else None
        yield edge, ENDING, _ending(edge, told_us, not_after_us, now_us) if what == ENDING else None


def _ended(edge: str, not_after_us: int, now_us: int) -> Finding:
    return Finding(
        kind="certificate",
        title=f"The certificate of {edge} has ended",
        priority="medium",
        category="technical",
        since_us=not_after_us,
        detected_us=now_us,
        edge=edge,
        signal=ENDED,
        detail=f"It ended {_said(not_after_us)} and was not renewed before. The edge keeps what it collects.",
        impact="The hub does not answer this edge: its data waits in its spool, and it trains nothing.",
        causes=("it was off, or out of reach, for longer than its certificate lives", "its clock is wrong"),
        action=f"`wardround hub invite {edge}` here, `wardround edge join -` there; `wardround hub revoke {edge}` if it is gone.",
    )


def _ending(edge: str, told_us: int, not_after_us: int, now_us: int) -> Finding:
    return Finding(
        kind="certificate",
        title=f"The certificate of {edge} is not renewed",
        priority="low",
        category="technical",
        since_us=told_us,
        detected_us=now_us,
        edge=edge,
        signal=ENDING,
        detail=f"It ends {_said(not_after_us)}; an edge renews it at two thirds of its life.",
        impact="Once it has ended the hub does not answer this edge, and it must join again.",
        causes=("the edge is off or out of reach", "renewing fails: its log says why", "its clock is wrong"),
        action=f"Bring {edge} into reach before then; `wardround edge status` there says what the hub answered.",
    )


def _said(t_us: int) -> str:
    return f"{datetime.fromtimestamp(t_us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"
