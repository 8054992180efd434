"""The safety check of all requests that store or launch: block, approval, warning.

Its findings are stored and shown.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import problem
from opsjobs.engine.launching.safety_service import SafetyService
from opsjobs.model.safety_verdict import Finding, SafetyVerdict
from opsjobs.safety import SafetyQuestion
from opsjobs.safety.policy import read
from opsjobs.settings import SettingsError, load
from opsjobs.store.transaction import Database
from security.app_with_approvers import AppWithApprovers, app_with_approvers

WIPE = {"type": "command", "command": "rm -rf /"}
ASK = {"type": "command", "command": "umount -a"}


def real(services: Any) -> SafetyService:
    """Return the safety check of opsjobs itself."""
    return SafetyService(services.safety_pool.check, services.inventory, services.clock)


def scripted(services: Any) -> SafetyService:
    """Return a check that looks for words, so that rules may change."""

    async def words(asked: SafetyQuestion) -> tuple[Finding, ...]:
        found = [
            v
            for v in (SafetyVerdict.BLOCK, SafetyVerdict.NEEDS_APPROVAL, SafetyVerdict.WARN)
            if v.value in asked.text
        ]
        strict = "env=prod" in asked.context.labels and found == [SafetyVerdict.WARN]
        return tuple(
            Finding(
                f"is-{v.value}",
                SafetyVerdict.BLOCK if strict else v,
                "It says so.",
                asked.text[:50],
            )
            for v in found
        )

    return SafetyService(words, services.inventory, services.clock, read(POLICY))


POLICY = "policies: [{name: two, labels: [team=db], approval: {approvers: 2, expires: 1h}}]"


def says(verdict: str) -> dict[str, Any]:
    """Return an action with this verdict of the scripted check."""
    return {"type": "command", "command": f"echo {verdict}"}


@pytest.mark.parametrize("door", ["create", "replace", "apply", "run", "clone"])
async def test_a_blocked_command_is_refused_by_every_route_with_a_pointer(
    database: Database, door: str
) -> None:
    async with app_with_approvers(database, real) as app:
        body = {
            "name": "wipe",
            "actions": [{"type": "command", "command": "true"}, WIPE],
            "targets": {"ids": ["web-1"]},
        }
        first = await app.http.post("/jobs", json={**body, "actions": body["actions"][:1]})
        path, send, pointer, ok = "/jobs", body | {"name": "other"}, "/actions/1/command", 201
        headers: dict[str, str] = {}
        if door == "replace":
            path, send, ok, headers = f"/jobs/{first.json()['id']}", body, 200, {"If-Match": "*"}
        elif door == "apply":
            path, send, pointer, ok = (
                "/jobs/apply",
                {"jobs": [body]},
                "/jobs/0/actions/1/command",
                200,
            )
        elif door == "run":
            path, send, ok = "/run", {k: body[k] for k in ("actions", "targets")}, 202
        elif door == "clone":
            made = await app.http.post(
                "/jobs", json={**send, "override_safety": True, "reason": "a test"}
            )
            path, send = f"/jobs/{made.json()['id']}/clone", {"name": "copy"}
        ask = app.http.put if door == "replace" else app.http.post
        told = problem(await ask(path, json=send, headers=headers), 422, "safety_blocked")
        assert pointer in [error["pointer"] for error in told["errors"]], told
        assert "override_safety" in told["detail"]
        over = {**send, "override_safety": True, "reason": "a lab machine"}
        problem(
            await ask(path, json={**send, "override_safety": True}, headers=headers),
            422,
            "reason_missing",
        )
        assert (done := await ask(path, json=over, headers=headers)).status_code == ok, done.text
        assert ("ada", "safety.overridden", "a lab machine") in await app.audited()
        if door in ("create", "replace"):
            assert done.json()["verdict"] == "block"
            assert (await app.http.get(f"/jobs/{done.json()['id']}")).json()[
                "findings"
            ] == done.json()["findings"]


async def test_a_plan_shows_findings_and_refuses_nothing(database: Database) -> None:
    async with app_with_approvers(database, real) as app:
        body = {"name": "wipe", "actions": [WIPE], "targets": {"ids": ["web-1"]}}
        (item,) = (await app.http.post("/jobs/apply?dry_run=true", json={"jobs": [body]})).json()[
            "items"
        ]
        assert (item["verdict"], item["findings"][0]["pointer"]) == ("block", "/actions/0/command")
        told = (await app.http.post("/jobs/validate", json=body)).json()
        assert (told["valid"], told["verdict"], told["errors"][0]["code"]) == (
            False,
            "block",
            "safety_blocked",
        )
        assert await app.audited() == []
        safe = {**body, "actions": [{"type": "command", "command": "uptime"}]}
        assert (await app.http.post("/jobs/validate", json=safe)).json()["verdict"] == "allow"
        shown = (
            await app.http.post(
                "/run", json={"actions": [WIPE], "targets": body["targets"], "dry_run": True}
            )
        ).json()
        assert (shown["verdict"], shown["findings"][0]["severity"]) == ("block", "block")


async def test_a_job_that_needs_approval_is_stored_with_the_verdict_and_waits_at_launch(
    database: Database,
) -> None:
    async with app_with_approvers(database, real) as app:
        job = await app.job(actions=[ASK])
        assert (await app.http.get(f"/jobs/{job}")).json()["verdict"] == "needs_approval"
        execution = await app.execute(job)
        assert (execution["status"], execution["verdict"]) == ("pending_approval", "needs_approval")
        assert execution["findings"][0]["rule"] in execution["waiting_on"]["reason"]
        shown = (await app.http.get(f"/approvals/{execution['waiting_on']['approval']}")).json()
        assert shown["would_run"]["findings"] == execution["findings"]
        path = f"/approvals/{shown['id']}/approve"
        assert (
            await app.http.post(path, json={"hash": shown["hash"]}, headers=app.ben)
        ).status_code == 200
        begun = (await app.http.get(f"/executions/{execution['id']}")).json()
        assert (begun["status"], begun["verdict"]) == ("queued", "needs_approval")
        harmless = await app.execute(await app.job("other"))
        assert (harmless["status"], harmless["verdict"], harmless["findings"]) == (
            "queued",
            "allow",
            [],
        )


async def test_a_launch_is_checked_by_the_rendered_commands(database: Database) -> None:
    async with app_with_approvers(database, real) as app:
        job = await app.job(
            parameters=[{"name": "path", "type": "string", "default": "/srv/cache"}],
            actions=[{"type": "command", "command": "rm -rf ${path}"}],
        )
        assert (await app.execute(job))["status"] == "queued"
        blocked = await app.http.post(f"/jobs/{job}/execute", json={"parameters": {"path": "/"}})
        problem(blocked, 422, "safety_blocked")
        over = {"parameters": {"path": "/"}, "override_safety": True, "reason": "a lab machine"}
        done = await app.execute(job, **over)
        assert (done["status"], done["verdict"]) == ("queued", "block")


async def test_labels_of_targets_and_jobs_make_the_safety_check_stricter(
    database: Database,
) -> None:
    async with app_with_approvers(database, scripted) as app:
        await app.machine("db-1", host="10.0.0.2", labels={"env": "prod"})
        body = {"actions": [says("warn")], "targets": {"ids": ["web-1"]}}
        assert (await app.http.post("/run", json=body)).json()["verdict"] == "warn"
        both = {**body, "targets": {"ids": ["web-1", "db-1"]}}
        problem(await app.http.post("/run", json=both), 422, "safety_blocked")
        tagged = {"name": "x", "tags": ["env=prod"], **body}
        problem(await app.http.post("/jobs", json=tagged), 422, "safety_blocked")


async def test_the_stricter_of_policy_and_safety_approvals_applies(
    database: Database,
) -> None:
    async with app_with_approvers(database, scripted) as app:
        job = await app.job(
            tags=["team=db"],
            actions=[says("needs_approval")],
            policy={"approval": {"users": ["eve"], "expires": "2h"}},
        )
        execution = await app.execute(job)
        asked = (await app.http.get(f"/approvals/{execution['waiting_on']['approval']}")).json()
        assert (asked["approvers"], asked["users"], "safety check" in asked["message"]) == (
            2,
            ["eve"],
            True,
        )


@pytest.mark.parametrize("verdict", ["block", "needs_approval"])
async def test_a_retry_and_a_trigger_are_checked_by_current_rules(
    database: Database, verdict: str
) -> None:
    async with app_with_approvers(database, scripted) as app:
        over = {"override_safety": True, "reason": "a test"}
        made = await app.http.post(
            "/jobs",
            json={"name": "x", "actions": [says(verdict)], "targets": {"ids": ["web-1"]}, **over},
        )
        job = made.json()["id"]
        execution = (await app.http.post(f"/jobs/{job}/execute", json=over)).json()
        await app.http.post(f"/executions/{execution['id']}/cancel")
        schedule = await app.http.post(
            f"/jobs/{job}/schedules", json={"name": "n", "type": "cron", "cron": "0 3 * * *"}
        )
        for path, body in (
            (f"/executions/{execution['id']}/retry", {"which": "unsuccessful", "again": True}),
            (f"/schedules/{schedule.json()['id']}/trigger", {}),
        ):
            answer = await app.http.post(path, json=body)
            if verdict == "block":
                problem(answer, 422, "safety_blocked")
            else:
                assert answer.json()["status"] == "pending_approval"
            assert (await app.http.post(path, json={**body, **over})).json()["status"] == "queued"


async def test_each_distinct_text_is_checked_once(database: Database) -> None:
    calls: list[str] = []

    async def counting(asked: SafetyQuestion) -> tuple[Finding, ...]:
        calls.append(asked.text)
        return ()

    async with app_with_approvers(
        database, lambda services: SafetyService(counting, services.inventory, services.clock)
    ) as app:
        await machines(app, 6)
        body = {
            "actions": [{"type": "command", "command": "echo ${target.labels.n}"}],
            "targets": {"selector": "n"},
        }
        for _ in range(2):
            assert (await app.http.post("/run", json=body)).status_code == 202
        assert sorted(calls) == ["echo '0'", "echo '1'", "echo '2'"]


def test_production_refuses_safety_checks_off() -> None:
    with pytest.raises(SettingsError, match="ENABLE_SAFETY_CHECKS is off"):
        load({"ENVIRONMENT": "production", "ENABLE_SAFETY_CHECKS": "off"})
    assert not load({"ENABLE_SAFETY_CHECKS": "off"}).safety.enabled


async def machines(app: AppWithApprovers, count: int) -> None:
    """Return machines of which any two share a label."""
    for n in range(count):
        await app.machine(f"n-{n}", host=f"10.1.0.{n}", labels={"n": str(n % 3)})


async def test_tags_do_not_lower_severity_and_code_loading_variables_need_approval(
    database: Database,
) -> None:
    lab = read("policies: [{name: lab, labels: ['env=lab'], rules: {delete-everything: allow}}]")
    async with app_with_approvers(
        database,
        lambda services: SafetyService(
            services.safety_pool.check, services.inventory, services.clock, lab
        ),
    ) as app:
        await app.machine("lab-1", host="10.0.0.2", labels={"env": "lab"})
        tagged = {
            "name": "wipe",
            "tags": ["env=lab"],
            "actions": [WIPE],
            "targets": {"ids": ["web-1"]},
        }
        problem(await app.http.post("/jobs", json=tagged), 422, "safety_blocked")
        run = {"actions": [WIPE], "targets": {"ids": ["lab-1"]}}
        assert (await app.http.post("/run", json=run)).json()["verdict"] == "allow"
        problem(
            await app.http.post("/run", json={**run, "targets": {"ids": ["lab-1", "web-1"]}}),
            422,
            "safety_blocked",
        )
        actions = [{"type": "command", "command": "true", "env": {"BASH_ENV": "/tmp/x"}}]
        asked = (
            await app.http.post("/run", json={"actions": actions, "targets": {"ids": ["lab-1"]}})
        ).json()
        assert (asked["status"], [f["rule"] for f in asked["findings"]]) == (
            "pending_approval",
            ["executing-variable"],
        )
