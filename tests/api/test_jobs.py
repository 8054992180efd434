"""/jobs over HTTP."""

from __future__ import annotations

import pytest

from api.kit import api_client, definition_of, job, problem, stored
from opsjobs.model.policy import Policy
from opsjobs.store.transaction import Database


async def test_a_job_is_created_read_replaced_and_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        made = await ada.http.post("/jobs", json=job(tags=["web"]))
        assert made.status_code == 201
        assert (made.headers["location"], made.headers["etag"]) == ("/jobs/1", '"1"')
        body = made.json()
        assert (body["status"], body["state"], body["created_by"], body["version"]) == (
            "new",
            "active",
            "ada",
            1,
        )
        shown = await ada.http.get(f"/jobs/{body['uuid']}")
        assert (stored(shown.json()), shown.headers["etag"]) == (body, '"1"')
        changed = await ada.http.put(
            "/jobs/1", json=job("restart-www"), headers={"If-Match": '"1"'}
        )
        assert (changed.status_code, changed.json()["version"], changed.headers["etag"]) == (
            200,
            2,
            '"2"',
        )
        versions = (await ada.http.get("/jobs/1/versions")).json()["items"]
        assert [(v["version"], v["name"]) for v in versions] == [
            (2, "restart-www"),
            (1, "restart-web"),
        ]
        assert (await ada.http.delete("/jobs/1")).status_code == 204
        for path in ("/jobs/1", "/jobs/1/versions"):
            problem(await ada.http.get(path), 404, "job_not_found")
        assert (await ada.http.post("/jobs", json=job())).status_code == 201


