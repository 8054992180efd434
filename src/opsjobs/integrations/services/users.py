"""The User Service: who is a user of the platform now, and with which rights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.clock import Clock
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.secrets.ttl_cache import TtlCache
from opsjobs.integrations.services.client import ServiceClient, ServiceRefused
from opsjobs.integrations.services.profile import UserCalls, first_field
from opsjobs.integrations.services.targets import is_active

KEPT_SECONDS = 30.0
"""The longest time for which an answer is cached."""
KEPT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class PlatformUser:
    """A user as the service describes it; `claims`: roles and permissions, if it has any."""

    active: bool
    claims: Mapping[str, Any]


class UserService:
    """The users of the platform, cached for `kept_seconds`."""

    def __init__(
        self,
        client: ServiceClient,
        calls: UserCalls,
        clock: Clock,
        *,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self._client = client
        self._calls = calls
        self._kept: TtlCache[PlatformUser | None] = TtlCache(
            clock, seconds=kept_seconds, most=KEPT_MAX
        )

    async def load(self, user: str) -> PlatformUser | None:
        """Return a user; None if the service does not know it. Raises ServiceUnavailable."""
        return await self._kept.get(user, lambda: self._load(user))

    async def _load(self, user: str) -> PlatformUser | None:
        try:
            answer = await self._client.get(self._calls.get.url(user))
        except ServiceRefused as refused:
            if refused.status == 404:
                return None
            if refused.status == 410:
                return PlatformUser(active=False, claims={})
            raise
        found, fields = first_field(answer.body, self._calls.get.data), self._calls.fields
        if not isinstance(found, dict) or first_field(found, fields.id) is None:
            raise ServiceUnavailable(
                f"the User Service answers without a user for {user}: check USER_SERVICE_PROFILE"
            )
        roles, permissions = (
            first_field(found, places) for places in (fields.roles, fields.permissions)
        )
        claims = {"roles": roles, "permissions": permissions}
        return PlatformUser(
            is_active(first_field(found, fields.active)),
            {name: value for name, value in claims.items() if value is not None},
        )
