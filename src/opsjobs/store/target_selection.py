"""Select targets in SQL: by ids, by groups and by a label selector, minus exclusions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow

from opsjobs.model.access import Reach
from opsjobs.model.access_bounds import out_of_sight
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.selection import Requirement, SelectionDraft, parse_selector
from opsjobs.store.reference import Reference
from opsjobs.store.scope_sql import and_within
from opsjobs.store.transaction import Connection, Database

SELECTED_MAX = 100_000
UNKNOWN_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True)
class Read:
    """The columns to read of the selected targets `t` (including the id), and their joins.

    `remote`: select targets of the Target Service only, or such that are kept here; None: both.
    """

    columns: str = "t.id"
    joined: str = ""
    remote: bool | None = None

    @property
    def kept(self) -> str:
        """The SQL condition for the targets to choose from."""
        if self.remote is None:
            return "t.gone_at is null"
        return f"t.gone_at is null and t.external_id is {'not ' if self.remote else ''}null"


ONLY_IDS = Read()

# An entry may be an id, a uuid or a name; if it could be two of them, the id wins, so a name cannot
# hide it. Each entry is looked up by itself, by its keys alone (offset 0): after an import, before
# PostgreSQL has statistics, it would compare each target with each entry. The arrays are in
# sub-selects: otherwise PostgreSQL would see how short they are, and plan again at every launch,
# which takes longer than the query.
_IDS = """
select e.position, found.id
from unnest((select %(positions)s::int[]), (select %(entries)s::text[]), (select %(ids)s::bigint[]),
  (select %(uuids)s::uuid[]))
  as e(position, entry, id, uuid)
cross join lateral (
  select t.id from (
    select k.id, k.uuid, k.name, k.labels, k.external_id, k.gone_at from targets k
    where k.id = e.id or k.uuid = e.uuid or k.name = e.entry offset 0) t
  where {kept}{within}
  order by (t.id = e.id) desc nulls last, (t.uuid = e.uuid) desc nulls last limit 1) found
order by e.position"""
_LISTED = f"""
select listed.position, {{columns}} from ({_IDS}) listed join targets t
  on t.id = listed.id {{joined}}"""

# The requested groups and all groups nested in them, at any depth; a cycle cannot be created, but
# would also end here.
_HELD = """
with recursive held(name) as (
  select unnest(%s::text[]) union select unnest(g.groups) from held h join target_groups g
    on g.name = h.name
)
select h.name, g.id is not null as stored, g.selector from held h left join target_groups g
  on g.name = h.name"""
_GROUPS = """
select t.groups, {columns} from targets t {joined}
where ({conditions}) and {kept} order by t.id limit %s"""
# Existing groups are left out beforehand: even an insert that does nothing uses up an id.
_CREATE_MISSING = """
insert into target_groups (name)
select distinct n from unnest(%s::text[]) n where not exists (select from target_groups g
  where g.name = n) order by 1
