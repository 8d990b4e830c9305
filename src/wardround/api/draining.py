"""Draining over the API: an edge gets no more work, and the hub says when it is safe to switch it off."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Literal, Protocol, TypeVar

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from wardround.api import resources as r
from wardround.api.callers import Caller, Callers
from wardround.api.one_thread import HereRoute
from wardround.api.problems import Refused
from wardround.api.routes import ABSENT, CONFLICT, REFUSALS, Name
from wardround.clock import utc
from wardround.errors import WardroundError
from wardround.trust.roles import Act

T = TypeVar("T")


class Drained(Protocol):
    """How far an edge is."""

    @property
    def edge(self) -> str: ...

    @property
    def who(self) -> str: ...

    @property
    def since_us(self) -> int: ...

    @property
    def stage(self) -> Literal["finishing", "emptying", "safe", "off", "away"]: ...

    @property
    def words(self) -> str: ...


class Drains(Protocol):
    """The edges that are drained."""

    def begin(self, edge: str, who: str) -> str:
        """Give an edge no more work; words. Raises WardroundError."""

    def end(self, edge: str, who: str) -> str:
        """Give it work again; words. Raises WardroundError."""

    def all(self) -> Sequence[Drained]:
        """All of them."""


class Drain(BaseModel):
    """An edge that gets no more work. `stage`: finishing a round, emptying its spool, safe to switch off, off, or away
    before it was safe."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "edge": "icu-a",
                    "stage": "safe",
                    "words": "It is safe to switch it off: its spool is empty, and no round waits for it.",
                    "since": "2026-11-27T08:00:00Z",
                    "by": "kim",
                }
            ]
        }
    )

    edge: str
    stage: Literal["finishing", "emptying", "safe", "off", "away"]
    words: str
    since: datetime
    by: str


def make_drain_router(drains: Drains, callers: Callers) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/v1", responses=REFUSALS, route_class=HereRoute)
    looks = [Depends(callers.may(Act.LOOK))]
    May = Annotated[Caller, Depends(callers.may(Act.EDGES))]  # noqa: N806 - a type, for FastAPI

    @router.get("/edges/{edge}/drain", tags=["edges"], dependencies=looks, responses=ABSENT)
    def drain(edge: Name) -> Drain:
        """How far an edge is that is drained."""
        for one in drains.all():
            if one.edge == edge:
                return Drain(edge=one.edge, stage=one.stage, words=one.words, since=utc(one.since_us), by=one.who)
        raise Refused(404, f"{edge} is not drained", remedy="POST drains it")

    @router.post("/edges/{edge}/drain", tags=["edges"], responses=CONFLICT)
    def begin(edge: Name, who: May) -> r.Done:
        """Give an edge no more work, so that it can be switched off: a round that it takes part in is waited for, its spool is
        emptied, and its silence is no alert then. It goes on measuring."""
        return r.Done(words=_do(lambda: drains.begin(edge, who.person)))

    @router.delete("/edges/{edge}/drain", tags=["edges"], responses=CONFLICT)
    def end(edge: Name, who: May) -> r.Done:
        """Give an edge work again."""
        return r.Done(words=_do(lambda: drains.end(edge, who.person)))

    return router


def _do(act: Callable[[], T]) -> T:
    try:
        return act()
    except WardroundError as error:
        raise Refused(409, str(error), remedy=error.remedy) from error
