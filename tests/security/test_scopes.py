"""Point 4, beyond the matrix: scopes in SQL, in launches, and in stored objects."""

from __future__ import annotations

import random
from typing import Any

from psycopg.types.json import Jsonb

from api.kit import problem
from opsjobs.model.access import Reach, Scope, labels_of
from opsjobs.model.access_bounds import out_of_sight
from opsjobs.store.scope_sql import condition
from opsjobs.store.transaction import Database
from security.two_scopes import FOREIGN, STAGING, principal_with, scoped_app

WORDS = (
    "env=staging",
    "env=prod",
    "env in (staging,dev)",
    "web",
    "env",
    "team=web,env=staging",
    "role in (a,b),canary",
    "env=",
    "k=",
)
LABELS: tuple[dict[str, str], ...] = (
    {}, {"env": "staging"}, {"env": "prod"}, {"env": "dev", "web": ""}, {"env": ""}, {"web": "", "k": "v"}, {"k": ""},
    {"team": "web", "env": "staging"}, {"role": "b", "canary": "no"}, {"role": "c", "canary": ""}, {"ENV": "staging"},
)  # fmt: skip


async def test_a_reach_in_sql_is_a_reach_in_python(database: Database) -> None:
    dice = random.Random(4)
    for _ in range(60):
        reach = Reach(tuple(Scope.parse(dice.choice(WORDS)) for _ in range(dice.randint(0, 3))))
        text, values = condition(reach, "d.labels")
        given = {"all": [Jsonb(labels) for labels in LABELS], **values}
        rows = await database.fetch(
            f"select {text} as held from unnest(%(all)s::jsonb[]) with ordinality d(labels, n) order by n",
            given,
        )
        assert [row["held"] for row in rows] == [reach.holds(labels) for labels in LABELS], reach
    assert condition(Reach((Scope.parse("env=prod"), Scope.parse(""))), "labels") == ("", {})
    assert condition(None, "labels") == ("", {})


async def test_the_labels_of_a_job_are_the_same_in_sql(database: Database) -> None:
    for tags in (
        ["env=staging", "web"],
        [],
        ["env=a", "env=b"],
        ["=x", "a=b=c", "a="],
        ["ä=ö", "x y"],
    ):
        row = await database.fetch_one("select opsjobs_labels(%s::text[]) as labels", [tags])
        assert row is not None
        assert row["labels"] == labels_of(tags)


