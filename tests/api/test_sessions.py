"""/auth/session and related routes: sessions of browsers, and what begins and ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from api.kit import ApiClient, api_client, job, problem, response_checks
from kit.token_issuer import SECRET, good, signed
from opsjobs.identity.authenticator import RequestProof
from opsjobs.model.secret import Secret
from opsjobs.settings import IdentitySettings
from opsjobs.store.identities import api_keys
from opsjobs.store.identities.cookie_sessions import COOKIE_PREFIX
from opsjobs.store.identities.sessions import Attempts
from opsjobs.store.transaction import Database

PASSWORD = "correct horse battery"
BEN = {"name": "ben", "password": PASSWORD, "grants": [{"role": "operator", "scope": "env=dev"}]}
LOGIN = {"username": "ben", "password": PASSWORD}
SAME = {"Sec-Fetch-Site": "same-origin"}


@asynccontextmanager
async def browser(
    ada: ApiClient, origin: str = "http://opsjobs"
) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a browser with cookies of its own, whose requests come from our own pages."""
    app = ada.http._transport.app  # type: ignore[attr-defined]
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(
        transport=transport, base_url=origin, headers=SAME, event_hooks=response_checks()
    ) as client:
        yield client


async def code(ada: ApiClient, **headers: str) -> str:
    """Return a code of ada's key, or of the caller of the given token."""
    made = await ada.http.post("/auth/codes", headers=headers)
    assert made.status_code == 201, made.text
    given: str = made.json()["code"]
    assert made.json() == {"code": given, "expires_in": 60, "path": f"/console/#code={given}"}
    return given


async def log_in(ada: ApiClient, ben: httpx2.AsyncClient) -> dict[str, Any]:
    """Create ben, and log him in."""
    await ada.http.post("/users", json=BEN)
    answer = await ben.post("/auth/session", json=LOGIN)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def expire(database: Database, column: str, seconds: float) -> None:
    """Move the sessions' times into the past."""
    async with database.connection() as connection:
        await connection.execute(
            f"update sessions set {column} = {column} - make_interval(secs => %s)", [seconds]
        )


