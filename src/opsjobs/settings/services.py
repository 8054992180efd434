"""Settings of other services: those of the platform, the mail server, Vault or OpenBao.

Each has its address, and how it knows us.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from opsjobs.model.notification import is_email
from opsjobs.model.secret import Secret
from opsjobs.settings.identity import IdentitySettings
from opsjobs.settings.types import (
    ABSOLUTE_PATH,
    address,
    choice,
    from_text,
    hidden,
    https_or_local,
    matching,
    seconds,
    text,
    whole,
)
from opsjobs.settings.variables import SettingsGroup, setting

EMBEDDED = "embedded"
AUTH_MODES = ("none", "bearer", "api_key", "service_jwt", "client_credentials")

_HTTP = ("https", "http")
_PROFILE = text(
    r"embedded|opsconductor-(v3|ms|ng)|/[^\x00]+",
    "write embedded, opsconductor-v3, opsconductor-ms, opsconductor-ng, or the absolute path of a "
    "profile file",
)
_SECRET = hidden(
    matching(r"[\x21-\x7e]{1,8192}", "write the secret alone: printable characters without blanks")
)
ServiceUrl = Annotated[str | None, address(_HTTP, "https://targets.example.org")]
ServiceProfile = Annotated[str, _PROFILE]
ServiceAuthMode = Annotated[str, choice(*AUTH_MODES)]
ServiceSecret = Annotated[Secret | None, _SECRET]

_V3 = "opsconductor-v3"
_MODES = "How we authenticate to it: " + ", ".join(AUTH_MODES[:-1]) + f" or {AUTH_MODES[-1]}."
_BY_MODE = (
    "The bearer token, API key, signing secret (service_jwt; not set: JWT_SECRET_KEY) or client "
    "secret for it."
)
_PROFILES = "Its generation: opsconductor-v3, -ms or -ng, or the absolute path of a profile file."


class ServiceSettings(SettingsGroup):
    """The address of one service; without a URL its built-in replacement is used."""

    url: str | None = None
    profile: str = _V3
    auth: str = "none"
    secret: Secret | None = None

    @property
    def is_remote(self) -> bool:
        """True if the service is asked, False if its built-in replacement is."""
        return self.url is not None and self.profile != EMBEDDED


class TargetServiceSettings(ServiceSettings):
    """The Target Service."""

    url: ServiceUrl = setting(
        "TARGET_SERVICE_URL",
        None,
        "URL of the platform's Target Service. Not set: targets are kept by opsjobs.",
    )
    profile: ServiceProfile = setting("TARGET_SERVICE_PROFILE", _V3, _PROFILES)
    auth: ServiceAuthMode = setting("TARGET_SERVICE_AUTH", "none", _MODES)
    secret: ServiceSecret = setting("TARGET_SERVICE_SECRET", None, _BY_MODE, secret=True)


class UserServiceSettings(ServiceSettings):
    """The User Service."""

    url: ServiceUrl = setting(
        "USER_SERVICE_URL",
        None,
        "URL of the platform's User Service. Not set: platform users have the rights of their "
        "tokens.",
    )
    profile: ServiceProfile = setting("USER_SERVICE_PROFILE", _V3, _PROFILES)
    auth: ServiceAuthMode = setting("USER_SERVICE_AUTH", "none", _MODES)
    secret: ServiceSecret = setting("USER_SERVICE_SECRET", None, _BY_MODE, secret=True)


class NotificationServiceSettings(ServiceSettings):
    """The Notification Service."""

    url: ServiceUrl = setting(
        "NOTIFICATION_SERVICE_URL",
        None,
        "URL of the platform's Notification Service. Not set: none.",
    )
    profile: ServiceProfile = setting("NOTIFICATION_SERVICE_PROFILE", _V3, _PROFILES)
    auth: ServiceAuthMode = setting("NOTIFICATION_SERVICE_AUTH", "none", _MODES)
    secret: ServiceSecret = setting("NOTIFICATION_SERVICE_SECRET", None, _BY_MODE, secret=True)


class AuditServiceSettings(ServiceSettings):
    """The Audit Service."""

    url: ServiceUrl = setting(
        "AUDIT_SERVICE_URL",
        None,
        "URL of the platform's Audit Service. Not set: the audit log stays in opsjobs alone.",
        also="AUDIT_EVENTS_SERVICE_URL",
    )
    profile: ServiceProfile = setting("AUDIT_SERVICE_PROFILE", _V3, _PROFILES)
    auth: ServiceAuthMode = setting("AUDIT_SERVICE_AUTH", "none", _MODES)
    secret: ServiceSecret = setting("AUDIT_SERVICE_SECRET", None, _BY_MODE, secret=True)


class AuthServiceSettings(ServiceSettings):
    """The Auth Service; its URL is AUTH_SERVICE_URL in the settings of authentication."""

    profile: ServiceProfile = setting("AUTH_SERVICE_PROFILE", _V3, _PROFILES)
    auth: ServiceAuthMode = setting("AUTH_SERVICE_AUTH", "none", _MODES)
    secret: ServiceSecret = setting("AUTH_SERVICE_SECRET", None, _BY_MODE, secret=True)


class PlatformSettings(SettingsGroup):
    """The platform's services, and what requests to all of them have in common."""

    target: TargetServiceSettings = Field(default_factory=TargetServiceSettings)
    user: UserServiceSettings = Field(default_factory=UserServiceSettings)
    auth: AuthServiceSettings = Field(default_factory=AuthServiceSettings)
    notification: NotificationServiceSettings = Field(default_factory=NotificationServiceSettings)
    audit: AuditServiceSettings = Field(default_factory=AuditServiceSettings)
    target_cache: Annotated[float, seconds(0, 3_600)] = setting(
        "OPSJOBS_TARGET_CACHE",
        "30s",
        "How long data of the Target Service is cached.",
    )
    target_stale: Annotated[float, seconds(0, 7 * 86_400)] = setting(
        "OPSJOBS_TARGET_STALE",
        "0s",
        "While the Target Service does not respond: how much older than OPSJOBS_TARGET_CACHE its "
        "data may be. 0s: no older; launches are refused, and runs do not log in.",
    )
    target_host_keys: Annotated[str, choice("pinned", "ca", "accept_new")] = setting(
        "OPSJOBS_TARGET_HOST_KEY_POLICY",
        "pinned",
        "Host key policy of targets that are new in the Target Service: pinned, ca or accept_new.",
    )
    timeout: Annotated[float, seconds(0.1, 60)] = setting(
        "OPSJOBS_SERVICE_TIMEOUT",
        "5s",
        "Timeout of one request to a service; all attempts together may take twice as long.",
    )
    ca_file: Annotated[Path | None, ABSOLUTE_PATH] = setting(
        "OPSJOBS_SERVICE_CA_FILE",
        None,
        "CA certificates (PEM) that verify the services' certificates. Not set: those of the "
        "system.",
    )
    client_id: Annotated[
        str, text(r"[\x21-\x7e]{1,200}", "write the id of the client, such as opsjobs")
    ] = setting("OPSJOBS_SERVICE_CLIENT_ID", "opsjobs", "Our client id, for client_credentials.")
    token_url: Annotated[str | None, address(_HTTP, "https://id.example.org/token")] = setting(
        "OPSJOBS_SERVICE_TOKEN_URL", None, "Token endpoint, for client_credentials."
    )

    def services(self, identity: IdentitySettings) -> dict[str, ServiceSettings]:
        """Return the services by the word that their settings begin with."""
        url = identity.auth_service_url
        return {
            "TARGET": self.target,
            "USER": self.user,
            "AUTH": self.auth.model_copy(update={"url": url}),
            "NOTIFICATION": self.notification,
            "AUDIT": self.audit,
        }


