"""Limit the size of request bodies and check their JSON before any route reads them.

Order of refusals: a body that is too large (413) or not declared as JSON (415) is refused here.
Invalid JSON is recorded and refused (422) only after the route has checked that the object exists
(404) and that the caller has the permission (403). Until then the body is passed on as `false`,
which is not a valid body of any route.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from email.message import Message as MimeHeader
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opsjobs.api.middleware import AllowedMethods
from opsjobs.api.paths import is_hook, route_path
from opsjobs.api.problems import Problem, pointer
from opsjobs.model.errors import Failure, FieldError, Invalid
from opsjobs.model.units import describe_size

DEPTH_MAX = 32
READ_SECONDS_MAX = 60
UNAUTHENTICATED_BYTES_MAX = 16 << 10
UNAUTHENTICATED_READ_SECONDS_MAX = 10
"""Limits for a body sent without a token: a name and a password, or a refresh token."""
METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REFUSED = b"false"


class TooLarge(Failure):
    """The body has more bytes than the limit."""


class JsonBodyMiddleware:
    """Middleware that reads each JSON body once, completely, up to the limit.

    A larger body is never held in memory. `raw`: the methods and paths without a JSON body.
    Sets in `scope["state"]`: `body_sha256` (bytes) and, if the JSON is invalid, `body_refusal`
    (Invalid). The body of a call of a trigger is not parsed here, but kept as `body` (bytes).
    """

    def __init__(
        self,
        app: ASGIApp,
        limit_bytes: int,
        methods: AllowedMethods,
        raw: Collection[tuple[str, str]] = (),
    ) -> None:
        self._app = app
        self._methods = methods
        self._raw = raw
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the body of a request that has one."""
        if (
            scope["type"] != "http"
            or not _has_body(scope)
            or (scope["method"], route_path(scope)) in self._raw
        ):
            await self._app(scope, receive, send)
            return
        # A call of a trigger proves its sender by its body.
        calls = is_hook(scope)
        unauthenticated = "principal" not in scope.get("state", {})
        limit_bytes = (
            min(self._limit_bytes, UNAUTHENTICATED_BYTES_MAX)
            if unauthenticated and not calls
            else self._limit_bytes
        )
        seconds = UNAUTHENTICATED_READ_SECONDS_MAX if unauthenticated else READ_SECONDS_MAX
        problem = self._refusal(scope, limit_bytes)
        if problem is not None and scope["method"] not in self._methods.for_path(route_path(scope)):
            # The router responds with 404 or 405: no body would be accepted.
            await self._app(scope, receive, send)
            return
        if problem is None:
            try:
                async with asyncio.timeout(seconds):
                    body = await self._read(receive, limit_bytes)
            except TooLarge:
                problem = self._too_large(scope, limit_bytes)
            except TimeoutError:
                detail = f"The body did not arrive within {seconds} seconds. Send it again."
                problem = Problem(
                    scope, 408, "body_timeout", detail, headers={"Connection": "close"}
                )
        if problem is not None:
            await problem(scope, receive, send)
        elif body is not None:
            checked = _keep(scope, body) if calls else _check_json(scope, body)
            await self._app(scope, _replay(checked, receive), send)

    def _refusal(self, scope: Scope, limit_bytes: int) -> Problem | None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if (
            length.isascii()
            and length.isdigit()
            and (len(length) > 18 or int(length) > limit_bytes)
        ):
            return self._too_large(scope, limit_bytes)
        media_type, charset = _content_type(headers.get("content-type", ""))
        if media_type != "application/json" and not re.fullmatch(
            r"application/[\w.-]+\+json", media_type
        ):
            declared = media_type[:100] or "of no declared type"
            detail = f"The body is {declared}. Send JSON, with Content-Type: application/json."
        elif charset not in ("", "utf-8", "utf8"):
            detail = f"The body is encoded as {charset[:40]}. Send UTF-8."
        elif headers.get("content-encoding", "identity").lower() != "identity":
            detail = "The body is compressed. Send it uncompressed."
        else:
            return None
        return Problem(
            scope, 415, "unsupported_media_type", detail, headers={"Accept": "application/json"}
        )

    def _too_large(self, scope: Scope, limit_bytes: int) -> Problem:
        which = (
            "OPSJOBS_BODY_LIMIT_BYTES" if limit_bytes == self._limit_bytes else "without a token"
        )
        limit = describe_size(limit_bytes)
        detail = f"The body is larger than the limit of {limit} ({which}). Send less."
        return Problem(scope, 413, "body_too_large", detail)

    async def _read(self, receive: Receive, limit_bytes: int) -> bytes | None:
        """Return the whole body, or None if the client disconnected.

        Raises TooLarge at the first byte beyond the limit.
        """
        chunks: list[bytes] = []
        size = 0
        while (message := await receive())["type"] == "http.request":
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit_bytes:
                raise TooLarge
            if not message.get("more_body", False):
                return b"".join(chunks)
        return None


