"""The services of a process, and the limits that the API enforces.

Those that consist of several parts are here, too: the authentication, the platform's services.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from opsjobs.bus import Bus
from opsjobs.clock import Clock
from opsjobs.engine.background.status import Inspection, IntegrationReporter
from opsjobs.engine.delivery.webhooks import WebhookDestination
from opsjobs.engine.events import EventBuilder, EventVisibility
from opsjobs.engine.firing.forecast import Forecasts
from opsjobs.engine.firing.schedule_launch import Triggers
from opsjobs.engine.firing.upcoming_moments import MomentList
from opsjobs.engine.launching.approval_service import ApprovalService
from opsjobs.engine.launching.job_validation import JobAuthorization
from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.launching.retries import RetryService
from opsjobs.engine.launching.safety_service import SafetyService
from opsjobs.engine.launching.trigger_calls import TriggerCalls
from opsjobs.engine.loop import LoopLagMonitor
from opsjobs.engine.notification.channels import NotificationChannels
from opsjobs.engine.notification.planner import NotificationPlanner
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.identity.authenticator import Authenticator
from opsjobs.identity.logins import CookieLogins, LoginService
from opsjobs.identity.oidc_login import OidcLogins
from opsjobs.identity.passwords import Passwords
from opsjobs.identity.platform_users import PlatformUsers
from opsjobs.integrations.caller_urls import WebhookClient
from opsjobs.integrations.json_client import JsonClient
from opsjobs.integrations.services.client import ServiceClient
from opsjobs.integrations.services.health import IntegrationStatus
from opsjobs.integrations.services.profile import Profile
from opsjobs.model.addresses import Network
from opsjobs.remote.session import Sessions
from opsjobs.remote.winrm import ShellOwners
from opsjobs.sandbox.pool import SafetyCheckPool
from opsjobs.store.approvals import Approvals
from opsjobs.store.audit_chain import Seals
from opsjobs.store.audit_log import AuditLog
from opsjobs.store.blobs import Contents
from opsjobs.store.circuits import CircuitStore
from opsjobs.store.dead_letters import DeadLetters
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.delivery_log import DeliveryLog, OutgoingDeliveries
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.execution_overview import ExecutionOverview
from opsjobs.store.executions import Executions
from opsjobs.store.feeds import AuditFeed, EventFeed
from opsjobs.store.files import Artifacts, Files
from opsjobs.store.groups import Groups
from opsjobs.store.identities import IdentityStore
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.jobs import Jobs
from opsjobs.store.ledger import Ledger
from opsjobs.store.notifications import Notifications
from opsjobs.store.outbox import Outbox
from opsjobs.store.output_lines import LineReader
from opsjobs.store.result_groups import ResultGroups
from opsjobs.store.scheduling.calendars import Calendars
from opsjobs.store.scheduling.firings import Firings
from opsjobs.store.scheduling.schedule_overview import ScheduleOverview
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.statistics import Statistics
from opsjobs.store.system_status import SystemStatus
from opsjobs.store.target_history import TargetHistory
from opsjobs.store.target_import import Imports
from opsjobs.store.transaction import Database
from opsjobs.store.triggers import JobTriggers
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.keys import KeyRotation
from opsjobs.store.webhooks import Webhooks
from opsjobs.store.workers import Workers
from opsjobs.telemetry.metrics import Metrics
from opsjobs.wakeup import Notifier


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that the API enforces on callers, and whether its docs page is served."""

    max_actions: int
    body_bytes: int
    docs: bool
    file_bytes: int = 1 << 30
    max_attempts: int = 11
    trusted_proxies: tuple[Network, ...] = ()
    requests_a_second: int = 500
    unauthenticated_a_second: int = 50
    streams_a_caller: int = 100
    stream_reauth_seconds: float = 15.0
    download_seconds: float = 3_600.0
    output_bytes: int = 10 << 20
    wait_seconds: float = 7 * 86_400.0
    open_executions: int = 2_000
    files_bytes: int = 100 << 30
    files_a_caller_bytes: int = 10 << 30
    plain_cookies: bool = True
    """Accept cookies over plain http from other machines, too."""


