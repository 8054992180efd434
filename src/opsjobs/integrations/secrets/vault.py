"""Vault or OpenBao: secrets of the KV engine (version 2), certificates of the SSH engine.

The token of this process is renewed before it expires, or obtained by AppRole.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.clock import Clock, SystemClock
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


# --- the token of this process


RENEW_SHARE = 2 / 3
"""Share of its lease after which a token is renewed."""
FRESH_SECONDS = 5.0
"""A rejected token younger than this is not replaced: a new one would be rejected, too."""


@dataclass(frozen=True, slots=True)
class VaultToken:
    """A token with its start and expiry, in seconds of the monotonic clock."""

    value: Secret
    since: float
    until: float
    renewable: bool
    first_lease_seconds: float

    @property
    def renew_at(self) -> float:
        """The time at which it is due for renewal."""
        return self.since + (self.until - self.since) * RENEW_SHARE


class VaultLogin:
    """The token of one Vault; obtained on first use."""

    def __init__(self, wire: VaultHttp, clock: Clock) -> None:
        self._wire = wire
        self._clock = clock
        self._held: VaultToken | None = None
        self._next: asyncio.Task[VaultToken] | None = None

    async def token(self, refused: VaultToken | None = None) -> VaultToken:
        """Return a valid token, if possible a different one than `refused`.

        Concurrent callers share one request and its failure. Raises SecretUnavailable.
        """
        held, now = self._held, self._clock.monotonic()
        useless = (
            held is not None
            and held is refused
            and self._may_enter
            and now - held.since > FRESH_SECONDS
        )
        if held is not None and not useless and now < held.renew_at:
            return held
        if self._next is None:
            live = held is not None and not useless and now < held.until
            self._next = asyncio.create_task(
                self._renewed(held) if held is not None and live else self._entered()
            )
            self._next.add_done_callback(self._keep_token)
        return await asyncio.shield(self._next)

    def _keep_token(self, task: asyncio.Task[VaultToken]) -> None:
        self._next = None
        if not task.cancelled() and task.exception() is None:
            self._held = task.result()

    async def leave(self) -> None:
        """Revoke a token obtained by AppRole, at shutdown; a failure is only logged."""
        held, self._held = self._held, None
        if held is None or not self._may_enter:
            return
        try:
            await self._wire.ask(
                VaultRequest("POST", "auth/token/revoke-self", held.value, body={})
            )
        except SecretUnavailable as failure:
            log.info("vault_token_not_revoked", reason=str(failure))

    @property
    def _may_enter(self) -> bool:
        return self._wire.options.role_id is not None

    async def _entered(self) -> VaultToken:
        options = self._wire.options
        if options.role_id is not None:
            return await self._by_role(options.role_id, options.secret_id)
        if options.token is not None:
            return await self._by_token(options.token)
        raise SecretUnavailable(
            "we have nothing to log in with: set OPSJOBS_VAULT_TOKEN, "
            "or OPSJOBS_VAULT_ROLE_ID and OPSJOBS_VAULT_SECRET_ID"
        )

    async def _by_role(self, role_id: Secret, secret_id: Secret | None) -> VaultToken:
        body = {
            "role_id": role_id.reveal(),
            **({"secret_id": secret_id.reveal()} if secret_id is not None else {}),
        }
        hide = (role_id, *([secret_id] if secret_id is not None else []))
        mount = self._wire.options.approle_mount
        try:
            answer = await self._wire.ask(
                VaultRequest("POST", f"auth/{mount}/login", body=body, hide=hide)
            )
        except VaultRefused as refused:
            raise SecretUnavailable(
                f"it refuses the login of our AppRole at auth/{mount} ({refused.status}): "
                "check OPSJOBS_VAULT_ROLE_ID and OPSJOBS_VAULT_SECRET_ID, "
                "and whether the secret id has ended"
            ) from None
        return self._parse_token(answer)

    async def _by_token(self, value: Secret) -> VaultToken:
        try:
            answer = await self._wire.ask(VaultRequest("GET", "auth/token/lookup-self", value))
        except VaultRefused as refused:
            raise SecretUnavailable(
                f"it does not take our token ({refused.status}): "
                "put a good one into OPSJOBS_VAULT_TOKEN"
            ) from None
        data = _part(answer, "data")
        return self._token(value, data.get("ttl"), renewable=data.get("renewable") is True)

    async def _renewed(self, held: VaultToken) -> VaultToken:
        if not held.renewable:
            return await self._entered() if self._may_enter else held
        try:
            answer = await self._wire.ask(
                VaultRequest("POST", "auth/token/renew-self", held.value, body={})
            )
            token = self._parse_token(answer, held.first_lease_seconds)
        except SecretUnavailable as failure:
            # It is valid until its expiry, even after a failed renewal.
            log.warning("vault_token_not_renewed", reason=str(failure))
            return (
                await self._entered()
                if self._may_enter and isinstance(failure, VaultRefused)
                else held
            )
        # Near its maximum age a token is renewed for shorter and shorter times.
        old = token.until - token.since < held.first_lease_seconds / 2
        return await self._entered() if old and self._may_enter else token

    def _parse_token(
        self, answer: Mapping[str, Any], first_lease_seconds: float | None = None
    ) -> VaultToken:
        auth = _part(answer, "auth")
        value = auth.get("client_token")
        if not isinstance(value, str) or not value:
            raise SecretUnavailable(
                "its response to the login has no token: check that OPSJOBS_VAULT_URL is a Vault"
            )
        lease, renewable = auth.get("lease_duration"), auth.get("renewable") is True
        return self._token(
            Secret(value), lease, renewable=renewable, first_lease_seconds=first_lease_seconds
        )

    def _token(
        self,
        value: Secret,
        lease: object,
        *,
        renewable: bool,
        first_lease_seconds: float | None = None,
    ) -> VaultToken:
        # 0 is a token without an expiry, such as the root token of a test.
        seconds = float(lease) if isinstance(lease, int | float) and lease > 0 else math.inf
        now = self._clock.monotonic()
        return VaultToken(value, now, now + seconds, renewable, first_lease_seconds or seconds)


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = answer.get(name)
    return part if isinstance(part, dict) else {}
