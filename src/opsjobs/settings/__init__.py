"""Settings from the environment: read once, checked as a whole, in frozen groups.

Names of the platform (DATABASE_URL, COMMAND_TIMEOUT, …) are read with and without the prefix
`OPSJOBS_`; with it they take precedence. All other names always have that prefix. Secrets can also
be in files: `ENCRYPTION_KEYS_FILE=/run/secrets/keys`. An empty variable is not set.
"""

from opsjobs.settings.groups import (
    ApiSettings,
    ClientSettings,
    DatabaseSettings,
    ExecutionSettings,
    RedisSettings,
    RetentionSettings,
    SafetySettings,
    SecuritySettings,
    Settings,
    TelemetrySettings,
    WorkerSettings,
)
from opsjobs.settings.identity import IdentitySettings, OidcSettings
from opsjobs.settings.loader import (
    SettingDoc,
    SettingsError,
    default_data_dir,
    describe,
    for_service,
    load,
    load_client,
    names,
    unknown,
)
from opsjobs.settings.services import (
    MailSettings,
    PlatformSettings,
    SecretsSettings,
    ServiceSettings,
)

__all__ = [
    "ApiSettings",
    "ClientSettings",
    "DatabaseSettings",
    "ExecutionSettings",
    "IdentitySettings",
    "MailSettings",
    "OidcSettings",
    "PlatformSettings",
    "RedisSettings",
    "RetentionSettings",
    "SafetySettings",
    "SecretsSettings",
    "SecuritySettings",
    "ServiceSettings",
    "SettingDoc",
    "Settings",
    "SettingsError",
    "TelemetrySettings",
    "WorkerSettings",
    "default_data_dir",
    "describe",
    "for_service",
    "load",
    "load_client",
    "names",
    "unknown",
]
