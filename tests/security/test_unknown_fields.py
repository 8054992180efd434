"""Point 7: input models forbid extra fields; generated from the routes of the application."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from opsjobs.store.transaction import Database
from security.test_permission_matrix import NOBODYS_BODY, NOUNS
from security.two_scopes import STAGING, ScopedApp, scoped_app

PUBLIC = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
# Their fields are names that callers choose, or a model of their own reads them entry by entry.
FREE = frozenset({"POST /jobs/validate"})


def routes(app: Any) -> list[APIRoute]:
    return [
        c.original_route
        for c in iter_route_contexts(app.routes)
        if isinstance(c.original_route, APIRoute)
    ]


def within(dependant: Dependant) -> Iterator[Dependant]:
    """Return a route's parameters, and those of its dependencies."""
    yield dependant
    for inner in dependant.dependencies:
        yield from within(inner)


def models(annotation: Any, seen: set[type]) -> Iterator[type[BaseModel]]:
    """Yield all models that a body of this type may contain, at any depth."""
    for part in typing.get_args(annotation):
        yield from models(part, seen)
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and annotation not in seen
    ):
        seen.add(annotation)
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation, seen)


async def test_no_input_model_takes_a_field_that_it_does_not_know(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        seen: set[type] = set()
        found: list[type[BaseModel]] = []
        for route in routes(app.http._transport.app):  # type: ignore[attr-defined]
            for dependant in within(route.dependant):
                for param in (*dependant.body_params, *dependant.query_params):
                    found += models(param.field_info.annotation, seen)
        assert len(found) > 40
        assert [
            model.__name__ for model in found if model.model_config.get("extra") != "forbid"
        ] == []


async def test_a_field_that_no_route_knows_is_422_and_named_by_each_of_them(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        wrong = []
        asked = 0
        for route in routes(app.http._transport.app):  # type: ignore[attr-defined]
            for method in route.methods or ():
                if route.body_field is None or f"{method} {route.path}" in FREE:
                    continue
                answer = await app.http.request(
                    method,
                    await path_of(app, route.path),
                    content=NOBODYS_BODY,
                    headers={"Content-Type": "application/json", "If-Match": "*"},
                )
                asked += 1
                named = [error["pointer"] for error in answer.json().get("errors", ())]
                if answer.status_code != 422 or "/no_such_field" not in named:
                    wrong.append(f"{method} {route.path}: {answer.status_code} {named}")
        assert wrong == []
        assert asked > 30


async def path_of(app: ScopedApp, path: str) -> str:
    """Return the route's path, with an existing object."""
    head, _, rest = path.partition("{")
    if not rest:
        return path
    first = path.split("/")[1]
    return f"{head}{app.things[NOUNS[first], STAGING] if first in NOUNS else await made(app, first)}{rest.partition('}')[2]}"


BODIES = {
    "target-groups": {"name": "web"},
    "calendars": {"name": "holidays", "windows": [{"dates": ["2026-12-25"]}]},
    "credentials": {"name": "login", "type": "password", "username": "ada", "password": "x"},
    "users": {
        "name": "ben",
        "password": "correct horse battery staple",
        "grants": [{"role": "viewer"}],
    },
    "webhooks": {"name": "tickets", "url": "https://example.org/hook", "events": ["*"]},
    "services": {"name": "portal", "public_key": PUBLIC, "grants": [{"role": "viewer"}]},
}
"""Return the path of an object without labels.

A new kind that can be changed must be added here.
"""


async def made(app: ScopedApp, plural: str) -> str:
    """Create one of these; return its id."""
    known = (await app.http.get(f"/{plural}")).json()["items"]
    return str((known or [await app.made(f"/{plural}", BODIES[plural])])[0]["id"])
