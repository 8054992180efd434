"""Fetch the secrets of credentials from external stores.

They are fetched from Vault or a certificate authority, for one login and just before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from opsjobs.clock import Clock
from opsjobs.engine.loop import Counts
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.secrets.requests import SecretUnavailable
from opsjobs.integrations.secrets.vault import FIELD_CHARACTERS_MAX, VaultServer
from opsjobs.integrations.services.targets import TargetService
from opsjobs.model.credential import (
    Credential,
    SshCaSource,
    TargetServiceSource,
    VaultSource,
    VaultSshSource,
)
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.remote.ssh.auth_material import FreshKey, Unusable, generate_key, parse_terms, sign
from opsjobs.telemetry.logs import log

_NAMED_FIELDS_MAX = 8


class CertificateAuthorities(Protocol):
    """Opens the keys of certificate authorities; implemented by the vault."""

    async def open_named(self, name: str) -> Credential | None:
        """Return the opened credential of this name; None if there is none."""


class ExternalSecrets:
    """Fetches the secrets of credentials that have a `source`.

    `server` is None if no Vault is configured, `targets` if there is no Target Service.
    """

    def __init__(
        self,
        authorities: CertificateAuthorities,
        server: VaultServer | None,
        clock: Clock,
        *,
        targets: TargetService | None = None,
    ) -> None:
        self._authorities = authorities
        self._server = server
        self._targets = targets
        self._clock = clock

    async def fetch(self, credential: Credential, purpose: str) -> Credential:
        """Return the credential with its secrets; unchanged if it has no source.

        Raises RemoteFailure(CREDENTIAL_MISSING).
        """
        try:
            match credential.source:
                case None:
                    return credential
                case VaultSource() as source:
                    return replace(credential, **await self._read(credential, source))
                case TargetServiceSource(withheld=str() as reason):
                    raise _service_away(credential, reason)
                case TargetServiceSource() as source:
                    return await self._of_target(credential, source)
                case SshCaSource() | VaultSshSource() as source:
                    return await self._certified(credential, source, purpose)
        except (SecretUnavailable, Unusable) as why:
            words = f"The secrets of the credential {credential.name} cannot be fetched: {why}."
            raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, words) from None

    async def renew(self) -> Counts:
        """Renew the Vault token, so that it stays valid through idle times."""
        return await self._server.renew() if self._server is not None else {"tokens": 0}

    async def close(self) -> None:
        """Drop the cached secrets and close the connection to Vault."""
        if self._targets is not None:
            self._targets.forget_credentials()
        if self._server is not None:
            await self._server.close()

    async def _read(self, credential: Credential, source: VaultSource) -> dict[str, Any]:
        found = await self._vault().read(source)
        wanted = source.fields_for(credential.type)
        missing = [field for field in wanted.values() if field not in found.fields]
        if missing:
            has = ", ".join([*found.fields][:_NAMED_FIELDS_MAX]) or "no text field"
            raise SecretUnavailable(
                f"{source.where} has no field {missing[0]!r} (it has {has}): name the field in "
                "`fields`"
            )
        if any(
            not 0 < len(found.fields[field].reveal()) <= FIELD_CHARACTERS_MAX
            for field in wanted.values()
        ):
            raise SecretUnavailable(
                f"a field of {source.where} is empty, or has more than {FIELD_CHARACTERS_MAX} "
                "characters"
            )
        parts: dict[str, Any] = {part: found.fields[field] for part, field in wanted.items()}
        return {
            part: value.reveal() if part == "certificate" else value
            for part, value in parts.items()
        }

    async def _of_target(self, credential: Credential, source: TargetServiceSource) -> Credential:
        if self._targets is None:
            raise SecretUnavailable(
                "TARGET_SERVICE_URL is not set in this process: set it for the API and the workers"
            )
        try:
            login = await self._targets.credential(source.target)
        except ServiceUnavailable as away:
            raise _service_away(credential, str(away)) from None
        if login is None:
            raise SecretUnavailable(
                f"{source.where} has no credentials there: store them, or name a credential of "
                "opsjobs (opsjobs targets set NAME --credential NAME)"
            )
        return replace(
            credential,
            type=login.type,
            username=login.username,
            password=login.password,
            private_key=login.private_key,
            passphrase=login.passphrase,
        )

    async def _certified(
        self, credential: Credential, source: SshCaSource | VaultSshSource, purpose: str
    ) -> Credential:
        key, key_id = generate_key(), f"opsjobs {purpose or 'test'}"
        principals = source.principals or [credential.username]
        if isinstance(source, SshCaSource):
            certificate = await self._signed(source, key, principals, key_id)
        else:
            certificate = await self._vault().sign(
                source, key.public, principals=principals, key_id=key_id
            )
        terms = parse_terms(certificate)
        if (
            not terms.user
            or terms.public != key.public
            or not set(terms.principals) <= set(principals)
            or not terms.principals
        ):
            raise SecretUnavailable(f"{source.where} has signed something else than was requested")
        until = terms.valid_before.isoformat()
        log.info(
            "certificate_signed",
            credential=credential.id,
            by=source.where,
            key_id=terms.key_id,
            serial=terms.serial,
            until=until,
        )
        return replace(credential, private_key=key.private, certificate=certificate)

    async def _signed(
        self, source: SshCaSource, key: FreshKey, principals: Sequence[str], key_id: str
    ) -> str:
        authority = await self._authority(source.authority)
        return await asyncio.to_thread(
            sign,
            *authority,
            key.public,
            principals=principals,
            key_id=key_id,
            now=self._clock.now(),
            seconds=source.validity,
            port_forwarding=source.port_forwarding,
            source_addresses=source.source_addresses,
        )

    async def _authority(self, name: str) -> tuple[Secret, Secret | None]:
        held = await self._authorities.open_named(name)
        if held is None:
            raise SecretUnavailable(f"there is no credential {name} with the key of the SSH CA")
        if isinstance(held.source, VaultSource):
            held = replace(held, **await self._read(held, held.source))
        if held.fault is not None or held.private_key is None:
            raise SecretUnavailable(
                f"the key of the SSH CA {name} cannot be decrypted: "
                f"{held.fault or 'it holds no private key'}"
            )
        return held.private_key, held.passphrase

    def _vault(self) -> VaultServer:
        if self._server is None:
            raise SecretUnavailable(
                "they are in Vault, which is not configured: set OPSJOBS_VAULT_URL for the API "
                "and the workers"
            )
        return self._server


def _service_away(credential: Credential, reason: str) -> RemoteFailure:
    """Return the failure of a login that may work once the Target Service answers.

    Like an unreachable host, it ends no command that was started before.
    """
    words = f"The credential {credential.name} is unavailable now: {reason}."
    return RemoteFailure(ErrorCode.CREDENTIAL_MISSING, words, because=ErrorCode.CONNECT_TIMEOUT)
