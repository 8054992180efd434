"""Launch, read and cancel over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from api.kit import job, problem
from api.live import live_api
from kit.scripted_worker import target
from opsjobs.store.transaction import Database

WEB = {"ids": ["web-1", "web-2"]}
UPTIME = [{"command": "uptime"}]


async def test_a_job_is_executed(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        await api.http.post("/jobs", json=job(targets=WEB))
        answer = await api.http.post("/jobs/1/execute", json={"reason": "because"})
        assert (answer.status_code, answer.headers["location"]) == (202, "/executions/1")
        told = answer.json()
        assert (told["job_id"], told["job_version"], told["number"], told["job_name"]) == (
            1,
            1,
            1,
            "restart-web",
        )
        assert (told["status"], told["counts"], told["requested_by"], told["reason"]) == (
            "queued",
            {"waiting": 2},
            "ada",
            "because",
        )
        # A single one also has its waiting reason, and what the caller may do.
        asked = {"can": ["cancel", "pause", "resume"], "waiting_on": None}
        for path in ("/executions/1", f"/api/v1/executions/{told['uuid']}"):
            shown = (await api.http.get(path)).json()
            assert list(shown.pop("cannot")) == ["retry"]
            assert shown | {"waiting_on": None} == told | asked
        assert api.notified == ["default"]


async def test_a_job_runs_without_a_body_and_targets_narrow_it(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2", "db-1")
        await api.http.post("/jobs", json=job(targets=WEB))
        assert (await api.http.post("/api/v1/jobs/1/execute")).headers[
            "location"
        ] == "/api/v1/executions/1"
        narrowed = await api.http.post("/jobs/1/execute", json={"targets": {"ids": ["web-2"]}})
        assert narrowed.json()["total_targets"] == 1
        problem(
            await api.http.post("/jobs/1/execute", json={"targets": {"ids": ["db-1"]}}),
            422,
            "target_outside_job",
        )
        problem(await api.http.post("/jobs/1/execute", json={"targets": {}}), 422, "no_targets")


async def test_actions_are_run_without_a_stored_job(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        answer = await api.http.post(
            "/run",
            json={"actions": UPTIME, "targets": WEB},
            headers={"user-agent": "opsjobs-cli/0.1"},
        )
        told = answer.json()
        assert answer.status_code == 202
        assert [
            told[k] for k in ("job_id", "job_version", "number", "job_name", "triggered_by")
        ] == [
            None,
            None,
            None,
            "ad-hoc",
            "manual",
        ]


async def test_executions_without_a_job_are_told_apart_by_what_they_run(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        script = {"type": "script", "script": "#!/bin/sh\n# clean\nset -eu\n\nfind /tmp -delete\n"}
        transfer = {
            "type": "file_transfer", "direction": "download", "source": "/var/log/syslog"
        }  # fmt: skip
        launches = {
            "uptime": [{"command": "\n  uptime \n date"}],
            "echo ${token}": [{"command": "echo ${token}"}],
            "bash: find /tmp -delete (+1 action)": [script, {"command": "true"}],
            "download /var/log/syslog to the artifacts (+2 actions)": [
                transfer, {"command": "true"}, {"command": "false"}
            ],
            f"echo {'x' * 114}…": [{"command": f"echo {'x' * 60_000}"}],
        }  # fmt: skip
        for summary, actions in launches.items():
            body = {"actions": actions, "targets": WEB}
            if "token" in summary:
                body["parameters"] = {"token": "s3cret-value"}
            told = (await api.http.post("/run", json=body)).json()
            assert (told["summary"], len(summary) <= 120) == (summary, True)
        listed = (await api.http.get("/executions")).json()["items"]
        assert [one["summary"] for one in listed] == [*reversed(launches)]
        await api.http.post("/jobs", json=job(targets=WEB))
        assert (await api.http.post("/jobs/1/execute")).json()["summary"] is None


@pytest.mark.parametrize(
    ("script", "summary"),
    [
        ("# who\r\nWrite-Output 'ü'\r\n".encode("utf-16"), "pwsh: Write-Output 'ü'"),
        (b"\xfe\xff" + "whoami".encode("utf-16-be"), "pwsh: whoami"),
        ("whoami".encode("utf-16-le"), "pwsh: a script of 12 bytes"),
        (b"\xef\xbb\xbfwhoami", "pwsh: whoami"),
        (b"\xff\xfe\x00", "pwsh: \ufffd"),
    ],
)
async def test_a_script_in_any_encoding_is_described(
    database: Database, script: bytes, summary: str
) -> None:
    action = {
        "type": "script", "interpreter": "pwsh", "script_base64": base64.b64encode(script).decode()
    }  # fmt: skip
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        answer = await api.http.post("/run", json={"actions": [action], "targets": WEB})
        assert (answer.status_code, answer.json().get("summary")) == (202, summary)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/jobs/1/execute", {"parameters": {"a": 1}}, 422, "invalid_parameters"),
        ("/jobs/1/execute", {"dry_run": "perhaps"}, 422, "invalid"),
        ("/jobs/1/execute", [], 422, "invalid"),
        ("/jobs/1/execute", {"reason": 7}, 422, "invalid"),
        ("/jobs/77/execute", {"nonsense": 1}, 404, "job_not_found"),
        ("/run", {"actions": [], "targets": WEB}, 422, "invalid"),
        ("/run", {"actions": UPTIME, "targets": {"ids": ["web-9"]}}, 422, "unknown_target"),
        ("/run", {"actions": UPTIME}, 422, "no_targets"),
        (
            "/run",
            {"actions": UPTIME, "targets": WEB, "override_safety": True},
            422,
            "reason_missing",
        ),
        ("/executions/7/cancel", {"nonsense": 1}, 404, "execution_not_found"),
    ],
)
async def test_an_invalid_launch_is_refused(
    database: Database, path: str, body: Any, status: int, code: str
) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        await api.http.post("/jobs", json=job(targets=WEB))
        problem(await api.http.post(path, json=body), status, code)


async def test_a_repeated_launch_is_replayed_by_idempotency_key(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        await api.http.post("/jobs", json=job(targets=WEB))
        first = await api.http.post("/jobs/1/execute", headers={"idempotency-key": "k1"})
        await api.http.post("/executions/1/cancel")
        again = await api.http.post("/api/v1/jobs/1/execute", headers={"idempotency-key": "k1"})
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["location"] == "/api/v1/executions/1"
        problem(
            await api.http.post(
                "/jobs/1/execute", json={"reason": "x"}, headers={"idempotency-key": "k1"}
            ),
            422,
            "idempotency_mismatch",
        )
        assert len((await api.http.get("/executions")).json()["items"]) == 1


async def test_prefer_wait_returns_the_ended_execution(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        waiting = asyncio.create_task(
            api.http.post(
                "/run",
                json={"actions": UPTIME, "targets": {"ids": ["web-1"]}},
                headers={"prefer": "respond-async, wait=20"},
            )
        )
        while not await api.scripted.claim():
            await asyncio.sleep(0.01)
        api.scripted.execution_id = 1
        await api.scripted.finish("web-1", 3)
        answer = await waiting
        assert (
            answer.status_code,
            answer.json()["status"],
            answer.headers["preference-applied"],
        ) == (200, "failed", "wait=20")
        assert answer.headers["location"] == "/executions/1"


async def test_prefer_wait_returns_the_running_execution_at_its_timeout(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        answer = await api.http.post(
            "/run",
            json={"actions": UPTIME, "targets": {"ids": ["web-1"]}},
            headers={"prefer": "wait=1"},
        )
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")


@pytest.mark.parametrize(
    "prefer", ["wait=-1", "wait=soon", "return=minimal", "wait", "wait=", "nowait=5"]
)
async def test_an_invalid_prefer_header_is_ignored(database: Database, prefer: str) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        answer = await api.http.post(
            "/run",
            json={"actions": UPTIME, "targets": {"ids": ["web-1"]}},
            headers={"prefer": prefer},
        )
        assert (answer.status_code, "preference-applied" in answer.headers) == (202, False)


async def test_a_cancel_is_idempotent_and_refused_after_the_end(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(2)
        first = await api.http.post("/executions/1/cancel", json={"reason": "too loud"})
        second = await api.http.post("/executions/1/cancel")
        assert (first.status_code, first.json()["status"]) == (202, "cancelling")
        assert (second.status_code, second.json()) == (202, first.json())
        assert api.services.bus.published == [("opsjobs.control", b'{"cancel": 1}')] * 2
        for name in ("web-1", "web-2"):
            await api.scripted.finish(name)
        problem(await api.http.post("/executions/1/cancel"), 409, "execution_ended")


async def test_some_targets_are_cancelled_and_the_others_continue(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch([target(1), target(2), target(3, "db-1")])
        await api.scripted.claim()
        body = {"targets": ["web-1", 3], "reason": "wrong hosts"}
        first = await api.http.post("/executions/1/cancel", json=body)
        assert (first.status_code, first.json()["status"]) == (202, "running")
        assert first.json()["targets"] == {"cancelled": 0, "stopping": 2, "ended_before": 0}
        second = await api.http.post("/executions/1/cancel", json=body)
        assert second.json() == first.json()
        assert [topic for topic, _ in api.services.bus.published] == ["opsjobs.control"] * 2
        order = json.loads(api.services.bus.published[0][1])
        assert len(order["cancel_runs"]) == 2
        unknown = {"targets": ["web-2", "web-9"]}
        refused = problem(
            await api.http.post("/executions/1/cancel", json=unknown), 422, "unknown_target"
        )
        assert refused["detail"] == "Execution 1 has no target 'web-9'. See its /targets."
        for wrong in ({"targets": []}, {"targets": ["x"] * 10_001}, {"targets": "web-1"}):
            problem(await api.http.post("/executions/1/cancel", json=wrong), 422, "invalid")
        for name in ("web-1", "web-2", "db-1"):
            await api.scripted.finish(name)
        problem(await api.http.post("/executions/1/cancel", json=body), 409, "execution_ended")


async def test_targets_results_and_groups_are_listed(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch([target(1), target(2), target(3, "db-1")])
        await api.scripted.claim()
        for name in ("web-1", "web-2", "db-1"):
            await api.scripted.write(name, b"up 3 days\n")
            await api.scripted.write(name, b"\xff", stream="stderr")
            await api.scripted.finish(name, 1 if name == "db-1" else 0)
        runs = (await api.http.get("/executions/1/targets?status=failed")).json()["items"]
        assert [r["target"]["name"] for r in runs] == ["db-1"]
        assert set(runs[0]) >= {
            "id",
            "target",
            "status",
            "waiting_for",
            "attempt",
            "wave",
            "worker",
            "error",
            "exit_code",
            "cancel_proof",
        }
        first = await api.http.get("/executions/1/results?limit=2")
        assert 'rel="next"' in first.headers["link"]
        rest = await api.http.get(f"/executions/1/results?limit=2&cursor={first.json()['next']}")
        results = first.json()["items"] + rest.json()["items"]
        assert [r["target"]["id"] for r in results] == ["1", "2", "3"]
        assert (results[0]["stdout"], results[0]["stderr"], results[0]["command"]) == (
            "up 3 days\n",
            "\ufffd",
            "uptime",
        )
        assert (await api.http.get("/executions/1/results?target=2")).json()["items"] == [
            results[1]
        ]
        groups = (await api.http.get("/executions/1/groups?action=step-1")).json()["items"]
        assert [(g["count"], g["status"], g["exit_code"]) for g in groups] == [
            (2, "succeeded", 0),
            (1, "failed", 1),
        ]
        assert [t["name"] for t in groups[0]["targets"]] == ["web-1", "web-2"]


async def test_executions_of_a_job_are_only_its_own(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        for name in ("a", "b"):
            await api.http.post("/jobs", json=job(name, targets=WEB))
        for number in (1, 2, 1):
            await api.http.post(f"/jobs/{number}/execute")
        assert [
            e["id"] for e in (await api.http.get("/jobs/1/executions?job_id=2")).json()["items"]
        ] == [3, 1]
        assert [
            e["number"]
            for e in (await api.http.get("/jobs/1/executions?status=queued")).json()["items"]
        ] == [2, 1]
        problem(await api.http.get("/jobs/9/executions"), 404, "job_not_found")
        problem(await api.http.get("/executions?statsu=failed"), 422, "invalid_query")


@pytest.mark.parametrize("path", ["", "/targets", "/results", "/groups", "/log", "/events"])
@pytest.mark.parametrize(
    "ref", ["1", "x", "-1", "00000000-0000-0000-0000-000000000000", "%00", str(2**63)]
)
async def test_a_missing_execution_is_404_on_every_route(
    database: Database, path: str, ref: str
) -> None:
    async with live_api(database) as api:
        problem(await api.http.get(f"/executions/{ref}{path}"), 404, "execution_not_found")


async def test_execution_routes_require_permissions(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        viewer, nobody = await api.as_role("viewer"), {"Authorization": "Bearer opsc_nobody"}
        for path in ("", "/targets", "/results", "/groups", "/log"):
            assert (await api.http.get(f"/executions/1{path}", headers=viewer)).status_code == 200
            problem(
                await api.http.get(f"/executions/1{path}", headers=nobody), 401, "token_invalid"
            )
        problem(await api.http.get("/executions/1/events", headers=nobody), 401, "token_invalid")
        problem(await api.http.post("/executions/1/cancel", headers=viewer), 403, "forbidden")
        problem(
            await api.http.post("/run", json={"actions": UPTIME, "targets": WEB}, headers=viewer),
            403,
            "forbidden",
        )


async def test_parameters_are_validated_and_stored_and_secrets_never_shown(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1", "web-2")
        declared = [
            {"name": "service", "pattern": "[a-z]+", "required": True},
            {"name": "token", "type": "secret"},
        ]
        await ada.http.post("/jobs", json=job(targets=WEB, parameters=declared))
        given = {"service": "nginx", "token": "hush-hush"}
        launched = await ada.http.post("/jobs/1/execute", json={"parameters": given})
        assert launched.status_code == 202
        assert launched.json()["parameters"] == {"service": "nginx", "token": "***"}
        assert (await ada.http.get("/executions/1")).json()["parameters"] == {
            "service": "nginx",
            "token": "***",
        }
        row = await database.fetch_one(
            "select uuid, s.parameters from job_executions e join execution_specs s on execution_id = id",
            [],
        )
        assert row is not None
        assert "hush" not in repr(row)
        opened = ada.services.vault.open_parameters(row["uuid"], row["parameters"])
        assert opened["token"].reveal() == "hush-hush"
        refused = problem(
            await ada.http.post("/jobs/1/execute", json={"parameters": {"service": "X;"}}),
            422,
            "invalid_parameters",
        )
        assert [(e["pointer"], e["code"]) for e in refused["errors"]] == [
            ("/parameters/service", "pattern")
        ]


async def test_an_ad_hoc_execution_accepts_undeclared_parameters(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1", "web-2")
        body = {
            "actions": [{"command": "true"}],
            "targets": {"ids": ["web-1"]},
            "parameters": {"n": 2, "name": "x"},
        }
        assert (await ada.http.post("/run", json=body)).json()["parameters"] == {
            "n": 2,
            "name": "x",
        }
        wrong = {**body, "parameters": {"1": 1}}
        problem(await ada.http.post("/run", json=wrong), 422, "invalid_parameters")


async def test_all_runs_are_read_as_columns_with_the_position_of_the_log(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2", "web-3")
        await api.http.post(
            "/run",
            json={"actions": UPTIME, "targets": {"ids": ["web-2", "web-1", "web-3"]}},
        )
        before = (await api.http.get("/executions/1/matrix")).json()
        runs = (await api.http.get("/executions/1/targets")).json()["items"]
        columns = before["columns"]
        assert columns["name"] == ["web-2", "web-1", "web-3"]
        assert columns["id"] == [run["id"] for run in runs]
        assert columns["target"] == [run["target"]["id"] for run in runs]
        assert columns["started_ms"] == [None] * 3
        await api.http.post("/executions/1/cancel")
        after = (await api.http.get("/executions/1/matrix")).json()
        ended = (await api.http.get("/executions/1/targets")).json()["items"]
        assert after["seq"] > before["seq"]
        assert after["columns"]["status"] == [run["status"] for run in ended] == ["cancelled"] * 3
        assert after["columns"]["cancel_proof"] == ["never_started"] * 3
        assert all(milliseconds >= 0 for milliseconds in after["columns"]["finished_ms"])


async def test_labels_come_as_columns_to_those_who_may_see_them(database: Database) -> None:
    async with live_api(database) as api:
        for name, labels in (
            ("web-1", {"rack": "r7", "env": "prod"}),
            ("web-2", {"rack": "r8", "env": "test"}),
            ("web-3", {"env": "prod"}),
        ):
            draft = {"name": name, "host": "10.0.0.1", "labels": labels}
            assert (await api.http.post("/targets", json=draft)).status_code == 201
        names = {"ids": ["web-3", "web-2", "web-1"]}
        await api.http.post("/run", json={"actions": UPTIME, "targets": names})
        path = "/executions/1/matrix"
        found = (await api.http.get(f"{path}?label=rack&label=env&label=none")).json()["labels"]
        assert found == {
            "rack": [None, "r8", "r7"],
            "env": ["prod", "test", "prod"],
            "none": [None] * 3,
        }
        assert (await api.http.get(path)).json()["labels"] == {}
        assert (await api.http.get(f"{path}?label=no key")).status_code == 422
        keys = "&".join(f"label=k{n}" for n in range(9))
        assert (await api.http.get(f"{path}?{keys}")).status_code == 422

        async def key(grants: list[dict[str, Any]]) -> dict[str, str]:
            made = await api.http.post(
                "/api-keys", json={"name": f"k{len(grants)}", "grants": grants}
            )
            return {"Authorization": f"Bearer {made.json()['token']}"}

        seen = {"permissions": ["executions:read"]}
        refused = await api.http.get(f"{path}?label=rack", headers=await key([seen]))
        assert refused.status_code == 403
        prod = {"permissions": ["targets:read"], "scope": "env=prod"}
        part = await api.http.get(f"{path}?label=rack", headers=await key([seen, prod]))
        assert part.json()["labels"] == {"rack": [None, None, "r7"]}


async def test_what_was_launched_stays_as_it_was(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2")
        made = await api.http.post(
            "/jobs",
            json=job(
                targets=WEB,
                parameters=[{"name": "pin", "type": "secret"}, {"name": "service"}],
                actions=[{"command": "restart ${service}"}],
            ),
        )
        values = {"pin": "hunter2", "service": "nginx"}
        await api.http.post("/jobs/1/execute", json={"parameters": values})
        changed = {**made.json(), "actions": [{"command": "true"}]}
        await api.http.patch(
            "/jobs/1", json={"actions": changed["actions"]}, headers={"if-match": "*"}
        )
        spec = (await api.http.get("/executions/1/spec")).json()
        assert [action["command"] for action in spec["actions"]] == ["restart ${service}"]
        assert spec["parameters"] == {"pin": "***", "service": "nginx"}
        assert spec["policy"]["on_lost"] == "ask"


async def test_a_search_asks_for_a_few_labels(database: Database) -> None:
    async with live_api(database) as api:
        labels = [f"env=e{number}" for number in range(9)]
        assert (await api.http.get("/executions", params={"label": labels[:8]})).status_code == 200
        problem(await api.http.get("/executions", params={"label": labels}), 422, "invalid")
