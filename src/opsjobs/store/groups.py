"""Groups of targets: store them, keep them free of cycles, find their members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.execution import moment
from opsjobs.model.selection import GroupDraft, SelectionDraft, check_nesting
from opsjobs.store import audit, idempotency, target_selection
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import check_basis, check_unused, find, lock, unique_name
from opsjobs.store.transaction import Connection, Database

# Changes to nested groups are made one at a time, so that two of them cannot close a cycle
# together.
_LOCK = 0x67726F757073


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A group as it is shown; `targets` is the number of targets that name it directly."""

    id: int
    uuid: str
    name: str
    description: str
    selector: str | None
    groups: Sequence[str]
    targets: int
    created_at: datetime
    updated_at: datetime

    def data(self) -> dict[str, Any]:
        """Return the body of GET /target-groups/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "description": self.description,
            "selector": self.selector,
            "groups": list(self.groups),
            "direct_targets": self.targets,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


_SHOWN = """
select g.id, g.uuid, g.name, g.description, g.selector, g.groups, g.created_at, g.updated_at,
  (select count(*) from targets t where t.groups @> array[g.name]) as targets
    from target_groups g"""
GROUPS = Listing(
    _SHOWN,
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "groups": ListColumn("texts"),
        "created_at": ListColumn("moment", sort=True),
        "updated_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)

_INSERT = """
insert into target_groups (uuid, name, description, selector, groups)
values (%(uuid)s, %(name)s, %(description)s, %(selector)s, %(groups)s) returning id"""
_REPLACE = """
update target_groups set name = %(name)s, description = %(description)s, selector = %(selector)s,
groups = %(groups)s,
  updated_at = opsjobs_now() where id = %(id)s"""
_JOIN = """
update targets set groups = groups || %(name)s::text, version = version + 1,
updated_at = opsjobs_now()
where id = any(%(targets)s) and not groups @> array[%(name)s::text]"""
_PART = """
update targets set groups = array_remove(groups, %(name)s::text), version = version + 1,
updated_at = opsjobs_now()
where groups @> array[%(name)s::text] and not id = any(%(targets)s)"""
_RENAME = (
    """update targets set groups = array_replace(groups, %(old)s, %(name)s), version = version + 1,
    updated_at = opsjobs_now()
    where groups @> array[%(old)s::text]""",
    """update target_groups set groups = array_replace(groups, %(old)s, %(name)s),
    updated_at = opsjobs_now()
    where groups @> array[%(old)s::text]""",
)
_HOLDERS = """
select name, count(*) over () as n from target_groups where groups @> array[%(name)s::text]
  order by name limit %(limit)s"""
_JOBS = """
select j.name, count(*) over () as n from jobs j join job_targets t on t.job_id = j.id
  and t.version = j.version
