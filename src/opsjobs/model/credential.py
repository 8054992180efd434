"""What a caller writes of a credential; its secrets go in and never come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, SecretStr, model_validator

from opsjobs.model.secret import CredentialType
from opsjobs.model.target import Name
from opsjobs.model.wire import Wire

SECRET_CHARACTERS_MAX = 65_536
_Text = Annotated[SecretStr, Field(min_length=1, max_length=SECRET_CHARACTERS_MAX)]

# For each type: what must be there, and what may.
_PARTS: Mapping[CredentialType, tuple[frozenset[str], frozenset[str]]] = {
    CredentialType.PASSWORD: (frozenset({"password"}), frozenset({"password"})),
    CredentialType.SSH_KEY: (frozenset({"private_key"}), frozenset({"private_key", "passphrase"})),
    CredentialType.SSH_CERTIFICATE: (
        frozenset({"private_key", "certificate"}),
        frozenset({"private_key", "certificate", "passphrase"}),
    ),
    CredentialType.AGENT: (frozenset(), frozenset()),
}


class CredentialDraft(Wire):
    """Body of POST and PUT /credentials. PUT replaces the whole, so it brings the secrets again."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: Name
    type: CredentialType
    username: str = Field(min_length=1, max_length=200, pattern=r"^[^\s\-\x00-\x1f][^\s\x00-\x1f]*$")
    password: _Text | None = None
    private_key: _Text | None = None
    passphrase: _Text | None = None
    certificate: Annotated[str, Field(min_length=1, max_length=SECRET_CHARACTERS_MAX)] | None = None

    @model_validator(mode="after")
    def _parts_fit_the_type(self) -> CredentialDraft:
        needed, allowed = _PARTS[self.type]
        given = {part for part in ("password", "private_key", "passphrase", "certificate") if getattr(self, part) is not None}
        if missing := sorted(needed - given):
            raise ValueError(f"a credential of type {self.type.value} needs {' and '.join(missing)}")
        if surplus := sorted(given - allowed):
            raise ValueError(f"a credential of type {self.type.value} has no {' and no '.join(surplus)}")
        return self
