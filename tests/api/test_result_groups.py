"""Groups of targets by their result, and the last good run of a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from api.kit import problem
from api.live import LiveApi, live_api
from kit.scripted_worker import ScriptedExecution
from opsjobs.cli.execution_diff import generalize
from opsjobs.model.execution import ErrorCode, RunError
from opsjobs.store.result_groups import ResultGroups
from opsjobs.store.transaction import Database


async def groups(api: LiveApi, **query: Any) -> list[dict[str, Any]]:
    """Return the groups, the largest first."""
    answer = await api.http.get("/executions/1/groups", params=query)
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def names(api: LiveApi, digest: str, **query: Any) -> list[str]:
    """Return the members of a group, page by page."""
    found, cursor = [], None
    while True:
        more = {"cursor": cursor} if cursor else {}
        answer = await api.http.get(
            f"/executions/1/groups/{digest}/targets", params={"limit": 2, **query, **more}
        )
        body = answer.json()
        found += [run["target"]["name"] for run in body["items"]]
        if (cursor := body["next"]) is None:
            return found


async def test_normalised_groups_leave_out_what_differs_on_every_machine(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.scripted.start(4)
        for n, name in enumerate(api.scripted.runs):
            text = f"{name} (10.0.0.{n + 1}) up {n * 7} days at 1{n}:0{n}:22, id 0x{n}fe{n}a\n"
            text += "kernel old\n" if n == 3 else "kernel  new\n"
            await api.scripted.write(name, text.encode())
            await api.scripted.finish(name)
        assert len(await groups(api)) == 4
        first, second = await groups(api, normalise=True, members=1)
        assert (first["count"], [t["name"] for t in first["targets"]]) == (3, ["web-1"])
        assert first["stdout"].startswith("web-1 (10.0.0.1) up 0 days")
        assert (second["count"], second["targets"][0]["name"]) == (1, "web-4")
        assert await names(api, first["digest"], normalise=True) == ["web-1", "web-2", "web-3"]
        answer = await api.http.get(f"/executions/1/groups/{first['digest']}/targets")
        problem(answer, 404, "group_not_found")


async def test_a_group_says_why_and_how_much_was_written(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(3)
        away = RunError(ErrorCode.CONNECTION_REFUSED, "10.0.0.1:22 refuses connections.")
        await api.scripted.finish("web-1", error=away)
        for name in ("web-2", "web-3"):
            await api.scripted.write(name, b"x" * (70 << 10), stream="stderr")
            await api.scripted.finish(name, 3)
        failed, unreachable = await groups(api)
        assert (unreachable["error_code"], unreachable["error_message"]) == (
            "connection_refused",
            away.message,
        )
        assert (unreachable["stderr_bytes"], unreachable["stderr_truncated"]) == (0, False)
        assert (failed["stderr_bytes"], failed["stderr_truncated"]) == (70 << 10, True)
        assert len(failed["stderr"]) == 64 << 10


async def test_for_a_wrong_digest_no_output_is_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Sequence[int]] = []
    original = ResultGroups._heads

    async def heads(self: ResultGroups, given: Any, runs: Sequence[int]) -> Any:
        read.append(runs)
        return await original(self, given, runs)

    async with live_api(database) as api:
        await api.scripted.start(3)
        for name, text in zip(api.scripted.runs, (b"a", b"bb", b"cc"), strict=True):
            await api.scripted.write(name, text)
            await api.scripted.finish(name)
        digests = [group["digest"] for group in await groups(api)]
        monkeypatch.setattr(ResultGroups, "_heads", heads)
        problem(
            await api.http.get(f"/executions/1/groups/{'0' * 64}/targets"), 404, "group_not_found"
        )
        assert read == []
        assert sorted([await names(api, digest) for digest in digests]) == [
            ["web-1"],
            ["web-2"],
            ["web-3"],
        ]
        assert sorted(len(runs) for runs in read) == [1, 2, 2], "only groups of the same length"


LINES = (
    "web-1 up 12 days, Mon 10:11, id 0xfe01",
    "10.0.0.1 web-1.example web-10 (10.0.0.12)",
    "dead beef cafe 0xZZ 0x1g fe80::1%eth0 1e9 a1b2c3 x86_64 v2.10rc3",
    "Monday Mon. Sunny Sun, May-day Mar31 31Mar _Jan_ Dec\t2026-11-29T05:00:00Z",
    "tabs\t\tand  spaces   1,024 -5 +5 50% 3/4 deadbeef 00ff00 _12_ 12_ab",
    "",
    "no numbers at all",
)


async def test_the_command_line_normalises_like_the_database(database: Database) -> None:
    """`executions diff --normalise` compares in the client, groups are compared in the service."""
    for line in LINES:
        rows = await database.fetch(
            "select opsjobs_generalize(%s::bytea, %s, %s) as text",
            [line.encode(), "web-1", "10.0.0.1"],
        )
        assert rows[0]["text"] == generalize(line, ["web-1", "10.0.0.1"]), line


async def test_normalised_groups_take_output_with_any_byte(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(3)
        texts = (b"a\0b\\ \xff\0\n", b"a b\\ \xff \n", b"a\0b\\ \xfe\0\n")
        for name, text in zip(api.scripted.runs, texts, strict=True):
            await api.scripted.write(name, text)
            await api.scripted.finish(name)
        found = [[t["name"] for t in g["targets"]] for g in await groups(api, normalise=True)]
        assert found == [["web-1", "web-2"], ["web-3"]]


async def test_groups_of_one_stream_compare_only_that(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(3)
        for name, out, err in (("web-1", b"a", b"w"), ("web-2", b"b", b"w"), ("web-3", b"a", b"")):
            await api.scripted.write(name, out)
            if err:
                await api.scripted.write(name, err, stream="stderr")
            await api.scripted.finish(name)
        found = {
            stream: [
                (g["count"], g["stdout"], g["stderr"]) for g in await groups(api, stream=stream)
            ]
            for stream in ("stdout", "stderr")
        }
        assert found["stdout"] == [(2, "a", ""), (1, "b", "")]
        assert found["stderr"] == [(2, "", "w"), (1, "", "")]


async def test_runs_that_have_not_ended_are_compared_if_asked_for(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(3)
        for name in ("web-1", "web-2"):
            await api.scripted.write(name, b"so far")
        await api.scripted.finish("web-1")
        assert [(g["status"], g["count"]) for g in await groups(api)] == [("succeeded", 1)]
        all_of_them = await groups(api, running=True)
        assert sorted((g["status"], g["stdout"]) for g in all_of_them) == [
            ("running", ""),
            ("running", "so far"),
            ("succeeded", "so far"),
        ]
        assert await groups(api, running=True, members=0) == [
            {**g, "targets": []} for g in all_of_them
        ]


async def test_the_baseline_is_the_last_good_run_of_the_job_on_the_target(
    database: Database,
) -> None:
    async with live_api(database) as api:
        body = {"name": "survey", "actions": [{"type": "command", "command": "uptime"}]}
        job = (await api.http.post("/jobs", json=body)).json()["id"]
        stories = []
        for code in (0, 1, 1):
            scripted = ScriptedExecution(database)
            await scripted.start()
            await database.fetch(
                "update job_executions set job_id = %s, job_version = 1 where id = %s returning id",
                [job, scripted.execution_id],
            )
            await scripted.finish("web-1", code)
            stories.append(scripted)
        last = f"/executions/{stories[2].execution_id}/baseline"
        found = (await api.http.get(f"{last}?target=web-1")).json()
        assert found["execution"]["id"] == stories[0].execution_id
        assert found["target_run"]["status"] == "succeeded"
        first = f"/executions/{stories[0].execution_id}/baseline"
        problem(await api.http.get(f"{first}?target=web-1"), 404, "no_baseline")
        problem(await api.http.get(f"{last}?target=web-9"), 404, "target_not_found")
        problem(await api.http.get(last), 422, "invalid")


async def test_the_baseline_is_the_last_good_run_that_the_caller_may_see(
    database: Database,
) -> None:
    async with live_api(database) as api:
        body = {"name": "survey", "actions": [{"type": "command", "command": "uptime"}]}
        job = (await api.http.post("/jobs", json=body)).json()["id"]
        stories = []
        for env in ("dev", "prod", "dev"):
            scripted = ScriptedExecution(database)
            await scripted.start()
            await database.fetch(
                "update job_executions set job_id = %s, job_version = 1 where id = %s returning id",
                [job, scripted.execution_id],
            )
            await database.fetch(
                "update execution_specs set labels = jsonb_build_object('env', %s::text) "
                "where execution_id = %s returning execution_id",
                [env, scripted.execution_id],
            )
            await scripted.finish("web-1", 0)
            stories.append(scripted.execution_id)
        grants = [{"role": "viewer", "scope": "env=dev"}]
        ben = {"name": "ben", "password": "correct horse battery", "grants": grants}
        assert (await api.http.post("/users", json=ben)).is_success
        login = {"username": "ben", "password": ben["password"]}
        token = (await api.http.post("/auth/login", json=login)).json()["access_token"]
        found = await api.http.get(
            f"/executions/{stories[2]}/baseline?target=web-1",
            headers={"Authorization": f"Bearer {token}"},
        )
        assert found.status_code == 200, found.text
        assert found.json()["execution"]["id"] == stories[0]
