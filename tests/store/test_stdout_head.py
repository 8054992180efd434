"""The start of an action's stdout is read from the entries of its run only.

The rest of the execution's log is not read, however long it is.
"""

from __future__ import annotations

from typing import Any

from kit.ledger_fixtures import Owner, launch, machines
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import _STDOUT, Claimed, Progress
from opsjobs.store.transaction import Database, DatabaseOptions

_OTHERS = """
insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, action,
  attempt, stream, start_offset, data)
select %(day)s, %(execution)s, 1000 + n, 'output', 1000000 + n %% 100, 'x', 'step-1', 1, 'stdout',
  n / 100 * 2, 'x\n'
from generate_series(1, 20000) n"""


async def said(database: Database, *pieces: bytes) -> tuple[Claimed, Progress]:
    """Return a run with this output, among many others of its execution."""
    execution = await launch(database, machines(1))
    owner = await Owner(database).register()
    (run,) = (await owner.claim()).runs
    flush = owner.flush([run], None, data=pieces[0])
    await Ledger(database).settle(flush)
    at = len(pieces[0])
    async with database.connection() as connection:
        for nth, piece in enumerate(pieces[1:]):
            await connection.execute(
                "insert into execution_log (log_day, execution_id, seq, event, target_run_id, "
                "target_id, action, attempt, stream,"
                " start_offset, data) values (%s, %s, %s, 'output', %s, %s, 'step-1', 1, 'stdout', "
                "%s, %s)",
                [execution.log_day, execution.id, 500 + nth, run.id, run.target_id, at, piece],
            )
            at += len(piece)
        await connection.execute(_OTHERS, {"day": execution.log_day, "execution": execution.id})
        await connection.execute("analyze execution_log")
    (seen,) = (await Ledger(database).load_progress([run.id]))[run.id]
    return run, seen


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the plan's scans of tables."""
    here = [plan] if "Relation Name" in plan else []
    return here + [scan for part in plan.get("Plans", ()) for scan in scans(part)]


async def test_a_worker_reads_the_entries_of_one_run_and_no_others(database: Database) -> None:
    run, seen = await said(database, b"one\n")
    worker = Database(DatabaseOptions(database.options.url, connections=1, hot_verbs=True))
    await worker.open()
    try:
        asked = {
            "day": run.log_day,
            "execution": run.execution_id,
            "run": run.id,
            "attempt": 1,
            "action": "step-1",
            "limit": 65536,
        }
        async with worker.connection() as connection:
            explained = await connection.execute(
                "explain (format json, analyze, timing off) " + _STDOUT, asked
            )
            row = await explained.fetchone()
        assert row is not None
        read = [scan for scan in scans(row["QUERY PLAN"][0]["Plan"]) if scan["Actual Loops"]]
        assert await Ledger(worker).read_stdout(run, seen, 65536) == b"one\n"
    finally:
        await worker.close()
    assert all("target_run_id" in scan.get("Index Cond", "") for scan in read), read
    assert sum(scan.get("Rows Removed by Filter", 0) for scan in read) < 10


async def test_stdout_is_read_up_to_the_requested_size(database: Database) -> None:
    run, seen = await said(database, b"one\n", b"two\n", b"three\n")
    ledger = Ledger(database)
    assert [await ledger.read_stdout(run, seen, size) for size in (1, 4, 6, 100)] == [
        b"o",
        b"one\n",
        b"one\ntw",
        b"one\ntwo\nthree\n",
    ]
    rows = await database.fetch(
        _STDOUT,
        {
            "day": run.log_day,
            "execution": run.execution_id,
            "run": run.id,
            "attempt": 1,
            "action": "step-1",
            "limit": 6,
        },
    )
    assert sum(len(row["data"]) for row in rows) == 6
