"""An application with objects in two scopes, staging and foreign, and principals whose grants cover one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2

from api.kit import app_on, use_identities
from api.live import services_for
from opsjobs.model.access import Grant, Principal, Scope
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.identity import Identity, PrincipalKind
from opsjobs.store.blobs import seal
from opsjobs.store.identities import IdentityStore
from opsjobs.store.transaction import Database

STAGING, FOREIGN = "staging", "foreign"
"""The scopes, by the label `env`; `foreign` is in all names of the other one."""


class AdmittedPrincipals(IdentityStore):
    """An identity store that also knows principals made by tests.

    They have any grants, and each has a token of its own.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.given: dict[str, Principal] = {}

    async def by_token(self, token: str) -> Principal | None:
        """Return the principal with this token or API key."""
        return self.given.get(token) or await super().by_token(token)

    async def current_principal(self, identity: Identity) -> Principal | None:
        """Return the principal of this identity, if a test has admitted it."""
        given = {principal.identity: principal for principal in self.given.values()}
        return given.get(identity)


def principal_with(name: str, *grants: tuple[str, str], kind: PrincipalKind = "user") -> Principal:
    """Return a principal with these grants.

    Each is a role or a permission, and its scope ("" is everywhere).
    """
    return Principal(name, kind, tuple(_grant(what, Scope.parse(scope)) for what, scope in grants))


def _grant(what: str, scope: Scope) -> Grant:
    return Grant(frozenset({what}), scope) if ":" in what else Grant.of_role(what, scope)


@dataclass
class ScopedApp:
    """The application, and its callers.

    `things`: the path of an object in each scope, by noun and scope.
    """

    http: httpx2.AsyncClient
    app: Any
    services: Any
    notified: list[str]
    things: dict[tuple[str, str], str] = field(default_factory=dict)

    def admit(self, principal: Principal) -> dict[str, str]:
        """Return the headers of a new token of this principal."""
        token = f"token-of-{principal.kind}-{principal.name}"
        self.services.identities.given[token] = principal
        return {"Authorization": f"Bearer {token}"}

    async def status(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> int:
        """Send a request without a client, for tests that send thousands; return its status."""
        sent = iter([{"type": "http.request", "body": body, "more_body": False}])
        found, started = [0], asyncio.Event()

        async def receive() -> Mapping[str, Any]:
            if (message := next(sent, None)) is None:
                await started.wait()  # a stream ends when its viewer leaves
            return message or {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            found[0] = message.get("status", found[0])
            started.set()

        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("opsjobs", 80),
            "headers": [(b"host", b"opsjobs"), (b"content-length", str(len(body)).encode()), *lines], "state": {},
        }  # fmt: skip
        await self.app(scope, receive, send)
        return found[0]

    async def made(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create something as the administrator; return it."""
        answer = await self.http.post(path, json=body)
        assert answer.status_code in (201, 202), answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def target(self, name: str, env: str | None = None, **fields: Any) -> str:
        """Create a target in one scope, or in none; return its id."""
        labels = {"env": env} if env is not None else {}
        return str(
            (
                await self.made(
                    "/targets", {"name": name, "host": "10.0.0.1", "labels": labels, **fields}
                )
            )["id"]
        )

    async def job(self, name: str, env: str | None, *targets: str, **fields: Any) -> str:
        """Create a job in one scope on these targets; return its id."""
        tags = [f"env={env}"] if env is not None else []
        body = {
            "name": name,
            "tags": tags,
            "actions": [{"type": "command", "command": "uptime"}],
            "targets": {"ids": [*targets]},
        }
        return str((await self.made("/jobs", body | fields))["id"])

    async def execution(self, job: str) -> str:
        """Launch a job; return the execution's id."""
        return str((await self.made(f"/jobs/{job}/execute", {}))["id"])

    async def ended(self, job: str) -> str:
        """Launch an execution that has ended before it began."""
        execution = await self.execution(job)
        assert (await self.http.post(f"/executions/{execution}/cancel")).status_code == 202
        return execution

    async def furnish(self, env: str) -> None:
        """Create one object of each kind in a scope."""
        tag = uuid4().hex[:8]
        target = await self.target(f"web-{env}-{tag}", env)
        job = await self.job(f"job-{env}-{tag}", env, target)
        execution = await self.ended(job)
        rows = await self.services.database.fetch(
            "select id from target_runs where execution_id = %s", [execution]
        )
        await self.services.database.fetch(
            "update target_runs set status = 'lost' where id = %s returning id", [rows[0]["id"]]
        )
        asked = await self.services.ledger.request_approval(
            int(execution), f"ask-{env}", ApprovalTerms(env)
        )
        made = await self.schedule(job, f"nightly-{env}")
        self.things |= {
            ("target", env): target,
            ("job", env): job,
            ("execution", env): execution,
            ("approval", env): str(asked.id),
            ("schedule", env): made,
            ("trigger", env): await self.trigger(job, f"push-{env}"),
            ("artifact", env): await self.artifact(int(execution), rows[0]["id"], env),
            ("file", env): await self.file(f"file-{env}"),
        }

    async def fresh(self, noun: str, env: str) -> str:
        """Create one more of these in a scope, to be deleted; return its id."""
        tag = uuid4().hex[:8]
        if noun == "target":
            return await self.target(f"web-{env}-{tag}", env)
        if noun == "file":
            return await self.file(f"file-{env}-{tag}")
        if noun == "schedule":
            return await self.schedule(self.things["job", env], f"nightly-{env}-{tag}")
        if noun == "trigger":
            return await self.trigger(self.things["job", env], f"push-{env}-{tag}")
        assert noun == "job", f"nobody has said how to make a {noun} that may be deleted"
        return await self.job(f"job-{env}-{tag}", env, self.things["target", env])

    async def schedule(self, job: str, name: str, **who: Any) -> str:
        """Create a nightly schedule of a job; return its id."""
        body = {"name": name, "type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
        answer = await self.http.post(f"/jobs/{job}/schedules", json=body, **who)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def trigger(self, job: str, name: str) -> str:
        """Create a trigger of a job; return its id."""
        return str((await self.made(f"/jobs/{job}/triggers", {"name": name}))["id"])

    async def artifact(self, execution: int, run: int, env: str) -> str:
        """Store an artifact of a target; return its id."""
        written = await self.services.contents.write(_once(env), limit_bytes=100)
        query = """insert into artifacts (uuid, execution_id, target_run_id, action, attempt, path, content_id)
            values (%s, %s, %s, 'step-1', 1, %s, %s) returning id"""
        async with self.services.database.transaction() as connection:
            values = [uuid4(), execution, run, f"/{env}", await seal(connection, written)]
            row = await (await connection.execute(query, values)).fetchone()
        return str(row["id"])

    async def file(self, name: str, **who: Any) -> str:
        """Upload a file; return its id."""
        answer = await self.http.post(f"/files?name={name}", content=name.encode(), **who)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


async def _once(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


@asynccontextmanager
async def scoped_app(database: Database) -> AsyncIterator[ScopedApp]:
    """Run the application over ASGI with objects in both scopes; ada is the administrator."""
    notified: list[str] = []
    services = services_for(database, notified)
    use_identities(services, AdmittedPrincipals(database))
    token = await services.identities.create_key("ada", "admin")
    app = app_on(services)
    headers = {"Authorization": f"Bearer {token}"}
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://opsjobs", headers=headers
    ) as http:
        made = ScopedApp(http, app, services, notified)
        await made.furnish(STAGING)
        await made.furnish(FOREIGN)
        try:
            yield made
        finally:
            await app.state.followers.close()