def faults(settings: PlatformSettings, identity: IdentitySettings) -> Iterator[str]:
    """Return contradictions as sentences."""
    for name, service in settings.services(identity).items():
        if service.is_remote:
            yield from _auth_faults(name, service, settings, identity)


def _auth_faults(
    name: str, service: ServiceSettings, settings: PlatformSettings, identity: IdentitySettings
) -> Iterator[str]:
    mode = service.auth
    shared = mode == "service_jwt" and identity.jwt_secret_key is not None
    if mode != "none" and service.secret is None and not shared:
        yield f"{name}_SERVICE_AUTH is {mode}, but there is no secret: set {name}_SERVICE_SECRET."
    if mode == "client_credentials" and settings.token_url is None:
        yield (
            f"{name}_SERVICE_AUTH is client_credentials, but OPSJOBS_SERVICE_TOKEN_URL is not set: "
            "write the address of the token endpoint."
        )


# --- e-mail: the mail server, and the sender of notifications


def _email(text: str) -> str:
    if not is_email(text):
        raise ValueError("write an e-mail address, such as opsjobs@example.org")
    return text


class MailSettings(SettingsGroup):
    """The mail server; without a host there is no e-mail."""

    host: Annotated[
        str | None,
        text(
            r"[A-Za-z0-9_.:-]{1,253}",
            "write a host name or an IP address, such as mail.example.org",
        ),
    ] = setting(
        "OPSJOBS_SMTP_HOST", None, "Mail server for notifications by e-mail. Not set: no e-mail."
    )
    port: Annotated[int, whole(1, 65_535)] = setting(
        "OPSJOBS_SMTP_PORT", "587", "Its port: 587 with starttls, usually 465 with tls."
    )
    tls: Annotated[Literal["starttls", "tls", "off"], choice("starttls", "tls", "off")] = setting(
        "OPSJOBS_SMTP_TLS",
        "starttls",
        "Encryption: starttls (demanded before anything is sent), tls (from the first byte) or "
        "off.",
    )
    username: Annotated[
        str | None, text(r"[^\x00-\x1f]{1,320}", "write the user name alone, on one line")
    ] = setting("OPSJOBS_SMTP_USERNAME", None, "User name for the mail server. Not set: no login.")
    password: Annotated[
        Secret | None, hidden(matching(r"[^\x00-\x1f]{1,1024}", "write the password alone"))
    ] = setting("OPSJOBS_SMTP_PASSWORD", None, "Its password.", secret=True)
    sender: Annotated[str | None, from_text(_email)] = setting(
        "OPSJOBS_SMTP_FROM", None, "Address of the sender. Required with OPSJOBS_SMTP_HOST."
    )
    ca_file: Annotated[Path | None, ABSOLUTE_PATH] = setting(
        "OPSJOBS_SMTP_CA_FILE",
        None,
        "CA certificates (PEM) that verify the mail server's certificate. Not set: those of the "
        "system.",
    )
    timeout: Annotated[float, seconds(1, 14)] = setting(
        "OPSJOBS_SMTP_TIMEOUT", "10s", "Time limit of sending one message."
    )


