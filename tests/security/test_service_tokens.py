"""Point 3: services have a client id and short-lived tokens of their own.

The user for whom they act is a signed claim, never a header.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from api.kit import ApiClient, api_client, problem
from kit.token_issuer import pem, private, resigned, signed
from opsjobs.store.transaction import Database

PASSWORD = "correct horse battery"
KID = {"kid": "service/portal"}


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {
        "iss": "portal",
        "sub": "portal",
        "aud": "opsjobs",
        "iat": now,
        "exp": now + 60,
        **more,
    }
    return {name: value for name, value in whole.items() if value is not None}


def of_portal(**more: Any) -> str:
    return signed(claims(**more), private("ed25519"), "EdDSA", **KID)


async def made(ada: ApiClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = await ada.http.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def furnished(ada: ApiClient) -> None:
    grants = [{"role": "operator", "scope": "team=web"}]
    await made(ada, "/services", {"name": "portal", "public_key": pem("ed25519"), "grants": grants})
    await made(
        ada,
        "/services",
        {"name": "mail", "public_key": pem("p256"), "grants": [{"role": "viewer"}]},
    )
    await made(
        ada,
        "/users",
        {
            "name": "ben",
            "password": PASSWORD,
            "grants": [{"role": "viewer", "scope": "env=staging"}],
        },
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def who(ada: ApiClient, token: str, **headers: str) -> dict[str, Any]:
    answer = await ada.http.get("/auth/me", headers={**bearer(token), **headers})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


FORGED: Mapping[str, Callable[[], str]] = {
    "signed by another service": lambda: signed(claims(), private("p256"), "ES256", **KID),
    "of another service": lambda: signed(
        claims(iss="mail", sub="mail"), private("ed25519"), "EdDSA", **KID
    ),
    "of a service that is not there": lambda: signed(
        claims(iss="x", sub="x"), private("ed25519"), "EdDSA", kid="service/x"
    ),
    "of nobody": lambda: signed(claims(), private("ed25519"), "EdDSA", kid="service/"),
    "a kid with NUL": lambda: signed(claims(), private("ed25519"), "EdDSA", kid="service/\x00"),
    "HS256 by the public key": lambda: resigned({"alg": "HS256", **KID}, claims(), pem("ed25519")),
    "for somebody else": lambda: of_portal(aud="billing"),
    "for nobody": lambda: of_portal(aud=None),
    "of another subject": lambda: of_portal(sub="ben"),
    "of no subject": lambda: of_portal(sub=None),
    "for a day": lambda: of_portal(exp=int(time.time()) + 86_400),
    "for ever": lambda: of_portal(exp=None),
    "since never": lambda: of_portal(iat=None),
    "over": lambda: of_portal(iat=int(time.time()) - 200, exp=int(time.time()) - 100),
    "for somebody who is not there": lambda: of_portal(
        on_behalf_of={"kind": "user", "name": "eve"}
    ),
    "for an unknown one of the platform": lambda: of_portal(
        on_behalf_of={"kind": "external", "name": "ben"}
    ),
    "for another service": lambda: of_portal(on_behalf_of={"kind": "service", "name": "mail"}),
    "for a key": lambda: of_portal(on_behalf_of={"kind": "api_key", "name": "ada"}),
    "for a lone surrogate": lambda: of_portal(on_behalf_of={"name": "\udfff"}),
    "for a name with NUL": lambda: of_portal(on_behalf_of={"name": "a\x00"}),
    "for a text": lambda: of_portal(on_behalf_of="ben"),
    "for nobody at all": lambda: of_portal(on_behalf_of={}),
}


async def test_a_service_is_who_its_own_signature_says_and_nobody_else(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await furnished(ada)
        statuses = {
            name: (await ada.http.get("/auth/me", headers=bearer(make()))).status_code
            for name, make in FORGED.items()
        }
        assert {name: status for name, status in statuses.items() if status != 401} == {}
        portal = await who(ada, of_portal())
        assert (portal["name"], portal["kind"], portal["person"]) == ("portal", "service", None)
        assert portal["grants"][0]["scope"] == "team=web"
        assert (await who(ada, of_portal(aud=["billing", "opsjobs"])))["name"] == "portal"


async def test_for_a_user_it_may_what_both_may_and_headers_mean_nothing(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await furnished(ada)
        for_ben = of_portal(on_behalf_of={"kind": "user", "name": "ben"})
        told = await who(ada, for_ben)
        assert (told["name"], told["kind"], told["person"]) == ("portal/user/ben", "service", "ben")
        (grant,) = told["grants"]
        assert grant["scope"] == "team=web,env=staging"
        assert "jobs:read" in grant["permissions"]
        assert "jobs:execute" not in grant["permissions"]
        for header in (
            "X-User",
            "X-User-Id",
            "X-Forwarded-User",
            "X-On-Behalf-Of",
            "Remote-User",
            "X-Opsjobs-User",
        ):
            assert await who(ada, of_portal(), **{header: "ada"}) == await who(ada, of_portal())
            assert await who(ada, for_ben, **{header: "ada"}) == told
        # The user is deleted, and so are the service's rights for that user; it keeps its own.
        await ada.http.post("/users/1/disable")
        problem(await ada.http.get("/auth/me", headers=bearer(for_ben)), 401, "token_invalid")
        assert (await who(ada, of_portal()))["name"] == "portal"


async def test_another_key_and_a_disabled_service_are_good_at_once(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await furnished(ada)
        body = {"name": "portal", "public_key": pem("p256"), "grants": [{"role": "viewer"}]}
        assert (await ada.http.put("/services/1", json=body)).status_code == 200
        problem(await ada.http.get("/auth/me", headers=bearer(of_portal())), 401, "token_invalid")
        renewed = signed(claims(), private("p256"), "ES256", **KID)
        assert (await who(ada, renewed))["roles"] == ["viewer"]
        await ada.http.put("/services/1", json={**body, "disabled": True})
        problem(await ada.http.get("/auth/me", headers=bearer(renewed)), 401, "token_invalid")
        problem(
            await ada.http.put("/services/1", json={**body, "name": "other"}), 409, "name_stays"
        )
        assert (await ada.http.delete("/services/1")).status_code == 204
        problem(await ada.http.get("/services/1"), 404, "service_not_found")
        rows = await database.fetch(
            "select action from audit_log where thing = 'service' order by id"
        )
        assert [row["action"] for row in rows] == ["service.created"] * 2 + [
            "service.updated"
        ] * 2 + ["service.deleted"]


async def test_a_key_that_proves_nothing_is_not_registered(database: Database) -> None:
    async with api_client(database) as ada:
        for key in (
            "x",
            pem("weak-rsa"),
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ):
            body = {"name": "portal", "public_key": key, "grants": [{"role": "viewer"}]}
            problem(await ada.http.post("/services", json=body), 422, "invalid_public_key")


async def test_a_service_that_cannot_sign_has_a_key_with_a_scope_and_an_end(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        body = {
            "name": "cron-bot",
            "permissions": ["jobs:execute"],
            "scope": "env=staging",
            "expires_at": "2199-01-01T00:00:00Z",
        }
        key = await made(ada, "/api-keys", body)
        told = await who(ada, key["token"])
        assert told["grants"] == [
            {"role": None, "permissions": ["jobs:execute"], "scope": "env=staging"}
        ]
        assert (key["role"], key["made_by"], key["grants"]) == (None, "ada", told["grants"])
        assert (await ada.http.get("/users", headers=bearer(key["token"]))).status_code == 403
        for wrong in (
            {"role": "viewer", "permissions": ["jobs:read"]},
            {},
            {"grants": [{"role": "viewer"}], "scope": "a=b"},
        ):
            assert (
                await ada.http.post("/api-keys", json={"name": "k", **wrong})
            ).status_code == 422
