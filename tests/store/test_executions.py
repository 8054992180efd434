"""Read access to executions."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from kit.scripted_worker import ScriptedExecution, target
from opsjobs.api.execution_answers import render_result, render_result_group
from opsjobs.model.errors import Invalid, NotFound
from opsjobs.model.execution import ErrorCode, ExecutionStatus, RunError, RunStatus, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.store.executions import Executions
from opsjobs.store.ledger import Ledger
from opsjobs.store.paging import PageRequest
from opsjobs.store.result_groups import Comparison, ResultGroups
from opsjobs.store.transaction import Database

FIRST = PageRequest()


async def test_an_execution_is_found_by_id_and_by_uuid(database: Database) -> None:
    launched = await ScriptedExecution(database).launch(3)
    executions = Executions(database)
    by_id, by_uuid = await executions.get(str(launched.id)), await executions.get(launched.uuid)
    assert by_id == by_uuid
    assert (by_id.status, by_id.counts, by_id.total_targets) == (
        ExecutionStatus.QUEUED,
        {"waiting": 3},
        3,
    )
    assert (by_id.requested_by, by_id.triggered_by, by_id.reason) == (
        Identity("api_key", "ada"),
        TriggeredBy.MANUAL,
        "why not",
    )


@pytest.mark.parametrize(
    "ref",
    [
        "7",
        "0",
        "-1",
        "x",
        str(1 << 70),
        "\u0661",
        "00000000-0000-7000-8000-000000000000",
        "1 or 1=1",
        "\x00",
    ],
)
async def test_an_unknown_reference_is_no_execution(database: Database, ref: str) -> None:
    with pytest.raises(NotFound, match="no execution"):
        await Executions(database).get(ref)


async def test_a_requested_cancel_is_shown_as_cancelling(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start(2)
    await Ledger(database).cancel(scripted.execution_id, by="ben", reason="too loud")
    asked = await scripted.current()
    assert (asked.status, asked.cancelled_by, asked.cancel_reason) == (
        ExecutionStatus.CANCELLING,
        "ben",
        "too loud",
    )
    for name in ("web-1", "web-2"):
        await scripted.finish(name, error=RunError(ErrorCode.CANCELLED, "killed"))
    assert (await scripted.current()).status is ExecutionStatus.CANCELLED


async def test_a_pause_is_shown_until_the_end(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start()
    async with database.connection() as connection:
        await connection.execute("update job_executions set paused = true")
    assert (await scripted.current()).status is ExecutionStatus.PAUSED
    await scripted.finish("web-1")
    assert (await scripted.current()).status is ExecutionStatus.COMPLETED


async def test_executions_are_listed_newest_first_by_cursor_and_filter(database: Database) -> None:
    scripted = ScriptedExecution(database)
    ids = [
        (await scripted.launch(job_name=f"job-{n % 2}", requested_by=("ada", "ben")[n % 2])).id
        for n in range(7)
    ]
    executions = Executions(database)
    first = await executions.list(PageRequest(limit=4))
    second = await executions.list(PageRequest(limit=4, cursor=first.next))
    assert [e.id for e in [*first.items, *second.items]] == ids[::-1]
    assert second.next is None
    of_ben = await executions.list(
        PageRequest(
            filters={"requested_by": ["ben"], "job_name": ["job-1"], "status": ["queued", "failed"]}
        )
    )
    assert [e.id for e in of_ben.items] == [ids[5], ids[3], ids[1]]
    third = await executions.get(str(ids[2]))
    later = await executions.list(
        PageRequest(
            filters={"created_after": [(third.created_at + timedelta(microseconds=1)).isoformat()]}
        )
    )
    assert [e.id for e in later.items] == ids[:2:-1]
    with pytest.raises(Invalid):
        await executions.list(PageRequest(filters={"reason": ["x"]}))


async def test_cancelling_executions_are_found_by_that_status(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start()
    await Ledger(database).cancel(scripted.execution_id, by="ben", reason=None)
    executions = Executions(database)
    assert [
        e.id for e in (await executions.list(PageRequest(filters={"status": ["cancelling"]}))).items
    ] == [scripted.execution_id]
    assert (await executions.list(PageRequest(filters={"status": ["running"]}))).items == []


async def test_runs_are_listed_in_the_order_of_launch(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.launch([target(9, "db-1"), target(1), target(2)])
    await scripted.claim()
    await scripted.finish("web-1", 3)
    executions = Executions(database)
    page = await executions.runs(scripted.execution_id, FIRST)
    assert [r.target.name for r in page.items] == ["db-1", "web-1", "web-2"]
    failed = page.items[1]
    assert (failed.status, failed.exit_code, failed.worker) == (RunStatus.FAILED, 3, "worker-1")
    assert failed.error == RunError(ErrorCode.NONZERO_EXIT, "exit 3")
    assert [
        r.target.id
        for r in (
            await executions.runs(
                scripted.execution_id, PageRequest(filters={"status": ["running"]})
            )
        ).items
    ] == ["9", "2"]
    halves = await executions.runs(scripted.execution_id, PageRequest(limit=2))
    rest = await executions.runs(scripted.execution_id, PageRequest(limit=2, cursor=halves.next))
    assert [r.target.name for r in rest.items] == ["web-2"]


async def test_a_run_is_found_by_its_targets_id_or_name(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.launch([target(1, "2"), target(2, "one")])
    executions = Executions(database)
    assert (await executions.run_of(scripted.execution_id, "2")).target.name == "one"
    assert (await executions.run_of(scripted.execution_id, "one")).target.id == "2"
    with pytest.raises(NotFound):
        await executions.run_of(scripted.execution_id, "web-7")


async def test_results_hold_the_beginning_of_what_was_written(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.launch(2, commands=["cat big", "hostname"])
    await scripted.claim()
    big = bytes(range(256)) * 1000
    await scripted.write("web-1", big, chunk=10_000)
    await scripted.write("web-1", b"oh\n", stream="stderr")
    await scripted.end_action("web-1", "step-1")
    await scripted.write("web-1", b"web-1\n", action="step-2")
    await scripted.finish("web-1", action="step-2")
    page = await Executions(database).results(await scripted.current(), FIRST)
    first, second = page.items
    assert (first.action_key, first.command, first.status) == (
        "step-1",
        "cat big",
        RunStatus.SUCCEEDED,
    )
    assert first.stdout.head == big[:65_536]
    told = render_result(first)
    assert (
        told["stdout_bytes"],
        told["stdout_truncated"],
        told["stderr"],
        told["stderr_truncated"],
    ) == (
        256_000,
        True,
        "oh\n",
        False,
    )
    assert "\ufffd" in told["stdout"]
    assert (
        render_result(second)["stdout"],
        render_result(second)["stdout_truncated"],
        second.command,
    ) == (
        "web-1\n",
        False,
        "hostname",
    )
    assert second.target.name == "web-1"
    assert render_result(second)["duration_ms"] >= 0


async def test_a_result_stops_at_the_first_gap(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    await scripted.write("web-1", b"head")
    await scripted.drop("web-1", 1_000)
    await scripted.write("web-1", b"tail")
    (result,) = (await Executions(database).results(execution, FIRST)).items
    assert (result.stdout.head, result.stdout.total_bytes, result.stdout.truncated) == (
        b"head",
        1_008,
        True,
    )


async def test_a_character_cut_by_the_limit_is_left_out(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    await scripted.write("web-1", b"x" + "ä€😀".encode() * 10_000)
    (result,) = (await Executions(database).results(execution, FIRST)).items
    assert "\ufffd" not in render_result(result)["stdout"]
    assert len(result.stdout.text.encode()) >= 65_533


async def test_a_page_of_results_ends_early_where_it_would_grow_too_large(
    database: Database,
) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start(160)
    for name in scripted.runs:
        await scripted.write(name, b"a" * 70_000)
    executions = Executions(database)
    first = await executions.results(execution, PageRequest(limit=200))
    assert 100 < len(first.items) < 160
    rest = await executions.results(execution, PageRequest(limit=200, cursor=first.next))
    assert len(first.items) + len(rest.items) == 160


async def test_targets_with_an_identical_result_are_one_group(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start(6)
    for name, text, code in [
        ("web-1", b"a", 0),
        ("web-2", b"b", 0),
        ("web-3", b"a", 0),
        ("web-4", b"a", 1),
        ("web-5", b"a", 0),
    ]:
        await scripted.write(name, text[:1])
        await scripted.finish(name, code)
    execution = await scripted.current()
    page = await ResultGroups(database).page(execution, FIRST)
    told = [
        (g.stdout.text, g.exit_code, g.status.value, [t.name for t in g.targets])
        for g in page.items
    ]
    assert told[0] == ("a", 0, "succeeded", ["web-1", "web-3", "web-5"])
    assert sorted(told[1:]) == [("a", 1, "failed", ["web-4"]), ("b", 0, "succeeded", ["web-2"])]
    one = await ResultGroups(database).page(execution, PageRequest(limit=1))
    two = await ResultGroups(database).page(execution, PageRequest(limit=2, cursor=one.next))
    assert [g.digest for g in [*one.items, *two.items]] == [g.digest for g in page.items]


async def test_equal_results_of_two_executions_have_one_digest(database: Database) -> None:
    digests = []
    for text in (b"a", b"a", b"b"):
        scripted = ScriptedExecution(database)
        await scripted.start(1)
        await scripted.write("web-1", text)
        await scripted.finish("web-1")
        (group,) = (await ResultGroups(database).page(await scripted.current(), FIRST)).items
        digests.append(group.digest)
    output = hashlib.sha256(b"a").hexdigest()
    whole = hashlib.sha256(f"succeeded/0/1/{output}".encode()).hexdigest()
    assert digests[0][:-8] == whole[:-8], "the rest is the mark of its status, code and size"
    assert digests[1] == digests[0] != digests[2]


async def test_groups_see_the_chunks_as_one_output_and_the_length_beyond_64_kib(
    database: Database,
) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start(3)
    await scripted.write("web-1", b"z" * 100_000, chunk=1_000)
    await scripted.write("web-2", b"z" * 100_000)
    await scripted.write("web-3", b"z" * 100_001)
    for name in ("web-1", "web-2", "web-3"):
        await scripted.finish(name)
    page = await ResultGroups(database).page(await scripted.current(), FIRST)
    assert [[t.name for t in g.targets] for g in page.items] == [["web-1", "web-2"], ["web-3"]]
    assert render_result_group(page.items[0])["stdout_truncated"]


async def test_groups_can_compare_one_action(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.launch(2, commands=["hostname", "true"])
    await scripted.claim()
    for name in ("web-1", "web-2"):
        await scripted.write(name, name.encode())
        await scripted.end_action(name, "step-1")
        await scripted.write(name, b"same", action="step-2")
        await scripted.finish(name, action="step-2")
    execution = await scripted.current()
    assert len((await ResultGroups(database).page(execution, FIRST)).items) == 2
    (same,) = (
        await ResultGroups(database).page(execution, FIRST, Comparison(action="step-2"))
    ).items
    assert (same.stdout.text, len(same.targets)) == ("same", 2)


async def test_groups_use_the_last_attempt_of_each_action(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.launch(3, commands=["hostname", "true"])
    await scripted.claim()
    for name, tries in (("web-1", 1), ("web-2", 2), ("web-3", 3)):
        for attempt in range(1, tries):
            await scripted.write(name, b"no: try %d of %s" % (attempt, name.encode()))
            await scripted.end_action(name, "step-1", 1)
            scripted.next_attempt(name)
        await scripted.write(name, b"one ")
        await scripted.end_action(name, "step-1")
        await scripted.write(name, b"two", action="step-2")
        await scripted.finish(name, action="step-2")
    execution = await scripted.current()
    for action, said in ((None, "one two"), ("step-1", "one "), ("step-2", "two")):
        (same,) = (
            await ResultGroups(database).page(execution, FIRST, Comparison(action=action))
        ).items
        assert (same.stdout.text, same.stdout.total_bytes, same.status, same.exit_code) == (
            said,
            len(said),
            RunStatus.SUCCEEDED,
            0,
        )
        assert len(same.targets) == 3
