"""The built-in inventory: targets, their selection, and the complete route to each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Reach
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.credential import Credential
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.execution import moment
from opsjobs.model.selection import LabelCount, SelectionDraft, count_labels
from opsjobs.model.target import (
    Endpoint,
    HostKeyPolicy,
    Target,
    TargetDraft,
    Transport,
    check_local_transport,
)
from opsjobs.model.winrm import WinrmOptions
from opsjobs.store import audit, circuits, host_keys, idempotency, target_selection
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import Reference, check_basis, check_unused, find, lock, unique_name
from opsjobs.store.scope_checks import check_target, check_target_name
from opsjobs.store.scope_sql import and_within
from opsjobs.store.target_history import HEALTH_STATUS
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.vault import binding
from opsjobs.store.vault.credentials import Vault

JUMPS_MAX = 4
# Changes to jump hosts are made one at a time, so that two of them cannot close a cycle together.
_JUMPS_LOCK = 0x6A756D7073


@dataclass(frozen=True, slots=True)
class StoredTarget:
    """A target with its metadata. `credential_name` and `jump_name` are shown in responses."""

    target: Target
    uuid: str
    credential_name: str | None
    jump_name: str | None
    external_id: str | None
    """The id in the platform's Target Service; None: the target is kept here."""
    created_at: datetime
    updated_at: datetime

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that scopes match against."""
        return self.target.labels

    def data(self) -> dict[str, Any]:
        """Return the body of GET /targets/{id}; `id` is text, as all ids of targets are."""
        references = {"credential": self.credential_name, "jump": self.jump_name}
        return {
            "id": self.target.id,
            "uuid": self.uuid,
            **{name: _plain(getattr(self.target, name)) for name in TargetDraft.model_fields},
            **references,
            "external_id": self.external_id,
            "version": self.target.version,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


# A field of a target is a column of the same name, except that references are stored as ids.
# Column by column: other processes run on through a migration, and a prepared statement may not
# change its result.
_REFERENCES = {"credential": "credential_id", "jump": "jump_id"}
_COLUMNS = tuple(_REFERENCES.get(name, name) for name in TargetDraft.model_fields)
_NAMES = ", ".join(_COLUMNS)
_VALUES = ", ".join(f"%({column})s" for column in _COLUMNS)
_TARGET = f"""t.id, {", ".join(f"t.{column}" for column in _COLUMNS)}, t.version"""
# The credential that is set here, else the one that a label of the Target Service names.
_LOGIN = "coalesce(t.credential_id, t.label_credential_id)"
_USED = _TARGET.replace("t.credential_id", f"{_LOGIN} as credential_id")

_SELECT = f"""
select {_TARGET}, t.uuid, t.external_id, t.created_at, t.updated_at,
  c.name as credential, j.name as jump
from targets t
left join credentials c on c.id = t.credential_id left join targets j on j.id = t.jump_id"""
_LISTED = _SELECT.replace("\nfrom", ",\n  t.name_order, t.host_order\nfrom", 1)

# Targets that are kept here and those of the Target Service are never mixed up: the same id or name
# may mean another machine there.
_KEPT = "t.gone_at is null and (t.external_id is not null) = %(remote)s"
_SUBSET = f" where (%(among)s::bigint[] is null or t.id = any(%(among)s)) and {_KEPT}"

# Targets with trouble are first, each kind in the order of names.
_BY_HEALTH = """(case health when 'unhealthy' then '0' when 'maintenance' then '1'
  when 'unknown' then '2' else '3' end) || name_order"""

TARGETS = Listing(
    _LISTED + _SUBSET,
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, expression="name_order"),
        "host": ListColumn("text", sort=True, expression="host_order"),
        "port": ListColumn("integer"),
        "transport": ListColumn("text"),
        "platform": ListColumn("text"),
        "groups": ListColumn("texts"),
        "credential": ListColumn("text"),
        "jump": ListColumn("text"),
        "host_key_policy": ListColumn("text"),
        "zone": ListColumn("text"),
        "durable": ListColumn("text"),
        "health": ListColumn("text", sort=True, expression=_BY_HEALTH),
        "created_at": ListColumn("moment"),
        "updated_at": ListColumn("moment"),
    },
    default_sort="name",
    labels="labels",
    search=("name", "host"),
    facets=("health", "zone", "transport", "platform"),
    computed={"health": HEALTH_STATUS},
)

_INSERT = f"insert into targets (uuid, {_NAMES}) values (%(uuid)s, {_VALUES}) returning id"
# With an id below all others: an insert that is rolled back uses up none of the sequence.
_TRY = f"""
insert into targets (id, uuid, {_NAMES}) overriding system value
values ((select least(min(id), 0) - 1 from targets), %(uuid)s, {_VALUES}) returning id"""

_REPLACE = f"""
update targets set ({_NAMES}) = row({_VALUES}), version = version + 1, updated_at = opsjobs_now()
where id = %(id)s and ({_NAMES}) is distinct from ({_VALUES})"""

# Targets of a Target Service that is not connected any more reserve no names.
_FREE_NAMES = """
update targets set name = left(name, 150) || ' (' || external_id || ')',
  updated_at = opsjobs_now()
