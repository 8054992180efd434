"""Point 28: a route that changes something leaves an audit row in the same transaction.

Without the row, nothing is changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.kit import app_on, job
from api.live import services_for
from docs.test_complete import application
from kit.ended_delivery import ended_delivery
from kit.scripted_worker import ScriptedExecution
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.circuit import CircuitKey, Report
from opsjobs.model.execution import ErrorCode, RunError
from opsjobs.remote.session import HostKey
from opsjobs.settings import MailSettings
from opsjobs.store.envelope import new_key
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.keys import KeyRotation

ASKS = "it asks, and changes nothing"
# Routes that leave no row, with the reasons.
EXEMPT = {
    "POST /jobs/validate": ASKS,
    "POST /jobs/{id}/validate": ASKS,
    "POST /jobs/{id}/preview": ASKS,
    "POST /schedules/preview": ASKS,
    "POST /safety/check": ASKS,
    "POST /targets/resolve": ASKS,
    "POST /auth/refresh": "it goes on with a login, which is on record; a token that comes twice ends that, and is",
}
NIGHTLY = {"name": "nightly", "type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
XMAS = {
    "name": "xmas",
    "kind": "blackout",
    "timezone": "Europe/Berlin",
    "windows": [{"yearly": "12-24..12-26"}],
}
HOOK = {"name": "tickets", "url": "https://example.org/hook", "events": ["execution.*"]}
PAGER = {"channel": "email", "to": ["ada@example.org"]}
PASSWORD = {
    "name": "root",
    "type": "password",
    "username": "root",
    "password": "s3cret-of-the-canary",
}
PUSH = {"name": "push", "verify": "bearer"}
ROBOT = {"name": "robot", "grants": [{"role": "viewer"}]}
PUBLIC = (
    Ed25519PrivateKey.generate()
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
BEN = {"name": "ben", "grants": [{"role": "viewer"}]}
OLD, NEW = "an old word of-the-canary", "a new word of-the-canary"
ON = {"ids": ["web-1", "web-2"]}


@dataclass
class Step:
    """A request that succeeds after those before it.

    It has its route, its real path, its body, and the action in the audit log.
    """

    route: str
    path: str
    body: Any = None
    action: str = ""
    keep: str = ""
    """The name under which the steps after it know the id of the created object."""
    by: str = "ada"
    """The owner of the token of the request; a name without a token: none."""


# In this order each one finds what it needs.
STEPS = [
    Step("POST /target-groups", "/target-groups", {"name": "web"}, "group.created", "group"),
    Step(
        "PUT /target-groups/{id}",
        "/target-groups/{group}",
        {"name": "web", "description": "all"},
        "group.updated",
    ),
    Step(
        "PATCH /target-groups/{id}",
        "/target-groups/{group}",
        {"description": "in front"},
        "group.updated",
    ),
    Step("POST /credentials", "/credentials", PASSWORD, "credential.created", "credential"),
    Step(
        "PUT /credentials/{id}",
        "/credentials/{credential}",
        {**PASSWORD, "username": "toor"},
        "credential.updated",
    ),
    Step(
        "PATCH /credentials/{id}",
        "/credentials/{credential}",
        {"username": "root"},
        "credential.updated",
    ),
    Step(
        "PUT /credentials/{id}/bound-to",
        "/credentials/{credential}/bound-to",
        {"groups": ["web"]},
        "credential.bound",
    ),
    Step(
        "POST /credentials/{id}/test", "/credentials/{credential}/test", None, "credential.tested"
    ),
    Step(
        "POST /credentials/{id}/rotate",
        "/credentials/{credential}/rotate",
        {"password": "an0ther-of-the-canary"},
        "credential.rotated",
    ),
    Step("POST /keys/rotate", "/keys/rotate", None, "key.rotated"),
    Step("DELETE /credentials/{id}", "/credentials/{credential}", None, "credential.deleted"),
    Step(
        "POST /targets",
        "/targets",
        {"name": "web-1", "host": "10.0.0.1", "groups": ["web"]},
        "target.created",
        "web",
    ),
    Step(
        "POST /targets/import",
        "/targets/import",
        {"targets": [{"name": "web-2", "host": "10.0.0.2"}]},
        "target.created",
    ),
    Step(
        "PUT /targets/{id}",
        "/targets/{web}",
        {"name": "web-1", "host": "10.0.0.1", "host_key_policy": "unchecked"},
        "target.updated",
    ),
    Step("PATCH /targets/{id}", "/targets/{web}", {"slots": 3}, "target.updated"),
    Step("POST /targets/{id}/test", "/targets/{web}/test", None, "target.tested"),
    Step(
        "POST /targets/{id}/scan-host-keys", "/targets/{web}/scan-host-keys", None, "target.scanned"
    ),
    Step(
        "POST /targets/{id}/maintenance",
        "/targets/{web}/maintenance",
        {"duration": "1h"},
        "target.maintenance_began",
    ),
    Step(
        "POST /targets/{id}/maintenance",
        "/targets/{web}/maintenance",
        {"off": True},
        "target.maintenance_ended",
    ),
    Step("POST /circuits/{target}/reset", "/circuits/{web}/reset", None, "circuit.reset"),
    Step("POST /calendars", "/calendars", XMAS, "calendar.created", "calendar"),
    Step(
        "PUT /calendars/{id}",
        "/calendars/{calendar}",
        {**XMAS, "description": "quiet"},
        "calendar.updated",
    ),
    Step(
        "PATCH /calendars/{id}",
        "/calendars/{calendar}",
        {"description": "still"},
        "calendar.updated",
    ),
    Step("DELETE /calendars/{id}", "/calendars/{calendar}", None, "calendar.deleted"),
    Step("POST /webhooks", "/webhooks", HOOK, "webhook.created", "webhook"),
    Step(
        "PUT /webhooks/{id}",
        "/webhooks/{webhook}",
        {**HOOK, "events": ["job.*"]},
        "webhook.updated",
    ),
    Step("POST /webhooks/{id}/rotate", "/webhooks/{webhook}/rotate", {}, "webhook.rotated"),
    Step(
        "POST /webhooks/{id}/test", "/webhooks/{webhook}/test", None, "webhook.tested", "delivery"
    ),
    Step("PATCH /webhooks/{id}", "/webhooks/{webhook}", {"enabled": False}, "webhook.updated"),
    Step("PATCH /webhooks/{id}", "/webhooks/{webhook}", {"enabled": True}, "webhook.updated"),
    Step(
        "POST /webhooks/{id}/deliveries/{delivery}/redeliver",
        "/webhooks/{webhook}/deliveries/{delivery}/redeliver",
        None,
        "webhook.redelivered",
    ),
    Step("DELETE /webhooks/{id}", "/webhooks/{webhook}", None, "webhook.deleted"),
    Step(
        "PUT /notifications/default",
        "/notifications/default",
        {"notify": [PAGER]},
        "notification_default.updated",
    ),
    Step(
        "PATCH /notifications/default",
        "/notifications/default",
        {"notify": []},
        "notification_default.updated",
    ),
    Step(
        "POST /deliveries/{id}/redeliver", "/deliveries/{mail}/redeliver", None, "delivery.repeated"
    ),
    Step("POST /notifications/test", "/notifications/test", PAGER, "notification.tested"),
    Step("POST /files", "/files?name=a.conf", b"abc", "file.uploaded", "file"),
    Step("DELETE /files/{id}", "/files/{file}", None, "file.deleted"),
    Step("POST /jobs", "/jobs", job(targets=ON), "job.created", "job"),
    Step("PUT /jobs/{id}", "/jobs/{job}", job(targets=ON, description="x"), "job.updated"),
    Step("PATCH /jobs/{id}", "/jobs/{job}", {"description": "z"}, "job.updated"),
    Step("POST /jobs/{id}/clone", "/jobs/{job}/clone", None, "job.created", "copy"),
    Step(
        "POST /jobs/apply",
        "/jobs/apply",
        {"jobs": [job(targets=ON, description="y")]},
        "job.updated",
    ),
    Step("POST /jobs/{id}/pause", "/jobs/{job}/pause", None, "job.paused"),
    Step("POST /jobs/{id}/resume", "/jobs/{job}/resume", None, "job.resumed"),
    Step(
        "POST /jobs/{id}/schedules",
        "/jobs/{job}/schedules",
        NIGHTLY,
        "schedule.created",
        "schedule",
    ),
    Step(
        "PUT /schedules/{id}",
        "/schedules/{schedule}",
        {**NIGHTLY, "cron": "31 2 * * *"},
        "schedule.updated",
    ),
    Step(
        "PATCH /schedules/{id}", "/schedules/{schedule}", {"cron": "32 2 * * *"}, "schedule.updated"
    ),
    Step(
        "POST /schedules/{id}/pause",
        "/schedules/{schedule}/pause",
        {"reason": "quiet"},
        "schedule.paused",
    ),
    Step("POST /schedules/{id}/resume", "/schedules/{schedule}/resume", None, "schedule.resumed"),
    Step(
        "POST /schedules/{id}/trigger",
        "/schedules/{schedule}/trigger",
        None,
        "schedule.triggered",
        "first",
    ),
    Step("DELETE /schedules/{id}", "/schedules/{schedule}", None, "schedule.deleted"),
    Step(
        "POST /executions/{id}/retry",
        "/executions/{first}/retry",
        {"targets": ["web-2"]},
        "execution.retried",
        "fourth",
    ),
    Step(
        "POST /dead-letters/revive",
        "/dead-letters/revive",
        {"filter": {"target": "web-1"}},
        "dead_letter.revived",
    ),
    Step(
        "POST /dead-letters/discard",
        "/dead-letters/discard",
        {"filter": {}, "reason": "known"},
        "dead_letter.discarded",
    ),
    Step(
        "POST /jobs/{id}/execute",
        "/jobs/{job}/execute",
        {"reason": "now"},
        "execution.launched",
        "second",
    ),
    Step(
        "POST /executions/{id}/pause",
        "/executions/{second}/pause",
        {"reason": "too loud"},
        "execution.paused",
    ),
    Step("POST /executions/{id}/resume", "/executions/{second}/resume", None, "execution.resumed"),
    Step(
        "POST /executions/{id}/cancel",
        "/executions/{second}/cancel",
        {"targets": ["web-1"], "reason": "wrong host"},
        "execution.targets_cancelled",
    ),
    Step(
        "POST /executions/{id}/cancel",
        "/executions/{second}/cancel",
        {"reason": "enough"},
        "execution.cancelled",
    ),
    Step(
        "POST /run",
        "/run",
        {"actions": [{"command": "uptime"}], "targets": ON},
        "execution.launched",
        "third",
    ),
    Step(
        "POST /approvals/{id}/approve",
        "/approvals/{go}/approve",
        None,
        "approval.approved",
        by="mia",
    ),
    Step(
        "POST /approvals/{id}/reject",
        "/approvals/{stop}/reject",
        {"reason": "no"},
        "approval.rejected",
        by="mia",
    ),
    Step("POST /jobs/{id}/triggers", "/jobs/{job}/triggers", PUSH, "trigger.created", "trigger"),
    Step("PUT /triggers/{id}", "/triggers/{trigger}", {**PUSH, "name": "p"}, "trigger.updated"),
    Step("PATCH /triggers/{id}", "/triggers/{trigger}", {"name": "push"}, "trigger.updated"),
    Step("POST /triggers/{id}/disable", "/triggers/{trigger}/disable", None, "trigger.disabled"),
    Step("POST /triggers/{id}/enable", "/triggers/{trigger}/enable", None, "trigger.enabled"),
    Step("POST /triggers/{id}/rotate", "/triggers/{trigger}/rotate", None, "trigger.rotated"),
    Step("POST /hooks/{id}", "{hook}", {}, "execution.launched", by="hook"),
    Step("DELETE /triggers/{id}", "/triggers/{trigger}", None, "trigger.deleted"),
    Step(
        "POST /api-keys", "/api-keys", {"name": "ben", "role": "viewer"}, "api_key.created", "key"
    ),
    Step("DELETE /api-keys/{id}", "/api-keys/{key}", None, "api_key.deleted"),
    Step("POST /audit/anchor", "/audit/anchor", {"reason": "a lost key"}, "audit.anchored"),
    Step(
        "POST /services", "/services", {**ROBOT, "public_key": PUBLIC}, "service.created", "service"
    ),
    Step(
        "PUT /services/{id}",
        "/services/{service}",
        {**ROBOT, "public_key": PUBLIC, "disabled": True},
        "service.updated",
    ),
    Step("PATCH /services/{id}", "/services/{service}", {"disabled": False}, "service.updated"),
    Step("DELETE /services/{id}", "/services/{service}", None, "service.deleted"),
    Step("POST /users", "/users", {**BEN, "password": OLD}, "user.created", "user"),
    Step(
        "PUT /users/{id}",
        "/users/{user}",
        {**BEN, "grants": [{"role": "operator"}]},
        "user.updated",
    ),
    Step("PATCH /users/{id}", "/users/{user}", {"grants": [{"role": "viewer"}]}, "user.updated"),
    Step("POST /users/{id}/disable", "/users/{user}/disable", None, "user.disabled"),
    Step("POST /users/{id}/enable", "/users/{user}/enable", None, "user.enabled"),
    Step(
        "POST /auth/login",
        "/auth/login",
        {"username": "ben", "password": OLD},
        "user.logged_in",
        by="ben",
    ),
    Step(
        "POST /auth/password",
        "/auth/password",
        {"current_password": OLD, "password": NEW},
        "user.password_changed",
        by="ben",
    ),
    Step(
        "POST /auth/login",
        "/auth/login",
        {"username": "ben", "password": NEW},
        "user.logged_in",
        by="ben",
    ),
    Step("POST /auth/logout", "/auth/logout", None, "user.logged_out", by="ben"),
    Step(
        "POST /auth/session",
        "/auth/session",
        {"username": "ben", "password": NEW},
        "user.logged_in",
        by="ben",
    ),
    Step("POST /auth/confirm", "/auth/confirm", {"password": NEW}, "login.confirmed", by="ben"),
    Step("POST /auth/keys", "/auth/keys", {"name": "laptop"}, "api_key.created", "own", by="ben"),
    Step("DELETE /auth/keys/{id}", "/auth/keys/{own}", None, "api_key.deleted", by="ben"),
    Step(
        "POST /auth/login",
        "/auth/login",
        {"username": "ben", "password": NEW},
        "user.logged_in",
        by="ben",
    ),
    Step("DELETE /auth/sessions", "/auth/sessions", None, "login.ended", by="ben"),
    Step(
        "POST /auth/session",
        "/auth/session",
        {"username": "ben", "password": NEW},
        "user.logged_in",
        by="ben",
    ),
    Step("DELETE /auth/sessions/{id}", "/auth/sessions/{session}?user=ben", None, "login.ended"),
    Step(
        "POST /auth/session",
        "/auth/session",
        {"username": "ben", "password": NEW},
        "user.logged_in",
        by="ben",
    ),
    Step("DELETE /auth/session", "/auth/session", None, "user.logged_out", by="ben"),
    Step("POST /auth/codes", "/auth/codes", None, "login.code_created"),
    Step("DELETE /users/{id}", "/users/{user}", None, "user.deleted"),
    Step("DELETE /jobs/{id}", "/jobs/{copy}", None, "job.deleted"),
    Step("DELETE /targets/{id}", "/targets/{db}", None, "target.deleted"),
    Step("DELETE /target-groups/{id}", "/target-groups/{group}", None, "group.deleted"),
]
KIND = {"ada": "api_key", "mia": "api_key", "ben": "user"}
# A call of a trigger acts in the name of the trigger's owner.
ACTS_FOR = {"hook": "ada"}
# Requests of a browser, which has a cookie in place of a token.
BY_COOKIE = {
    *("POST /auth/confirm", "DELETE /auth/session", "DELETE /auth/sessions"),
    *("POST /auth/keys", "DELETE /auth/keys/{id}"),
}
LOST = RunError(ErrorCode.LOST, "contact was lost")


class AuditedApp:
    """The application on a database, and a script for the machines of its executions."""

    def __init__(self, database: Database, http: httpx2.AsyncClient, services: Any) -> None:
        self.database = database
        self.http = http
        self.services = services
        self.scripted = ScriptedExecution(database)
        self.ids: dict[str, Any] = {}
        self.tokens: dict[str, str] = {}

    async def prepare(self, step: Step) -> None:
        """Prepare what the step needs."""
        if step.route == "POST /circuits/{target}/reset":
            key = CircuitKey(str(self.ids["web"]), "")
            await self.services.circuits.report(
                [Report(key, "a", ErrorCode.AUTH_FAILED, "refused")]
            )
        if step.route == "POST /deliveries/{id}/redeliver":
            self.ids["mail"] = await ended_delivery(self.database)
        if step.route == "POST /executions/{id}/retry":
            await self._lose("first", "web-1", "web-2")
        if step.route == "POST /dead-letters/revive":
            await self._lose("fourth", "web-2")
        if step.route == "POST /approvals/{id}/approve":
            self.tokens["mia"] = await self.services.identities.create_key("mia", "manager")
            for action in ("go", "stop"):
                asked = await self.services.ledger.request_approval(
                    self.ids["third"], action, ApprovalTerms("May we?")
                )
                self.ids[action] = asked.id

    async def _lose(self, execution: str, *machines: str) -> None:
        self.scripted.execution_id = self.ids[execution]
        await self.scripted.claim()
        for machine in machines:
            await self.scripted.finish(machine, error=LOST)

    async def send(self, step: Step) -> httpx2.Response:
        """Return the response to the step's request."""
        method, path, headers = (
            step.route.partition(" ")[0],
            step.path.format(**self.ids),
            {"if-match": "*"},
        )
        if step.route in BY_COOKIE:
            headers |= {"sec-fetch-site": "same-origin", "cookie": self.tokens["cookie"]}
        elif step.by != "ada":
            headers["authorization"] = (
                f"Bearer {self.tokens[step.by]}" if step.by in self.tokens else ""
            )
        sent = {"content": step.body} if isinstance(step.body, bytes) else {"json": step.body}
        request = self.http.build_request(method, path, headers=headers, **sent)
        if step.route in BY_COOKIE:
            del request.headers["authorization"]
        answer = await self.http.send(request)
        if answer.is_success and step.route == "POST /auth/login":
            self.tokens["ben"] = answer.json()["access_token"]
        if answer.is_success and step.route == "POST /auth/session":
            self.tokens["cookie"] = answer.headers["set-cookie"].partition(";")[0]
            self.ids["session"] = answer.json()["session"]["id"]
            self.http.cookies.clear()
        if answer.is_success and step.route == "POST /triggers/{id}/rotate":
            self.tokens["hook"], self.ids["hook"] = answer.json()["secret"], answer.json()["path"]
        if answer.is_success and step.keep:
            self.ids[step.keep] = answer.json()["id"]
        return answer

    async def rows(self) -> list[dict[str, Any]]:
        """Return the audit log, oldest first."""
        return [
            dict(row) for row in await self.database.fetch("select * from audit_log order by id")
        ]

    async def state(self) -> dict[str, str]:
        """Return a digest of each table.

        Left out are the times of use of keys and credentials, login attempts, and unreferenced
        contents.
        """
        tables = await self.database.fetch(
            """select tablename as name from pg_tables where schemaname = 'public'
            and tablename not in ('api_keys', 'file_contents', 'file_chunks', 'login_attempts')"""
        )
        each = " union all ".join(
            f"select '{t['name']}' as name, md5(coalesce(string_agg(x::text, '|' order by x::text), '')) as hash"
            f" from (select (to_jsonb(x) - 'last_used_at')::text as x from {t['name']} x) x"
            for t in tables
        )
        return {row["name"]: row["hash"] for row in await self.database.fetch(each)}

    async def refuse(self, *, on: bool) -> None:
        """Let the audit log refuse all rows, or accept them again."""
        async with self.database.connection() as connection:
            await connection.execute(
                f"alter table audit_log {'enable' if on else 'disable'} trigger refused"
            )


