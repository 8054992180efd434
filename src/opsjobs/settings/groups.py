"""The groups of settings: one field for each variable, with type, default and description."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from opsjobs.model.secret import Secret
from opsjobs.settings.identity import IdentitySettings, OidcSettings
from opsjobs.settings.services import MailSettings, PlatformSettings, SecretsSettings
from opsjobs.settings.types import (
    ABSOLUTE_PATH,
    HOW_TO_MAKE_A_KEY,
    KEYS,
    NETWORKS,
    SWITCH,
    Network,
    address,
    choice,
    hidden,
    matching,
    seconds,
    size,
    text,
    whole,
)
from opsjobs.settings.variables import SettingsGroup, setting

_DAY = 86_400
_YEAR = 366 * _DAY
_AGE = seconds(_DAY, 36_600 * _DAY)
_HOST = text(
    r"[A-Za-z0-9_.:%-]{1,253}",
    "write an IP address or a host name to listen on, such as 127.0.0.1 or 0.0.0.0",
)
_DATABASE_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg")
_DATA_DIR = (
    "The directory of `opsjobs up`: database, keys, logs. "
    "Not set: $XDG_DATA_HOME/opsjobs, as root /var/lib/opsjobs."
)


class DatabaseSettings(SettingsGroup):
    """PostgreSQL; "" is not set (`up` then starts its own)."""

    url: Annotated[
        str, address(_DATABASE_SCHEMES, "postgresql://opsjobs@db.example.org/opsjobs")
    ] = setting(
        "DATABASE_URL",
        None,
        "PostgreSQL connection URL (PostgreSQL 15 to 18). "
        "Not set: `opsjobs up` starts an embedded one.",
        secret=True,
        unset="",
    )


class RedisSettings(SettingsGroup):
    """Redis or Valkey; None is not set (`up` then starts its own)."""

    url: Annotated[
        str | None,
        address(("redis", "rediss", "unix", "redis+socket"), "redis://redis.example.org:6379/0"),
    ] = setting(
        "REDIS_URL",
        None,
        "Redis or Valkey URL, for wake-ups and live events; nothing is lost if it fails. "
        "Not set: `opsjobs up` starts an embedded Valkey.",
        secret=True,
    )


class WorkerSettings(SettingsGroup):
    """One worker process."""

    zone: Annotated[
        str,
        text(
            r"[a-z0-9][a-z0-9_-]{0,62}",
            "write lower-case letters, digits, - or _, such as default or berlin-1",
        ),
    ] = setting("OPSJOBS_ZONE", "default", "Zone whose targets this worker serves.")
    concurrency: Annotated[int, whole(1, 10_000)] = setting(
        "OPSJOBS_CONCURRENCY", "200", "Target runs that one worker process executes at a time."
    )
    lease_seconds: Annotated[float, seconds(3, 600)] = setting(
        "OPSJOBS_LEASE_SECONDS",
        "15",
        "How long a worker may send no heartbeat before other workers take over its runs.",
    )
    poll_seconds: Annotated[float, seconds(0.05, 60)] = setting(
        "OPSJOBS_POLL_SECONDS", "1", "How often a worker looks for work if no wake-up arrives."
    )
    drain_seconds: Annotated[float, seconds(0, 3600)] = setting(
        "OPSJOBS_DRAIN_SECONDS",
        "5",
        "How long a stopping worker waits for direct commands (`durable: off`). "
        "Commands still running after that are abandoned and marked `lost`.",
    )


class ExecutionSettings(SettingsGroup):
    """Defaults and limits of executions; timeouts in seconds, sizes in bytes."""

    max_concurrent_targets: Annotated[int, whole(1, 10_000)] = setting(
        "MAX_CONCURRENT_TARGETS",
        "50",
        "Targets of one execution that run at a time, unless the job sets policy.max_parallel.",
    )
    connection_timeout: Annotated[float, seconds(0.1, 3600)] = setting(
        "CONNECTION_TIMEOUT", "30s", "Timeout for connecting and logging in to a target."
    )
    command_timeout: Annotated[float, seconds(0.1, _YEAR)] = setting(
        "COMMAND_TIMEOUT", "300s", "Timeout of an action that sets none."
    )
    output_limit_bytes: Annotated[int, size(0, 1 << 40)] = setting(
        "OPSJOBS_OUTPUT_LIMIT_BYTES",
        "10MiB",
        "Bytes kept of each output stream of an action. An action's output_limit can lower it.",
    )
    reattach_window: Annotated[float, seconds(1, 7 * _DAY)] = setting(
        "OPSJOBS_REATTACH_WINDOW",
        "15m",
        "How long to try to reconnect to a durable command before its run is marked `lost`.",
    )
    spool_limit_bytes: Annotated[int, size(1 << 20, 1 << 40)] = setting(
        "OPSJOBS_SPOOL_LIMIT_BYTES",
        "2GiB",
        "Bytes that a target spools of each output stream of a durable command. "
        "A command that writes more is killed (`output_limit`).",
    )
    file_limit_bytes: Annotated[int, size(1, 1 << 40)] = setting(
        "OPSJOBS_FILE_LIMIT_BYTES",
        "1GiB",
        "Size limit of an uploaded file, and of what one action downloads from one target.",
    )
    files_limit_bytes: Annotated[int, size(0, 1 << 50)] = setting(
        "OPSJOBS_FILES_LIMIT_BYTES",
        "100GiB",
        "Total size of all uploaded files; more is refused with 409. 0: no limit.",
    )
    files_per_caller_bytes: Annotated[int, size(0, 1 << 50)] = setting(
        "OPSJOBS_FILES_PER_CALLER_BYTES",
        "10GiB",
        "Total size of one caller's files; more is refused with 409. 0: no limit.",
    )
    artifacts_per_caller_bytes: Annotated[int, size(0, 1 << 50)] = setting(
        "OPSJOBS_ARTIFACTS_PER_CALLER_BYTES",
        "50GiB",
        "Total size of the artifacts of one caller's executions; a download beyond that fails. "
        "0: no limit.",
    )
    artifacts_per_caller: Annotated[int, whole(0, 1_000_000_000)] = setting(
        "OPSJOBS_ARTIFACTS_PER_CALLER",
        "1000000",
        "Number of artifacts of one caller's executions; further downloads fail. 0: no limit.",
    )
    open_executions_per_caller: Annotated[int, whole(0, 10_000_000)] = setting(
        "OPSJOBS_OPEN_EXECUTIONS_PER_CALLER",
        "2000",
        "Unfinished executions that one caller may have; further launches are refused with 429. "
        "Launches by schedules are exempt. 0: no limit.",
    )
    schedules_per_caller: Annotated[int, whole(0, 10_000_000)] = setting(
        "OPSJOBS_SCHEDULES_PER_CALLER",
        "5000",
        "Schedules that one caller may own; more are refused with 409. 0: no limit.",
    )
    triggers_per_caller: Annotated[int, whole(0, 10_000_000)] = setting(
        "OPSJOBS_TRIGGERS_PER_CALLER",
        "1000",
        "Triggers that one caller may own; more are refused with 409. 0: no limit.",
    )
    wait_limit: Annotated[float, seconds(1, _YEAR)] = setting(
        "OPSJOBS_WAIT_LIMIT",
        "7d",
        "Longest wait, approval or hold_offline that a job may set; longer ones are refused with "
        "422.",
    )
    exclusive_time: Annotated[float, seconds(0, _YEAR)] = setting(
        "OPSJOBS_EXCLUSIVE_TIME",
        "7d",
        "Longest time that an execution may hold exclusive names: its timeout, unless its policy "
        "sets less. 0: no limit.",
    )
    max_retries: Annotated[int, whole(0, 100)] = setting(
        "MAX_RETRIES", "10", "Most retries of an action, whatever its policy sets."
    )
    enable_retry: Annotated[bool, SWITCH] = setting(
        "ENABLE_RETRY", "on", "Whether failed actions are retried. Off: one attempt each."
    )
    retry_backoff_base: Annotated[int, whole(1, 100)] = setting(
        "RETRY_BACKOFF_BASE", "2", "Factor of exponential back-off, unless retry.factor is set."
    )
    max_actions_per_job: Annotated[int, whole(1, 1_000)] = setting(
        "MAX_ACTIONS_PER_JOB", "100", "Most actions of a job."
    )
    max_targets_per_job: Annotated[int, whole(1, 1_000_000)] = setting(
        "MAX_TARGETS_PER_JOB", "10000", "Most targets of an execution."
    )


class ConnectionSettings(SettingsGroup):
    """Limits and pauses of connections to targets."""

    rate: Annotated[float, whole(0, 10_000)] = setting(
        "OPSJOBS_CONNECTION_RATE",
        "20",
        "Connections per second from a worker to one host; the burst is the same number. "
        "0: no limit.",
    )
    circuit_failures: Annotated[int, whole(1, 1_000)] = setting(
        "OPSJOBS_CIRCUIT_FAILURES",
        "5",
        "Failed connects in a row that open a target's circuit.",
    )
    circuit_pause: Annotated[float, seconds(0.1, 3600)] = setting(
        "OPSJOBS_CIRCUIT_PAUSE",
        "15s",
        "How long a circuit stays open after failed connects. It doubles each time, up to 32 "
        "times as long.",
    )
    circuit_refused_pause: Annotated[float, seconds(0.1, _DAY)] = setting(
        "OPSJOBS_CIRCUIT_REFUSED_PAUSE",
        "15m",
        "The same after a refused login, which opens the circuit at once.",
    )


class RetentionSettings(SettingsGroup):
    """Retention of history, in seconds."""

    keep_logs: Annotated[float, _AGE] = setting(
        "OPSJOBS_KEEP_LOGS",
        "90d",
        "How long logs of executions are kept, by the day of launch. Requests for older ones get "
        "410.",
    )
    keep_artifacts: Annotated[float, _AGE] = setting(
        "OPSJOBS_KEEP_ARTIFACTS", "90d", "How long files that actions downloaded are kept."
    )
    keep_files: Annotated[float, _AGE] = setting(
        "OPSJOBS_KEEP_FILES",
        "365d",
        "How long uploaded files are kept. Files that a job or a kept execution uses stay longer.",
    )
    keep_executions: Annotated[float, _AGE] = setting(
        "OPSJOBS_KEEP_EXECUTIONS",
        "365d",
        "How long finished executions are kept, with their target runs, results and artifacts.",
    )
    keep_executions_per_job: Annotated[int, whole(1, 1_000_000_000)] = setting(
        "OPSJOBS_KEEP_EXECUTIONS_PER_JOB",
        "10000",
        "Executions kept for each job; the oldest are deleted first.",
    )
    keep_firings: Annotated[float, _AGE] = setting(
        "OPSJOBS_KEEP_FIRINGS", "90d", "How long the firings of schedules are kept."
    )
    keep_events: Annotated[float, seconds(3_600, 366 * _DAY)] = setting(
        "OPSJOBS_KEEP_EVENTS",
        "3d",
        "How long events can be read again by `GET /events`.",
    )
    keep_deliveries: Annotated[float, _AGE] = setting(
        "OPSJOBS_KEEP_DELIVERIES",
        "7d",
        "How long deliveries are kept with their messages, once they have ended.",
    )
    keep_audit: Annotated[float, seconds(0, 36_600 * _DAY)] = setting(
        "OPSJOBS_KEEP_AUDIT", "0", "How long the audit log is kept, by days. 0: for ever."
    )


class ApiSettings(SettingsGroup):
    """The HTTP server."""

    host: Annotated[str, _HOST] = setting(
        "OPSJOBS_API_HOST", "127.0.0.1", "Address that the API listens on."
    )
    port: Annotated[int, whole(0, 65_535)] = setting(
        "OPSJOBS_API_PORT", "8003", "Port that the API listens on. 0: a free one."
    )
    public_url: Annotated[str | None, address(("https", "http"), "https://jobs.example.org")] = (
        setting(
            "OPSJOBS_PUBLIC_URL",
            None,
            "URL of opsjobs for people, for links in notifications and logins at an OpenID Connect "
            "provider. Not set: no links.",
        )
    )
    docs: Annotated[bool, SWITCH] = setting(
        "OPSJOBS_DOCS",
        "on",
        "Whether the API serves its documentation page, without login. Off by default in "
        "production.",
    )
    body_limit_bytes: Annotated[int, size(1_024, 1 << 30)] = setting(
        "OPSJOBS_BODY_LIMIT_BYTES",
        "1MiB",
        "Size limit of a JSON request body; larger ones are refused with 413.",
    )
    rate_limit: Annotated[int, whole(0, 100_000)] = setting(
        "OPSJOBS_RATE_LIMIT",
        "500",
        "Requests per second of one caller to one API process, with a burst of four times as "
        "many; more get 429. 0: no limit.",
    )
    unauthenticated_rate_limit: Annotated[int, whole(0, 100_000)] = setting(
        "OPSJOBS_UNAUTHENTICATED_RATE_LIMIT",
        "50",
        "Requests per second without a valid token from one address (IPv6: one /64) to one API "
        "process, with a burst of four times as many; more get 429. Probes are exempt. "
        "0: no limit.",
    )
    connections_per_address: Annotated[int, whole(0, 100_000)] = setting(
        "OPSJOBS_CONNECTIONS_PER_ADDRESS",
        "500",
        "Open connections of one address (IPv6: one /64) to one API process. Above that, the "
        "connection that is idle longest is closed. Loopback and OPSJOBS_TRUSTED_PROXIES are "
        "exempt. 0: no limit.",
    )
    streams_per_caller: Annotated[int, whole(0, 100_000)] = setting(
        "OPSJOBS_STREAMS_PER_CALLER",
        "100",
        "Open event streams and downloads of one caller at one API process; more get 429. "
        "0: no limit.",
    )
    stream_reauth_interval: Annotated[float, seconds(1, 300)] = setting(
        "OPSJOBS_STREAM_REAUTH_INTERVAL",
        "15s",
        "How often the token and the permissions behind an open stream are checked again. If "
        "they are no longer valid, the stream reports it and ends.",
    )
    download_time: Annotated[float, seconds(1, 7 * _DAY)] = setting(
        "OPSJOBS_DOWNLOAD_TIME", "1h", "Time limit of one download; then its connection is closed."
    )


class SecuritySettings(SettingsGroup):
    """Keys, and which addresses targets may have."""

    encryption_keys: Annotated[tuple[Secret, ...], KEYS] = setting(
        "ENCRYPTION_KEYS",
        None,
        "Keys that encrypt credentials, the current one first. `opsjobs up` creates one. "
        "Production refuses weak ones.",
        secret=True,
        unset=(),
    )
    environment: Annotated[
        Literal["development", "test", "staging", "production"],
        choice("development", "test", "staging", "production"),
    ] = setting(
        "ENVIRONMENT",
        "development",
        "Purpose of this installation: development, test, staging or production. Production "
        "refuses insecure settings.",
    )
    target_allow: Annotated[tuple[Network, ...], NETWORKS] = setting(
        "OPSJOBS_TARGET_ALLOW",
        None,
        "Networks that targets may be in although they are denied by default: CIDRs separated by "
        "commas.",
        unset=(),
    )
    target_deny: Annotated[tuple[Network, ...], NETWORKS] = setting(
        "OPSJOBS_TARGET_DENY",
        None,
        "Networks that targets must not be in: CIDRs separated by commas. Takes precedence over "
        "OPSJOBS_TARGET_ALLOW.",
        unset=(),
    )
    choices_allow: Annotated[tuple[Network, ...], NETWORKS] = setting(
        "OPSJOBS_CHOICES_ALLOW",
        None,
        "Networks that choices_url may point to although they are not public: CIDRs separated by "
        "commas.",
        unset=(),
    )
    webhook_allow: Annotated[tuple[Network, ...], NETWORKS] = setting(
        "OPSJOBS_WEBHOOK_ALLOW",
        None,
        "Networks that webhooks may point to although they are not public: CIDRs separated by "
        "commas.",
        unset=(),
    )
    apprise_allow: Annotated[tuple[Network, ...], NETWORKS] = setting(
        "OPSJOBS_APPRISE_ALLOW",
        None,
        "Networks that notifications by apprise may be sent to although they are not public: CIDRs "
        "separated by commas.",
        unset=(),
    )
    local_transport: Annotated[bool, SWITCH] = setting(
        "OPSJOBS_LOCAL_TRANSPORT",
        "off",
        "Whether targets may use `transport: local`. Its commands run on the worker's machine as "
        "the worker's user, who can read all keys and tokens there. Never allowed within a scope.",
    )
    admin_token: Annotated[
        Secret | None,
        hidden(
            matching(
                r"[\x21-\x7e]{16,512}",
                f"write 16 to 512 printable characters without blanks, {HOW_TO_MAKE_A_KEY}",
            )
        ),
    ] = setting(
        "OPSJOBS_ADMIN_TOKEN",
        None,
        "Initial admin token for `opsjobs api`; only its hash is stored.",
        secret=True,
    )


class SafetySettings(SettingsGroup):
    """The safety check that precedes every launch."""

    enabled: Annotated[bool, SWITCH] = setting(
        "ENABLE_SAFETY_CHECKS",
        "on",
        "Whether commands and scripts are checked when jobs are saved and launched. Production "
        "refuses off.",
    )
    policy: Annotated[Path | None, ABSOLUTE_PATH] = setting(
        "OPSJOBS_SAFETY_POLICY",
        None,
        "YAML file with stricter rules for some labels, for many targets or for become.",
    )


class TelemetrySettings(SettingsGroup):
    """Logs and metrics."""

    log_level: Annotated[str, choice("DEBUG", "INFO", "WARNING", "ERROR")] = setting(
        "LOG_LEVEL", "INFO", "Lowest level that is logged: DEBUG, INFO, WARNING or ERROR."
    )
    debug: Annotated[bool, SWITCH] = setting(
        "DEBUG", "off", "Log everything, whatever LOG_LEVEL is. Refused in production."
    )
    enable_metrics: Annotated[bool, SWITCH] = setting(
        "ENABLE_METRICS", "on", "Whether processes listen on METRICS_PORT."
    )
    metrics_port: Annotated[int | None, whole(1, 65_535)] = setting(
        "METRICS_PORT",
        None,
        "Port for metrics without a token, one for each process (`up` uses this one and the "
        "following). Not set: none.",
    )
    metrics_host: Annotated[str, _HOST] = setting(
        "OPSJOBS_METRICS_HOST", "127.0.0.1", "Address that METRICS_PORT listens on."
    )


class ClientSettings(SettingsGroup):
    """The address of the service for the command line; default: the local `up`."""

    url: Annotated[str | None, address(("http", "https"), "https://jobs.example.org")] = setting(
        "OPSJOBS_URL",
        None,
        "URL of the API, for the command line. Not set: the local `opsjobs up`, found by its data "
        "directory.",
    )
    token: Annotated[
        Secret | None,
        hidden(
            matching(
                r"[\x21-\x7e]{1,8192}",
                "write the token alone: printable characters without blanks",
            )
        ),
    ] = setting(
        "OPSJOBS_TOKEN",
        None,
        "Token that the command line sends. Not set: the stored login, else the admin token of "
        "the local `up`.",
        secret=True,
    )


class Settings(SettingsGroup):
    """All settings; each part of the service is given its own group."""

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    execution: ExecutionSettings = Field(default_factory=ExecutionSettings)
    connection: ConnectionSettings = Field(default_factory=ConnectionSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    security: SecuritySettings = Field(default_factory=SecuritySettings)
    identity: IdentitySettings = Field(default_factory=IdentitySettings)
    oidc: OidcSettings = Field(default_factory=OidcSettings)
    platform: PlatformSettings = Field(default_factory=PlatformSettings)
    mail: MailSettings = Field(default_factory=MailSettings)
    secrets: SecretsSettings = Field(default_factory=SecretsSettings)
    safety: SafetySettings = Field(default_factory=SafetySettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    client: ClientSettings = Field(default_factory=ClientSettings)
    data_dir: Annotated[Path, ABSOLUTE_PATH] = setting(
        "OPSJOBS_DATA_DIR", None, _DATA_DIR, unset=Path("/var/lib/opsjobs")
    )


class ClientEnvironment(SettingsGroup):
    """The settings that the command line reads as a client of the service."""

    client: ClientSettings = Field(default_factory=ClientSettings)
    data_dir: Annotated[Path | None, ABSOLUTE_PATH] = setting("OPSJOBS_DATA_DIR", None, _DATA_DIR)
