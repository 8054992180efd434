"""The whole service in one event loop, connected to a platform.

API, worker and scheduler are built as their processes build them. Their background loops run more
often than in service, so that a test does not wait for their pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import pytest

from kit import tcp_proxy
from kit.backing_servers import AUDIT_KEY
from kit.platform_services import PlatformServices
from opsjobs import composition
from opsjobs.api.app import create_app
from opsjobs.composition import background, build, scheduler
from opsjobs.composition.scheduler import HostedScheduler
from opsjobs.composition.services import Integrations
from opsjobs.composition.worker import HostedWorker
from opsjobs.settings import Settings, load
from opsjobs.store.transaction import Database

SERVICES = ("target", "user", "auth", "notification", "audit")
TICK_SECONDS = 0.05
# A service has long to answer, so that a busy machine is no fault of it, but for one that is slow on purpose.
ANSWER_SECONDS = 30.0
SLOW_ANSWER_SECONDS = 0.4


@dataclass
class PlatformStack:
    """The service, and a connection to each of the platform's services that can be cut."""

    platform: PlatformServices
    database: Database
    http: httpx2.AsyncClient
    """The client of the admin."""
    ways: Mapping[str, tcp_proxy.Proxy] = field(default_factory=dict)
    integrations_of: Sequence[Integrations] = ()
    """What each of the processes is connected to."""

    def fail(self, service: str, fault: str) -> None:
        """Break a service; `down` refuses connections, the others are faults of the stand-in."""
        if fault == "down":
            self.ways[service].faults.refuse = True
            self.ways[service].reset_all()
            return
        if fault == "slow":
            self._give(service, SLOW_ANSWER_SECONDS)
        self.platform.faults[service] = fault

    def mend(self) -> None:
        """Repair all services."""
        self.platform.faults.clear()
        for way in self.ways.values():
            way.faults.refuse = False
        for service in SERVICES:
            self._give(service, ANSWER_SECONDS)

    async def hurry(self) -> None:
        """Make everything that waits for a retry due now."""
        await self.database.fetch(
            "update delivery_lanes set due_at = opsjobs_now() where lease_until is null returning 1"
        )

    def _give(self, service: str, seconds: float) -> None:
        """Give a service so long to answer."""
        for integrations in self.integrations_of:
            if (connected := integrations.get(service.upper())) is not None:
                client = connected.client
                client.options = replace(client.options, timeout_seconds=seconds)

    async def integrations(self) -> dict[str, dict[str, Any]]:
        """Return `integrations` of GET /status, by name."""
        answer = await self.http.get("/status")
        assert answer.status_code == 200, answer.text
        return {each["name"]: each for each in answer.json()["integrations"]}


@asynccontextmanager
async def platform_stack(
    database: Database,
    urls: tuple[str, str],
    platform: PlatformServices,
    patch: pytest.MonkeyPatch,
    **more: str,
) -> AsyncIterator[PlatformStack]:
    """Run the service; `urls`: of the database and of Redis."""
    patch.setattr(background, "INTAKE_SECONDS", TICK_SECONDS)
    patch.setattr(background, "SEND_SECONDS", TICK_SECONDS)
    patch.setattr(scheduler, "SEAL_SECONDS", TICK_SECONDS)
    patch.setattr(composition, "REPORT_SECONDS", TICK_SECONDS)
    async with AsyncExitStack() as stack:
        ways = {
            name: await stack.enter_async_context(tcp_proxy.proxy("127.0.0.1", platform.port))
            for name in SERVICES
        }
        wanted = load(
            {
                "DATABASE_URL": urls[0],
                "REDIS_URL": urls[1],
                "ENCRYPTION_KEYS": AUDIT_KEY.reveal(),
                "OPSJOBS_POLL_SECONDS": str(TICK_SECONDS),
                "OPSJOBS_TARGET_CACHE": "0s",
                "OPSJOBS_TARGET_HOST_KEY_POLICY": "accept_new",
                "OPSJOBS_SERVICE_TIMEOUT": f"{ANSWER_SECONDS:g}s",
                "OPSJOBS_DRAIN_SECONDS": "0",
                **{
                    f"{name.upper()}_SERVICE_URL": f"http://127.0.0.1:{way.port}/{name}"
                    for name, way in ways.items()
                },
                **more,
            }
        )
        http, integrations = await _start(stack, wanted)
        yield PlatformStack(platform, database, http, ways, integrations)


async def _start(
    stack: AsyncExitStack, wanted: Settings
) -> tuple[httpx2.AsyncClient, list[Integrations]]:
    """Start the three processes; return the client of the admin, and what they are connected to."""
    services = build(wanted, process="api")
    app = create_app(services)
    await stack.enter_async_context(app.router.lifespan_context(app))
    token = await services.identities.create_key("root", "admin")
    worker, clock = HostedWorker(wanted, name="worker-1"), HostedScheduler(wanted)
    await worker.start()
    stack.push_async_callback(worker.stop)
    await clock.start()
    stack.push_async_callback(clock.stop)
    beat = asyncio.create_task(_beat(clock))
    stack.callback(beat.cancel)
    http = await stack.enter_async_context(
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://opsjobs",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
    )
    return http, [each.integrations for each in (services, worker.services, clock.services)]


async def _beat(clock: HostedScheduler) -> None:
    """Run pass after pass, like Celery's beat in service."""
    while True:
        await clock.run_once()
        await asyncio.sleep(TICK_SECONDS)
