"""Point 26: only our own pages can use the cookie of a session, and no one can plant one."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from api.kit import api_client, problem
from api.live import live_api
from api.test_sessions import BEN, LOGIN, SAME, browser, code, expire, log_in
from opsjobs.api.authentication import OPEN_ROUTES
from opsjobs.api.connections import Network
from opsjobs.model.access import PERMISSIONS, permissions_of
from opsjobs.model.addresses import networks
from opsjobs.store.transaction import Database

CROSS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://opsjobs"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://opsjobs.evil.example"},
    {"Origin": "http://opsjobs:8080"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": ""},
    {},
]
NOWHERE = "987654321"
PROXY: tuple[Network, ...] = networks(["127.0.0.0/8"])


def bare(client: httpx2.AsyncClient, headers: dict[str, str]) -> dict[str, str]:
    """Send the client's cookie with exactly these headers."""
    client.headers.pop("Sec-Fetch-Site", None)
    return headers


@pytest.mark.parametrize("headers", CROSS, ids=str)
async def test_a_page_of_another_site_changes_nothing_with_the_cookie(
    database: Database, headers: dict[str, str]
) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        await tab.post("/auth/session", json={"code": await code(ada)})
        sent = bare(tab, headers)
        for method, path, body in (
            ("POST", "/target-groups", {"name": "web"}),
            ("PUT", "/users/1", {}),
            ("DELETE", "/jobs/1", None),
            ("OPTIONS", "/jobs", None),
            ("POST", "/auth/logout", None),
            ("DELETE", "/auth/session", None),
            ("POST", "/auth/session", LOGIN),
        ):
            answer = await tab.request(method, path, json=body, headers=sent)
            problem(answer, 403, "cross_site")
            assert "set-cookie" not in answer.headers
        assert (await tab.get("/auth/me", headers=SAME)).status_code == 200
        assert (await ada.http.get("/target-groups")).json()["items"] == []


