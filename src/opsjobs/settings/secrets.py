"""Settings of an external secret store: Vault or OpenBao."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from opsjobs.model.secret import Secret
from opsjobs.settings.types import (
    ABSOLUTE_PATH,
    hidden,
    https_or_local,
    matching,
    seconds,
    text,
)
from opsjobs.settings.variables import SettingsGroup, setting

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
