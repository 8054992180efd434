"""Write versions of jobs, with actions and targets; they are immutable afterwards."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from opsjobs.model.access import Requester
from opsjobs.model.action_base import RunningAction
from opsjobs.model.job import JobDraft
from opsjobs.model.safety_verdict import Vetted
from opsjobs.store import audit
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.vault import binding

_INSERT_VERSION = """
insert into job_versions (job_id, version, name, description, job_type, tags, policy, parameters,
  created_by, judgement, author)
values (%(job)s, %(version)s, %(name)s, %(description)s, %(job_type)s, %(tags)s, %(policy)s,
  %(parameters)s, %(by)s,
        %(judgement)s, %(author)s)"""

_INSERT_ACTIONS = """
insert into job_actions (job_id, version, position, key, type, definition)
select %s, %s, a.position, a.key, a.type, a.definition
from unnest(%s::int[], %s::text[], %s::text[], %s::jsonb[]) as a(position, key, type, definition)"""

_INSERT_TARGETS = """
insert into job_targets (job_id, version, position, kind, value)
select %s, %s, t.position, t.kind, t.value from unnest(%s::int[], %s::text[],
  %s::text[]) as t(position, kind, value)"""


_SECRETS_AUTHOR = """
select author from job_versions where job_id = %s and version = %s
  and parameters @? '$[*].from_credential ? (@ != null)'"""


async def secrets_author(database: Database, job_id: int, version: int) -> Requester | None:
    """Return the author of a version that takes secrets from credentials.

    None if it takes none, or if opsjobs itself wrote it.
    """
    row = await database.fetch_one(_SECRETS_AUTHOR, [job_id, version])
    return Requester(**row["author"]) if row is not None and row["author"] is not None else None


async def has_new_author(connection: Connection, job_id: int, version: int) -> bool:
    """Return True if a job that takes secrets from credentials is saved by another identity.

    That identity becomes the author of the next version, so the job still runs if the previous
    author may no longer use credentials.
    """
    row = await (await connection.execute(_SECRETS_AUTHOR, [job_id, version])).fetchone()
    before = row["author"] if row is not None else None
    now = audit.requester()
    return (
        now is not None
        and before is not None
        and (before["name"], before["kind"]) != (now.name, now.kind)
    )


async def write_version(
    connection: Connection, job_id: int, version: int, draft: JobDraft, by: str, *, vetted: Vetted
) -> None:
    """Store a version with the verdict of the safety check.

    Raises Invalid if the job may not use a credential that it names.
    """
    secrets = {
        p.from_credential: f"/parameters/{n}/from_credential"
        for n, p in enumerate(draft.parameters)
        if p.from_credential
    }
    await binding.check_job(connection, job_id, draft.name, _credentials(draft), secrets)
    judgement = vetted.judgement.data() if vetted.judgement is not None else None
    if vetted.override is not None:
        await audit.record(
            connection,
            "safety.overridden",
            "job",
            job_id,
            draft.name,
            after=judgement,
            reason=vetted.override,
        )
    written = draft.model_dump(mode="json")
    shown = {name: written[name] for name in ("name", "description", "job_type", "tags")}
    kept = {name: Jsonb(written[name]) for name in ("policy", "parameters")}
    await connection.execute(
        _INSERT_VERSION,
        {
            "job": job_id,
            "version": version,
            "by": by,
            "judgement": None if judgement is None else Jsonb(judgement),
            "author": audit.written_by(),
            **shown,
            **kept,
        },
    )
    actions = written["actions"]
    await connection.execute(
        _INSERT_ACTIONS,
        [
            job_id,
            version,
            list(range(len(actions))),
            [action["key"] for action in actions],
            [action["type"] for action in actions],
            [Jsonb(action) for action in actions],
        ],
    )
    targets = _selection(draft)
    await connection.execute(
        _INSERT_TARGETS,
        [
            job_id,
            version,
            list(range(len(targets))),
            [kind for kind, _ in targets],
            [value for _, value in targets],
        ],
    )


def _credentials(draft: JobDraft) -> dict[str, str]:
    """Return the credentials that actions name, each with the pointer to one such action."""
    places: list[tuple[str, object]] = [
        (f"/actions/{n}", action) for n, action in enumerate(draft.actions)
    ]
    if draft.policy.gate is not None and draft.policy.gate.check is not None:
        places.append(("/policy/gate/check", draft.policy.gate.check))
    return {
        action.become.credential: f"{place}/become/credential"
        for place, action in places
        if isinstance(action, RunningAction)
        and action.become is not None
        and action.become.credential is not None
    }


def _selection(draft: JobDraft) -> list[tuple[str, str]]:
    selector = draft.targets.selector
    return [
        *(("id", entry) for entry in draft.targets.ids),
        *(("group", group) for group in draft.targets.groups),
        *((("selector", selector),) if selector is not None else ()),
        *(("exclude", entry) for entry in draft.targets.exclude),
    ]
