"""Tokens of others are verified by the Auth Service of each generation; its faults admit no one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from api.kit import api_client, problem
from kit.platform_services import FAULTS, MS, V3, platform_services
from opsjobs.clock import TurnedClock
from opsjobs.composition.platform import build_integrations
from opsjobs.settings import load
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ANSWERS = {
    V3: {"valid": True, "user": {"id": 7, "username": "ada", "role": "operator"}},
    MS: {"valid": True, "user": "ada", "roles": ["operator"], "permissions": ["jobs:create"]},
}


@pytest.mark.parametrize("generation", [V3, MS])
async def test_a_token_counts_while_the_service_says_so(
    generation: str, database: Database
) -> None:
    clock = TurnedClock(NOW)
    with platform_services(generation) as platform:
        wanted = load(
            {
                "AUTH_SERVICE_URL": platform.url("auth"),
                "AUTH_SERVICE_PROFILE": generation,
                "AUTH_SERVICE_AUTH": "api_key",
                "AUTH_SERVICE_SECRET": "our-own-key",
            }
        )
        platform.tokens["opaque"] = ANSWERS[generation]
        async with api_client(
            database, identity=wanted.identity, platform=wanted.platform, clock=clock
        ) as on:
            headers = {"Authorization": "Bearer opaque"}
            me = (await on.http.get("/auth/me", headers=headers)).json()
            assert (me["name"], me["roles"]) == ("ada", ["operator"])
            (call,) = platform.asked("auth")
            assert call.body == {"token": "opaque"}
            assert call.headers["x-api-key"] == "our-own-key"
            assert len(call.headers["x-correlation-id"]) > 8
            del platform.tokens["opaque"]
            assert (await on.http.get("/auth/me", headers=headers)).status_code == 200
            clock.turn(16)
            problem(await on.http.get("/auth/me", headers=headers), 401, "token_invalid")
            await on.services.integrations.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_it_fails_a_token_is_neither_good_nor_bad(
    fault: str, database: Database
) -> None:
    with platform_services(V3) as platform:
        wanted = load(
            {
                "AUTH_SERVICE_URL": platform.url("auth"),
                "OPSJOBS_SERVICE_TIMEOUT": "0.5s" if fault == "slow" else "10s",
            }
        )
        platform.tokens["opaque"], platform.faults["auth"] = ANSWERS[V3], fault
        async with api_client(database, identity=wanted.identity, platform=wanted.platform) as on:
            answer = await on.http.get("/auth/me", headers={"Authorization": "Bearer opaque"})
            # a 401 of the service means the token
            expected = (401, "token_invalid") if fault == "refused" else (503, "unavailable")
            problem(answer, *expected)
            (status,) = on.services.integrations.statuses()
            assert status.name == "auth"
            assert status.state == ("ok" if fault == "refused" else "failing")
            await on.services.integrations.close()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (
            {"AUTH_SERVICE_PROFILE": "opsconductor-ng"},
            "the profile opsconductor-ng has no section 'auth'",
        ),
        ({"AUTH_SERVICE_PROFILE": "/nowhere.yaml"}, "AUTH_SERVICE_PROFILE: the profile /nowhere"),
    ],
)
def test_a_profile_that_cannot_serve_is_refused_at_the_start(
    environ: dict[str, str], words: str
) -> None:
    settings = load({"AUTH_SERVICE_URL": "http://127.0.0.1:9", **environ})
    with pytest.raises(ValueError, match="AUTH_SERVICE_PROFILE") as caught:
        build_integrations(settings, TurnedClock(NOW), Metrics())
    assert words in str(caught.value)
