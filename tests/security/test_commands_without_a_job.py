"""Point 4: jobs:execute launches stored jobs; commands without one take commands:run."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from api.kit import api_client, problem
from kit.platform_services import V3, platform_services
from kit.token_issuer import SECRET, good, signed
from opsjobs.model.access import EVERYTHING, Principal, permissions_of
from opsjobs.model.secret import Secret
from opsjobs.model.token_claims import ClaimRules, external
from opsjobs.settings import IdentitySettings
from opsjobs.store.transaction import Database
from security.test_user_service import api_with_user_service, bearer
from security.two_scopes import FOREIGN, STAGING, ScopedApp, principal_with, scoped_app

ACTIONS = [{"type": "command", "command": "uptime"}]
READS = ("jobs:read", "targets:read", "executions:read")
ACTS = ("executions:retry", "dead_letters:manage")
RETRY = {"which": "unsuccessful"}
STRICT = ClaimRules(execute_runs_commands=False)


def holder(name: str, *permissions: str) -> Principal:
    """A caller who sees everything, retries and revives, and holds these permissions beside."""
    return principal_with(name, *((one, "") for one in (*READS, *ACTS, *permissions)))


def command(env: str) -> dict[str, Any]:
    """A body of POST /run."""
    return {"actions": ACTIONS, "targets": {"selector": f"env={env}"}}


async def ended(app: ScopedApp) -> int:
    """The id of an execution without a job that was cancelled, and whose run is a dead letter."""
    execution = int((await app.made("/run", command(STAGING)))["id"])
    cancelled = await app.http.post(f"/executions/{execution}/cancel")
    assert cancelled.status_code == 202, cancelled.text
    await app.services.database.fetch(
        "update target_runs set status = 'lost' where execution_id = %s returning id", [execution]
    )
    return execution


async def test_a_holder_of_jobs_execute_launches_stored_jobs_and_nothing_else(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        lea = app.admit(holder("lea", "jobs:execute"))
        without_job, of_job = await ended(app), app.things["execution", STAGING]

        async def launched() -> list[int]:
            rows = await database.fetch("select id from job_executions where job_id is null")
            return [row["id"] for row in rows]

        job = app.things["job", STAGING]
        done = await app.http.post(f"/jobs/{job}/execute", json={}, headers=lea)
        assert done.status_code == 202, done.text
        for more in ({}, {"dry_run": True}, {"actions": [{"type": "job", "job": job}]}):
            body = command(STAGING) | more
            refused = problem(await app.http.post("/run", json=body, headers=lea), 403, "forbidden")
            assert refused["detail"] == (
                "lea (roles: none) does not hold commands:run: lea may launch stored jobs, but no "
                "other commands. Launch a job (POST /jobs/{id}/execute), or ask an administrator "
                "for commands:run."
            )
        # A retry runs the same commands again, and is a launch of them.
        for more in ({}, {"dry_run": True}):
            path = f"/executions/{without_job}/retry"
            refused = problem(
                await app.http.post(path, json=RETRY | more, headers=lea), 403, "forbidden"
            )
            assert "does not hold commands:run" in refused["detail"]
        for execution, offered in ((without_job, False), (of_job, True)):
            shown = (await app.http.get(f"/executions/{execution}", headers=lea)).json()
            assert ("retry" in shown["can"]) is offered
            assert "retry" not in shown["cannot"]
        revive = "/dead-letters/revive"
        for chosen in ({}, {"execution": without_job}):
            refused = problem(
                await app.http.post(revive, json={"filter": chosen}, headers=lea), 403, "forbidden"
            )
            assert refused["detail"] == (
                "Dead letters of executions without a job, such as those of execution "
                f"{without_job}, take commands:run, which you do not hold. Filter by a job, or ask "
                "an administrator."
            )
        assert await launched() == [without_job]
        revived = await app.http.post(revive, json={"filter": {"job": job}}, headers=lea)
        assert revived.status_code == 202, revived.text
        assert len(revived.json()["executions"]) == 1


async def test_a_holder_of_commands_run_runs_them_again_and_launches_no_job(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ops = app.admit(principal_with("ops", *((one, "") for one in (*ACTS, "commands:run"))))
        body = {"actions": ACTIONS, "targets": {"ids": [app.things["target", STAGING]]}}
        made = await app.http.post("/run", json=body, headers=ops)
        assert made.status_code == 202, made.text
        execution = made.json()["id"]
        # What it launched is in its sight, without executions:read, and nothing else is.
        listed = (await app.http.get("/executions", headers=ops)).json()["items"]
        assert [one["id"] for one in listed] == [execution]
        assert (await app.http.post(f"/executions/{execution}/cancel")).status_code == 202
        shown = (await app.http.get(f"/executions/{execution}", headers=ops)).json()
        assert "retry" in shown["can"]
        again = await app.http.post(f"/executions/{execution}/retry", json=RETRY, headers=ops)
        assert again.status_code == 202, again.text
        job, path = app.things["job", STAGING], f"/executions/{app.things['execution', STAGING]}"
        seer = app.admit(holder("seer", "commands:run"))
        refused = problem(
            await app.http.post(f"/jobs/{job}/execute", json={}, headers=seer), 403, "forbidden"
        )
        assert "does not hold jobs:execute. Ask an administrator." in refused["detail"]
        step = {"actions": [{"type": "job", "job": job}]}
        refused = problem(
            await app.http.post("/run", json=body | step, headers=seer), 403, "forbidden"
        )
        assert "does not hold jobs:execute" in refused["detail"]
        problem(await app.http.post(f"{path}/retry", json=RETRY, headers=seer), 403, "forbidden")
        letters = {"filter": {"job": job}}
        refused = problem(
            await app.http.post("/dead-letters/revive", json=letters, headers=seer),
            403,
            "forbidden",
        )
        assert "Dead letters of jobs" in refused["detail"]
        neither = app.admit(holder("neither"))
        refused = problem(
            await app.http.post("/dead-letters/revive", json=letters, headers=neither),
            403,
            "forbidden",
        )
        assert "does not hold jobs:execute" in refused["detail"]


async def test_commands_run_only_in_the_scope_of_their_own_permission(database: Database) -> None:
    async with scoped_app(database) as app:
        grants = (("jobs:execute", ""), ("commands:run", "env=staging"), ("targets:read", ""))
        lea = app.admit(principal_with("lea", *grants, ("jobs:read", "")))
        inside = await app.http.post("/run", json=command(STAGING), headers=lea)
        assert inside.status_code == 202, inside.text
        refused = problem(
            await app.http.post("/run", json=command(FOREIGN), headers=lea), 403, "out_of_reach"
        )
        assert "outside of the scope in which you hold commands:run" in refused["detail"]
        job = app.things["job", FOREIGN]
        launched = await app.http.post(f"/jobs/{job}/execute", json={}, headers=lea)
        assert launched.status_code == 202, launched.text
        for ad_hoc, refusals in ((False, 0), (True, 1)):
            body = {"targets": {"selector": "env=foreign"}, "ad_hoc": ad_hoc}
            found = await app.http.post("/targets/resolve", json=body, headers=lea)
            assert found.status_code == 200, found.text
            assert len(found.json()["refusals"]) == refusals, ad_hoc


async def test_a_job_among_the_commands_takes_jobs_execute_in_its_own_scope(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        own, foreign = app.things["job", STAGING], app.things["job", FOREIGN]
        name = (await app.http.get(f"/jobs/{foreign}")).json()["name"]
        reads = (("targets:read", ""), ("jobs:read", "env=staging"))

        async def run(job: str, who: dict[str, str], **more: Any) -> httpx2.Response:
            body = command(STAGING) | {"actions": [{"type": "job", "job": job}]} | more
            return await app.http.post("/run", json=body, headers=who)

        kim = app.admit(
            principal_with("kim", ("commands:run", ""), ("jobs:execute", "env=staging"), *reads)
        )
        for more in ({}, {"dry_run": True}):
            missing = problem(await run("no-such-job", kim, **more), 422, "unknown_job")
            for job in (foreign, name):
                refused = problem(await run(job, kim, **more), 422, "unknown_job")
                assert refused["detail"].replace(job, "no-such-job") == missing["detail"]
                assert [one["pointer"] for one in refused["errors"]] == ["/actions/0/job"]
        inside = await run(own, kim)
        assert inside.status_code == 202, inside.text
        lou = app.admit(
            principal_with("lou", ("commands:run", "env=staging"), ("jobs:execute", ""), *reads)
        )
        for job in (own, foreign, name):
            launched = await run(job, lou)
            assert launched.status_code == 202, launched.text
        outside = await run(own, lou, targets={"selector": f"env={FOREIGN}"})
        problem(outside, 403, "out_of_reach")


async def test_a_key_has_the_permissions_that_it_lists_and_no_other(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/targets", json={"name": "web-1", "host": "192.0.2.1"})
        body = {"actions": ACTIONS, "targets": {"ids": ["web-1"]}}
        for permissions, status in (
            (["jobs:execute"], 403),
            (["run_commands"], 202),
            (["jobs:execute", "commands:run"], 202),
        ):
            key = {"name": f"ci-{status}-{len(permissions)}", "permissions": permissions}
            made = await ada.http.post("/api-keys", json=key)
            assert made.status_code == 201, made.text
            headers = {"Authorization": f"Bearer {made.json()['token']}"}
            assert (await ada.http.post("/run", json=body, headers=headers)).status_code == status
            me = (await ada.http.get("/auth/me", headers=headers)).json()
            assert ("commands:run" in me["permissions"]) is (status == 202)


@pytest.mark.parametrize(
    ("claims", "by_default", "strictly"),
    [
        # A platform that does not know our permissions cannot name commands:run.
        ({"permissions": ["jobs:execute"]}, [""], []),
        ({"permissions": "read_jobs execute_jobs"}, [""], []),
        ({"permissions": ["jobs:execute"], "scope_labels": "env=dev"}, ["env=dev"], []),
        ({"permissions": ["jobs:execute", "commands:run"]}, [""], [""]),
        ({"permissions": ["*"]}, [""], [""]),
        ({"permissions": ["jobs:read", "executions:retry"]}, [], []),
        ({"roles": ["operator"]}, [""], [""]),
        ({"roles": ["viewer"]}, [], []),
        # Grants in our own form are as they are written.
        ({"opsjobs_grants": [{"permissions": ["jobs:execute"]}]}, [], []),
        ({"opsjobs_grants": [{"permissions": ["commands:run"], "scope": "a=b"}]}, ["a=b"], ["a=b"]),
    ],
)
def test_a_platform_names_the_permission_or_leaves_it_to_jobs_execute(
    claims: dict[str, Any], by_default: list[str], strictly: list[str]
) -> None:
    for rules, scopes in ((ClaimRules(), by_default), (STRICT, strictly)):
        held = external({"sub": "ada", **claims}, rules).reach("commands:run").scopes
        texts = [",".join(f"{r.key}={r.values[0]}" for r in scope.requirements) for scope in held]
        assert texts == scopes


@pytest.mark.parametrize("covers", [True, False])
async def test_a_token_of_the_platform_is_read_as_the_setting_says(
    database: Database, covers: bool
) -> None:
    identity = IdentitySettings(jwt_secret_key=Secret(SECRET), jwt_execute_runs_commands=covers)
    async with api_client(database, identity=identity) as ada:
        await ada.http.post("/targets", json={"name": "web-1", "host": "192.0.2.1"})
        body = {"actions": ACTIONS, "targets": {"ids": ["web-1"]}}
        for permissions, runs in ((["jobs:execute"], covers), (["execute_jobs", "*"], True)):
            claims = good(iss=None, aud=None, roles=None, permissions=permissions)
            headers = {"Authorization": f"Bearer {signed(claims)}"}
            answer = await ada.http.post("/run", json=body, headers=headers)
            assert answer.status_code == (202 if runs else 403), answer.text


@pytest.mark.parametrize("covers", ["on", "off"])
async def test_the_user_service_confirms_the_right_to_run_commands(
    database: Database, covers: str
) -> None:
    setting = {"OPSJOBS_JWT_EXECUTE_RUNS_COMMANDS": covers}
    with platform_services(V3) as platform:
        async with api_with_user_service(database, platform, **setting) as on:
            await on.http.post("/targets", json={"name": "web-1", "host": "192.0.2.1"})
            body = {"actions": ACTIONS, "targets": {"ids": ["web-1"]}}
            for name, answered, status in (
                ("ada", {"role": "operator"}, 202),
                ("ben", {"permissions": ["jobs:execute"]}, 202 if covers == "on" else 403),
                ("eve", {"role": "viewer"}, 403),
                ("dan", {"role": "operator", "is_active": False}, 403),
            ):
                user = {"id": name, "username": name, "is_active": True}
                platform.users[name] = user | answered
                headers = bearer(sub=name)
                answer = await on.http.post("/run", json=body, headers=headers)
                assert answer.status_code == status, answer.text


def test_the_roles_that_launch_also_run_commands() -> None:
    for role in ("operator", "developer", "manager"):
        assert {"jobs:execute", "commands:run"} <= permissions_of(role)
    assert EVERYTHING in permissions_of("admin")
    assert "commands:run" not in permissions_of("viewer")
