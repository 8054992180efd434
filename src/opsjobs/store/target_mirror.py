"""Mirror of the Target Service in the inventory: the data of its targets, and its age.

Their name, address, labels and groups are the service's; what opsjobs needs beside that (host keys,
slots, jump host, a credential of its own) is kept in the same row. The id of a row is the one in
the service: a whole number is its `id`, a UUID its `uuid`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model import text_patterns
from opsjobs.model.errors import Conflict
from opsjobs.model.target import HostKeyPolicy, PlatformTarget
from opsjobs.store import circuits, target_selection
from opsjobs.store.reference import Reference
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection, Database

SLOTS = 10
SHOWN_MAX = 3
GONE_DAYS = 90
"""The time for which a row stays after its target, or the whole service, is gone."""
DELETED_MAX = 1_000
GONE_SECONDS = 1e9
"""The age of a target that the service does not have any more."""
_MIRROR = "target-service"
_LOCK = 0x6D6972726F72
# A label of the platform that names something here.
_ZONE, _CREDENTIAL = "zone", "credential"

_WRITE = load_statement(__file__, "mirror_targets")

# The age of a row: a full synchronization proves all rows that it leaves alone. A row that the
# service does not have is never new enough.
_AGE = f"""case when t.gone_at is null then extract(epoch from (select opsjobs_now())
  - greatest(t.synced_at, (select synced_at from mirrors where name = 'target-service')))
  else {GONE_SECONDS:.0f} end"""

# The time of what is known of a row. What was read before that is old, however late it arrives.
_AS_OF = """greatest(t.synced_at, t.gone_at,
  (select synced_at from mirrors where name = 'target-service'))"""
_NEWER = f"""
select external_id from targets t
where external_id = any(%(ids)s::text[]) and {_AS_OF} > %(read_at)s"""

_STALE = f"""
with recursive route(id) as (
  select id from targets where id = any(%(ids)s::bigint[]) and external_id is not null
  union select t.jump_id from targets t join route using (id) where t.jump_id is not null
)
select t.id, t.external_id, {_AGE} as age from targets t join route using (id)
where t.external_id is not null and {_AGE} > %(seconds)s order by t.id"""

_NAMED = """
select e.entry, t.id from unnest(%(entries)s::text[], %(ids)s::bigint[], %(uuids)s::uuid[])
  as e(entry, id, uuid)
left join targets t on (t.id = e.id or t.uuid = e.uuid or t.name = e.entry)
  and t.gone_at is null and t.external_id is not null"""

# A name that another row holds now: a gone one gives it up, and so do rows that are written too.
_FREE_NAMES = """
update targets set name = left(name, 150) || ' (' || external_id || ')',
  updated_at = opsjobs_now()
where name = any(%(names)s::text[]) and (gone_at is not null or external_id = any(%(ids)s::text[]))
  and (name, external_id) not in (select * from unnest(%(names)s::text[], %(ids)s::text[]))"""
_HELD_NAMES = """
select name from targets where name = any(%(names)s::text[])
  and external_id <> all(%(ids)s::text[])"""

_GONE = f"""
update targets t set gone_at = %(read_at)s, version = version + 1, updated_at = opsjobs_now()
where external_id is not null and gone_at is null and {_AS_OF} <= %(read_at)s and {{condition}}"""
_GONE_BUT = _GONE.format(condition="external_id <> all(%(ids)s::text[])")
_GONE_THESE = _GONE.format(condition="external_id = any(%(ids)s::text[])")

# A jump host stays: without it the machines behind it would be connected to directly.
_FORGET = """
delete from targets t where t.gone_at < (select opsjobs_now()) - make_interval(days => %s)
  and not exists (select from targets o where o.jump_id = t.id)
returning t.id"""

# Rows that the service has not confirmed for so long; call it only if no service is connected.
_ABANDONED = f"""
delete from targets where id = any(array(
  select t.id from targets t
  where t.external_id is not null
    and {_AS_OF} < (select opsjobs_now()) - interval '{GONE_DAYS} days'
    and not exists (select from targets o where o.jump_id = t.id)
  order by t.id limit %s))
