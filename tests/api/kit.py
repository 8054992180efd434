"""The real application over ASGI, with real stores on a real database, but without machines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import httpx2
from argon2 import PasswordHasher
from fastapi import FastAPI

from api.conformance import Description
from kit.backing_servers import AUDIT_KEY
from opsjobs.api.app import create_app
from opsjobs.bus import Bus
from opsjobs.clock import Clock, SystemClock
from opsjobs.composition.authentication import build_authentication, build_identity_store
from opsjobs.composition.notifications import build_notifications
from opsjobs.composition.platform import (
    build_integrations,
    build_inventory,
    build_platform_users,
    build_target_service,
)
from opsjobs.composition.services import Limits
from opsjobs.engine.background.status import Inspection, IntegrationReporter
from opsjobs.engine.delivery.webhooks import WebhookDestination
from opsjobs.engine.events import EventBuilder, EventVisibility
from opsjobs.engine.firing.forecast import Forecasts
from opsjobs.engine.firing.upcoming_moments import MomentList
from opsjobs.engine.launching.job_validation import JobAuthorization
from opsjobs.engine.launching.launch import Launcher, LaunchLimits
from opsjobs.engine.launching.trigger_calls import TriggerCalls
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.identity.passwords import Passwords
from opsjobs.model.addresses import networks
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import HostKey, SessionStep
from opsjobs.sandbox.pool import SafetyCheckPool
from opsjobs.settings import (
    ApiSettings,
    IdentitySettings,
    MailSettings,
    OidcSettings,
    PlatformSettings,
    SecuritySettings,
    Settings,
)
from opsjobs.store.audit_chain import Seals
from opsjobs.store.audit_log import AuditLog
from opsjobs.store.blobs import Contents
from opsjobs.store.circuits import CircuitStore
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.delivery_log import DeliveryLog
from opsjobs.store.envelope import new_key
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.execution_overview import ExecutionOverview
from opsjobs.store.executions import Executions
from opsjobs.store.feeds import EventFeed
from opsjobs.store.files import Artifacts, Files
from opsjobs.store.groups import Groups
from opsjobs.store.identities import IdentityStore
from opsjobs.store.integration_reports import IntegrationReports
from opsjobs.store.jobs import Jobs
from opsjobs.store.ledger import Ledger
from opsjobs.store.output_lines import LineReader
from opsjobs.store.result_groups import ResultGroups
from opsjobs.store.scheduling.calendars import Calendars
from opsjobs.store.scheduling.firings import Firings
from opsjobs.store.scheduling.rows import CompiledSchedules
from opsjobs.store.scheduling.schedule_overview import ScheduleOverview
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.system_status import Fitness
from opsjobs.store.target_history import TargetHistory
from opsjobs.store.target_import import Imports
from opsjobs.store.transaction import Database
from opsjobs.store.triggers import JobTriggers
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.keys import KeyRotation
from opsjobs.telemetry.metrics import Metrics

PUBLIC_URL = "http://opsjobs"
SAFETY_POOL = SafetyCheckPool()
"""One pool for all tests of a process: it starts its first process for the first text."""


@dataclass
class FakePool:
    """Replaces the connection pool: connection tests and key scans find a machine with `keys`."""

    keys: Sequence[HostKey] = ()
    refused: bool = False
    asked: list[Endpoint] = field(default_factory=list)

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Yield one step, with the outcome that is set."""
        self.asked.append(endpoint)
        return [SessionStep("connect", not self.refused, 1.25, "refused" if self.refused else None)]

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return the keys, or raise a refused connection."""
        self.asked.append(endpoint)
        if self.refused:
            raise RemoteFailure(
                ErrorCode.CONNECTION_REFUSED, f"{endpoint.target.host} refuses connections."
            )
        return list(self.keys)


@dataclass
class ApiClient:
    """A client with ada's token (admin), its services, and tokens of other callers."""

    http: httpx2.AsyncClient
    services: Any
    token: str

    async def token_of(self, role: str) -> dict[str, str]:
        """Return the headers of a new caller with this role."""
        token = await self.services.identities.create_key(f"ben-{role}", role)
        return {"Authorization": f"Bearer {token}"}


