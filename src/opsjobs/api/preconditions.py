"""Request headers If-Match (the expected version) and Idempotency-Key (apply only once)."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema

from opsjobs.api.auth import principal_of
from opsjobs.api.dependencies import services_of
from opsjobs.api.paths import route_path
from opsjobs.model.errors import FieldError, Invalid, Precondition
from opsjobs.store.idempotency import IdempotentRequest

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')
ROUTE_BYTES_MAX = 500
"""Maximum size of a stored route: it is indexed together with the caller and the key."""
REQUIRED = "x-required"
"""Key in a parameter's schema: api/openapi.py describes such a parameter as required."""
_EMPTY = hashlib.sha256(b"").digest()


async def idempotent(
    request: Request,
    idempotency_key: Annotated[
        Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$"})]
        | None,
        Header(
            description="A repeated request with the same key gets the first answer again, "
            "for 24 hours."
        ),
    ] = None,
) -> IdempotentRequest | None:
    """Return the identity of the request for `store.idempotency`; None without a key.

    Raises Invalid.
    """
    if idempotency_key is None:
        return None
    if not _KEY.fullmatch(idempotency_key):
        detail = (
            "An Idempotency-Key is 1 to 255 printable ASCII characters without blanks, "
            "such as a UUID."
        )
        raise Invalid(
            "invalid_header", detail, errors=[FieldError("", detail, "header:Idempotency-Key")]
        )
    body = services_of(request).vault.blinded(getattr(request.state, "body_sha256", _EMPTY))
    # The key belongs to the caller and the route; the prefix /api/v1 names the same route.
    route = _short(f"{request.method} {route_path(request.scope)}")
    return IdempotentRequest(principal_of(request).identity, route, idempotency_key, body)


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
    # An ETag that is not a version number is ignored: then nothing matches, and the answer is 412.
    return frozenset(
        int(tag)
        for tag in _TAG.findall(header)
        if tag.isascii() and tag.isdigit() and len(tag) < 19
    )


Idempotent = Annotated[IdempotentRequest | None, Depends(idempotent)]
IfMatch = Annotated[frozenset[int] | None, Depends(if_match)]
IfMatchOrAny = Annotated[frozenset[int] | None, Depends(if_match_or_any)]


def _short(route: str) -> str:
    """Return the route, or its hash if it is too long for an index entry.

    An id in a path may have any length.
    """
    encoded = route.encode()
    return route if len(encoded) <= ROUTE_BYTES_MAX else hashlib.sha256(encoded).hexdigest()
