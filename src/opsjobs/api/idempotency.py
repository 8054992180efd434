"""The Idempotency-Key of a request, as a dependency of routes."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema

from opsjobs.api.paths import route_path
from opsjobs.api.request import principal_of
from opsjobs.api.services import services_of
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.store.idempotency import IdempotentRequest

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
ROUTE_BYTES_MAX = 500
"""Maximum size of a stored route: it is indexed together with the caller and the key."""
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
    return IdempotentRequest(str(principal_of(request).identity), route, idempotency_key, body)


Idempotent = Annotated[IdempotentRequest | None, Depends(idempotent)]


def _short(route: str) -> str:
    """Return the route, or its hash if it is too long for an index entry.

    An id in a path may have any length.
    """
    encoded = route.encode()
    return route if len(encoded) <= ROUTE_BYTES_MAX else hashlib.sha256(encoded).hexdigest()
