"""Credentials as a caller writes them; secrets can be written, but never read back."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, SecretStr, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.credential import CredentialType, Source, unfit_source
from opsjobs.model.naming import Name

SECRET_CHARACTERS_MAX = 65_536
_Text = Annotated[SecretStr, Field(min_length=1, max_length=SECRET_CHARACTERS_MAX)]
_Public = Annotated[str, Field(min_length=1, max_length=SECRET_CHARACTERS_MAX)]
_Username = Annotated[str, Field(min_length=1, max_length=200, pattern=text_patterns.USERNAME)]
_Principal = Annotated[str, Field(max_length=200, pattern=text_patterns.KERBEROS_PRINCIPAL)]

PARTS = ("password", "private_key", "passphrase", "certificate", "keytab", "value")
VALUE_CHARACTERS_MAX = 32_768
"""The size limit of a job secret, the same as of a secret parameter."""
_IN_WORDS = {
    "principal": "principal, such as deploy@CORP.EXAMPLE",
    "keytab": "keytab (the file in base64) or password",
}


@dataclass(frozen=True, slots=True)
class _Form:
    """The parts of one credential type: required, one of several required, and optional."""

    needed: frozenset[str]
    one_of: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()

    def missing(self, given: Set[str]) -> list[str]:
        """Return the names of the missing parts."""
        lacking = [_IN_WORDS.get(part, part) for part in sorted(self.needed - given)]
        return (
            lacking
            if not self.one_of or self.one_of & given
            else [*lacking, _IN_WORDS[min(self.one_of)]]
        )

    def surplus(self, given: Set[str]) -> list[str]:
        """Return the parts that this type does not have."""
        return sorted(given - self.needed - self.one_of - self.optional)


_FORMS: Mapping[CredentialType, _Form] = {
    CredentialType.PASSWORD: _Form(frozenset({"password"})),
    CredentialType.SSH_KEY: _Form(frozenset({"private_key"}), optional=frozenset({"passphrase"})),
    CredentialType.SSH_CERTIFICATE: _Form(
        frozenset({"private_key", "certificate"}), optional=frozenset({"passphrase"})
    ),
    CredentialType.CLIENT_CERTIFICATE: _Form(
        frozenset({"private_key", "certificate"}), optional=frozenset({"passphrase"})
    ),
    CredentialType.KERBEROS: _Form(frozenset(), one_of=frozenset({"keytab", "password"})),
    CredentialType.AGENT: _Form(frozenset()),
    CredentialType.SECRET: _Form(frozenset({"value"})),
}


def unfit(type_: CredentialType, given: Set[str]) -> str | None:
    """Return why these parts do not form a credential of this type; None if they do."""
    if type_ is CredentialType.SECRET:
        return _unfit(type_, given, _FORMS[type_], None)
    name = "principal" if type_ is CredentialType.KERBEROS else "username"
    return (
        _unfit(type_, given, _FORMS[type_], name)
        if name in given
        else _lacks(type_, [_IN_WORDS.get(name, name)])
    )


def _unfit(type_: CredentialType, given: Set[str], form: _Form, name: str | None) -> str | None:
    if missing := form.missing(given):
        return _lacks(type_, missing)
    if {"keytab", "password"} <= given:
        return "a credential of type kerberos has a keytab or a password, not both"
    if surplus := form.surplus(given - {name}):
        return f"a credential of type {type_.value} has no {' and no '.join(surplus)}"
    return None


def _lacks(type_: CredentialType, parts: list[str]) -> str:
    return f"a credential of type {type_.value} needs {' and '.join(parts)}"


class _Secrets(ApiModel):
    """The parts that are encrypted.

    `keytab`: the bytes of the file in base64. `value`: the value of a secret for jobs."""

    model_config = ConfigDict(hide_input_in_errors=True)

    password: _Text | None = None
    private_key: _Text | None = None
    passphrase: _Text | None = None
    certificate: _Public | None = None
    keytab: _Text | None = None
    value: Annotated[SecretStr, Field(min_length=1, max_length=VALUE_CHARACTERS_MAX)] | None = None

    def revealed(self) -> dict[str, str]:
        """Return the given parts in plain text; do not store them in an attribute."""
        parts = ((name, getattr(self, name)) for name in PARTS)
        return {
            name: part.get_secret_value() if isinstance(part, SecretStr) else part
            for name, part in parts
            if part is not None
        }


class BoundTo(ApiModel):
    """The targets and jobs (name, id or uuid) and groups (name) that a credential is bound to.

    If all are empty, it may be used anywhere."""

    targets: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=1_000
    )
    groups: list[Name] = Field(default_factory=list, max_length=100)
    jobs: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=1_000
    )


class CredentialDraft(_Secrets):
    """Body of POST and PUT /credentials. PUT replaces the whole, including the secrets.

    `principal` is what a credential of type kerberos has instead of a `username`. With a `source`
    the secrets are stored elsewhere, and none is given here. `bound_to`: null keeps the current
    binding; a new credential may be used anywhere."""

    name: Name
    type: CredentialType
    username: _Username | None = None
    principal: _Principal | None = None
    source: Source | None = None
    bound_to: BoundTo | None = None

    @model_validator(mode="after")
    def _parts_fit_the_type(self) -> CredentialDraft:
        given = {
            part for part in ("username", "principal", *PARTS) if getattr(self, part) is not None
        }
        fault = unfit(self.type, given) if self.source is None else self._unfit_source(given)
        if fault is not None:
            raise ValueError(fault)
        return self

    def _unfit_source(self, given: Set[str]) -> str | None:
        assert self.source is not None, "only called with a source"
        if surplus := sorted(given - {"username"}):
            return (
                "the secrets of this credential are elsewhere (`source`): leave out "
                f"{' and '.join(surplus)}"
            )
        if self.type is CredentialType.SECRET and self.username is not None:
            return "a credential of type secret has no username"
        if self.type is not CredentialType.SECRET and self.username is None:
            return _lacks(self.type, ["username"])
        return unfit_source(self.type, self.source)

    def revealed(self) -> dict[str, str]:
        """Return the given parts, or their source, in plain text; never store them."""
        return (
            super().revealed() if self.source is None else {"source": self.source.model_dump_json()}
        )

    @property
    def login(self) -> str:
        """The login name: the username or the principal; empty for a job secret."""
        name = self.username or self.principal
        if self.type is CredentialType.SECRET:
            return ""
        assert name is not None, "one of them is there, or the draft was refused"
        return name


class RotationDraft(_Secrets):
    """Body of POST /credentials/{id}/rotate: new secrets for the same login and type.

    A `certificate` alone keeps the private key. `version`: the version to replace; the request
    fails if it is not the current one."""

    version: int | None = Field(default=None, ge=1)
