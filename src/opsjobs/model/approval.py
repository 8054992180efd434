"""An approval: a question to people that stands in the way of an execution's runs, and what was said to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from opsjobs.model.execution import moment


class ApprovalStatus(StrEnum):
    """How it stands. `expired`: nobody decided in time; `cancelled`: its execution ended before."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Approval:
    """One a workflow's approval action and execution, whatever the number of targets that wait for it."""

    id: int
    uuid: str
    execution_id: int
    action: str
    message: str
    status: ApprovalStatus
    asked_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None

    def data(self) -> dict[str, Any]:
        """An item of GET /approvals, which is also the `data` of its events."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "execution_id": self.execution_id,
            "action": self.action,
            "message": self.message,
            "status": self.status.value,
            "asked_at": moment(self.asked_at),
            "expires_at": moment(self.expires_at),
            "decided_at": moment(self.decided_at),
            "decided_by": self.decided_by,
            "reason": self.reason,
        }
