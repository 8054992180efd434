"""The audience of an event: a permission, and the labels that scopes are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from opsjobs.engine.event_builder import BuiltEvent
from opsjobs.model.access import SEE_EXECUTIONS, Principal, labels_of
from opsjobs.model.identity import Identity
from opsjobs.store.executions import Executions, Ownership
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.scheduling.schedules import Schedules

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