where name = any(%s) and external_id is not null"""

# Counts the jump hosts before this one, and those after it: the longest route through it is the
# sum. Union ends cycles.
_ROUTE = f"""
with recursive ahead(id, depth) as (
  select %(jump)s::bigint, 1
  union select t.jump_id, depth + 1 from ahead join targets t using (id) where t.jump_id is not null
    and depth <= {JUMPS_MAX}
), behind(id, depth) as (
  select id, 1 from targets where jump_id = %(id)s
  union select t.id, depth + 1 from behind join targets t on t.jump_id = behind.id
    where depth <= {JUMPS_MAX}
)
select (select max(depth) from ahead) + coalesce((select max(depth) from behind), 0) as jumps,
       exists (select from ahead where id = %(id)s) as circle"""

_REACH = f"""
with recursive reach(id) as (
  select id from targets t where id = any(%(ids)s::bigint[]) and {_KEPT}
  union select t.jump_id from targets t join reach using (id) where t.jump_id is not null
)
select {_USED} from targets t join reach using (id)
where (t.external_id is not null) = %(remote)s"""

# Includes what a launch checks of the logins, so that unbound ones need no further query.
_LAUNCHED = target_selection.Read(
    f"{_USED}, (c.bound_targets <> '{{}}' or c.bound_groups <> '{{}}' or c.bound_jobs <> '{{}}')"
    " is true as bound",
    f"left join credentials c on c.id = {_LOGIN}",
)
_NAMED = (
    f"select {_LAUNCHED.columns} from targets t {_LAUNCHED.joined} "
    f"where t.id = any(%(ids)s::bigint[]) and {_KEPT}"
)

# Labels with the most targets first, so that the limit of rows leaves out the rarest ones.
LABELS_READ_MAX = 20_000
_LABELS = """
select l.key, l.value, count(*) as n from targets t cross join lateral jsonb_each_text(t.labels) l
where {kept}{within} and (%(key)s::text is null or l.key = %(key)s)
  and (%(q)s::text is null or strpos(lower(l.value), lower(%(q)s)) > 0)
