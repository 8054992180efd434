"""Point 6: exactly the routes of the contract need no token; all others are 401.

That includes routes that do not exist.
"""

from __future__ import annotations

from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Route

from api.kit import api_client, problem
from opsjobs.api.authentication import OPEN_ROUTES
from opsjobs.store.transaction import Database
from security.two_scopes import scoped_app

CONTRACT = frozenset(
    {
        *("/livez", "/readyz", "/health", "/auth/login", "/auth/refresh", "/openapi.json", "/docs"),
        *("/auth/methods", "/auth/session", "/hooks/{id}"),
        *("/auth/oidc", "/auth/oidc/callback"),
    }
)
NOWHERE = (
    "/",
    "/nowhere",
    "/jobs/",
    "/admin",
    "/docs/",
    "/healthz",
    "/health/",
    "/static/x",
    "/api/v1",
    "/api/v1/",
    "/metrics/x",
)
DISGUISES = (
    "/health/../jobs",
    "/livez/..%2fjobs",
    "//health/jobs",
    "/HEALTH",
    "/health%2f..%2fjobs",
    "/docs;/jobs",
    "/hooks",
    "/hooks/",
    "/hooks/1/2",
    "/hooks//jobs",
    "/jobs?/health",
)


async def test_the_doors_without_a_token_are_exactly_those_of_the_contract(
    database: Database,
) -> None:
    assert OPEN_ROUTES == CONTRACT
    async with api_client(database) as ada:
        app = ada.http._transport.app  # type: ignore[attr-defined]
        routes = [context.original_route for context in iter_route_contexts(app.routes)]
        paths = {
            (method, r.path)
            for r in routes
            if isinstance(r, APIRoute | Route)
            for method in r.methods or ()
        }
        assert len(paths) > 80
        nobody = {"Authorization": "", "Content-Type": "application/json"}
        for number, (method, path) in enumerate(sorted(paths)):
            answer = await ada.http.request(
                method, ("/api/v1" if number % 2 else "") + path, headers=nobody
            )
            if path not in CONTRACT:
                problem(answer, 401, "token_missing")
            else:
                assert answer.status_code != 401, f"{method} {path}"


async def test_what_is_not_there_and_what_looks_like_a_door_is_401(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        for path in (*NOWHERE, *DISGUISES):
            for method in ("GET", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"):
                answer = await ada.http.request(method, path, headers={"Authorization": ""})
                assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
                assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_open_doors_tell_no_detail(database: Database) -> None:
    async with scoped_app(database) as app:
        for path in ("/livez", "/readyz", "/health"):
            assert set((await app.http.get(path, headers={"Authorization": ""})).json()) == {
                "status"
            }, path
