"""Point 5: rights are checked again when a schedule fires, and when a workflow runs a job.

An owner that no longer exists pauses the schedule.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.kit import api_client, job
from engine.harness import harness
from engine.test_transfers import stored, web
from kit.schedule_fixtures import ScheduleHarness
from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.model.access import Principal, Scope
from opsjobs.model.action import FileTransferAction, JobAction
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import JobDraft, LaunchOrder
from opsjobs.model.policy import Policy
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import TargetDraft
from opsjobs.store.transaction import Database
from security.two_scopes import principal_with, scoped_app

STAGING = Scope.parse("env=staging")


def lookup_of(*principals: Principal) -> PrincipalLookup:
    """Return a look-up that finds only these."""

    async def current_principal(identity: Identity) -> Principal | None:
        return next((p for p in principals if p.identity == identity), None)

    return current_principal


async def test_an_owner_who_is_gone_pauses_the_schedule_and_its_moments_are_on_record(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), overlap="allow")
    # There is another ada, a user: a name and its kind together are an identity.
    scheduler = on.scheduler(current_principal=lookup_of(Principal.of_role("ada", "admin", "user")))
    for _ in range(2):
        await on.turn(seconds=60)
        await scheduler.run_once()
    second, first = await on.told(schedule)
    gone = "ada (an API key) is gone, disabled or expired, and nothing is launched in that name"
    assert (first["status"], first["rule"]) == ("skipped", "owner")
    assert first["reason"] == f"ada may not execute the job nightly: {gone}"
    assert (second["status"], second["rule"]) == ("skipped", "paused")
    assert "its owner ada is gone, disabled or expired" in second["reason"]
    paused = await on.schedules.get(schedule.id)
    assert (paused.enabled, paused.owner) == (False, Identity("api_key", "ada"))
    assert "the caller who resumes it becomes its owner" in (paused.paused_reason or "")
    assert await on.events() == [
        "schedule.created",
        "schedule.skipped",
        "schedule.updated",
        "schedule.skipped",
    ]


async def test_whoever_resumes_it_owns_it_and_it_is_launched_with_his_rights(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), overlap="allow")
    await on.schedules.pause(schedule.id)
    mine = await on.schedules.resume(schedule.id, owner=Identity("user", "ben"))
    assert (mine.owner, mine.enabled) == (Identity("user", "ben"), True)
    await on.turn(seconds=60)
    await on.scheduler(
        current_principal=lookup_of(Principal.of_role("ben", "operator", "user"))
    ).run_once()
    (row,) = await on.told(schedule)
    assert row["status"] == "triggered"
    (spec,) = await database.fetch("select requested_by, requested_by_kind from execution_specs")
    assert spec == {"requested_by": "ben", "requested_by_kind": "user"}


@pytest.mark.parametrize(
    ("job_env", "target_env", "words"),
    [
        ("staging", "staging", None),
        (
            "prod",
            "staging",
            "The job nightly lies outside of the scope in which you hold jobs:execute: env=staging.",
        ),
        ("staging", "prod", "What is selected is out of your reach, or there is no such thing"),
    ],
)
async def test_an_owner_with_a_scope_launches_what_lies_inside(
    database: Database, job_env: str, target_env: str, words: str | None
) -> None:
    on = ScheduleHarness(database)
    await on.inventory.create(
        TargetDraft(name="web-1", host="10.0.0.1", labels={"env": target_env})
    )
    schedule = await on.schedule(await on.job(tags=[f"env={job_env}"]))
    await on.turn(seconds=60)
    scheduler = on.scheduler(
        current_principal=lookup_of(Principal.of_role("ada", "operator", "api_key", scope=STAGING))
    )
    await scheduler.run_once()
    (row,) = await on.told(schedule)
    if words is None:
        assert row["status"] == "triggered"
        (spec,) = await database.fetch("select labels from execution_specs")
        assert spec["labels"] == {"env": "staging"}
    else:
        assert (row["status"], row["rule"]) == ("skipped", "owner")
        assert words in row["reason"]
        assert (await on.schedules.get(schedule.id)).enabled


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (None, "ada (an API key) is gone, disabled or expired"),
        (Principal.of_role("ada", "viewer", "api_key"), "ada no longer holds jobs:execute"),
        (
            Principal.of_role("ada", "admin", "api_key", scope=STAGING),
            "The job restart lies outside of the scope",
        ),
    ],
)
async def test_a_workflow_runs_no_job_that_its_requester_may_not_run_by_now(
    database: Database, now: Principal | None, words: str
) -> None:
    async with harness(database) as on:
        on.current_principal = lookup_of(*([now] if now is not None else []))
        async with on.worker():
            on.machine("web-1")
            draft = {"name": "restart", "tags": ["env=prod"], "actions": [{"command": "uptime"}]}
            await on.jobs.create(JobDraft.model_validate(draft), by="ada")
            execution = await on.ended(await on.launch([JobAction(key="run", job="restart")]))
            row = await on.row(execution)
            assert row["status"] == "failed"
            assert words in row["error_message"]
            assert (
                await database.fetch("select from execution_specs where parent_id is not null")
                == []
            )


async def test_the_author_of_a_schedule_is_kept_with_his_kind(database: Database) -> None:
    async with api_client(database) as ada:
        made = (await ada.http.post("/jobs", json=job())).json()
        body = {
            "name": "nightly",
            "type": "cron",
            "cron": "30 2 * * *",
            "timezone": "Europe/Berlin",
        }
        schedule = (await ada.http.post(f"/jobs/{made['id']}/schedules", json=body)).json()
        assert (schedule["owner"], schedule["owner_kind"]) == ("ada", "api_key")
        path = f"/schedules/{schedule['id']}"
        # Her key is deleted while the schedule is paused: ben, who resumes it, owns it.
        ben = await ada.token_of("operator")
        assert (await ada.http.post(f"{path}/pause", headers=ben)).json()["owner"] == "ada"
        assert (await ada.http.post(f"{path}/resume", headers=ben)).json()["owner"] == "ada"
        (key,) = (await ada.http.get("/api-keys?name=ada")).json()["items"]
        assert (await ada.http.delete(f"/api-keys/{key['id']}")).status_code == 204
        taken = (await ada.http.post(f"{path}/resume", headers=ben)).json()
        assert (taken["owner"], taken["enabled"]) == ("ben-operator", True)


@pytest.mark.parametrize(
    ("now", "brought"),
    [
        (Principal.of_role("ben", "viewer", "user"), True),
        (Principal.of_role("ben", "admin", "user", scope=STAGING), False),
        (None, False),
    ],
)
async def test_a_file_that_a_value_names_is_brought_where_its_requester_may_see_it(
    database: Database, now: Principal | None, brought: bool
) -> None:
    async with harness(database) as on:
        on.current_principal = lookup_of(*([now] if now is not None else []))
        async with on.worker():
            machine = web(on)
            adas = await stored(on, b"secret")
            put = FileTransferAction(
                key="put", direction="upload", source="${file}", destination="/etc/app.conf"
            )
            order = LaunchOrder(
                [put],
                SelectionDraft(ids=["web-1"]),
                Policy(durable="off"),
                "ad-hoc",
                parameters={"file": str(adas.id)},
            )
            launched = await on.launcher.launch(
                order, triggered_by=TriggeredBy.API, requested_by=Identity("user", "ben")
            )
            assert launched.execution is not None
            row = await on.row(await on.ended(launched.execution))
            assert (row["status"], "/etc/app.conf" in machine.found) == (
                ("succeeded", True) if brought else ("failed", False)
            )
            if not brought:
                assert f"There is no file {adas.id}." in row["error_message"]


async def test_the_owner_of_a_schedule_is_who_does_not_approve_its_launches(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    await on.schedule(await on.job(policy={"approval": {"approvers": 1}}))
    await on.turn(seconds=60)
    key = replace(Principal.of_role("ada", "operator", "api_key"), person="ada-the-person")
    await on.scheduler(current_principal=lookup_of(key)).run_once()
    (spec,) = await database.fetch("select requester from execution_specs")
    assert spec["requester"] == {"name": "ada", "kind": "api_key", "person": "ada-the-person"}


async def test_what_a_platform_token_said_is_kept_where_it_comes_to_own_something(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        eve = app.admit(principal_with("eve", ("operator", ""), kind="external"))
        assert await app.services.identities.external_people.find("eve") is None
        await app.schedule(app.things["job", "staging"], "eves", headers=eve)
        kept = await app.services.identities.external_people.find("eve")
        assert kept is not None
        assert kept.has_permission("jobs:execute")
