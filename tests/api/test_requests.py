"""Rules for every request: tokens, permissions, bodies, problems, prefix, request id."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from api.kit import ApiClient, api_client, app_on, job, problem, services_on
from opsjobs.api.authentication import OPEN_ROUTES
from opsjobs.api.dependencies import ANY_TOKEN, Permission
from opsjobs.model.access import PERMISSIONS
from opsjobs.store.transaction import Database, DatabaseOptions

JSON = {"Content-Type": "application/json"}


def routes(desk_: ApiClient) -> list[APIRoute]:
    app = desk_.http._transport.app  # type: ignore[attr-defined]
    return [
        c.original_route
        for c in iter_route_contexts(app.routes)
        if isinstance(c.original_route, APIRoute)
    ]


# A valid token is enough: each caller asks about themselves.
ABOUT_ONESELF = {
    path: {ANY_TOKEN}
    for path in (
        "/auth/codes",
        "/auth/confirm",
        "/auth/keys",
        "/auth/keys/{id}",
        "/auth/logout",
        "/auth/me",
        "/auth/password",
        "/auth/sessions",
        "/auth/sessions/{id}",
        "/events",
    )
}


async def test_every_route_but_open_ones_requires_exactly_one_permission(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        for route in routes(ada):
            named = [
                d.call.name for d in route.dependant.dependencies if isinstance(d.call, Permission)
            ]
            if route.path in OPEN_ROUTES:
                assert named == []
            else:
                assert len(named) == 1, f"{route.methods} {route.path} names {named}"
                assert named[0] in PERMISSIONS | ABOUT_ONESELF.get(route.path, set())


async def test_every_route_but_open_ones_is_401_without_a_token(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        for route in routes(ada):
            if route.path not in OPEN_ROUTES:
                for method in route.methods:
                    answer = await ada.http.request(
                        method, route.path.replace("{id}", "1"), headers={"Authorization": ""}
                    )
                    problem(answer, 401, "token_missing")
                    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_missing_permission_is_403_even_if_the_body_is_invalid(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        for role in ("viewer", "operator"):
            ben = await ada.token_of(role)
            answer = await ada.http.post("/jobs", content=b"{", headers={**ben, **JSON})
            assert role in problem(answer, 403, "forbidden")["detail"]
            assert (await ada.http.get("/jobs", headers=ben)).status_code == 200
            problem(await ada.http.get("/credentials", headers=ben), 403, "forbidden")
            problem(await ada.http.get("/api-keys", headers=ben), 403, "forbidden")


@pytest.mark.parametrize(
    "header", ["", "Basic YTpi", "Bearer", "Bearer opsc_wrong", "Bearer " + "x" * 9000, "opsc_x"]
)
async def test_an_invalid_token_is_401_before_any_other_check(
    database: Database, header: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/nowhere", content=b"\xff", headers={"Authorization": header})
        assert answer.status_code == 401


async def test_the_token_is_verified_before_the_body_is_read(database: Database) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async with api_client(database) as ada:
        answer = await ada.http.post(
            "/jobs", content=never(), headers={"Authorization": "Bearer no", **JSON}
        )
        problem(answer, 401, "token_invalid")


async def test_a_body_of_100_mb_is_413_and_is_not_read_to_its_end(database: Database) -> None:
    read = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1600):
            read += 65_536
            yield b" " * 65_536

    async with api_client(database) as ada:
        declared = {**JSON, "Content-Length": str(100 << 20)}
        problem(
            await ada.http.post("/jobs", content=flood(), headers=declared), 413, "body_too_large"
        )
        assert read == 0
        problem(await ada.http.post("/jobs", content=flood(), headers=JSON), 413, "body_too_large")
        assert read <= (1 << 20) + 65_536


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({}, 415),
        ({"Content-Type": "application/json; charset=UTF-8"}, 201),
        ({"Content-Type": "application/merge-patch+json"}, 201),
    ],
)
async def test_only_json_bodies_are_accepted(
    database: Database, headers: dict[str, str], status: int
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/jobs", content=json.dumps(job()).encode(), headers=headers)
        assert answer.status_code == status, answer.text


BAD_BODIES = {
    "empty": (b"", "invalid"),
    "half": (b'{"name": "x"', "malformed_json"),
    "two values": (b"{} {}", "malformed_json"),
    "a duplicate key": (b'{"name": "x", "name": "y"}', "duplicate_key"),
    "a duplicate key inside": (b'{"actions": [{"command": "a", "command": "b"}]}', "duplicate_key"),
    "NaN": (b'{"name": "x", "policy": {"priority": NaN}}', "not_a_number"),
    "Infinity": (b'{"policy": {"timeout": -Infinity}}', "not_a_number"),
    "a float beyond floats": (b'{"policy": {"timeout": 1e999}}', "not_a_number"),
    "an int beyond floats": (
        b'{"name": "x", "actions": [{"command": "x", "timeout": ' + b"9" * 400 + b"}]}",
        "not_a_number",
    ),
    "an int of 10,000 digits": (
        b'{"policy": {"priority": ' + b"9" * 10_000 + b"}}",
        "malformed_json",
    ),
    "a large int": (
        b'{"name": "x", "actions": [], "policy": {"max_parallel": 99999999999999999999999}}',
        "invalid",
    ),
    "NUL in a name": (b'{"name": "a\\u0000b"}', "bad_character"),
    "NUL in a key": (b'{"na\\u0000me": "a"}', "bad_character"),
    "NUL deep inside": (b'{"actions": [{"command": "echo \\u0000"}]}', "bad_character"),
    "a lone surrogate": (b'{"name": "\\ud800"}', "bad_character"),
    "a lone low surrogate in a key": (b'{"\\udc00": 1}', "bad_character"),
    "not UTF-8": (b'{"name": "\xff"}', "not_utf8"),
    "a raw surrogate": (b'{"name": "\xed\xa0\x80"}', "not_utf8"),
    "10,000 deep": (b"[" * 10_000 + b"]" * 10_000, "too_deep"),
    "33 deep": (b'{"a":' * 34 + b"1" + b"}" * 34, "too_deep"),
    "a list": (b"[]", "invalid"),
    "a text": (b'"job"', "invalid"),
    "null": (b"null", "invalid"),
    "an unknown field": (json.dumps(job(color="red")).encode(), "invalid"),
    "an unknown field of an action": (
        json.dumps(job(actions=[{"command": "x", "shell": "sh"}])).encode(),
        "invalid",
    ),
    "an unknown action": (json.dumps(job(actions=[{"type": "dance"}])).encode(), "invalid"),
    "no actions": (json.dumps(job(actions=[])).encode(), "invalid"),
    "both spellings": (json.dumps(job(job_type="command", jobType="command")).encode(), "invalid"),
    "a name that is a number": (json.dumps(job(name=5)).encode(), "invalid"),
    "a name that is too long": (json.dumps(job(name="x" * 201)).encode(), "invalid"),
    "a key of 100,000 characters": (json.dumps(job(**{"x" * 100_000: 1})).encode(), "invalid"),
    "a selector that does not parse": (
        json.dumps(job(targets={"selector": "a=b,,"})).encode(),
        "invalid",
    ),
    "a boolean for a number": (json.dumps(job(policy={"priority": {}})).encode(), "invalid"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
async def test_an_invalid_body_is_422_and_nothing_is_stored(database: Database, what: str) -> None:
    body, code = BAD_BODIES[what]
    async with api_client(database) as ada:
        told = problem(await ada.http.post("/jobs", content=body, headers=JSON), 422, code)
        assert told["errors"]
        assert len(json.dumps(told)) < 20_000
        assert (await ada.http.get("/jobs")).json()["items"] == []


async def test_invalid_fields_are_named_by_json_pointers(database: Database) -> None:
    async with api_client(database) as ada:
        bad = job(
            actions=[{"command": "x"}, {"command": "", "timeout": "soon", "a/b~c": 1}],
            policy={"priority": 11},
        )
        told = problem(await ada.http.post("/jobs", json=bad), 422, "invalid")
        pointers = {error["pointer"] for error in told["errors"]}
        assert pointers == {
            "/actions/1/command",
            "/actions/1/timeout",
            "/actions/1/a~1b~0c",
            "/policy/priority",
        }


async def test_an_invalid_body_for_a_missing_object_is_404(database: Database) -> None:
    async with api_client(database) as ada:
        for path in ("/jobs/9", "/targets/9", "/credentials/9"):
            assert (
                await ada.http.put(path, content=b'{"a": NaN}', headers=JSON)
            ).status_code == 404


@pytest.mark.parametrize(
    "ref",
    ["0", "-1", "1.5", str(2**63), str(2**70), "abc", "%00", "%F0%9F", "1%20or%201", "²", "null"],
)
@pytest.mark.parametrize("noun", ["jobs", "targets", "credentials", "api-keys"])
async def test_an_id_of_another_kind_is_404(database: Database, noun: str, ref: str) -> None:
    async with api_client(database) as ada:
        for method in ("GET", "DELETE"):
            assert (await ada.http.request(method, f"/{noun}/{ref}")).status_code == 404


async def test_an_unknown_path_is_404_and_a_wrong_method_405_with_allow(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        for path in (
            "/nowhere",
            "/jobs/",
            "/api/v1/nowhere",
            "/api/v1",
            "/api/v1/api/v1/jobs",
            "/jobs/1/2/3",
        ):
            problem(await ada.http.get(path), 404, "not_found")
        for path in ("/jobs/1", "/api/v1/jobs/1"):
            answer = await ada.http.post(path)
            problem(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/files", "GET, HEAD, POST"),  # with a body that is not JSON
        ("POST", "/executions/7/events", "GET"),
        ("OPTIONS", "/jobs/export", "GET, HEAD"),  # `export` is not an id of /jobs/{id}
        ("DELETE", "/api/v1/jobs/export", "GET, HEAD"),
        ("HEAD", "/executions/7/events", "GET"),  # it would never end
        ("HEAD", "/jobs/apply", "POST"),
    ],
)
async def test_a_wrong_method_is_405_before_the_body_is_checked(
    database: Database, method: str, path: str, allow: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.request(
            method, path, content=b"abc", headers={"Content-Type": "text/plain"}
        )
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)
        if method != "HEAD":
            told = problem(answer, 405, "method_not_allowed")
            assert told["detail"].endswith(f"Use {allow}.")
        unknown = await ada.http.put(
            "/nowhere", content=b"abc", headers={"Content-Type": "text/plain"}
        )
        problem(unknown, 404, "not_found")


async def test_head_is_get_without_its_body(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        for path in ("/jobs/1", "/api/v1/jobs", "/jobs/2", "/openapi.json"):
            got, head = await ada.http.get(path), await ada.http.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            for name in ("content-type", "content-length", "etag"):
                assert head.headers.get(name) == got.headers.get(name) or got.status_code == 404
        assert (await ada.http.head("/jobs/1", headers={"Authorization": ""})).status_code == 401


async def test_the_api_v1_prefix_serves_the_same_routes_and_is_kept_in_locations(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        made = await ada.http.post("/api/v1/jobs", json=job())
        assert made.headers["location"] == "/api/v1/jobs/1"
        await ada.http.post("/jobs", json=job("other"))
        page = await ada.http.get("/api/v1/jobs?limit=1&state=active")
        link = page.headers["link"]
        assert link.startswith("</api/v1/jobs?limit=1&state=active&cursor=")
        assert link.endswith('>; rel="next"')
        following = await ada.http.get(link[1 : link.index(">")])
        assert [item["name"] for item in following.json()["items"]] == ["restart-web"]
        assert "link" not in following.headers


async def test_a_valid_request_id_is_kept_and_an_invalid_one_replaced(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        assert (await ada.http.get("/jobs", headers={"X-Request-ID": "abc-123"})).headers[
            "x-request-id"
        ] == "abc-123"
        made = (await ada.http.get("/jobs", headers={"X-Request-ID": "a b\tc"})).headers[
            "x-request-id"
        ]
        assert len(made) == 32


async def test_a_bug_is_500_without_details(database: Database) -> None:
    async with api_client(database) as ada:
        ada.services.jobs = None
        told = problem(await ada.http.get("/jobs"), 500, "internal")
        assert "NoneType" not in json.dumps(told)


async def test_an_unavailable_database_is_503_with_retry_after() -> None:
    gone = Database(DatabaseOptions("postgresql://nobody@127.0.0.1:1/nowhere"))
    gone._pool.timeout = 0.2
    await gone.open()
    try:
        transport = httpx2.ASGITransport(app=app_on(services_on(gone)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://opsjobs") as http:
            answer = await http.get("/jobs", headers={"Authorization": "Bearer opsc_x"})
            told = problem(answer, 503, "unavailable")
            assert answer.headers["retry-after"] == "1"
            assert "127.0.0.1" not in json.dumps(told)
    finally:
        await gone.close()


async def test_openapi_lists_every_route_once_without_a_token(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.get("/openapi.json", headers={"Authorization": ""})
        described: dict[str, Any] = answer.json()
        assert described["openapi"].startswith("3.1")
        assert set(described["paths"]) == {
            route.path for route in routes(ada) if route.include_in_schema
        }
        assert not any(path.startswith("/api/") for path in described["paths"])
        page = await ada.http.get("/docs", headers={"Authorization": ""})
        assert "POST /jobs" in page.text
        assert "http:" not in page.text
        assert "https:" not in page.text


async def test_docs_and_openapi_are_404_if_switched_off(database: Database) -> None:
    async with api_client(database, docs=False) as ada:
        for path in ("/docs", "/openapi.json"):
            assert (await ada.http.get(path)).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "page=0",
        "size=201",
        "sort=color",
        "nmae=x",
        "cursor=%00",
        "name=%00",
        "id=x",
        "created_after=now",
    ],
)
async def test_an_invalid_query_is_422_and_names_the_parameter(
    database: Database, query: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.get(f"/jobs?{query}")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]
