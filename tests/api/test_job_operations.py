"""Operations on jobs: validate, preview, clone, pause, resume, export and import as code."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import job, problem
from api.live import live_api
from opsjobs.store.transaction import Database

WEB = {"ids": ["web-1", "web-2", "web-3"]}
DECLARED = [
    {"name": "service", "pattern": "[a-z]+", "default": "nginx"},
    {"name": "token", "type": "secret"},
]
ACTIONS = [
    {"key": "stop", "command": "systemctl stop ${service} # ${HOME}"},
    {
        "key": "tell",
        "command": "echo ${target.name} ${actions.stop.exit_code} ${target.labels.env}",
    },
    {
        "key": "fix",
        "type": "script",
        "interpreter": "sh",
        "script": "true\n",
        "args": ["${service} x"],
    },
    {"key": "rest", "type": "wait", "duration": "5s"},
]


async def test_a_preview_shows_targets_waves_and_commands_and_starts_nothing(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2", "web-3")
        policy = {"waves": [1, "100%"]}
        await api.http.post(
            "/jobs", json=job(targets=WEB, parameters=DECLARED, actions=ACTIONS, policy=policy)
        )
        seen = await api.http.post(
            "/jobs/1/preview", json={"parameters": {"service": "web", "token": "hush-hush"}}
        )
        assert seen.status_code == 200
        told = seen.json()
        assert [target["name"] for target in told["targets"]] == ["web-1", "web-2", "web-3"]
        assert told["waves"] == [["web-1"], ["web-2", "web-3"]]
        assert told["commands_total"] == 12
        assert [c["command"] for c in told["commands"][:4]] == [
            "systemctl stop 'web' # ${HOME}",
            "echo 'web-1' '${actions.stop.exit_code}' ''",
            "sh <a script of 5 bytes> 'web x'",
            "wait 5s",
        ]
        assert told["parameters"] == {"service": "web", "token": "***"}
        assert "hush" not in seen.text
        assert (told["verdict"], told["estimate"]) == (None, {"seconds": None, "executions": 0})
        assert told["changes"] == {
            "since": None,
            "added": ["web-1", "web-2", "web-3"],
            "removed": [],
        }
        assert (await api.http.get("/executions")).json()["items"] == []
        assert api.notified == []


async def test_a_dry_run_is_a_preview_with_changes_since_the_last_execution(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2", "web-3")
        await api.http.post("/jobs", json=job(targets={"ids": ["web-1", "web-2"]}))
        dry = await api.http.post("/jobs/1/execute", json={"dry_run": True})
        assert (dry.status_code, len(dry.json()["targets"])) == (200, 2)
        await api.http.post("/jobs/1/execute", json={"targets": {"ids": ["web-1"]}})
        changes = (await api.http.post("/jobs/1/execute", json={"dryRun": True})).json()["changes"]
        assert changes == {"since": 1, "added": ["web-2"], "removed": []}
        body = {
            "actions": [{"command": "echo ${n}"}],
            "targets": WEB,
            "parameters": {"n": 1},
            "dry_run": True,
        }
        assert (await api.http.post("/run", json=body)).json()["commands"][0][
            "command"
        ] == "echo '1'"
        assert [e["id"] for e in (await api.http.get("/executions")).json()["items"]] == [1]
        problem(
            await api.http.post("/jobs/1/preview", json={"parameters": {"x": 1}}),
            422,
            "invalid_parameters",
        )


async def test_a_preview_shows_an_action_only_for_its_targets(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2", "web-3")
        actions = [{"command": "all"}, {"command": "one", "targets": {"ids": ["web-2"]}}]
        told = (
            await api.http.post("/run", json={"actions": actions, "targets": WEB, "dry_run": True})
        ).json()
        assert [(c["target"], c["command"]) for c in told["commands"]] == [
            ("web-1", "all"),
            ("web-2", "all"),
            ("web-2", "one"),
            ("web-3", "all"),
        ]
        assert told["commands_total"] == 4


async def test_a_job_is_validated_whether_stored_or_not(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        await api.http.post("/jobs", json=job(targets={"ids": ["web-1"]}))
        assert (await api.http.post("/jobs/1/validate")).json() == {
            "valid": True,
            "errors": [],
            "warnings": [],
            "verdict": None,
        }
        wrong = job(
            targets={"ids": ["web-9"]},
            actions=[
                {"type": "job", "job": "nobody"},
                {"command": "x", "become": {"credential": "c"}},
            ],
        )
        told = (await api.http.post("/jobs/validate", json=wrong)).json()
        assert not told["valid"]
        assert [(e["pointer"], e["code"]) for e in told["errors"]] == [
            ("/targets/ids/0", "unknown_target"),
            ("/actions/1/become/credential", "unknown_credential"),
            ("/actions/0/job", "unknown_job"),
        ]
        cycle = job(actions=[{"key": "a", "command": "x", "depends_on": ["a"]}])
        told = (await api.http.post("/jobs/validate", json=cycle)).json()
        assert [(e["pointer"], e["code"]) for e in told["errors"]] == [
            ("/actions/0/depends_on", "cycle")
        ]
        assert (await api.http.post("/jobs/validate", json=job(targets={}))).json()["warnings"][0][
            "code"
        ] == "no_targets"
        for policy, warned in (
            ({"gate": {"pause_on_fail": True}}, ["never_paused"]),
            ({"gate": {"pause_on_fail": True}, "max_fail": 0}, []),
        ):
            told = (await api.http.post("/jobs/validate", json=job(policy=policy))).json()
            assert [warning["code"] for warning in told["warnings"]] == warned
        assert (await api.http.get("/jobs")).json()["items"][0]["version"] == 1


async def test_a_clone_is_a_job_of_its_own(database: Database) -> None:
    async with live_api(database) as api:
        old = (await api.http.post("/jobs", json=job(parameters=DECLARED))).json()
        made = await api.http.post("/jobs/1/clone")
        assert (made.status_code, made.headers["location"], made.json()["name"]) == (
            201,
            "/jobs/2",
            f"{old['name']} (copy)",
        )
        assert made.json()["parameters"] == old["parameters"]
        assert (await api.http.post("/jobs/1/clone", json={"name": "other"})).json()["version"] == 1
        problem(await api.http.post("/jobs/1/clone", json={"name": "other"}), 409, "name_taken")
        problem(await api.http.post("/jobs/9/clone"), 404, "job_not_found")


async def test_a_paused_job_is_not_executed_until_it_is_resumed(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        await api.http.post("/jobs", json=job(targets={"ids": ["web-1"]}))
        for _ in range(2):
            paused = await api.http.post("/jobs/1/pause")
            assert (paused.status_code, paused.json()["state"], paused.json()["version"]) == (
                200,
                "paused",
                1,
            )
        problem(await api.http.post("/jobs/1/execute"), 409, "job_is_paused")
        changed = await api.http.put(
            "/jobs/1", json=job("other", targets={"ids": ["web-1"]}), headers={"If-Match": "*"}
        )
        assert changed.json()["state"] == "paused"
        assert (await api.http.post("/jobs/1/resume")).json()["state"] == "active"
        assert (await api.http.post("/jobs/1/execute")).status_code == 202
        await api.http.post("/jobs", json=job("draft", state="draft"))
        problem(await api.http.post("/jobs/2/pause"), 409, "job_is_draft")


async def test_exported_jobs_are_applied_unchanged(database: Database) -> None:
    async with live_api(database) as api:
        await api.http.post(
            "/jobs",
            json=job(
                "b",
                parameters=DECLARED,
                actions=ACTIONS,
                policy={"waves": [1, "100%"]},
                tags=["web"],
            ),
        )
        await api.http.post("/jobs", json=job("a", job_type="composite"))
        out = (await api.http.get("/jobs/export")).json()
        assert [body["name"] for body in out["jobs"]] == ["a", "b"]
        assert out["jobs"][0]["job_type"] == "composite"
        assert out["jobs"][1]["policy"] == {"waves": [1, "100%"]}
        assert (await api.http.get("/jobs/1/definition")).json() == out["jobs"][1]
        assert [
            body["name"] for body in (await api.http.get("/jobs/export?tag=web")).json()["jobs"]
        ] == ["b"]
        applied = (await api.http.post("/jobs/apply", json=out)).json()
        assert [(item["name"], item["change"], item["version"]) for item in applied["items"]] == [
            ("a", "unchanged", 1),
            ("b", "unchanged", 1),
        ]


async def test_an_apply_creates_and_updates_all_jobs_or_none(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.http.post("/jobs", json=job("a"))
        bodies: dict[str, Any] = {"jobs": [job("a", policy={"max_parallel": 3}), job("b")]}
        plan = (await api.http.post("/jobs/apply?dry_run=true", json=bodies)).json()
        assert [(i["name"], i["change"], i["paths"]) for i in plan["items"]] == [
            ("a", "updated", ["/policy/max_parallel"]),
            ("b", "created", ["/"]),
        ]
        assert (await api.http.get("/jobs/1")).json()["version"] == 1
        done = (await api.http.post("/jobs/apply", json=bodies)).json()
        assert [(i["id"], i["version"]) for i in done["items"]] == [(1, 2), (2, 1)]
        twice = problem(
            await api.http.post("/jobs/apply", json={"jobs": [job("a"), job("a")]}),
            422,
            "duplicate_name",
        )
        assert twice["errors"][0]["pointer"] == "/jobs/1/name"
        broken = {"jobs": [job("c"), job("d", actions=[{"type": "script", "script": ""}])]}
        refused = problem(await api.http.post("/jobs/apply", json=broken), 422, "empty_script")
        assert refused["errors"][0]["pointer"] == "/jobs/1/actions/0/script"
        assert len((await api.http.get("/jobs")).json()["items"]) == 2


@pytest.mark.parametrize("place", ["policy", "action"])
async def test_more_attempts_than_the_service_allows_are_refused(
    database: Database, place: str
) -> None:
    async with live_api(database) as api:
        retry = {"retry": {"max_attempts": 12}}
        body = job(policy=retry) if place == "policy" else job(actions=[{"command": "x", **retry}])
        refused = problem(await api.http.post("/jobs", json=body), 422, "too_many_attempts")
        at = "/policy" if place == "policy" else "/actions/0"
        assert refused["errors"][0]["pointer"] == f"{at}/retry/max_attempts"


async def test_a_viewer_neither_pauses_nor_applies_jobs(database: Database) -> None:
    async with live_api(database) as api:
        await api.http.post("/jobs", json=job())
        ben = {
            "Authorization": f"Bearer {await api.services.identities.create_key('ben', 'viewer')}"
        }
        for path, body in (
            ("/jobs/1/pause", None),
            ("/jobs/1/clone", None),
            ("/jobs/apply", {"jobs": [job("x")]}),
        ):
            problem(await api.http.post(path, json=body, headers=ben), 403, "forbidden")
        assert (await api.http.post("/jobs/1/validate", headers=ben)).status_code == 200


async def test_validate_plan_and_apply_warn_of_probable_mistakes(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.http.post(
            "/targets", json={"name": "web-1", "host": "10.0.0.1", "labels": {"env": "prod"}}
        )
        declared = [{"name": "dir", "type": "string"}]
        body = job(
            actions=[{"command": "rm -rf ${dri} ${target.labels.nope}"}],
            targets={"ids": ["web-1"]},
            parameters=declared,
        )
        codes = ["undeclared_name", "unknown_label", "unused_parameter"]
        validated = (await ada.http.post("/jobs/validate", json=body)).json()
        assert (validated["valid"], [w["code"] for w in validated["warnings"]]) == (True, codes)
        for query in ("?dry_run=true", ""):
            (item,) = (await ada.http.post(f"/jobs/apply{query}", json={"jobs": [body]})).json()[
                "items"
            ]
            assert [warning["code"] for warning in item["warnings"]] == codes
