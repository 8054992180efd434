"""The application with everything that executions need, on a real server on loopback.

Streams can be read live.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx2
import uvicorn

from api.kit import app_on, response_checks, services_on
from kit.scripted_worker import ScriptedExecution
from opsjobs.api.connections import HttpConnection
from opsjobs.api.follower import Followers
from opsjobs.clock import Clock
from opsjobs.engine.firing.schedule_launch import Triggers
from opsjobs.engine.launching.approval_service import ApprovalService
from opsjobs.engine.launching.retries import RetryService
from opsjobs.model.target import TargetDraft
from opsjobs.settings import MailSettings
from opsjobs.store.approvals import Approvals
from opsjobs.store.dead_letters import DeadLetters
from opsjobs.store.statistics import Statistics
from opsjobs.store.system_status import SystemStatus
from opsjobs.store.transaction import Database


class FakeBus:
    """A bus that keeps published messages and delivers none."""

    def __init__(self, *, answers: bool = True) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.answers = answers
        self.is_configured = True

    def publish(self, channel: str, message: bytes) -> None:
        """Keep the message."""
        self.published.append((channel, message))

    async def ping(self) -> bool:
        """Return the configured answer."""
        return self.answers

    async def server_version(self) -> str | None:
        """Return a version, unless it is set to be unavailable."""
        return "7.2.4" if self.answers else None

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        """Yield no message."""
        yield _nothing()


async def _nothing() -> AsyncIterator[tuple[str, bytes]]:
    await asyncio.Event().wait()
    yield "", b""


@dataclass
class LiveApi:
    """A client with ada's token (admin), its services, and a scripted execution."""

    http: httpx2.AsyncClient
    services: Any
    app: Any
    token: str
    scripted: ScriptedExecution
    notified: list[str]
    server: uvicorn.Server
    port: int

    @property
    def followers(self) -> Followers:
        """The event streams of the process."""
        followers: Followers = self.app.state.followers
        return followers

    async def as_role(self, role: str) -> dict[str, str]:
        """Return the headers of a new caller with this role."""
        return {
            "Authorization": f"Bearer {await self.services.identities.create_key(f'ben-{role}', role)}"
        }

    async def targets(self, *names: str) -> None:
        """Add these targets to the inventory."""
        for number, name in enumerate(names, start=1):
            await self.services.inventory.create(TargetDraft(name=name, host=f"10.0.0.{number}"))


def services_for(
    database: Database,
    notified: list[str],
    bus: Any | None = None,
    *,
    mail: MailSettings | None = None,
    clock: Clock | None = None,
) -> Any:
    """Return the services of all nouns, and those of executions."""
    services = services_on(database, notified, mail=mail, clock=clock)
    services.bus = bus or FakeBus()
    services.system_status = SystemStatus(database)
    services.statistics = Statistics(database)
    services.retries = RetryService(
        services.launcher, database=database, ledger=services.ledger, targets=services.inventory
    )
    services.dead_letters, services.approvals = DeadLetters(database), Approvals(database)
    services.approval_service = ApprovalService(
        services.approvals, services.ledger, services.inventory, services.vault
    )
    services.triggers = Triggers(
        services.firings, services.schedules, services.jobs, services.launcher
    )
    services.notifier = SimpleNamespace(notify=notified.append)

    async def nothing() -> None:
        return

    services.open = services.close = nothing
    return services


@asynccontextmanager
async def live_api(
    database: Database, bus: Any | None = None, *, clock: Clock | None = None
) -> AsyncIterator[LiveApi]:
    """Serve the application on a free port of loopback."""
    notified: list[str] = []
    services = services_for(database, notified, bus, clock=clock)
    token = await services.identities.create_key("ada", "admin")
    app = app_on(services)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, http=HttpConnection, lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        headers = {"Authorization": f"Bearer {token}"}
        try:
            url = f"http://127.0.0.1:{port}"
            async with httpx2.AsyncClient(
                base_url=url, headers=headers, timeout=30, event_hooks=response_checks()
            ) as http:
                yield LiveApi(
                    http, services, app, token, ScriptedExecution(database), notified, server, port
                )
        finally:
            await app.state.followers.close()
            await app.state.event_tail.close()
            server.should_exit = True
            await serving