group by l.key, l.value order by n desc, l.key, l.value limit %(limit)s"""

_BEHIND = (
    "select name, count(*) over () as n from targets where jump_id = %(id)s order by name "
    "limit %(limit)s"
)


class TargetInventory:
    """Targets in PostgreSQL; also the embedded replacement of the Target Service.

    `local`: whether `transport: local` is enabled.
    """

    remote = False
    """True if its targets are those of the Target Service; others are never used."""

    def __init__(
        self, database: Database, vault: Vault, clock: Clock | None = None, *, local: bool = False
    ) -> None:
        self._local = local
        self._database = database
        self._vault = vault
        self._clock = clock or SystemClock()

    def check_writable(self, what: str) -> None:
        """Do nothing: targets are kept here. Elsewhere this raises Conflict."""

    async def create(
        self,
        draft: TargetDraft,
        idem: IdempotentRequest | None = None,
        *,
        bounds: Bounds = NO_BOUNDS,
    ) -> StoredTarget | Answer:
        """Store a target; return an Answer if this request was done before.

        Raises Conflict("name_taken"), Invalid, Forbidden.
        """

        async def write(connection: Connection) -> StoredTarget:
            check_local_transport(
                draft.transport, None, allowed=self._local, everywhere=bounds.act.everywhere
            )
            await check_target(connection, draft, bounds)
            stored = await _read(
                connection, await insert(connection, draft, uuid7(self._clock.now()))
            )
            await check_target_name(connection, draft.name, bounds)
            return stored

        def answer(stored: StoredTarget) -> Answer:
            return Answer(201, f"/targets/{stored.target.id}", stored.data())

        return await idempotency.once(self._database, idem, write, answer)

    async def replace(
        self,
        ref: str,
        draft: TargetDraft,
        *,
        bounds: Bounds = NO_BOUNDS,
        basis: datetime | None = None,
    ) -> StoredTarget:
        """Replace the target; `version` grows if anything differs.

        Raises NotFound, Conflict("name_taken"), Invalid, and Forbidden if it is outside the
        caller's scope before or after.
        """
        async with self._database.transaction() as connection:
            target_id = await _locked(connection, ref)
            read = await _read(connection, target_id)
            check_basis("target", ref, read.updated_at, basis)
            old = read.target
            check_local_transport(
                draft.transport,
                old.transport,
                allowed=self._local,
                everywhere=bounds.act.everywhere,
            )
            if bounds.act.everywhere:
                return await change(connection, target_id, draft)
            await check_target(connection, draft, bounds, old)
            stored = await change(connection, target_id, draft)
            if draft.name != old.name:
                await check_target_name(connection, draft.name, bounds)
        return stored

    async def get(self, ref: str) -> StoredTarget:
        """Return one target. Raises NotFound."""
        return _stored(await find(self._database, "target", ref, _SELECT, "t."))

    async def delete(self, ref: str) -> None:
        """Delete the target. Raises NotFound, Conflict("target_in_use").

        The conflict names the targets that are reached through it.
        """
        async with self._database.transaction() as connection:
            target_id = await _locked(connection, ref)
            gone = await _read(connection, target_id)
            await _check_unused(connection, gone)
            await connection.execute("delete from targets where id = %s", [target_id])
            before = audit.describe(gone.data())
            await audit.record(
                connection, "target.deleted", "target", target_id, gone.target.name, before=before
            )
            await circuits.forget(connection, "target_id", target_id)

    async def check_delete(self, stored: StoredTarget) -> None:
        """Raise as `delete` would now; change nothing, and lock nothing."""
        async with self._database.transaction() as connection:
            await _check_unused(connection, stored)

    async def resolve(self, selection: SelectionDraft, sight: Reach | None = None) -> list[Target]:
        """Return the selected targets, each once: from ids, then groups, then selector.

        Those of ids are in their order, those of groups and selector by target id. Raises
        Invalid("unknown_target") with a pointer to each entry of `ids` or `groups` that does not
        exist, or that names a target outside of `sight` (None: all are visible); Forbidden if
        groups or the selector find nothing and the caller does not see all targets.
        """
        read = replace(_LAUNCHED, remote=self.remote)
        return [
            _target(row)
            for row in await target_selection.select(self._database, selection, sight, read)
        ]

    async def count_labels(
        self, *, key: str | None = None, q: str | None = None, reach: Reach | None = None
    ) -> list[LabelCount]:
        """Return the labels of the targets within reach, with the numbers of targets.

        `key`: only of this key. `q`: only values that contain this text, in any case.
        """
        within, reaching = and_within(reach, "t.labels")
        values = {"key": key, "q": q, "limit": LABELS_READ_MAX, "remote": self.remote}
        query = _LABELS.format(kept=_KEPT, within=within)
        rows = await self._database.fetch(query, {**values, **reaching})
        return count_labels({(row["key"], row["value"]): row["n"] for row in rows})

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return the endpoints of these targets, with opened credentials, in two queries.

        Unknown ids are left out. `jumps` begins with the jump host nearest to opsjobs. A target
        whose route is a cycle, longer than 4, or through a target of the other source is also left
        out.
        """
        wanted = [int(i) for i in target_ids if i.isdigit() and Reference.parse(i)]
        found = await self._database.fetch(_REACH, {"ids": wanted, "remote": self.remote})
        rows = {row["id"]: _target(row) for row in found}
        logins = sorted({t.credential for t in rows.values() if t.credential is not None})
        opened = await self._vault.open_many(logins) if logins else {}
        routes = {i: _route(rows[i], rows, opened) for i in wanted if i in rows}
        return {str(i): endpoint for i, endpoint in routes.items() if endpoint is not None}

    async def count(self) -> int:
        """Return the number of all targets."""
        row = await self._database.fetch_one(
            f"select count(*) as n from targets t where {_KEPT}", {"remote": self.remote}
        )
        return int(row["n"]) if row is not None else 0

    async def get_many(
        self,
        target_ids: Sequence[str],
        *,
        strict: bool = False,  # noqa: ARG002  for targets of the Target Service
    ) -> dict[str, Target]:
        """Return these targets as they are now, by id; unknown ids are left out."""
        wanted = [int(i) for i in target_ids if i.isdigit() and Reference.parse(i)]
        rows = await self._database.fetch(_NAMED, {"ids": wanted, "remote": self.remote})
        return {str(row["id"]): _target(row) for row in rows}

    async def remember_host_key(self, target_id: str, key: str) -> bool:
        """Pin the first key seen of a target that accepts new keys.

        Returns False if another key is already pinned, or if the target does not accept new keys.
        """
        query = """update targets set host_keys = host_keys || %s::text, version = version + 1,
        updated_at = opsjobs_now()
            where id = %s and host_key_policy = 'accept_new'
              and not exists (select from unnest(host_keys) k where k not like '@revoked %%')
                returning name"""
        reference = Reference.require("target", target_id)
        line = host_keys.host_key_line(key)
        async with self._database.transaction() as connection:
            made = await (await connection.execute(query, [line, reference.id])).fetchone()
            if made is not None:
                after = {"host_keys": [line]}
                await audit.record(
                    connection,
                    "target.host_key_accepted",
                    "target",
                    reference.id,
                    made["name"],
                    after=after,
                )
                return True
        pinned = "select 1 from targets where id = %s and %s = any(host_keys)"
        return await self._database.fetch_one(pinned, [reference.id, line]) is not None

    async def list(
        self,
        request: PageRequest,
        selector: str | None = None,
        among: Sequence[int] | None = None,
        *,
        reach: Reach | None = None,
    ) -> Page[StoredTarget]:
        """Return a page of the targets within reach, narrowed by filters, label selector or ids.

        `among`: the ids to choose from.
        """
        if selector is not None:
            among = await target_selection.by_selector(self._database, selector)
        values = {"among": among, "remote": self.remote}
        return (await TARGETS.page(self._database, request, values, reach=reach)).map(_stored)


