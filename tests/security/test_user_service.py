"""Points 5 and 29: platform users are confirmed when work starts.

While they cannot be confirmed, none starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.kit import ApiClient, api_client, job, problem
from kit.platform_services import FAULTS, MS, V3, PlatformServices, platform_services
from kit.schedule_fixtures import ScheduleHarness
from kit.token_issuer import SECRET, good, signed
from opsjobs.clock import TurnedClock
from opsjobs.composition.platform import build_integrations, build_platform_users
from opsjobs.identity.platform_users import PlatformUsers
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, Unavailable
from opsjobs.model.identity import Identity
from opsjobs.model.secret import Secret
from opsjobs.settings import IdentitySettings, load
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics

ADA = {"id": "ada", "username": "ada", "is_active": True, "role": "operator"}


@asynccontextmanager
async def api_with_user_service(
    database: Database, platform: PlatformServices, **more: str
) -> AsyncIterator[ApiClient]:
    wanted = load(
        {
            "USER_SERVICE_URL": platform.url("user"),
            "USER_SERVICE_PROFILE": platform.generation,
            "OPSJOBS_SERVICE_TIMEOUT": "10",
            **more,
        }
    )
    identity = IdentitySettings(
        jwt_secret_key=Secret(SECRET),
        jwt_execute_runs_commands=wanted.identity.jwt_execute_runs_commands,
    )
    async with api_client(database, identity=identity, platform=wanted.platform) as found:
        yield found
        await found.services.integrations.close()


async def a_job(on: ApiClient) -> str:
    await on.http.post("/targets", json={"name": "web-1", "host": "192.0.2.1"})
    made = await on.http.post("/jobs", json=job(targets={"ids": ["web-1"]}))
    assert made.status_code == 201, made.text
    return f"/jobs/{made.json()['id']}/execute"


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed(good(iss=None, aud=None, **claims))}"}


@pytest.mark.parametrize("generation", [V3, MS])
async def test_a_launch_takes_a_user_who_is_active_and_holds_the_right_there_too(
    generation: str, database: Database
) -> None:
    with platform_services(generation) as platform:
        async with api_with_user_service(database, platform) as on:
            execute = await a_job(on)
            platform.users["ada"] = ADA
            assert (await on.http.post(execute, json={}, headers=bearer())).status_code == 202
            platform.users["ben"] = {**ADA, "id": "ben", "role": "viewer"}
            refused = await on.http.post(execute, json={}, headers=bearer(sub="ben"))
            assert "does not hold jobs:execute" in problem(refused, 403, "forbidden")["detail"]
            # Roles of the service add nothing to those of the token.
            platform.users["eve"] = {**ADA, "id": "eve", "role": "admin"}
            refused = await on.http.post(
                execute, json={}, headers=bearer(sub="eve", roles=["viewer"])
            )
            problem(refused, 403, "forbidden")
            for name, is_active in (("dan", False), ("dora", "suspended")):
                platform.users[name] = {**ADA, "id": name, "is_active": is_active}
                refused = await on.http.post(execute, json={}, headers=bearer(sub=name))
                problem(refused, 403, "user_disabled")
            refused = await on.http.post(execute, json={}, headers=bearer(sub="nobody"))
            assert "OPSJOBS_JWT_NAME_CLAIM" in problem(refused, 403, "user_unknown")["detail"]


async def test_resuming_starts_work_and_is_confirmed(database: Database) -> None:
    with platform_services(V3) as platform:
        async with api_with_user_service(database, platform) as on:
            running = (await on.http.post(await a_job(on), json={})).json()["id"]
            await on.http.post(f"/executions/{running}/pause", json={})
            for name, more in (("ben", {"is_active": False}), ("eve", {"role": "viewer"})):
                platform.users[name] = {**ADA, "id": name, **more}
            resume = f"/executions/{running}/resume"
            refused = await on.http.post(resume, headers=bearer(sub="ben"))
            problem(refused, 403, "user_disabled")
            refused = await on.http.post(resume, headers=bearer(sub="eve"))
            problem(refused, 403, "forbidden")
            platform.users["ada"] = ADA
            assert (await on.http.post(resume, headers=bearer())).status_code == 200


async def test_an_answer_is_cached_for_a_short_time_and_never_asked_for_our_own_identities(
    database: Database,
) -> None:
    with platform_services(V3) as platform:
        async with api_with_user_service(database, platform) as on:
            execute = await a_job(on)
            platform.users["ada"] = ADA
            for _ in range(3):
                assert (await on.http.post(execute, json={}, headers=bearer())).status_code == 202
            assert len(platform.calls) == 1
            assert (await on.http.post(execute, json={})).status_code == 202
            assert len(platform.calls) == 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_it_cannot_be_asked_nothing_is_launched_and_all_can_be_stopped(
    fault: str, database: Database
) -> None:
    more = {"OPSJOBS_SERVICE_TIMEOUT": "0.5"} if fault == "slow" else {}
    with platform_services(V3) as platform:
        async with api_with_user_service(database, platform, **more) as on:
            execute = await a_job(on)
            running = (await on.http.post(execute, json={})).json()["id"]
            platform.users["ada"], platform.faults["user"] = ADA, fault
            refused = await on.http.post(execute, json={}, headers=bearer())
            told = problem(refused, 503, "unavailable")
            assert "The User Service does not answer" in told["detail"]
            assert "127.0.0.1" not in refused.text
            rows = await database.fetch("select count(*) as n from job_executions")
            assert rows[0]["n"] == 1
            assert (await on.http.get("/jobs", headers=bearer())).status_code == 200
            paused = await on.http.post(f"/executions/{running}/pause", json={}, headers=bearer())
            assert paused.status_code == 200
            resumed = await on.http.post(f"/executions/{running}/resume", headers=bearer())
            assert (
                "The User Service does not answer" in problem(resumed, 503, "unavailable")["detail"]
            )
            cancelled = await on.http.post(
                f"/executions/{running}/cancel", json={}, headers=bearer()
            )
            assert cancelled.status_code == 202
            (shown,) = on.services.integrations.statuses()
            assert shown.state in ("failing", "open")
            assert str(shown.last_error).startswith("the User Service at 127.0.0.1:")


@asynccontextmanager
async def users_of(
    database: Database, platform: PlatformServices, clock: TurnedClock
) -> AsyncIterator[PlatformUsers]:
    settings = load({"USER_SERVICE_URL": platform.url("user"), "OPSJOBS_SERVICE_TIMEOUT": "10"})
    integrations = build_integrations(settings, clock, Metrics())
    known = IdentityStore(database)
    await known.remember(None, Principal.of_role("ada", "operator", "external", person="ada"))
    try:
        yield build_platform_users(settings, integrations, known, clock)
    finally:
        await integrations.close()


async def test_a_firing_of_a_disabled_owner_pauses_its_schedule(database: Database) -> None:
    on, clock = ScheduleHarness(database), TurnedClock()
    schedule = await on.schedule(await on.job())
    await on.schedules.pause(schedule.id)
    await on.schedules.resume(schedule.id, owner=Identity("external", "ada"))
    with platform_services(V3) as platform:
        async with users_of(database, platform, clock) as users:
            scheduler = on.scheduler(current_principal=users.current_principal)
            # Down: the firing waits, and nothing is lost.
            platform.users["ada"], platform.faults["user"] = ADA, "500"
            await on.turn(seconds=60)
            await scheduler.run_once()
            (row,) = await on.rows(schedule)
            assert (row["status"], row["execution_id"]) == ("pending", None)
            platform.faults.clear()
            clock.turn(60)
            await on.turn(seconds=20)
            await scheduler.run_once()
            (row,) = await on.rows(schedule)
            assert row["status"] == "triggered"
            await on.finish()
            # Unknown: skipped, and the schedule continues.
            del platform.users["ada"]
            clock.turn(31)
            await on.turn(seconds=60)
            await scheduler.run_once()
            last = (await on.told(schedule))[0]
            assert (last["status"], last["rule"]) == ("skipped", "owner")
            assert "does not know ada" in last["reason"]
            assert (await on.schedules.get(schedule.id)).enabled
            # Disabled: skipped, and paused.
            platform.users["ada"] = {**ADA, "is_active": False}
            clock.turn(31)
            await on.turn(seconds=60)
            await scheduler.run_once()
            assert not (await on.schedules.get(schedule.id)).enabled


async def later(clock: TurnedClock) -> None:
    """Move past the lifetime of cached answers."""
    clock.turn(31)
    for _ in range(5):  # the timers of the cache run on the loop
        await asyncio.sleep(0)


async def test_a_service_that_acts_for_a_user_is_confirmed_for_that_user(
    database: Database,
) -> None:
    clock = TurnedClock()
    portal = Principal.of_role("portal/external/ada", "operator", "service")
    with platform_services(V3) as platform:
        async with users_of(database, platform, clock) as users:
            platform.users["ada"] = ADA
            assert (await users.confirm(portal)).has_permission("jobs:execute")
            platform.users["ada"] = {**ADA, "role": "viewer"}
            await later(clock)
            assert not (await users.confirm(portal)).has_permission("jobs:execute")
            platform.users["ada"] = {**ADA, "role": {"not": "a role"}}
            await later(clock)
            with pytest.raises(Unavailable):
                await users.confirm(portal)
            platform.users["ada"] = {**ADA, "is_active": False}
            await later(clock)
            with pytest.raises(Forbidden):
                await users.confirm(portal)


async def test_what_a_disabled_user_made_starts_nothing_more(database: Database) -> None:
    clock, known = TurnedClock(), IdentityStore(database)
    ada = Principal.of_role("ada", "operator", "external", person="ada")
    with platform_services(V3) as platform:
        async with users_of(database, platform, clock) as users:
            platform.users["ada"] = ADA
            await known.issue_key(NewKey("ci", [role_grant("operator")]), None, ada)
            key = await known.current_principal(Identity("api_key", "ci"))
            assert key is not None
            # A service that was registered with that key.
            await known.services.create("bot", "", [role_grant("operator")], by=key)
            bot = await known.current_principal(Identity("service", "bot"))
            assert bot is not None
            for one in (key, bot):
                assert (await users.confirm(one)).has_permission("jobs:execute")
            platform.users["ada"] = {**ADA, "is_active": False}
            await later(clock)
            for one in (key, bot):
                with pytest.raises(Forbidden) as caught:
                    await users.confirm(one)
                assert caught.value.code == "user_disabled"
                assert await users.current_principal(one.identity) is None
