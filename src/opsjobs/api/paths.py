"""The paths of requests, with and without the prefix of the API."""

from __future__ import annotations

import re

from fastapi import Request
from starlette.types import Scope

from opsjobs.composition.paths import API

PREFIX = API
HOOK = "/hooks/{id}"
"""The route of the URLs of triggers, which needs no token."""
_HOOK = re.compile(r"/hooks/[^/]+")


def under_prefix(scope: Scope) -> Scope:
    """Return the request with PREFIX, if its path has it, as root path.

    Routes then see the path without it.
    """
    mine = dict(scope)
    if scope["path"] == PREFIX or scope["path"].startswith(PREFIX + "/"):
        mine["root_path"] = scope.get("root_path", "") + PREFIX
    return mine


def route_path(scope: Scope) -> str:
    """Return the path in the form of the routes, without any prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_hook(scope: Scope) -> bool:
    """Return True for the URL of a trigger, whether that exists or not."""
    return _HOOK.fullmatch(route_path(scope)) is not None


def build_location(request: Request, path: str) -> str:
    """Return a path in the caller's form: under /api/v1 if the request used that prefix."""
    return str(request.scope.get("root_path", "")) + path