@asynccontextmanager
async def audited_app(database: Database) -> AsyncIterator[AuditedApp]:
    """Run the application, called without a network by ada, an administrator."""
    # Nothing listens there: a tried message is in the audit log before that shows.
    mail = MailSettings(host="127.0.0.1", port=9, sender="opsjobs@example.org", timeout=2)
    services = services_for(database, [], mail=mail)
    services.sessions.keys = [HostKey("ssh-ed25519 AAAA", "SHA256:x")]
    key = new_key()
    services.vault, services.keys = Vault(database, [key]), KeyRotation(database, [new_key(), key])
    token = await services.identities.create_key("ada", "admin")
    transport = httpx2.ASGITransport(app=app_on(services), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://opsjobs", headers=headers
    ) as http:
        yield AuditedApp(database, http, services)


def test_every_route_that_changes_something_is_among_the_steps() -> None:
    paths = application().openapi()["paths"]
    routes = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if method != "get"
    }
    assert {step.route for step in STEPS} | set(EXEMPT) == routes


async def test_each_leaves_a_row_and_is_not_done_where_none_can_be_written(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            """create function refused() returns trigger language plpgsql as $$ begin raise 'no space left' using errcode = 'disk_full'; end $$;
            create trigger refused before insert on audit_log for each row execute function refused();
            alter table audit_log disable trigger refused"""
        )
    async with audited_app(database) as app:
        for step in STEPS:
            await app.prepare(step)
            before = await app.state()
            await app.refuse(on=True)
            answer = await app.send(step)
            assert answer.status_code == 503, (step, answer.text)
            assert await app.state() == before, step
            await app.refuse(on=False)
            noted = len(await app.rows())
            answer = await app.send(step)
            assert answer.is_success, (step, answer.text)
            if step.route == "POST /targets/import":
                app.ids["db"] = answer.json()["items"][0]["id"]
            new = (await app.rows())[noted:]
            assert step.action in [row["action"] for row in new], (step, new)
            row = next(row for row in new if row["action"] == step.action)
            actor = ACTS_FOR.get(step.by, step.by)
            assert (row["actor"], row["actor_kind"]) == (actor, KIND[actor]), step
            assert row["request_id"] == answer.headers["x-request-id"], step
        assert "of-the-canary" not in str(await app.rows())


