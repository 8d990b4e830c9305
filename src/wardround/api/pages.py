"""Long lists in pages: `limit` and `cursor`, which is the place in the order where the last page ended, so that what is added
or removed meanwhile shifts nothing."""

from __future__ import annotations

import base64
import binascii
import bisect
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from wardround.api.problems import Refused

T = TypeVar("T")
LIMIT_MAX = 500
Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="At most so many in this page.")]
Cursor = Annotated[str, Query(max_length=400, description="`next` of the page before; empty: from the beginning.")]


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T]
    next: str = Field("", description="The cursor of the next page; empty: this is the last one.")


def page(items: Sequence[T], key: Callable[[T], str], *, limit: int, cursor: str) -> Page[T]:
    """The page after `cursor`. Items come in ascending order of `key`, which is another for each.

    Raises:
        Refused: the cursor is none of ours.
    """
    after = _read(cursor)
    start = bisect.bisect_right(items, after, key=key) if after else 0
    rest = items[start : start + limit + 1]
    more = _write(key(rest[limit - 1])) if len(rest) > limit else ""
    return Page[T](items=list(rest[:limit]), next=more)


def newest_first(number: int) -> str:
    """A key that ascends as numbers (of 19 digits at most) descend."""
    return f"{10**19 - number:020d}"


def older_than(cursor: str) -> int | None:
    """The number at which a page of `newest_first` keys ended; None: this is the first page.

    Raises:
        Refused: the cursor is none of ours.
    """
    key = _read(cursor)
    if not key:
        return None
    if not (key.isascii() and key.isdigit() and len(key) == 20 and abs(10**19 - int(key)) < 2**63):
        raise _no_cursor()
    return 10**19 - int(key)


def _write(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _read(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise _no_cursor() from error


def _no_cursor() -> Refused:
    return Refused(422, "query.cursor: this is no cursor", remedy="send `next` of the page before, unchanged")
