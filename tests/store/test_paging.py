"""Lists: a caller's text is checked before it reaches PostgreSQL, and never becomes SQL."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from opsjobs.model.errors import Invalid
from opsjobs.store.paging import IndexWalk, ListColumn, Listing, PageRequest, natural_key
from opsjobs.store.transaction import Database

NUMBERS = Listing(
    """select n as id, mod(n, 3) as third, 'n-' || n as name, mod(n, 2) = 0 as even,
    array['t' || mod(n, 2)] as tags,
       timestamptz '2026-01-01T00:00:00Z' + n * interval '1 hour' as seen_at,
       case when n > 3 then timestamptz '2026-02-01T00:00:00Z' end as ended_at
         from generate_series(1, %(upto)s::int) n""",
    {
        "id": ListColumn("integer", sort=True),
        "third": ListColumn("integer", sort=True),
        "name": ListColumn("text", sort=True, natural=True),
        "even": ListColumn("boolean"),
        "tags": ListColumn("texts"),
        "seen_at": ListColumn("moment", sort=True),
        "ended_at": ListColumn("moment", sort=True, expression="coalesce(ended_at, 'infinity')"),
    },
    default_sort="id",
)


async def ids(database: Database, upto: int = 7, **request: Any) -> list[int]:
    """Return all ids, page by page."""
    found: list[int] = []
    cursor = None
    while True:
        page = await NUMBERS.page(database, PageRequest(cursor=cursor, **request), {"upto": upto})
        assert len(page.items) <= request.get("limit", 50)
        found += [row["id"] for row in page.items]
        cursor = page.next
        if cursor is None:
            return found


@pytest.mark.parametrize(
    ("sort", "wanted"),
    [
        ("id", [1, 2, 3, 4, 5, 6, 7]),
        ("-id", [7, 6, 5, 4, 3, 2, 1]),
        ("third", [3, 6, 1, 4, 7, 2, 5]),
        ("-third", [5, 2, 7, 4, 1, 6, 3]),
        ("name", [1, 2, 3, 4, 5, 6, 7]),
        ("-seen_at", [7, 6, 5, 4, 3, 2, 1]),
        ("ended_at", [4, 5, 6, 7, 1, 2, 3]),
        ("-ended_at", [3, 2, 1, 7, 6, 5, 4]),
    ],
)
async def test_pages_of_two_follow_each_other_without_a_gap_also_over_equal_keys(
    database: Database, sort: str, wanted: list[int]
) -> None:
    assert await ids(database, limit=2, sort=sort) == wanted


async def test_numbers_in_names_are_sorted_by_value_page_by_page(database: Database) -> None:
    upto = [*range(1, 13)]
    assert await ids(database, 12, limit=5, sort="name") == upto
    assert await ids(database, 12, limit=5, sort="-name") == upto[::-1]
    names = ["b", "a-10.2", "a-9.10", "a-9.9", "a-007", "a-20261129041500", "a-20251129041500"]
    found = await database.fetch(
        f"select n from unnest(%s::text[]) n order by {natural_key('n')}", [names]
    )
    assert [row["n"] for row in found] == [
        *("a-007", "a-9.9", "a-9.10", "a-10.2"),
        *("a-20251129041500", "a-20261129041500", "b"),
    ]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"third": ["0", "2"]}, [2, 3, 5, 6]),
        ({"even": ["true"]}, [2, 4, 6]),
        ({"tags": ["t1"]}, [1, 3, 5, 7]),
        ({"name": ["n-1' or true--"]}, []),
        ({"seen_after": ["2026-01-01T06:00:00Z"]}, [6, 7]),
        ({"seen_before": ["2026-01-01T03:00:00+01:00"], "even": ["false"]}, [1]),
    ],
)
async def test_filters_narrow_the_list(
    database: Database, filters: dict[str, list[str]], wanted: list[int]
) -> None:
    assert await ids(database, filters=filters) == wanted


@pytest.mark.parametrize(
    "request_",
    [
        {"limit": 0},
        {"limit": 201},
        {"sort": "even"},
        {"sort": "id; drop table targets"},
        {"sort": "--id"},
        {"page": 0},
        {"page": 10**9},
        {"page": 1, "cursor": "x"},
        {"filters": {"nobody": ["1"]}},
        {"filters": {"third": ["x"]}},
        {"filters": {"third": [str(2**63)]}},
        {"filters": {"third": ["1" * 5000]}},
        {"filters": {"third": ["²"]}},
        {"filters": {"name": ["nul\x00"]}},
        {"filters": {"name": ["\ud800"]}},
        {"filters": {"name": ["x"] * 101}},
        {"filters": {"even": ["yes"]}},
        {"filters": {"seen_after": ["yesterday"]}},
        {"filters": {"seen_after": ["2026-01-01T00:00:00"]}},
    ],
)
async def test_unknown_filters_and_sorts_are_refused(
    database: Database, request_: dict[str, Any]
) -> None:
    with pytest.raises(Invalid) as refused:
        await NUMBERS.page(database, PageRequest(**request_), {"upto": 3})
    assert refused.value.code == "invalid_query"


def forged(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("sort", "cursor"),
    [
        ("id", ""),
        ("id", "x"),
        ("id", "é"),
        ("id", "A" * 5000),
        ("id", base64.urlsafe_b64encode(b"[" * 1000).decode()),
        ("id", forged("id", "1")),
        ("id", forged("-id", "1", 1)),
        ("id", forged("id", 1, 1)),
        ("id", forged("id", "x", 1)),
        ("id", forged("id", str(2**70), 1)),
        ("id", forged("id", "1", 2**70)),
        ("id", forged("id", "1", True)),
        ("name", forged("name", "nul\x00", 1)),
        ("name", forged("name", "\ud800", 1)),
        ("seen_at", forged("seen_at", "now", 1)),
    ],
)
async def test_a_cursor_that_was_made_up_is_refused_and_not_a_fault_of_ours(
    database: Database, sort: str, cursor: str
) -> None:
    with pytest.raises(Invalid, match="cursor"):
        await NUMBERS.page(database, PageRequest(sort=sort, cursor=cursor), {"upto": 3})


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("id", "\u0661"),
        ("id", "0_1"),
        ("id", " +1 "),
        ("seen_at", "2026-W01-4T01:00:00+00:00"),
        ("seen_at", "2026-01-01é01:00+00"),
    ],
)
async def test_a_cursor_is_read_by_us_and_never_refused_by_postgresql(
    database: Database, sort: str, key: str
) -> None:
    request = PageRequest(sort=sort, cursor=forged(sort, key, 1))
    page = await NUMBERS.page(database, request, {"upto": 3})
    assert [row["id"] for row in page.items] == [2, 3]


async def test_pages_by_number_count_the_total_and_end_empty(database: Database) -> None:
    pages = [
        await NUMBERS.page(database, PageRequest(page=n, limit=3), {"upto": 7}) for n in (1, 3, 4)
    ]
    assert [[row["id"] for row in page.items] for page in pages] == [[1, 2, 3], [7], []]
    assert {page.total for page in pages} == {7}
    assert [page.next is None for page in pages] == [False, True, True]


async def test_numbered_pages_end_and_so_does_the_total(database: Database) -> None:
    upto = {"upto": 10_001}
    page = await NUMBERS.page(database, PageRequest(page=1, limit=3), upto)
    assert (len(page.items), page.total) == (3, None)
    last = await NUMBERS.page(database, PageRequest(page=50, limit=200), {"upto": 10_000})
    assert ([row["id"] for row in last.items[-2:]], last.total) == ([9_999, 10_000], 10_000)
    with pytest.raises(
        Invalid, match="Page 51 of 200 ends behind row 10000: follow `next` by cursor, or filter"
    ):
        await NUMBERS.page(database, PageRequest(page=51, limit=200), upto)


WALKED = Listing(
    NUMBERS._select,
    {
        "id": ListColumn("integer", sort=True),
        "third": ListColumn("integer", walk=IndexWalk("third", cases={"9": "even"})),
        "name": ListColumn("text", beside=("third",)),
        "seen_at": ListColumn("moment", sort=True, indexed=True, by_id=True),
    },
    default_sort="id",
)


async def test_a_filter_without_an_index_is_taken_beside_one(database: Database) -> None:
    beside = PageRequest(filters={"name": ["n-4"], "third": ["1"]})
    assert [row["id"] for row in (await WALKED.page(database, beside, {"upto": 7})).items] == [4]
    with pytest.raises(Invalid, match="The filter name is taken only beside one of these: third"):
        await WALKED.page(database, PageRequest(filters={"name": ["n-4"]}), {"upto": 7})


@pytest.mark.parametrize("sort", ["id", "-id", "seen_at", "-seen_at"])
@pytest.mark.parametrize("third", [["1"], ["1", "2"], ["2", "0", "0"], ["9"], ["8"]])
async def test_pages_along_an_index_follow_each_other_without_a_gap(
    database: Database, sort: str, third: list[str]
) -> None:
    found: list[int] = []
    cursor = None
    while True:
        request = PageRequest(limit=3, cursor=cursor, sort=sort, filters={"third": third})
        page = await WALKED.page(database, request, {"upto": 20})
        found += [row["id"] for row in page.items]
        cursor = page.next
        if cursor is None:
            break
    wanted = [n for n in range(1, 21) if (n % 2 == 0 if third == ["9"] else str(n % 3) in third)]
    assert found == (wanted[::-1] if sort.startswith("-") else wanted)


async def test_what_is_filtered_by_a_moment_alone_comes_in_its_order(database: Database) -> None:
    request = PageRequest(limit=2, filters={"seen_after": ["2026-01-01T04:00:00Z"]})
    page = await WALKED.page(database, request, {"upto": 7})
    following = await WALKED.page(
        database, PageRequest(limit=2, cursor=page.next, filters=request.filters), {"upto": 7}
    )
    assert [[row["id"] for row in p.items] for p in (page, following)] == [[4, 5], [6, 7]]
