"""Where the secrets of a credential are when they are not ours to keep: in Vault, or made anew by a certificate authority."""

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

# What a credential of each type needs, of those that can be elsewhere.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "password": ("password",),
    "ssh_key": ("private_key",),
    "ssh_certificate": ("private_key", "certificate"),
    "client_certificate": ("private_key", "certificate"),
    "secret": ("value",),
}

_SEGMENT = re.compile(r"[A-Za-z0-9_. @+=:~-]{1,200}")


def _segments(text: str) -> str:
    """`web/key`, without what a server could read as another path than we have judged."""
    parts = text.strip("/").split("/")
    if not all(_SEGMENT.fullmatch(part) and not part.endswith(".") and part == part.strip() for part in parts):
        raise ValueError(f"{text!r} is no path: write segments of letters, digits and _.-@+=:~, such as web/key")
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

    `fields` names the field that holds each part; a part that is needed and not named is in the field of its own name.
    `version`: that one and no other; else the newest. `namespace` is below the one that the settings name.
    """

    backend: Literal["vault"]
    mount: Segments = "secret"
    path: Segments
    fields: dict[Part, FieldName] = Field(default_factory=dict)
    version: int | None = Field(default=None, ge=1, le=1 << 31)
    namespace: Segments | None = None

    def wanted(self, type_: str) -> dict[str, str]:
        """The field of each part that a credential of this type needs, and of those that are named beside."""
        return {part: part for part in _NEEDED.get(type_, ())} | {**self.fields}

    @property
    def where(self) -> str:
        """As people name it: `secret/web/key`."""
        return f"{self.mount}/{self.path}" + (f", version {self.version}" if self.version is not None else "")


class _Certified(ApiModel):
    """What a certificate says; `principals` [] is the user who logs in."""

    principals: list[Principal] = Field(default_factory=list, max_length=32)
    validity: Validity = VALIDITY_SECONDS


class SshCaSource(_Certified):
    """A certificate signed with a CA key of ours, for a key that is made for one session.

    `authority` names the credential of type ssh_key that holds the CA's private key. `port_forwarding` is for jump hosts alone.
    """

    backend: Literal["ssh_ca"]
    authority: Annotated[str, Field(min_length=1, max_length=200)]
    port_forwarding: bool = False
    source_addresses: list[Annotated[str, Field(max_length=64), AfterValidator(_network)]] = Field(
        default_factory=list, max_length=32
    )

    @property
    def where(self) -> str:
        """As people name it."""
        return f"the SSH CA {self.authority}"


class VaultSshSource(_Certified):
    """A certificate signed by the SSH engine of Vault or OpenBao, for a key that is made for one session.

    `key_id`: whether we name the run in it, which the role has to allow (`allow_user_key_ids`).
    """

    backend: Literal["vault_ssh"]
    mount: Segments = "ssh"
    role: Annotated[str, Field(pattern=text_patterns.VAULT_ROLE)]
    key_id: bool = True
    namespace: Segments | None = None

    @property
    def where(self) -> str:
        """As people name it: `ssh/sign/fleet`."""
        return f"{self.mount}/sign/{self.role}"


Source = Annotated[VaultSource | SshCaSource | VaultSshSource, Field(discriminator="backend")]
_SOURCE: TypeAdapter[VaultSource | SshCaSource | VaultSshSource] = TypeAdapter(Source)


def source_of(stored: Mapping[str, Any]) -> VaultSource | SshCaSource | VaultSshSource:
    """A source as it was kept (`model_dump(mode="json")`). Raises ValueError where it is none."""
    return _SOURCE.validate_python(stored)


def unfit_source(type_: str, source: VaultSource | SshCaSource | VaultSshSource) -> str | None:
    """Why a credential of this type has no such source, in words; None where it may."""
    if not isinstance(source, VaultSource):
        return None if type_ == "ssh_certificate" else f"a source {source.backend} makes a credential of type ssh_certificate"
    needed = _NEEDED.get(type_)
    if needed is None:
        return f"a credential of type {type_} cannot be in Vault: {', '.join(_NEEDED)} can"
    allowed = {*needed, "passphrase"} if "private_key" in needed else {*needed}
    if surplus := sorted({*source.fields} - allowed):
        return f"a credential of type {type_} has no {' and no '.join(surplus)}: take it out of `fields`"
    return None