async def test_a_password_begins_a_session_with_the_rights_of_its_user(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben:
        problem(await ben.get("/auth/me"), 401, "token_missing")
        methods = {"password": False, "code": True, "oidc": None}
        assert (await ben.get("/auth/methods")).json() == methods
        begun = await log_in(ada, ben)
        assert (await ben.get("/auth/methods")).json() == {**methods, "password": True}
        me = (await ben.get("/auth/me")).json()
        assert me == begun
        assert (me["name"], me["kind"], me["roles"]) == ("ben", "user", ["operator"])
        assert me["permissions"]["jobs:execute"] == ["env=dev"]
        assert "jobs:create" not in me["permissions"]
        assert me["session"]["confirm_by"] == "password"
        assert me["session"]["idle_seconds"] == 12 * 3600
        problem(await ben.post("/jobs", json=job()), 403, "forbidden")
        assert (await ben.get("/jobs")).status_code == 200
        await ada.http.patch("/users/1", json={"grants": [{"role": "developer"}]})
        assert (await ben.post("/jobs", json=job())).status_code == 201
        assert (await ada.http.get("/auth/me")).json()["session"] is None


async def test_a_session_of_a_browser_counts_as_a_person_at_the_console(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben:
        await ada.http.post("/users", json={**BEN, "grants": [{"role": "developer"}]})
        await ben.post("/auth/session", json=LOGIN)
        target = {"name": "web-1", "host": "10.0.0.1"}
        assert (await ada.http.post("/targets", json=target)).status_code == 201
        made = (await ben.post("/jobs", json=job(targets={"ids": ["web-1"]}))).json()
        launched = (await ben.post(f"/jobs/{made['id']}/execute")).json()
        assert (launched["triggered_by"], launched["requested_by"]) == ("manual", "ben")
        rows = (await ada.http.get("/audit?action=execution.launched")).json()["items"]
        assert [(row["actor"], row["actor_kind"]) for row in rows] == [("ben", "user")]


async def test_a_logout_ends_the_session_for_every_copy_of_its_cookie(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben:
        for path, method in (("/auth/session", "DELETE"), ("/auth/logout", "POST")):
            await log_in(ada, ben)
            copy = {**SAME, "Cookie": f"opsjobs={ben.cookies['opsjobs']}"}
            answer = await ben.request(method, path)
            assert answer.status_code == 204
            ben.cookies.clear()
            problem(await ben.get("/auth/me", headers=copy), 401, "session_ended")
            # An ended session may be ended again, so that the browser's cookie is deleted in any
            # case.
            again = await ben.delete("/auth/session", headers=copy)
            assert again.status_code == 204
            assert 'opsjobs="";' in again.headers["set-cookie"]
        rows = (await ada.http.get("/audit?action=user.logged_out")).json()["items"]
        assert [(row["actor"], row["thing_name"]) for row in rows] == [("ben", "ben")] * 2


@pytest.mark.parametrize("proof", ["password", "code", "tokens"])
@pytest.mark.parametrize("how", ["disable", "password", "delete"])
async def test_no_login_begins_after_what_ends_a_users_logins(
    database: Database, monkeypatch: pytest.MonkeyPatch, how: str, proof: str
) -> None:
    async with api_client(database) as ada, browser(ada) as ben, browser(ada) as eve:
        await log_in(ada, ben)
        given = (await ben.post("/auth/login", json=LOGIN)).json()
        left = await code(ada, Authorization=f"Bearer {given['access_token']}")
        succeed = Attempts.succeeded

        async def changed_meanwhile(*args: Any, **named: Any) -> None:
            await succeed(*args, **named)
            answer = await {
                "disable": lambda: ada.http.post("/users/1/disable"),
                "password": lambda: ada.http.patch(
                    "/users/1", json={"password": "another horse battery"}
                ),
                "delete": lambda: ada.http.delete("/users/1"),
            }[how]()
            assert answer.is_success, answer.text

        monkeypatch.setattr(Attempts, "succeeded", changed_meanwhile)
        path, body = {
            "password": ("/auth/session", LOGIN),
            "code": ("/auth/session", {"code": left}),
            "tokens": ("/auth/login", LOGIN),
        }[proof]
        problem(await eve.post(path, json=body), 401, "login_failed")


@pytest.mark.parametrize("how", ["disabled", "deleted", "password", "own password"])
async def test_what_ends_a_users_logins_ends_its_sessions_and_codes(
    database: Database, how: str
) -> None:
    async with api_client(database) as ada, browser(ada) as ben, browser(ada) as eve:
        await log_in(ada, ben)
        given = (await ben.post("/auth/login", json=LOGIN)).json()
        left = await code(ada, Authorization=f"Bearer {given['access_token']}")
        new = "another horse battery"
        answer = await {
            "disabled": lambda: ada.http.post("/users/1/disable"),
            "deleted": lambda: ada.http.delete("/users/1"),
            "password": lambda: ada.http.patch("/users/1", json={"password": new}),
            "own password": lambda: ben.post(
                "/auth/password", json={"current_password": PASSWORD, "password": new}
            ),
        }[how]()
        assert answer.is_success, answer.text
        problem(await ben.get("/auth/me"), 401, "session_ended")
        problem(await eve.post("/auth/session", json={"code": left}), 401, "login_failed")
        if how == "disabled":
            await ada.http.post("/users/1/enable")
            problem(await ben.get("/auth/me"), 401, "session_ended")


async def test_a_session_ends_after_its_age_and_when_it_is_idle(database: Database) -> None:
    identity = IdentitySettings(login_age=36_000.0, login_idle=6_000.0)
    async with api_client(database, identity=identity) as ada, browser(ada) as ben:
        me = await log_in(ada, ben)
        assert me["session"]["idle_seconds"] == 6_000
        again = await ben.post("/auth/session", json=LOGIN)
        assert "Max-Age=36000" in again.headers["set-cookie"]
        await expire(database, "last_used_at", 5_900)
        assert (await ben.get("/auth/me")).status_code == 200
        await expire(database, "last_used_at", 5_900)  # the request before was noted as a use
        assert (await ben.get("/auth/me")).status_code == 200
        await expire(database, "last_used_at", 5_900)
        cookie = next(value for value in ben.cookies.values() if value.startswith(COOKIE_PREFIX))
        authenticator = ada.services.authentication.authenticator
        await authenticator.reauthenticate(RequestProof(cookie, is_cookie=True))
        await expire(database, "last_used_at", 101)  # an open stream alone is no use
        problem(await ben.get("/auth/me"), 401, "session_ended")
        assert (await ben.post("/auth/session", json=LOGIN)).status_code == 200
        await expire(database, "expires_at", 36_001)
        problem(await ben.get("/auth/me"), 401, "session_ended")


async def test_a_session_in_use_lasts_however_short_the_idle_time_is(database: Database) -> None:
    async with (
        api_client(database, identity=IdentitySettings(login_idle=60.0)) as ada,
        browser(ada) as ben,
    ):
        await log_in(ada, ben)
        for _ in range(9):
            await expire(database, "last_used_at", 8)
            assert (await ben.get("/auth/me")).status_code == 200
        await expire(database, "last_used_at", 61)
        problem(await ben.get("/auth/me"), 401, "session_ended")


async def test_a_page_that_nobody_uses_keeps_no_session_from_ending(database: Database) -> None:
    identity = IdentitySettings(login_idle=6_000.0)
    alone = {"Opsjobs-Unattended": "true"}
    async with api_client(database, identity=identity) as ada, browser(ada) as ben:
        await log_in(ada, ben)
        await expire(database, "last_used_at", 5_900)
        assert (await ben.get("/jobs", headers=alone)).status_code == 200
        await expire(database, "last_used_at", 101)
        problem(await ben.get("/jobs", headers=alone), 401, "session_ended")
        # A change is always made by a person, whatever the header, and so is every other read.
        for method, path, headers in (
            *(("POST", "/auth/codes", alone), ("GET", "/jobs", {})),
            ("GET", "/jobs", {"Opsjobs-Unattended": "false"}),
        ):
            assert (await ben.post("/auth/session", json=LOGIN)).status_code == 200
            await expire(database, "last_used_at", 5_900)
            await ben.request(method, path, headers=headers)
            await expire(database, "last_used_at", 101)
            assert (await ben.get("/auth/me")).status_code == 200


async def test_a_code_begins_one_session_of_the_key_that_made_it(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        given = await code(ada)
        me = (await tab.post("/auth/session", json={"code": given})).json()
        assert (me["name"], me["kind"], me["session"]["confirm_by"]) == ("ada", "api_key", "code")
        assert "system:admin" in me["permissions"]
        assert (await tab.post("/target-groups", json={"name": "web"})).status_code == 201
        problem(await tab.post("/auth/session", json={"code": given}), 401, "login_failed")
        assert (await tab.get("/auth/me")).status_code == 200, "a failed login ends no session"
        problem(await tab.post("/auth/codes"), 409, "has_session")
        viewer = await code(ada, **await ada.token_of("viewer"))
        await tab.post("/auth/session", json={"code": viewer})
        problem(await tab.post("/target-groups", json={"name": "db"}), 403, "forbidden")


async def test_a_session_of_a_key_ends_with_the_key_and_with_its_token(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab, browser(ada) as other:
        body = {"name": "ben-key", "role": "viewer"}
        made = (await ada.http.post("/api-keys", json=body)).json()
        headers = {"Authorization": f"Bearer {made['token']}"}
        await tab.post("/auth/session", json={"code": await code(ada, **headers)})
        unused = await code(ada, **headers)
        assert (await tab.get("/jobs")).status_code == 200
        assert (await ada.http.delete(f"/api-keys/{made['id']}")).status_code == 204
        problem(await tab.get("/jobs"), 401, "session_ended")
        problem(await tab.post("/auth/session", json={"code": unused}), 401, "login_failed")
        identities = ada.services.identities
        await identities.ensure_key("root", "admin", "a first token of sixteen")
        root = {"Authorization": "Bearer a first token of sixteen"}
        await other.post("/auth/session", json={"code": await code(ada, **root)})
        assert (await other.get("/jobs")).status_code == 200
        await identities.ensure_key("root", "admin", "a second token of sixteen")
        problem(await other.get("/jobs"), 401, "session_ended")


async def test_codes_expire_and_are_few(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        first = await code(ada)
        codes = [await code(ada) for _ in range(10)]
        problem(await tab.post("/auth/session", json={"code": first}), 401, "login_failed")
        assert (await tab.post("/auth/session", json={"code": codes[0]})).status_code == 200
        async with database.connection() as connection:
            await connection.execute(
                "update login_codes set expires_at = expires_at - interval '61 s'"
            )
        problem(await tab.post("/auth/session", json={"code": codes[1]}), 401, "login_failed")
        await code(ada)
        rows = await database.fetch("select code_sha256 from login_codes")
        assert len(rows) == 1, "expired ones go with the next"


async def test_a_person_of_the_platform_gets_no_code(database: Database) -> None:
    identity = IdentitySettings(jwt_secret_key=Secret(SECRET))
    async with api_client(database, identity=identity) as ada:
        headers = {"Authorization": f"Bearer {signed(good(roles=['developer']))}"}
        told = problem(await ada.http.post("/auth/codes", headers=headers), 403, "no_code")
        assert "external" in told["detail"]


async def test_guesses_are_locked_out_as_those_of_other_logins(database: Database) -> None:
    identity = IdentitySettings(login_attempts=2)
    async with api_client(database, identity=identity) as ada, browser(ada) as eve:
        await ada.http.post("/users", json=BEN)
        wrong = {**LOGIN, "password": "a wrong password"}
        for _ in range(2):
            problem(await eve.post("/auth/session", json=wrong), 401, "login_failed")
        refused = await eve.post("/auth/session", json=LOGIN)
        problem(refused, 429, "login_locked")
        assert int(refused.headers["retry-after"]) > 0
        for n in range(7):
            bad = await eve.post("/auth/session", json={"code": f"guess-{n}"})
            problem(bad, 401, "login_failed")
        good = {"code": await code(ada)}
        problem(await eve.post("/auth/session", json=good), 429, "login_locked")
        reasons = [
            row["reason"]
            for row in (await ada.http.get("/audit?action=login.failed")).json()["items"]
        ]
        assert reasons.count("the code is unknown, used or expired") == 7
        rows = (await ada.http.get("/audit?action=login.locked")).json()["items"]
        assert {row["reason"] for row in rows} == {
            "too many attempts for one name",
            "too many attempts from one address",
        }


async def test_a_confirmation_takes_the_proof_of_the_same_caller(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben, browser(ada) as tab:
        before = await log_in(ada, ben)
        await expire(database, "confirmed_at", 600)
        problem(
            await ben.post("/auth/confirm", json={"password": "a wrong password"}),
            401,
            "login_failed",
        )
        problem(
            await ben.post("/auth/confirm", json={"code": await code(ada)}), 403, "not_your_code"
        )
        me = (await ben.post("/auth/confirm", json={"password": PASSWORD})).json()
        assert me["session"]["confirmed_until"] > before["session"]["confirmed_until"]
        assert me["session"]["id"] == before["session"]["id"]
        await tab.post("/auth/session", json={"code": await code(ada)})
        problem(await tab.post("/auth/confirm", json={"password": PASSWORD}), 403, "no_password")
        confirmed = await tab.post("/auth/confirm", json={"code": await code(ada)})
        assert confirmed.status_code == 200
        problem(await ada.http.post("/auth/confirm", json={"code": "x"}), 409, "no_session")
        for body in ({}, {"password": PASSWORD, "code": "x"}):
            assert (await ben.post("/auth/confirm", json=body)).status_code == 422
        for bad in ({}, {"username": "ben"}, {"password": "x"}, {**LOGIN, "code": "x"}):
            assert (await ben.post("/auth/session", json=bad)).status_code == 422


async def test_a_user_has_so_many_sessions_and_a_further_one_ends_the_oldest(
    database: Database,
) -> None:
    async with api_client(database) as ada, browser(ada) as first, browser(ada) as ben:
        await log_in(ada, first)
        for _ in range(50):
            ben.cookies.clear()
            assert (await ben.post("/auth/session", json=LOGIN)).status_code == 200
        problem(await first.get("/auth/me"), 401, "session_ended")
        rows = await database.fetch("select id from sessions where ended_at is null")
        assert len(rows) == 50


async def test_own_logins_are_listed_and_ended_one_by_one(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben, browser(ada) as phone:
        await log_in(ada, ben)
        phone.headers["User-Agent"] = "phone/1.0"
        await phone.post("/auth/session", json=LOGIN)
        given = (await ben.post("/auth/login", json=LOGIN)).json()
        items = (await ben.get("/auth/sessions")).json()["items"]
        assert [(one["kind"], one["current"]) for one in items].count(("browser", True)) == 1
        assert sorted(one["kind"] for one in items) == ["browser", "browser", "tokens"]
        lost = next(one for one in items if one["agent"] == "phone/1.0")
        assert lost["address"] == "127.0.0.1"
        assert (await ben.delete(f"/auth/sessions/{lost['id']}")).status_code == 204
        problem(await phone.get("/auth/me"), 401, "session_ended")
        problem(await ben.delete(f"/auth/sessions/{lost['id']}"), 404, "session_not_found")
        assert (await ben.delete("/auth/sessions")).status_code == 204
        bearer = {"Authorization": f"Bearer {given['access_token']}"}
        problem(await ada.http.get("/jobs", headers=bearer), 401, "token_invalid")
        items = (await ben.get("/auth/sessions")).json()["items"]
        assert [one["current"] for one in items] == [True]
        rows = (await ada.http.get("/audit?action=login.ended")).json()["items"]
        assert [(row["actor"], row["thing"], row["thing_name"]) for row in rows] == [
            ("ben", "user", "ben")
        ] * 2


async def test_logins_of_others_take_an_administrator(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben:
        me = await log_in(ada, ben)
        await ada.http.post("/users", json={**BEN, "name": "eve"})
        problem(await ben.get("/auth/sessions?user=eve"), 403, "forbidden")
        problem(await ben.delete("/auth/sessions?user=eve"), 403, "forbidden")
        assert (await ben.get("/auth/sessions?user=ben")).status_code == 200
        own = me["session"]["id"]
        problem(await ada.http.delete(f"/auth/sessions/{own}"), 404, "session_not_found")
        problem(await ada.http.get("/auth/sessions?user=%00"), 422, "invalid")
        problem(await ada.http.delete("/auth/sessions?user=%00"), 422, "invalid")
        found = (await ada.http.get("/auth/sessions?user=ben")).json()["items"]
        assert [(one["id"], one["current"]) for one in found] == [(own, False)]
        assert (await ada.http.delete(f"/auth/sessions/{own}?user=ben")).status_code == 204
        problem(await ben.get("/auth/me"), 401, "session_ended")
        assert (await ada.http.get("/auth/sessions")).json() == {"items": []}


async def test_a_key_lists_the_sessions_that_its_codes_began(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as tab:
        await tab.post("/auth/session", json={"code": await code(ada)})
        (one,) = (await ada.http.get("/auth/sessions")).json()["items"]
        assert (one["kind"], one["current"]) == ("browser", False)
        assert (await ada.http.delete("/auth/sessions")).status_code == 204
        problem(await tab.get("/auth/me"), 401, "session_ended")


async def test_a_user_makes_keys_that_may_no_more_than_the_user(database: Database) -> None:
    async with api_client(database) as ada, browser(ada) as ben:
        await log_in(ada, ben)
        made = await ben.post("/auth/keys", json={"name": "ben-laptop"})
        assert made.status_code == 201
        key = made.json()
        assert made.headers["location"] == f"/auth/keys/{key['id']}"
        assert (key["made_by"], key["person"]) == ("ben", "ben")
        bearer = {"Authorization": f"Bearer {key['token']}"}
        async with browser(ada) as program:
            me = (await program.get("/auth/me", headers=bearer)).json()
            assert me["permissions"]["jobs:execute"] == ["env=dev"]
            problem(await program.get("/auth/keys", headers=bearer), 403, "no_own_keys")
        more = {"name": "root", "grants": [{"role": "admin"}]}
        problem(await ben.post("/auth/keys", json=more), 403, "more_than_held")
        less = {"name": "ci", "grants": [{"permissions": ["jobs:read"], "scope": "env=dev"}]}
        assert (await ben.post("/auth/keys", json=less)).status_code == 201
        problem(await ben.post("/auth/keys", json=less), 409, "name_taken")
        names = [one["name"] for one in (await ben.get("/auth/keys")).json()["items"]]
        assert names == ["ben-laptop", "ci"]
        foreign = (await ada.http.get("/api-keys?name=ada")).json()["items"][0]["id"]
        problem(await ben.delete(f"/auth/keys/{foreign}"), 404, "api_key_not_found")
        assert (await ben.delete(f"/auth/keys/{key['id']}")).status_code == 204
        problem(await ada.http.get("/jobs", headers=bearer), 401, "token_invalid")
        await ada.http.patch("/users/1", json={"grants": [{"role": "viewer"}]})
        problem(await ada.http.get("/auth/keys"), 403, "no_own_keys")


async def test_a_user_has_so_many_keys(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "OWN_KEYS_MAX", 2)
    async with api_client(database) as ada, browser(ada) as ben:
        await log_in(ada, ben)
        for name in ("one", "two"):
            assert (await ben.post("/auth/keys", json={"name": name})).status_code == 201
        told = problem(await ben.post("/auth/keys", json={"name": "three"}), 409, "too_many_keys")
        assert "ben has 2 API keys" in told["detail"]


RUN = {"actions": [{"command": "id"}], "targets": {"ids": ["web-1"]}}
SENSITIVE: list[tuple[str, str, Any]] = [
    ("POST", "/users", {**BEN, "name": "new"}),
    ("PATCH", "/users/1", {"disabled": False}),
    ("POST", "/users/1/disable", None),
    ("DELETE", "/users/1", None),
    ("POST", "/api-keys", {"name": "k", "role": "viewer"}),
    ("DELETE", "/api-keys/9", None),
    ("POST", "/auth/keys", {"name": "k"}),
    ("POST", "/services", {}),
    ("POST", "/credentials", {"name": "root", "type": "password"}),
    ("DELETE", "/credentials/1", None),
    ("POST", "/keys/rotate", None),
    ("DELETE", "/auth/sessions?user=ben", None),
    ("POST", "/jobs/1/execute", {"override_safety": True, "reason": "x"}),
    ("POST", "/run", {**RUN, "override_safety": True, "reason": "x"}),
]


async def test_what_is_sensitive_takes_a_fresh_proof_of_a_session_and_not_of_a_token(
    database: Database,
) -> None:
    async with api_client(database) as ada, browser(ada) as eve:
        admin = {"name": "eve", "password": PASSWORD, "grants": [{"role": "admin"}]}
        await ada.http.post("/users", json=BEN)
        await ada.http.post("/users", json=admin)
        target = {"name": "web-1", "host": "10.0.0.1"}
        await ada.http.post("/targets", json=target)
        await ada.http.post("/jobs", json=job(targets={"ids": ["web-1"]}))
        await eve.post("/auth/session", json={"username": "eve", "password": PASSWORD})
        await expire(database, "confirmed_at", 601)
        for method, path, body in SENSITIVE:
            answer = await eve.request(method, path, json=body)
            problem(answer, 403, "password_again")
        # Actions that are not sensitive stay possible.
        assert (await eve.get("/users")).status_code == 200
        assert (await eve.post("/target-groups", json={"name": "web"})).status_code == 201
        assert (await eve.post("/jobs/1/execute", json={"dry_run": True})).status_code == 200
        confirmed = await eve.post("/auth/confirm", json={"password": PASSWORD})
        assert confirmed.status_code == 200
        for method, path, body in SENSITIVE:
            answer = await eve.request(method, path, json=body)
            assert "password_again" not in answer.text, path
        await expire(database, "confirmed_at", 601)
        assert (await ada.http.post("/users", json={**BEN, "name": "gus"})).status_code == 201
