"""A table whose rows are sorted and paged by the hub, and stay where they are until a person asks for another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from wardround.console import parts
from wardround.console.looking import Facts, Looking, Reply
from wardround.console.words import count, safe

ROWS = 50  # on a page
RIGHT = ' class="r"'
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column: `cell` makes HTML of a row, `by` what it is sorted by; None: it is not sorted by."""

    key: str
    title: str
    cell: Callable[[T], str]
    by: Callable[[T], Any] | None = None
    right: bool = False


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """What a table is, whatever its rows are. The rows' own order is kept until one sorts by a column."""

    name: str  # of its element, and of its place in the address
    columns: Sequence[Column[T]]
    key: Callable[[T], str]
    one: str  # what a row is called
    many: str = ""
    rows: int = ROWS

    def html(self, looking: Looking, rows: Sequence[T]) -> str:
        """The page that the address names; `rows` are all of them, of which only this page's are drawn."""
        shown, news, pages = self.page(looking, rows)
        sort, down = self._sort(looking)
        body = "".join(map(self._row, shown))
        heads = "".join(self._head(looking, column, sort, down=down) for column in self.columns)
        table = f'<table class="tight"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        return f"{news}{parts.scrolled(table, f'{count(len(rows), self.one, self.many)}, table')}{pages}"

    def page(self, looking: Looking, rows: Sequence[T]) -> tuple[list[T], str, str]:
        """The rows of the page that the address names; what is new, to show; the way to the other pages."""
        sort, down = self._sort(looking)
        ordered = sorted(rows, key=sort.by, reverse=down) if sort is not None and sort.by is not None else rows
        by_key = {self.key(row): row for row in ordered}
        kept, new, moved = looking.held.rows(self._held(looking), list(by_key))
        pages = max(1, -(-len(kept) // self.rows))
        page = min(max(1, looking.number(f"{self.name}-page")), pages)
        shown = [by_key[key] for key in kept[(page - 1) * self.rows : page * self.rows]]
        return shown, self._news(looking, new, moved=moved), self._pages(looking, page, pages, len(kept))

    def _held(self, looking: Looking) -> str:
        return f"{self.name} {looking.address}"

    def _sort(self, looking: Looking) -> tuple[Column[T] | None, bool]:
        asked = looking.params.get(f"{self.name}-sort", "")
        found = next((c for c in self.columns if c.by is not None and c.key == asked.removeprefix("-")), None)
        return found, asked.startswith("-")

    def _head(self, looking: Looking, column: Column[T], sort: Column[T] | None, *, down: bool) -> str:
        side = RIGHT if column.right else ""
        if column.by is None:
            return f'<th scope="col"{side}>{safe(column.title)}</th>'
        here = sort is not None and sort.key == column.key
        told = f' aria-sort="{"descending" if down else "ascending"}"' if here else ""
        to = f"-{column.key}" if here and not down else "" if here else column.key
        address = looking.link({f"{self.name}-sort": to, f"{self.name}-page": 0})
        sign = (" ↓" if down else " ↑") if here else ""
        return f'<th scope="col"{side}{told}><a class="sort" href="{safe(address)}">{safe(column.title)}{sign}</a></th>'

    def _row(self, row: T) -> str:
        cells = "".join(f"<td{RIGHT if column.right else ''}>{column.cell(row)}</td>" for column in self.columns)
        return f'<tr data-key="{safe(self.key(row))}" data-row tabindex="-1">{cells}</tr>'

    def _news(self, looking: Looking, new: int, *, moved: bool) -> str:
        if not new and not moved:
            return ""
        words = f"{new:,} new, show" if new else "The order has changed, sort again"
        return (
            f'<p class="news"><button class="btn small" data-act="show-rows" data-table="{safe(self._held(looking))}">'
            f"{words}</button></p>"
        )

    def _pages(self, looking: Looking, page: int, pages: int, n: int) -> str:
        return parts.pages(looking, f"{self.name}-page", page, pages, n, self.rows, self.one, self.many)


def show_rows(facts: Facts, looking: Looking) -> Reply:
    """Every page has this act: the rows of a table as they stand now."""
    looking.held.forget(facts.get("table", ""))
    return Reply()
