"""Point 8: who wrote what will run does not approve it: the author of a job's version, of its steps, of the schedule that fires it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from api.kit import problem
from opsjobs.model.identity import Identity
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.transaction import Database
from security.app_with_approvers import Stage, stage

BODY: dict[str, Any] = {
    "name": "restart-web",
    "actions": [{"type": "command", "command": "uptime"}],
    "targets": {"ids": ["web-1"]},
    "policy": {"approval": {"approvers": 1}},
}
CRON: dict[str, Any] = {"name": "nightly", "type": "cron", "cron": "0 3 * * *"}
Who = Mapping[str, str]


async def made(at: Stage, by: Who, path: str = "/jobs", **fields: Any) -> int:
    """The id of what somebody has made; without more fields the job."""
    answer = await at.http.post(path, json=fields or BODY, headers=by)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def decided(at: Stage, execution: Mapping[str, Any], by: Who, **body: Any) -> Any:
    """The answer to somebody's approval of the execution."""
    return await at.http.post(
        f"/approvals/{execution['waiting_on']['approval']}/approve", json=body, headers=by
    )


async def test_the_author_of_the_version_that_runs_does_not_approve_it(
    database: Database,
) -> None:
    async with stage(database) as at:
        job = await made(at, at.eve)
        changed = {**BODY, "actions": [{"type": "command", "command": "reboot"}]}
        assert (
            await at.http.put(f"/jobs/{job}", json=changed, headers={**at.ben, "If-Match": "*"})
        ).status_code == 200
        execution = await at.execute(job)
        await at.http.put(f"/jobs/{job}", json=BODY, headers={**at.eve, "If-Match": "*"})
        shown = (await at.http.get(f"/approvals/{execution['waiting_on']['approval']}")).json()
        assert shown["would_run"]["authors"] == [
            {"name": "ben", "wrote": "version 2 of the job restart-web"}
        ]
        told = problem(await decided(at, execution, at.ben), 403, "author_approval")
        assert "ben wrote version 2 of the job restart-web" in told["detail"]
        assert "override_safety" in told["detail"]
        assert (await decided(at, execution, at.eve)).json()["status"] == "approved", (
            "of another version"
        )
        again = await at.execute(job)
        rejected = await at.http.post(
            f"/approvals/{again['waiting_on']['approval']}/reject", json={}, headers=at.eve
        )
        assert rejected.json()["status"] == "rejected", "one's own work may be rejected"


async def test_where_that_leaves_nobody_an_override_with_a_reason_passes(
    database: Database,
) -> None:
    async with stage(database) as at:
        execution = (
            await at.http.post(f"/jobs/{await made(at, at.ada)}/execute", json={}, headers=at.ben)
        ).json()
        problem(await decided(at, execution, at.ada), 403, "author_approval")
        passed = await decided(at, execution, at.ada, override_safety=True, reason="alone on call")
        assert passed.json()["status"] == "approved"
        assert await at.audited() == [("ada", "approval.overridden", "alone on call")]


@pytest.mark.parametrize("role", ["creator", "changer"])
async def test_who_made_or_changed_the_schedule_does_not_approve_what_it_fires(
    database: Database, role: str
) -> None:
    async with stage(database) as at:
        job = await made(at, at.ada)
        cara = {
            "Authorization": f"Bearer {await at.services.identities.create_key('cara', 'manager')}"
        }
        schedule = await made(at, at.ben, f"/jobs/{job}/schedules", **CRON)
        changed = await at.http.put(
            f"/schedules/{schedule}",
            json={**CRON, "cron": "0 4 * * *"},
            headers={**at.eve, "If-Match": "*"},
        )
        assert changed.status_code == 200, changed.text
        execution = (
            await at.http.post(f"/schedules/{schedule}/trigger", json={}, headers=at.ada)
        ).json()
        told = problem(
            await decided(at, execution, at.ben if role == "creator" else at.eve),
            403,
            "author_approval",
        )
        assert "wrote the schedule nightly" in told["detail"]
        assert (await decided(at, execution, cara)).json()["status"] == "approved"


