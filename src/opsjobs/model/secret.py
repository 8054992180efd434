"""Values that must never be printed, and the credentials that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum

from opsjobs.model.credential_binding import ANYWHERE, Binding
from opsjobs.model.secret_source import SshCaSource, VaultSource, VaultSshSource


class Secret:
    """A text that only `reveal` returns: `repr`, `str` and formatting return `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text itself; call it as late as possible and store the result nowhere."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled: it would lie in the open")


@dataclass(frozen=True, slots=True)
class JobSecret:
    """The reference of a secret parameter to a credential; a worker decrypts it for a run.

    `credential_id` is None until a launch has looked the name up."""

    credential: str
    credential_id: str | None = None


def is_secret(value: object) -> bool:
    """Return True if a parameter's value must not be shown."""
    return isinstance(value, Secret | JobSecret)


class CredentialType(StrEnum):
    """The type of a credential; `secret` is no login, but a value for jobs."""

    PASSWORD = "password"  # noqa: S105  the name of a type, not a password
    SSH_KEY = "ssh_key"
    SSH_CERTIFICATE = "ssh_certificate"
    CLIENT_CERTIFICATE = "client_certificate"
    KERBEROS = "kerberos"
    AGENT = "agent"
    SECRET = "secret"  # noqa: S105  the name of a type, not a secret


@dataclass(frozen=True, slots=True)
class Credential:
    """One decrypted login or secret for jobs, kept in a worker's memory during a session.

    `private_key` and `certificate` are OpenSSH or PEM texts; `keytab` is the file in base64, of the
    principal `username`. `agent` uses the socket that SSH_AUTH_SOCK of the worker names. `value`:
    the value for jobs, of one of type secret; it has no `username`. `bound`: its binding. `fault`:
    why its secrets are unavailable; then there are none. `source`: the external source of its
    secrets; they are fetched just before a login."""

    id: str
    version: int
    name: str
    type: CredentialType
    username: str
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    certificate: str | None = None
    keytab: Secret | None = None
    value: Secret | None = None
    bound: Binding = ANYWHERE
    fault: str | None = None
    source: VaultSource | SshCaSource | VaultSshSource | None = field(default=None, hash=False)

    @property
    def secrets(self) -> list[Secret]:
        """All of its secrets."""
        values = (getattr(self, part.name) for part in fields(self))
        return [value for value in values if isinstance(value, Secret)]

    @property
    def made_anew(self) -> bool:
        """True if each login gets a key and a certificate of its own, which name their purpose."""
        return isinstance(self.source, SshCaSource | VaultSshSource)

    def closed(self, fault: str) -> Credential:
        """Return the same credential without its secrets, for this reason."""
        return Credential(
            self.id,
            self.version,
            self.name,
            self.type,
            self.username,
            bound=self.bound,
            fault=fault,
        )