where t.kind = 'group' and t.value = %(name)s and j.state <> 'archived' order by j.name
  limit %(limit)s"""


class Groups:
    """The groups in PostgreSQL."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def create(
        self, draft: GroupDraft, idem: IdempotentRequest | None = None
    ) -> StoredGroup | Answer:
        """Store a group; return an Answer if this request was done before.

        Raises Conflict("name_taken"), Invalid.
        """

        async def insert(connection: Connection) -> StoredGroup:
            await _check(connection, draft, None)
            with unique_name("group", draft.name):
                made = await connection.execute(
                    _INSERT, {**_values(draft), "uuid": uuid7(self._clock.now())}
                )
            row = await made.fetchone()
            assert row is not None
            await self._admit(connection, draft)
            stored = await _read(connection, row["id"])
            after = _describe(stored, draft)
            await audit.record(
                connection, "group.created", "group", stored.id, stored.name, after=after
            )
            return stored

        answer = idempotency.created_at("/target-groups")
        return await idempotency.once(self._database, idem, insert, answer)

    async def replace(
        self, ref: str, draft: GroupDraft, *, basis: datetime | None = None
    ) -> StoredGroup:
        """Replace the group; a new name is also written to its targets and enclosing groups.

        Raises NotFound, Conflict("name_taken"), Conflict("group_in_use") if a job refers to the old
        name, Invalid.
        """
        async with self._database.transaction() as connection:
            group_id, old = await _locked(connection, ref)
            before = await _read(connection, group_id)
            check_basis("group", ref, before.updated_at, basis)
            if draft.name != old:
                await _check_users(connection, old, (_JOBS,))
            await _check(connection, draft, old)
            with unique_name("group", draft.name):
                await connection.execute(_REPLACE, {**_values(draft), "id": group_id})
            if draft.name != old:
                for statement in _RENAME:
                    await connection.execute(statement, {"old": old, "name": draft.name})
            await self._admit(connection, draft)
            stored = await _read(connection, group_id)
            changes = audit.changes(before.data(), _describe(stored, draft))
            await audit.record(
                connection, "group.updated", "group", group_id, stored.name, **changes
            )
            return stored

    async def get(self, ref: str) -> StoredGroup:
        """Return one group. Raises NotFound."""
        return _stored(await find(self._database, "group", ref, _SHOWN, "g."))

    async def members(self, ref: str) -> list[int]:
        """Return the ids of all its members, direct or not. Raises NotFound."""
        rows = await target_selection.select(
            self._database, SelectionDraft(groups=[(await self.get(ref)).name])
        )
        return [row["id"] for row in rows]

    async def delete(self, ref: str) -> None:
        """Delete a group; its targets stay. Raises NotFound, Conflict("group_in_use").

        The conflict names groups or jobs that refer to it.
        """
        async with self._database.transaction() as connection:
            group_id, name = await _locked(connection, ref)
            await _check_users(connection, name, (_HOLDERS, _JOBS))
            await connection.execute(_PART, {"name": name, "targets": []})
            before = audit.describe((await _read(connection, group_id)).data())
            await connection.execute("delete from target_groups where id = %s", [group_id])
            await audit.record(connection, "group.deleted", "group", group_id, name, before=before)

    async def _admit(self, connection: Connection, draft: GroupDraft) -> None:
        await target_selection.create_missing_groups(connection, draft.groups)
        if draft.targets is None:
            return
        ids = await target_selection.find_listed(connection, draft.targets)
        unknown = [position for position in range(len(draft.targets)) if position not in ids]
        if unknown:
            faults = [
                target_selection.unknown("/targets", p, "target", draft.targets[p]) for p in unknown
            ]
            raise Invalid(
                "unknown_target",
                faults[0].detail,
                errors=faults[: target_selection.UNKNOWN_SHOWN_MAX],
            )
        values = {"name": draft.name, "targets": sorted(set(ids.values()))}
        await connection.execute(_PART, values)
        await connection.execute(_JOIN, values)

    async def list(self, request: PageRequest) -> Page[StoredGroup]:
        """Return a page of groups, by name."""
        return (await GROUPS.page(self._database, request)).map(_stored)


async def _check(connection: Connection, draft: GroupDraft, old: str | None) -> None:
    """Raise Invalid if this draft would make groups contain each other in a cycle."""
    await connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
    rows = await (
        await connection.execute("select name, groups from target_groups where groups <> '{}'")
    ).fetchall()
    renamed: dict[str, str] = {old: draft.name} if old is not None else {}
    held: Mapping[str, Sequence[str]] = {
        renamed.get(row["name"], str(row["name"])): [
            renamed.get(group, group) for group in row["groups"]
        ]
        for row in rows
    }
    try:
        check_nesting(draft.name, {**held, draft.name: draft.groups})
    except ValueError as wrong:
        detail = f"{wrong}."
        raise Invalid(
            "invalid_group", detail, errors=[FieldError("/groups", detail, "invalid_group")]
        ) from None


async def _check_users(connection: Connection, name: str, questions: Sequence[str]) -> None:
    for question in questions:
        await check_unused(
            connection, "group_in_use", f"The group {name!r} is named by", question, {"name": name}
        )


async def _locked(connection: Connection, ref: str) -> tuple[int, str]:
    row = await lock(connection, "group", ref, "select id, name from target_groups")
    return int(row["id"]), str(row["name"])


async def _read(connection: Connection, group_id: int) -> StoredGroup:
    row = await (await connection.execute(f"{_SHOWN} where g.id = %s", [group_id])).fetchone()
    assert row is not None
    return _stored(row)


def _describe(stored: StoredGroup, draft: GroupDraft) -> dict[str, Any]:
    """Return a group as the audit log shows it: with the targets that the draft sets, if any."""
    given = {} if draft.targets is None else {"targets": list(draft.targets)}
    return {**audit.describe(stored.data()), **given}


def _values(draft: GroupDraft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "description": draft.description,
        "selector": draft.selector,
        "groups": list(dict.fromkeys(draft.groups)),
    }


def _stored(row: DictRow) -> StoredGroup:
    shown = {name: row[name] for name in StoredGroup.__dataclass_fields__}
    return StoredGroup(**{**shown, "uuid": str(row["uuid"])})