def mail_faults(mail: MailSettings, *, production: bool) -> Iterator[str]:
    """Return a sentence for each contradiction between these settings."""
    if mail.host is not None and mail.sender is None:
        yield "OPSJOBS_SMTP_FROM is not set, and OPSJOBS_SMTP_HOST is: write the sender's address."
    if (mail.username is None) != (mail.password is None):
        yield (
            "OPSJOBS_SMTP_USERNAME and OPSJOBS_SMTP_PASSWORD belong together: set both, or neither."
        )
    if mail.tls == "off" and mail.password is not None and production:
        yield (
            "OPSJOBS_SMTP_TLS is off, and ENVIRONMENT is production: the password would cross the "
            "network unencrypted. Use starttls or tls."
        )


# --- an external secret store


_WORD = hidden(
    matching(
        r"[\x21-\x7e]{1,8192}", "write the token or id alone: printable characters without blanks"
    )
)
_PATH = text(
    r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*",
    "write a path of letters, digits, _, - and ., such as approle or ops/team-a",
)


class SecretsSettings(SettingsGroup):
    """HashiCorp Vault or OpenBao; `url` None is none."""

    url: Annotated[str | None, https_or_local("https://vault.example.org:8200")] = setting(
        "OPSJOBS_VAULT_URL",
        None,
        "URL of HashiCorp Vault or OpenBao, for credentials whose secrets are stored there. Not "
        "set: none.",
    )
    token: Annotated[Secret | None, _WORD] = setting(
        "OPSJOBS_VAULT_TOKEN",
        None,
        "Vault token; it is renewed. An AppRole is better.",
        secret=True,
    )
    role_id: Annotated[Secret | None, _WORD] = setting(
        "OPSJOBS_VAULT_ROLE_ID",
        None,
        "Role id of a Vault AppRole. Takes precedence over OPSJOBS_VAULT_TOKEN.",
        secret=True,
    )
    secret_id: Annotated[Secret | None, _WORD] = setting(
        "OPSJOBS_VAULT_SECRET_ID", None, "Secret id of that AppRole.", secret=True
    )
    approle_mount: Annotated[str, _PATH] = setting(
        "OPSJOBS_VAULT_APPROLE_MOUNT", "approle", "Mount path of the AppRole method, below auth/."
    )
    namespace: Annotated[str | None, _PATH] = setting(
        "OPSJOBS_VAULT_NAMESPACE", None, "Vault namespace for the login and for all reads."
    )
    ca_file: Annotated[Path | None, ABSOLUTE_PATH] = setting(
        "OPSJOBS_VAULT_CA_FILE",
        None,
        "CA certificates (PEM) that verify Vault's certificate. Not set: those of the system.",
    )
    timeout: Annotated[float, seconds(0.1, 60)] = setting(
        "OPSJOBS_VAULT_TIMEOUT", "5s", "Timeout of one request to Vault; up to three are made."
    )
    keep: Annotated[float, seconds(0, 60)] = setting(
        "OPSJOBS_VAULT_KEEP",
        "60s",
        "How long a secret from Vault is cached in memory; it is never stored.",
    )
