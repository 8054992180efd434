"""What somebody with a scope may write of a target or job: it lies in his scope before and after, and brings nobody else's along."""

from __future__ import annotations

from collections.abc import Mapping

from opsjobs.model.access import labels_of
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.errors import FieldError, Forbidden
from opsjobs.model.job import Job
from opsjobs.model.target import Target, TargetDraft
from opsjobs.store import retired_names, target_selection
from opsjobs.store.scope_sql import OF_JOB
from opsjobs.store.transaction import Connection


async def check_target(connection: Connection, draft: TargetDraft, bounds: Bounds, old: Target | None = None) -> None:
    """Raises Forbidden, or Invalid for a jump host that he does not see; `old`: as it stands, None of a new one.

    Groups and labels are what others' jobs are for: who is in which group, and what else a machine is labelled, is not for him to
    say. A jump host lends its credential to the way through it.
    """
    if bounds.act.everywhere:
        return
    if old is not None:
        bounds.check_labels(old.labels, f"The target {old.name!r}")
    bounds.check_labels(draft.labels, f"A target with the labels of {draft.name!r}")
    bounds.check_relabelled(draft.labels, old.labels if old is not None else None, draft.name)
    if set(draft.groups) != set(old.groups if old is not None else ()):
        detail = (
            f"Who is in which group is said by those who hold {bounds.permission} for all targets: leave `groups` as they are."
        )
        raise Forbidden("out_of_reach", detail, errors=[FieldError("/groups", detail, "out_of_reach")])
    if draft.jump is not None:
        await _check_jump(connection, draft.jump, bounds, old.jump if old is not None else None)


# By its own list, by an action's, or by that of a gate's check.
_LISTED_BY = """
select distinct v.tags from jobs j join job_versions v on v.job_id = j.id and v.version = j.version
where j.state <> 'archived' and (
  exists (select from job_targets t where t.kind = 'id' and t.value = %(name)s and (t.job_id, t.version) = (j.id, j.version))
  or exists (select from job_actions a where (a.job_id, a.version) = (j.id, j.version)
    and a.definition -> 'targets' -> 'ids' ? %(name)s)
  or coalesce(v.policy -> 'gate' -> 'check' -> 'targets' -> 'ids' ? %(name)s, false))"""


async def check_target_name(connection: Connection, name: str, bounds: Bounds) -> None:
    """A name that others' jobs list, or that was another's machine's, brings their commands and secrets along: within a scope only
    what was one's own comes back. Raises Forbidden.

    Call it after the target was written under a name that is new to it: what was deleted or renamed at the same moment is then seen.
    """
    if bounds.act.everywhere:
        return
    listed = await (await connection.execute(_LISTED_BY, {"name": name})).fetchall()
    was = await retired_names.labels_of_target(connection, name)
    if all(bounds.act.holds(labels_of(row["tags"])) for row in listed) and (was is None or bounds.act.holds(was)):
        return
    detail = (
        f"The name {name!r} was another machine's, or others' jobs list it: choose another name, or ask somebody who holds "
        f"{bounds.permission} for all targets to make it."
    )
    raise Forbidden("name_reserved", detail, errors=[FieldError("/name", detail, "name_reserved")])


# `version`: the one just written, which is the last one itself.
_BRINGS_ALONG = f"""
(select {OF_JOB.format("v.job_id")} as labels from job_versions v
 where v.name = %(name)s and (v.job_id, v.version) is distinct from (%(job)s::bigint, %(version)s::bigint)
 order by v.created_at desc limit 1)
union all select {OF_JOB.format("j.id")} from jobs j where j.state <> 'archived' and exists (
  select from job_actions a where (a.job_id, a.version) = (j.id, j.version) and a.type = 'job' and a.definition ->> 'job' = %(name)s)"""


async def check_job_name(connection: Connection, name: str, bounds: Bounds, made: Job | None) -> None:
    """The same of a job (`made`; None: it would be): workflows run it by its name, with the rights of whoever launches them. Within a
    scope no name comes back that the last job to have it had outside, or that jobs there run. Raises Forbidden.
    """
    if bounds.act.everywhere:
        return
    just_written = {"job": made.id, "version": made.version} if made is not None else {"job": None, "version": None}
    rows = await (await connection.execute(_BRINGS_ALONG, {"name": name, **just_written})).fetchall()
    if all(bounds.act.holds(row["labels"]) for row in rows):
        return
    detail = (
        f"The name {name!r} was a job's outside of your scope, or jobs there run it by this name: choose another name, or ask "
        f"somebody who holds {bounds.permission} for all jobs to make it."
    )
    raise Forbidden("name_reserved", detail, errors=[FieldError("/name", detail, "name_reserved")])


async def _check_jump(connection: Connection, jump: str, bounds: Bounds, old: str | None) -> None:
    """`old`: the id of the jump host that it has; it may stay, wherever it lies."""
    if (found := (await target_selection.listed(connection, [jump])).get(0)) is None or str(found) == old:
        return  # what is not there is told of by whoever writes it
    row = await (await connection.execute("select labels from targets where id = %s", [found])).fetchone()
    labels: Mapping[str, str] = row["labels"] if row is not None else {}
    if not bounds.sight.holds(labels):
        raise target_selection.nothing_named("target", "jump", jump)
    bounds.check_labels(labels, f"The jump host {jump!r}")