async def insert(
    connection: Connection, draft: TargetDraft, uuid: UUID, *, kept: bool = True
) -> int:
    """Store a target; return its id. Raises Conflict("name_taken"), Invalid.

    `kept`: False if the caller only tries it, and rolls it back.
    """
    values = {**await _values(connection, draft, None), "uuid": uuid}
    with unique_name("target", draft.name):
        await connection.execute(_FREE_NAMES, [[draft.name]])
        row = await (await connection.execute(_INSERT if kept else _TRY, values)).fetchone()
    assert row is not None
    await target_selection.create_missing_groups(connection, draft.groups)
    await binding.check_targets(connection, [row["id"]])
    await audit.record(
        connection,
        "target.created",
        "target",
        row["id"],
        draft.name,
        after=draft.model_dump(mode="json"),
    )
    await host_keys.record_change(connection, row["id"], draft.name, (), values["host_keys"])
    return int(row["id"])


async def insert_many(
    connection: Connection,
    drafts: Sequence[TargetDraft],
    uuids: Sequence[UUID],
    *,
    kept: bool = True,
) -> list[int]:
    """Store targets without jump hosts and with unused names; return their ids, in order.

    Raises Conflict, Invalid.
    """
    logins = {
        name: await _resolve_id(connection, "credentials", "credential", name)
        for name in {draft.credential for draft in drafts}
    }
    rows = [
        {**_stored_fields(draft), "credential_id": logins[draft.credential], "jump_id": None}
        for draft in drafts
    ]
    async with connection.cursor() as cursor:
        with unique_name("target", "of this import"):
            await cursor.execute(_FREE_NAMES, [[draft.name for draft in drafts]])
            await cursor.executemany(
                _INSERT if kept else _TRY,
                [{**row, "uuid": uuid} for row, uuid in zip(rows, uuids, strict=True)],
            )
        found = await cursor.execute(
            "select id, uuid from targets where uuid = any(%s)", [list(uuids)]
        )
        ids = {row["uuid"]: int(row["id"]) for row in await found.fetchall()}
    await target_selection.create_missing_groups(
        connection, sorted({group for draft in drafts for group in draft.groups})
    )
    await binding.check_targets(connection, [*ids.values()])
    made = [ids[uuid] for uuid in uuids]
    told_of = [
        (i, draft.name, draft.model_dump(mode="json"))
        for i, draft in zip(made, drafts, strict=True)
    ]
    await audit.record_many(connection, "target.created", "target", told_of)
    for target_id, row in zip(made, rows, strict=True):
        await host_keys.record_change(connection, target_id, row["name"], (), row["host_keys"])
    return made