def services_on(
    database: Database,
    notified: list[str] | None = None,
    *,
    identity: IdentitySettings | None = None,
    platform: PlatformSettings | None = None,
    mail: MailSettings | None = None,
    oidc: OidcSettings | None = None,
    clock: Clock | None = None,
) -> Any:
    """Return the services for all nouns; all but the machines are real.

    `notified` collects the zones that are notified. Password hashes cost less than in service.
    """
    keys = [new_key()]
    vault = Vault(database, keys)
    jobs, files, clock = Jobs(database), Files(database), clock or SystemClock()
    settings = Settings(
        identity=identity or IdentitySettings(),
        platform=platform or PlatformSettings(),
        mail=mail or MailSettings(),
        oidc=oidc or OidcSettings(),
        api=ApiSettings(public_url=PUBLIC_URL if oidc else None),
        security=SecuritySettings(
            encryption_keys=tuple(keys), webhook_allow=networks(["127.0.0.0/8"])
        ),
    )
    known = build_identity_store(settings, database, clock)
    metrics = Metrics()
    integrations = build_integrations(settings, clock, metrics)
    target_service = build_target_service(integrations, clock)
    users = build_platform_users(settings, integrations, known, clock)
    ledger = Ledger(database)
    inventory = build_inventory(settings, database, vault, clock, target_service)
    launcher = Launcher(
        database=database, ledger=ledger, targets=inventory, vault=vault, files=files, clock=clock, limits=LaunchLimits(),
        notify=lambda zone: notified.append(zone) if notified is not None else None, current_principal=users.current_principal,
    )  # fmt: skip
    executions, execution_log = Executions(database), ExecutionLog(database)
    outlook, calendars = ScheduleOverview(database, CompiledSchedules()), Calendars(database)
    external_secrets = ExternalSecrets(vault, None, SystemClock())
    kept = {"database": database, "vault": vault, "clock": clock}
    notifying = build_notifications(settings, integrations, external_secrets, metrics, **kept)
    job_triggers = JobTriggers(database, vault, clock)
    services = SimpleNamespace(
        database=database,
        clock=clock,
        settings=settings,
        identities=known,
        authentication=build_authentication(
            settings,
            known,
            clock,
            integrations=integrations,
            passwords=Passwords(PasswordHasher(1, 64, 1)),
        ),
        integrations=integrations,
        integration_reporter=IntegrationReporter(
            IntegrationReports(database), integrations.statuses, clock, process="api test"
        ),
        platform_users=users,
        vault=vault,
        keys=KeyRotation(database, keys),
        inspection=Inspection(Fitness(database, KeyRotation(database, keys)), clock, space=True),
        inventory=inventory,
        launcher=launcher,
        job_authorization=JobAuthorization(launcher, jobs, files),
        external_secrets=external_secrets,
        **notifying,
        circuits=CircuitStore(database),
        groups=Groups(database),
        calendars=calendars,
        schedules=Schedules(database),
        firings=Firings(database),
        schedule_overview=outlook,
        forecasts=Forecasts(outlook, calendars),
        moment_list=MomentList(outlook, calendars),
        imports=Imports(database),
        target_history=TargetHistory(database),
        jobs=jobs,
        ledger=ledger,
        execution_log=execution_log,
        contents=Contents(database),
        files=files,
        artifacts=Artifacts(database),
        overview=ExecutionOverview(database),
        output_lines=LineReader(database),
        result_groups=ResultGroups(database),
        executions=executions,
        event_feed=EventFeed(database),
        event_builder=EventBuilder(executions, execution_log),
        event_visibility=EventVisibility(executions, Schedules(database), inventory),
        deliveries=Deliveries(database),
        delivery_log=DeliveryLog(database),
        webhook_destination=WebhookDestination(
            notifying["webhooks"], notifying["webhook_client"], clock, known.current_principal
        ),
        audit_log=AuditLog(database, [AUDIT_KEY]),
        seals=Seals(database, [AUDIT_KEY]),
        bus=Bus(None),
        metrics=metrics,
        job_triggers=job_triggers,
        sessions=FakePool(),
        safety_service=None,
        safety_pool=SAFETY_POOL,
        limits=Limits(max_actions=100, body_bytes=1 << 20, docs=True, unauthenticated_a_second=0),
    )
    services.trigger_calls = TriggerCalls(
        database=database, triggers=job_triggers, jobs=jobs, launcher=launcher, blinded=vault.blinded, clock=clock, metrics=metrics,
        current_principal=lambda who: services.platform_users.current_principal(who),  # noqa: PLW0108  tests replace the identities
    )  # fmt: skip
    return services


