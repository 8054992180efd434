"""HTTP conventions of all routes: pages, created objects, ETags, preconditions.

The expected version is in the header If-Match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any, Protocol
from urllib.parse import urlencode

from fastapi import Depends, Header, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import JSONResponse

from opsjobs.api.paths import build_location
from opsjobs.model.errors import FieldError, Invalid, Precondition
from opsjobs.store.idempotency import Answer
from opsjobs.store.paging import (
    FILTER_VALUES_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    PAGE_MAX,
    Listing,
    Page,
    PageRequest,
)

FACETS_ASKED_MAX = 20


class Renderable(Protocol):
    """Object that a response is rendered from."""

    def data(self) -> dict[str, Any]:
        """Return the JSON object."""


def page_of(listing: Listing, *, also: Collection[str] = ()) -> Any:
    """Return the dependency that reads the query parameters of this list.

    `page: Annotated[PageRequest, page_of(JOBS)]`. Every filter of the list is a documented
    parameter that may be repeated; `also` names parameters that the route reads itself. Any other
    is refused, because otherwise a misspelt filter would show everything.
    """

    async def read(
        *,
        request: Request,
        limit: int,
        cursor: str | None,
        sort: str | None,
        page: int | None,
        size: int | None,
        **filters: Any,
    ) -> PageRequest:
        optional = [*(["q"] if listing.search else []), *(["facets"] if listing.facets else [])]
        known = {"limit", "cursor", "sort", "page", "size", *optional, *listing.filters, *also}
        if unknown := [name for name in request.query_params if name not in known]:
            names = ", ".join(sorted(known))
            detail = f"Unknown query parameter {unknown[0][:60]!r}. Known are {names}."
            raise Invalid(
                "invalid_query", detail, errors=[FieldError("", detail, f"query:{unknown[0][:60]}")]
            )
        q, facets = filters.pop("q", None), filters.pop("facets", None)
        given = {name.removeprefix(_FILTER): values for name, values in filters.items() if values}
        return PageRequest(
            size or limit,
            cursor,
            sort,
            1 if size and page is None and cursor is None else page,
            given,
            q,
            list(dict.fromkeys(facets or ())),
        )

    read.__signature__ = _signature(listing)  # type: ignore[attr-defined]  # FastAPI reads it
    return Depends(read)


_FILTER = "filter_"
# Schemas of filter values in the OpenAPI document; the list itself refuses invalid values.
_SHAPES: dict[str, dict[str, Any]] = {
    "integer": {"pattern": r"^-?[0-9]{1,18}$"},
    "uuid": {"format": "uuid"},
    "moment": {"format": "date-time"},
}


def _signature(listing: Listing) -> Signature:
    sorts = ", ".join(listing.sorts)
    taken: list[tuple[str, Any, Any]] = [
        (
            "limit",
            Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Items per page.")],
            LIMIT_DEFAULT,
        ),
        (
            "cursor",
            Annotated[
                str | None, Query(max_length=2_000, description="`next` of the previous page.")
            ],
            None,
        ),
        (
            "sort",
            Annotated[
                str | None,
                Query(description=f"One of {sorts}; a leading `-` reverses the order."),
            ],
            None,
        ),
        (
            "page",
            Annotated[
                int | None,
                Query(
                    ge=1,
                    le=PAGE_MAX,
                    description="Page number, instead of a cursor; the answer has `total`.",
                ),
            ],
            None,
        ),
        (
            "size",
            Annotated[
                int | None, Query(ge=1, le=LIMIT_MAX, description="Items per page, with `page`.")
            ],
            None,
        ),
    ]
    if listing.search:
        words = f"A text in {' or '.join(listing.search)}, in any case."
        text = Query(min_length=1, max_length=200, description=words)
        taken.append(("q", Annotated[str | None, text], None))
    if listing.facets:
        words = f"Count the items by {' or '.join(listing.facets)}, whatever it is filtered to."
        some = Query(max_length=FACETS_ASKED_MAX, description=words)
        taken.append(("facets", Annotated[list[str] | None, some], None))
    for name, kind in listing.filters.items():
        # With a prefix: a path may have its own `{id}`.
        words = (
            f"Any of these values ({kind})." if kind != "moment" else "A time with its UTC offset."
        )
        value: Any = Annotated[str, WithJsonSchema({"type": "string", **_SHAPES.get(kind, {})})]
        some = Query(alias=name, max_length=FILTER_VALUES_MAX, description=words)
        taken.append((_FILTER + name, Annotated[list[value] | None, some], None))
    request = Parameter("request", Parameter.KEYWORD_ONLY, annotation=Request)
    return Signature(
        [
            request,
            *(Parameter(n, Parameter.KEYWORD_ONLY, annotation=a, default=d) for n, a, d in taken),
        ]
    )


def render_page(
    request: Request,
    page: Page[Any],
    shown: Callable[[Any], Mapping[str, Any]] = lambda item: item.data(),
    *,
    name: str = "items",
    more: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """Return `{items, next, total?}` of a page, with `Link: rel="next"`.

    `shown` renders the JSON of an item, by default its `data()`. `more`: further fields.
    """
    items = [shown(item) for item in page.items]
    body: dict[str, Any] = {name: items, "next": page.next, **(more or {})}
    if page.total is not None:
        body["total"] = page.total
    if page.facets is not None:
        body["facets"] = page.facets
    return JSONResponse(
        body, headers={"Link": _next_link(request, page.next)} if page.next else None
    )


def _next_link(request: Request, cursor: str) -> str:
    kept = [
        (name, value)
        for name, value in request.query_params.multi_items()
        if name not in ("cursor", "page")
    ]
    return f'<{request.url.path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'


def render_created(
    request: Request, collection: str, thing: Renderable | Answer, *, versioned: bool = False
) -> JSONResponse:
    """Return 201 with the Location of the created object, below the path of its collection.

    For a repeated request, return the response to the first one. `versioned`: its version is its
    ETag.
    """
    if isinstance(thing, Answer):
        return render_replayed(request, thing, etag=versioned)
    body = thing.data()
    headers = {"Location": build_location(request, f"{collection}/{body['id']}")}
    if versioned:
        headers["ETag"] = tag(body["version"])
    return JSONResponse(body, 201, headers)


def render_replayed(request: Request, answer: Answer, *, etag: bool = False) -> JSONResponse:
    """Return the response to the first request again, marked as replayed.

    `etag`: the first response had an ETag, that of its `version`, which is sent again.
    """
    headers = {"Idempotency-Replayed": "true"}
    if answer.location is not None:
        headers["Location"] = build_location(request, answer.location)
    if etag:
        headers["ETag"] = tag(answer.body["version"])
    return JSONResponse(dict(answer.body), answer.status, headers)


def tag(version: int) -> str:
    """Return the ETag of a version."""
    return f'"{version}"'


_TAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')
REQUIRED = "x-required"
"""Key in a parameter's schema: api/openapi.py describes such a parameter as required."""


