"""Writes the table of routes of docs/reference/api.md from the routes of the application.

    PYTHONPATH=tests .venv/bin/python -m docs.reference

The order of the page stays; new routes come last. test_complete.py fails if the page is out of date.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from docs.pages import ROOT
from opsjobs.api.app import create_app
from opsjobs.api.dependencies import Permission
from opsjobs.api.openapi import remove_summary
from opsjobs.composition.services import Limits
from opsjobs.telemetry.metrics import Metrics

PAGE = ROOT / "docs/reference/api.md"
_ROW = re.compile(r"^\| `([A-Z]+ /[^`]*)` \|.*\n", re.MULTILINE)


def application() -> FastAPI:
    """Return the application, without services that no description needs."""
    services: Any = SimpleNamespace(
        limits=Limits(max_actions=1, body_bytes=1, docs=True),
        clock=None,
        execution_log=None,
        event_feed=None,
        event_builder=None,
        event_visibility=None,
        bus=None,
        executions=None,
        authentication=SimpleNamespace(authenticator=None),
        metrics=Metrics(),
    )
    return create_app(services)


def routes() -> dict[str, tuple[str, str]]:
    """Return the permission of each route, and its description."""
    app = application()
    described = app.openapi()["paths"]
    found = {}
    for route in (c.original_route for c in iter_route_contexts(app.routes)):
        if not isinstance(route, APIRoute):
            continue
        permission = next(
            (d.call.name for d in route.dependant.dependencies if isinstance(d.call, Permission)),
            "",
        )
        for method in route.methods or ():
            operation = described[route.path][method.lower()]
            does = " ".join(f"{operation['summary']}. {remove_summary(operation)}".split())
            found[f"{method} {route.path}"] = (permission, does)
    return found


def row(route: str, permission: str, does: str) -> str:
    """Return a row of the table."""
    needed = f"`{permission}`" if permission else "none needed"
    return f"| `{route}` | {needed} | {does.replace('|', chr(92) + '|')} |\n"


def written(page: str) -> str:
    """Return the page with the rows of the present routes."""
    known = routes()
    order = [route for route in _ROW.findall(page) if route in known]
    order += [route for route in known if route not in order]
    table = "".join(row(route, *known[route]) for route in order)
    first = _ROW.search(page)
    assert first is not None
    rest = _ROW.sub("", page)
    return rest[: first.start()] + table + rest[first.start() :]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