def use_identities(services: Any, known: IdentityStore) -> None:
    """Authenticate tokens by `known` from now on."""
    services.identities = known
    services.platform_users = build_platform_users(
        services.settings, services.integrations, known, services.clock
    )
    services.authentication = build_authentication(
        services.settings,
        known,
        services.clock,
        integrations=services.integrations,
        passwords=services.authentication.passwords,
    )


_first: list[FastAPI] = []
_descriptions: list[Description] = []


def app_on(services: Any) -> FastAPI:
    """Return the application over these services.

    Its routes, which an application builds at its first request, are built once for all.
    """
    app = create_app(services)
    if not _first:
        _first.append(app)
        _descriptions.append(Description(app))
    for n, (ours, built) in enumerate(
        zip(app.router.routes, _first[0].router.routes, strict=False)
    ):
        # the only reference of an included router to its application
        if getattr(ours, "original_router", app) is getattr(built, "original_router", None):
            app.router.routes[n] = built
    return app


def response_checks() -> dict[str, Any]:
    """Return client hooks that check each response against the OpenAPI document.

    To be called after an application was built.
    """
    return {"response": [_descriptions[0].check]}


@asynccontextmanager
async def api_client(
    database: Database,
    *,
    identity: IdentitySettings | None = None,
    platform: PlatformSettings | None = None,
    mail: MailSettings | None = None,
    oidc: OidcSettings | None = None,
    clock: Clock | None = None,
    **limits: Any,
) -> AsyncIterator[ApiClient]:
    """Run the application with one admin; `limits` replace those of the services."""
    services = services_on(
        database, identity=identity, platform=platform, mail=mail, oidc=oidc, clock=clock
    )
    services.limits = replace(services.limits, **limits)
    token = await services.identities.create_key("ada", "admin")
    transport = httpx2.ASGITransport(app=app_on(services))
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(
        transport=transport,
        base_url="http://opsjobs",
        headers=headers,
        event_hooks=response_checks(),
    ) as http:
        yield ApiClient(http, services, token)


def job(name: str = "restart-web", **fields: Any) -> dict[str, Any]:
    """Return the body of a small job."""
    return {
        "name": name,
        "actions": [{"type": "command", "command": "uptime"}],
        "targets": {"groups": ["web"]},
        **fields,
    }


def definition_of(answered: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a job for its PUT:

    the response without the fields that the service adds.
    """
    added = {
        "id",
        "uuid",
        "version",
        "status",
        "created_at",
        "updated_at",
        "created_by",
        "verdict",
        "findings",
    }
    return {name: value for name, value in answered.items() if name not in added}


def stored(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of GET without `can` and `cannot`, which responses to changes lack."""
    return {name: value for name, value in body.items() if name not in ("can", "cannot")}


def problem(answer: httpx2.Response, status: int, code: str) -> Mapping[str, Any]:
    """Return the problem document of a response; check its media type, status and code."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    return body
