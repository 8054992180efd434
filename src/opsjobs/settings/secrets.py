"""Settings of an external secret store: Vault or OpenBao."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from opsjobs.model.secret import Secret
from opsjobs.settings.parsers import folder, hidden, seconds, setting, text

_WORD = text(
    r"[\x21-\x7e]{1,8192}", "write the token or id alone: printable characters without blanks"
)
_PATH = text(
    r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*",
    "write a path of letters, digits, _, - and ., such as approle or ops/team-a",
)
_EXAMPLE = "https://vault.example.org:8200"


def vault_address(text: str) -> str:
    """https, or http to the local machine (an agent): tokens are never sent in the clear."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"write an address such as {_EXAMPLE}") from None
    extra = parts.username or parts.query or parts.fragment or parts.path.strip("/")
    if not parts.hostname or extra or port == 0 or parts.scheme not in ("http", "https"):
        raise ValueError(
            f"write an address such as {_EXAMPLE}, without a path, a user or a question mark"
        )
    if parts.scheme == "http" and not _here(parts.hostname):
        raise ValueError(
            f"write an address with https, such as {_EXAMPLE}: http is for an agent on this machine alone"
        )
    return text.rstrip("/")


def _here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class SecretsSettings:
    """HashiCorp Vault or OpenBao; `url` None is none."""

    url: str | None = setting(
        "VAULT_URL", vault_address, None,
        "HashiCorp Vault or OpenBao, for credentials whose secrets are there. Not set: there is none.",
    )  # fmt: skip
    token: Secret | None = setting(  # noqa: RUF009  a field made by a function of ours, as all of them
        "VAULT_TOKEN", hidden(_WORD), None,
        "What we log in to Vault with: a token, which is renewed. An AppRole is better.",
        secret=True,
    )  # fmt: skip
    role_id: Secret | None = setting(  # noqa: RUF009  as above
        "VAULT_ROLE_ID", hidden(_WORD), None,
        "What we log in to Vault with: the role id of an AppRole, which wins over VAULT_TOKEN.",
        secret=True,
    )  # fmt: skip
    secret_id: Secret | None = setting(  # noqa: RUF009  as above
        "VAULT_SECRET_ID", hidden(_WORD), None, "The secret id of that AppRole.", secret=True
    )  # fmt: skip
    approle_mount: str = setting(
        "VAULT_APPROLE_MOUNT", _PATH, "approle", "Where Vault has the AppRole method, below auth/."
    )
    namespace: str | None = setting(
        "VAULT_NAMESPACE", _PATH, None, "The namespace that we log in to and read in."
    )
    ca_file: Path | None = setting(  # noqa: RUF009  as above
        "VAULT_CA_FILE", folder, None,
        "The certificates (PEM) that Vault's is judged by. Not set: those of the system.",
    )  # fmt: skip
    timeout: float = setting(
        "VAULT_TIMEOUT",
        seconds(0.1, 60),
        "5s",
        "How long one request to Vault may take; up to three are made.",
    )
    keep: float = setting(
        "VAULT_KEEP",
        seconds(0, 60),
        "60s",
        "How long a secret read from Vault may lie in memory; it is never stored.",
    )
