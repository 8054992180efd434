"""One request to Vault: its options and limits, retries, and messages for rejections."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import stamina

from opsjobs.integrations.answers import parse_host, parse_json, parse_retry_after
from opsjobs.model.secret import Secret
from opsjobs.model.units import describe_size

ANSWER_BYTES_MAX = 1 << 20
CONNECTIONS_MAX = 16
ATTEMPTS = 3
RETRY_SECONDS_MAX = 2.0
"""The longest pause between two attempts, whatever `Retry-After` requests."""
KEPT_MAX = 1_000
"""The maximum number of secrets in memory."""
# Of the statuses below 500: too many requests (or a standby that does not serve), and a node that
# lags behind.
_AGAIN = {412, 429, 472, 473}
_ERROR_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class VaultOptions:
    """A Vault or OpenBao, with a token or the role id and secret id of an AppRole."""

    url: str
    token: Secret | None = None
    role_id: Secret | None = None
    secret_id: Secret | None = None
    approle_mount: str = "approle"
    namespace: str | None = None
    ca_file: Path | None = None
    timeout_seconds: float = 5.0
    keep_seconds: float = 60.0
    """The time that a secret may stay in this process's memory; 0 = for one session."""


class SecretUnavailable(Exception):
    """The secret is unavailable; states the reason and the remedy, and never the secret."""


class VaultRefused(SecretUnavailable):
    """Vault has rejected the request: `status`, and its error text."""

    def __init__(self, status: int, error: str, body: Mapping[str, Any]) -> None:
        super().__init__(f"it answers {status}{f' ({error})' if error else ''}")
        self.status = status
        self.error = error
        self.body = body


class _Retry(SecretUnavailable):
    """Vault is unavailable now; `pause_seconds` is set if the server sent `Retry-After`."""

    def __init__(self, words: str, pause_seconds: float | None = None) -> None:
        super().__init__(words)
        self.pause_seconds = pause_seconds


@dataclass(frozen=True, slots=True)
class VaultRequest:
    """A request: path below /v1/, token, body; `hide` is redacted in messages."""

    method: str
    path: str
    token: Secret | None = None
    namespace: str | None = None
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    hide: tuple[Secret, ...] = ()


class VaultHttp:
    """The HTTP client of one Vault."""

    def __init__(self, options: VaultOptions) -> None:
        self.options = options
        self._client: httpx2.AsyncClient | None = None

    @property
    def name(self) -> str:
        """The address of the Vault, for messages."""
        parts = urlsplit(self.options.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    async def ask(self, request: VaultRequest) -> Mapping[str, Any]:
        """Return the response's body, {} without one.

        Raises SecretUnavailable, and VaultRefused for a 4xx.

        A request is tried up to three times on temporary failures: no connection, no response in
        time, 5xx, 429.
        """
        # The hook returns a pause if the server has sent one.
        tries = stamina.retry_context(
            on=_pause,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=0.1,
            wait_max=RETRY_SECONDS_MAX,
            wait_jitter=0.1,
        )
        async for attempt in tries:
            with attempt:
                return await self._once(request)
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _once(self, request: VaultRequest) -> Mapping[str, Any]:
        seconds = self.options.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                status, headers, raw = await self._exchanged(request)
        except (TimeoutError, httpx2.TimeoutException):
            raise _Retry(f"it did not answer within {seconds:g} s") from None
        except (httpx2.HTTPError, OSError) as broken:
            raise _unreachable(broken) from None
        return _parse_answer(status, headers, raw, request)

    async def _exchanged(self, request: VaultRequest) -> tuple[int, Mapping[str, str], bytes]:
        if self._client is None:
            self._client = _client(self.options)
        url = f"{self.options.url.rstrip('/')}/v1/{quote(request.path, safe='/')}"
        content = json.dumps(request.body).encode() if request.body is not None else None
        headers = self._headers(request)
        async with self._client.stream(
            request.method, url, headers=headers, content=content, params=dict(request.query)
        ) as answer:
            raw = b""
            async for chunk in answer.aiter_bytes():
                raw += chunk
                if len(raw) > ANSWER_BYTES_MAX:
                    raise SecretUnavailable(
                        f"its response has more than {describe_size(ANSWER_BYTES_MAX)}: "
                        "check that it is a Vault"
                    )
            return answer.status_code, answer.headers, raw

    def _headers(self, request: VaultRequest) -> dict[str, str]:
        namespace = "/".join(part for part in (self.options.namespace, request.namespace) if part)
        return {
            "accept": "application/json",
            "x-vault-request": "true",
            **({"content-type": "application/json"} if request.body is not None else {}),
            **({"x-vault-token": request.token.reveal()} if request.token is not None else {}),
            **({"x-vault-namespace": namespace} if namespace else {}),
        }


def _client(options: VaultOptions) -> httpx2.AsyncClient:
    context = ssl.create_default_context(
        cafile=str(options.ca_file) if options.ca_file is not None else None
    )
    limits = httpx2.Limits(
        max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
    )
    # No redirect is followed: a token is sent only to the address in the settings. No proxy from
    # the environment.
    return httpx2.AsyncClient(
        verify=context,
        timeout=options.timeout_seconds,
        limits=limits,
        follow_redirects=False,
        trust_env=False,
    )


def _pause(failure: Exception) -> bool | float:
    if not isinstance(failure, _Retry):
        return False
    return True if failure.pause_seconds is None else min(failure.pause_seconds, RETRY_SECONDS_MAX)


def _unreachable(broken: Exception) -> SecretUnavailable:
    error = str(broken)
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return SecretUnavailable(
            "its certificate is not one that we trust: name its authority in OPSJOBS_VAULT_CA_FILE"
        )
    if isinstance(broken, httpx2.ConnectError):
        return _Retry("no answer. Check that it runs and that OPSJOBS_VAULT_URL names it")
    return _Retry(f"the connection broke ({type(broken).__name__})")


def _parse_answer(
    status: int, headers: Mapping[str, str], raw: bytes, request: VaultRequest
) -> Mapping[str, Any]:
    body = _json(raw)
    if 200 <= status < 300:
        if body is None:
            raise SecretUnavailable(
                f"it answers {status} with something that is not its JSON: "
                "check that OPSJOBS_VAULT_URL is a Vault"
            )
        return body
    error = _error_text(body, request)
    if 300 <= status < 400:
        host = parse_host(headers.get("location")) or "another node"
        raise SecretUnavailable(
            f"it is a standby that sends us on to {host}: "
            "OPSJOBS_VAULT_URL must name the active node, or what leads to it"
        )
    if "sealed" in error.lower():
        raise SecretUnavailable("it is sealed. Unseal it (`vault operator unseal`)")
    if status >= 500 or status in _AGAIN:
        raise _Retry(
            f"it answers {status}{f' ({error})' if error else ''}",
            parse_retry_after(headers.get("retry-after")),
        )
    raise VaultRefused(status, error, body or {})


def _json(raw: bytes) -> Mapping[str, Any] | None:
    if not raw.strip():
        return {}
    try:
        body = parse_json(raw)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _error_text(body: Mapping[str, Any] | None, request: VaultRequest) -> str:
    """Return Vault's own error on one short line, with the request's secrets redacted."""
    errors = (body or {}).get("errors")
    texts = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
    error = " ".join(" ".join(texts).split())
    for secret in (*request.hide, *([request.token] if request.token is not None else [])):
        error = error.replace(secret.reveal(), "***")
    return "".join(c for c in error if c.isprintable())[:_ERROR_CHARACTERS_MAX]