async def test_reading_all_jobs_at_once_and_copying_the_log_are_on_record_too(
    database: Database,
) -> None:
    async with audited_app(database) as app:
        await app.http.post("/jobs", json=job())
        await app.http.get("/jobs/export")
        await app.http.get("/jobs/1/definition")  # as GET /jobs/1, which is not in the audit log
        rows = await app.rows()
        assert [
            (row["action"], row["after"]) for row in rows if row["action"] == "job.exported"
        ] == [("job.exported", {"jobs": 1})]


async def test_a_change_says_what_was_and_what_is(database: Database) -> None:
    async with audited_app(database) as app:
        await app.http.post("/targets", json={"name": "web-1", "host": "10.0.0.1", "port": 22})
        body = {"name": "web-1", "host": "10.0.0.1", "port": 2222, "host_key_policy": "unchecked"}
        await app.http.put("/targets/1", json=body)
        await app.http.post("/jobs", json=job())
        await app.http.put(
            "/jobs/1", json=job(actions=[{"command": "hostname"}]), headers={"if-match": "*"}
        )
        by_action = {row["action"]: row for row in await app.rows()}
        target, changed = by_action["target.updated"], by_action["job.updated"]
        assert target["before"] == {"port": 22, "host_key_policy": "pinned", "version": 1}
        assert target["after"] == {"port": 2222, "host_key_policy": "unchecked", "version": 2}
        assert (changed["before"], changed["after"]) == (
            {"version": 1},
            {"version": 2, "changed": ["/actions/0/command"]},
        )


async def test_what_is_too_long_to_be_told_is_on_record_by_its_hash(database: Database) -> None:
    async with audited_app(database) as app:
        labels = {f"label-{n}": "x" * 200 for n in range(60)}
        made = await app.http.post(
            "/targets", json={"name": "web-1", "host": "10.0.0.1", "labels": labels}
        )
        assert made.is_success, made.text
        (row,) = [row for row in await app.rows() if row["action"] == "target.created"]
        if row["after"].get("labels") is None:
            assert set(row["after"]) == {"bytes", "sha256"}
