"""The application with all that executions need, behind a real server on loopback: streams can be read as they come."""

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

from api.kit import app_on, parts_on
from kit.story import Story
from opsjobs.api.follower import Followers
from opsjobs.api.http_connection import HttpConnection
from opsjobs.clock import Clock
from opsjobs.engine.firing.firing import Triggers
from opsjobs.engine.launching.approval_service import Approving
from opsjobs.engine.launching.retries import RetryService
from opsjobs.model.target import TargetDraft
from opsjobs.store.approvals import Approvals
from opsjobs.store.dead_letters import DeadLetters
from opsjobs.store.system_status import Fleet
from opsjobs.store.transaction import Database


class Channel:
    """A bus that keeps what was published, and hears nothing."""

    def __init__(self, *, answers: bool = True) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.answers = answers
        self.configured = True

    def publish(self, channel: str, message: bytes) -> None:
        """Keep it."""
        self.published.append((channel, message))

    async def ping(self) -> bool:
        """As it is set."""
        return self.answers

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        """Silence."""
        yield _nothing()


async def _nothing() -> AsyncIterator[tuple[str, bytes]]:
    await asyncio.Event().wait()
    yield "", b""


@dataclass
class Live:
    """A client with ada's token (admin), the parts, and a worker played by the test."""

    http: httpx2.AsyncClient
    parts: Any
    app: Any
    token: str
    story: Story
    notified: list[str]
    server: uvicorn.Server
    port: int

    @property
    def followers(self) -> Followers:
        """The process's event streams."""
        followers: Followers = self.app.state.followers
        return followers

    async def as_role(self, role: str) -> dict[str, str]:
        """The headers of a new caller with this role."""
        return {"Authorization": f"Bearer {await self.parts.people.create_key(f'ben-{role}', role)}"}

    async def targets(self, *names: str) -> None:
        """Make these machines known to the inventory."""
        for number, name in enumerate(names, start=1):
            await self.parts.inventory.create(TargetDraft(name=name, host=f"10.0.0.{number}"))


def parts_for(database: Database, notified: list[str], bus: Any | None = None, *, clock: Clock | None = None) -> Any:
    """The nouns' parts, and those of executions."""
    parts = parts_on(database, notified, clock=clock)
    parts.bus = bus or Channel()
    parts.fleet = Fleet(database)
    parts.again = RetryService(parts.launcher, database=database, ledger=parts.ledger, targets=parts.inventory)
    parts.dead_letters, parts.approvals = DeadLetters(database), Approvals(database)
    parts.approving = Approving(parts.approvals, parts.ledger, parts.inventory, parts.vault)
    parts.triggers = Triggers(parts.firings, parts.schedules, parts.jobs, parts.launcher)
    parts.notifier = SimpleNamespace(notify=notified.append)

    async def nothing() -> None:
        return

    parts.open = parts.close = nothing
    return parts


@asynccontextmanager
async def live(database: Database, bus: Any | None = None, *, clock: Clock | None = None) -> AsyncIterator[Live]:
    """The application served on a free port of loopback."""
    notified: list[str] = []
    parts = parts_for(database, notified, bus, clock=clock)
    token = await parts.people.create_key("ada", "admin")
    app = app_on(parts)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=HttpConnection, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as http:
                yield Live(http, parts, app, token, Story(database), notified, server, port)
        finally:
            await app.state.followers.close()
            server.should_exit = True
            await serving