async def test_who_wrote_a_job_that_runs_as_a_step_does_not_approve_the_whole(
    database: Database,
) -> None:
    async with stage(database) as at:
        await made(at, at.ben, **{**BODY, "name": "innermost"})
        steps = {"actions": [{"type": "job", "job": "innermost"}]}
        await made(at, at.ada, **{**BODY, "name": "inner", **steps})
        job = await made(
            at, at.ada, **{**BODY, "name": "outer", "actions": [{"type": "job", "job": "inner"}]}
        )
        execution = await at.execute(job)
        told = problem(await decided(at, execution, at.ben), 403, "author_approval")
        assert "version 1 of the job innermost" in told["detail"]
        assert (await decided(at, execution, at.eve)).json()["status"] == "approved"


async def test_a_retry_is_of_the_same_author(database: Database) -> None:
    async with stage(database) as at:
        first = await at.execute(await made(at, at.ben))
        await at.http.post(f"/executions/{first['id']}/cancel")
        again = (
            await at.http.post(f"/executions/{first['id']}/retry", json={"which": "unsuccessful"})
        ).json()
        problem(await decided(at, again, at.ben), 403, "author_approval")
        assert (await decided(at, again, at.eve)).json()["status"] == "approved"


async def test_an_author_is_a_person_whatever_key_he_holds(database: Database) -> None:
    async with stage(database) as at:
        for name in ("mallory", "zoe"):
            await at.services.identities.users.create(
                name, "hash", [{"role": "manager", "permissions": [], "scope": ""}]
            )

        async def key(name: str, **fields: Any) -> dict[str, str]:
            answer = await at.http.post(
                "/api-keys", json={"name": name, "role": "manager", **fields}
            )
            return {"Authorization": f"Bearer {answer.json()['token']}"}

        laptop, tower, zoes = (
            await key("laptop", person="mallory"),
            await key("tower", person="mallory"),
            await key("z", person="zoe"),
        )
        execution = (
            await at.http.post(f"/jobs/{await made(at, laptop)}/execute", json={}, headers=at.ben)
        ).json()
        problem(await decided(at, execution, tower), 403, "author_approval")
        problem(
            await decided(at, execution, await key("whose")), 403, "self_approval"
        )  # it may be ben's
        assert (await decided(at, execution, zoes)).json()["status"] == "approved"


async def test_what_a_release_before_has_stored_is_of_whoever_has_its_authors_name(
    database: Database,
) -> None:
    async with stage(database) as at:
        job = await made(at, at.ben)
        await made(at, at.eve, f"/jobs/{job}/schedules", **CRON)
        await database.fetch("update job_versions set author = null returning 1")
        await database.fetch("update job_schedules set authors = null returning 1")
        execution = (await at.http.post("/schedules/1/trigger", json={})).json()
        for author in (at.ben, at.eve):
            problem(await decided(at, execution, author), 403, "author_approval")


async def test_a_key_made_without_a_person_is_of_who_made_it_and_is_not_anybodys(
    database: Database,
) -> None:
    """Known to be zoe's: it neither approves what zoe wrote, nor is refused as a key that may be anybody's is."""
    async with stage(database) as at:
        await at.services.identities.users.create(
            "zoe", "hash", [{"role": "admin", "permissions": [], "scope": ""}]
        )
        zoe = await at.services.identities.current_principal(Identity("user", "zoe"))
        issued = await at.services.identities.issue_key(
            NewKey("zoes", [role_grant("admin")]), None, zoe
        )
        zoes = {"Authorization": f"Bearer {issued[1]}"}
        second = (
            await at.http.post(
                "/api-keys", json={"name": "second", "role": "manager"}, headers=zoes
            )
        ).json()
        hers = {"Authorization": f"Bearer {second['token']}"}
        assert (await at.http.get("/auth/me", headers=hers)).json()["person"] == "zoe"
        execution = await at.execute(await made(at, zoes))
        problem(await decided(at, execution, hers), 403, "author_approval")
        other = (
            await at.http.post(
                f"/jobs/{await made(at, at.ben, **{**BODY, 'name': 'other'})}/execute", json={}
            )
        ).json()
        assert (await decided(at, other, hers)).json()["status"] == "approved"
