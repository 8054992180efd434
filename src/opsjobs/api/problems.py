"""Problem documents (RFC 9457) for all refusals: those of this API, of FastAPI, and bugs.

A browser that comes by a link gets a page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from opsjobs.api.paths import route_path
from opsjobs.composition.paths import CONSOLE
from opsjobs.model.action import KINDS
from opsjobs.model.api_model import snake_case
from opsjobs.model.errors import (
    FieldError,
    Refusal,
    RemoteFailure,
    TooMany,
    Unauthorised,
    Unavailable,
)
from opsjobs.model.validation_errors import plain_words
from opsjobs.telemetry.logs import log

MEDIA_TYPE = "application/problem+json"
ERRORS_SHOWN_MAX = 100
POINTER_CHARACTERS_MAX = 400
RETRY_AFTER_SECONDS = 1


class Problem(JSONResponse):
    """Error response with a stable `code` and the request's id, never with a stack trace.

    A browser that was sent to a login gets it as a page.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        scope: Scope,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body: dict[str, Any] = {
            "type": f"urn:opsconductor:problem:{code}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code,
            "request_id": scope.get("state", {}).get("request_id"),
        }
        if errors:
            body["errors"] = [_render_error(error) for error in errors[:ERRORS_SHOWN_MAX]]
        self._page_scope = scope if is_page_wanted(scope) else None
        self._retry_after = (headers or {}).get("Retry-After")
        if self._page_scope is not None:
            self.media_type = PAGE_MEDIA_TYPE
            headers = {**(headers or {}), **PAGE_HEADERS}
        super().__init__(body, status, headers)

    def render(self, content: Any) -> bytes:
        """Return the body: the document, or its page."""
        if self._page_scope is None:
            return super().render(content)
        return render_page(self._page_scope, content, self._retry_after)

    @classmethod
    def from_refusal(cls, scope: Scope, refusal: Refusal) -> Problem:
        """Return the document of a Refusal."""
        headers: dict[str, str] = {}
        if isinstance(refusal, TooMany):
            headers["Retry-After"] = str(refusal.retry_after_seconds)
        if isinstance(refusal, Unauthorised):
            headers["WWW-Authenticate"] = "Bearer"
        return cls(
            scope,
            refusal.status,
            refusal.code,
            refusal.detail,
            errors=refusal.errors,
            headers=headers,
        )

    @classmethod
    def from_unavailable(cls, scope: Scope, reason: Unavailable) -> Problem:
        """Return the 503 for a dependency that does not respond; the caller may retry.

        The reason goes to the log only: it may name internal hosts.
        """
        log.warning(
            "unavailable", reason=str(reason), request_id=scope.get("state", {}).get("request_id")
        )
        return cls(
            scope,
            503,
            reason.code,
            reason.detail,
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )

    @classmethod
    def from_bug(cls, scope: Scope) -> Problem:
        """Return the 500 for a bug; the log has the error under the request's id."""
        return cls(
            scope,
            500,
            "internal",
            "Internal error. The service's log has the details under this request_id.",
        )


def not_allowed(scope: Scope, allowed: Collection[str]) -> Problem:
    """Return the 405 that names the allowed methods of this path."""
    listed = ", ".join(sorted(allowed))
    detail = f"{scope['method'][:20]} is not allowed on {route_path(scope)[:200]}. Use {listed}."
    return Problem(scope, 405, "method_not_allowed", detail, headers={"Allow": listed})


def _render_error(error: FieldError) -> dict[str, str]:
    place, _, name = error.code.partition(":")
    if place in ("query", "header", "path"):
        return {"detail": error.detail, "code": "invalid", "in": place, "parameter": name}
    return {"detail": error.detail, "code": error.code, "pointer": error.pointer}


_PLACES = tuple((place,) for place in ("body", "query", "header", "path", "cookie"))


def install(app: FastAPI) -> None:
    """Install the handlers that turn exceptions of routes into problem documents."""
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(Unavailable, _on_unavailable)
    app.add_exception_handler(RemoteFailure, _on_remote_failure)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_refusal(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, Refusal)
    return Problem.from_refusal(request.scope, raised)


async def _on_unavailable(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, Unavailable)
    return Problem.from_unavailable(request.scope, raised)


async def _on_remote_failure(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, RemoteFailure)
    return Problem(request.scope, 424, raised.code.value, raised.message)


async def _on_invalid(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, RequestValidationError)
    unreadable: Refusal | None = request.scope.get("state", {}).get("body_refusal")
    if unreadable is not None:
        return Problem.from_refusal(request.scope, unreadable)
    raw_errors = raised.errors()
    errors = field_errors(raw_errors[:ERRORS_SHOWN_MAX], raised.body)
    more = f" ({len(raw_errors) - 1} more in errors)" if len(raw_errors) > 1 else ""
    code = errors[0].code if _is_ours(raw_errors[0]) else "invalid"
    return Problem(request.scope, 422, code, _sentence(errors[0]) + more, errors=errors)


