"""Lists: filters, order and opaque cursors over a query of ours; the caller's text never becomes SQL.

    EXECUTIONS = Listing(
        "select e.id, e.uuid, e.status, e.created_at, s.job_name from job_executions e"
        " join execution_specs s on s.execution_id = e.id where (%(job)s::bigint is null or e.job_id = %(job)s)",
        {
            "id": Column("integer", sort=True),
            "status": Column("text"),
            "job_name": Column("text", sort=True),
            "created_at": Column("moment", sort=True),
        },
    )
    page = await EXECUTIONS.page(database, PageRequest(limit=50, filters={"status": ["running", "queued"]}), {"job": 7})
    page.items  ->  rows (dicts) of the select;  page.next  ->  cursor of the next page, or None

The select must give a unique integer `id`, each column by its own name, and be free of `order by` and `limit`. Its rows stand
as `listed` in what is said of them: `labels` of a Listing is what a reach is held against.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.access import Reach
from opsjobs.model.failures import FieldError, Invalid
from opsjobs.model.instants import read_instant
from opsjobs.store.reaching import condition
from opsjobs.store.reference import BIGINT_MAX
from opsjobs.store.transaction import Database

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
T = TypeVar("T")
U = TypeVar("U")
Kind = Literal["text", "integer", "moment", "uuid", "boolean", "texts"]

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
PAGE_MAX = 1_000_000
FILTER_VALUES_MAX = 100
CURSOR_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a list: how its filter is read, and whether `sort=` may name it.

    `expression` (SQL over the select's columns) is what is sorted by, where that is not the column itself: it must never
    be NULL, so a nullable column says `coalesce(finished_at, 'infinity')`. `texts` is an array: the filter means "holds".
    """

    kind: Kind = "text"
    sort: bool = False
    expression: str | None = None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a caller wants to see. `limit` 1 to 200; either `cursor`, or `page` (from 1) with `limit` as its size.

    `sort` is a column's name, `-` before it turns the order round. `filters` are lists of values, any of which may match;
    a moment `x_at` is filtered by `x_after` (that moment or later) and `x_before` (earlier).
    """

    limit: int = LIMIT_DEFAULT
    cursor: str | None = None
    sort: str | None = None
    page: int | None = None
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `total` is counted only where the caller asked by page number."""

    items: list[T]
    next: str | None = None
    total: int | None = None

    def map(self, change: Callable[[T], U]) -> Page[U]:
        """The same page of other items."""
        return Page([change(item) for item in self.items], self.next, self.total)


class Listing:
    """What one list shows and by what it may be filtered and sorted."""

    def __init__(
        self, select: str, columns: Mapping[str, Column], *, default_sort: str = "-id", labels: str | None = None
    ) -> None:
        self.columns = columns
        self.default_sort = default_sort
        self._select = select
        self._labels = labels

    @property
    def filters(self) -> dict[str, Kind]:
        """The names that a request may filter by, with the kind of their values."""
        names: dict[str, Kind] = {}
        for name, column in self.columns.items():
            if column.kind == "moment":
                names |= {f"{_stem(name)}_after": "moment", f"{_stem(name)}_before": "moment"}
            else:
                names[name] = column.kind
        return names

    @property
    def sorts(self) -> list[str]:
        """The names that `sort=` may have."""
        return [name for name, column in self.columns.items() if column.sort]

    async def page(
        self,
        database: Database,
        request: PageRequest,
        parameters: Mapping[str, Any] | None = None,
        *,
        reach: Reach | None = None,
    ) -> Page[DictRow]:
        """The page asked for, in two queries at most, of what lies within reach (None: of all).

        Raises Invalid for a filter, order, limit or cursor that is wrong.
        """
        if not 1 <= request.limit <= LIMIT_MAX:
            raise _wrong("limit", f"limit is {request.limit}: write a number from 1 to {LIMIT_MAX}.")
        order = self._order(request.sort)
        wheres, values = self._wheres(request.filters)
        within, reaching = condition(reach, self._labelled(reach))
        wheres = [*wheres, within] if within else wheres
        bound = {**(parameters or {}), **values, **reaching}
        if request.page is not None:
            return await self._numbered(database, request, order, wheres, bound)
        if request.cursor is not None:
            key, last_id = _read_cursor(request.cursor, order)
            sign = "<" if order.down else ">"
            wheres = [*wheres, f"({order.expression}, id) {sign} (%(cursor_key)s::{order.type}, %(cursor_id)s::bigint)"]
            bound |= {"cursor_key": key, "cursor_id": last_id}
        rows = await database.fetch(self._query(order, wheres), {**bound, "page_limit": request.limit + 1, "page_offset": 0})
        return _page(rows, request.limit, order)

    def _labelled(self, reach: Reach | None) -> str:
        assert self._labels is not None or reach is None or reach.everywhere, "a list without labels has no part for a scope"
        return self._labels or ""

    async def _numbered(
        self, database: Database, request: PageRequest, order: _Order, wheres: list[str], bound: dict[str, Any]
    ) -> Page[DictRow]:
        if request.page is None or not 1 <= request.page <= PAGE_MAX:
            raise _wrong("page", f"page is {request.page}: write a number from 1 to {PAGE_MAX}.")
        if request.cursor is not None:
            raise _wrong("page", "page and cursor cannot be given together: follow `next` by cursor alone.")
        offset = (request.page - 1) * request.limit
        rows = await database.fetch(self._query(order, wheres), {**bound, "page_limit": request.limit + 1, "page_offset": offset})
        count = await database.fetch_one(f"select count(*) as n from ({self._select}) listed {_where(wheres)}", bound)
        page = _page(rows, request.limit, order)
        return Page(page.items, page.next, int(count["n"]) if count else 0)

    def _query(self, order: _Order, wheres: list[str]) -> str:
        way = "desc" if order.down else "asc"
        return (
            f"select *, ({order.expression})::text as page_key from ({self._select}) listed {_where(wheres)}"
            f" order by {order.expression} {way}, id {way} limit %(page_limit)s offset %(page_offset)s"
        )

    def _order(self, sort: str | None) -> _Order:
        text = sort or self.default_sort
        name = text.removeprefix("-")
        column = self.columns.get(name, Column())
        if not column.sort:
            raise _wrong("sort", f"The list cannot be sorted by {name[:60]!r}: it can by {', '.join(self.sorts)}.")
        return _Order(text, column.expression or name, _TYPE[column.kind], text.startswith("-"))

    def _wheres(self, filters: Mapping[str, Sequence[str]]) -> tuple[list[str], dict[str, Any]]:
        known = self.filters
        wheres: list[str] = []
        values: dict[str, Any] = {}
        for number, (name, texts) in enumerate(filters.items()):
            if name not in known:
                raise _wrong(name[:60], f"There is no filter {name[:60]!r}: there are {', '.join(known)}.")
            if len(texts) > FILTER_VALUES_MAX:
                raise _wrong(name, f"The filter {name} has {len(texts)} values, the limit is {FILTER_VALUES_MAX}.")
            parameter = f"filter_{number}"
            values[parameter] = [_READ[known[name]](name, text) for text in texts]
            wheres.append(self._condition(name, parameter))
        return wheres, values

    def _condition(self, name: str, parameter: str) -> str:
        column = self.columns.get(name)
        if column is None:  # x_after, x_before of the moment x_at
            stem, _, side = name.rpartition("_")
            moment = next(c for c, k in self.columns.items() if k.kind == "moment" and _stem(c) == stem)
            return f"{moment} {'>=' if side == 'after' else '<'} any(%({parameter})s::timestamptz[])"
        if column.kind == "texts":
            return f"{name} && %({parameter})s::text[]"
        return f"{name} = any(%({parameter})s::{_TYPE[column.kind]}[])"


