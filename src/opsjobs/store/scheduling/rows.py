"""Rows of schedules and of their firings, as they are read.

A stored schedule has a timetable, compiled once per version. Firings are listed as the records of
due times.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.execution import moment
from opsjobs.model.firing import FiringKind, FiringStatus
from opsjobs.model.identity import Identity
from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.model.schedule.timetable import Timetable, timetable, words_of
from opsjobs.store.paging import IndexWalk, ListColumn, Listing
from opsjobs.store.scope_sql import OF_JOB

COMPILED_MAX = 25_000
"""Maximum number of timetables in a process's cache (least recently used)."""

COLUMNS = """
s.id, s.uuid, s.job_id, s.name, s.definition, s.owner, s.owner_kind, s.enabled, s.paused_reason,
s.next_due_at, s.next_fire_at, s.firings,
s.tzdata, s.version, s.created_at, s.updated_at, s.deleted_at"""


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule at its current version."""

    id: int
    uuid: UUID
    job_id: int
    version: int
    definition: ScheduleDraft
    timetable: Timetable
    shown: Callable[[], Mapping[str, Any]] = field(compare=False)
    """Returns its body and its description."""
    owner: Identity
    """The identity in whose name it is launched."""
    enabled: bool
    paused_reason: str | None
    next_due_at: datetime | None
    next_fire_at: datetime | None
    firings: int
    """The number of its firings that were launched."""
    tzdata: str | None
    created_at: datetime
    updated_at: datetime
    deleted: bool

    @property
    def name(self) -> str:
        """The name, unique within the job."""
        return self.definition.name

    def data(self) -> dict[str, Any]:
        """Return the body of GET /schedules/{id}, which is also the `data` of its events."""
        return {
            "id": self.id,
            "uuid": str(self.uuid),
            "job_id": self.job_id,
            "version": self.version,
            **self.shown(),
            "enabled": self.enabled,
            "paused_reason": self.paused_reason,
            "owner": self.owner.name,
            "owner_kind": self.owner.kind,
            "next_due_at": moment(self.next_due_at),
            "next_fire_at": moment(self.next_fire_at),
            "firings": self.firings,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


class _CompiledVersion:
    """The compiled draft and timetable of a version of a schedule."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.draft = ScheduleDraft.model_validate(row["definition"], context={"stored": True})
        self.table = timetable(self.draft, uuid=row["uuid"], created_at=row["created_at"])

    @cached_property
    def _shown(self) -> Mapping[str, Any]:
        return {
            **self.draft.model_dump(mode="json"),
            "words": words_of(self.draft, self.table.cron),
        }

    def render(self) -> Mapping[str, Any]:
        """Return its part of bodies and events; the description is made on first use."""
        return self._shown


class CompiledSchedules:
    """A cache of drafts and timetables by schedule and version.

    Compiling one costs more than evaluating it.
    """

    def __init__(self, at_most: int = COMPILED_MAX) -> None:
        self._at_most = at_most
        self._cache: OrderedDict[tuple[UUID, int], _CompiledVersion] = OrderedDict()

    def _compile(self, row: Mapping[str, Any]) -> _CompiledVersion:
        key = (row["uuid"], row["version"])
        if (cached := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return cached
        compiled = self._cache[key] = _CompiledVersion(row)
        if len(self._cache) > self._at_most:
            self._cache.popitem(last=False)
        return compiled

    def stored(self, row: DictRow) -> StoredSchedule:
        """Return the schedule of a row, with its timetable.

        Raises ValueError if it cannot be read any more (its time zone no longer exists).
        """
        read = self._compile(row)
        return StoredSchedule(
            id=row["id"],
            uuid=row["uuid"],
            job_id=row["job_id"],
            version=row["version"],
            definition=read.draft,
            timetable=read.table,
            shown=read.render,
            owner=Identity(row["owner_kind"], row["owner"]),
            enabled=row["enabled"],
            paused_reason=row["paused_reason"],
            next_due_at=row["next_due_at"],
            next_fire_at=row["next_fire_at"],
            firings=row["firings"],
            tzdata=row["tzdata"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            deleted=row["deleted_at"] is not None,
        )


ClosedReason = Callable[[StoredSchedule, datetime], str | None]
"""Returns the reason why a calendar of the schedule closes an instant; None: it is open."""


@dataclass(frozen=True, slots=True)
class Firing:
    """The record of a due time, or of all due times from `due_at` to `until_at`."""

    id: int
    uuid: UUID
    schedule_id: int
    kind: FiringKind
    due_at: datetime
    until_at: datetime | None
    moments: int
    """The number of due times; a lower bound."""
    fired_at: datetime | None
    status: FiringStatus
    rule: str | None
    reason: str | None
    execution_id: int | None
    late_ms: int | None
    attempts: int
    execution_status: str | None
    """The status of the execution; None if it was deleted."""
    approval_id: int | None
    """The first pending approval of the execution."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /schedules/{id}/firings."""
        return {
            "id": self.id,
            "schedule_id": self.schedule_id,
            "kind": self.kind.value,
            "due_at": moment(self.due_at),
            "until_at": moment(self.until_at),
            "moments": self.moments,
            "fired_at": moment(self.fired_at),
            "status": self.status.value,
            "rule": self.rule,
            "reason": self.reason,
            "execution_id": self.execution_id,
            "late_ms": self.late_ms,
            "attempts": self.attempts,
            "execution_status": self.execution_status,
            "approval_id": self.approval_id,
        }


@dataclass(frozen=True, slots=True)
class NamedFiring:
    """A firing with its schedule and job, for the list of all firings."""

    firing: Firing
    schedule_name: str
    job_id: int
    job_name: str


FIRING = """
select f.id, f.uuid, f.schedule_id, f.kind, f.due_at, f.until_at, f.moments, f.fired_at, f.status,
       f.rule, f.reason,
       f.execution_id, f.late_ms, f.attempts,
       (select e.status from job_executions e where e.id = f.execution_id) as execution_status,
       (select min(a.id) from approvals a where a.execution_id = f.execution_id
        and a.status = 'pending') as approval_id
from schedule_executions f"""


FIRINGS = Listing(
    f"{FIRING} where f.schedule_id = %(schedule)s",
    {
        "id": ListColumn("integer"),
        "status": ListColumn("text"),
        "rule": ListColumn("text"),
        "execution_id": ListColumn("integer"),
        "due_at": ListColumn("moment", sort=True),
    },
    default_sort="-due_at",
)


ALL_FIRINGS = Listing(
    FIRING.replace(
        "\nfrom schedule_executions f",
        ",\n       s.name as schedule_name, s.job_id, j.name as job_name\n"
        "from schedule_executions f join job_schedules s on s.id = f.schedule_id\n"
        "  join jobs j on j.id = s.job_id",
    ),
    {
        "id": ListColumn("integer", sort=True),
        "status": ListColumn("text", walk=IndexWalk("status")),
        "rule": ListColumn("text", beside=("status",)),
        "job_id": ListColumn("integer", beside=("status",)),
    },
    labels=OF_JOB.format("listed.job_id"),
)


def parse_named_firing(row: DictRow) -> NamedFiring:
    """Return the firing of a row of ALL_FIRINGS."""
    of_firing = {name: row[name] for name in Firing.__dataclass_fields__}
    names = (row["schedule_name"], row["job_id"], row["job_name"])
    return NamedFiring(parse_firing(of_firing), *names)


def parse_firing(row: DictRow) -> Firing:
    """Return the firing of a row of FIRING."""
    return Firing(**{**row, "kind": FiringKind(row["kind"]), "status": FiringStatus(row["status"])})
