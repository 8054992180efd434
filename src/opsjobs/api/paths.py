"""The two spellings of every address: at the root, and the same under /api/v1."""

from __future__ import annotations

from fastapi import Request
from starlette.types import Scope

PREFIX = "/api/v1"


def under_prefix(scope: Scope) -> Scope:
    """The request with PREFIX, where its path has it, counted as root path: routes then see the path without."""
    mine = dict(scope)
    if scope["path"] == PREFIX or scope["path"].startswith(PREFIX + "/"):
        mine["root_path"] = scope.get("root_path", "") + PREFIX
    return mine


def route_path(scope: Scope) -> str:
    """The path as routes name it, without any prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def located(request: Request, path: str) -> str:
    """A path of ours as this caller spells it: under /api/v1 where the request came there."""
    return str(request.scope.get("root_path", "")) + path
