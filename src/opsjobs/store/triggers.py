"""Triggers of jobs: their secrets, sealed, and their last calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Reach
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import moment
from opsjobs.model.identity import Identity
from opsjobs.model.secret import Secret
from opsjobs.model.trigger import CallOutcome, JobTriggerDraft, new_trigger_secret
from opsjobs.store import audit, idempotency
from opsjobs.store.envelope import Sealed, SealPlace
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import Reference, check_basis, find, owner_values, unique_name
from opsjobs.store.scope_sql import OF_JOB
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.vault.credentials import Vault

CALLS_KEPT = 100
"""Number of last calls that are kept for each trigger."""
WINDOW_SECONDS = 60
REASON_CHARACTERS_MAX = 1_000
TABLE = "job_triggers"


@dataclass(frozen=True, slots=True)
class TriggerCall:
    """A call of a trigger, and its outcome."""

    outcome: CallOutcome
    code: str | None = None
    """The error code of a refused call."""
    reason: str | None = None
    times: int = 1
    """The number of refused calls that this entry represents."""
    delivery: str | None = None
    address: str | None = None
    execution_id: int | None = None
    id: int | None = None
    at: datetime | None = None

    def data(self) -> dict[str, Any]:
        """Return an item of GET /triggers/{id}/calls."""
        return {
            "id": self.id,
            "at": moment(self.at),
            "outcome": self.outcome.value,
            "code": self.code,
            "reason": self.reason,
            "times": self.times,
            "delivery": self.delivery,
            "address": self.address,
            "execution_id": self.execution_id,
        }


@dataclass(frozen=True, slots=True)
class StoredTrigger:
    """A trigger without its secret."""

    id: int
    uuid: UUID
    job_id: int
    job_name: str
    draft: JobTriggerDraft
    owner: Identity
    """The identity in whose name the job is launched."""
    enabled: bool
    calls: int
    last_call: TriggerCall | None
    created_at: datetime
    updated_at: datetime

    @property
    def path(self) -> str:
        """The path of the URL that launches the job."""
        return f"/hooks/{self.uuid}"

    def data(self) -> dict[str, Any]:
        """Return the body of GET /triggers/{id}."""
        return {
            "id": self.id,
            "uuid": str(self.uuid),
            "job_id": self.job_id,
            "job_name": self.job_name,
            **self.draft.model_dump(mode="json", exclude_none=True),
            "expires_at": moment(self.draft.expires_at),
            "enabled": self.enabled,
            "path": self.path,
            "owner": self.owner.name,
            "owner_kind": self.owner.kind,
            "calls": self.calls,
            "last_call": self.last_call.data() if self.last_call is not None else None,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


@dataclass(frozen=True, slots=True)
class Hook:
    """A trigger as its URL uses it: with its secret, and with its state at the call."""

    trigger: StoredTrigger
    secret: Secret
    expired: bool
    wait_seconds: int
    """Seconds until the next call is accepted; 0: now."""


_SHOWN = """
select t.id, t.uuid, t.job_id, j.name as job_name, t.name, t.definition, t.owner, t.owner_kind,
  t.enabled, t.expires_at, t.calls, t.created_at, t.updated_at, c.id as call_id, c.at, c.outcome,
  c.code, c.reason, c.times, c.delivery, c.address, c.execution_id
