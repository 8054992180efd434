"""Vault or OpenBao: secrets of the KV engine (version 2), certificates of the SSH engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.clock import Clock, SystemClock
from opsjobs.integrations.secrets.login import VaultLogin
from opsjobs.integrations.secrets.requests import (
    KEPT_MAX,
    SecretUnavailable,
    VaultHttp,
    VaultOptions,
    VaultRefused,
    VaultRequest,
)
from opsjobs.integrations.secrets.ttl_cache import TtlCache
from opsjobs.model.credential import VaultSource, VaultSshSource
from opsjobs.model.secret import Secret
from opsjobs.telemetry.logs import log

FIELD_CHARACTERS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class VaultSecret:
    """A secret in Vault: its text fields, its version and the time of that version."""

    fields: Mapping[str, Secret]
    version: int | None
    created_at: str | None


class VaultServer:
    """One Vault or OpenBao; no request is sent before it is needed."""

    def __init__(self, options: VaultOptions, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._wire = VaultHttp(options)
        self._login = VaultLogin(self._wire, clock)
        self._memory: TtlCache[VaultSecret] = TtlCache(
            clock, seconds=options.keep_seconds, most=KEPT_MAX
        )
        self._renews = options.token is not None and options.role_id is None

    async def read(self, source: VaultSource) -> VaultSecret:
        """Return the secret, at most `keep_seconds` old. Raises SecretUnavailable."""
        key = (source.namespace, source.mount, source.path, source.version)
        return await self._memory.get(key, lambda: self._read(source))

    async def sign(
        self, source: VaultSshSource, public_key: str, *, principals: Sequence[str], key_id: str
    ) -> str:
        """Return the certificate of this public key, one OpenSSH line. Raises SecretUnavailable."""
        body = {
            "public_key": public_key,
            "valid_principals": ",".join(principals),
            "cert_type": "user",
            "ttl": f"{int(source.validity)}s",
            **({"key_id": key_id} if source.key_id else {}),
        }
        try:
            answer = await self._ask("POST", source.where, source.namespace, body=body)
        except VaultRefused as refused:
            raise self._not_had(source.where, _why_not_signed(source, refused)) from None
        except SecretUnavailable as failure:
            raise self._not_had(source.where, str(failure)) from None
        signed = (
            answer.get("data", {}).get("signed_key")
            if isinstance(answer.get("data"), dict)
            else None
        )
        if not isinstance(signed, str) or len(signed) > FIELD_CHARACTERS_MAX:
            raise self._not_had(
                source.where,
                "its response has no signed key: check that an SSH engine is mounted there",
            )
        return signed.strip()

    async def renew(self) -> Mapping[str, int]:
        """Renew the token while it is unused; return counts. Not needed with an AppRole."""
        if not self._renews:
            return {"tokens": 0}
        try:
            await self._login.token()
        except SecretUnavailable as failure:
            log.warning("vault_token_invalid", vault=self._wire.name, reason=str(failure))
            return {"tokens": 0}
        return {"tokens": 1}

    async def close(self) -> None:
        """Drop the cached secrets, revoke the AppRole token, and close the connections."""
        self._memory.clear()
        await self._login.leave()
        await self._wire.close()

    async def _read(self, source: VaultSource) -> VaultSecret:
        query = {"version": str(source.version)} if source.version is not None else {}
        try:
            answer = await self._ask(
                "GET", f"{source.mount}/data/{source.path}", source.namespace, query=query
            )
        except VaultRefused as refused:
            raise self._not_had(source.where, _why_not_read(source, refused)) from None
        except SecretUnavailable as failure:
            raise self._not_had(source.where, str(failure)) from None
        data = answer.get("data")
        kept, metadata = (
            (data.get("data"), data.get("metadata")) if isinstance(data, dict) else (None, None)
        )
        if not isinstance(kept, dict) or not isinstance(metadata, dict):
            reason = (
                f"what it answers is not of a KV engine of version 2: is {source.mount} one "
                "(`vault secrets list -detailed`)?"
            )
            raise self._not_had(source.where, reason)
        return _parse_secret(kept, metadata)

    async def _ask(
        self, method: str, path: str, namespace: str | None, **more: Any
    ) -> Mapping[str, Any]:
        """Send a request with the current token; retry once with a new token if it is rejected."""
        token = await self._login.token()
        try:
            return await self._wire.ask(VaultRequest(method, path, token.value, namespace, **more))
        except VaultRefused as refused:
            if refused.status != 403:
                raise
            another = await self._login.token(token)
            if another is token:
                raise
        return await self._wire.ask(VaultRequest(method, path, another.value, namespace, **more))

    def _not_had(self, where: str, why: str) -> SecretUnavailable:
        return SecretUnavailable(f"{where} in the Vault at {self._wire.name}: {why}")


def _parse_secret(kept: Mapping[str, Any], metadata: Mapping[str, Any]) -> VaultSecret:
    fields = {name: Secret(value) for name, value in kept.items() if isinstance(value, str)}
    version, created_at = metadata.get("version"), metadata.get("created_time")
    return VaultSecret(
        fields,
        version if isinstance(version, int) else None,
        created_at if isinstance(created_at, str) else None,
    )


def _why_not_read(source: VaultSource, refused: VaultRefused) -> str:
    if refused.status == 403:
        path = f"{source.mount}/data/{source.path}"
        return f"our token may not read it: its policy needs `read` on {path}"
    if refused.status != 404:
        return str(refused)
    data = refused.body.get("data")
    metadata = data.get("metadata") if isinstance(data, dict) else None
    if not isinstance(metadata, dict):
        return (
            f"there is nothing; check the mount ({source.mount}), the path ({source.path}) "
            "and the namespace"
        )
    version = metadata.get("version")
    if metadata.get("destroyed") is True:
        return f"version {version} was destroyed: write the secret again, or name another version"
    if metadata.get("deletion_time"):
        return (
            f"version {version} was deleted at {metadata['deletion_time']}: "
            "undelete it, or write the secret again"
        )
    return "there is nothing in it"


def _why_not_signed(source: VaultSshSource, refused: VaultRefused) -> str:
    if refused.status == 403:
        return f"our token may not sign: its policy needs `update` on {source.where}"
    if refused.status == 404:
        return f"there is no SSH engine at {source.mount}; check the mount and the namespace"
    if "key_id" in refused.error:
        return (
            f"{refused}: set `allow_user_key_ids` on the role, or `key_id` of the source to false"
        )
    limits = f"what the role {source.role} allows"
    return f"{refused}: compare the principals and the validity with {limits}"
