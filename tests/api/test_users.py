"""/users and /auth: local users, their logins, and what ends them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from api.kit import ApiClient, api_client, app_on, problem
from opsjobs.model.errors import TooMany
from opsjobs.settings import IdentitySettings
from opsjobs.store.identities.sessions import Attempts, LockoutPolicy
from opsjobs.store.transaction import Database

PASSWORD = "correct horse battery"
VIEWER = [{"role": "viewer", "scope": "env=staging"}]
ADMIN = [{"role": "admin"}]


def user(name: str = "ben", **more: Any) -> dict[str, Any]:
    return {"name": name, "password": PASSWORD, "grants": VIEWER, **more}


async def login(ada: ApiClient, name: str = "ben", password: str = PASSWORD) -> httpx2.Response:
    return await ada.http.post(
        "/auth/login", json={"username": name, "password": password}, headers={"Authorization": ""}
    )


def bearer(given: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {given['access_token']}"}


async def refreshed(ada: ApiClient, token: str) -> httpx2.Response:
    return await ada.http.post(
        "/auth/refresh", json={"refresh_token": token}, headers={"Authorization": ""}
    )


async def test_a_user_is_created_read_replaced_and_deleted_without_showing_the_password(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        made = await ada.http.post("/users", json=user())
        assert (made.status_code, made.headers["location"]) == (201, "/users/1")
        assert made.json()["grants"] == [
            {"role": "viewer", "permissions": [], "scope": "env=staging"}
        ]
        problem(await ada.http.post("/users", json=user()), 409, "name_taken")
        changed = {"name": "ben", "grants": [{"permissions": ["jobs.read", "read_targets"]}]}
        whole = (await ada.http.put("/users/1", json=changed)).json()
        assert whole["grants"] == [
            {"role": None, "permissions": ["jobs:read", "targets:read"], "scope": ""}
        ]
        problem(await ada.http.put("/users/1", json={**changed, "name": "eve"}), 409, "name_stays")
        assert (await login(ada)).status_code == 200
        for answer in (
            made,
            await ada.http.get("/users/1"),
            await ada.http.get("/users"),
            await ada.http.get("/users?name=ben"),
        ):
            assert "argon2" not in answer.text
            assert PASSWORD not in answer.text
        assert (await ada.http.delete("/users/1")).status_code == 204
        problem(await ada.http.get("/users/1"), 404, "user_not_found")
        problem(await login(ada), 401, "login_failed")
        told = await database.fetch("select action, before, after from audit_log order by id")
        assert [row["action"] for row in told] == [
            "user.created",
            "user.updated",
            "user.logged_in",
            "user.deleted",
            "login.failed",
        ]
        assert "argon2" not in json.dumps(told)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (user(password="short"), "weak_password"),
        (user(password="ben-ben-ben-ben-1"), "weak_password"),
        (user(password="aaaaaaaaaaaaaaaa"), "weak_password"),
        (user(grants=[]), "too_short"),
        (user(grants=[{"role": "emperor"}]), "enum"),
        (user(grants=[{"role": "viewer", "permissions": ["jobs:read"]}]), "value_error"),
        (user(grants=[{"permissions": ["jobs:burn"]}]), "value_error"),
        (user(grants=[{"role": "viewer", "scope": "env!=prod"}]), "value_error"),
        (user(is_admin=True), "extra_forbidden"),
    ],
)
async def test_an_invalid_user_is_refused_without_repeating_the_password(
    database: Database, body: Any, code: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/users", json=body)
        assert answer.status_code == 422
        assert code in {
            answer.json()["code"],
            *(error["code"] for error in answer.json()["errors"]),
        }
        assert body["password"] not in answer.text


async def test_callers_cannot_grant_more_than_they_hold(database: Database) -> None:
    async with api_client(database) as ada:
        only = [{"permissions": ["system:admin", "jobs:read"]}]
        await ada.http.post("/users", json=user("keeper", grants=only))
        keeper = bearer((await login(ada, "keeper")).json())
        for body in (user(), user(grants=ADMIN), user(grants=[{"permissions": ["jobs:execute"]}])):
            problem(await ada.http.post("/users", json=body, headers=keeper), 403, "more_than_held")
        problem(
            await ada.http.post("/api-keys", json={"name": "k", "role": "admin"}, headers=keeper),
            403,
            "more_than_held",
        )
        problem(
            await ada.http.put(
                "/users/1", json={"name": "keeper", "grants": ADMIN}, headers=keeper
            ),
            403,
            "more_than_held",
        )
        narrower = user(grants=[{"permissions": ["jobs:read"], "scope": "env=dev"}])
        assert (await ada.http.post("/users", json=narrower, headers=keeper)).status_code == 201


async def test_the_last_administrator_cannot_be_deleted_or_disabled(database: Database) -> None:
    async with api_client(database) as ada:
        for name in ("ben", "eve"):
            await ada.http.post("/users", json=user(name, grants=ADMIN))
        one, two = await asyncio.gather(
            ada.http.post("/users/1/disable"), ada.http.post("/users/2/disable")
        )
        assert sorted((one.status_code, two.status_code)) == [200, 409]
        last = 1 if one.status_code == 409 else 2
        problem(await ada.http.delete(f"/users/{last}"), 409, "last_admin")
        name = "ben" if last == 1 else "eve"
        problem(
            await ada.http.put(f"/users/{last}", json={"name": name, "grants": VIEWER}),
            409,
            "last_admin",
        )
        assert (await ada.http.delete(f"/users/{3 - last}")).status_code == 204


async def test_a_refresh_token_can_be_used_once(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/users", json=user())
        first = (await login(ada)).json()
        assert (first["token_type"], first["expires_in"]) == ("Bearer", 900)
        me = (await ada.http.get("/auth/me", headers=bearer(first))).json()
        assert (me["name"], me["kind"], me["person"], me["roles"]) == (
            "ben",
            "user",
            "ben",
            ["viewer"],
        )
        second = (await refreshed(ada, first["refresh_token"])).json()
        assert (await ada.http.get("/auth/me", headers=bearer(second))).status_code == 200
        problem(await refreshed(ada, first["refresh_token"]), 401, "token_reused")
        # The token was stolen: the login ends for both.
        problem(await refreshed(ada, second["refresh_token"]), 401, "token_invalid")
        for given in (first, second):
            problem(await ada.http.get("/auth/me", headers=bearer(given)), 401, "token_invalid")
        row = await database.fetch_one(
            "select reason from audit_log where action = 'login.revoked'"
        )
        assert row == {"reason": "a refresh token was used a second time"}
        for junk in ("x", "opsr_" + "x" * 43, "\u00e9"):
            problem(await refreshed(ada, junk), 401, "token_invalid")


async def test_of_two_concurrent_refreshes_one_succeeds(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/users", json=user())
        token = (await login(ada)).json()["refresh_token"]
        answers = await asyncio.gather(*(refreshed(ada, token) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401]


@pytest.mark.parametrize("end", ["logout", "disable", "password", "delete", "own password"])
async def test_logout_disable_and_password_change_revoke_tokens_at_once(
    database: Database, end: str
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/users", json=user())
        given = (await login(ada)).json()
        other = (await login(ada)).json()
        match end:
            case "logout":
                done = await ada.http.post("/auth/logout", headers=bearer(given))
            case "disable":
                done = await ada.http.post("/users/1/disable")
            case "password":
                done = await ada.http.put("/users/1", json=user(password="another good phrase"))
            case "delete":
                done = await ada.http.delete("/users/1")
            case _:
                body = {"current_password": PASSWORD, "password": "another good phrase"}
                problem(
                    await ada.http.post(
                        "/auth/password",
                        json={**body, "current_password": "no"},
                        headers=bearer(given),
                    ),
                    401,
                    "login_failed",
                )
                done = await ada.http.post("/auth/password", json=body, headers=bearer(given))
        assert done.is_success, done.text
        problem(await ada.http.get("/auth/me", headers=bearer(given)), 401, "token_invalid")
        problem(await refreshed(ada, given["refresh_token"]), 401, "token_invalid")
        # The other login continues only if a single login was ended.
        assert (await ada.http.get("/auth/me", headers=bearer(other))).status_code == (
            200 if end == "logout" else 401
        )
        if "password" in end:
            problem(await login(ada), 401, "login_failed")
            assert (await login(ada, password="another good phrase")).status_code == 200


async def test_changed_grants_apply_to_issued_tokens(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/users", json=user())
        given = (await login(ada)).json()
        problem(await ada.http.get("/users", headers=bearer(given)), 403, "forbidden")
        await ada.http.put("/users/1", json={"name": "ben", "grants": ADMIN})
        assert (await ada.http.get("/users", headers=bearer(given))).status_code == 200


async def test_unknown_wrong_and_disabled_logins_are_answered_and_locked_alike(
    database: Database,
) -> None:
    async with api_client(database, identity=IdentitySettings(login_attempts=3)) as ada:
        await ada.http.post("/users", json=user())
        await ada.http.post("/users", json=user("off", disabled=True))
        told = {}
        for name, password in (("ben", "wrong"), ("nobody", PASSWORD), ("off", PASSWORD)):
            answers = [await login(ada, name, password) for _ in range(5)]
            assert [a.status_code for a in answers] == [401, 401, 401, 429, 429]
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 900
            told[name] = {**answers[0].json(), "request_id": ""}
        assert told["ben"] == told["nobody"] == told["off"]
        problem(
            await login(ada), 429, "login_locked"
        )  # even with the right password, as long as the lock lasts
        rows = await database.fetch(
            "select action, thing_name, count(*) as n from audit_log where action like 'login.%' group by 1, 2 order by 1, 2"
        )
        # ben's name; and, at his last try, the address, which has failed fifteen times by then
        assert [tuple(row.values()) for row in rows] == [
            ("login.failed", "ben", 3), ("login.failed", "off", 3), ("login.failed", None, 3),
            ("login.locked", "ben", 2), ("login.locked", "off", 1), ("login.locked", None, 1),
        ]  # fmt: skip
        await database.fetch(
            "update login_attempts set until = opsjobs_now() - interval '1 second' returning key"
        )
        assert (await login(ada)).status_code == 200


async def test_concurrent_password_guesses_are_locked_like_sequential_ones(
    database: Database,
) -> None:
    async with api_client(database, identity=IdentitySettings(login_attempts=3)) as ada:
        await ada.http.post("/users", json=user())
        answers = await asyncio.gather(*(login(ada, password=f"guess {n}") for n in range(20)))
        assert sorted(a.status_code for a in answers) == [401] * 3 + [429] * 17


async def test_an_address_is_locked_out_whatever_names_it_tries(
    database: Database,
) -> None:
    async with api_client(database, identity=IdentitySettings(login_attempts=1)) as ada:
        await ada.http.post("/users", json=user())

        async def tried(address: str, name: str, password: str = PASSWORD) -> int:
            transport = httpx2.ASGITransport(app=app_on(ada.services), client=(address, 4711))
            async with httpx2.AsyncClient(transport=transport, base_url="http://opsjobs") as http:
                return (
                    await http.post("/auth/login", json={"username": name, "password": password})
                ).status_code

        network = [await tried(f"2001:db8::{n}", f"name-{n}") for n in range(7)]
        assert network == [401] * 5 + [429] * 2
        assert await tried("192.0.2.7", "ben") == 200
        rows = await database.fetch("select key from login_attempts where key like 'address%'")
        assert {row["key"] for row in rows} == {"address 2001:db8::", "address 192.0.2.7"}


async def test_one_address_cannot_lock_a_user_out_elsewhere_but_many_can(
    database: Database,
) -> None:
    attempts = Attempts(database, LockoutPolicy(of_name=2, of_address=50, everywhere=4))

    async def passes(address: str) -> bool:
        try:
            await attempts.begin("ben", address, user_id=None)
        except TooMany:
            return False
        return True

    assert [await passes("192.0.2.1") for _ in range(20)] == [True] * 2 + [False] * 18
    assert await passes("192.0.2.2")
    await attempts.succeeded("ben", "192.0.2.2")
    assert [await passes(f"192.0.2.{n}") for n in range(3, 7)] == [True] * 2 + [False] * 2
    rows = await database.fetch("select key from login_attempts where key like '% from address %'")
    assert len(rows) == 5


async def test_login_secrets_are_not_stored_in_the_database(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/users", json=user())
        given = (await login(ada)).json()
        for table in (
            "users",
            "sessions",
            "refresh_tokens",
            "audit_log",
            "login_attempts",
            "idempotency_keys",
        ):
            rows = await database.fetch(f"select t::text as row from {table} t")
            assert not any(
                secret in row["row"]
                for row in rows
                for secret in (PASSWORD, given["access_token"], given["refresh_token"])
            )