from job_triggers t join jobs j on j.id = t.job_id
left join lateral (select * from trigger_calls
  where trigger_id = t.id order by id desc limit 1) c on true"""
TRIGGERS = Listing(
    _SHOWN,
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "job_id": ListColumn("integer", sort=True),
        "job_name": ListColumn("text", sort=True, natural=True),
        "name": ListColumn("text", sort=True, natural=True),
        "owner": ListColumn("text", sort=True),
        "enabled": ListColumn("boolean"),
        "outcome": ListColumn("text"),
        "created_at": ListColumn("moment", sort=True),
        "updated_at": ListColumn("moment", sort=True),
    },
    labels=OF_JOB.format("listed.job_id"),
)
_CALLS = """
select id as call_id, at, outcome, code, reason, times, delivery, address, execution_id
from trigger_calls where trigger_id = %s order by id desc limit %s"""

_HOOK = """
select t.id, t.uuid, t.job_id, t.name, t.definition, t.owner, t.owner_kind, t.enabled,
  t.expires_at, t.calls, t.created_at, t.updated_at, '' as job_name, null::bigint as call_id,
  t.secret_version, t.key_id, t.wrapped_key, t.sealed, t.expires_at <= n.now as expired,
  case when t.window_calls >= (t.definition ->> 'max_calls_per_minute')::int then
    ceil(greatest(extract(epoch from
      t.window_began_at + make_interval(secs => %(window)s) - n.now), 0)) else 0 end::int as wait
from job_triggers t, (select opsjobs_now() as now offset 0) n where t.uuid = %(uuid)s"""

# The job is locked meanwhile: a transaction that deletes it deletes this trigger, too, or has done
# so before.
_JOB = "select id from jobs where (id = %s or uuid = %s) and state <> 'archived' for share"

_INSERT = """
insert into job_triggers (uuid, job_id, name, definition, owner, owner_kind, enabled, expires_at,
  key_id, wrapped_key, sealed)
values (%(uuid)s, %(job)s, %(name)s, %(definition)s, %(owner)s, %(owner_kind)s, %(enabled)s,
  %(expires_at)s, %(key_id)s, %(wrapped_key)s, %(sealed)s)
returning id"""

_REPLACE = """
update job_triggers set name = %(name)s, definition = %(definition)s, owner = %(owner)s,
  owner_kind = %(owner_kind)s, enabled = %(enabled)s, expires_at = %(expires_at)s,
  updated_at = opsjobs_now()
where id = %(id)s"""

_SWITCH = """
update job_triggers set enabled = %(enabled)s, owner = coalesce(%(owner)s, owner),
  owner_kind = coalesce(%(owner_kind)s, owner_kind), updated_at = opsjobs_now()
where id = %(id)s"""

_ROTATE = """
update job_triggers set secret_version = %(version)s, key_id = %(key_id)s,
  wrapped_key = %(wrapped_key)s, sealed = %(sealed)s, owner = %(owner)s,
  owner_kind = %(owner_kind)s, updated_at = opsjobs_now()
where id = %(id)s"""

# Counts a call. One that is `limited` counts in the current minute, too, and only if the calls of
# that are not used up; one that launches only if the trigger was not disabled meanwhile.
_COUNT = """
update job_triggers t set calls = t.calls + 1,
  window_calls = case when not %(limited)s then t.window_calls
    when t.window_began_at <= n.before then 1 else t.window_calls + 1 end,
  window_began_at = case when %(limited)s and t.window_began_at <= n.before then n.now
    else t.window_began_at end
from (select c.now, c.now - make_interval(secs => %(window)s) as before
      from (select opsjobs_now() as now offset 0) c) n
where t.id = %(id)s and (not %(launches)s or t.enabled)
  and (not %(limited)s or t.window_began_at <= n.before or t.window_calls < %(most)s)
returning t.id"""

_NOTE = """
insert into trigger_calls (trigger_id, outcome, code, reason, times, delivery, address,
  execution_id)
select id, %(outcome)s, %(code)s, %(reason)s, %(times)s, %(delivery)s, %(address)s,
  %(execution_id)s
from job_triggers where uuid = %(uuid)s"""
_PRUNE = f"""
delete from trigger_calls where id <= (
  select c.id from trigger_calls c join job_triggers t on t.id = c.trigger_id
  where t.uuid = %(uuid)s order by c.id desc offset {CALLS_KEPT} limit 1)
