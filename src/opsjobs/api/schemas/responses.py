"""Status codes, headers and media types of answers, for the `responses` of routes."""

from __future__ import annotations

from typing import Any

from opsjobs.api.schemas.executions import ExecutionOut, PreviewOut, RetryPreviewOut
from opsjobs.api.schemas.schedules import HookResultOut
from opsjobs.api.schemas.system import HealthOut

Responses = dict[int | str, dict[str, Any]]


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


_LOCATION = {"Location": _header("The address of what was created")}
_ETAG = {"ETag": _header("The version, for If-Match")}
_REPLAYED = {
    "Idempotency-Replayed": _header(
        "`true`: the answer to an earlier request with this Idempotency-Key"
    )
}
_LAUNCHED = {
    **_LOCATION,
    **_REPLAYED,
    "Preference-Applied": _header("The `Prefer` that was followed"),
}
_TEXT = {"schema": {"type": "string"}}
_BYTES = {"schema": {"type": "string", "format": "binary"}}

PAGED: Responses = {200: {"headers": {"Link": _header('The next page, `rel="next"`')}}}
VERSIONED: Responses = {200: {"headers": _ETAG}}
CREATED: Responses = {201: {"headers": {**_LOCATION, **_REPLAYED}}}
CREATED_VERSION: Responses = {201: {"headers": {**_LOCATION, **_REPLAYED, **_ETAG}}}
REPLAYABLE: Responses = {200: {"headers": _REPLAYED}}
REPLAYABLE_VERSION: Responses = {200: {"headers": {**_REPLAYED, **_ETAG}}}
REVIVED: Responses = {202: {"headers": _REPLAYED}}
UNAVAILABLE: Responses = {503: {"model": HealthOut, "description": "Unavailable"}}

LAUNCHED: Responses = {
    202: {"headers": _LAUNCHED, "description": "The execution is stored"},
    200: {
        "model": ExecutionOut,
        "headers": _LAUNCHED,
        "description": "The execution has ended (`Prefer: wait`)",
    },
}
LAUNCHED_OR_PREVIEW: Responses = {
    202: LAUNCHED[202],
    200: {
        "model": ExecutionOut | PreviewOut,
        "headers": _LAUNCHED,
        "description": "The execution has ended (`Prefer: wait`), or a preview of it (`dry_run`)",
    },
}
RETRIED_OR_PREVIEW: Responses = {
    202: LAUNCHED[202],
    200: {
        "model": ExecutionOut | RetryPreviewOut,
        "headers": _LAUNCHED,
        "description": "The execution has ended (`Prefer: wait`), or a preview of it (`dry_run`)",
    },
}
HOOKED: Responses = {
    202: {"headers": _REPLAYED, "description": "The execution is stored"},
    200: {"model": HookResultOut, "description": "Nothing is launched"},
}

TEXT: Responses = {200: {"content": {"text/plain": _TEXT}}}
LINES: Responses = {
    200: {"content": {"application/x-ndjson": _TEXT}, "description": "One JSON object a line"}
}
EVENTS: Responses = {
    200: {"content": {"text/event-stream": _TEXT}, "description": "Frames until the `end` event"}
}
BYTES: Responses = {
    200: {"content": {"application/octet-stream": _BYTES}, "description": "The bytes of the file"}
}
SEARCHED: Responses = {
    200: {
        "content": {"application/x-ndjson": _TEXT},
        "description": "One JSON object a line: matches, then the summary",
    }
}
LOG: Responses = {
    200: {
        "content": {
            "text/plain": _TEXT,
            "application/octet-stream": _BYTES,
            "application/x-ndjson": _TEXT,
        },
        "description": (
            "By `format`: a page of JSON, lines of text, the bytes of one stream, "
            "or one JSON object a line"
        ),
    }
}
