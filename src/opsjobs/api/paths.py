"""The two paths of every route: at the root, and the same under /api/v1."""

from __future__ import annotations

from fastapi import Request
from starlette.types import Scope

PREFIX = "/api/v1"


def under_prefix(scope: Scope) -> Scope:
    """Return the request with PREFIX, if its path has it, as root path.

    Routes then see the path without it.
    """
    mine = dict(scope)
    if scope["path"] == PREFIX or scope["path"].startswith(PREFIX + "/"):
        mine["root_path"] = scope.get("root_path", "") + PREFIX
    return mine


def route_path(scope: Scope) -> str:
    """Return the path as routes name it, without any prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def build_location(request: Request, path: str) -> str:
    """Return a path as this caller spells it: under /api/v1 if the request came there."""
    return str(request.scope.get("root_path", "")) + path