and trigger_id = (select id from job_triggers where uuid = %(uuid)s)"""


class JobTriggers:
    """The triggers in PostgreSQL. `vault` seals their secrets.

    `most_per_owner`: the triggers that one identity may create; 0: no limit.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        clock: Clock | None = None,
        *,
        most_per_owner: int = 0,
    ) -> None:
        self._most_per_owner = most_per_owner
        self._database = database
        self._vault = vault
        self._clock = clock or SystemClock()

    async def create(
        self,
        job: str,
        draft: JobTriggerDraft,
        owner: Identity,
        idem: IdempotentRequest | None = None,
    ) -> tuple[StoredTrigger, Secret] | Answer:
        """Store a trigger of the job; return it with its secret, or the first request's response.

        A repeated request gets all but the secret. Raises NotFound, Conflict("name_taken"),
        Conflict("too_many_triggers").
        """
        secret = new_trigger_secret()

        async def write(connection: Connection) -> StoredTrigger:
            named = Reference.require("job", job)
            found = await (await connection.execute(_JOB, [named.id, named.uuid])).fetchone()
            if found is None:
                raise NotFound.for_ref("job", job)
            await self._check_room(connection, owner)
            uuid = uuid7(self._clock.now())
            row = {"uuid": uuid, "job": found["id"], **_row(draft), **owner_values(owner)}
            with unique_name("trigger", draft.name):
                made = await (
                    await connection.execute(_INSERT, {**row, **self._sealed(uuid, 1, secret)})
                ).fetchone()
            assert made is not None
            stored = await _read(connection, made["id"])
            after = {"job": stored.job_id, **_audited(draft, owner.name)}
            await audit.record(
                connection, "trigger.created", "trigger", stored.id, draft.name, after=after
            )
            return stored

        def answer(stored: StoredTrigger) -> Answer:
            return Answer(201, f"/triggers/{stored.id}", {**stored.data(), "secret": None})

        done = await idempotency.once(self._database, idem, write, answer)
        return done if isinstance(done, Answer) else (done, secret)

    async def get(self, ref: str | int) -> StoredTrigger:
        """Return a trigger. Raises NotFound."""
        return _stored(await find(self._database, "trigger", ref, _SHOWN, "t."))

    async def labels(self, trigger: StoredTrigger) -> Mapping[str, str]:
        """Return the labels that scopes are compared with: those of its job."""
        query = f"select {OF_JOB.format('%s')} as labels"
        row = await self._database.fetch_one(query, [trigger.job_id])
        labels: Mapping[str, str] = row["labels"] if row is not None else {}
        return labels

    async def list(self, request: PageRequest, reach: Reach | None = None) -> Page[StoredTrigger]:
        """Return a page of the triggers of jobs within reach; by default newest first."""
        return (await TRIGGERS.page(self._database, request, reach=reach)).map(_stored)

    async def calls(self, trigger: StoredTrigger) -> Sequence[TriggerCall]:
        """Return the calls that are kept, the newest first."""
        rows = await self._database.fetch(_CALLS, [trigger.id, CALLS_KEPT])
        return [_call(row) for row in rows]

    async def replace(
        self,
        ref: str | int,
        draft: JobTriggerDraft,
        owner: Identity,
        *,
        basis: datetime | None = None,
    ) -> StoredTrigger:
        """Replace a trigger, owned by its author; nothing if it is identical. The secret stays.

        Raises NotFound, Precondition(412), Conflict("name_taken").
        """
        async with self._database.transaction() as connection:
            old = await _lock(connection, ref)
            check_basis("trigger", ref, old.updated_at, basis)
            if (old.draft, old.enabled) == (draft, draft.enabled):
                return old
            with unique_name("trigger", draft.name):
                await connection.execute(
                    _REPLACE, {"id": old.id, **_row(draft), **owner_values(owner)}
                )
            before = {**_audited(old.draft, old.owner.name), "enabled": old.enabled}
            changes = audit.changes(before, _audited(draft, owner.name))
            await audit.record(
                connection, "trigger.updated", "trigger", old.id, draft.name, **changes
            )
            return await _read(connection, old.id)

    async def switch(
        self,
        ref: str | int,
        *,
        enabled: bool,
        owner: Identity | None = None,
    ) -> StoredTrigger:
        """Enable or disable a trigger. Raises NotFound.

        `owner`: its new owner, if the old one does not exist any more.
        """
        async with self._database.transaction() as connection:
            old = await _lock(connection, ref)
            if old.enabled == enabled and owner in (None, old.owner):
                return old
            values = {"id": old.id, "enabled": enabled, **owner_values(owner)}
            await connection.execute(_SWITCH, values)
            action = "trigger.enabled" if enabled else "trigger.disabled"
            after = {} if owner is None else {"owner": owner.name}
            await audit.record(connection, action, "trigger", old.id, old.draft.name, after=after)
            return await _read(connection, old.id)

    async def rotate(self, ref: str | int, owner: Identity) -> tuple[StoredTrigger, Secret]:
        """Replace the secret, and return the new one. Raises NotFound.

        The holder of the secret launches the job, so the caller becomes the owner.
        """
        secret = new_trigger_secret()
        async with self._database.transaction() as connection:
            old = await _lock(connection, ref)
            query = "select secret_version as version from job_triggers where id = %s"
            row = await (await connection.execute(query, [old.id])).fetchone()
            assert row is not None
            version = row["version"] + 1
            await connection.execute(
                _ROTATE,
                {
                    "id": old.id,
                    "version": version,
                    **self._sealed(old.uuid, version, secret),
                    **owner_values(owner),
                },
            )
            changes = audit.changes(
                {"owner": old.owner.name, "secret_version": version - 1},
                {"owner": owner.name, "secret_version": version},
            )
            await audit.record(
                connection, "trigger.rotated", "trigger", old.id, old.draft.name, **changes
            )
            return await _read(connection, old.id), secret

    async def delete(self, ref: str | int) -> None:
        """Delete a trigger and its calls; its executions stay. Raises NotFound."""
        async with self._database.transaction() as connection:
            old = await _lock(connection, ref)
            await connection.execute("delete from job_triggers where id = %s", [old.id])
            await audit.record(
                connection,
                "trigger.deleted",
                "trigger",
                old.id,
                old.draft.name,
                before=_audited(old.draft, old.owner.name),
            )

    async def hook(self, uuid: UUID) -> Hook | None:
        """Return the trigger of a URL with its secret; None if there is none.

        Raises KeyMissing, Tampered.
        """
        row = await self._database.fetch_one(_HOOK, {"uuid": uuid, "window": WINDOW_SECONDS})
        if row is None:
            return None
        sealed = Sealed(row["key_id"], row["wrapped_key"], row["sealed"])
        opened = self._vault.open_secret(sealed, SealPlace(TABLE, uuid, row["secret_version"]))
        return Hook(_stored(row), opened, bool(row["expired"]), row["wait"])

    async def count(self, trigger: StoredTrigger) -> bool:
        """Count a call by a holder of the secret that was refused.

        Return False if the calls of this minute are used up, or the trigger was deleted.
        """
        async with self._database.transaction() as connection:
            return await _count(connection, trigger, limited=True)

    async def count_launch(self, connection: Connection, trigger: StoredTrigger) -> bool:
        """Count a call in the transaction of its launch.

        Return False if it must not be launched: the trigger was disabled or deleted meanwhile, or
        its calls of this minute are used up.
        """
        return await _count(connection, trigger, limited=True, launches=True)

    async def note_launch(
        self, connection: Connection, trigger: StoredTrigger, call: TriggerCall
    ) -> None:
        """Record a call in the transaction of its launch."""
        await _note(connection, trigger.uuid, call)

    async def note(self, trigger: StoredTrigger, call: TriggerCall) -> None:
        """Record and count a call that launches nothing; it uses up none of the minute's calls."""
        async with self._database.transaction() as connection:
            await _count(connection, trigger, limited=False)
            await _note(connection, trigger.uuid, call)

    async def note_refused(self, uuid: UUID, call: TriggerCall, trigger: Hook | None) -> None:
        """Record a refused call, in the audit log, too; `trigger` is None if there is none."""
        async with self._database.transaction() as connection:
            await _note(connection, uuid, call)
            known = trigger.trigger if trigger is not None else None
            await audit.record(
                connection,
                "trigger.refused",
                "trigger",
                known.id if known is not None else None,
                known.draft.name if known is not None else None,
                after={"code": call.code, "calls": call.times, "uuid": str(uuid)},
                reason=call.reason,
            )

    async def _check_room(self, connection: Connection, owner: Identity) -> None:
        if not self._most_per_owner:
            return
        query = "select count(*) as n from job_triggers where owner = %s and owner_kind = %s"
        row = await (await connection.execute(query, [owner.name, owner.kind])).fetchone()
        if row is not None and row["n"] >= self._most_per_owner:
            detail = (
                f"{owner.name} owns {self._most_per_owner} triggers, which is the limit "
                "(OPSJOBS_TRIGGERS_PER_CALLER). Delete some, or have the limit raised."
            )
            raise Conflict("too_many_triggers", detail)

    def _sealed(self, uuid: UUID, version: int, secret: Secret) -> dict[str, Any]:
        made = self._vault.seal_secret(secret, SealPlace(TABLE, uuid, version))
        return {"key_id": made.key_id, "wrapped_key": made.wrapped_key, "sealed": made.sealed}


