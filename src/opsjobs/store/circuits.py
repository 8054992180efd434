"""Circuit breakers of logins, shared by all workers.

Rights to try are granted, and outcomes recorded, under the locks of the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.access import Reach
from opsjobs.model.circuit import (
    RIGHT_SECONDS,
    Ask,
    Circuit,
    CircuitKey,
    CircuitPolicy,
    CircuitState,
    Report,
    Right,
    change,
)
from opsjobs.model.events import EventType
from opsjobs.model.execution import ErrorCode, moment
from opsjobs.store import audit
from opsjobs.store.outbox import append_event
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.statements import storable
from opsjobs.store.transaction import Connection, Database

UNWELL_MAX = 10_000
# Maximum length of a target's message about a refused login; the rest is cut off.
MESSAGE_CHARACTERS = 4_000
_EVENT_TYPES = {
    CircuitState.OPEN: EventType.CIRCUIT_OPENED,
    CircuitState.CLOSED: EventType.CIRCUIT_CLOSED,
}


@dataclass(frozen=True, slots=True)
class StoredCircuit:
    """A circuit as it is shown; one that is due for a try is already half-open."""

    id: int
    uuid: str
    target_id: str
    target: str | None
    host: str | None
    credential: str | None
    state: CircuitState
    failures: int
    code: str | None
    message: str | None
    since: datetime | None
    until: datetime | None

    def data(self) -> dict[str, Any]:
        """Return an item of GET /circuits."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "target": {"id": self.target_id, "name": self.target, "host": self.host},
            "credential": self.credential,
            "state": self.state.value,
            "failures": self.failures,
            "error": {"code": self.code, "message": self.message} if self.code else None,
            "since": moment(self.since),
            "until": moment(self.until),
        }


_SHOWN = """
select c.id, c.uuid, c.target_id, t.name as target, t.host, l.name as credential, c.failures,
  c.code, c.message, c.since, c.until, t.labels,
  case when c.state = 'open' and c.until <= opsjobs_now() then 'half_open' else c.state end as state
from circuits c left join targets t on t.id::text = c.target_id left join credentials l
  on l.id::text = c.credential_id"""
CIRCUITS = Listing(
    f"{_SHOWN} where (c.state <> 'closed' or c.failures > 0 or %(closed)s)",
    {
        "id": ListColumn("integer", sort=True),
        "state": ListColumn("text"),
        "target_id": ListColumn("text"),
        "target": ListColumn("text", sort=True, natural=True, expression="coalesce(target, '')"),
        "credential": ListColumn("text"),
        "code": ListColumn("text"),
        "since": ListColumn("moment"),
    },
    labels="labels",
)

_FIELDS = "login, state, proven, failures, trips, code, message, since, until, holder, held_until"
_KEYS = "unnest(%(targets)s::text[], %(credentials)s::text[]) as n(target_id, credential_id)"
_READ = (
    f"select target_id, credential_id, {_FIELDS} from circuits join {_KEYS} using (target_id, "
    f"credential_id)"
)
# In one order everywhere, so that no two processes deadlock.
_MAKE = f"""
insert into circuits (target_id, credential_id, login)
select target_id, credential_id, '' from {_KEYS} order by 1, 2
  on conflict (target_id, credential_id) do nothing"""
_LOCK = f"""
select c.id, c.uuid, c.target_id, c.credential_id, {_FIELDS} from circuits c
  join {_KEYS} using (target_id, credential_id)
order by c.target_id, c.credential_id for update of c"""
_LOCK_TARGET = (
    f"select id, uuid, target_id, credential_id, {_FIELDS} from circuits where "
    f"target_id = %s order by credential_id for update"
)
_WRITE = f"""
update circuits set {", ".join(f"{f.strip()} = %({f.strip()})s" for f in _FIELDS.split(","))}
  where id = %(id)s"""
_PROLONG = (
    "update circuits set held_until = opsjobs_now() + make_interval(secs => %s) where "
    "holder = any(%s::uuid[])"
)
_UNWELL = f"""
select target_id, credential_id from circuits where state <> 'closed' or failures > 0
  limit {UNWELL_MAX}"""


