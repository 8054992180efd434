"""Point 29: errors without stack traces; a caller who cannot be identified has no rights."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from kit.token_issuer import SECRET, Answers, answering, by_hand, good, signed
from opsjobs.clock import TurnedClock
from opsjobs.model.secret import Secret
from opsjobs.settings import IdentitySettings
from opsjobs.store.transaction import Database

VALIDATE = "/api/auth/validate"
NOW = datetime(2026, 11, 27, tzinfo=UTC)
ADA = {
    "valid": True,
    "user": {"id": 7, "username": "ada", "role": "viewer"},
    "roles": [],
    "permissions": ["jobs:execute"],
}


async def asked(desk_: ApiClient, token: str) -> Any:
    return await desk_.http.get("/auth/me", headers={"Authorization": f"Bearer {token}"})


def introspecting(server: Answers, **more: Any) -> IdentitySettings:
    return IdentitySettings(auth_service_url=server.url, **more)


async def test_while_the_auth_service_is_away_nobody_is_let_in_whoever_was_before(
    database: Database,
) -> None:
    clock = TurnedClock(NOW)
    with answering() as server:
        server.at[VALIDATE] = (200, ADA)
        async with api_client(database, identity=introspecting(server), clock=clock) as ada:
            told = (await asked(ada, "opaque-token")).json()
            assert (told["name"], told["kind"], told["roles"]) == ("ada", "external", ["viewer"])
            assert "jobs:execute" in told["grants"][0]["permissions"]
            assert server.bodies == [{"token": "opaque-token"}]
            for outage in (
                (500, {}),
                (404, {}),
                (200, b"<html>"),
                (200, {}),
                (200, {"valid": "true"}),
                (302, {}),
                (200, []),
            ):
                server.at[VALIDATE] = outage
                assert (await asked(ada, "opaque-token")).status_code == 200, (
                    "it was said a moment ago"
                )
                answer = await asked(ada, f"another-{outage[0]}-{len(str(outage[1]))}")
                told = problem(answer, 503, "unavailable")
                assert answer.headers["retry-after"]
                assert server.url not in json.dumps(told)
            clock.turn(15)
            problem(await asked(ada, "opaque-token"), 503, "unavailable")
            assert (await ada.http.get("/auth/me")).status_code == 200, (
                "our own keys need no Auth Service"
            )
            await ada.services.authentication.close()


async def test_what_the_auth_service_says_no_to_is_401_and_not_asked_about_again_at_once(
    database: Database,
) -> None:
    clock = TurnedClock(NOW)
    with answering() as server:
        async with api_client(database, identity=introspecting(server), clock=clock) as ada:
            for no in (
                (200, {"valid": False}),
                (200, {**ADA, "valid": False}),
                (401, {}),
                (403, {}),
            ):
                server.at[VALIDATE] = no
                for _ in range(3):
                    problem(await asked(ada, f"no-{no[0]}-{len(no[1])}"), 401, "token_invalid")
            assert server.count(VALIDATE) == 4
            server.at[VALIDATE] = (200, ADA)
            clock.turn(15)
            assert (await asked(ada, "no-401-0")).status_code == 200
            await ada.services.authentication.close()


async def test_a_token_without_exp_is_taken_only_where_it_is_asked_about(
    database: Database,
) -> None:
    now = NOW.timestamp()
    endless, over = signed(good(now, exp=None)), signed(good(now, exp=int(now) - 60))
    clock = TurnedClock(NOW)
    with answering() as server:
        server.at[VALIDATE] = (200, ADA)
        wanted = introspecting(server, jwt_secret_key=Secret(SECRET))
        async with api_client(database, identity=wanted, clock=clock) as ada:
            assert (await asked(ada, endless)).status_code == 200
            for forged in (
                over,
                by_hand({"alg": "none"}, good(now)),
                "x" * 8_193,
                signed(good(now), jku="https://evil.example.org"),
            ):
                assert (await asked(ada, forged)).status_code == 401
            assert server.count(VALIDATE) == 1, "what is bad by itself is not asked about"
            # The signature of the shared secret alone does not make a token valid: the service is
            # asked, too.
            server.at[VALIDATE] = (200, {"valid": False})
            assert (await asked(ada, signed(good(now)))).status_code == 401
            server.at[VALIDATE] = (200, {**ADA, "exp": now + 5})
            assert (await asked(ada, "for-five-seconds")).status_code == 200
            clock.turn(20)
            assert (await asked(ada, "for-five-seconds")).status_code == 401
            await ada.services.authentication.close()


async def test_elsewhere_a_token_without_exp_is_refused(database: Database) -> None:
    async with api_client(
        database, identity=IdentitySettings(jwt_secret_key=Secret(SECRET))
    ) as ada:
        assert (await asked(ada, signed(good(exp=None)))).status_code == 401
        assert (await asked(ada, signed(good()))).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {
            "user_id": 7,
            "username": "ada",
            "role": "operator",
            "permissions": ["read_jobs", "audit.read"],
        },
        {
            "sub": "ada",
            "roles": ["operator", "unheard-of"],
            "permissions": ["jobs:read", "audit:read", "coffee:make"],
        },
        {"sub": "ada", "roles": "operator unheard-of", "permissions": "job:read audit:read"},
    ],
)
async def test_both_claim_sets_are_understood_and_what_is_unknown_holds_nothing(
    database: Database, claims: dict[str, Any]
) -> None:
    wanted = IdentitySettings(jwt_secret_key=Secret(SECRET))
    async with api_client(database, identity=wanted) as ada:
        base = {name: value for name, value in good().items() if name in ("iat", "exp")}
        told = (await asked(ada, signed({**base, **claims}))).json()
        assert (told["name"], told["kind"], told["person"]) == ("ada", "external", "ada")
        assert "audit:read" in told["grants"][0]["permissions"]
        assert "jobs:delete" not in told["grants"][0]["permissions"]
        assert "coffee:make" not in told["grants"][0]["permissions"]
        nobody = (await asked(ada, signed({**base, "sub": "ben", "roles": ["emperor"]}))).json()
        assert nobody["grants"] == []
        scoped = {
            **base,
            **claims,
            "scope_labels": "env=staging",
            "opsjobs_grants": [{"role": "viewer", "scope": "env=prod"}],
        }
        grants = (await asked(ada, signed(scoped))).json()["grants"]
        assert [grant["scope"] for grant in grants] == ["env=staging", "env=prod"]