@dataclass(frozen=True, slots=True)
class _Order:
    text: str
    expression: str
    type: str
    down: bool


_TYPE: Mapping[Kind, str] = {
    "text": "text",
    "integer": "bigint",
    "moment": "timestamptz",
    "uuid": "uuid",
    "boolean": "boolean",
    "texts": "text[]",
}


def _wrong(parameter: str, detail: str) -> Invalid:
    return Invalid("invalid_query", detail, errors=[FieldError("", detail, f"query:{parameter}")])


def _stem(name: str) -> str:
    return name.removesuffix("_at")


def _where(wheres: list[str]) -> str:
    return f"where {' and '.join(wheres)}" if wheres else ""


def _page(rows: list[DictRow], limit: int, order: _Order) -> Page[DictRow]:
    more = len(rows) > limit
    rows = rows[:limit]
    cursor = _write_cursor(order, rows[-1]) if more else None
    return Page([{k: v for k, v in row.items() if k != "page_key"} for row in rows], cursor)


def _write_cursor(order: _Order, row: DictRow) -> str:
    text = json.dumps([order.text, row["page_key"], row["id"]], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str, order: _Order) -> tuple[str, int]:
    wrong = _wrong("cursor", "The cursor is not one of this list's: begin again without it, or follow `next` as it was given.")
    try:
        if len(cursor) > CURSOR_CHARACTERS_MAX:
            raise wrong
        sort, key, last_id = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise wrong from None
    if sort != order.text or not isinstance(key, str) or type(last_id) is not int or not 0 < last_id <= BIGINT_MAX:
        raise wrong
    if not _key_fits(key, order.type):
        raise wrong
    return key, last_id


def _key_fits(key: str, sql_type: str) -> bool:
    # A cursor is opaque, not trusted: what PostgreSQL could not cast must end here, as a 422.
    try:
        match sql_type:
            case "bigint":
                return abs(int(key)) <= BIGINT_MAX
            case "timestamptz":
                return key == "infinity" or bool(read_instant(key))
            case "uuid":
                return bool(UUID(key))
            case "boolean":
                return key in ("true", "false")
            case _:
                return _storable(key)
    except ValueError:
        return False


def _storable(text: str) -> bool:
    return _UNSTORABLE.search(text) is None


def _read_text(name: str, text: str) -> str:
    if not _storable(text):
        raise _wrong(name, f"The filter {name} holds a character that no text of ours can hold (NUL or a lone surrogate).")
    return text


def _read_integer(name: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and abs(int(text)) <= BIGINT_MAX):
        raise _wrong(name, f"The filter {name} takes whole numbers of 64 bits.")
    return int(text)


def _read_moment(name: str, text: str) -> datetime:
    try:
        return read_instant(text)
    except ValueError as wrong:
        raise _wrong(name, f"The filter {name} cannot be read: {wrong}.") from None


def _read_uuid(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _wrong(name, f"The filter {name} takes UUIDs.") from None


def _read_boolean(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise _wrong(name, f"The filter {name} takes true or false.")
    return text == "true"


_READ: Mapping[Kind, Callable[[str, str], Any]] = {
    "text": _read_text,
    "integer": _read_integer,
    "moment": _read_moment,
    "uuid": _read_uuid,
    "boolean": _read_boolean,
    "texts": _read_text,
}
