"""Checks of the targets and jobs that a principal with a scope writes.

The object must be in the scope before and after, and must not give access to objects of others.
"""

from __future__ import annotations

from collections.abc import Mapping

from opsjobs.model.access import labels_of
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.errors import FieldError, Forbidden
from opsjobs.model.job import Job
from opsjobs.model.target import Target, TargetDraft
from opsjobs.store import target_selection
from opsjobs.store.reference import find_retired_labels
from opsjobs.store.scope_sql import OF_JOB
from opsjobs.store.transaction import Connection


async def check_target(
    connection: Connection, draft: TargetDraft, bounds: Bounds, old: Target | None = None
) -> None:
    """Raise Forbidden, or Invalid for an unseen jump host, if the draft exceeds the scope.

    `old`: the stored target, None for a new one. Groups and labels select the targets of others'
    jobs: a principal with a scope changes neither group membership nor other labels. A jump host
    lends its credential to the route through it.
    """
    if bounds.act.everywhere:
        return
    if old is not None:
        bounds.check_labels(old.labels, f"The target {old.name!r}")
    bounds.check_labels(draft.labels, f"A target with the labels of {draft.name!r}")
    bounds.check_relabelled(draft.labels, old.labels if old is not None else None, draft.name)
    if set(draft.groups) != set(old.groups if old is not None else ()):
        detail = (
            f"Changing group membership requires {bounds.permission} for all targets: leave "
            f"`groups` as they are."
        )
        raise Forbidden(
            "out_of_reach", detail, errors=[FieldError("/groups", detail, "out_of_reach")]
        )
    if draft.jump is not None:
        await _check_jump(connection, draft.jump, bounds, old.jump if old is not None else None)


# Listed by the job itself, by an action, or by the check of a gate.
_LISTED_BY = """
select distinct v.tags from jobs j join job_versions v on v.job_id = j.id and v.version = j.version
where j.state <> 'archived' and (
  exists (select from job_targets t where t.kind = 'id' and t.value = %(name)s
    and (t.job_id, t.version) = (j.id, j.version))
  or exists (select from job_actions a where (a.job_id, a.version) = (j.id, j.version)
    and a.definition -> 'targets' -> 'ids' ? %(name)s)
  or coalesce(v.policy -> 'gate' -> 'check' -> 'targets' -> 'ids' ? %(name)s, false))"""


async def check_target_name(connection: Connection, name: str, bounds: Bounds) -> None:
    """Raise Forbidden if the name of a target would receive commands and secrets of others.

    Jobs of others may list the name, or another target had it: within a scope, only names from that
    scope can be reused. Call it after the target was written under a name that is new to it, so
    that concurrent deletions and renames are seen.
    """
    if bounds.act.everywhere:
        return
    listed = await (await connection.execute(_LISTED_BY, {"name": name})).fetchall()
    was = await find_retired_labels(connection, name)
    if all(bounds.act.holds(labels_of(row["tags"])) for row in listed) and (
        was is None or bounds.act.holds(was)
    ):
        return
    detail = (
        f"The name {name!r} belonged to another machine, or jobs of others list it: choose another "
        f"name, or ask an "
        f"identity that holds {bounds.permission} for all targets to create it."
    )
    raise Forbidden("name_reserved", detail, errors=[FieldError("/name", detail, "name_reserved")])


# `version`: the version just written, which would otherwise be the latest.
_BRINGS_ALONG = f"""
(select {OF_JOB.format("v.job_id")} as labels from job_versions v
 where v.name = %(name)s and (v.job_id, v.version) is distinct
   from (%(job)s::bigint, %(version)s::bigint)
 order by v.created_at desc limit 1)
union all select {OF_JOB.format("j.id")} from jobs j where j.state <> 'archived' and exists (
  select from job_actions a where (a.job_id, a.version) = (j.id, j.version) and a.type = 'job'
    and a.definition ->> 'job' = %(name)s)"""


async def check_job_name(
    connection: Connection, name: str, bounds: Bounds, made: Job | None
) -> None:
    """Raise Forbidden if jobs outside of the scope had or run the name of a job.

    Workflows run a job by its name, with the rights of the caller that launches them. Within a
    scope, a name cannot be reused if the last job with it was outside, or if jobs outside run it.
    `made`: the job; None for one that is not yet written.
    """
    if bounds.act.everywhere:
        return
    just_written = (
        {"job": made.id, "version": made.version}
        if made is not None
        else {"job": None, "version": None}
    )
    rows = await (
        await connection.execute(_BRINGS_ALONG, {"name": name, **just_written})
    ).fetchall()
    if all(bounds.act.holds(row["labels"]) for row in rows):
        return
    detail = (
        f"The name {name!r} belonged to a job outside of your scope, or jobs there run it by this "
        f"name: choose another "
        f"name, or ask an identity that holds {bounds.permission} for all jobs to create it."
    )
    raise Forbidden("name_reserved", detail, errors=[FieldError("/name", detail, "name_reserved")])


async def _check_jump(connection: Connection, jump: str, bounds: Bounds, old: str | None) -> None:
    """Check that a new jump host is visible and in scope.

    `old`: the id of the current jump host; it may stay, even outside of the scope.
    """
    if (found := (await target_selection.find_listed(connection, [jump])).get(0)) is None or str(
        found
    ) == old:
        return  # an unknown name is reported by the caller that writes it
    row = await (
        await connection.execute("select labels from targets where id = %s", [found])
    ).fetchone()
    labels: Mapping[str, str] = row["labels"] if row is not None else {}
    if not bounds.sight.holds(labels):
        raise target_selection.nothing_named("target", "jump", jump)
    bounds.check_labels(labels, f"The jump host {jump!r}")
