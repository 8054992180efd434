"""An inventory with the targets of a platform's Target Service, and a settable age."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kit.platform_services import PlatformServices
from opsjobs.clock import SystemClock
from opsjobs.composition.platform import build_integrations, build_inventory, build_target_service
from opsjobs.settings import load
from opsjobs.store.envelope import new_key
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.telemetry.metrics import Metrics


@asynccontextmanager
async def inventory_of(
    platform: PlatformServices, database: Database, *, vault: Vault | None = None, **more: str
) -> AsyncIterator[TargetInventory]:
    """Return the inventory of a process that is connected to this Target Service."""
    environ = {
        "TARGET_SERVICE_URL": platform.url("target"),
        "TARGET_SERVICE_PROFILE": platform.generation,
        "OPSJOBS_SERVICE_TIMEOUT": "60",
        **more,
    }
    settings, clock = load(environ), SystemClock()
    integrations = build_integrations(settings, clock, Metrics())
    service = build_target_service(integrations, clock)
    try:
        yield build_inventory(
            settings, database, vault or Vault(database, [new_key()]), clock, service
        )
    finally:
        await integrations.close()


async def age(database: Database, seconds: float) -> None:
    """Make the mirrored data older."""
    async with database.transaction() as connection:
        for table in ("targets", "mirrors"):
            await connection.execute(
                f"update {table} set synced_at = synced_at - make_interval(secs => %s)", [seconds]
            )