async def change(connection: Connection, target_id: int, draft: TargetDraft) -> StoredTarget:
    """Replace and return a target whose row is locked.

    Raises Conflict("name_taken"), Invalid.
    """
    before = await _read(connection, target_id)
    values = {**await _values(connection, draft, target_id), "id": target_id}
    with unique_name("target", draft.name):
        if draft.name != before.target.name:
            await connection.execute(_FREE_NAMES, [[draft.name]])
        await connection.execute(_REPLACE, values)
    await target_selection.create_missing_groups(connection, draft.groups)
    await binding.check_targets(connection, [target_id])
    after = await _read(connection, target_id)
    if after.target.version != before.target.version:
        changes = audit.changes(before.data(), after.data())
        await audit.record(
            connection, "target.updated", "target", target_id, after.target.name, **changes
        )
        await host_keys.record_change(
            connection, target_id, draft.name, before.target.host_keys, after.target.host_keys
        )
    return after


async def lock_by_name(connection: Connection, names: Collection[str]) -> dict[str, StoredTarget]:
    """Return the stored targets with these names, by name, locked until the transaction ends."""
    query = f"""{_SELECT} where t.name = any(%s) and t.external_id is null
        order by t.id for update of t"""
    rows = await (await connection.execute(query, [list(names)])).fetchall()
    return {row["name"]: _stored(row) for row in rows}


async def of_same_address(
    connection: Connection, target_ids: Sequence[str], sight: Reach
) -> dict[str, list[str]]:
    """Return for each of these targets a few other visible ones with the same address.

    The address is host, port and jump host. Targets without others are left out.
    """
    query = """select t.id, o.name, o.labels from targets t cross join lateral (
          select name, labels from targets o
          where o.host = t.host and o.port = t.port and o.id <> t.id and o.jump_id is not distinct
            from t.jump_id
            and o.transport = 'ssh' order by o.id limit 10
        ) o where t.id = any(%s) and t.transport = 'ssh' order by t.id, o.name"""
    rows = await (await connection.execute(query, [[int(i) for i in target_ids]])).fetchall()
    found: dict[str, list[str]] = {}
    for row in rows:
        if sight.holds(row["labels"]):
            found.setdefault(str(row["id"]), []).append(row["name"])
    return found


async def _values(
    connection: Connection, draft: TargetDraft, target_id: int | None
) -> dict[str, Any]:
    jump_id = await _resolve_id(connection, "targets", "jump", draft.jump)
    if jump_id is not None:
        await _check_route(connection, target_id, jump_id)
    return {
        **_stored_fields(draft),
        "credential_id": await _resolve_id(
            connection, "credentials", "credential", draft.credential
        ),
        "jump_id": jump_id,
    }


def _stored_fields(draft: TargetDraft) -> dict[str, Any]:
    """Return the values of all columns except those of references."""
    return {
        **draft.model_dump(mode="json", exclude={*_REFERENCES}),
        "labels": Jsonb(draft.labels),
        "groups": list(dict.fromkeys(draft.groups)),
        "host_keys": _normalize_host_keys(draft.host_keys),
        "winrm": Jsonb(draft.winrm.model_dump(mode="json")) if draft.winrm is not None else None,
    }


