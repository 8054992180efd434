"""Composition root: build the services of a process from its settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from opsjobs.bus import Bus
from opsjobs.clock import Clock, SystemClock
from opsjobs.composition.authentication import build_authentication, build_identity_store
from opsjobs.composition.late_sessions import ConnectionCounts, LateSessions
from opsjobs.composition.notifications import build_notifications
from opsjobs.composition.platform import (
    build_integrations,
    build_inventory,
    build_platform_users,
    build_target_service,
)
from opsjobs.composition.services import Integrations, Limits, Services
from opsjobs.engine.background.event_publisher import EventPublisher, ExecutionMeter
from opsjobs.engine.background.housekeeping import Rescuer
from opsjobs.engine.background.status import (
    INSPECTION_SECONDS,
    REPORT_SECONDS,
    Inspection,
    IntegrationReporter,
)
from opsjobs.engine.events import EventBuilder, EventVisibility
from opsjobs.engine.firing.firing import FiringService
from opsjobs.engine.firing.forecast import Forecasts
from opsjobs.engine.firing.schedule_launch import FiringPreparer, Triggers
from opsjobs.engine.firing.upcoming_moments import MomentList
from opsjobs.engine.launching.approval_service import ApprovalService
from opsjobs.engine.launching.job_validation import JobAuthorization
from opsjobs.engine.launching.launch import Launcher, LaunchLimits
from opsjobs.engine.launching.retries import RetryService
from opsjobs.engine.launching.safety_service import SafetyService
from opsjobs.engine.launching.trigger_calls import TriggerCalls
from opsjobs.engine.loop import Loop, LoopLagMonitor
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.identity.platform_users import PlatformUsers
from opsjobs.integrations.caller_urls import Choices
from opsjobs.integrations.secrets.requests import VaultOptions
from opsjobs.integrations.secrets.vault import VaultServer
from opsjobs.integrations.targets import Targets
from opsjobs.model.addresses import AddressPolicy
from opsjobs.model.circuit import CircuitPolicy, CircuitState
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Target, Transport
from opsjobs.remote.circuit_breaker import Breaker
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import Sessions, Transports
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.connection import SshOptions
from opsjobs.remote.ssh.pool import PoolLimits, SshPool
from opsjobs.remote.winrm import ShellOwners
from opsjobs.safety.policy import read
from opsjobs.sandbox.pool import SafetyCheckPool
from opsjobs.settings import SecretsSettings, Settings
from opsjobs.store.approvals import Approvals
from opsjobs.store.audit_chain import Seals
from opsjobs.store.audit_log import AuditLog
from opsjobs.store.blobs import Contents
from opsjobs.store.circuits import CircuitStore
from opsjobs.store.dead_letters import DeadLetters
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.delivery_log import DeliveryLog
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.execution_overview import ExecutionOverview
from opsjobs.store.executions import Executions
from opsjobs.store.feeds import EventFeed
from opsjobs.store.files import ArtifactLimits, Artifacts, Files
from opsjobs.store.groups import Groups
from opsjobs.store.integration_reports import IntegrationReports
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.jobs import Jobs
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.outbox import Outbox
from opsjobs.store.output_lines import LineReader
from opsjobs.store.result_groups import ResultGroups
from opsjobs.store.scheduling.calendars import Calendars, load_closed_reason
from opsjobs.store.scheduling.firings import Firings
from opsjobs.store.scheduling.rows import CompiledSchedules
from opsjobs.store.scheduling.schedule_overview import ScheduleOverview
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.statistics import Statistics
from opsjobs.store.system_status import Fitness, SystemStatus
from opsjobs.store.target_history import TargetHistory
from opsjobs.store.target_import import Imports
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.triggers import JobTriggers
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.keys import KeyRotation
from opsjobs.store.workers import Workers
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.wakeup import Notifier

# Connections to PostgreSQL that one API process may hold.
API_CONNECTIONS = 10


def build(
    settings: Settings,
    *,
    process: str = "api",
    connections: int = API_CONNECTIONS,
    hot_verbs: bool = False,
) -> Services:
    """Build the services of one process without opening them.

    Raises SettingsError or ValueError for settings that cannot be used.
    """
    clock, metrics = SystemClock(), Metrics()
    options = DatabaseOptions(settings.database.url, connections, f"opsjobs {process}", hot_verbs)
    database = _database(options, metrics)
    known = build_identity_store(settings, database, clock)
    vault = Vault(database, settings.security.encryption_keys, clock)
    integrations = build_integrations(settings, clock, metrics)
    platform_users = build_platform_users(settings, integrations, known, clock)
    target_service = build_target_service(integrations, clock)
    inventory = build_inventory(settings, database, vault, clock, target_service)
    external_secrets = ExternalSecrets(
        vault, _server(settings.secrets, clock), clock, targets=target_service
    )
    ledger, circuits = Ledger(database), _circuits(settings, database)
    breaker = Breaker(circuits, clock, observe=_count_circuits(metrics))
    jobs, files = Jobs(database, clock), Files(database, clock)
    notifier = Notifier(settings.redis.url, metrics)
    compiled, keys = CompiledSchedules(), KeyRotation(database, settings.security.encryption_keys)
    schedules = _schedules(settings, database, clock, compiled)
    firings = Firings(database, clock, compiled=compiled, closer=load_closed_reason)
    calendars = Calendars(database, clock)
    overview = ScheduleOverview(database, compiled)
    kept: dict[str, Any] = {"database": database, "ledger": ledger, "vault": vault}
    kept |= {"files": files, "clock": clock}
    executions, execution_log = Executions(database), ExecutionLog(database)
    workers = Workers(database)
    owners = ShellOwners(workers.find_dead)
    safety_pool = _safety_pool(settings, metrics)
    current_principal = platform_users.current_principal
    launcher = _launcher(
        settings, inventory, notifier, safety_pool, current_principal=current_principal, **kept
    )
    most_triggers = settings.execution.triggers_per_caller
    job_triggers = JobTriggers(database, vault, clock, most_per_owner=most_triggers)
    return Services(
        **kept,
        **_reading(database),
        **build_notifications(settings, integrations, external_secrets, metrics, **kept),
        metrics=metrics,
        loop_lag=LoopLagMonitor(metrics),
        limits=_limits(settings),
        jobs=jobs,
        keys=keys,
        inventory=inventory,
        platform_users=platform_users,
        authentication=build_authentication(settings, known, clock, integrations=integrations),
        executions=executions,
        execution_log=execution_log,
        artifacts=_artifacts(settings, database, clock),
        event_feed=EventFeed(database, keep_seconds=settings.retention.keep_events),
        event_builder=EventBuilder(executions, execution_log),
        event_visibility=EventVisibility(executions, schedules, inventory),
        workers=workers,
        circuits=circuits,
        groups=Groups(database, clock),
        calendars=calendars,
        imports=Imports(database, clock, local=settings.security.local_transport),
        shell_owners=owners,
        sessions=_sessions(
            settings, inventory, external_secrets, metrics, breaker=breaker, owners=owners
        ),
        external_secrets=external_secrets,
        bus=Bus(settings.redis.url, metrics),
        notifier=notifier,
        safety_pool=safety_pool,
        launcher=launcher,
        retries=RetryService(launcher, database=database, ledger=ledger, targets=inventory),
        job_authorization=JobAuthorization(launcher, jobs, files),
        approvals=Approvals(database),
        approval_service=ApprovalService(
            Approvals(database),
            ledger,
            inventory,
            vault,
            current_principal=current_principal,
        ),
        schedules=schedules,
        firings=firings,
        triggers=Triggers(firings, schedules, jobs, launcher),
        job_triggers=job_triggers,
        trigger_calls=_trigger_calls(job_triggers, jobs, launcher, platform_users, metrics, **kept),
        schedule_overview=overview,
        forecasts=Forecasts(overview, calendars),
        moment_list=MomentList(overview, calendars),
        audit_log=AuditLog(database, settings.security.encryption_keys),
        seals=Seals(database, settings.security.encryption_keys),
        integrations=integrations,
        integration_reporter=_integration_reporter(integrations, database, clock, process),
        inspection=Inspection(Fitness(database, keys), clock, space=process == "api"),
    )


def _reading(database: Database) -> dict[str, Any]:
    """Return the parts of Services that need the database only."""
    return {
        "system_status": SystemStatus(database),
        "statistics": Statistics(database),
        "overview": ExecutionOverview(database),
        "output_lines": LineReader(database),
        "result_groups": ResultGroups(database),
        "contents": Contents(database),
        "outbox": Outbox(database),
        "deliveries": Deliveries(database),
        "delivery_log": DeliveryLog(database),
        "target_history": TargetHistory(database),
        "dead_letters": DeadLetters(database),
    }


def _artifacts(settings: Settings, database: Database, clock: Clock) -> Artifacts:
    limits = settings.execution
    return Artifacts(
        database,
        clock,
        limits=ArtifactLimits(limits.artifacts_per_caller_bytes, limits.artifacts_per_caller),
    )


def _schedules(
    settings: Settings, database: Database, clock: Clock, compiled: CompiledSchedules
) -> Schedules:
    return Schedules(
        database,
        clock,
        compiled=compiled,
        closer=load_closed_reason,
        most_per_owner=settings.execution.schedules_per_caller,
    )


def _trigger_calls(
    triggers: JobTriggers,
    jobs: Jobs,
    launcher: Launcher,
    users: PlatformUsers,
    metrics: Metrics,
    **kept: Any,
) -> TriggerCalls:
    return TriggerCalls(
        database=kept["database"],
        triggers=triggers,
        jobs=jobs,
        launcher=launcher,
        current_principal=users.current_principal,
        blinded=kept["vault"].blinded,
        clock=kept["clock"],
        metrics=metrics,
    )


def _integration_reporter(
    integrations: Integrations, database: Database, clock: Clock, process: str
) -> IntegrationReporter:
    name = f"{process} {socket.gethostname()}-{os.getpid()}"
    reports = IntegrationReports(database)
    return IntegrationReporter(reports, integrations.statuses, clock, process=name)


def _safety_pool(settings: Settings, metrics: Metrics) -> SafetyCheckPool | None:
    """Return the pool of checking processes, not started; None if the safety check is off."""
    if not settings.safety.enabled:
        return None
    return SafetyCheckPool(lambda reason: metrics.texts_unjudged.labels(reason).inc())


def _safety_service(
    settings: Settings, pool: SafetyCheckPool | None, targets: Targets, clock: Clock
) -> SafetyService | None:
    """Return the safety check; None if it is off. Raises ValueError for an unreadable policy."""
    wanted = settings.safety
    if pool is None:
        return None
    try:
        policies = read(wanted.policy.read_text()) if wanted.policy is not None else None
    except (OSError, UnicodeError) as away:
        raise ValueError(f"OPSJOBS_SAFETY_POLICY: {wanted.policy} cannot be read: {away}") from None
    return SafetyService(pool.check, targets, clock, policies)


def _launcher(
    settings: Settings,
    targets: Targets,
    notifier: Notifier,
    safety_pool: SafetyCheckPool | None,
    **kept: Any,
) -> Launcher:
    clock: Clock = kept["clock"]
    return Launcher(
        targets=targets,
        notify=notifier.notify,
        limits=_launch_limits(settings),
        choices=Choices(clock, allow=settings.security.choices_allow),
        safety=_safety_service(settings, safety_pool, targets, clock),
        **kept,
    )


def _limits(settings: Settings) -> Limits:
    wanted = settings.execution
    return Limits(
        wanted.max_actions_per_job,
        settings.api.body_limit_bytes,
        settings.api.docs,
        wanted.file_limit_bytes,
        wanted.max_retries + 1,
        settings.identity.trusted_proxies,
        settings.api.rate_limit,
        settings.api.unauthenticated_rate_limit,
        settings.api.streams_per_caller,
        settings.api.stream_reauth_interval,
        settings.api.download_time,
        wanted.output_limit_bytes,
        wanted.wait_limit,
        wanted.open_executions_per_caller,
        wanted.files_limit_bytes,
        wanted.files_per_caller_bytes,
        plain_cookies=settings.security.environment != "production",
    )


def _launch_limits(settings: Settings) -> LaunchLimits:
    wanted = settings.execution
    attempts = wanted.max_retries + 1 if wanted.enable_retry else 1
    return LaunchLimits(
        wanted.max_concurrent_targets,
        wanted.max_targets_per_job,
        attempts,
        wanted.retry_backoff_base,
        settings.security.local_transport,
        wanted.exclusive_time,
    )


def _circuits(settings: Settings, database: Database) -> CircuitStore:
    wanted = settings.connection
    return CircuitStore(
        database,
        CircuitPolicy(wanted.circuit_failures, wanted.circuit_pause, wanted.circuit_refused_pause),
    )


def _count_circuits(metrics: Metrics) -> Callable[[CircuitState | None, ErrorCode | None], None]:
    def observe(changed: CircuitState | None, code: ErrorCode | None) -> None:
        if changed is CircuitState.CLOSED:
            metrics.circuits_closed.inc()
        else:
            counter = metrics.circuits_refused if changed is None else metrics.circuits_opened
            counter.labels(code.value if code is not None else "").inc()

    return observe


def _server(settings: SecretsSettings, clock: Clock) -> VaultServer | None:
    if settings.url is None:
        return None
    options = VaultOptions(
        settings.url,
        token=settings.token,
        role_id=settings.role_id,
        secret_id=settings.secret_id,
        approle_mount=settings.approle_mount,
        namespace=settings.namespace,
        ca_file=settings.ca_file,
        timeout_seconds=settings.timeout,
        keep_seconds=settings.keep,
    )
    return VaultServer(options, clock)


def _sessions(
    settings: Settings,
    inventory: TargetInventory,
    external_secrets: ExternalSecrets,
    metrics: Metrics,
    *,
    breaker: Breaker,
    owners: ShellOwners,
) -> Sessions:
    security, seconds = settings.security, settings.execution.connection_timeout
    policy = AddressPolicy(
        security.target_allow, security.target_deny, security.environment == "production"
    )
    options = SshOptions(connect_seconds=seconds, auth_seconds=seconds)

    async def remember(target_id: str, key: str) -> None:
        if not await inventory.remember_host_key(target_id, key):
            raise RemoteFailure(
                ErrorCode.HOST_KEY,
                "another host key was pinned for it at the same moment: run it again",
            )

    def alarm(target: Target, words: str) -> None:
        metrics.host_keys_refused.inc()
        log.warning("host_key_refused", target=target.id, name=target.name, reason=words)

    def count_failure(code: ErrorCode) -> None:
        metrics.connect_failures.labels(code.value).inc()

    observe, fetch = metrics.connect_seconds.observe, external_secrets.fetch
    connector = Connector(
        options,
        allow=policy,
        remember=remember,
        observe=observe,
        fail=count_failure,
        fetch=fetch,
        alarm=alarm,
    )
    # Each run at work has a connection, and some have a second one or a jump host.
    connections = max(PoolLimits().connections, settings.worker.concurrency * 5 // 4)
    limits = PoolLimits(connections=connections, handshakes_a_second=settings.connection.rate)
    pool = SshPool(connector, limits, breaker=breaker)
    winrm = {
        "connect_seconds": seconds,
        "allow": policy,
        "observe": observe,
        "fetch": fetch,
        "fail": count_failure,
        "alarm": alarm,
        "breaker": breaker,
        "owners": owners,
    }
    late = LateSessions("opsjobs.remote.winrm.pool", winrm)
    _measure_pools(metrics, lambda: [pool, *late.built])
    return Transports(
        {
            Transport.SSH: pool,
            Transport.WINRM: late,
            Transport.LOCAL: LocalSessions(policy, on=security.local_transport),
        }
    )


def _database(options: DatabaseOptions, metrics: Metrics) -> Database:
    database = Database(options, on_retry=metrics.verb_repeats.inc)
    for state in ("open", "idle", "wanted"):
        usage = partial(database.count_connections, state)
        metrics.database_connections.labels(state).set_function(usage)
    return database


def _measure_pools(metrics: Metrics, pools: Callable[[], Sequence[ConnectionCounts]]) -> None:
    """Show the sums over the pools that are there."""
    metrics.connections.set_function(lambda: sum(pool.connections for pool in pools()))
    metrics.connections_idle.set_function(lambda: sum(pool.idle_connections for pool in pools()))
    metrics.handshakes.set_function(lambda: sum(pool.handshakes for pool in pools()))
    metrics.handshakes_waiting.set_function(
        lambda: sum(pool.handshakes_waiting for pool in pools())
    )


def build_rescuer(
    services: Services, may_reap: Callable[[], bool], database_now: Callable[[], float | None]
) -> Rescuer:
    """Build the rescuer; `may_reap` tells if its process may expire leases now."""
    return Rescuer(
        Reconciler(services.database),
        services.workers,
        may_reap=may_reap,
        notify=services.notifier.notify,
        database_now=database_now,
    )


def build_firing_service(services: Services) -> FiringService:
    """Build the service that fires schedules, for the scheduler or a worker in its place."""
    return FiringService(
        firings=services.firings,
        schedules=services.schedules,
        preparer=FiringPreparer(
            services.jobs,
            services.launcher,
            services.firings,
            services.metrics,
            current_principal=services.platform_users.current_principal,
        ),
        launcher=services.launcher,
        ledger=services.ledger,
        metrics=services.metrics,
    )


def build_inspection_loop(services: Services) -> Loop:
    """Build the loop that checks the database and the keys, at start and regularly."""
    return Loop(
        "inspection",
        services.inspection.run_once,
        interval_seconds=INSPECTION_SECONDS,
        metrics=services.metrics,
    )


def build_integration_loop(services: Services) -> Loop:
    """Build the loop that reports how this process sees the platform's services."""
    return Loop(
        "integration_reporter",
        services.integration_reporter.run_once,
        interval_seconds=REPORT_SECONDS,
        metrics=services.metrics,
    )


def build_event_publisher(services: Services) -> EventPublisher:
    """Build the publisher of the events in the outbox."""
    return EventPublisher(
        services.outbox,
        services.event_builder,
        services.bus,
        services.metrics,
        ExecutionMeter(services.database, services.metrics),
    )
