"""Dead letters: runs that ended lost or dead and wait for an answer.

Each is answered once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from opsjobs.model.access import Reach
from opsjobs.model.errors import Conflict, NotFound, Refusal
from opsjobs.model.execution import ErrorCode, RunError, RunStatus
from opsjobs.model.retry_request import (
    DeadLetter,
    DiscardDraft,
    LetterFilter,
    LettersDraft,
    PastRun,
)
from opsjobs.model.run_views import TargetName
from opsjobs.store import audit
from opsjobs.store.launch_history import RUN_COLUMNS, parse_past_run
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.scope_sql import LAUNCHED, LAUNCHED_EXECUTION, OF_EXECUTION, and_within_each
from opsjobs.store.transaction import Connection, Database

FOUND_MAX = 10_000
# Maximum number of letters that the audit log names per answer.
AUDITED_LETTERS_MAX = 100

# `job` and `target` are found by id as well as by name: the array contains both.
_LETTERS = f"""
select {RUN_COLUMNS}, r.error_message, r.attempt, r.finished_at as at, r.late_result, e.job_id,
       s.job_name, s.summary,
       array_remove(array[e.job_id::text, s.job_name], null) as job, array[r.target_id,
       r.target_name] as target,
       r.error_code as error, r.execution_id as execution, s.labels, s.requested_by,
       s.requested_by_kind
from target_runs r join job_executions e on e.id = r.execution_id
  join execution_specs s on s.execution_id = e.id
where r.status in ('lost', 'dead') and not exists (select from dead_letter_answers a
  where a.run_id = r.id)"""
DEAD_LETTERS = Listing(
    _LETTERS,
    {
        "id": ListColumn("integer", sort=True),
        "job": ListColumn("texts"),
        "target": ListColumn("texts"),
        "error": ListColumn("text"),
        "status": ListColumn("text"),
        "execution": ListColumn("integer"),
        "at": ListColumn("moment"),
    },
    labels="labels",
    launched=LAUNCHED,
    facets=("error", "status", "job_name"),
)

_FIND = f"""
select * from ({_LETTERS}) l
where (%(ids)s::bigint[] is null or id = any(%(ids)s::bigint[]))
  and (%(job)s::text is null or %(job)s = any(job))
  and (%(target)s::text is null or %(target)s = any(target))
    and (%(error)s::text is null or error = %(error)s)
  and (%(status)s::text is null or status = %(status)s)
    and (%(execution)s::bigint is null or execution = %(execution)s)
  and (%(since)s::timestamptz is null or at >= %(since)s){{within}}
order by execution_id, id limit {FOUND_MAX}"""

# A second answer waits for the commit of the first one, and then gets no row: a letter has one
# answer.
_ANSWER = """
insert into dead_letter_answers (run_id, answer, answered_by, reason)
select r.id, %(answer)s, %(by)s, %(reason)s from target_runs r
where r.id = any(%(ids)s::bigint[]) and r.status in ('lost', 'dead') order by r.id
on conflict (run_id) do nothing returning run_id"""

_BECAME = "update dead_letter_answers set execution_id = %s where run_id = any(%s::bigint[])"
_ANSWERED = """
select a.run_id, a.answer, a.answered_by,
  a.execution_id from dead_letter_answers a join target_runs r on r.id = a.run_id