async def if_match(
    if_match: Annotated[
        str | None,
        Header(
            description="The ETag of the version that you have read, or *.",
            json_schema_extra={REQUIRED: True},
        ),
    ] = None,
) -> frozenset[int] | None:
    """Return the versions that the caller expects; None: any (`*`).

    Raises Precondition(428) if the header is missing.
    """
    if if_match is None:
        detail = (
            "If-Match is missing. Send the ETag of the version that you have read, "
            "or * for any version."
        )
        raise Precondition("if_match_missing", detail, status=428)
    return _versions(if_match)


async def if_match_or_any(
    if_match: Annotated[
        str | None, Header(description="Optional: the ETag of the version that you have read.")
    ] = None,
) -> frozenset[int] | None:
    """Like `if_match`, but a missing header means any version."""
    return None if if_match is None else _versions(if_match)


def _versions(header: str) -> frozenset[int] | None:
    if header.strip() == "*":
        return None
    # An ETag that is not a version number is ignored: then nothing matches, and the status is 412.
    return frozenset(
        int(tag)
        for tag in _TAG.findall(header)
        if tag.isascii() and tag.isdigit() and len(tag) < 19
    )


IfMatch = Annotated[frozenset[int] | None, Depends(if_match)]
IfMatchOrAny = Annotated[frozenset[int] | None, Depends(if_match_or_any)]