def parse_json(body: bytes) -> Any:
    """Return the value of a strict JSON text. Raises Invalid.

    Strict: UTF-8, no duplicate key, no NaN or Infinity, no NUL or lone surrogate, at most 32
    levels deep.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError as wrong:
        raise _invalid("", f"The body is not UTF-8 (byte {wrong.start}).", "not_utf8") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as wrong:
        where = f"line {wrong.lineno}, column {wrong.colno}"
        raise _invalid(
            "", f"The body is not JSON: {wrong.msg} at {where}.", "malformed_json"
        ) from None
    except ValueError as wrong:  # a number of more than 4300 digits: Python refuses to read it
        raise _invalid(
            "", f"The body has a number that cannot be read: {str(wrong)[:100]}.", "malformed_json"
        ) from None
    _check_texts(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise _invalid(
            "", f"The body has the key {twice[:100]!r} twice in one object.", "duplicate_key"
        )
    return value


def _no_constant(name: str) -> Any:
    raise _invalid("", f"The body has {name}, which is not JSON.", "not_a_number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise _too_large_number(text)
    return number


def _whole(text: str) -> int:
    """Return a whole number. Raises Invalid for one that no float can hold."""
    number = int(text)
    if not math.isfinite(float(text)):
        raise _too_large_number(text)
    return number


def _too_large_number(text: str) -> Invalid:
    detail = f"The body has the number {text[:40]}, which is too large."
    return _invalid("", detail, "not_a_number")


def _check_texts(value: Any) -> None:
    # A loop with its own stack, no recursion: the caller's body determines the depth.
    open_: list[tuple[tuple[object, ...], Any]] = [((), value)]
    while open_:
        path, item = open_.pop()
        if len(path) > DEPTH_MAX:
            raise _too_deep()
        if isinstance(item, str):
            _check_text(path, item)
        elif isinstance(item, dict | list):
            open_.extend(((*path, step), inner) for step, inner in _inside(path, item))


def _inside(
    path: tuple[object, ...], item: dict[str, Any] | list[Any]
) -> Iterable[tuple[object, Any]]:
    if isinstance(item, list):
        return enumerate(item)
    for key in item:
        _check_text(path, key)
    return item.items()


def _check_text(path: tuple[object, ...], text: str) -> None:
    if found := _UNSTORABLE.search(text):
        what = "a NUL character" if found[0] == "\x00" else "half a surrogate pair"
        raise _invalid(
            pointer(path),
            f"The text at {pointer(path) or '/'} has {what}, which cannot be stored.",
            "bad_character",
        )


def _too_deep() -> Invalid:
    return _invalid("", f"The body is nested more than {DEPTH_MAX} levels deep.", "too_deep")


def _invalid(where: str, detail: str, code: str) -> Invalid:
    return Invalid(code, detail, errors=[FieldError(where, detail, code)])


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return scope["method"] in METHODS and (
        "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""
    )


def _content_type(value: str) -> tuple[str, str]:
    parsed = MimeHeader()
    parsed["content-type"] = value
    charset = parsed.get_param("charset", "")
    return (parsed.get_content_type() if value else ""), str(charset).lower()


def _check_json(scope: Scope, body: bytes) -> bytes:
    state = scope.setdefault("state", {})
    state["body_sha256"] = hashlib.sha256(body).digest()
    try:
        parse_json(body)
    except Invalid as refusal:
        state["body_refusal"] = refusal
        return _REFUSED
    return body


def _keep(scope: Scope, body: bytes) -> bytes:
    """Keep the body for the route, which verifies it before it is parsed."""
    state = scope.setdefault("state", {})
    state["body"], state["body_sha256"] = body, hashlib.sha256(body).digest()
    return b""


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