class CircuitStore:
    """The shared state of all processes' circuit breakers, and the list that is shown."""

    def __init__(self, database: Database, policy: CircuitPolicy | None = None) -> None:
        self._database = database
        self._policy = policy or CircuitPolicy()

    async def ask(self, asks: Sequence[Ask]) -> list[tuple[Right, Circuit]]:
        """Return the right for each request, in order, with its circuit.

        It costs one read if all these circuits exist and are closed.
        """
        known = {
            _key(row): _circuit(row)
            for row in await self._database.fetch(_READ, _key_columns([ask.key for ask in asks]))
        }
        if all(_is_free(known.get(ask.key), ask) for ask in asks):
            return [(Right.FREE, known[ask.key]) for ask in asks]
        return await self._database.retry(lambda: self._give(asks))

    async def _give(self, asks: Sequence[Ask]) -> list[tuple[Right, Circuit]]:
        answers = []
        async with self._database.transaction() as connection:
            rows, now = await _locked(connection, [ask.key for ask in asks])
            here = {key: _circuit(row) for key, row in rows.items()}
            for ask in asks:
                here[ask.key], right = here[ask.key].ask(ask, now)
                answers.append((right, here[ask.key]))
            await _write(connection, rows, here)
        return answers

    async def report(self, reports: Sequence[Report]) -> list[CircuitState | None]:
        """Record the outcomes of tries; return for each the new state to announce, if any."""
        return await self._database.retry(lambda: self._take(reports))

    async def _take(self, reports: Sequence[Report]) -> list[CircuitState | None]:
        announced = []
        async with self._database.transaction() as connection:
            rows, now = await _locked(connection, [report.key for report in reports])
            here = {key: _circuit(row) for key, row in rows.items()}
            for report in reports:
                before = here[report.key]
                here[report.key] = replace(before, login=before.login or report.login).after_report(
                    report, now, self._policy
                )
                announced.append(change(before, here[report.key]))
            await _write(connection, rows, here)
        return announced

    async def watch(self, held: Collection[UUID]) -> set[CircuitKey]:
        """Extend the held rights; return the circuits that are not healthy, in any process."""
        if held:
            await self._database.fetch(f"{_PROLONG} returning id", [RIGHT_SECONDS, sorted(held)])
        return {_key(row) for row in await self._database.fetch(_UNWELL)}

    async def reset(self, target_id: str) -> list[StoredCircuit]:
        """Reset the circuits of a target, so that the next login tries; return unhealthy ones."""
        return await self._database.retry(lambda: self._reset(target_id))

    async def _reset(self, target_id: str) -> list[StoredCircuit]:
        async with self._database.transaction() as connection:
            rows = {
                _key(row): row
                for row in await (await connection.execute(_LOCK_TARGET, [target_id])).fetchall()
            }
            unwell = {key: _circuit(row) for key, row in rows.items() if not _circuit(row).well}
            await _write(
                connection, rows, {key: Circuit(circuit.login) for key, circuit in unwell.items()}
            )
            before = {
                "unwell": [f"{circuit.login}: {circuit.state.value}" for circuit in unwell.values()]
            }
            await audit.record(connection, "circuit.reset", "target", target_id, before=before)
            shown = await connection.execute(
                f"{_SHOWN} where c.id = any(%s) order by c.id",
                [[rows[key]["id"] for key in unwell]],
            )
            return [_stored(row) for row in await shown.fetchall()]

    async def list(self, request: PageRequest, reach: Reach | None = None) -> Page[StoredCircuit]:
        """Return a page of the circuits of targets within reach that are not healthy.

        With the filter state=closed it includes healthy ones.
        """
        closed = CircuitState.CLOSED.value in request.filters.get("state", ())
        return (await CIRCUITS.page(self._database, request, {"closed": closed}, reach=reach)).map(
            _stored
        )


async def forget(connection: Connection, column: str, thing: int) -> None:
    """Delete the circuits of a deleted target or credential.

    `column`: target_id or credential_id.
    """
    assert column in ("target_id", "credential_id")
    await connection.execute(f"delete from circuits where {column} = %s", [str(thing)])


async def _locked(
    connection: Connection, keys: Sequence[CircuitKey]
) -> tuple[dict[CircuitKey, DictRow], datetime]:
    """Create missing rows, lock the rows of these circuits; return them and the time of it."""
    named = _key_columns(keys)
    await connection.execute(_MAKE, named)
    rows = {_key(row): row for row in await (await connection.execute(_LOCK, named)).fetchall()}
    clock = await (await connection.execute("select opsjobs_now() as now")).fetchone()
    assert clock is not None
    return rows, clock["now"]


def _is_free(circuit: Circuit | None, ask: Ask) -> bool:
    return circuit is not None and circuit.free and circuit.login == ask.login


async def _write(
    connection: Connection, rows: Mapping[CircuitKey, DictRow], here: Mapping[CircuitKey, Circuit]
) -> None:
    """Store the changed circuits, with their events."""
    changed = [
        (rows[key], circuit) for key, circuit in here.items() if _circuit(rows[key]) != circuit
    ]
    if not changed:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _WRITE, [{**_values(circuit), "id": row["id"]} for row, circuit in changed]
        )
    announced = [
        (row, kind)
        for row, kind in ((row, change(_circuit(row), circuit)) for row, circuit in changed)
        if kind is not None
    ]
    if announced:
        shown = await connection.execute(
            f"{_SHOWN} where c.id = any(%s)", [[row["id"] for row, _ in announced]]
        )
        data = {row["id"]: _stored(row).data() for row in await shown.fetchall()}
        for row, kind in announced:
            await append_event(
                connection, _EVENT_TYPES[kind], row["uuid"], data[row["id"]], shard=row["id"]
            )


def _key_columns(keys: Sequence[CircuitKey]) -> dict[str, list[str]]:
    once = list(dict.fromkeys(keys))
    return {
        "targets": [key.target_id for key in once],
        "credentials": [key.credential_id for key in once],
    }


def _key(row: Mapping[str, Any]) -> CircuitKey:
    return CircuitKey(row["target_id"], row["credential_id"])


def _circuit(row: DictRow) -> Circuit:
    return Circuit(
        row["login"],
        CircuitState(row["state"]),
        row["proven"],
        row["failures"],
        row["trips"],
        ErrorCode(row["code"]) if row["code"] is not None else None,
        row["message"],
        row["since"],
        row["until"],
        row["holder"],
        row["held_until"],
    )


def _values(circuit: Circuit) -> dict[str, Any]:
    fields = {
        field.strip(): _plain(getattr(circuit, field.strip())) for field in _FIELDS.split(",")
    }
    return {**fields, "message": circuit.message and storable(circuit.message, MESSAGE_CHARACTERS)}


def _plain(value: object) -> object:
    return value.value if isinstance(value, CircuitState | ErrorCode) else value


def _stored(row: DictRow) -> StoredCircuit:
    shown = {name: row[name] for name in StoredCircuit.__dataclass_fields__}
    return StoredCircuit(**{**shown, "uuid": str(row["uuid"]), "state": CircuitState(row["state"])})