async def test_our_own_pages_are_known_by_either_header(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        await tab.post("/auth/session", json={"code": await code(ada)})
        ours: list[dict[str, str]] = [SAME, {"Origin": "http://opsjobs"}]
        for number, headers in enumerate(ours):
            body = {"name": f"web-{number}"}
            answer = await tab.post("/target-groups", json=body, headers=bare(tab, headers))
            assert answer.status_code == 201
        for headers in (*ours, {"Sec-Fetch-Site": "none"}, {}):
            assert (await tab.get("/jobs", headers=headers)).status_code == 200
        for site in ("cross-site", "same-site"):
            problem(await tab.get("/jobs", headers={"Sec-Fetch-Site": site}), 403, "cross_site")


async def test_streams_are_not_opened_by_pages_of_other_sites(database: Database) -> None:
    async with live_api(database) as on:
        await on.scripted.start()
        given = (await on.http.post("/auth/codes")).json()["code"]
        begun = await on.http.post("/auth/session", json={"code": given})
        cookie = begun.headers["set-cookie"].partition(";")[0]
        on.http.headers.pop("authorization")
        on.http.cookies.clear()
        for path in ("/events", "/executions/1/events", "/executions/1/log?format=ndjson"):
            for site in ("cross-site", "same-site"):
                headers = {"Cookie": cookie, "Sec-Fetch-Site": site}
                problem(await on.http.get(path, headers=headers), 403, "cross_site")
        async with (
            asyncio.timeout(60),
            on.http.stream(
                "GET", "/executions/1/events", headers={"Cookie": cookie, **SAME}
            ) as stream,
        ):
            assert stream.status_code == 200
            assert (await anext(stream.aiter_lines())) == "id: 1"


async def test_a_cookie_that_was_planted_is_not_taken_over(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben, browser(ada) as eve:
        for planted in ("opss_chosen-by-eve", "x" * 5_000, "", "opss_" + "é" * 10):
            ben.cookies.clear()
            headers = {"Cookie": f"opsjobs={planted}".encode()}
            problem(
                await ben.get("/auth/me", headers=headers),  # type: ignore[arg-type]
                401,
                "session_ended" if planted.startswith("opss_") else "token_missing",
            )
        # Eve's own session in ben's browser: ben's login begins another session and ends hers.
        await eve.post("/auth/session", json={"code": await code(ada)})
        hers = eve.cookies["opsjobs"]
        ben.cookies.set("opsjobs", hers)
        await log_in(ada, ben)
        own = {cookie.value for cookie in ben.cookies.jar} - {hers}
        assert len(own) == 1
        problem(await eve.get("/auth/me"), 401, "session_ended")
        for _ in range(2):
            before = (await ben.post("/auth/session", json=LOGIN)).headers["set-cookie"]
            after = (await ben.post("/auth/session", json=LOGIN)).headers["set-cookie"]
            assert before.partition(";")[0] != after.partition(";")[0]


async def test_a_token_wins_over_the_cookie_and_a_cookie_is_no_token(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben:
        await log_in(ada, ben)
        cookie = ben.cookies["opsjobs"]
        bearer = {"Authorization": f"Bearer {ada.token}"}
        assert (await ben.get("/auth/me", headers=bearer)).json()["name"] == "ada"
        # With a token there is no cookie to misuse: other sites do not know the token.
        answer = await ben.post(
            "/target-groups", json={"name": "web"}, headers={**bearer, **CROSS[0]}
        )
        assert answer.status_code == 201
        for header in ("Bearer opsc_unknown", "Bearer", "Basic YTpi", ""):
            refused = await ben.get("/auth/me", headers={"Authorization": header})
            assert refused.status_code == 401, header
        ben.cookies.clear()
        smuggled = {"Authorization": f"Bearer {cookie}"}
        problem(await ben.get("/auth/me", headers=smuggled), 401, "token_invalid")
        for name in ("opsjob", "__Host-opsjobs", "session"):
            problem(
                await ben.get("/auth/me", headers={"Cookie": f"{name}={cookie}"}),
                401,
                "token_missing",
            )


def attributes(answer: httpx2.Response) -> tuple[str, set[str]]:
    """Return the name of the cookie that a response sets, and its attributes."""
    first, *rest = answer.headers["set-cookie"].split("; ")
    return first.partition("=")[0], {one.lower() for one in rest}


async def test_the_cookie_has_the_attributes_that_its_transport_allows(database: Database) -> None:
    common = {"httponly", "path=/", "samesite=strict", "max-age=604800"}
    async with api_client(database) as ada:
        await ada.http.post("/users", json=BEN)
        async with browser(ada) as plain, browser(ada, "https://opsjobs") as secure:
            name, found = attributes(await plain.post("/auth/session", json=LOGIN))
            assert (name, found) == ("opsjobs", common)
            name, found = attributes(await secure.post("/auth/session", json=LOGIN))
            assert (name, found) == ("__Host-opsjobs", {*common, "secure"})
            assert (await secure.get("/auth/me")).status_code == 200
            value = secure.cookies["__Host-opsjobs"]
            secure.cookies.clear()
            # A neighbouring host could set this one.
            weak = {"Cookie": f"opsjobs={value}"}
            problem(await secure.get("/auth/me", headers=weak), 401, "token_missing")
            ended = await secure.delete(
                "/auth/session", headers={"Cookie": f"__Host-opsjobs={value}"}
            )
            name, found = attributes(ended)
            assert (name, "secure" in found, "max-age=0" in found) == ("__Host-opsjobs", True, True)


async def test_production_takes_no_cookie_over_plain_http_but_on_loopback(
    database: Database,
) -> None:
    async with api_client(database, plain_cookies=False) as ada:
        await ada.http.post("/users", json=BEN)
        for host, allowed in HOSTS.items():
            async with browser(ada, f"http://{host}") as ben:
                answer = await ben.post("/auth/session", json=LOGIN)
                if allowed:
                    assert answer.status_code == 200, host
                    assert (await ben.get("/auth/me")).status_code == 200, host
                else:
                    told = problem(answer, 403, "https_required")
                    assert "OPSJOBS_TRUSTED_PROXIES" in told["detail"]
        async with browser(ada, "http://localhost:8003") as ben:
            await ben.post("/auth/session", json=LOGIN)
            headers = {"Cookie": f"opsjobs={ben.cookies['opsjobs']}", "Host": "jobs.example.org"}
            problem(await ben.get("/auth/me", headers=headers), 401, "token_missing")


@pytest.mark.parametrize(
    "told",
    [
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "proto=https"},
        {"Origin": "https://jobs.example.org"},
        {"Origin": "null"},
    ],
    ids=str,
)
async def test_a_proxy_that_rewrites_the_host_is_not_loopback(
    database: Database, told: dict[str, str]
) -> None:
    async with api_client(database, plain_cookies=False) as ada:
        await ada.http.post("/users", json=BEN)
        async with browser(ada, "http://127.0.0.1:8003") as ben:
            answer = await ben.post("/auth/session", json=LOGIN, headers=told)
            problem(answer, 403, "https_required")
            origin = {"Origin": "http://127.0.0.1:8003"}
            answer = await ben.post("/auth/session", json=LOGIN, headers=origin)
            assert answer.status_code == 200


HOSTS = {
    "localhost:8003": True,
    "127.0.0.1:8003": True,
    "[::1]:8003": True,
    "jobs.localhost": True,
    "jobs.example.org": False,
    "localhost.example.org": False,
    "127.0.0.1.example.org": False,
    "10.0.0.7:8003": False,
    "0.0.0.0": False,
}


@pytest.mark.parametrize(
    ("trusted", "told", "name"),
    [
        (PROXY, "https", "__Host-opsjobs"),
        (PROXY, "http, https", "__Host-opsjobs"),
        (PROXY, "https, http", None),
        (PROXY, "", None),
        ((), "https", None),
        (networks(["10.0.0.0/8"]), "https", None),
    ],
)
async def test_https_is_believed_of_a_trusted_proxy_only(
    database: Database, trusted: Any, told: str, name: str | None
) -> None:
    async with api_client(database, plain_cookies=False, trusted_proxies=trusted) as ada:
        await ada.http.post("/users", json=BEN)
        async with browser(ada, "http://jobs.example.org") as ben:
            answer = await ben.post(
                "/auth/session", json=LOGIN, headers={"X-Forwarded-Proto": told}
            )
            if name is None:
                problem(answer, 403, "https_required")
            else:
                assert attributes(answer)[0] == name


async def test_cookies_and_codes_are_stored_by_their_hash_only(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        used, unused = await code(ada), await code(ada)
        await tab.post("/auth/session", json={"code": used})
        cookie = tab.cookies["opsjobs"]
        await expire(database, "confirmed_at", 700)
        for table in ("sessions", "login_codes", "audit_log", "idempotency_keys"):
            rows = await database.fetch(f"select t::text as row from {table} t")
            assert not any(s in row["row"] for row in rows for s in (used, unused, cookie)), table


async def test_no_login_of_a_browser_is_answered_with_the_cookie_in_its_body(
    database: Database,
) -> None:
    async with api_client(database) as ada, browser(ada) as ben:
        await ada.http.post("/users", json=BEN)
        answer = await ben.post("/auth/session", json=LOGIN)
        assert ben.cookies["opsjobs"] not in answer.text
        assert answer.headers["cache-control"] == "no-store"


def operations(document: Any) -> list[tuple[str, str]]:
    """Yield every route with a token, with ids in its path that do not exist."""
    found = []
    for path, methods in document["paths"].items():
        parts = [NOWHERE if part.startswith("{") else part for part in path.split("/")]
        found += [
            (method.upper(), "/".join(parts)) for method in methods if path not in OPEN_ROUTES
        ]
    return found


async def test_no_route_at_all_is_reached_from_another_site(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        await tab.post("/auth/session", json={"code": await code(ada)})
        found = operations((await ada.http.get("/openapi.json")).json())
        assert len(found) > 120
        for method, path in found:
            for site in ("cross-site", "same-site"):
                headers = {"Sec-Fetch-Site": site}
                problem(await tab.request(method, path, headers=headers), 403, "cross_site")
        assert (await tab.get("/auth/me")).status_code == 200


async def test_a_viewers_session_is_refused_on_every_route_beyond_its_role(
    database: Database,
) -> None:
    async with api_client(database) as ada, browser(ada) as vic:
        viewer = {"name": "vic", "password": LOGIN["password"], "grants": [{"role": "viewer"}]}
        await ada.http.post("/users", json=viewer)
        await vic.post("/auth/session", json={"username": "vic", "password": LOGIN["password"]})
        document = (await ada.http.get("/openapi.json")).json()
        beyond = [
            (method.upper(), path.replace("{id}", NOWHERE))
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if operation.get("x-permission") in PERMISSIONS - permissions_of("viewer")
        ]
        assert len(beyond) > 60
        for method, path in beyond:
            body = None if method in ("GET", "DELETE") else {"no_such_field": 1}
            type_ = {"Content-Type": "application/json"} if path != "/files" else {}
            answer = await vic.request(method, path, json=body, headers=type_)
            problem(answer, 403, "forbidden")
