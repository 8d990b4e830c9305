"""Where the time of a round goes, told to whoever wants to know: begin and end of its parts, by name, round and edge.

    round -> order (an edge) -> train, upload, triage
          -> screen, fold, score

The coordinator says; what becomes of it is the root's affair (tracing.py), and by default nothing is made of it. `train` is seen
from the hub: from the order to the announcement of the update, so the way of the model is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Spans(Protocol):
    """The spans of one study. Calls return at once and raise nothing; what is unknown to them they ignore."""

    def begin(self, name: str, round_number: int, edge: str = "", **facts: str | int | float) -> None:
        """A part begins; one that has begun goes on."""
        ...

    def end(self, name: str, round_number: int, edge: str = "", **facts: str | int | float) -> None:
        """A part is over, and whatever is open below it."""
        ...


class NoSpans:
    """Nobody wants to know."""

    __slots__ = ()

    def begin(self, name: str, round_number: int, edge: str = "", **facts: str | int | float) -> None:
        """Nothing."""

    def end(self, name: str, round_number: int, edge: str = "", **facts: str | int | float) -> None:
        """Nothing."""


NO_SPANS = NoSpans()


@contextmanager
def span(spans: Spans, name: str, round_number: int, edge: str = "", **facts: str | int | float) -> Iterator[None]:
    """A part for the length of a block; it is over however the block ends."""
    spans.begin(name, round_number, edge, **facts)
    try:
        yield
    finally:
        spans.end(name, round_number, edge)