@dataclass(frozen=True)
class Services:
    """The services of one process, each built once."""

    clock: Clock
    metrics: Metrics
    loop_lag: LoopLagMonitor
    limits: Limits
    database: Database
    system_status: SystemStatus
    statistics: Statistics
    jobs: Jobs
    vault: Vault
    keys: KeyRotation
    inventory: TargetInventory
    platform_users: PlatformUsers
    authentication: Authentication
    executions: Executions
    overview: ExecutionOverview
    output_lines: LineReader
    result_groups: ResultGroups
    execution_log: ExecutionLog
    contents: Contents
    files: Files
    artifacts: Artifacts
    outbox: Outbox
    event_feed: EventFeed
    event_builder: EventBuilder
    deliveries: Deliveries
    delivery_log: DeliveryLog
    webhooks: Webhooks
    webhook_client: WebhookClient
    event_visibility: EventVisibility
    ledger: Ledger
    workers: Workers
    circuits: CircuitStore
    groups: Groups
    calendars: Calendars
    imports: Imports
    target_history: TargetHistory
    shell_owners: ShellOwners
    sessions: Sessions
    external_secrets: ExternalSecrets
    bus: Bus
    notifier: Notifier
    safety_pool: SafetyCheckPool | None
    launcher: Launcher
    retries: RetryService
    job_authorization: JobAuthorization
    dead_letters: DeadLetters
    approvals: Approvals
    approval_service: ApprovalService
    schedules: Schedules
    firings: Firings
    triggers: Triggers
    job_triggers: JobTriggers
    trigger_calls: TriggerCalls
    schedule_overview: ScheduleOverview
    forecasts: Forecasts
    moment_list: MomentList
    audit_log: AuditLog
    seals: Seals
    inspection: Inspection
    integrations: Integrations
    integration_reporter: IntegrationReporter
    notifications: Notifications
    notification_channels: NotificationChannels
    notification_planner: NotificationPlanner
    outgoing_deliveries: OutgoingDeliveries
    audit_feed: AuditFeed

    @property
    def webhook_destination(self) -> WebhookDestination:
        """The destination of deliveries to webhooks."""
        return WebhookDestination(
            self.webhooks, self.webhook_client, self.clock, self.identities.current_principal
        )

    @property
    def identities(self) -> IdentityStore:
        """The identities: users, services, API keys and logins."""
        return self.authentication.identities

    @property
    def safety_service(self) -> SafetyService | None:
        """The safety check; None if it is off."""
        return self.launcher.safety

    async def open(self) -> None:
        """Start background work; do not wait for PostgreSQL or Redis."""
        await self.database.open()
        self.loop_lag.start()
        await self.bus.open()
        self.notifier.start()

    async def close(self) -> None:
        """Close everything, in bounded time."""
        await self.loop_lag.stop()
        await asyncio.to_thread(self.notifier.stop)
        if self.safety_pool is not None:
            await asyncio.to_thread(self.safety_pool.close)
        await self.bus.close()
        await self.sessions.close()
        await self.authentication.close()
        await self.external_secrets.close()
        await self.webhook_client.close()
        await self.integration_reporter.withdraw()
        await self.integrations.close()
        await self.database.close()


class ServedRequest(Protocol):
    """A request to an application over these services."""

    @property
    def app(self) -> Any:
        """The application, whose state has them."""


# Here, and not with the routes: each layer between them would make the chain of imports longer.
def services_of(request: ServedRequest) -> Services:
    """Return the services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


# --- the authentication: logins, and the check of requests


@dataclass(frozen=True)
class SingleSignOn:
    """Logins at the OpenID Connect provider, with the text and the address of their button."""

    logins: OidcLogins
    label: str
    url: str


@dataclass(frozen=True)
class Authentication:
    """Authentication: `authenticator` for requests, `logins` and `passwords` for local users.

    `cookie_logins`: logins of browsers. `single_sign_on`: those at the OpenID Connect provider, if
    they are set up.
    """

    identities: IdentityStore
    authenticator: Authenticator
    logins: LoginService
    cookie_logins: CookieLogins
    passwords: Passwords
    http: JsonClient
    single_sign_on: SingleSignOn | None = None

    async def close(self) -> None:
        """Close the connections to issuers and the Auth Service."""
        await self.http.close()


# --- the platform's services that the settings connect


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