on conflict (name) do nothing"""


async def select(
    database: Database, selection: SelectionDraft, sight: Reach | None = None, read: Read = ONLY_IDS
) -> list[DictRow]:
    """Return the selected targets, each once: listed ones, then groups', then selector's.

    Raises Invalid("unknown_target") with a pointer to each entry without a target, such as
    `/targets/ids/0`; a listed target that the caller may not see counts as unknown. So does an
    entry of `exclude`: a mistyped name would otherwise run on the target that it was to spare. The
    targets of groups and selectors are not narrowed: that would silently do less than requested.

    For a caller that does not see all targets, raises Forbidden, with the message for hidden
    targets, if a group does not exist or has no targets, or if the selector finds nothing, unless
    the selector itself is limited to targets that the caller may see.
    """
    limited = sight if sight is not None and not sight.everywhere else None
    chosen: dict[int, DictRow] = {}
    spared: dict[int, DictRow] = {}
    faults: list[FieldError] = []
    if selection.ids:
        listed, missing = await _look_up(database, "ids", selection.ids, sight, read)
        chosen |= _each(listed)
        faults += missing
    if selection.exclude:
        excluded, missing = await _look_up(database, "exclude", selection.exclude, sight, read)
        spared = _each(excluded)
        faults += missing
    if selection.groups:
        members, found = await _grouped(database, selection.groups, read)
        chosen |= _each(members)
        if limited is not None and (not members or not found.issuperset(selection.groups)):
            raise out_of_sight()
        faults += [
            unknown("/targets/groups", p, "group", g)
            for p, g in enumerate(selection.groups)
            if g not in found
        ]
    if faults:
        more = f" {len(faults)} entries name nothing." if len(faults) > 1 else ""
        raise Invalid("unknown_target", faults[0].detail + more, errors=faults[:UNKNOWN_SHOWN_MAX])
    if selection.selector is not None:
        selected = await _by_selector(database, selection.selector, read)
        if limited is not None and not selected and not _keeps_to(limited, selection.selector):
            raise out_of_sight()
        chosen |= _each(selected)
    return [row for target, row in chosen.items() if target not in spared]


async def _look_up(
    database: Database, field: str, entries: Sequence[str], sight: Reach | None, read: Read
) -> tuple[list[DictRow], list[FieldError]]:
    """Return the targets that a field of a selection lists, in order, and its unknown entries."""
    async with database.connection() as connection:
        by_position = await _find_listed(connection, entries, sight, read)
    missing = [p for p in range(len(entries)) if p not in by_position]
    return [by_position[p] for p in sorted(by_position)], [
        unknown(f"/targets/{field}", p, "target", entries[p]) for p in missing
    ]


def _each(rows: Iterable[DictRow]) -> dict[int, DictRow]:
    return {row["id"]: row for row in rows}


def _keeps_to(sight: Reach, selector: str) -> bool:
    requirements = parse_selector(selector)
    return any(scope.covers(requirements) for scope in sight.scopes)


async def by_selector(database: Database, selector: str) -> list[int]:
    """Return the ids of all targets that match the selector, in order; at most 100,000.

    Raises Invalid.
    """
    return [row["id"] for row in await _by_selector(database, selector, ONLY_IDS)]


async def _by_selector(database: Database, selector: str, read: Read) -> list[DictRow]:
    try:
        requirements = parse_selector(selector)
    except ValueError as wrong:
        detail = f"{wrong}."
        raise Invalid(
            "invalid_selector", detail, errors=[FieldError("", detail, "query:selector")]
        ) from None
    condition, values = _all_of(requirements)
    query = (
        f"select {read.columns} from targets t {read.joined} where {condition} "
        f"and {read.kept} order by t.id limit %s"
    )
    return await database.fetch(query, [*values, SELECTED_MAX])


def _all_of(requirements: Sequence[Requirement]) -> tuple[str, list[Any]]:
    conditions = [_condition(requirement) for requirement in requirements]
    return " and ".join(text for text, _ in conditions), [
        value for _, bound in conditions for value in bound
    ]


def _condition(requirement: Requirement) -> tuple[str, list[Any]]:
    if requirement.values:
        test = "coalesce(t.labels ->> %s = any(%s), false)"
        values: list[Any] = [requirement.key, list(requirement.values)]
    else:
        test, values = "t.labels ? %s", [requirement.key]
    return f"{'not ' if requirement.negated else ''}{test}", values


async def find_listed(
    connection: Connection, entries: Sequence[str], sight: Reach | None = None
) -> dict[int, int]:
    """Return the id of the visible target that each entry names, by the entry's position.

    Entries without a target are left out.
    """
    return {
        p: row["id"]
        for p, row in (await _find_listed(connection, entries, sight, ONLY_IDS)).items()
    }


async def _find_listed(
    connection: Connection, entries: Sequence[str], sight: Reach | None, read: Read
) -> dict[int, DictRow]:
    within, reaching = and_within(sight, "t.labels")
    references = [Reference.parse(entry) for entry in entries]
    found = await connection.execute(
        _LISTED.format(within=within, columns=read.columns, joined=read.joined, kept=read.kept),
        {
            **reaching,
            "positions": list(range(len(entries))),
            "entries": list(entries),
            "ids": [r.id if r else None for r in references],
            "uuids": [r.uuid if r else None for r in references],
        },
    )
    return {row["position"]: row for row in await found.fetchall()}


async def create_missing_groups(connection: Connection, groups: Collection[str]) -> None:
    """Create these groups unless they exist."""
    if groups:
        await connection.execute(_CREATE_MISSING, [list(groups)])


async def members(
    connection: Connection, groups: Sequence[str], among: Collection[int]
) -> set[int]:
    """Return the subset of these targets that is in one of these groups, or in a nested group."""
    held = await (await connection.execute(_HELD, [list(groups)])).fetchall()
    condition, values = _in_groups(held)
    query = f"select t.id from targets t where t.id = any(%s::bigint[]) and ({condition})"
    return {
        row["id"]
        for row in await (await connection.execute(query, [list(among), *values])).fetchall()
    }


async def _grouped(
    database: Database, groups: Sequence[str], read: Read
) -> tuple[list[DictRow], set[str]]:
    """Return the targets in these groups, and the names of the groups that exist."""
    held = await database.fetch(_HELD, [list(groups)])
    condition, values = _in_groups(held)
    query = _GROUPS.format(
        conditions=condition, columns=read.columns, joined=read.joined, kept=read.kept
    )
    rows = await database.fetch(query, [*values, SELECTED_MAX])
    found = {row["name"] for row in held if row["stored"]} | {
        group for row in rows for group in row["groups"]
    }
    return rows, found


def _in_groups(held: Sequence[DictRow]) -> tuple[str, list[Any]]:
    """Return the SQL condition for membership in these groups, from their rows of `_HELD`."""
    conditions, values = ["t.groups && %s::text[]"], [[row["name"] for row in held]]
    for selector in {row["selector"] for row in held if row["selector"]}:
        condition, bound = _all_of(parse_selector(selector))
        conditions.append(f"({condition})")
        values += bound
    return " or ".join(conditions), values


def unknown(pointer: str, position: int, noun: str, entry: str) -> FieldError:
    """Return the error for an entry of a list whose target or group does not exist."""
    return FieldError(f"{pointer}/{position}", f"There is no {noun} {entry!r}.", "unknown_target")


def nothing_named(noun: str, field: str, name: str) -> Invalid:
    """Return the error for a field that names an object that does not exist."""
    detail = f"There is no {noun} {name!r}: create it first, or name another one."
    return Invalid(
        f"unknown_{noun}", detail, errors=[FieldError(f"/{field}", detail, f"unknown_{noun}")]
    )
