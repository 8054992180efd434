"""Messages to the platform's Notification Service and Audit Service, as the profile says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.integrations.services.client import ServiceClient
from opsjobs.integrations.services.profile import AuditCall, NotificationCall, fill

_HIGH = frozenset({"failed", "missed", "approval_needed"})


@dataclass(frozen=True, slots=True)
class ServiceNotification:
    """A message for the service."""

    id: str
    """The same whenever it is sent: correlation id, and `data.id`."""
    event: str
    """The event, such as failed."""
    recipient: str
    channel_id: str | None
    subject: str
    text: str
    data: Mapping[str, Any]
    timestamp: str

    def values(self) -> dict[str, Any]:
        """Return the values that the body of a profile may use."""
        return {
            "user_id": self.recipient,
            "recipient": self.recipient,
            "channel_id": self.channel_id,
            "type": f"job_{self.event}",
            "title": self.subject,
            "message": self.text,
            "priority": "high" if self.event in _HIGH else "normal",
            "data": {**self.data, "id": self.id},
            "correlation_id": self.id,
            "timestamp": self.timestamp,
        }


class NotificationService:
    """Sends notifications as the profile describes."""

    def __init__(self, client: ServiceClient, call: NotificationCall) -> None:
        self._client = client
        self._call = call

    @property
    def needs_channel_id(self) -> bool:
        """True if the bodies of the profile name a channel of the service."""
        return "{channel_id}" in str(self._call.body)

    async def send(self, notification: ServiceNotification) -> int:
        """Send one notification; return the status of the answer.

        Raises ServiceUnavailable, ServiceRefused.
        """
        answer = await self._client.post(
            self._call.path,
            fill(self._call.body, notification.values()),
            # The service knows a repetition by its id.
            idempotent=True,
            accept=self._call.accept,
            correlation_id=notification.id,
        )
        return answer.status


# --- audit events: one row of our audit log is one event there


SERVICE = "job-execution"
_CATEGORIES = {
    "authentication": ("login",),
    "authorization": ("user", "api_key", "service"),
    "security": ("credential", "key", "audit", "safety"),
    "execution": ("execution", "approval", "dead_letter"),
}
_CATEGORY_OF = {noun: category for category, nouns in _CATEGORIES.items() for noun in nouns}
_LOGINS = frozenset({"logged_in", "logged_out", "password_changed"})
_FAILURES = frozenset({"login.failed", "login.locked"})
_CRITICAL = frozenset({"safety.overridden", "audit.anchored", "target.host_keys_replaced"})
_WARNING = frozenset(
    {
        "login.failed",
        "login.locked",
        "login.revoked",
        "approval.overridden",
        "credential.rotated",
        "key.rotated",
        "target.host_key_accepted",
        "audit.retained",
    }
)


def audit_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of one audit row, as the body of a profile may use them.

    `row`: a sealed row of the audit log, as GET /audit shows it.
    """
    action: str = row["action"]
    noun, _, verb = action.partition(".")
    name = row["thing_name"] or row["thing_id"]
    return {
        "event_id": str(row["seal"]),
        "event_type": action.replace(".", "_"),
        "category": "authentication"
        if verb in _LOGINS
        else _CATEGORY_OF.get(noun, "configuration"),
        "severity": _severity(action, verb),
        "event_name": f"{noun} {verb}".replace("_", " ") + (f": {name}" if name else ""),
        "user_id": row["person"] or row["actor"],
        "resource_type": row["thing"],
        "resource_id": row["thing_id"],
        "action": verb,
        "details": {
            "id": row["seal"],
            "hash": row["hash"],
            "actor": row["actor"],
            "actor_kind": row["actor_kind"],
            "person": row["person"],
            "address": row["address"],
            "request_id": row["request_id"],
            "resource_name": row["thing_name"],
            "before": row["before"],
            "after": row["after"],
            "reason": row["reason"],
        },
        "success": action not in _FAILURES,
        "timestamp": row["at"],
        "service": SERVICE,
        "correlation_id": row["request_id"],
    }


def _severity(action: str, verb: str) -> str:
    if action in _CRITICAL:
        return "critical"
    return "warning" if action in _WARNING or verb == "deleted" else "info"


class AuditService:
    """Sends audit events as the profile describes."""

    def __init__(self, client: ServiceClient, call: AuditCall) -> None:
        self._client = client
        self._call = call

    async def send(self, row: Mapping[str, Any]) -> int:
        """Send one row; return the status of the answer.

        Raises ServiceUnavailable, ServiceRefused.
        """
        answer = await self._client.post(
            self._call.path,
            fill(self._call.body, audit_values(row)),
            # The service knows a repetition by the number of the row.
            idempotent=True,
            accept=self._call.accept,
            correlation_id=f"audit-{row['seal']}",
        )
        return answer.status
