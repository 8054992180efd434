"""The audience of an event: a permission, and the labels that scopes are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.engine.event_builder import BuiltEvent
from opsjobs.model.access import Principal, labels_of
from opsjobs.store.executions import Executions
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.scheduling.schedules import Schedules

PERMISSIONS: Mapping[str, str] = {
    "job": "jobs:read",
    "execution": "executions:read",
    "target_run": "executions:read",
    "approval": "executions:read",
    "schedule": "schedules:read",
    "circuit": "targets:read",
    "worker": "system:read",
    "webhook": "webhooks:manage",
}


@dataclass(frozen=True, slots=True)
class EventAudience:
    """Seen by those who hold `permission` for these labels.

    `labels` None: the thing has none, so only by those who hold it everywhere.
    """

    permission: str
    labels: Mapping[str, str] | None

    def admits(self, principal: Principal) -> bool:
        """Return True if the principal may see it."""
        held = principal.reach(self.permission)
        return held.everywhere if self.labels is None else held.holds(self.labels)

    def data(self) -> dict[str, Any]:
        """Return it in the form that is stored with a message."""
        return {"permission": self.permission, "labels": self.labels}


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
            labels = await self._executions.labels(event.execution_id)
            return EventAudience("executions:read", labels or None)
        return EventAudience(PERMISSIONS[noun], await self._labels(noun, data))

    async def _labels(self, noun: str, data: Mapping[str, Any]) -> Mapping[str, str] | None:
        match noun:
            case "job":
                return labels_of(data["tags"])
            case "approval":
                return await self._executions.labels(data["execution_id"]) or None
            case "schedule":
                return await self._schedules.labels_of_job(data["job_id"]) or None
            case "circuit":
                target = str(data["target"]["id"])
                found = await self._inventory.get_many([target])
                return found[target].labels if target in found else None
            case _:
                return None
