"""A world of two halves, staging and production, and people whose grants end at the border between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2

from api.kit import app_on, known_to
from api.live import services_for
from opsjobs.model.access import Grant, Principal, Scope
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.identity import Identity, PrincipalKind
from opsjobs.store.blobs import seal
from opsjobs.store.identities import IdentityStore
from opsjobs.store.transaction import Database

STAGING, FOREIGN = "staging", "foreign"
"""The halves, by the value of the label `env`; `foreign` is in the name of all that lies in the other one."""


class Badges(IdentityStore):
    """Knows the principals that tests hand a badge to, whatever their grants, beside those who have an API key."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.given: dict[str, Principal] = {}

    async def by_token(self, token: str) -> Principal | None:
        """Who wears this badge, or has this key."""
        return self.given.get(token) or await super().by_token(token)

    async def current_principal(self, identity: Identity) -> Principal | None:
        """Return the principal of this identity, if a test has made it a badge."""
        given = {principal.identity: principal for principal in self.given.values()}
        return given.get(identity)


def badge(name: str, *grants: tuple[str, str], kind: PrincipalKind = "user") -> Principal:
    """Somebody with these grants, each a role or a permission, and the scope that it is for ("" is everywhere)."""
    return Principal(name, kind, tuple(_grant(what, Scope.parse(scope)) for what, scope in grants))


def _grant(what: str, scope: Scope) -> Grant:
    return Grant(frozenset({what}), scope) if ":" in what else Grant.of_role(what, scope)


@dataclass
class World:
    """The application, and who may speak to it. `things`: the path of what lies in each half, by noun and half."""

    http: httpx2.AsyncClient
    app: Any
    services: Any
    rung: list[str]
    things: dict[tuple[str, str], str] = field(default_factory=dict)

    def admit(self, principal: Principal) -> dict[str, str]:
        """The headers of a principal."""
        token = f"badge-of-{principal.kind}-{principal.name}"
        self.services.identities.given[token] = principal
        return {"Authorization": f"Bearer {token}"}

    async def status(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> int:
        """What a request is answered, for tests that send thousands: without a client around it."""
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
        """What the administrator has made."""
        answer = await self.http.post(path, json=body)
        assert answer.status_code in (201, 202), answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def target(self, name: str, env: str | None = None, **fields: Any) -> str:
        """A machine in one half, or in none; its id."""
        labels = {"env": env} if env is not None else {}
        return str(
            (
                await self.made(
                    "/targets", {"name": name, "host": "10.0.0.1", "labels": labels, **fields}
                )
            )["id"]
        )

    async def job(self, name: str, env: str | None, *targets: str, **fields: Any) -> str:
        """A job in one half on these targets; its id."""
        tags = [f"env={env}"] if env is not None else []
        body = {
            "name": name,
            "tags": tags,
            "actions": [{"type": "command", "command": "uptime"}],
            "targets": {"ids": [*targets]},
        }
        return str((await self.made("/jobs", body | fields))["id"])

    async def execution(self, job: str) -> str:
        """An execution of a job; its id."""
        return str((await self.made(f"/jobs/{job}/execute", {}))["id"])

    async def ended(self, job: str) -> str:
        """An execution that is over before it began."""
        execution = await self.execution(job)
        assert (await self.http.post(f"/executions/{execution}/cancel")).status_code == 202
        return execution

    async def furnish(self, env: str) -> None:
        """One thing of each kind in a half."""
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
        """One more of these in a half, to be deleted; its id."""
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
        """A nightly schedule of a job; its id."""
        body = {"name": name, "type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
        answer = await self.http.post(f"/jobs/{job}/schedules", json=body, **who)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def trigger(self, job: str, name: str) -> str:
        """A trigger of a job; its id."""
        return str((await self.made(f"/jobs/{job}/triggers", {"name": name}))["id"])

    async def artifact(self, execution: int, run: int, env: str) -> str:
        """Something that came from a target; its id."""
        written = await self.services.contents.write(_once(env), limit_bytes=100)
        query = """insert into artifacts (uuid, execution_id, target_run_id, action, attempt, path, content_id)
            values (%s, %s, %s, 'step-1', 1, %s, %s) returning id"""
        async with self.services.database.transaction() as connection:
            values = [uuid4(), execution, run, f"/{env}", await seal(connection, written)]
            row = await (await connection.execute(query, values)).fetchone()
        return str(row["id"])

    async def file(self, name: str, **who: Any) -> str:
        """An uploaded file; its id."""
        answer = await self.http.post(f"/files?name={name}", content=name.encode(), **who)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


async def _once(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


@asynccontextmanager
async def world(database: Database) -> AsyncIterator[World]:
    """The application over ASGI with both halves furnished; ada is the administrator."""
    rung: list[str] = []
    services = services_for(database, rung)
    known_to(services, Badges(database))
    token = await services.identities.create_key("ada", "admin")
    app = app_on(services)
    headers = {"Authorization": f"Bearer {token}"}
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://opsjobs", headers=headers
    ) as http:
        made = World(http, app, services, rung)
        await made.furnish(STAGING)
        await made.furnish(FOREIGN)
        try:
            yield made
        finally:
            await app.state.followers.close()
