"""Groups of an execution's targets with equal results."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.errors import NotFound
from opsjobs.model.execution import RunStatus
from opsjobs.model.run_views import NO_OUTPUT, Captured, Execution, ResultGroup, TargetName
from opsjobs.store.executions import INLINE_BYTES
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

GENERALIZED_BYTES = 16 << 10
"""With `normalise`, at most this much of each stream is compared."""
GENERALIZED_BYTES_MAX = 8 << 20
"""With `normalise`, at most this much of all runs: PostgreSQL does some MiB a second."""
_HEADS_AT_ONCE = 200

# The result that counts for each action of a run: its last attempt, by number; a voided one only if
# there is no other.
_COUNTING = """
select distinct on (x.target_run_id, x.action) x.target_run_id, x.action, x.attempt, x.status,
       x.exit_code,
       greatest(x.stdout_stored, x.stdout_bytes) as bytes,
       greatest(x.stderr_stored, x.stderr_bytes) as err_bytes
from {of} as r join job_execution_results x on x.target_run_id = r.id
where x.execution_id = %(execution)s and (%(action)s::text is null or x.action = %(action)s)
order by x.target_run_id, x.action, x.status = 'skipped' and x.cancel_proof is not null,
  x.attempt desc"""
_STREAM_HEADS = """
select l.target_run_id, substring(string_agg(l.data, ''::bytea order by l.seq)
                                  from 1 for %(inline)s) as head
from counting c join execution_log l on l.target_run_id = c.target_run_id and l.action = c.action
  and l.attempt = c.attempt
where l.log_day = %(log_day)s and l.execution_id = %(execution)s and l.event = 'output' and {which}
  and l.data is not null and l.start_offset < %(inline)s
group by l.target_run_id"""
_STDOUT_HEADS = _STREAM_HEADS.format(
    which="l.stream = 'stdout' and %(stream)s::text is distinct from 'stderr'"
)
# Unless it is asked for, the stderr of an action that succeeded is not compared.
_STDERR_HEADS = _STREAM_HEADS.format(
    which="l.stream = 'stderr' and %(stream)s::text is distinct from 'stdout'"
    " and (c.status <> 'succeeded' or %(stream)s::text = 'stderr')"
)
_GROUPS = load_statement(
    __file__,
    "result_groups",
    counting=_COUNTING.format(of="run"),
    stdout_heads=_STDOUT_HEADS,
    stderr_heads=_STDERR_HEADS,
)
GROUPS = Listing(
    _GROUPS,
    {"count": ListColumn("integer", sort=True), "status": ListColumn("text")},
    default_sort="-count",
    keyed=False,
)
# What is compared of these runs; `general` is the text that `normalise` makes of it.
_GROUP_HEADS = f"""
with counting as materialized ({_COUNTING.format(of="(select unnest(%(runs)s::bigint[]) as id)")}
) select h.*, case when %(normalise)s then
    convert_to(opsjobs_generalize(substring(h.head from 1 for %(generalized)s),
      r.target_name, r.target_host), 'UTF8') end as general
from (select 'stdout' as stream, o.* from ({_STDOUT_HEADS.strip()}) o union all select 'stderr',
  c.* from ({_STDERR_HEADS.strip()}) c) h join target_runs r on r.id = h.target_run_id"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The parts of results that are compared: all actions or one, both streams or one."""

    action: str | None = None
    stream: str | None = None
    normalise: bool = False
    """Leave out what differs on every machine: its name, times, numbers, spaces."""
    running: bool = False
    """Compare runs that have not ended, too, by their output so far."""


