"""Retry of executions, and dead letters, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from api.kit import job, problem
from api.live import LiveApi, live_api
from opsjobs.model.execution import ErrorCode, RunError
from opsjobs.store import dead_letters
from opsjobs.store.transaction import Database

THREE = ("web-1", "web-2", "db-1")
LOST = RunError(ErrorCode.LOST, "contact was lost")
REFUSED = RunError(ErrorCode.CONNECTION_REFUSED, "connection refused")


async def ended_execution(
    api: LiveApi, *outcomes: RunError | int, name: str = "restart-web"
) -> int:
    """Launch a job of two steps on web-1, web-2 and db-1; end the second step like this on each."""
    if not (await api.http.get("/targets")).json()["items"]:
        await api.targets(*THREE)
    steps = [{"command": "first"}, {"command": "second"}]
    await api.http.post(
        "/jobs",
        json=job(name, actions=steps, targets={"ids": list(THREE)}, policy={"max_parallel": 7}),
    )
    jobs = (await api.http.get("/jobs", params={"name": name})).json()["items"]
    execution = (await api.http.post(f"/jobs/{jobs[0]['id']}/execute")).json()["id"]
    api.scripted.execution_id = execution
    await api.scripted.claim()
    for machine, outcome in zip(THREE, outcomes, strict=False):
        if isinstance(outcome, RunError):
            await api.scripted.end_action(machine, "step-1")
            await api.scripted.finish(machine, action="step-2", error=outcome)
        else:
            await api.scripted.end_action(machine, "step-1", 0)
            await api.scripted.finish(machine, outcome, action="step-2")
    return int(execution)


async def targets_of(api: LiveApi, execution: int) -> list[str]:
    runs = (await api.http.get(f"/executions/{execution}/targets")).json()["items"]
    return [run["target"]["name"] for run in runs]


async def test_a_retry_starts_at_the_step_that_failed(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, 0, 3, 4)
        api.notified.clear()
        answer = await api.http.post(
            f"/executions/{first}/retry", json={"which": "failed", "reason": "fixed"}
        )
        told = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (
            202,
            f"/executions/{told['id']}",
        )
        assert [told[k] for k in ("parent", "triggered_by", "job_version", "number", "reason", "requested_by", "status")] == [
            first, "retry", 1, 2, "fixed", "ada", "queued",
        ]  # fmt: skip
        shown = (await api.http.get(f"/executions/{told['id']}")).json() | {"waiting_on": None}
        assert told == {field: shown[field] for field in told}
        assert shown.keys() - told.keys() == {"can", "cannot"}
        assert await targets_of(api, told["id"]) == ["web-2", "db-1"]
        assert api.notified == ["default"]
        results = (await api.http.get(f"/executions/{told['id']}/results")).json()["items"]
        assert [
            (r["target"]["name"], r["action_key"], r["status"], r["inherited_from"])
            for r in results
        ] == [
            ("web-2", "step-1", "succeeded", first),
            ("db-1", "step-1", "succeeded", first),
        ]
        rows = await database.fetch(
            "select actions, policy from execution_specs order by execution_id"
        )
        assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("which", "meant"),
    [
        ({"which": "unreachable"}, ["web-2"]),
        ({"which": "lost"}, ["db-1"]),
        ({"which": "unsuccessful"}, ["web-2", "db-1"]),
        ({"targets": ["db-1"]}, ["db-1"]),
        ({"targets": [2]}, ["web-2"]),
    ],
    ids=str,
)
async def test_a_retry_runs_only_the_selected_targets(
    database: Database, which: dict[str, Any], meant: list[str]
) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, 0, REFUSED, LOST)
        again = (await api.http.post(f"/executions/{first}/retry", json=which)).json()
        assert await targets_of(api, again["id"]) == meant


async def test_a_retry_runs_targets_that_never_started(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        await api.http.post(
            "/run",
            json={"actions": [{"command": "uptime"}], "targets": {"ids": ["web-1", "web-2"]}},
        )
        await api.http.post("/executions/1/cancel")
        again = (await api.http.post("/executions/1/retry", json={"which": "not_started"})).json()
        told = [again[name] for name in ("parent", "job_id", "job_name", "summary")]
        assert (told, again["total_targets"]) == ([1, None, "ad-hoc", "uptime"], 2)


async def test_a_retry_that_is_not_possible_is_refused(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, 0, 3, 0)
        retry = f"/executions/{first}/retry"
        told = problem(await api.http.post(retry, json={"which": "lost"}), 422, "nothing_to_retry")
        assert told["errors"][0]["pointer"] == "/which"
        told = problem(
            await api.http.post(retry, json={"targets": ["web-2", "web-9"]}), 422, "unknown_target"
        )
        assert told["errors"][0]["pointer"] == "/targets/1"
        problem(await api.http.post(retry, json={"targets": ["web-1"]}), 422, "nothing_to_retry")
        problem(await api.http.post(retry, json={"which": "failed", "nonsense": 1}), 422, "invalid")
        problem(await api.http.post(retry), 422, "invalid")
        problem(
            await api.http.post("/executions/99/retry", json={"nonsense": 1}),
            404,
            "execution_not_found",
        )
        again = (await api.http.post(retry, json={"which": "failed"})).json()["id"]
        problem(
            await api.http.post(f"/executions/{again}/retry", json={"which": "failed"}),
            409,
            "execution_not_ended",
        )
        await api.http.post(f"/executions/{again}/cancel")
        await api.http.delete("/jobs/1")
        problem(await api.http.post(retry, json={"which": "failed"}), 409, "job_deleted")


async def test_a_retry_with_an_idempotency_key_launches_once(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, 3, 3, 3)
        answers = [
            await api.http.post(
                f"/executions/{first}/retry",
                json={"which": "failed"},
                headers={"idempotency-key": "k1"},
            )
            for _ in range(2)
        ]
        assert answers[0].json() == answers[1].json()
        assert answers[1].headers["idempotency-replayed"] == "true"
        assert len((await api.http.get("/executions")).json()["items"]) == 2


async def test_a_retry_includes_deleted_targets_and_uses_changed_addresses(
    database: Database,
) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, 3, 3, 0)
        await api.http.delete("/targets/1")
        moved = {"name": "web-2", "host": "10.9.9.9"}
        assert (await api.http.put("/targets/2", json=moved)).status_code == 200
        again = (await api.http.post(f"/executions/{first}/retry", json={"which": "failed"})).json()
        runs = (await api.http.get(f"/executions/{again['id']}/targets")).json()["items"]
        assert [(r["target"]["name"], r["target"]["host"]) for r in runs] == [
            ("web-1", "10.0.0.1"),
            ("web-2", "10.9.9.9"),
        ]


async def test_dead_letters_are_listed_and_filtered(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, LOST, REFUSED, LOST)
        second = await ended_execution(api, LOST, 0, 0, name="patch")
        letters = (await api.http.get("/dead-letters?sort=id")).json()["items"]
        assert [
            (d["execution_id"], d["target"]["name"], d["status"], d["error"]["code"], d["attempts"])
            for d in letters
        ] == [
            (first, "web-1", "lost", "lost", 1),
            (first, "db-1", "lost", "lost", 1),
            (second, "web-1", "lost", "lost", 1),
        ]
        ids = [d["id"] for d in letters]
        for query, expected in {
            "job=patch": ids[2:],
            "job=1": ids[:2],
            "target=web-1": [ids[0], ids[2]],
            "target=3": [ids[1]],
            f"execution={second}": ids[2:],
            "error=lost&target=db-1": [ids[1]],
            "error=poison": [],
            "status=dead": [],
            "since=2001-01-01T00:00:00Z": ids,
            "since=2101-01-01T00:00:00Z": [],
        }.items():
            found = (await api.http.get(f"/dead-letters?sort=id&{query}")).json()["items"]
            assert [d["id"] for d in found] == expected, query
        assert [
            d["id"] for d in (await api.http.get("/dead-letters?limit=2")).json()["items"]
        ] == ids[:0:-1]
        problem(await api.http.get("/dead-letters?since=yesterday"), 422, "invalid")
        problem(await api.http.get("/dead-letters?errors=lost"), 422, "invalid_query")


async def test_dead_letters_are_revived_as_one_execution_per_parent_and_leave_the_list(
    database: Database,
) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, LOST, 0, LOST)
        second = await ended_execution(api, LOST, 0, 0, name="patch")
        answer = await api.http.post(
            "/dead-letters/revive", json={"filter": {"error": "lost"}, "reason": "they are back"}
        )
        executions = answer.json()["executions"]
        assert (answer.status_code, answer.json()["more"]) == (202, False)
        assert [
            (e["parent"], e["triggered_by"], e["total_targets"], e["reason"]) for e in executions
        ] == [
            (first, "retry", 2, "they are back"),
            (second, "retry", 1, "they are back"),
        ]
        assert await targets_of(api, executions[0]["id"]) == ["web-1", "db-1"]
        assert (await api.http.get("/dead-letters")).json()["items"] == []
        assert (await api.http.post("/dead-letters/revive", json={"filter": {}})).json() == {
            "executions": [],
            "more": False,
        }
        rows = await database.fetch(
            "select answer, answered_by, execution_id from dead_letter_answers order by run_id"
        )
        assert {tuple(row.values()) for row in rows} == {
            ("revived", "ada", executions[0]["id"]),
            ("revived", "ada", executions[1]["id"]),
        }


async def test_a_dead_letter_is_revived_or_discarded_once(database: Database) -> None:
    async with live_api(database) as api:
        await ended_execution(api, LOST, LOST, LOST)
        one, two, three = [
            d["id"] for d in (await api.http.get("/dead-letters?sort=id")).json()["items"]
        ]
        discarded = await api.http.post(
            "/dead-letters/discard", json={"ids": [one], "reason": "scrapped"}
        )
        assert (discarded.status_code, discarded.json()) == (200, {"discarded": [one]})
        told = problem(
            await api.http.post("/dead-letters/revive", json={"ids": [one]}),
            409,
            "dead_letter_answered",
        )
        assert "discarded by ada" in told["detail"]
        problem(
            await api.http.post("/dead-letters/discard", json={"ids": [99], "reason": "x"}),
            404,
            "dead_letter_not_found",
        )
        both = await api.http.post("/dead-letters/revive", json={"ids": [one, two]})
        assert [e["total_targets"] for e in both.json()["executions"]] == [1]
        problem(
            await api.http.post("/dead-letters/discard", json={"ids": [two], "reason": "x"}),
            409,
            "dead_letter_answered",
        )
        assert [d["id"] for d in (await api.http.get("/dead-letters")).json()["items"]] == [three]


async def test_concurrent_revives_launch_each_dead_letter_once(database: Database) -> None:
    async with live_api(database) as api:
        await ended_execution(api, LOST, LOST, LOST)
        ids = [d["id"] for d in (await api.http.get("/dead-letters?sort=id")).json()["items"]]
        wishes = [{"ids": ids}, {"ids": ids[:2]}, {"filter": {}}, {"ids": ids[1:]}]
        answers = await asyncio.gather(
            *(api.http.post("/dead-letters/revive", json=wish) for wish in wishes)
        )
        assert {answer.status_code for answer in answers} <= {202, 409}
        executions = [e["id"] for answer in answers for e in answer.json().get("executions", [])]
        assert sorted([t for e in executions for t in await targets_of(api, e)]) == sorted(THREE)


async def test_a_revive_that_meets_another_answer_launches_the_rest(database: Database) -> None:
    blocked = (
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' "
        "and datname = current_database()"
    )
    async with live_api(database) as api:
        await ended_execution(api, LOST, LOST, LOST)
        ids = [d["id"] for d in (await api.http.get("/dead-letters?sort=id")).json()["items"]]
        async with database.transaction() as other:
            await dead_letters.answer(other, ids[:1], "discarded", by="ben", reason="scrapped")
            revive = asyncio.create_task(
                api.http.post("/dead-letters/revive", json={"ids": ids[:2]})
            )
            async with asyncio.timeout(90):
                while not await database.fetch(blocked):
                    await asyncio.sleep(0.01)
        (execution,) = (await revive).json()["executions"]
        assert await targets_of(api, execution["id"]) == [THREE[1]]
        left = (await api.http.get("/dead-letters")).json()["items"]
        assert [letter["id"] for letter in left] == ids[2:]


async def test_a_revive_with_an_idempotency_key_is_replayed(database: Database) -> None:
    async with live_api(database) as api:
        await ended_execution(api, LOST, 0, LOST)
        wish: dict[str, Any] = {"json": {"filter": {}}, "headers": {"idempotency-key": "k1"}}
        first, again = [await api.http.post("/dead-letters/revive", **wish) for _ in range(2)]
        assert first.json() == again.json()
        assert len(again.json()["executions"]) == 1


async def test_a_retry_answers_the_dead_letters_of_its_targets(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, LOST, 3, LOST)
        again = (
            await api.http.post(f"/executions/{first}/retry", json={"targets": ["web-1", "web-2"]})
        ).json()["id"]
        left = (await api.http.get("/dead-letters")).json()["items"]
        assert [d["target"]["name"] for d in left] == ["db-1"]
        rows = await database.fetch("select execution_id from dead_letter_answers")
        assert [row["execution_id"] for row in rows] == [again]


async def test_retries_and_dead_letters_require_permissions(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, LOST, 0, LOST)
        viewer, operator = await api.as_role("viewer"), await api.as_role("operator")
        wish, why = {"filter": {}}, {"filter": {}, "reason": "x"}
        assert (await api.http.get("/dead-letters", headers=viewer)).status_code == 200
        problem(
            await api.http.post("/dead-letters/revive", json=wish, headers=viewer),
            403,
            "forbidden",
        )
        problem(
            await api.http.post("/dead-letters/discard", json=why, headers=viewer),
            403,
            "forbidden",
        )
        problem(
            await api.http.post(
                f"/executions/{first}/retry", json={"which": "lost"}, headers=viewer
            ),
            403,
            "forbidden",
        )
        assert (
            await api.http.post(
                f"/executions/{first}/retry", json={"which": "lost"}, headers=operator
            )
        ).status_code == 202
        assert (
            await api.http.post("/dead-letters/discard", json=why, headers=operator)
        ).status_code == 200


async def test_a_retry_has_its_own_waves_under_the_same_policy(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets(*THREE)
        policy = {
            "waves": [1, "100%"],
            "gate": {"confirm": True, "check": {"type": "command", "command": "curl -f localhost"}},
            "max_fail": "50%",
            "order": "reverse",
            "retry": {"max_attempts": 2},
            "exclusive": ["web-lb"],
            "hold_offline": "5m",
            "timeout": "10m",
        }
        await api.http.post(
            "/jobs",
            json=job(actions=[{"command": "first"}], targets={"ids": list(THREE)}, policy=policy),
        )
        assert (await api.http.post("/jobs/1/execute")).status_code == 202
        await api.http.post("/executions/1/cancel")
        again = await api.http.post("/executions/1/retry", json={"targets": ["web-1", "db-1"]})
        assert again.status_code == 202, again.text
        first, second = await database.fetch(
            "select actions, policy from execution_specs order by execution_id"
        )
        assert first == second
        assert [action["key"] for action in first["actions"]] == ["step-1", "gate-check"]
        (gate,) = await database.fetch(
            "select waves, confirm, checked from execution_gates where execution_id = 2"
        )
        assert tuple(gate.values()) == ([1, 2], True, True)
        assert await targets_of(api, 2) == ["db-1", "web-1"]  # the order of the first execution
        (names,) = await database.fetch(
            "select name, granted from exclusive_locks where execution_id = 2"
        )
        assert tuple(names.values()) == ("web-lb", True)


async def test_a_retry_keeps_parameters_and_reseals_secrets(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        declared = [
            {"name": "token", "type": "secret", "required": True},
            {"name": "service", "type": "string"},
        ]
        body = job(parameters=declared, targets={"ids": ["web-1"]})
        assert (await api.http.post("/jobs", json=body)).status_code == 201
        given = {"parameters": {"token": "hush-hush", "service": "nginx"}}
        assert (await api.http.post("/jobs/1/execute", json=given)).status_code == 202
        await api.http.post("/executions/1/cancel")
        again = (await api.http.post("/executions/1/retry", json={"which": "unsuccessful"})).json()
        assert again["parameters"] == {"token": "***", "service": "nginx"}
        first, second = await database.fetch(
            "select parameters from execution_specs order by execution_id"
        )
        assert first["parameters"]["token"] != second["parameters"]["token"]
        opened = api.services.vault.open_parameters(UUID(again["uuid"]), second["parameters"])
        assert (opened["token"].reveal(), opened["service"]) == ("hush-hush", "nginx")


async def test_a_second_retry_of_a_target_is_refused_without_again(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, 0, 3, 4)
        retry = f"/executions/{first}/retry"
        one = (await api.http.post(retry, json={"targets": ["web-2"]})).json()["id"]
        other = (await api.http.post(retry, json={"targets": ["db-1"]})).json()["id"]
        told = problem(await api.http.post(retry, json={"which": "failed"}), 409, "already_retried")
        assert f"by {one} (queued), {other} (queued)" in told["detail"]
        problem(await api.http.post(retry, json={"targets": ["web-2"]}), 409, "already_retried")
        assert (await api.http.get(f"/executions/{first}")).json()["retries"] == [one, other]
        before = await database.fetch("select id from job_executions")
        looked = await api.http.post(retry, json={"which": "failed", "dry_run": True})
        assert (looked.status_code, looked.json()) == (
            200,
            {
                "execution": first,
                "targets": [
                    {
                        "id": "2",
                        "name": "web-2",
                        "host": "10.0.0.2",
                        "status": "failed",
                        "error": "nonzero_exit",
                    },
                    {
                        "id": "3",
                        "name": "db-1",
                        "host": "10.0.0.3",
                        "status": "failed",
                        "error": "nonzero_exit",
                    },
                ],
                "total_targets": 2,
                "retries": [{"id": one, "status": "queued"}, {"id": other, "status": "queued"}],
                "needs_approval": False,
            },
        )
        assert await database.fetch("select id from job_executions") == before
        third = await api.http.post(retry, json={"which": "failed", "again": True})
        assert third.status_code == 202
        assert (await api.http.get(f"/executions/{first}")).json()["retries"] == [
            one,
            other,
            third.json()["id"],
        ]


async def test_of_concurrent_retries_only_one_is_launched(database: Database) -> None:
    async with live_api(database) as api:
        first = await ended_execution(api, 3, 3, 3)
        answers = await asyncio.gather(
            *(
                api.http.post(f"/executions/{first}/retry", json={"which": "failed"})
                for _ in range(5)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]
