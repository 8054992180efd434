"""Lists: filters, order and opaque cursors over a query. The caller's text is never SQL.

    EXECUTIONS = Listing(
        "select e.id, e.uuid, e.status, e.created_at, s.job_name from job_executions e"
        " join execution_specs s on s.execution_id = e.id"
        " where (%(job)s::bigint is null or e.job_id = %(job)s)",
        {
            "id": Column("integer", sort=True),
            "status": Column("text"),
            "job_name": Column("text", sort=True),
            "created_at": Column("moment", sort=True),
        },
    )
    request = PageRequest(limit=50, filters={"status": ["running", "queued"]})
    page = await EXECUTIONS.page(database, request, {"job": 7})
    page.items  ->  rows (dicts) of the select;  page.next  ->  cursor of the next page, or None

The select must return a unique integer `id`, each column by its own name, and be free of `order by`
and `limit`. SQL of a Listing refers to its rows as `listed`: `labels` is compared with a reach.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.access import Reach
from opsjobs.model.api_model import read_instant
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.store.reference import BIGINT_MAX
from opsjobs.store.scope_sql import LAUNCHED_IDS, condition, marks
from opsjobs.store.transaction import Database

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
T = TypeVar("T")
U = TypeVar("U")
Kind = Literal["text", "integer", "moment", "uuid", "boolean", "texts"]

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
PAGE_MAX = 10_000
ROWS_MAX = 10_000
"""The last row that numbered pages reach; `total` is counted up to it."""
FILTER_VALUES_MAX = 100
FACETS_MAX = 100
CURSOR_CHARACTERS_MAX = 2_000
NUMBER_DIGITS = 12
"""The last digits of a number in a name by which names are sorted."""
SORT_KEY_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class IndexWalk:
    """An index that returns the rows with one value of a column in the order of their ids.

    `key` and `id` are columns of the select, of one table that has an index on both in this order.
    `also`: a further condition. `cases`: filter values that the key does not have, each with the
    condition that it represents, which has its own index.
    """

    key: str
    id: str = "id"
    also: str | None = None
    cases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListColumn:
    """One field of a list: how its filter is parsed, and whether `sort=` may name it.

    `expression` (SQL over the select's columns) is the sort key, if that is not the column itself:
    it must never be NULL, so a nullable column is `coalesce(finished_at, 'infinity')`. `texts` is
    an array: the filter means "contains". For a list of unlimited length: `walk` is the index that
    serves the filter; a filter without one requires one of the filters in `beside`. A moment with
    `indexed` orders the list if it is filtered by and no other order is requested. `filter` False:
    the column cannot be filtered by.
    """

    kind: Kind = "text"
    sort: bool = False
    expression: str | None = None
    walk: IndexWalk | None = None
    beside: tuple[str, ...] = ()
    indexed: bool = False
    filter: bool = True
    by_id: bool = False
    """The column has the order of ids, which replaces it if the list is filtered."""
    natural: bool = False
    """Numbers in the text are sorted as numbers: web-2 before web-10."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The page that a caller requests.

    `limit` 1 to 200; either `cursor`, or `page` (from 1) with `limit` as its size. `sort` is a
    column's name, descending with `-` before it. `filters` are lists of values, any of which may
    match; a moment `x_at` is filtered by `x_after` (that time or later) and `x_before` (earlier).
    """

    limit: int = LIMIT_DEFAULT
    cursor: str | None = None
    sort: str | None = None
    page: int | None = None
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    q: str | None = None
    """Only items with this text in one of the list's `search` columns, in any case."""
    facets: Sequence[str] = ()
    """Columns whose values are counted beside the page."""
    among: Sequence[int] | None = None
    """Only items with these ids."""
    exempt: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Ids of items that are listed even if they do not match a filter, by its name."""
    counted: Mapping[str, PageRequest] = field(default_factory=dict)
    """By the name of a facet, what it counts, if not this request without the column's filter."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list.

    `total` is counted only for numbered pages, and only up to ROWS_MAX.
    """

    items: list[T]
    next: str | None = None
    total: int | None = None
    facets: Mapping[str, Mapping[str, int]] | None = None
    """The number of items by value of a column, among the first ROWS_MAX."""

    def map(self, change: Callable[[T], U]) -> Page[U]:
        """Return the same page with each item converted."""
        return Page([change(item) for item in self.items], self.next, self.total, self.facets)


class Listing:
    """A list: its query, and the columns to filter and sort by.

    `labels` is the expression that a scope is matched against. `label_rows`: the column with the
    execution whose rows in execution_labels find the items of a scope; "id" for a list of
    executions. `launched`: the condition for items of a caller's own executions; for a list of
    executions the index of `requested_by` serves it. `keyed`: `id` is a column of a table.
    `search`: the columns that `q` looks in; `facets`: those whose values can be counted.
    `computed`: columns by name with their SQL over a row `t` of the select; ids are found without
    them, unless the request filters or sorts by one.
    """

    def __init__(
        self,
        select: str,
        columns: Mapping[str, ListColumn],
        *,
        default_sort: str = "-id",
        labels: str | None = None,
        label_rows: str | None = None,
        launched: str | None = None,
        keyed: bool = True,
        search: Sequence[str] = (),
        facets: Sequence[str] = (),
        computed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.columns = columns
        self.default_sort = default_sort
        self.search = search
        self.facets = facets
        self._label_rows = label_rows
        self._launched = launched
        self._keyed = keyed
        self._computed = frozenset(computed)
        self._found = select
        """The select that finds ids if no computed column is needed for it."""
        added = "".join(f", {expression} as {name}" for name, expression in computed.items())
        self._select = f"select t.*{added} from ({select}) t" if computed else select
        self._labels = labels

    @property
    def filters(self) -> dict[str, Kind]:
        """The names of the filters that a request may use, with the kind of their values."""
        names: dict[str, Kind] = {}
        for name, column in self.columns.items():
            if not column.filter:
                continue
            if column.kind == "moment":
                names |= {f"{_stem(name)}_after": "moment", f"{_stem(name)}_before": "moment"}
            else:
                names[name] = column.kind
        return names

    @property
    def labelled(self) -> bool:
        """True if a caller with a scope may see a part of the list."""
        return self._labels is not None

    @property
    def holds_launches(self) -> bool:
        """True if a caller may see a part of the list because it launched that."""
        return self._launched is not None

    @property
    def sorts(self) -> list[str]:
        """The names that `sort=` accepts."""
        return [name for name, column in self.columns.items() if column.sort]

    async def page(
        self,
        database: Database,
        request: PageRequest,
        parameters: Mapping[str, Any] | None = None,
        *,
        reach: Reach | None = None,
    ) -> Page[DictRow]:
        """Return the requested page of the items within reach (None: all).

        It takes at most two queries, and one for each facet.

        Raises Invalid for a wrong filter, order, limit or cursor.
        """
        page = await self._page(database, request, parameters, reach)
        if not request.facets:
            return page
        counts = {
            name: await self._count_values(database, name, request, parameters, reach)
            for name in request.facets
        }
        return replace(page, facets=counts)

    async def _page(
        self,
        database: Database,
        request: PageRequest,
        parameters: Mapping[str, Any] | None,
        reach: Reach | None,
    ) -> Page[DictRow]:
        if not 1 <= request.limit <= LIMIT_MAX:
            raise _wrong(
                "limit", f"limit is {request.limit}: write a number from 1 to {LIMIT_MAX}."
            )
        order, wheres, bound = self._plan(request, parameters, reach)
        if request.page is not None:
            return await self._numbered(database, request, order, wheres, bound)
        after = ""
        if request.cursor is not None:
            key, last_id = _read_cursor(request.cursor, order)
            sign = "<" if order.down else ">"
            if order.walks:
                bound |= {
                    "walk_high" if order.down else "walk_low": last_id - 1
                    if order.down
                    else last_id + 1
                }
                after = f"listed.id {sign} %(cursor_id)s::bigint"
            else:
                after = (
                    f"({order.expression}, id) {sign} (%(cursor_key)s::{order.type}, "
                    f"%(cursor_id)s::bigint)"
                )
            bound |= {"cursor_key": key, "cursor_id": last_id}
        # A walk along an index skips no rows.
        whole = bool(order.walks) or not self._keyed
        query = self._query("*", order, [*wheres, after] if after else wheres, whole=whole)
        rows = await database.fetch(
            query, {**_WHOLE, **bound, "page_limit": request.limit + 1, "page_offset": 0}
        )
        return _page(rows, request.limit, order)

    def _plan(
        self,
        request: PageRequest,
        parameters: Mapping[str, Any] | None,
        reach: Reach | None,
    ) -> tuple[_SortOrder, list[str], dict[str, Any]]:
        """Return the order, the conditions and the values of a request, along an index if any."""
        own = None if reach is None else reach.own
        only_own = own is not None and reach is not None and not reach.scopes
        # Of one launcher there are fewer than of any value of a filter.
        walk = None if only_own and self._label_rows == "id" else self._walk(request)
        order = self._order(request, walk)
        sorted_column = self.columns[order.text.removeprefix("-")]
        if only_own and self._label_rows == "id" and sorted_column.by_id:
            order = replace(order, expression="id", type="bigint")
        sorted_by = (request.sort or self.default_sort).removeprefix("-")
        order = replace(order, lean=not self._computed & {sorted_by, *request.filters})
        wheres, values = self._wheres(request, walk)
        within, reaching = condition(reach, self._labelled(reach), self._launched)
        found = marks(reach) if self._label_rows is not None else None
        if only_own and self._label_rows not in (None, "id"):
            # All of them at once, in the order of the index in which the rows are looked up.
            wheres.append(f"{self._label_rows} = any(array({LAUNCHED_IDS}))")
        elif found is not None and self._label_rows != "id":
            also = "" if own is None else f" union all {LAUNCHED_IDS}"
            wheres.append(f"{self._label_rows} in ({_LABELLED_IDS}{also})")
            values["marks"] = found
        elif (
            found is not None
            and request.among is None
            and not order.walks
            and order.expression == "id"
        ):
            walks = [_labelled_walk(number) for number in range(len(found))]
            walks += [] if own is None else [self._own_walk()]
            order = replace(order, walks=tuple(walks), repeats=len(walks) > 1)
            values |= {f"walk_{number}": mark for number, mark in enumerate(found)}
        wheres = [*wheres, within] if within else wheres
        return order, wheres, {**(parameters or {}), **values, **reaching}

    def _own_walk(self) -> _Along:
        """Return the range of the index that finds what the caller launched."""
        walk = self.columns["requested_by"].walk
        assert walk is not None
        return _between(walk.key, walk.id, "%(own_name)s::text")

    async def newest(
        self,
        database: Database,
        request: PageRequest,
        most: int,
        *,
        reach: Reach | None = None,
        matching: str = "true",
        of: Sequence[str] = (),
        values: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the ids among the first items that a request finds, up to a number, in any order.

        `matching`: a condition over the columns `of`, with these `values`, that is applied to
        these items only.
        """
        order, wheres, bound = self._plan(request, None, reach)
        query = self._query(", ".join(("id", *of)), order, wheres)
        row = await database.fetch_one(
            f"select coalesce(array_agg(id), '{{}}') as ids from ({query}) newest where {matching}",
            {**_WHOLE, **bound, **(values or {}), "page_limit": most, "page_offset": 0},
        )
        return list(row["ids"]) if row is not None else []

    async def _count_values(
        self,
        database: Database,
        name: str,
        request: PageRequest,
        parameters: Mapping[str, Any] | None,
        reach: Reach | None,
    ) -> dict[str, int]:
        """Count the items by a column, as filtered by everything but this column."""
        if name not in self.facets:
            names = ", ".join(self.facets) or "none"
            raise _wrong("facets", f"There is no facet {name[:60]!r}: there are {names}.")
        filters = {other: texts for other, texts in request.filters.items() if other != name}
        wanted = request.counted.get(name) or replace(request, filters=filters)
        # In the list's own order, so that an index that a filter or a scope has is walked.
        wanted = replace(wanted, sort=None)
        order, wheres, bound = self._plan(wanted, parameters, reach)
        rows = await database.fetch(
            f'select value, count(*) as n from (select "{name}"::text as value '
            f"from ({self._select}) listed "
            f"where id = any(array({self._query('id', order, wheres)}))) f "
            f"where value is not null group by value order by n desc, value limit {FACETS_MAX}",
            {**_WHOLE, **bound, "page_limit": ROWS_MAX, "page_offset": 0},
        )
        return {row["value"]: row["n"] for row in rows}

    def _labelled(self, reach: Reach | None) -> str:
        assert self._labels is not None or reach is None or reach.everywhere, (
            "a list without labels has no part for a scope"
        )
        return self._labels or ""

    async def _numbered(
        self,
        database: Database,
        request: PageRequest,
        order: _SortOrder,
        wheres: list[str],
        bound: dict[str, Any],
    ) -> Page[DictRow]:
        if request.page is None or not 1 <= request.page <= PAGE_MAX:
            raise _wrong("page", f"page is {request.page}: write a number from 1 to {PAGE_MAX}.")
        if request.cursor is not None:
            raise _wrong(
                "page", "page and cursor cannot be given together: follow `next` by cursor alone."
            )
        if request.page * request.limit > ROWS_MAX:
            detail = (
                f"Page {request.page} of {request.limit} ends behind row {ROWS_MAX}: follow "
                f"`next` by cursor, or filter."
            )
            raise _wrong("page", detail)
        bound = {**_WHOLE, **bound}
        asked = {"page_limit": request.limit + 1, "page_offset": (request.page - 1) * request.limit}
        rows = await database.fetch(
            self._query("*", order, wheres, whole=not self._keyed), {**bound, **asked}
        )
        page = _page(rows, request.limit, order)
        if page.items and page.next is None:
            total: int | None = (request.page - 1) * request.limit + len(page.items)
        else:
            total = await self._count(database, order, wheres, bound)
        return Page(page.items, page.next, total)

    async def _count(
        self, database: Database, order: _SortOrder, wheres: list[str], bound: dict[str, Any]
    ) -> int | None:
        query = self._query("id", order, wheres)
        row = await database.fetch_one(
            f"select count(*) as n from ({query}) counted",
            {**bound, "page_limit": ROWS_MAX + 1, "page_offset": 0},
        )
        count = int(row["n"]) if row else 0
        return count if count <= ROWS_MAX else None

    def _query(
        self, columns: str, order: _SortOrder, wheres: list[str], *, whole: bool = True
    ) -> str:
        """Return the query of a page.

        Unless `whole`, the ids are found first, so that expensive columns are not computed for
        skipped rows.
        """
        way = "desc" if order.down else "asc"
        if not whole:
            ids = self._query("id", order, wheres)
            return (
                f"select *, ({order.expression})::text as page_key from ({self._select}) listed "
                f"where id = any(array({ids}))"
                f" order by {order.expression} {way}, id {way}"
            )
        shown = (
            f"select {columns}, ({order.expression})::text as page_key"
            if columns == "*"
            else f"select {columns}"
        )
        select = self._found if columns == "id" and order.lean else self._select
        last = "limit %(page_limit)s offset %(page_offset)s"
        if not order.walks:
            by = (
                f"order by {order.expression} {way}, id {way}"
                if columns == "*" or order.expression != "id"
                else f"order by id {way}"
            )
            return f"{shown} from ({select}) listed {_where(wheres)} {by} {last}"
        shown = shown.replace("select ", "select listed.", 1)
        parts = [
            f"({shown} from ({select}) listed {walk.join} "
            f"{_where([*wheres, walk.condition])} order by {walk.order.format(way=way)}"
            " limit %(page_limit)s::bigint + %(page_offset)s)"
            for walk in order.walks
        ]
        once = "distinct on (id) *" if order.repeats else "*"
        return f"select {once} from ({' union all '.join(parts)}) walked order by id {way} {last}"

    def _walk(self, request: PageRequest) -> str | None:
        """Return the filter whose index provides the page in order of ids, or None.

        It is the first filter of the request with such an index, if the list is sorted by id.
        """
        sorted_by = (request.sort or self.default_sort).removeprefix("-")
        if sorted_by != "id" and not self.columns.get(sorted_by, ListColumn()).by_id:
            return None
        return next(
            (
                name
                for name, column in self.columns.items()
                if column.walk and request.filters.get(name)
            ),
            None,
        )

    def _order(self, request: PageRequest, walk: str | None) -> _SortOrder:
        text = request.sort or self.default_sort
        name = text.removeprefix("-")
        column = self.columns.get(name, ListColumn())
        if not column.sort:
            raise _wrong(
                "sort",
                f"The list cannot be sorted by {name[:60]!r}: it can by {', '.join(self.sorts)}.",
            )
        down = text.startswith("-")
        if walk is not None:
            walks = self._walks(walk, request.filters[walk])
            if walk in request.exempt:
                walks += (_Along(_EXEMPT.format(name=walk), "listed.id {way}"),)
            return _SortOrder(text, "id", "bigint", down, walks, repeats=walk in request.exempt)
        if request.sort is None and (moment := self._moment(request.filters)) is not None:
            return _SortOrder(f"{'-' if down else ''}{moment}", moment, "timestamptz", down)
        key = column.expression or name
        key = natural_key(key) if column.natural else key
        return _SortOrder(text, key, _TYPE[column.kind], down)

    def _moment(self, filters: Mapping[str, Sequence[str]]) -> str | None:
        given = (name for name, column in self.columns.items() if column.indexed and column.filter)
        return next(
            (
                name
                for name in given
                if {f"{_stem(name)}_after", f"{_stem(name)}_before"} & set(filters)
            ),
            None,
        )

    def _walks(self, name: str, values: Sequence[str]) -> tuple[_Along, ...]:
        """Return a condition and an order for each value.

        Only one range of the index is read per value, whatever the planner's statistics are.
        """
        column = self.columns[name]
        assert column.walk is not None
        walk = column.walk
        found: dict[str, _Along] = {}
        for number, value in enumerate(values):
            case = walk.cases.get(value)
            along = _between(walk.key, walk.id, f"%(walk_{number})s::{_TYPE[column.kind]}")
            also = f"{along.condition} and {walk.also}" if walk.also else along.condition
            found[value] = (
                _Along(case, "listed.id {way}") if case else replace(along, condition=also)
            )
        return tuple(found.values())

    def _wheres(self, request: PageRequest, walk: str | None) -> tuple[list[str], dict[str, Any]]:
        known, filters = self.filters, request.filters
        wheres: list[str] = []
        values: dict[str, Any] = {}
        if request.q is not None:
            found = (f'strpos(lower("{name}"), lower(%(q)s)) > 0' for name in self.search)
            wheres.append(f"({' or '.join(found)})")
            values["q"] = _read_text("q", request.q)
        if request.among is not None:
            # The bounds end a walk along an index behind the last of them.
            wheres.append(
                "id = any(%(page_among)s::bigint[]) "
                "and id between %(among_low)s::bigint and %(among_high)s::bigint"
            )
            low, high = min(request.among, default=0), max(request.among, default=0)
            values |= {
                "page_among": list(request.among),
                "among_low": low,
                "among_high": high,
                "walk_low": low,
                "walk_high": high,
            }
        values |= {f"exempt_{name}": list(ids) for name, ids in request.exempt.items()}
        for number, (name, texts) in enumerate(filters.items()):
            if name not in known:
                raise _wrong(
                    name[:60], f"There is no filter {name[:60]!r}: there are {', '.join(known)}."
                )
            if len(texts) > FILTER_VALUES_MAX:
                raise _wrong(
                    name,
                    f"The filter {name} has {len(texts)} values, the limit is {FILTER_VALUES_MAX}.",
                )
            beside = self._column(name).beside
            if beside and not any(filters.get(other) for other in beside):
                raise _wrong(
                    name,
                    f"The filter {name} is taken only beside one of these: {', '.join(beside)}.",
                )
            read = [_READ[known[name]](name, text) for text in texts]
            if name == walk:
                values |= {f"walk_{n}": value for n, value in enumerate(read)}
                continue
            parameter = f"filter_{number}"
            values[parameter] = read
            condition = self._condition(name, parameter, len(read))
            exempt = f" or {_EXEMPT.format(name=name)}" if name in request.exempt else ""
            wheres.append(f"({condition}{exempt})" if exempt else condition)
        return wheres, values

    def _column(self, name: str) -> ListColumn:
        return self.columns[name] if name in self.columns else self.columns[self._moment_of(name)]

    def _moment_of(self, name: str) -> str:
        """Return the column x_at of a filter x_after or x_before."""
        stem = name.rpartition("_")[0]
        return next(c for c, k in self.columns.items() if k.kind == "moment" and _stem(c) == stem)

    def _condition(self, name: str, parameter: str, values: int) -> str:
        column = self.columns.get(name)
        if column is None:
            way = ">=" if name.endswith("_after") else "<"
            # Any of the values may match: use the widest.
            widest = "min" if way == ">=" else "max"
            return (
                f"{self._moment_of(name)} {way} (select {widest}(m) from "
                f"unnest(%({parameter})s::timestamptz[]) m)"
            )
        if column.kind == "texts":
            return f'"{name}" && %({parameter})s::text[]'
        # For one value an index returns the rows in order, for any of several it does not.
        if values == 1:
            return f'"{name}" = (%({parameter})s::{_TYPE[column.kind]}[])[1]'
        return f'"{name}" = any(%({parameter})s::{_TYPE[column.kind]}[])'


def natural_key(expression: str) -> str:
    """Return the SQL sort key of a text in which numbers are sorted as numbers.

    Each number is filled up with zeros, then cut to its last digits.
    """
    filled = f"regexp_replace({expression}, '([0-9]+)', '{'0' * NUMBER_DIGITS}\\1', 'g')"
    cut = f"regexp_replace({filled}, '[0-9]*([0-9]{{{NUMBER_DIGITS}}})', '\\1', 'g')"
    return f"left({cut}, {SORT_KEY_CHARACTERS_MAX})"


@dataclass(frozen=True, slots=True)
class _SortOrder:
    text: str
    expression: str
    type: str
    down: bool
    walks: tuple[_Along, ...] = ()
    repeats: bool = False
    lean: bool = False
    """No computed column is needed to find the ids."""


@dataclass(frozen=True, slots=True)
class _Along:
    """A range of an index: its condition and order. `join`: to the table of the index."""

    condition: str
    order: str
    join: str = ""


def _between(key: str, id_: str, value: str, join: str = "") -> _Along:
    pair = f"({key}, {id_})"
    condition = (
        f"{pair} >= ({value}, %(walk_low)s::bigint) and {pair} <= ({value}, %(walk_high)s::bigint)"
    )
    return _Along(condition, f"{key} {{way}}, {id_} {{way}}", join)


_MARK = "md5(l.key || '=' || l.value)"
# Finds the items of a scope in a list that is not one of executions, if they are few.
_LABELLED_IDS = (
    f"select l.execution_id from execution_labels l where {_MARK} = any(%(marks)s::text[])"
)


def _labelled_walk(number: int) -> _Along:
    join = "join execution_labels l on l.execution_id = listed.id"
    return _between(_MARK, "l.execution_id", f"%(walk_{number})s::text", join)


_EXEMPT = "listed.id = any(%(exempt_{name})s::bigint[])"
# All ids of a walk lie between these.
_WHOLE = {"walk_low": 0, "walk_high": BIGINT_MAX}


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


def _page(rows: list[DictRow], limit: int, order: _SortOrder) -> Page[DictRow]:
    more = len(rows) > limit
    rows = rows[:limit]
    cursor = _write_cursor(order, rows[-1]) if more else None
    return Page([{k: v for k, v in row.items() if k != "page_key"} for row in rows], cursor)


def _write_cursor(order: _SortOrder, row: DictRow) -> str:
    text = json.dumps([order.text, row["page_key"], row["id"]], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str, order: _SortOrder) -> tuple[str, int]:
    wrong = _wrong(
        "cursor",
        "The cursor is not one of this list's: begin again without it, or follow `next` as it was "
        "given.",
    )
    try:
        if len(cursor) > CURSOR_CHARACTERS_MAX:
            raise wrong
        sort, key, last_id = json.loads(
            base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        )
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise wrong from None
    if (
        sort != order.text
        or not isinstance(key, str)
        or type(last_id) is not int
        or not 0 < last_id <= BIGINT_MAX
    ):
        raise wrong
    try:
        return _read_key(key, order.type), last_id
    except ValueError:
        raise wrong from None


def _read_key(key: str, sql_type: str) -> str:
    """Return the key as PostgreSQL casts it. Raises ValueError.

    A cursor is opaque, not trusted. Python reads more spellings of a value than PostgreSQL, so the
    value is written anew.
    """
    match sql_type:
        case "bigint" if abs(number := int(key)) <= BIGINT_MAX:
            return str(number)
        case "timestamptz":
            return key if key == "infinity" else read_instant(key).isoformat()
        case "uuid":
            return str(UUID(key))
        case "boolean" if key in ("true", "false"):
            return key
        case "text" | "text[]" if _storable(key):
            return key
    raise ValueError(key)


def _storable(text: str) -> bool:
    return _UNSTORABLE.search(text) is None


def _read_text(name: str, text: str) -> str:
    if not _storable(text):
        raise _wrong(
            name,
            f"The filter {name} holds a character that no text of ours can hold (NUL or a lone "
            f"surrogate).",
        )
    return text


def _read_integer(name: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not (
        digits.isascii() and digits.isdigit() and len(digits) <= 19 and abs(int(text)) <= BIGINT_MAX
    ):
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