async def _on_http(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    path = route_path(request.scope)[:200]
    match raised.status_code:
        case 404:
            return Problem(request.scope, 404, "not_found", f"There is nothing at {path}.")
        case 405:
            return not_allowed(request.scope, request.app.state.methods.for_path(path))
        case status:
            return Problem(
                request.scope,
                status,
                HTTPStatus(status).name.lower(),
                str(raised.detail),
                headers=raised.headers,
            )


def field_errors(raw_errors: Iterable[Mapping[str, Any]], body: Any) -> list[FieldError]:
    """Return Pydantic's errors as FieldErrors, with pointers into the body."""
    return [_field_error(error, body) for error in raw_errors]


def _field_error(error: Mapping[str, Any], body: Any) -> FieldError:
    place, *steps = error["loc"] if error["loc"][:1] in _PLACES else ("body", *error["loc"])
    detail = plain_words(error)
    if place == "body":
        if error["type"] == "missing" and not steps:
            detail = "The request needs a JSON body"
        steps = _steps_into(body, _without_kinds(steps), is_missing=error["type"] == "missing")
        if _is_ours(error):
            steps, detail = [*steps, *error["ctx"]["at"]], error["ctx"]["detail"]
        return FieldError(pointer(steps), detail, str(error["type"]))
    return FieldError("", detail, f"{place}:{'.'.join(str(step) for step in steps)}")


def _is_ours(error: Mapping[str, Any]) -> bool:
    """Return True for an error of opsjobs' models: it has a pointer and a code for programs."""
    return "at" in (error.get("ctx") or {})


def _without_kinds(steps: Sequence[Any]) -> list[Any]:
    """Return the path without the action types that pydantic inserts.

    Pydantic puts the type between the position of an action and its fields. A type may also be the
    name of a field.
    """
    return [
        step
        for i, step in enumerate(steps)
        if not (
            step in KINDS
            and i > 0
            and (
                steps[i - 1] == "check"
                or (isinstance(steps[i - 1], int) and steps[i - 2] == "actions")
            )
        )
    ]


def _steps_into(body: Any, steps: Sequence[Any], *, is_missing: bool) -> list[Any]:
    """Return the path in the body, without other tags and types that pydantic inserts.

    `is_missing`: the last step is a missing field.
    """
    if not isinstance(body, dict | list):
        return [*steps]
    found: list[Any] = []
    at = body
    for number, step in enumerate(steps, start=1):
        if isinstance(at, dict) and (key := _key_of(at, step)) is not None:
            at = at[key]
        elif isinstance(at, list) and isinstance(step, int) and 0 <= step < len(at):
            at = at[step]
        elif not (is_missing and number == len(steps)):
            continue
        found.append(step)
    return found


def _key_of(body: Mapping[Any, Any], step: Any) -> Any:
    """Return the key of a step in a body, in either spelling; None if it is missing."""
    if step in body or not isinstance(step, str):
        return step if step in body else None
    return next((key for key in body if isinstance(key, str) and snake_case(key) == step), None)


def _sentence(error: FieldError) -> str:
    place, _, name = error.code.partition(":")
    where = f"{place} parameter {name}" if name else error.pointer or "The body"
    return f"{where}: {error.detail}."


def pointer(steps: Iterable[object]) -> str:
    """Return the JSON Pointer (RFC 6901) of a path of keys and positions."""
    text = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
    return text if len(text) <= POINTER_CHARACTERS_MAX else text[:POINTER_CHARACTERS_MAX] + "…"


# --- pages, for browsers that come by a link and not from a script


PAGE_MEDIA_TYPE = "text/html"
_LOGIN = "/auth/oidc"
PAGE_PATHS = frozenset({_LOGIN, f"{_LOGIN}/callback"})
"""Routes to which browsers are sent."""
_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 14px / 20px system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 480px; margin: 15vh auto 0; padding: 16px; }
h1 { margin: 0; font-size: 20px; line-height: 28px; }
small { opacity: 0.75; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{_STYLE_HASH}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}


def is_page_wanted(scope: Scope) -> bool:
    """Return True if a browser shows the answer to a person."""
    return (
        scope["method"] in ("GET", "HEAD")
        and route_path(scope) in PAGE_PATHS
        and "text/html" in Headers(scope=scope).get("accept", "")
    )


def render_page(scope: Scope, problem: Mapping[str, Any], retry_after: str | None) -> bytes:
    """Return the page of a problem document: its reason, when to try again, and where.

    `retry_after`: the seconds of the header Retry-After, if the answer has it.
    """
    links = [f'<a href="{CONSOLE}">Back to the console</a>']
    if route_path(scope) == _LOGIN:
        query = scope["query_string"].decode("latin-1")
        address = f"{scope['path']}?{query}" if query else scope["path"]
        links.insert(0, f'<a href="{escape(address)}">Try again</a>')
    wait = f"<p>Try again in {_render_seconds(retry_after)}.</p>" if retry_after else ""
    request = problem["request_id"] or "unknown"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Not logged in · opsjobs</title><meta name="viewport" content="width=device-width">
<style>{_STYLE}</style></head><body><main>
<h1>You are not logged in</h1>
<p>{escape(problem["detail"])}</p>
{wait}
<p>{" · ".join(links)}</p>
<p><small>{escape(problem["code"])}, request {escape(request)}</small></p>
</main></body></html>
""".encode()


def _render_seconds(retry_after: str) -> str:
    return "a second" if retry_after == "1" else f"{retry_after} seconds"