async def test_a_launch_names_what_lies_outside_if_it_may_be_seen_and_else_says_nothing(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        mine, other = (
            app.things["target", STAGING],
            await app.target("web-other-foreign", FOREIGN),
        )
        job = await app.job("restart", STAGING, mine, other, app.things["target", FOREIGN])
        ben = app.admit(principal_with("ben", ("operator", "env=staging")))
        eve = app.admit(principal_with("eve", ("viewer", ""), ("operator", "env=staging")))
        blind = problem(
            await app.http.post(f"/jobs/{job}/execute", headers=ben), 403, "out_of_reach"
        )["detail"]
        assert blind == out_of_sight().detail
        assert "web-other" not in blind
        seeing = problem(
            await app.http.post(f"/jobs/{job}/execute", headers=eve), 403, "out_of_reach"
        )["detail"]
        assert "foreign" in seeing.split(" is out of your reach: 2 of the 3")[0]
        # Narrowed to the caller's scope it is launched, and has the labels that its targets have in
        # common.
        for path, body in (
            (f"/jobs/{job}/execute", {}),
            ("/run", {"actions": [{"command": "uptime"}]}),
        ):
            launched = await app.http.post(
                path, json={**body, "targets": {"ids": [mine]}}, headers=ben
            )
            assert (launched.status_code, launched.json()["labels"], launched.json()["requested_by_kind"]) == (
                202, {"env": "staging"}, "user",
            )  # fmt: skip
            assert (
                await app.http.get(f"/executions/{launched.json()['id']}", headers=ben)
            ).status_code == 200
        # An invisible target is the same as one that does not exist.
        for target in (other, "web-other-foreign", "nobody", "987654321"):
            for path, body in (
                (f"/jobs/{job}/execute", {}),
                ("/run", {"actions": [{"command": "uptime"}]}),
            ):
                told = await app.http.post(
                    path, json={**body, "targets": {"ids": [target]}}, headers=ben
                )
                assert (
                    problem(told, 422, "unknown_target")["errors"][0]["detail"]
                    == f"There is no target {target!r}."
                )
        groups = {"actions": [{"command": "uptime"}], "targets": {"selector": "env"}}
        assert problem(await app.http.post("/run", json=groups, headers=ben), 403, "out_of_reach")
        assert problem(
            await app.http.post(f"/jobs/{job}/execute", json={"dry_run": True}, headers=ben),
            403,
            "out_of_reach",
        )
        assert problem(
            await app.http.post(f"/jobs/{job}/preview", headers=ben), 403, "out_of_reach"
        )
        validated = (await app.http.post(f"/jobs/{job}/validate", headers=ben)).json()
        assert {error["code"] for error in validated["errors"]} == {"unknown_target"}


async def test_an_execution_is_seen_where_all_of_its_machines_are(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        mine, other = app.things["target", STAGING], app.things["target", FOREIGN]
        job = await app.job("both", STAGING, mine, other)
        execution = await app.ended(job)
        headers = {
            scope: app.admit(principal_with(f"ben-{number}", ("operator", scope)))
            for number, scope in enumerate(("env=staging", "env in (staging,foreign)", "env", ""))
        }
        for scope, ben in headers.items():
            for path in (
                "",
                "/targets",
                "/results",
                "/log",
                "/events",
                "/groups",
                "/timeline",
                "/artifacts",
            ):
                answer = await app.http.get(f"/executions/{execution}{path}", headers=ben)
                assert answer.status_code == (200 if scope == "" else 404), (scope, path)
            seen = [
                item["id"]
                for item in (await app.http.get(f"/jobs/{job}/executions", headers=ben))
                .json()
                .get("items", [])
            ]
            assert seen == ([int(execution)] if scope == "" else []), scope


async def test_a_job_is_written_inside_of_the_scope_with_all_that_it_names(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        mine, other = app.things["target", STAGING], app.things["target", FOREIGN]
        ben = app.admit(principal_with("ben", ("developer", "env=staging")))
        adas_file, bens_file = await app.file("adas"), await app.file("bens", headers=ben)
        upload = {"type": "file_transfer", "direction": "upload", "destination": "/tmp/x"}

        def body(**fields: Any) -> dict[str, Any]:
            plain = {
                "name": "bens",
                "tags": ["env=staging"],
                "actions": [{"command": "uptime"}],
                "targets": {"ids": [mine]},
            }
            return plain | fields

        outside: list[tuple[dict[str, Any], int, str]] = [
            (body(tags=[]), 403, "out_of_reach"),
            (body(tags=["env=foreign"]), 403, "out_of_reach"),
            (body(tags=["env=staging", "env=foreign"]), 403, "out_of_reach"),
            (body(targets={"ids": [other]}), 422, "unknown_target"),
            (body(targets={"ids": ["nobody"]}), 422, "unknown_target"),
            (body(targets={"selector": "env=foreign"}), 403, "out_of_reach"),
            (body(actions=[{"command": "x", "targets": {"ids": [other]}}]), 422, "unknown_target"),
            (
                body(actions=[{"type": "job", "job": app.things["job", FOREIGN]}]),
                422,
                "unknown_job",
            ),
            (
                body(
                    actions=[
                        {
                            "type": "job",
                            "job": app.things["job", STAGING],
                            "targets": {"ids": [other]},
                        }
                    ]
                ),
                422,
                "unknown_target",
            ),
            (body(actions=[{**upload, "source": adas_file}]), 422, "unknown_file"),
            (
                body(actions=[{**upload, "source": "${file}"}], parameters=[{"name": "file"}]),
                403,
                "out_of_reach",
            ),
            (
                body(actions=[{"command": "x", "become": {"user": "root", "credential": "root"}}]),
                403,
                "out_of_reach",
            ),
        ]
        made = (await app.http.post("/jobs", json=body(), headers=ben)).json()["id"]
        for number, (wrong, status, code) in enumerate(outside):
            fresh = {**wrong, "name": f"bens-{number}"}
            problem(await app.http.post("/jobs", json=fresh, headers=ben), status, code)
            problem(
                await app.http.put(f"/jobs/{made}", json=wrong, headers={**ben, "If-Match": "*"}),
                status,
                code,
            )
            problem(
                await app.http.post("/jobs/apply", json={"jobs": [fresh]}, headers=ben),
                status,
                code,
            )
        inside = body(
            actions=[
                {**upload, "source": bens_file},
                {"type": "job", "job": app.things["job", STAGING]},
            ]
        )
        assert (
            await app.http.put(f"/jobs/{made}", json=inside, headers={**ben, "If-Match": "*"})
        ).status_code == 200
        assert (await app.http.post(f"/jobs/{made}/clone", headers=ben)).status_code == 201
        # Names are common to all scopes: a taken name is taken, whoever has it.
        foreign = (await app.http.get(f"/jobs/{app.things['job', FOREIGN]}")).json()
        for path, said in (
            ("/jobs", body(name=foreign["name"])),
            ("/jobs/apply", {"jobs": [body(name=foreign["name"])]}),
        ):
            problem(await app.http.post(path, json=said, headers=ben), 409, "name_taken")
        assert (await app.http.get(f"/jobs/{foreign['id']}")).json() == foreign


async def test_versions_from_when_a_job_was_elsewhere_stay_there(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        job = await app.job("moves", FOREIGN, app.things["target", FOREIGN])
        body = (await app.http.get("/jobs/export?name=moves")).json()["jobs"][0]
        moved = {
            **body,
            "tags": ["env=staging"],
            "targets": {"ids": [app.things["target", STAGING]]},
        }
        assert (
            await app.http.put(f"/jobs/{job}", json=moved, headers={"If-Match": "*"})
        ).status_code == 200
        ben = app.admit(principal_with("ben", ("viewer", "env=staging")))
        versions = (await app.http.get(f"/jobs/{job}/versions?page=1", headers=ben)).json()
        assert ([item["version"] for item in versions["items"]], versions["total"]) == ([2], 1)


async def test_a_target_is_written_inside_of_the_scope_and_brings_nobody_elses_along(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("manager", "env=staging"), ("credentials:use", "")))
        eve = app.admit(principal_with("eve", ("manager", "env=staging")))
        mine = (await app.http.get(f"/targets/{app.things['target', STAGING]}")).json()
        foreign = (await app.http.get(f"/targets/{app.things['target', FOREIGN]}")).json()

        def body(**fields: Any) -> dict[str, Any]:
            return {"name": "bens", "host": "10.0.0.9", "labels": {"env": "staging"}} | fields

        outside: list[tuple[dict[str, Any], int, str]] = [
            (body(labels={}), 403, "out_of_reach"),
            (body(labels={"env": "foreign"}), 403, "out_of_reach"),
            (body(groups=["web"]), 403, "out_of_reach"),
            (body(jump=foreign["name"]), 422, "unknown_target"),
            (body(jump="nobody"), 422, "unknown_target"),
        ]
        made = (await app.http.post("/targets", json=body(), headers=ben)).json()["id"]
        for secret in (body(credential="root", name="eves"), body(jump=mine["name"], name="eves")):
            told = problem(
                await app.http.post("/targets", json=secret, headers=eve), 403, "out_of_reach"
            )
            assert "credentials:use only within a scope" in told["detail"]
        for number, (wrong, status, code) in enumerate(outside):
            problem(
                await app.http.post(
                    "/targets", json={**wrong, "name": f"bens-{number}"}, headers=ben
                ),
                status,
                code,
            )
            problem(await app.http.put(f"/targets/{made}", json=wrong, headers=ben), status, code)
            fresh = {**wrong, "name": f"bens-{number}"}
            imported = (
                await app.http.post("/targets/import", json={"targets": [fresh]}, headers=ben)
            ).json()
            assert (imported["refused"], imported["items"][0]["error"]["code"]) == (1, code)
        assert (
            await app.http.put(f"/targets/{made}", json=body(jump=mine["name"]), headers=ben)
        ).status_code == 200
        entries = [
            {"name": foreign["name"], "host": "10.6.6.6"},
            body(name="bens-own"),
            {"name": "bens", "labels": {"env": "foreign"}},
        ]
        imported = (
            await app.http.post("/targets/import", json={"targets": entries}, headers=ben)
        ).json()
        assert [item["outcome"] for item in imported["items"]] == ["refused", "created", "refused"]
        assert [(item["error"] or {}).get("code") for item in imported["items"]] == [
            "name_taken",
            None,
            "out_of_reach",
        ]
        skipped = (
            await app.http.post(
                "/targets/import", json={"targets": entries[:1], "existing": "skip"}, headers=ben
            )
        ).json()
        assert skipped["items"][0]["id"] is None
        problem(
            await app.http.post("/targets", json=body(name=foreign["name"]), headers=ben),
            409,
            "name_taken",
        )
        assert (await app.http.get(f"/targets/{foreign['id']}")).json() == foreign


async def test_dead_letters_are_answered_within_reach_and_retries_hold_their_targets_against_it(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("operator", "env=staging")))
        letters = (await app.http.get("/dead-letters")).json()["items"]
        foreign = next(
            x for x in letters if str(x["execution_id"]) == app.things["execution", FOREIGN]
        )
        mine = next(
            x for x in letters if str(x["execution_id"]) == app.things["execution", STAGING]
        )
        for verb in ("revive", "discard"):
            said = {"ids": [foreign["id"]], "reason": "because"}
            problem(
                await app.http.post(f"/dead-letters/{verb}", json=said, headers=ben),
                404,
                "dead_letter_not_found",
            )
        # A filter that matches both scopes takes those of the caller.
        everything = {"filter": {"status": "lost"}, "reason": "because"}
        assert (
            await app.http.post("/dead-letters/discard", json=everything, headers=ben)
        ).json() == {"discarded": [mine["id"]]}
        assert [x["id"] for x in (await app.http.get("/dead-letters")).json()["items"]] == [
            foreign["id"]
        ]
        # The machine has moved since: it is outside the scope now, and is not run again for this
        # caller.
        path = f"/executions/{app.things['execution', STAGING]}/retry"
        target = (await app.http.get(f"/targets/{app.things['target', STAGING]}")).json()
        changed = {k: target[k] for k in ("name", "host")} | {"labels": {"env": FOREIGN}}
        assert (await app.http.put(f"/targets/{target['id']}", json=changed)).status_code == 200
        problem(
            await app.http.post(path, json={"which": "unsuccessful"}, headers=ben),
            403,
            "out_of_reach",
        )
        assert (await app.http.post(path, json={"which": "unsuccessful"})).status_code == 202


async def test_a_trigger_and_a_retry_need_the_right_to_execute_too(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(
            principal_with(
                "ben",
                ("schedules:manage", ""),
                ("executions:retry", ""),
                ("dead_letters:manage", ""),
            )
        )
        eve = app.admit(
            principal_with(
                "eve", ("viewer", ""), ("schedules:manage", ""), ("operator", "env=staging")
            )
        )
        paths = {
            f"/schedules/{app.things['schedule', FOREIGN]}/trigger": None,
            f"/executions/{app.things['execution', FOREIGN]}/retry": {"which": "unsuccessful"},
            "/dead-letters/revive": {"filter": {}},
        }
        for path, body in paths.items():
            assert (
                "jobs:execute"
                in problem(await app.http.post(path, json=body, headers=ben), 403, "forbidden")[
                    "detail"
                ]
            ), path
        told = problem(await app.http.post(next(iter(paths)), headers=eve), 403, "out_of_reach")
        assert "does not hold jobs:execute for it" in told["detail"]


async def test_an_idempotency_key_belongs_to_a_name_and_its_kind(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        user = app.admit(principal_with("ada", ("operator", "env=staging")))
        key = {"Idempotency-Key": "one"}
        path = f"/jobs/{app.things['job', FOREIGN]}/execute"
        assert (await app.http.post(path, headers=key)).status_code == 202  # the API key ada
        problem(await app.http.post(path, headers={**user, **key}), 404, "job_not_found")
        mine = f"/jobs/{app.things['job', STAGING]}/execute"
        first, second = [
            await app.http.post(mine, headers=headers) for headers in ({**key}, {**user, **key})
        ]
        assert first.json()["id"] != second.json()["id"]
        assert "idempotency-replayed" not in second.headers


async def test_files_are_their_owners_within_a_scope(database: Database) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("developer", "env=staging")))
        namesake = app.admit(principal_with("ben", ("developer", "env=staging"), kind="service"))
        own = await app.file("bens", headers=ben)
        for path in (f"/files/{own}", f"/files/{own}/content"):
            assert (await app.http.get(path, headers=ben)).status_code == 200
            assert (await app.http.get(path, headers=namesake)).status_code == 404
        assert [
            item["id"] for item in (await app.http.get("/files", headers=ben)).json()["items"]
        ] == [int(own)]
        assert (await app.http.get("/files?page=1", headers=namesake)).json()["total"] == 0
        run = {
            "actions": [
                {"type": "file_transfer", "direction": "upload", "source": own, "destination": "/x"}
            ]
        }
        targets = {"targets": {"ids": [app.things["target", STAGING]]}}
        problem(
            await app.http.post("/run", json={**run, **targets}, headers=namesake),
            422,
            "unknown_file",
        )
        assert (
            await app.http.post("/run", json={**run, **targets}, headers=ben)
        ).status_code == 202