where a.run_id = any(%(ids)s::bigint[]){within} order by a.run_id limit 1"""


class DeadLetters:
    """The list of dead letters, and their answers, in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, request: PageRequest, reach: Reach | None = None) -> Page[DeadLetter]:
        """Return the dead letters of executions within reach, newest first.

        Filters and orders are those of DEAD_LETTERS.
        """
        return (await DEAD_LETTERS.page(self._database, request, reach=reach)).map(_letter)

    async def find(
        self, wish: LettersDraft, reach: Reach | None = None, sight: Reach | None = None
    ) -> Sequence[PastRun]:
        """Return the requested letters within reach and sight, by execution: at most 10,000."""
        named = wish.filter or LetterFilter()
        within, reaching = and_within_each([reach, sight], "l.labels", LAUNCHED)
        parameters = {
            **named.model_dump(mode="json"),
            "since": named.since,
            "ids": wish.ids,
            **reaching,
        }
        return [
            parse_past_run(row)
            for row in await self._database.fetch(_FIND.format(within=within), parameters)
        ]

    async def discard(
        self,
        wish: DiscardDraft,
        *,
        by: str,
        reach: Reach | None = None,
        sight: Reach | None = None,
    ) -> Sequence[int]:
        """Discard the requested letters within reach and sight, at most 10,000; return their ids.

        Raises NotFound, Conflict.
        """
        ids = [run.id for run in await self.find(wish, reach, sight)]

        async def write() -> Sequence[int]:
            async with self._database.transaction() as connection:
                discarded = await answer(connection, ids, "discarded", by=by, reason=wish.reason)
                if not discarded and wish.ids is not None:
                    raise await refusal(connection, wish.ids, reach, sight)
                if discarded:
                    await record_answers(connection, "discarded", discarded, wish.reason)
                return sorted(discarded)

        return await self._database.retry(write)


async def answer(
    connection: Connection,
    run_ids: Sequence[int],
    answered: Literal["revived", "discarded"],
    *,
    by: str,
    reason: str | None,
) -> frozenset[int]:
    """Answer these runs; return those that were dead letters without an answer."""
    given = {"ids": list(run_ids), "answer": answered, "by": by, "reason": reason}
    rows = await (await connection.execute(_ANSWER, given)).fetchall()
    return frozenset(row["run_id"] for row in rows)


async def record_answers(
    connection: Connection,
    answered: Literal["revived", "discarded"],
    run_ids: Collection[int],
    reason: str | None,
) -> None:
    """Record in the audit log who answered these letters, and how."""
    after = {"letters": len(run_ids), "ids": sorted(run_ids)[:AUDITED_LETTERS_MAX]}
    await audit.record(
        connection,
        f"dead_letter.{answered}",
        "dead_letter",
        min(run_ids),
        after=after,
        reason=reason,
    )


async def record_revived(connection: Connection, run_ids: Sequence[int], execution_id: int) -> None:
    """Record which execution these revived runs became."""
    await connection.execute(_BECAME, [execution_id, list(run_ids)])


async def refusal(
    connection: Connection,
    ids: Sequence[int],
    reach: Reach | None = None,
    sight: Reach | None = None,
) -> Refusal:
    """Return the error if no letter could be answered.

    Either no such letter exists within reach and sight, or another answer came first.
    """
    execution = "r.execution_id"
    within, reaching = and_within_each(
        [reach, sight], OF_EXECUTION.format(execution), LAUNCHED_EXECUTION.format(execution)
    )
    answered = await connection.execute(
        _ANSWERED.format(within=within), {"ids": list(ids), **reaching}
    )
    row = await answered.fetchone()
    if row is None:
        return NotFound(
            "dead_letter_not_found", f"There is no dead letter {ids[0]}: see GET /dead-letters."
        )
    became = f", as execution {row['execution_id']}" if row["execution_id"] else ""
    detail = (
        f"The dead letter {row['run_id']} was {row['answer']} by {row['answered_by']} "
        f"before{became}."
    )
    return Conflict("dead_letter_answered", detail)


def _letter(row: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        execution_id=row["execution_id"],
        job_id=row["job_id"],
        job_name=row["job_name"],
        target=TargetName(row["target_id"], row["target_name"], row["target_host"]),
        status=RunStatus(row["status"]),
        error=RunError(ErrorCode(row["error_code"]), row["error_message"] or "")
        if row["error_code"]
        else None,
        attempts=row["attempt"],
        at=row["at"],
        late_result=row["late_result"],
        summary=row["summary"],
    )