returning id"""

_OWN = "select name from targets where external_id is null order by id limit %s"
_ADVANCE = """
select setval(pg_get_serial_sequence('targets', 'id'), %(highest)s)
where %(highest)s > (select coalesce(pg_sequence_last_value(pg_get_serial_sequence('targets',
  'id')::regclass), 0))"""


@dataclass(frozen=True, slots=True)
class StaleTarget:
    """A mirrored target whose data is older than allowed."""

    id: str
    external_id: str
    age_seconds: float


class TargetMirror:
    """The mirrored targets; `host_key_policy` is the one of new ones."""

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        host_key_policy: HostKeyPolicy = HostKeyPolicy.PINNED,
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._host_key_policy = host_key_policy

    async def age_seconds(self) -> float | None:
        """Return the age of the last full synchronization; None if there was none."""
        row = await self._database.fetch_one(
            "select extract(epoch from opsjobs_now() - synced_at) as age from mirrors "
            "where name = %s",
            [_MIRROR],
        )
        return float(row["age"]) if row is not None else None

    async def moment(self) -> datetime:
        """Return the time now, for `write`: what the service answers from now on is as of then."""
        row = await self._database.fetch_one("select opsjobs_now() as at")
        assert row is not None
        return cast("datetime", row["at"])

    async def find_stale(self, ids: Collection[str], seconds: float) -> list[StaleTarget]:
        """Return those of these targets, and of their jump hosts, whose data is older than that."""
        wanted = [int(i) for i in ids if i.isdigit() and Reference.parse(i)]
        rows = await self._database.fetch(_STALE, {"ids": wanted, "seconds": seconds})
        return [StaleTarget(str(r["id"]), r["external_id"], float(r["age"])) for r in rows]

    async def external_ids(self, ids: Collection[str]) -> dict[str, str]:
        """Return the id in the service of each of these targets that is mirrored."""
        query = """select id, external_id from targets
            where id = any(%s::bigint[]) and external_id is not null"""
        rows = await self._database.fetch(query, [[int(i) for i in ids]])
        return {str(row["id"]): row["external_id"] for row in rows}

    async def find_ids(self, entries: Sequence[str]) -> dict[str, str | None]:
        """Return the id of the target that each entry (id, uuid or name) names; None: unknown."""
        references = [Reference.parse(entry) for entry in entries]
        rows = await self._database.fetch(
            _NAMED,
            {
                "entries": list(entries),
                "ids": [r.id if r else None for r in references],
                "uuids": [r.uuid if r else None for r in references],
            },
        )
        return {r["entry"]: str(r["id"]) if r["id"] is not None else None for r in rows}

    async def write(
        self,
        found: Sequence[PlatformTarget],
        *,
        read_at: datetime,
        gone: Sequence[str] = (),
        complete: bool = False,
    ) -> Counter[str]:
        """Store these targets; return how many were changed, made, and are gone.

        `read_at`: the `moment` before the service was asked; a row of which newer data is known is
        left alone. `gone`: ids that the service does not have. `complete`: it has no others than
        `found`.
        Raises Conflict("local_targets_exist").
        """
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            await _check_no_local_targets(connection)
            values = {"ids": [target.external_id for target in found], "read_at": read_at}
            rows = await (await connection.execute(_NEWER, values)).fetchall()
            newer = {row["external_id"] for row in rows}
            kept = [target for target in found if target.external_id not in newer]
            written = await self._write(connection, kept, read_at, newer=newer, complete=complete)
            if not complete:
                values["ids"] = list(gone)
            lost = await connection.execute(_GONE_BUT if complete else _GONE_THESE, values)
            if complete:
                forgotten = await connection.execute(_FORGET, [GONE_DAYS])
                for row in await forgotten.fetchall():
                    await circuits.forget(connection, "target_id", row["id"])
                await connection.execute(
                    "insert into mirrors as m (name, synced_at) values (%s, %s) on conflict (name) "
                    "do update set synced_at = greatest(m.synced_at, excluded.synced_at)",
                    [_MIRROR, read_at],
                )
        return written + Counter(gone=lost.rowcount)

    async def delete_abandoned(self) -> int:
        """Delete rows of a service that is not connected any more, after GONE_DAYS.

        Jump hosts are deleted once no target is behind them. Returns the number of rows.
        """
        async with self._database.transaction() as connection:
            deleted = await (await connection.execute(_ABANDONED, [DELETED_MAX])).fetchall()
            for row in deleted:
                await circuits.forget(connection, "target_id", row["id"])
        return len(deleted)

    async def _write(
        self,
        connection: Connection,
        found: Sequence[PlatformTarget],
        read_at: datetime,
        *,
        newer: Collection[str],
        complete: bool,
    ) -> Counter[str]:
        if not found:
            return Counter()
        ids = [target.external_id for target in found]
        names = await _distinct_names(connection, found, complete=complete and not newer)
        await connection.execute(_FREE_NAMES, {"names": names, "ids": ids})
        rows = [self._row(target, name) for target, name in zip(found, names, strict=True)]
        values = {
            "rows": Jsonb(rows),
            "host_key_policy": self._host_key_policy.value,
            "slots": SLOTS,
            "read_at": read_at,
            # A complete synchronization is recorded once, not in each row.
            "touch": not complete,
        }
        written = await (await connection.execute(_WRITE, values)).fetchone()
        assert written is not None
        if written["highest"] is not None:
            await connection.execute(_ADVANCE, {"highest": written["highest"]})
        groups = {group for target in found for group in target.draft.groups}
        await target_selection.create_missing_groups(connection, sorted(groups))
        return Counter(changed=written["changed"], made=written["made"])

    def _row(self, target: PlatformTarget, name: str) -> dict[str, Any]:
        draft, reference = target.draft, Reference.parse(target.external_id)
        assert reference is not None, "other ids are refused when an answer is read"
        zone = draft.labels.get(_ZONE, "")
        return {
            "external_id": target.external_id,
            "id": reference.id,
            "uuid": str(reference.uuid or uuid7(self._clock.now())),
            "name": name,
            **draft.model_dump(
                mode="json",
                include={"host", "port", "transport", "platform", "labels", "groups", "winrm"},
            ),
            "zone": zone if re.fullmatch(text_patterns.ZONE, zone) else None,
            "credential": draft.labels.get(_CREDENTIAL),
        }


async def _check_no_local_targets(connection: Connection) -> None:
    found = await (await connection.execute(_OWN, [SHOWN_MAX + 1])).fetchall()
    if found:
        names = ", ".join(row["name"] for row in found[:SHOWN_MAX])
        more = " and others" if len(found) > SHOWN_MAX else ""
        raise Conflict(
            "local_targets_exist",
            f"Targets are kept by the Target Service, but {names}{more} are kept here, and their "
            "ids could be mistaken for ids of the service. Delete them (opsjobs targets rm), or "
            "unset TARGET_SERVICE_URL.",
        )


async def _distinct_names(
    connection: Connection, found: Sequence[PlatformTarget], *, complete: bool
) -> list[str]:
    """Return the name of each target; a name that several have is followed by the id."""
    ids = [target.external_id for target in found]
    names = [target.draft.name for target in found]
    count = Counter(names)
    taken = {name for name, times in count.items() if times > 1}
    if not complete:
        held = await connection.execute(
            _HELD_NAMES + " and gone_at is null", {"names": names, "ids": ids}
        )
        taken |= {row["name"] for row in await held.fetchall()}
    return [
        f"{name[:150]} ({key})" if name in taken else name
        for key, name in zip(ids, names, strict=True)
    ]
