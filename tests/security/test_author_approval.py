"""Point 8: authors do not approve what they wrote.

They are authors of a job's version, of its steps, and of the schedule that fires it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from api.kit import problem
from opsjobs.model.identity import Identity
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.transaction import Database
from security.app_with_approvers import AppWithApprovers, app_with_approvers

BODY: dict[str, Any] = {
    "name": "restart-web",
    "actions": [{"type": "command", "command": "uptime"}],
    "targets": {"ids": ["web-1"]},
    "policy": {"approval": {"approvers": 1}},
}
CRON: dict[str, Any] = {"name": "nightly", "type": "cron", "cron": "0 3 * * *"}
Who = Mapping[str, str]


async def made(app: AppWithApprovers, by: Who, path: str = "/jobs", **fields: Any) -> int:
    """Create an object as this user; return its id. Without more fields, it is the job."""
    answer = await app.http.post(path, json=fields or BODY, headers=by)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def decided(app: AppWithApprovers, execution: Mapping[str, Any], by: Who, **body: Any) -> Any:
    """Return the response to this user's approval of the execution."""
    return await app.http.post(
        f"/approvals/{execution['waiting_on']['approval']}/approve", json=body, headers=by
    )


async def test_the_author_of_the_version_that_runs_does_not_approve_it(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        job = await made(app, app.eve)
        changed = {**BODY, "actions": [{"type": "command", "command": "reboot"}]}
        assert (
            await app.http.put(f"/jobs/{job}", json=changed, headers={**app.ben, "If-Match": "*"})
        ).status_code == 200
        execution = await app.execute(job)
        await app.http.put(f"/jobs/{job}", json=BODY, headers={**app.eve, "If-Match": "*"})
        shown = (await app.http.get(f"/approvals/{execution['waiting_on']['approval']}")).json()
        assert shown["would_run"]["authors"] == [
            {"name": "ben", "wrote": "version 2 of the job restart-web"}
        ]
        told = problem(await decided(app, execution, app.ben), 403, "author_approval")
        assert "ben wrote version 2 of the job restart-web" in told["detail"]
        assert "override_safety" in told["detail"]
        assert (await decided(app, execution, app.eve)).json()["status"] == "approved", (
            "of another version"
        )
        again = await app.execute(job)
        rejected = await app.http.post(
            f"/approvals/{again['waiting_on']['approval']}/reject", json={}, headers=app.eve
        )
        assert rejected.json()["status"] == "rejected", "one's own work may be rejected"


async def test_where_that_leaves_nobody_an_override_with_a_reason_passes(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        execution = (
            await app.http.post(
                f"/jobs/{await made(app, app.ada)}/execute", json={}, headers=app.ben
            )
        ).json()
        problem(await decided(app, execution, app.ada), 403, "author_approval")
        passed = await decided(
            app, execution, app.ada, override_safety=True, reason="alone on call"
        )
        assert passed.json()["status"] == "approved"
        assert await app.audited() == [("ada", "approval.overridden", "alone on call")]


@pytest.mark.parametrize("role", ["creator", "changer"])
async def test_who_made_or_changed_the_schedule_does_not_approve_what_it_fires(
    database: Database, role: str
) -> None:
    async with app_with_approvers(database) as app:
        job = await made(app, app.ada)
        cara = {
            "Authorization": f"Bearer {await app.services.identities.create_key('cara', 'manager')}"
        }
        schedule = await made(app, app.ben, f"/jobs/{job}/schedules", **CRON)
        changed = await app.http.put(
            f"/schedules/{schedule}",
            json={**CRON, "cron": "0 4 * * *"},
            headers={**app.eve, "If-Match": "*"},
        )
        assert changed.status_code == 200, changed.text
        execution = (
            await app.http.post(f"/schedules/{schedule}/trigger", json={}, headers=app.ada)
        ).json()
        told = problem(
            await decided(app, execution, app.ben if role == "creator" else app.eve),
            403,
            "author_approval",
        )
        assert "wrote the schedule nightly" in told["detail"]
        assert (await decided(app, execution, cara)).json()["status"] == "approved"


async def test_who_wrote_a_job_that_runs_as_a_step_does_not_approve_the_whole(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        await made(app, app.ben, **{**BODY, "name": "innermost"})
        steps = {"actions": [{"type": "job", "job": "innermost"}]}
        await made(app, app.ada, **{**BODY, "name": "inner", **steps})
        job = await made(
            app, app.ada, **{**BODY, "name": "outer", "actions": [{"type": "job", "job": "inner"}]}
        )
        execution = await app.execute(job)
        told = problem(await decided(app, execution, app.ben), 403, "author_approval")
        assert "version 1 of the job innermost" in told["detail"]
        assert (await decided(app, execution, app.eve)).json()["status"] == "approved"


async def test_a_retry_is_of_the_same_author(database: Database) -> None:
    async with app_with_approvers(database) as app:
        first = await app.execute(await made(app, app.ben))
        await app.http.post(f"/executions/{first['id']}/cancel")
        again = (
            await app.http.post(f"/executions/{first['id']}/retry", json={"which": "unsuccessful"})
        ).json()
        problem(await decided(app, again, app.ben), 403, "author_approval")
        assert (await decided(app, again, app.eve)).json()["status"] == "approved"


async def test_an_author_is_a_person_whatever_key_he_holds(database: Database) -> None:
    async with app_with_approvers(database) as app:
        for name in ("mallory", "zoe"):
            await app.services.identities.users.create(
                name, "hash", [{"role": "manager", "permissions": [], "scope": ""}]
            )

        async def key(name: str, **fields: Any) -> dict[str, str]:
            answer = await app.http.post(
                "/api-keys", json={"name": name, "role": "manager", **fields}
            )
            return {"Authorization": f"Bearer {answer.json()['token']}"}

        laptop, tower, zoes = (
            await key("laptop", person="mallory"),
            await key("tower", person="mallory"),
            await key("z", person="zoe"),
        )
        execution = (
            await app.http.post(
                f"/jobs/{await made(app, laptop)}/execute", json={}, headers=app.ben
            )
        ).json()
        problem(await decided(app, execution, tower), 403, "author_approval")
        problem(
            await decided(app, execution, await key("whose")), 403, "self_approval"
        )  # it may be ben's
        assert (await decided(app, execution, zoes)).json()["status"] == "approved"


async def test_what_a_release_before_has_stored_is_of_whoever_has_its_authors_name(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        job = await made(app, app.ben)
        await made(app, app.eve, f"/jobs/{job}/schedules", **CRON)
        await database.fetch("update job_versions set author = null returning 1")
        await database.fetch("update job_schedules set authors = null returning 1")
        execution = (await app.http.post("/schedules/1/trigger", json={})).json()
        for author in (app.ben, app.eve):
            problem(await decided(app, execution, author), 403, "author_approval")


async def test_a_key_made_without_a_person_is_of_who_made_it_and_is_not_anybodys(
    database: Database,
) -> None:
    """A key that is known to be zoe's: it may not approve zoe's work.

    It is not refused for the reason of keys without a known owner.
    """
    async with app_with_approvers(database) as app:
        await app.services.identities.users.create(
            "zoe", "hash", [{"role": "admin", "permissions": [], "scope": ""}]
        )
        zoe = await app.services.identities.current_principal(Identity("user", "zoe"))
        issued = await app.services.identities.issue_key(
            NewKey("zoes", [role_grant("admin")]), None, zoe
        )
        zoes = {"Authorization": f"Bearer {issued[1]}"}
        second = (
            await app.http.post(
                "/api-keys", json={"name": "second", "role": "manager"}, headers=zoes
            )
        ).json()
        hers = {"Authorization": f"Bearer {second['token']}"}
        assert (await app.http.get("/auth/me", headers=hers)).json()["person"] == "zoe"
        execution = await app.execute(await made(app, zoes))
        problem(await decided(app, execution, hers), 403, "author_approval")
        other = (
            await app.http.post(
                f"/jobs/{await made(app, app.ben, **{**BODY, 'name': 'other'})}/execute", json={}
            )
        ).json()
        assert (await decided(app, other, hers)).json()["status"] == "approved"
