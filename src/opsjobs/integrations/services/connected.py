"""The platform's services that the settings connect, and their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opsjobs.integrations.services.client import ServiceClient
from opsjobs.integrations.services.health import IntegrationStatus
from opsjobs.integrations.services.profile import Profile


@dataclass(frozen=True, slots=True)
class ConnectedService:
    """A service that the settings name: its client, and the profile that describes it."""

    client: ServiceClient
    profile: Profile


@dataclass(frozen=True)
class Integrations:
    """The platform's services that are connected, by name (TARGET, USER, AUTH)."""

    connected: Mapping[str, ConnectedService]

    def get(self, name: str) -> ConnectedService | None:
        """Return a service; None if its built-in replacement is used."""
        return self.connected.get(name)

    def statuses(self) -> list[IntegrationStatus]:
        """Return the state of each connected service as this process sees it."""
        return [service.client.health.status() for service in self.connected.values()]

    async def close(self) -> None:
        """Close the connections."""
        for service in self.connected.values():
            await service.client.close()
