"""Selections in SQL: which target ids a list of ids, groups and a label selector name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opsjobs.model.failures import FieldError, Invalid
from opsjobs.model.target import Requirement, SelectionDraft, parse_selector
from opsjobs.store.reference import Reference
from opsjobs.store.transaction import Database

SELECTED_AT_MOST = 100_000
UNKNOWN_TOLD_AT_MOST = 100

# An entry may be an id, a uuid or a name; where it could be two of them, the id wins, so a name cannot stand in its way.
_IDS = """
select distinct on (e.position) e.position, t.id
from unnest(%(positions)s::int[], %(entries)s::text[], %(ids)s::bigint[], %(uuids)s::uuid[]) as e(position, entry, id, uuid)
join targets t on t.id = e.id or t.uuid = e.uuid or t.name = e.entry
order by e.position, (t.id = e.id) desc nulls last, (t.uuid = e.uuid) desc nulls last"""

_GROUPS = """
select t.id, t.groups from targets t where t.groups && %s::text[] order by t.id limit %s"""


async def select(database: Database, selection: SelectionDraft) -> list[int]:
    """The ids of the targets selected, each once: those listed, then the groups', then the selector's.

    Raises Invalid("unknown_target") with a pointer to each entry that names nothing, `/targets/ids/0`.
    """
    chosen: dict[int, None] = {}
    faults: list[FieldError] = []
    if selection.ids:
        by_position = await _listed(database, selection.ids)
        chosen |= dict.fromkeys(by_position[p] for p in sorted(by_position))
        unknown = [p for p in range(len(selection.ids)) if p not in by_position]
        faults += [_unknown("ids", p, "target", selection.ids[p]) for p in unknown]
    if selection.groups:
        members, found = await _grouped(database, selection.groups)
        chosen |= dict.fromkeys(members)
        faults += [_unknown("groups", p, "group", g) for p, g in enumerate(selection.groups) if g not in found]
    if faults:
        more = f" {len(faults)} entries name nothing." if len(faults) > 1 else ""
        raise Invalid("unknown_target", faults[0].detail + more, errors=faults[:UNKNOWN_TOLD_AT_MOST])
    if selection.selector is not None:
        chosen |= dict.fromkeys(await by_selector(database, selection.selector))
    return list(chosen)


async def by_selector(database: Database, selector: str) -> list[int]:
    """The ids of all targets whose labels satisfy the selector, in order; at most 100,000. Raises Invalid."""
    try:
        requirements = parse_selector(selector)
    except ValueError as wrong:
        detail = f"{wrong}."
        raise Invalid("invalid_selector", detail, errors=[FieldError("", detail, "query:selector")]) from None
    conditions: list[str] = []
    values: list[Any] = []
    for requirement in requirements:
        condition, bound = _condition(requirement)
        conditions.append(condition)
        values += bound
    query = f"select id from targets where {' and '.join(conditions)} order by id limit %s"
    return [row["id"] for row in await database.fetch(query, [*values, SELECTED_AT_MOST])]


def _condition(requirement: Requirement) -> tuple[str, list[Any]]:
    if requirement.values:
        test, values = "coalesce(labels ->> %s = any(%s), false)", [requirement.key, list(requirement.values)]
    else:
        test, values = "labels ? %s", [requirement.key]
    return f"{'not ' if requirement.negated else ''}{test}", values


async def _listed(database: Database, entries: Sequence[str]) -> dict[int, int]:
    references = [Reference.parse(entry) for entry in entries]
    rows = await database.fetch(
        _IDS,
        {
            "positions": list(range(len(entries))),
            "entries": list(entries),
            "ids": [r.id if r else None for r in references],
            "uuids": [r.uuid if r else None for r in references],
        },
    )
    return {row["position"]: row["id"] for row in rows}


async def _grouped(database: Database, groups: Sequence[str]) -> tuple[list[int], set[str]]:
    rows = await database.fetch(_GROUPS, [list(groups), SELECTED_AT_MOST])
    return [row["id"] for row in rows], {group for row in rows for group in row["groups"]}


def _unknown(field: str, position: int, noun: str, entry: str) -> FieldError:
    return FieldError(f"/targets/{field}/{position}", f"There is no {noun} {entry!r}.", "unknown_target")