def _plain(value: Any) -> Any:
    """Return the value of a field in its JSON form."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, WinrmOptions):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _normalize_host_keys(lines: Collection[str]) -> list[str]:
    faults: list[FieldError] = []
    keys: dict[str, None] = {}
    for position, line in enumerate(lines):
        try:
            keys[host_keys.host_key_line(line)] = None
        except ValueError as wrong:
            faults.append(FieldError(f"/host_keys/{position}", str(wrong), "invalid_host_key"))
    if faults:
        raise Invalid("invalid_host_key", faults[0].detail, errors=faults)
    return list(keys)


async def _resolve_id(
    connection: Connection, table: str, field: str, name: str | None
) -> int | None:
    """Return the id that a draft's name, id or uuid refers to.

    The row is locked against deletion until this transaction ends.
    """
    if name is None:
        return None
    reference = Reference.parse(name)
    query = f"""select id from {table} where name = %s or id = %s or uuid = %s
        order by name = %s desc limit 1 for key share"""
    values = [name, reference and reference.id, reference and reference.uuid, name]
    row = await (await connection.execute(query, values)).fetchone()
    if row is None:
        raise target_selection.nothing_named(table.removesuffix("s"), field, name)
    return int(row["id"])


async def _check_route(connection: Connection, target_id: int | None, jump_id: int) -> None:
    await connection.execute("select pg_advisory_xact_lock(%s)", [_JUMPS_LOCK])
    row = await (await connection.execute(_ROUTE, {"jump": jump_id, "id": target_id})).fetchone()
    assert row is not None
    if row["circle"]:
        detail = "The jump host is itself reached through this target: that would be a circle."
    elif row["jumps"] > JUMPS_MAX:
        detail = (
            f"With this jump host a way would lead through more than {JUMPS_MAX} of them: "
            f"take a nearer one."
        )
    else:
        return
    raise Invalid("invalid_jump", detail, errors=[FieldError("/jump", detail, "invalid_jump")])


async def _check_unused(connection: Connection, stored: StoredTarget) -> None:
    await check_unused(
        connection,
        "target_in_use",
        f"The target {stored.target.name} is the jump host of",
        _BEHIND,
        {"id": int(stored.target.id)},
    )


async def _locked(connection: Connection, ref: str) -> int:
    return int((await lock(connection, "target", ref, "select id from targets"))["id"])


async def _read(connection: Connection, target_id: int) -> StoredTarget:
    row = await (await connection.execute(f"{_SELECT} where t.id = %s", [target_id])).fetchone()
    assert row is not None
    return _stored(row)


def _route(
    target: Target, known: Mapping[int, Target], opened: Mapping[str, Credential]
) -> Endpoint | None:
    jumps: list[Endpoint] = []
    hop = target
    while hop.jump is not None:
        if len(jumps) == JUMPS_MAX:
            return None
        if int(hop.jump) not in known:
            return None
        hop = known[int(hop.jump)]
        jumps.insert(0, Endpoint(hop, opened.get(hop.credential or "")))
    return Endpoint(target, opened.get(target.credential or ""), tuple(jumps))


def _stored(row: DictRow) -> StoredTarget:
    return StoredTarget(
        _target(row),
        str(row["uuid"]),
        row["credential"],
        row["jump"],
        row["external_id"],
        row["created_at"],
        row["updated_at"],
    )


def _target(row: DictRow) -> Target:
    fields = {
        name: row[column] for name, column in zip(TargetDraft.model_fields, _COLUMNS, strict=True)
    }
    for name in _REFERENCES:
        fields[name] = str(fields[name]) if fields[name] is not None else None
    fields["transport"] = Transport(fields["transport"])
    fields["host_key_policy"] = HostKeyPolicy(fields["host_key_policy"])
    if fields["winrm"] is not None:
        fields["winrm"] = WinrmOptions.model_validate(fields["winrm"])
    fields["groups"], fields["host_keys"] = tuple(fields["groups"]), tuple(fields["host_keys"])
    return Target(id=str(row["id"]), version=row["version"], bound=row.get("bound", True), **fields)
