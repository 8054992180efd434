"""The groups of settings: one field for each variable, with form, default and description."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from opsjobs.model.secret import Secret
from opsjobs.settings.identity import IdentitySettings
from opsjobs.settings.parsers import (
    HOW_TO_MAKE_ONE,
    Network,
    address,
    choice,
    folder,
    hidden,
    keys,
    networks,
    seconds,
    setting,
    size,
    text,
    whole,
    yes_no,
)
from opsjobs.settings.safety import SafetySettings
from opsjobs.settings.secrets import SecretsSettings

_ZONE = text(
    r"[a-z0-9][a-z0-9_-]{0,62}",
    "write lower-case letters, digits, - or _, such as default or berlin-1",
)
_HOST = text(
    r"[A-Za-z0-9_.:%-]{1,253}",
    "write an IP address or a host name to listen on, such as 127.0.0.1 or 0.0.0.0",
)
_AGE = seconds(86_400, 36_600 * 86_400)
_ADMIN_TOKEN = text(
    r"[\x21-\x7e]{16,512}",
    f"write 16 to 512 printable characters without blanks, {HOW_TO_MAKE_ONE}",
)
_TOKEN = text(r"[\x21-\x7e]{1,8192}", "write the token alone: printable characters without blanks")


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """PostgreSQL; "" is not set (`up` then starts its own)."""

    url: str = setting(
        "DATABASE_URL",
        address(
            "postgres postgresql postgresql+asyncpg postgresql+psycopg",
            "postgresql://opsjobs@db.example.org/opsjobs",
        ),
        None,
        "PostgreSQL 15 to 18, where everything that is true is kept. Not set: `opsjobs up` starts an embedded one.",
        ours=False,
        secret=True,
        unset="",
    )


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Redis or Valkey; None is not set (`up` then starts its own)."""

    url: str | None = setting(
        "REDIS_URL",
        address("redis rediss unix redis+socket", "redis://redis.example.org:6379/0"),
        None,
        "Redis or Valkey, the bell: it may be lost at any time. Not set: `opsjobs up` starts an embedded Valkey.",
        ours=False,
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """One worker process."""

    zone: str = setting("ZONE", _ZONE, "default", "The zone whose targets this worker serves.")
    concurrency: int = setting(
        "CONCURRENCY",
        whole(1, 10_000),
        "200",
        "Target runs that one worker process has in work at a time.",
    )
    lease_seconds: float = setting(
        "LEASE_SECONDS",
        seconds(3, 600),
        "15",
        "How long a worker may be silent before its runs are taken from it.",
    )
    poll_seconds: float = setting(
        "POLL_SECONDS",
        seconds(0.05, 60),
        "1",
        "How often a worker looks for work of itself, when no bell has rung.",
    )
    drain_seconds: float = setting(
        "DRAIN_SECONDS",
        seconds(0, 3600),
        "5",
        "How long a stopping worker waits for direct commands (`durable: off`); what runs longer is let alone and ends `lost`.",
    )


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """Defaults and limits of executions; timeouts in seconds, sizes in bytes."""

    max_concurrent_targets: int = setting(
        "MAX_CONCURRENT_TARGETS",
        whole(1, 10_000),
        "50",
        "Targets of one execution at a time, unless policy.max_parallel says.",
        ours=False,
    )
    connection_timeout: float = setting(
        "CONNECTION_TIMEOUT",
        seconds(0.1, 3600),
        "30s",
        "How long connecting and logging in to a target may take.",
        ours=False,
    )
    command_timeout: float = setting(
        "COMMAND_TIMEOUT",
        seconds(0.1, 366 * 86_400),
        "300s",
        "How long an action may take, unless its timeout says.",
        ours=False,
    )
    output_limit_bytes: int = setting(
        "OUTPUT_LIMIT_BYTES",
        size(0, 1 << 40),
        "10MiB",
        "What is kept of each output stream of an action; its output_limit may say less, not more.",
    )
    reattach_window: float = setting(
        "REATTACH_WINDOW",
        seconds(1, 7 * 86_400),
        "15m",
        "How long a durable command whose contact was lost is looked for before its run ends `lost`.",
    )
    spool_limit_bytes: int = setting(
        "SPOOL_LIMIT_BYTES",
        size(1 << 20, 1 << 40),
        "2GiB",
        "What a target keeps of each output stream of a durable command; one that writes more is killed (`output_limit`).",
    )
    file_limit_bytes: int = setting(
        "FILE_LIMIT_BYTES",
        size(1, 1 << 40),
        "1GiB",
        "The largest file that may be uploaded, and the most that one action may download from one target.",
    )
    files_limit_bytes: int = setting(
        "FILES_LIMIT_BYTES",
        size(0, 1 << 50),
        "100GiB",
        "What all uploaded files may have together (409 above). 0: no limit.",
    )
    files_per_caller_bytes: int = setting(
        "FILES_PER_CALLER_BYTES",
        size(0, 1 << 50),
        "10GiB",
        "What the files of one caller may have together (409 above). 0: no limit.",
    )
    open_executions_per_caller: int = setting(
        "OPEN_EXECUTIONS_PER_CALLER",
        whole(0, 10_000_000),
        "2000",
        "Executions of one caller that have not ended: the next launch is 429. Those of schedules are not refused. 0: no limit.",
    )
    wait_limit: float = setting(
        "WAIT_LIMIT",
        seconds(1, 366 * 86_400),
        "7d",
        "The longest that a wait, an approval or hold_offline of a job may last (422 above).",
    )
    exclusive_time: float = setting(
        "EXCLUSIVE_TIME",
        seconds(0, 366 * 86_400),
        "7d",
        "The longest that an execution may hold exclusive names: its timeout, unless its policy says less. 0: no limit.",
    )
    max_retries: int = setting(
        "MAX_RETRIES",
        whole(0, 100),
        "10",
        "How often an action may be started again, whatever its policy says.",
        ours=False,
    )
    enable_retry: bool = setting(
        "ENABLE_RETRY",
        yes_no,
        "on",
        "Whether actions are tried again at all; off: one attempt, whatever policies say.",
        ours=False,
    )
    retry_backoff_base: int = setting(
        "RETRY_BACKOFF_BASE",
        whole(1, 100),
        "2",
        "The factor of exponential pauses, unless retry.factor says.",
        ours=False,
    )
    max_actions_per_job: int = setting(
        "MAX_ACTIONS_PER_JOB", whole(1, 1_000), "100", "Actions that a job may have.", ours=False
    )
    max_targets_per_job: int = setting(
        "MAX_TARGETS_PER_JOB",
        whole(1, 1_000_000),
        "10000",
        "Targets that one execution may have.",
        ours=False,
    )


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Limits and pauses of connections to targets."""

    rate: float = setting(
        "CONNECTION_RATE",
        whole(0, 10_000),
        "20",
        "Connections a second that a worker makes to one host; as many at once after a pause. 0: no limit.",
    )
    circuit_failures: int = setting(
        "CIRCUIT_FAILURES",
        whole(1, 1_000),
        "5",
        "Connects in a row that fail before a target's circuit opens.",
    )
    circuit_pause: float = setting(
        "CIRCUIT_PAUSE",
        seconds(0.1, 3600),
        "15s",
        "How long a circuit that failed connects have opened stays open at first; twice as long each time, up to 32 times.",
    )
    circuit_refused_pause: float = setting(
        "CIRCUIT_REFUSED_PAUSE",
        seconds(0.1, 86_400),
        "15m",
        "The same for a circuit that a refused login has opened, which one refusal does.",
    )


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """Retention of history, in seconds."""

    keep_logs: float = setting(
        "KEEP_LOGS",
        _AGE,
        "90d",
        "How long the logs of executions are kept, by days of their launch; asked for later: 410.",
    )
    keep_artifacts: float = setting(
        "KEEP_ARTIFACTS", _AGE, "90d", "How long files that actions brought from targets are kept."
    )
    keep_files: float = setting(
        "KEEP_FILES",
        _AGE,
        "365d",
        "How long uploaded files are kept; longer, as long as a job or an execution that is kept names them.",
    )
    keep_executions: float = setting(
        "KEEP_EXECUTIONS",
        _AGE,
        "365d",
        "How long executions are kept after their end, with their targets, results and artifacts.",
    )
    keep_executions_per_job: int = setting(
        "KEEP_EXECUTIONS_PER_JOB",
        whole(1, 1_000_000_000),
        "10000",
        "Executions that are kept of each job: the newest ones.",
    )
    keep_firings: float = setting(
        "KEEP_FIRINGS",
        _AGE,
        "90d",
        "How long it is kept what became of the due moments of schedules.",
    )
    keep_audit: float = setting(
        "KEEP_AUDIT",
        seconds(0, 36_600 * 86_400),
        "0",
        "How long the audit log is kept, by days; 0: for ever.",
    )


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The HTTP server."""

    host: str = setting("API_HOST", _HOST, "127.0.0.1", "The address that the API listens on.")
    port: int = setting(
        "API_PORT",
        whole(0, 65_535),
        "8003",
        "The port that the API listens on; 0 takes a free one.",
    )
    docs: bool = setting(
        "DOCS", yes_no, "on", "The docs page of the API, open to all; off by default in production."
    )
    body_limit_bytes: int = setting(
        "BODY_LIMIT_BYTES",
        size(1_024, 1 << 30),
        "1MiB",
        "The largest JSON body that the API takes (413 above).",
    )
    rate_limit: int = setting(
        "RATE_LIMIT", whole(0, 100_000), "500",
        "Requests a second that one API process takes of one caller (429 above), four times as many at once; 0 = no limit.",
    )  # fmt: skip
    unauthenticated_rate_limit: int = setting(
        "UNAUTHENTICATED_RATE_LIMIT", whole(0, 100_000), "50",
        "Requests a second without a good token that one API process takes from one address (of IPv6: one /64), four times as many "
        "at once, 429 above; probes are answered always. 0 = no limit.",
    )  # fmt: skip
    connections_per_address: int = setting(
        "CONNECTIONS_PER_ADDRESS", whole(0, 100_000), "500",
        "Connections that one address (of IPv6: one /64) may have open at one API process; the one that has waited longest for a "
        "request makes room. Not for loopback nor OPSJOBS_TRUSTED_PROXIES. 0 = no limit.",
    )  # fmt: skip
    streams_per_caller: int = setting(
        "STREAMS_PER_CALLER", whole(0, 100_000), "100",
        "Event streams and downloads that one caller may have open at one API process (429 above); 0 = no limit.",
    )  # fmt: skip
    stream_reauth_interval: float = setting(
        "STREAM_REAUTH_INTERVAL", seconds(1, 300), "15s",
        "How long a stream goes on at most before its token and rights are judged again; who has lost them is told, and it ends.",
    )  # fmt: skip
    download_time: float = setting(
        "DOWNLOAD_TIME",
        seconds(1, 7 * 86_400),
        "1h",
        "How long one download may take before its connection is dropped.",
    )


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """Keys, and which addresses targets may have."""

    encryption_keys: tuple[Secret, ...] = setting(
        "ENCRYPTION_KEYS", keys, None,
        "Keys that encrypt credentials, the current one first. `opsjobs up` makes one; production refuses short ones.",
        ours=False, secret=True, unset=(),
    )  # fmt: skip
    environment: Literal["development", "test", "staging", "production"] = setting(
        "ENVIRONMENT", choice("development", "test", "staging", "production"), "development",
        "What this installation is for; production refuses what is only good for trying out.", ours=False,
    )  # fmt: skip
    target_allow: tuple[Network, ...] = setting(
        "TARGET_ALLOW",
        networks,
        None,
        "Networks that targets may be in although they are denied otherwise: CIDRs, comma between.",
        unset=(),
    )
    target_deny: tuple[Network, ...] = setting(
        "TARGET_DENY",
        networks,
        None,
        "Networks that targets may never be in: CIDRs with commas between. Wins over allow.",
        unset=(),
    )
    choices_allow: tuple[Network, ...] = setting(
        "CHOICES_ALLOW",
        networks,
        None,
        "Networks that choices_url may point into although they are not public: CIDRs, comma between.",
        unset=(),
    )
    local_transport: bool = setting(
        "LOCAL_TRANSPORT", yes_no, "off",
        "Whether targets may have `transport: local`: commands on the worker's own machine as the worker's user, who can read all "
        "keys and tokens there. Never within a scope.",
    )  # fmt: skip
    admin_token: Secret | None = setting(  # noqa: RUF009  dataclasses.field, by another name
        "ADMIN_TOKEN",
        hidden(_ADMIN_TOKEN),
        None,
        "A first admin token for a plain `opsjobs api`; only its hash is stored.",
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """Logs and metrics."""

    log_level: str = setting(
        "LOG_LEVEL",
        choice("DEBUG", "INFO", "WARNING", "ERROR", upper=True),
        "INFO",
        "The least level that is logged.",
        ours=False,
    )
    debug: bool = setting(
        "DEBUG",
        yes_no,
        "off",
        "Log everything, whatever LOG_LEVEL says; refused in production.",
        ours=False,
    )
    enable_metrics: bool = setting(
        "ENABLE_METRICS", yes_no, "on", "Whether METRICS_PORT is listened on.", ours=False
    )
    metrics_port: int | None = setting(
        "METRICS_PORT", whole(1, 65_535), None,
        "A port for metrics without a token, one a process (`up`: this and the next ones). Not set: none.", ours=False,
    )  # fmt: skip
    metrics_host: str = setting(
        "METRICS_HOST", _HOST, "127.0.0.1", "The address that METRICS_PORT listens on."
    )


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The address of the service for the command line; default: the local `up`."""

    url: str | None = setting(
        "URL", address("http https", "https://jobs.example.org"), None,
        "Where the command line finds the API. Not set: the local `opsjobs up`, by its data folder.",
    )  # fmt: skip
    token: Secret | None = setting(  # noqa: RUF009  as above
        "TOKEN",
        hidden(_TOKEN),
        None,
        "The token that the command line shows. Not set: the local `up`'s admin token.",
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything; each part is handed just its own group."""

    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    secrets: SecretsSettings = field(default_factory=SecretsSettings)
    safety: SafetySettings = field(default_factory=SafetySettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    client: ClientSettings = field(default_factory=ClientSettings)
    data_dir: Path = setting(  # noqa: RUF009  as above
        "DATA_DIR", folder, None,
        "Where `opsjobs up` keeps everything. Not set: $XDG_DATA_HOME/opsjobs, as root /var/lib/opsjobs.",
        unset=Path("/var/lib/opsjobs"),
    )  # fmt: skip