async def delete_triggers_of(connection: Connection, job_id: int) -> None:
    """Delete all triggers of a job that is being deleted."""
    await connection.execute("delete from job_triggers where job_id = %s", [job_id])


async def _count(
    connection: Connection, trigger: StoredTrigger, *, limited: bool, launches: bool = False
) -> bool:
    values = {
        "id": trigger.id,
        "window": WINDOW_SECONDS,
        "most": trigger.draft.max_calls_per_minute,
        "limited": limited,
        "launches": launches,
    }
    return await (await connection.execute(_COUNT, values)).fetchone() is not None


async def _note(connection: Connection, uuid: UUID, call: TriggerCall) -> None:
    reason = call.reason[:REASON_CHARACTERS_MAX] if call.reason is not None else None
    values = {
        "uuid": uuid,
        "outcome": call.outcome.value,
        "code": call.code,
        "reason": reason,
        "times": call.times,
        "delivery": call.delivery,
        "address": call.address,
        "execution_id": call.execution_id,
    }
    await connection.execute(_NOTE, values)
    await connection.execute(_PRUNE, {"uuid": uuid})


async def _lock(connection: Connection, ref: str | int) -> StoredTrigger:
    named = Reference.require("trigger", ref)
    query = "select id from job_triggers where id = %s or uuid = %s for no key update"
    row = await (await connection.execute(query, [named.id, named.uuid])).fetchone()
    if row is None:
        raise NotFound.for_ref("trigger", ref)
    return await _read(connection, row["id"])


