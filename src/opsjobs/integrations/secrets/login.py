"""The Vault token of this process: renewed before it expires, or obtained by AppRole."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.clock import Clock
from opsjobs.integrations.secrets.requests import (
    SecretUnavailable,
    VaultHttp,
    VaultRefused,
    VaultRequest,
)
from opsjobs.model.secret import Secret
from opsjobs.telemetry.logs import log

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
