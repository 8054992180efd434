"""External sources of a credential's secrets: Vault, or a certificate authority."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration

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
    """Return a path such as `web/key`, if no server can read it as another path."""
    parts = text.strip("/").split("/")
    if not all(
        _SEGMENT.fullmatch(part) and not part.endswith(".") and part == part.strip()
        for part in parts
    ):
        raise ValueError(
            f"{text!r} is no path: write segments of letters, digits and _.-@+=:~, such as web/key"
        )
    return "/".join(parts)


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


Segments = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_segments)]
Part = Literal["password", "private_key", "passphrase", "certificate", "value"]
FieldName = Annotated[str, Field(min_length=1, max_length=200, pattern=text_patterns.LINE)]
Principal = Annotated[str, Field(pattern=text_patterns.SSH_PRINCIPAL)]
Validity = Annotated[Duration, Field(ge=VALIDITY_SECONDS_MIN, le=VALIDITY_SECONDS_MAX)]


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
        """The location for people: `secret/web/key`."""
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
        """The name for people."""
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
        """The location for people: `ssh/sign/fleet`."""
        return f"{self.mount}/sign/{self.role}"


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