async def _read(connection: Connection, trigger_id: int) -> StoredTrigger:
    row = await (await connection.execute(f"{_SHOWN} where t.id = %s", [trigger_id])).fetchone()
    assert row is not None
    return _stored(row)


def _row(draft: JobTriggerDraft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "definition": Jsonb(draft.model_dump(mode="json", exclude_none=True)),
        "enabled": draft.enabled,
        "expires_at": draft.expires_at,
    }


def _audited(draft: JobTriggerDraft, owner: str) -> dict[str, Any]:
    return {"owner": owner, **draft.model_dump(mode="json", exclude_none=True)}


def _stored(row: DictRow) -> StoredTrigger:
    return StoredTrigger(
        id=row["id"],
        uuid=row["uuid"],
        job_id=row["job_id"],
        job_name=row["job_name"],
        draft=JobTriggerDraft.model_validate(row["definition"], context={"stored": True}),
        owner=Identity(row["owner_kind"], row["owner"]),
        enabled=row["enabled"],
        calls=row["calls"],
        last_call=_call(row) if row["call_id"] is not None else None,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _call(row: DictRow) -> TriggerCall:
    return TriggerCall(
        CallOutcome(row["outcome"]),
        row["code"],
        row["reason"],
        row["times"],
        row["delivery"],
        row["address"],
        row["execution_id"],
        row["call_id"],
        row["at"],
    )