class ResultGroups:
    """Read access to the groups; each read returns a bounded number of rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        execution: Execution,
        request: PageRequest,
        compared: Comparison | None = None,
        *,
        members: int | None = None,
    ) -> Page[ResultGroup]:
        """Return ended runs grouped by equal results, the largest group first.

        `members`: how many targets of each group are returned; None: all.
        """
        given = _parameters(execution, compared or Comparison(), members)
        page = await GROUPS.page(self._database, request, given)
        heads = await self._heads(given, [row["id"] for row in page.items])
        return page.map(lambda row: _group(row, heads))

    async def runs(
        self, execution: Execution, digest: str, compared: Comparison
    ) -> Collection[int]:
        """Return the ids of the runs of one group. Raises NotFound."""
        given = _parameters(execution, compared, 0)
        rows = await self._database.fetch(f"select * from ({_GROUPS}) g order by count desc", given)
        # Their output is read only of groups that may have the digest.
        rows = [row for row in rows if digest.endswith(_mark(row))]
        for at in range(0, len(rows), _HEADS_AT_ONCE):
            some = rows[at : at + _HEADS_AT_ONCE]
            heads = await self._heads(given, [row["id"] for row in some])
            for row in some:
                if _group(row, heads).digest == digest:
                    return list(row["runs"])
        raise NotFound(
            "group_not_found",
            f"Execution {execution.id} has no group {digest[:80]!r}, or no longer: see its /groups "
            "with the same action, stream, normalise and running.",
        )

    async def _heads(self, given: Mapping[str, Any], runs: Sequence[int]) -> _Heads:
        if not runs:
            return {}
        rows = await self._database.fetch(_GROUP_HEADS, {**given, "runs": list(runs)})
        return {
            (row["target_run_id"], row["stream"]): (row["head"], row["general"]) for row in rows
        }


_Heads = Mapping[tuple[int, str], tuple[bytes, bytes | None]]


def _parameters(execution: Execution, compared: Comparison, members: int | None) -> dict[str, Any]:
    return {
        "execution": execution.id,
        "log_day": execution.log_day,
        "inline": INLINE_BYTES,
        "generalized": min(
            GENERALIZED_BYTES, GENERALIZED_BYTES_MAX // max(execution.total_targets, 1)
        ),
        "action": compared.action,
        "stream": compared.stream,
        "normalise": compared.normalise,
        "running": compared.running,
        "members": members,
        "salt": secrets.randbits(63),
    }


def _group(row: Mapping[str, Any], heads: _Heads) -> ResultGroup:
    targets = [TargetName(*t) for t in zip(row["ids"], row["names"], row["hosts"], strict=True)]
    stdout, stderr = heads.get((row["id"], "stdout")), heads.get((row["id"], "stderr"))
    return ResultGroup(
        _digest(row, stdout, stderr),
        row["exit_code"],
        RunStatus(row["status"]),
        Captured(stdout[0] if stdout else b"", row["bytes"]),
        targets,
        row["error_code"],
        row["error_message"],
        Captured(stderr[0], row["err_bytes"]) if stderr else NO_OUTPUT,
        row["count"],
    )


def _digest(
    row: Mapping[str, Any],
    stdout: tuple[bytes, bytes | None] | None,
    stderr: tuple[bytes, bytes | None] | None,
) -> str:
    """Return a digest that is the same for equal results of any execution.

    It ends with the mark of the group.
    """
    compared = [
        row["status"],
        "-" if row["exit_code"] is None else row["exit_code"],
        "-" if row["size"] is None else row["size"],
        _sha256(stdout),
        row["error_code"],
        _sha256(stderr),
    ]
    text = "/".join(str(part) for part in compared if part is not None)
    mark = _mark(row)
    return hashlib.sha256(text.encode()).hexdigest()[: -len(mark)] + mark


def _mark(row: Mapping[str, Any]) -> str:
    """Return the part of a group's digest that follows from its row, without its output."""
    compared = [row["status"], row["exit_code"], row["size"], row["error_code"]]
    return hashlib.sha256(repr(compared).encode()).hexdigest()[:8]


def _sha256(head: tuple[bytes, bytes | None] | None) -> str | None:
    if head is None:
        return None
    exact, general = head
    return hashlib.sha256(exact if general is None else general).hexdigest()
