"""A schedule as it is stored and shown, and its timetable, compiled once for each of its versions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.access import PrincipalKind
from opsjobs.model.execution import moment
from opsjobs.model.schedule import ScheduleDraft, Timetable, timetable

COMPILED_AT_MOST = 25_000
"""Timetables that a process keeps; the least used one goes first."""

COLUMNS = """
s.id, s.uuid, s.job_id, s.name, s.definition, s.owner, s.owner_kind, s.enabled, s.paused_reason, s.next_due_at, s.next_fire_at, s.firings,
s.tzdata, s.version, s.created_at, s.updated_at, s.deleted_at"""


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule at its current version, launched in the name of `owner` (with `owner_kind`: one identity).

    `firings`: how many of its moments were launched. `shown`: its body, and in words.
    """

    id: int
    uuid: UUID
    job_id: int
    version: int
    definition: ScheduleDraft
    timetable: Timetable
    shown: Callable[[], Mapping[str, Any]] = field(compare=False)
    owner: str
    owner_kind: PrincipalKind
    enabled: bool
    paused_reason: str | None
    next_due_at: datetime | None
    next_fire_at: datetime | None
    firings: int
    tzdata: str | None
    created_at: datetime
    updated_at: datetime
    deleted: bool

    @property
    def name(self) -> str:
        """Unique among the job's."""
        return self.definition.name

    def data(self) -> dict[str, Any]:
        """The body of GET /schedules/{id}, which is also the `data` of its events."""
        return {
            "id": self.id,
            "uuid": str(self.uuid),
            "job_id": self.job_id,
            "version": self.version,
            **self.shown(),
            "enabled": self.enabled,
            "paused_reason": self.paused_reason,
            "owner": self.owner,
            "owner_kind": self.owner_kind,
            "next_due_at": moment(self.next_due_at),
            "next_fire_at": moment(self.next_fire_at),
            "firings": self.firings,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


class _Read:
    """What a version of a schedule says, read once."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.draft = ScheduleDraft.model_validate(row["definition"], context={"stored": True})
        self.table = timetable(self.draft, uuid=row["uuid"], created_at=row["created_at"])

    @cached_property
    def _shown(self) -> Mapping[str, Any]:
        return {**self.draft.model_dump(mode="json"), "words": self.table.words}

    def shown(self) -> Mapping[str, Any]:
        """As it stands in answers and events: put into words when it is asked for first."""
        return self._shown


class CompiledSchedules:
    """Drafts and timetables by schedule and version, as many as fit: reading one anew costs more than asking it."""

    def __init__(self, at_most: int = COMPILED_AT_MOST) -> None:
        self._at_most = at_most
        self._known: OrderedDict[tuple[UUID, int], _Read] = OrderedDict()

    def _of(self, row: Mapping[str, Any]) -> _Read:
        key = (row["uuid"], row["version"])
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        known = self._known[key] = _Read(row)
        if len(self._known) > self._at_most:
            self._known.popitem(last=False)
        return known

    def stored(self, row: DictRow) -> StoredSchedule:
        """The row with its timetable. Raises ValueError where it cannot be read any more (a zone that is gone)."""
        read = self._of(row)
        return StoredSchedule(
            id=row["id"],
            uuid=row["uuid"],
            job_id=row["job_id"],
            version=row["version"],
            definition=read.draft,
            timetable=read.table,
            shown=read.shown,
            owner=row["owner"],
            owner_kind=row["owner_kind"],
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
