"""Check database and keys: version, encoding, schema, rights, disk space, secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.errors import DiskFull
from opsjobs.store.transaction import Database
from opsjobs.store.vault import KeyRotation

OLDEST_VERSION = 15
TABLES_NAMED = 5
_KINDS = {
    "credentials": "credentials",
    "parameters": "executions with secret parameters",
    "audit_chain": "the audit log's signature",
}


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem and its solution.

    `fatal`: no request can be served; otherwise something will fail sooner or later.
    """

    code: str
    detail: str
    fatal: bool = False


# The rights are those of the role that asks. Partitions are reached through their table.
FACTS = f"""
select current_setting('server_version_num')::int / 10000 as major, current_setting('server_version') as version,
  pg_encoding_to_char(d.encoding) as encoding, d.datname as database, current_user::text as role,
  current_setting('search_path') as path, current_schema()::text as schema,
  has_schema_privilege(current_schema(), 'CREATE') as may_create,
  (select pg_has_role(c.relowner, 'USAGE') from pg_class c where c.oid = to_regclass('execution_log')) as owns_log,
  (select pg_get_userbyid(c.relowner)::text from pg_class c where c.oid = to_regclass('execution_log')) as owner,
  array(
    select c.relname::text from pg_class c
    where to_regclass('execution_log') is not null and c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
      and not c.relispartition and c.relname <> 'alembic_version'
      and not (has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
        and has_table_privilege(c.oid, 'UPDATE') and has_table_privilege(c.oid, 'DELETE'))
    order by 1 limit {TABLES_NAMED}) as denied
from pg_database d where d.datname = current_database()"""

# More than fits into work_mem, so it goes into a temporary file on the database's volume, and
# leaves nothing behind.
_SPILL = "select count(*) as n from (select repeat('x', 1000) as text from generate_series(1, 2000) order by random(), 1 offset 0) s"


def judge(facts: Mapping[str, Any], *, upgrading: bool = False) -> list[Complaint]:
    """Return the problems of a database by its FACTS.

    `upgrading`: check what a migration needs; rights on tables are not checked.
    """
    found = [*_server_faults(facts), *_schema_faults(facts)]
    return found if upgrading else [*found, *_rights_faults(facts)]


def _server_faults(facts: Mapping[str, Any]) -> list[Complaint]:
    found = []
    if facts["major"] < OLDEST_VERSION:
        detail = f"PostgreSQL {facts['version']} is too old: use {OLDEST_VERSION} to 18."
        found.append(Complaint("database_too_old", detail, fatal=True))
    if facts["encoding"] != "UTF8":
        detail = (
            f"The database {facts['database']} has the encoding {facts['encoding']}, which cannot hold every text. "
            "Create one with UTF8: create database NAME template template0 encoding 'UTF8'."
        )
        found.append(Complaint("database_encoding", detail, fatal=True))
    return found


def _schema_faults(facts: Mapping[str, Any]) -> list[Complaint]:
    role = facts["role"]
    if facts["schema"] is None:
        detail = (
            f"The role {role} may use no schema of its search_path ({facts['path']}). "
            f"Create one: create schema opsjobs authorization {role}; alter role {role} set search_path = opsjobs."
        )
        return [Complaint("database_schema", detail, fatal=True)]
    if not facts["may_create"]:
        detail = (
            f"The role {role} may not create tables in the schema {facts['schema']}. The log needs a new partition each day. "
            f"As its owner: grant create on schema {facts['schema']} to {role}."
        )
        return [Complaint("database_rights", detail)]
    return []


def _rights_faults(facts: Mapping[str, Any]) -> list[Complaint]:
    role, found = facts["role"], []
    if facts["denied"]:
        detail = (
            f"The role {role} lacks rights on tables ({', '.join(facts['denied'])}). "
            f"As their owner: grant select, insert, update, delete on all tables in schema {facts['schema']} to {role}."
        )
        found.append(Complaint("database_rights", detail, fatal=True))
    if facts["owns_log"] is False:
        detail = (
            f"The role {role} does not own execution_log, so it can add no partition to the log. "
            f"As an administrator: grant {facts['owner']} to {role}."
        )
        found.append(Complaint("database_rights", detail))
    return found


class Fitness:
    """Checks the database. Raises Unavailable while it cannot be reached."""

    def __init__(self, database: Database, keys: KeyRotation) -> None:
        self._database = database
        self._keys = keys

    async def faults(self) -> Sequence[Complaint]:
        """Return the problems of the server, its encoding, the schema and the role's rights."""
        row = await self._database.fetch_one(FACTS)
        assert row is not None
        return judge(row)

    async def space(self) -> Sequence[Complaint]:
        """Check that the volume is not full, with a sort that writes 2 MB to a temporary file."""
        try:
            async with self._database.transaction() as connection:
                await connection.execute("set local work_mem = '64kB'")
                await connection.execute(_SPILL)
        except DiskFull as full:
            return [Complaint(full.code, full.told)]
        return []

    async def secrets(self) -> Sequence[Complaint]:
        """Report rows that are sealed under keys that ENCRYPTION_KEYS does not hold."""
        missing = await self._keys.missing()
        rows: dict[str, int] = {}
        for state in missing:
            for kind, count in state.sealed.items():
                rows[kind] = rows.get(kind, 0) + count
        told = ", ".join(
            f"{count} {_KINDS[kind]}" if kind != "audit_chain" else _KINDS[kind]
            for kind, count in rows.items()
            if count
        )
        if not told:
            return []
        detail = (
            f"Sealed under keys that ENCRYPTION_KEYS does not hold ({', '.join(state.id for state in missing)}): {told}. "
            "Nothing of it can be opened. Give this process the keys that it was sealed with."
        )
        return [Complaint("secrets_not_readable", detail)]
