"""Credentials, opened for a session, and the sources of their secrets.

A credential may be bound to hosts and jobs, and its secrets may be stored elsewhere: in Vault, or
with a certificate authority."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration, duration_limits
from opsjobs.model.secret import Secret

VALIDITY_SECONDS = 300.0
VALIDITY_SECONDS_MIN = 30.0
VALIDITY_SECONDS_MAX = 86_400.0

# The parts that each credential type needs, of the types that can have a source.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "password": ("password",),
    "ssh_key": ("private_key",),
    "ssh_certificate": ("private_key", "certificate"),
    "client_certificate": ("private_key", "certificate"),
    "secret": ("value",),
}

_SEGMENT = re.compile(r"[A-Za-z0-9_. @+=:~-]{1,200}")


def _segments(text: str) -> str:
    """Return a path such as `web/key`, if no server can interpret it as another path."""
    parts = text.strip("/").split("/")
    if not all(
        _SEGMENT.fullmatch(part) and not part.endswith(".") and part == part.strip()
        for part in parts
    ):
        raise ValueError(
            f"{text!r} is not a path: "
            "write segments of letters, digits and _.-@+=:~, such as web/key"
        )
    return "/".join(parts)


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


Segments = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_segments)]
Part = Literal["password", "private_key", "passphrase", "certificate", "value"]
FieldName = Annotated[str, Field(min_length=1, max_length=200, pattern=text_patterns.LINE)]
Principal = Annotated[str, Field(pattern=text_patterns.SSH_PRINCIPAL)]
Validity = Annotated[Duration, duration_limits(ge=VALIDITY_SECONDS_MIN, le=VALIDITY_SECONDS_MAX)]


class VaultSource(ApiModel):
    """A secret in the KV engine, version 2, of HashiCorp Vault or OpenBao.

    `fields` names the field of each part; a needed part without an entry is in the field of its own
    name. `version`: this version only; else the newest. `namespace` is below the one of the
    settings."""

    backend: Literal["vault"]
    mount: Segments = "secret"
    path: Segments
    fields: dict[Part, FieldName] = Field(default_factory=dict)
    version: int | None = Field(default=None, ge=1, le=1 << 31)
    namespace: Segments | None = None

    def fields_for(self, type_: str) -> dict[str, str]:
        """Return the field of each part that this credential type needs or `fields` names."""
        return {part: part for part in _NEEDED.get(type_, ())} | {**self.fields}

    @property
    def where(self) -> str:
        """The location for display: `secret/web/key`."""
        return f"{self.mount}/{self.path}" + (
            f", version {self.version}" if self.version is not None else ""
        )


class _Certified(ApiModel):
    """The contents of a certificate; `principals` [] means the login user."""

    principals: list[Principal] = Field(default_factory=list, max_length=32)
    validity: Validity = VALIDITY_SECONDS


class SshCaSource(_Certified):
    """A certificate for a one-session key, signed with a CA key stored in opsjobs.

    `authority` names the credential of type ssh_key that holds the CA's private key.
    `port_forwarding` is only for jump hosts."""

    backend: Literal["ssh_ca"]
    authority: Annotated[str, Field(min_length=1, max_length=200)]
    port_forwarding: bool = False
    source_addresses: list[Annotated[str, Field(max_length=64), AfterValidator(_network)]] = Field(
        default_factory=list, max_length=32
    )

    @property
    def where(self) -> str:
        """The name for display."""
        return f"the SSH CA {self.authority}"


class VaultSshSource(_Certified):
    """A certificate for a one-session key, signed by the SSH engine of Vault or OpenBao.

    `key_id`: include the run in it, which the role has to allow (`allow_user_key_ids`)."""

    backend: Literal["vault_ssh"]
    mount: Segments = "ssh"
    role: Annotated[str, Field(pattern=text_patterns.VAULT_ROLE)]
    key_id: bool = True
    namespace: Segments | None = None

    @property
    def where(self) -> str:
        """The location for display: `ssh/sign/fleet`."""
        return f"{self.mount}/sign/{self.role}"


class TargetServiceSource(ApiModel):
    """The login of a target in the platform's Target Service; `target` is its id there.

    It is made for a session and never stored."""

    backend: Literal["target_service"] = "target_service"
    target: str
    withheld: str | None = None
    """The reason why no login is used now, although there may be one later."""

    @property
    def where(self) -> str:
        """The location for display."""
        return f"target {self.target} of the Target Service"


Source = Annotated[VaultSource | SshCaSource | VaultSshSource, Field(discriminator="backend")]
_SOURCE: TypeAdapter[VaultSource | SshCaSource | VaultSshSource] = TypeAdapter(Source)


def source_of(stored: Mapping[str, Any]) -> VaultSource | SshCaSource | VaultSshSource:
    """Return a source from its stored form (`model_dump(mode="json")`), or raise ValueError."""
    return _SOURCE.validate_python(stored)


def unfit_source(type_: str, source: VaultSource | SshCaSource | VaultSshSource) -> str | None:
    """Return why a credential of this type cannot have this source; None if it can."""
    if not isinstance(source, VaultSource):
        return (
            None
            if type_ == "ssh_certificate"
            else f"a source {source.backend} makes a credential of type ssh_certificate"
        )
    needed = _NEEDED.get(type_)
    if needed is None:
        return f"a credential of type {type_} cannot be in Vault: {', '.join(_NEEDED)} can"
    allowed = {*needed, "passphrase"} if "private_key" in needed else {*needed}
    if surplus := sorted({*source.fields} - allowed):
        return (
            f"a credential of type {type_} has no {' and no '.join(surplus)}: take it out of "
            "`fields`"
        )
    return None


SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Binding:
    """Ids of targets, names of groups and ids of jobs that a credential may be used for.

    Targets and groups limit the hosts, jobs limit the purpose; an empty side sets no limit."""

    targets: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    jobs: frozenset[int] = frozenset()

    @property
    def has_places(self) -> bool:
        """True if the binding limits the hosts."""
        return bool(self.targets or self.groups)

    def holds_target(self, target_id: str, members: Collection[str]) -> bool:
        """Return True if it may be used on this host; `members`: target ids of its groups."""
        return not self.has_places or target_id in self.targets or target_id in members

    def holds_job(self, job_id: int | None) -> bool:
        """Return True if it may be used for this job; None: for commands without a job."""
        return not self.jobs or job_id in self.jobs


ANYWHERE = Binding()


def binding_of(row: Mapping[str, Any]) -> Binding:
    """Return the binding of a row with the columns bound_targets, bound_groups and bound_jobs."""
    return Binding(
        frozenset(row["bound_targets"]),
        frozenset(row["bound_groups"]),
        frozenset(row["bound_jobs"]),
    )


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
    """One decrypted login or job secret, kept in a worker's memory during a session."""

    id: str
    version: int
    name: str
    type: CredentialType
    """The type; `agent` uses the socket that SSH_AUTH_SOCK of the worker names."""
    username: str
    """The login name; the principal of a `keytab`. A credential of type secret has none."""
    password: Secret | None = None
    private_key: Secret | None = None
    """An OpenSSH or PEM text."""
    passphrase: Secret | None = None
    certificate: str | None = None
    """An OpenSSH or PEM text."""
    keytab: Secret | None = None
    """The file in base64, of the principal `username`."""
    value: Secret | None = None
    """The value for jobs, of a credential of type secret."""
    bound: Binding = ANYWHERE
    """Its binding."""
    fault: str | None = None
    """The reason for unavailable secrets; then there are none."""
    source: VaultSource | SshCaSource | VaultSshSource | TargetServiceSource | None = field(
        default=None, hash=False
    )
    """The external source of its secrets, which are fetched just before a login."""

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
        """Return the credential without its secrets; `fault` is the reason."""
        return Credential(
            self.id,
            self.version,
            self.name,
            self.type,
            self.username,
            bound=self.bound,
            fault=fault,
        )


def not_there(credential: str, target: str) -> str:
    """Return why a credential is refused on a host, and how to correct that."""
    return (
        f"the credential {credential!r} is bound to targets or groups, and {target} is none of "
        "them: "
        f"bind it to {target}, too (credentials:manage), or name another credential"
    )


def not_for_that(credential: str, job: str | None) -> str:
    """Return why it is refused for a job or an ad-hoc command, and how to correct that."""
    what = f"the job {job!r} is none of them" if job is not None else "this is no stored job"
    return (
        f"the credential {credential!r} is bound to jobs, and {what}: bind it to the job, too "
        "(credentials:manage), "
        "or name another credential"
    )
