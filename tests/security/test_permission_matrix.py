"""Point 4: every route, by every role, on own, foreign and missing objects.

Generated from the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from api.kit import api_client
from opsjobs.api.authentication import OPEN_ROUTES
from opsjobs.api.authorization import Within
from opsjobs.api.dependencies import ANY_TOKEN
from opsjobs.model.access import PERMISSIONS, Principal, Role
from opsjobs.store.transaction import Database
from security.two_scopes import FOREIGN, STAGING, ScopedApp, principal_with, scoped_app

NOUNS = {
    "jobs": "job",
    "executions": "execution",
    "targets": "target",
    "schedules": "schedule",
    "triggers": "trigger",
    "approvals": "approval",
    "artifacts": "artifact",
    "files": "file",
    "circuits": "target",
}
"""The noun of `{…}` in a path, by its first word.

A new route that checks its object and has another word must be added here.
"""
# Each noun has ids 1 to 6; this is no id of any.
NOT_THERE = "987654321"
# A body that no route accepts: a request that passes authorization is refused when its body is
# read, and changes nothing.
NOBODYS_BODY = b'{"no_such_field": 1}'
LET_IN = "let in"
ABOUT_ONESELF = {
    *("/auth/me", "/auth/logout", "/auth/password", "/auth/confirm", "/auth/codes", "/events"),
    *("/auth/sessions", "/auth/sessions/{id}", "/auth/keys", "/auth/keys/{id}"),
}


@dataclass(frozen=True)
class Route:
    """One operation of the document."""

    method: str
    path: str
    permission: str
    within: Within

    @property
    def has_object(self) -> bool:
        return self.within is Within.OBJECT

    def at(self, ref: str) -> str:
        head, _, rest = self.path.partition("{")
        return self.path if not rest else f"{head}{ref}{rest.partition('}')[2]}"

    @property
    def noun(self) -> str:
        return NOUNS[self.path.split("/")[1]]


def routes(document: Mapping[str, Any]) -> Iterator[Route]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path not in OPEN_ROUTES:
                yield Route(
                    method.upper(), path, operation["x-permission"], Within(operation["x-within"])
                )


def all_principals() -> list[Principal]:
    """Return callers with every role, everywhere and within staging only, and some others.

    One reads everything and acts in staging, one has no rights.
    """
    return [
        principal_with("nobody"),
        principal_with("stranger", ("admin", "env=elsewhere")),
        *(principal_with(f"{role.value}-of-all", (role.value, "")) for role in Role),
        *(principal_with(f"{role.value}-of-staging", (role.value, "env=staging")) for role in Role),
        principal_with("sees-all", ("viewer", ""), ("admin", "env=staging")),
    ]


def expected(who: Principal, route: Route, env: str | None) -> int | str:
    """Return what the declared permission means for this caller.

    `env`: the place of the route's object; None: there is no such object.
    """
    if route.path == "/auth/codes":  # it is for users and keys that are stored here
        return 403
    if route.permission == ANY_TOKEN:  # it is about the caller
        return LET_IN
    reach = who.reach(route.permission)
    if not reach.scopes:
        return 403
    if route.within is Within.EVERYTHING:
        return LET_IN if reach.everywhere else 403
    if not route.has_object:
        return LET_IN
    if env is None:
        return 404
    if (
        route.noun == "file"
    ):  # ada's, who is the administrator: files have no labels, and their owners only
        if not reach.everywhere:
            return 404
        return (
            403 if route.method == "DELETE" and not who.reach("jobs:update").everywhere else LET_IN
        )
    if reach.holds({"env": env}):
        return LET_IN
    return 403 if who.reach(SEEN_WITH[route.noun]).holds({"env": env}) else 404


SEEN_WITH = {
    "job": "jobs:read",
    "execution": "executions:read",
    "target": "targets:read",
    "schedule": "schedules:read",
    "trigger": "triggers:read",
    "approval": "executions:read",
    "artifact": "executions:read",
}


async def test_every_role_gets_of_every_route_just_what_its_permission_says(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        document = (await app.http.get("/openapi.json")).json()
        found = list(routes(document))
        assert len(found) > 80
        spelling = count()
        wrong = []
        for who in all_principals():
            headers = app.admit(who)
            for route in found:
                for env in places(who, route):
                    want = expected(who, route, env)
                    status = await asked(
                        app,
                        route,
                        env,
                        headers,
                        prefixed=next(spelling) % 2 == 1,
                        deletes=want == LET_IN,
                    )
                    if not fits(status, want, there=env is not None and route.has_object):
                        wrong.append(
                            f"{who.name}: {route.method} {route.path} of {env}: {status}, not {want}"
                        )
        assert wrong == []


def places(who: Principal, route: Route) -> list[str | None]:
    """Return the places of the object to request.

    If the place makes no difference to authorization, one stands for the others.
    """
    reach = who.reach(route.permission)
    if not route.has_object or not reach.scopes:
        return [FOREIGN]
    if reach.everywhere:
        return (
            [FOREIGN, None]
            if who.name == "admin-of-all"
            else [FOREIGN]
            if who.name == "viewer-of-all"
            else [None]
        )
    return [STAGING, FOREIGN, None]


async def asked(
    app: ScopedApp,
    route: Route,
    env: str | None,
    headers: Mapping[str, str],
    *,
    prefixed: bool,
    deletes: bool,
) -> int:
    ref = NOT_THERE
    if route.has_object and env is not None:
        fresh = route.method == "DELETE" and deletes
        ref = await app.fresh(route.noun, env) if fresh else app.things[route.noun, env]
    path = ("/api/v1" if prefixed else "") + route.at(ref)
    body = b"" if route.method in ("GET", "DELETE") else NOBODYS_BODY
    type_ = {"Content-Type": "application/json"} if body and route.path != "/files" else {}
    return await app.status(route.method, path, {**headers, **type_}, body)


def fits(status: int, want: int | str, *, there: bool) -> bool:
    if want == LET_IN:
        return status not in (401, 403) and status < 500 and (status != 404 or not there)
    return status == want


async def test_lists_and_totals_hold_what_lies_within_reach_and_nothing_else(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        headers = app.admit(principal_with("ben", ("admin", "env=staging")))
        stranger = app.admit(principal_with("eve", ("admin", "env=elsewhere")))
        document = (await app.http.get("/openapi.json")).json()
        seen = 0
        for route in routes(document):
            if route.within is not Within.LIST:
                continue
            for prefix in ("", "/api/v1"):
                everything = await app.http.get(prefix + route.path)
                bens = await app.http.get(prefix + route.path, headers=headers)
                assert (everything.status_code, bens.status_code) == (200, 200), route
                assert "foreign" not in bens.text.replace("foreign key", ""), route
                seen += "foreign" in everything.text and "staging" in bens.text
                if "items" in bens.json():
                    page = (
                        await app.http.get(f"{prefix}{route.path}?page=1&size=50", headers=headers)
                    ).json()
                    assert page["total"] == len(page["items"]) == len(bens.json()["items"]), route
                    others = (
                        await app.http.get(f"{prefix}{route.path}?page=1", headers=stranger)
                    ).json()
                    assert (others["items"], others["next"], others["total"]) == ([], None, 0), (
                        route
                    )
        assert (
            seen >= 2 * 6
        )  # jobs, export, targets, executions, schedules, dead letters: both scopes were visible


async def test_a_route_without_a_declared_permission_fails(database: Database) -> None:
    async with api_client(database) as ada:
        document = (await ada.http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in OPEN_ROUTES:
                assert "x-permission" not in operation, (
                    f"{method} {path} is open and requires something"
                )
                continue
            required = PERMISSIONS | ({ANY_TOKEN} if path in ABOUT_ONESELF else set())
            assert operation.get("x-permission") in required, f"{method} {path}"
            within = Within(operation["x-within"])
            assert ("{" in path) or within is not Within.OBJECT, (
                f"{method} {path} has no object in its path"
            )
            if within is Within.OBJECT:
                assert path.split("/")[1] in NOUNS, (
                    f"{method} {path}: say in NOUNS what its object is, and furnish one"
                )


async def test_a_thing_out_of_sight_is_told_of_in_the_words_of_one_that_is_not_there(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("admin", "env=staging")))
        document = (await app.http.get("/openapi.json")).json()
        for route in routes(document):
            if route.has_object and route.method == "GET":
                foreign, ref = app.things[route.noun, FOREIGN], NOT_THERE
                answers: list[Any] = [
                    await app.http.get(route.at(r), headers=ben) for r in (foreign, ref)
                ]
                said = [
                    a.text.replace(a.headers["x-request-id"], "").replace(r, "…")
                    for a, r in zip(answers, (foreign, ref), strict=True)
                ]
                assert said[0] == said[1], route
                assert sorted(answers[0].headers) == sorted(answers[1].headers), route