async def test_the_definition_from_get_can_be_put_back(database: Database) -> None:
    async with api_client(database) as ada:
        shown = (
            await ada.http.post(
                "/jobs",
                json=job(actions=[{"command": "a", "timeout": "90s", "output_limit": "1MiB"}]),
            )
        ).json()
        again = await ada.http.put(
            "/jobs/1",
            json=definition_of(shown),
            headers={"If-Match": "*"},
        )
        assert (again.status_code, again.json()["version"]) == (200, 1)


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (None, 428, "if_match_missing"),
        ('"7"', 412, "stale_version"),
        ("7", 412, "stale_version"),
        ("junk", 412, "stale_version"),
        ('"' + "9" * 5000 + '"', 412, "stale_version"),
    ],
)
async def test_an_update_without_if_match_is_428(
    database: Database, header: str | None, status: int, code: str
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        headers = {} if header is None else {"If-Match": header}
        problem(await ada.http.put("/jobs/1", json=job("other"), headers=headers), status, code)
        assert (await ada.http.get("/jobs/1")).json()["name"] == "restart-web"


@pytest.mark.parametrize("header", ['"1"', 'W/"1"', '"9", "1"', "*"])
async def test_an_update_with_the_current_etag_is_accepted(database: Database, header: str) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        changed = await ada.http.put("/jobs/1", json=job("other"), headers={"If-Match": header})
        assert changed.status_code == 200


async def test_a_delete_with_a_stale_etag_is_412(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        problem(await ada.http.delete("/jobs/1", headers={"If-Match": '"2"'}), 412, "stale_version")


async def test_a_taken_name_is_409_with_the_name(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        told = problem(await ada.http.post("/jobs", json=job()), 409, "name_taken")
        assert "'restart-web'" in told["detail"]
        assert told["errors"][0]["pointer"] == "/name"


async def test_a_repeated_job_post_is_replayed_by_idempotency_key(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        key = {"Idempotency-Key": "k-1"}
        first = await ada.http.post("/jobs", json=job(), headers=key)
        again = await ada.http.post("/api/v1/jobs", json=job(), headers=key)
        assert (again.status_code, again.json()) == (201, first.json())
        assert (again.headers["location"], again.headers["etag"]) == ("/api/v1/jobs/1", '"1"')
        assert again.headers["idempotency-replayed"] == "true"
        problem(
            await ada.http.post("/jobs", json=job("other"), headers=key),
            422,
            "idempotency_mismatch",
        )
        problem(
            await ada.http.post("/jobs", json=job("other"), headers={"Idempotency-Key": "a b"}),
            422,
            "invalid_header",
        )
        ben = {**await ada.token_of("developer"), **key}
        assert (await ada.http.post("/jobs", json=job("bens"), headers=ben)).json()[
            "created_by"
        ] == "ben-developer"
        assert len((await ada.http.get("/jobs")).json()["items"]) == 2


async def test_flat_fields_and_camel_case_are_accepted(database: Database) -> None:
    async with api_client(database) as ada:
        old = {
            "name": "old",
            "job_type": "command",
            "target_ids": ["1"],
            "actions": [
                {
                    "action_type": "command",
                    "action_order": 1,
                    "action_parameters": {"command": "uptime"},
                }
            ],
            "timeout_seconds": 60,
            "policy": {"maxParallel": 2},
        }
        made = (await ada.http.post("/jobs", json=old)).json()
        assert made["targets"]["ids"] == ["1"]
        policy = {"timeout": "1m", "max_parallel": 2, "order": "inventory", "priority": 5}
        assert made["policy"] == Policy.model_validate(
            {**policy, "on_lost": "ask", "durable": "auto"}
        ).model_dump(mode="json")
        assert made["actions"][0]["command"] == "uptime"


async def test_jobs_are_listed_filtered_sorted_and_counted(database: Database) -> None:
    async with api_client(database) as ada:
        for name, tag in (("a", "x"), ("c", "x"), ("b", "y")):
            await ada.http.post("/jobs", json=job(name, tags=[tag]))
        body = (await ada.http.get("/jobs?tags=x&sort=-name&page=1&size=1")).json()
        assert ([item["name"] for item in body["items"]], body["total"]) == (["c"], 2)
        assert [
            i["name"] for i in (await ada.http.get("/jobs?name=a&name=b&sort=name")).json()["items"]
        ] == ["a", "b"]
        assert (await ada.http.get("/jobs?status=running")).json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("actions", "code", "pointer"),
    [
        ([{"key": "a", "command": "x", "dependsOn": ["a"]}], "cycle", "/actions/0/depends_on"),
        ([{"command": "x"}, {"type": "script", "script": ""}], "empty_script", "/actions/1/script"),
        (
            [{"command": "x", "key": "a"}, {"command": "x", "key": "a"}],
            "duplicate_key",
            "/actions/1/key",
        ),
    ],
)
async def test_an_error_between_actions_has_a_pointer(
    database: Database, actions: list[dict[str, object]], code: str, pointer: str
) -> None:
    async with api_client(database) as ada:
        refused = problem(await ada.http.post("/jobs", json=job(actions=actions)), 422, code)
        assert [(e["pointer"], e["code"]) for e in refused["errors"]] == [(pointer, code)]
        assert refused["detail"].startswith(f"{pointer}: ")


async def test_pointers_do_not_contain_the_action_type(database: Database) -> None:
    async with api_client(database) as ada:
        body = job(actions=[{"type": "command", "command": "x", "timeout": "soon"}])
        refused = problem(await ada.http.post("/jobs", json=body), 422, "invalid")
        assert refused["errors"][0]["pointer"] == "/actions/0/timeout"
        body = job(policy={"gate": {"check": {"type": "command"}}})
        refused = problem(await ada.http.post("/jobs", json=body), 422, "invalid")
        assert refused["errors"][0]["pointer"] == "/policy/gate/check/command"


async def test_an_unknown_field_suggests_the_probable_one(database: Database) -> None:
    async with api_client(database) as ada:
        action = {
            "type": "file_transfer",
            "direction": "upload",
            "source": "1",
            "dest": "/etc/app.conf",
        }
        refused = problem(await ada.http.post("/jobs", json=job(actions=[action])), 422, "invalid")
        told = {error["pointer"]: error["detail"] for error in refused["errors"]}
        assert told["/actions/0/dest"] == "there is no such field here; did you mean 'destination'?"


async def test_pointers_lead_into_the_body_as_it_was_sent(database: Database) -> None:
    async with api_client(database) as ada:
        body = {
            "name": "key",
            "type": "ssh_key",
            "username": "ada",
            "source": {"backend": "vault", "pth": "x"},
        }
        refused = problem(await ada.http.post("/credentials", json=body), 422, "invalid")
        assert {error["pointer"] for error in refused["errors"]} == {"/source/pth", "/source/path"}
        parameters = [{"name": "days", "type": "integer", "default": {"a": 1}}]
        refused = problem(
            await ada.http.post("/jobs", json=job(parameters=parameters)), 422, "invalid"
        )
        assert {error["pointer"] for error in refused["errors"]} == {"/parameters/0/default"}
        refused = problem(
            await ada.http.post(
                "/targets", json={"name": "web-1", "host": "h", "labels": {"a b": "c"}}
            ),
            422,
            "invalid",
        )
        assert {error["pointer"] for error in refused["errors"]} == {"/labels/a b"}


async def test_a_body_of_a_thousand_unknown_fields_is_refused_with_the_first_hundred(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        refused = problem(
            await ada.http.post("/jobs", json={f"field_{n}": n for n in range(1_000)}),
            422,
            "invalid",
        )
        assert len(refused["errors"]) == 100
        assert "more in errors" in refused["detail"]
