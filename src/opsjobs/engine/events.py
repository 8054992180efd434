"""Events as CloudEvents, built from a row of the outbox, and the audience of each.

One row is one event, an event with its twin, or a range of an execution's log: one event for each
state of a target run. The data is that of now; an event has the same id whenever it is built.

The audience of an event is a permission, and the labels that scopes are compared with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from opsjobs.model.access import SEE_EXECUTIONS, Principal, labels_of
from opsjobs.model.events import RANGE, cloud_event, run_event, twin_of
from opsjobs.model.execution import RunStatus, moment
from opsjobs.model.identity import Identity
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.executions import Executions, Ownership
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.outbox import OutboxEvent
from opsjobs.store.scheduling.schedules import Schedules

ENTRIES_A_READ = 500


@dataclass(frozen=True, slots=True)
class BuiltEvent:
    """One event."""

    type: str
    part: int
    """Its place in the row: 0, 1 for a twin, and for a target run the position in the log."""
    body: Mapping[str, Any]
    """The CloudEvent."""
    execution_id: int | None = None

    @property
    def id(self) -> str:
        """The id by which receivers deduplicate."""
        return str(self.body["id"])

    @property
    def subject(self) -> str:
        """The uuid of the thing that it is about."""
        return str(self.body["subject"])


class EventBuilder:
    """Builds events; it reads executions and target runs as they are now."""

    def __init__(self, executions: Executions, execution_log: ExecutionLog) -> None:
        self._executions = executions
        self._execution_log = execution_log

    async def build(self, fact: OutboxEvent, *, after: int = -1) -> AsyncIterator[BuiltEvent]:
        """Yield the events of a row, in order, that come after a part.

        Raises NotFound if its execution was deleted.
        """
        if fact.type == RANGE:
            async for event in self._build_run_events(fact, after):
                yield event
            return
        data = fact.data
        if data is None and fact.execution_id is not None:
            data = (await self._executions.get(fact.execution_id)).event_data()
        at = moment(fact.at) or ""
        for part, event_type in enumerate((fact.type, twin_of(fact.type))):
            if event_type is not None and part > after:
                # The event's id is derived from the outbox row's id: an event that is published
                # twice has the same id twice. It contains the type, because the same subject also
                # has ids `<execution uuid>/<position in the log>`, which end in a number as well.
                event_id = f"{fact.subject}/{event_type}/{fact.id}"
                body = cloud_event(
                    event_id,
                    event_type,
                    str(fact.subject),
                    at,
                    data or {},
                    traceparent=fact.traceparent,
                )
                yield BuiltEvent(event_type, part, body, fact.execution_id)

    async def _build_run_events(self, fact: OutboxEvent, after: int) -> AsyncIterator[BuiltEvent]:
        assert fact.execution_id is not None
        assert fact.from_seq is not None
        assert fact.to_seq is not None
        after = max(after, fact.from_seq - 1)
        while after < fact.to_seq:
            entries = await self._execution_log.read_states(
                fact.execution_id, after=after, upto=fact.to_seq, limit=ENTRIES_A_READ
            )
            runs = await self._executions.runs_by_id(
                {e.target_run for e in entries if e.target_run is not None}
            )
            for entry in entries:
                if entry.target_run not in runs or entry.body is None:
                    continue
                run, status = runs[entry.target_run], RunStatus(entry.body["status"])
                event_type = run_event(status, retry=entry.attempt is not None)
                if event_type is not None:
                    event_id, at = f"{fact.subject}/{entry.seq}", moment(entry.at) or ""
                    body = cloud_event(
                        event_id,
                        event_type.value,
                        run.uuid,
                        at,
                        run.data(),
                        traceparent=fact.traceparent,
                    )
                    yield BuiltEvent(event_type.value, entry.seq, body, fact.execution_id)
            if len(entries) < ENTRIES_A_READ:
                return
            after = entries[-1].seq


PERMISSIONS: Mapping[str, str] = {
    "job": "jobs:read",
    "execution": SEE_EXECUTIONS,
    "target_run": SEE_EXECUTIONS,
    "approval": SEE_EXECUTIONS,
    "schedule": "schedules:read",
    "circuit": "targets:read",
    "worker": "system:read",
    "webhook": "webhooks:manage",
}


@dataclass(frozen=True, slots=True)
class EventAudience:
    """Seen by those who hold `permission` for these labels.

    `labels` None: the thing has none, so only by those who hold it everywhere. `launcher`: that of
    an execution, who sees it, too.
    """

    permission: str
    labels: Mapping[str, str] | None
    launcher: Identity | None = None

    @classmethod
    def of_execution(cls, owned: Ownership) -> EventAudience:
        """Return the audience of an execution and its parts."""
        return cls(SEE_EXECUTIONS, owned.labels or None, owned.launcher)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> EventAudience:
        """Return it from its stored form."""
        launcher = data.get("launcher")
        return cls(data["permission"], data["labels"], launcher and Identity(**launcher))

    def admits(self, principal: Principal) -> bool:
        """Return True if the principal may see it."""
        held = principal.reach(self.permission)
        if self.labels is not None or held.own is not None:
            return held.holds(self.labels or {}, self.launcher)
        return held.everywhere

    def data(self) -> dict[str, Any]:
        """Return it in the form that is stored with a message."""
        return {
            "permission": self.permission,
            "labels": self.labels,
            "launcher": self.launcher and asdict(self.launcher),
        }


class EventVisibility:
    """Finds who may see an event: its own data has no labels, so those of its thing are read."""

    def __init__(
        self, executions: Executions, schedules: Schedules, inventory: TargetInventory
    ) -> None:
        self._executions = executions
        self._schedules = schedules
        self._inventory = inventory

    async def of_event(self, event: BuiltEvent) -> EventAudience:
        """Return who may see the event; of a deleted thing, only those who see everything."""
        noun, data = event.type.partition(".")[0], event.body["data"]
        if event.execution_id is not None:
            return EventAudience.of_execution(await self._executions.ownership(event.execution_id))
        if noun == "approval":
            owned = await self._executions.ownership(data["execution_id"])
            return EventAudience.of_execution(owned)
        return EventAudience(PERMISSIONS[noun], await self._labels(noun, data))

    async def _labels(self, noun: str, data: Mapping[str, Any]) -> Mapping[str, str] | None:
        match noun:
            case "job":
                return labels_of(data["tags"])
            case "schedule":
                return await self._schedules.labels_of_job(data["job_id"]) or None
            case "circuit":
                target = str(data["target"]["id"])
                found = await self._inventory.get_many([target])
                return found[target].labels if target in found else None
            case _:
                return None
