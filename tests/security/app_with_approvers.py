"""The application over ASGI with everything that launches need, a target, and approvers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from api.kit import app_on
from api.live import services_for
from opsjobs.engine.launching.safety_service import SafetyService
from opsjobs.model.target import TargetDraft
from opsjobs.store.transaction import Database


@dataclass
class AppWithApprovers:
    """The application, and headers of three callers.

    These are ada (an administrator, who requests), ben and eve (managers, who decide).
    """

    http: httpx2.AsyncClient
    services: Any
    ada: Mapping[str, str]
    ben: Mapping[str, str]
    eve: Mapping[str, str]

    async def machine(self, name: str, **fields: Any) -> None:
        """Add a target."""
        await self.services.inventory.create(
            TargetDraft(name=name, host=fields.pop("host", "10.0.0.1"), **fields)
        )

    async def job(self, name: str = "restart-web", **fields: Any) -> int:
        """Store a job on web-1; return its id."""
        body = {
            "name": name,
            "actions": [{"type": "command", "command": "uptime"}],
            "targets": {"ids": ["web-1"]},
            **fields,
        }
        made = await self.http.post("/jobs", json=body)
        assert made.status_code == 201, made.text
        return int(made.json()["id"])

    async def execute(self, job: int, **body: Any) -> Mapping[str, Any]:
        """Launch the job; return the execution."""
        launched = await self.http.post(f"/jobs/{job}/execute", json=body)
        assert launched.status_code == 202, launched.text
        return dict(launched.json())

    async def launch_request(
        self, which: str, job: int, **fields: Any
    ) -> tuple[str, dict[str, Any]]:
        """Return path and body of a launch of this job by `run` (with these fields), `retry`, `trigger` or `execute`."""
        if which == "run":
            actions = [{"type": "command", "command": "uptime"}]
            return "/run", {"actions": actions, "targets": {"ids": ["web-1"]}, **fields}
        if which == "retry":
            before = await self.execute(job)
            await self.http.post(f"/executions/{before['id']}/cancel")
            return f"/executions/{before['id']}/retry", {"which": "unsuccessful", "again": True}
        if which == "trigger":
            made = await self.http.post(
                f"/jobs/{job}/schedules", json={"name": "n", "type": "cron", "cron": "0 3 * * *"}
            )
            return f"/schedules/{made.json()['id']}/trigger", {}
        return f"/jobs/{job}/execute", {}

    async def audited(self) -> list[tuple[str, str, str | None]]:
        """Return actor, action and reason of all decisions and overrides in the audit log."""
        rows = await self.services.database.fetch(
            "select actor, action, reason from audit_log where action ~ '^(approval|safety)' order by id"
        )
        return [(row["actor"], row["action"], row["reason"]) for row in rows]


@asynccontextmanager
async def app_with_approvers(
    database: Database, judging: Callable[[Any], SafetyService] | None = None
) -> AsyncIterator[AppWithApprovers]:
    """Run the application with web-1 in the inventory; without `judging` texts are not checked."""
    services = services_for(database, [])
    if judging is not None:
        services.safety_service = judging(services)
        services.launcher.safety = services.safety_service
    tokens = [
        await services.identities.create_key(name, role)
        for name, role in (("ada", "admin"), ("ben", "manager"), ("eve", "manager"))
    ]
    ada, ben, eve = [{"Authorization": f"Bearer {token}"} for token in tokens]
    transport = httpx2.ASGITransport(app=app_on(services))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://opsjobs", headers=ada
    ) as http:
        made = AppWithApprovers(http, services, ada, ben, eve)
        await made.machine("web-1")
        yield made
