"""Allowed methods of each path, checked before the body; HEAD is GET without its body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from re import Pattern

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opsjobs.api.paths import route_path
from opsjobs.api.problems import not_allowed

ENDLESS = frozenset({"/executions/{id}/events"})
"""Paths whose answers last until the viewer disconnects: they have no HEAD."""


class AllowedMethods:
    """The methods of each path of an application, read when it is first asked for."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def for_path(self, path: str) -> frozenset[str]:
        """Return the methods of this path; none if the path does not exist."""
        if (fixed := self._fixed.get(path)) is not None:
            return fixed
        return frozenset().union(
            *(methods for pattern, methods in self._patterns if pattern.match(path))
        )

    def is_elsewhere(self, path: str, method: str) -> bool:
        """Return True for a fixed path, such as /jobs/export, without this method.

        Its last part is then not the `{id}` of another route.
        """
        fixed = self._fixed.get(path)
        return fixed is not None and method not in fixed

    @cached_property
    def _fixed(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for path, _, methods in self._routes:
            if "{" not in path:
                found[path] = found.get(path, frozenset()) | methods
        return found

    @cached_property
    def _patterns(self) -> Sequence[tuple[Pattern[str], frozenset[str]]]:
        return [(pattern, methods) for path, pattern, methods in self._routes if "{" in path]

    @cached_property
    def _routes(self) -> Sequence[tuple[str, Pattern[str], frozenset[str]]]:
        routes = []
        for context in iter_route_contexts(self._app.routes):
            route = context.original_route
            pattern, path = getattr(route, "path_regex", None), getattr(route, "path", None)
            if pattern is not None and path is not None:
                methods = frozenset(context.methods or ())
                has_head = "GET" in methods and path not in ENDLESS
                routes.append(
                    (path, pattern, methods | {"HEAD"} if has_head else methods - {"HEAD"})
                )
        return routes


class AllowedMethodsMiddleware:
    """Middleware that refuses methods a fixed path lacks and answers HEAD like GET, bodiless."""

    def __init__(self, app: ASGIApp, methods: AllowedMethods) -> None:
        self._app = app
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = route_path(scope), scope["method"]
        if self._methods.is_elsewhere(path, method):
            await not_allowed(scope, self._methods.for_path(path))(scope, receive, send)
        elif method == "HEAD" and "HEAD" in self._methods.for_path(path):
            asked = {**scope, "method": "GET"}
            await self._app(asked, receive, _without_body(send))
            scope.update({name: asked[name] for name in ("route", "path_params") if name in asked})
        else:
            await self._app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def only_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return only_head
