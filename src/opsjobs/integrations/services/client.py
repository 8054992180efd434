"""Requests to one service of the platform: authenticated, bounded, retried, and cut off.

No redirect is followed and no proxy of the environment is used: our credentials go to the address
in the settings only. Calls that change nothing, or that carry an id by which the service can know
them again, are retried; a circuit breaker spares a service that is down.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import stamina
import structlog

from opsjobs.clock import Clock
from opsjobs.integrations.answers import parse_host, parse_json, parse_retry_after
from opsjobs.integrations.json_client import USER_AGENT, ServiceUnavailable
from opsjobs.integrations.services.authorization import ServiceAuth
from opsjobs.integrations.services.health import ServiceHealth
from opsjobs.model.secret import Secret
from opsjobs.model.units import describe_size
from opsjobs.telemetry import trace_context

ANSWER_BYTES_MAX = 8 << 20
"""A page of 1,000 targets with long descriptions fits in it."""
CONNECTIONS_MAX = 32
ATTEMPTS = 3
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 2.0
TEXT_CHARACTERS_MAX = 200
NOT_TRUSTED = "its certificate is not trusted: name its authority in OPSJOBS_SERVICE_CA_FILE"
RENEWED_SECONDS = 60.0
"""A token younger than that is not suspected where a 401 may concern the token of a user."""
_AGAIN = frozenset({408, 425, 429})
_NO_ENTRY = frozenset({401, 403})


class ServiceRefused(ServiceUnavailable):
    """The service answers, and refuses the request with a 4xx `status`: do not retry."""


class _Temporary(ServiceUnavailable):
    """The service may answer if it is asked again; `pause_seconds` is its Retry-After."""

    def __init__(
        self, why: str, status: int | None = None, *, outcome: str, pause: float | None = None
    ) -> None:
        super().__init__(why, status)
        self.outcome = outcome
        self.pause_seconds = pause


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """The address of a service and the limits of a request."""

    name: str
    """The word in messages and metrics: target, user, auth, notification or audit."""
    url: str
    timeout_seconds: float = 5.0
    """For one attempt; all attempts together have twice as long."""
    correlation_header: str = "X-Correlation-ID"
    ca_file: Path | None = None
    answer_bytes: int = ANSWER_BYTES_MAX


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """A status and the JSON of the body; None without a body."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class _Request:
    """One call, the same in each of its attempts."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None
    params: Mapping[str, str | int] | None
    accept: Collection[int]


def observe_nothing(_outcome: str, _seconds: float) -> None:
    """Do nothing."""


class ServiceClient:
    """The HTTP client of one service.

    `observe` is called with the outcome and the seconds of every attempt; outcomes are ok,
    rejected, timeout, unreachable, error, invalid and circuit_open.
    """

    def __init__(
        self,
        options: ServiceOptions,
        auth: ServiceAuth,
        health: ServiceHealth,
        clock: Clock,
        *,
        observe: Callable[[str, float], None] = observe_nothing,
    ) -> None:
        self.options = options
        self.health = health
        self._auth = auth
        self._clock = clock
        self._observe = observe
        self._client: httpx2.AsyncClient | None = None

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> ServiceAnswer:
        """GET an answer with status 200. Raises ServiceUnavailable, ServiceRefused."""
        request = _Request("GET", path, self._headers(None), None, params, (200,))
        return await self._call(request, idempotent=True)

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        idempotent: bool,
        accept: Collection[int] = (200,),
        correlation_id: str | None = None,
    ) -> ServiceAnswer:
        """POST and return the answer, whose status is one of `accept`.

        `idempotent`: True if a repetition does no harm, so that it may be retried. Raises
        ServiceUnavailable, ServiceRefused.
        """
        request = _Request("POST", path, self._headers(correlation_id), body, None, accept)
        return await self._call(request, idempotent=idempotent)

    async def _call(self, request: _Request, *, idempotent: bool) -> ServiceAnswer:
        tries = stamina.retry_context(
            on=_pause if idempotent else _never,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=PAUSE_SECONDS,
            wait_max=PAUSE_SECONDS_MAX,
            wait_jitter=PAUSE_SECONDS,
        )
        try:
            async with asyncio.timeout(2 * self.options.timeout_seconds):
                async for attempt in tries:
                    with attempt:
                        return await self._attempt(request)
        except TimeoutError:
            raise self._unavailable(
                f"it did not answer within {2 * self.options.timeout_seconds:g} s"
            ) from None
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _headers(self, correlation_id: str | None) -> dict[str, str]:
        context = structlog.contextvars.get_contextvars()
        known = correlation_id or context.get("request_id") or context.get("execution")
        correlation = {self.options.correlation_header.lower(): str(known or uuid4())}
        return {**correlation, **trace_context.headers()}

    async def _attempt(self, request: _Request) -> ServiceAnswer:
        """Make one attempt, and one more with a new token if the service rejects ours."""
        if (seconds := self.health.closed_for()) > 0:
            self._observe("circuit_open", 0.0)
            raise self._unavailable(
                f"it has failed {self.health.failures} times in a row ({self.health.last_error}); "
                f"it is asked again in {seconds:.0f} s"
            )
        began = self._clock.monotonic()
        outcome = "error"
        try:
            answer = await self._exchange(request)
            if answer.status in _NO_ENTRY and self._renew(answer.status in request.accept):
                answer = await self._exchange(request)
            self._check(answer, request.accept)
            outcome = "ok"
        except ServiceRefused as refused:
            outcome = "rejected"
            self._note_refusal(refused)
            raise
        except _Temporary as failure:
            outcome = failure.outcome
            self.health.failed(str(failure))
            raise
        except ServiceUnavailable as failure:
            outcome = "invalid"
            self.health.failed(str(failure))
            raise
        finally:
            self.health.tried()
            self._observe(outcome, self._clock.monotonic() - began)
        self.health.succeeded()
        return answer

    def _renew(self, accepted: bool) -> bool:
        """Return True if the rejection may be due to our token, which was dropped.

        `accepted`: it may as well be the answer to the question, as of a token that is checked.
        """
        return self._auth.renew(older_than=RENEWED_SECONDS if accepted else 0.0)

    def _note_refusal(self, refused: ServiceRefused) -> None:
        """Note a refusal: the service works, unless it refuses our credentials."""
        if refused.status in _NO_ENTRY:
            self.health.refused_us(str(refused))
        else:
            self.health.succeeded()

    async def _exchange(self, request: _Request) -> ServiceAnswer:
        seconds = self.options.timeout_seconds
        try:
            # The client's own timeout is per step: a slow trickle of a response would never end.
            async with asyncio.timeout(seconds):
                return await self._stream(request)
        except (TimeoutError, httpx2.TimeoutException):
            raise self._temporary(
                f"it did not answer within {seconds:g} s", outcome="timeout"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as broken:
            raise self._unreachable(broken) from None

    async def _stream(self, request: _Request) -> ServiceAnswer:
        sent = {**request.headers, **await self._auth.headers()}
        content = json.dumps(request.body).encode() if request.body is not None else None
        if content is not None:
            sent["content-type"] = "application/json"
        async with self._connected().stream(
            request.method,
            self.options.url.rstrip("/") + request.path,
            headers=sent,
            content=content,
            params=dict(request.params) if request.params else None,
        ) as answer:
            raw = bytearray()
            async for portion in answer.aiter_bytes():
                raw += portion
                if len(raw) > self.options.answer_bytes:
                    raise self._unavailable(
                        f"it answers with more than {describe_size(self.options.answer_bytes)}"
                    )
            if 300 <= answer.status_code < 400:
                host = parse_host(answer.headers.get("location")) or "another place"
                raise self._unavailable(
                    f"it answers {answer.status_code} and sends us on to {host}, which is not "
                    "followed: write the final address"
                )
            if answer.status_code >= 500 or answer.status_code in _AGAIN:
                raise self._temporary(
                    f"it answers {answer.status_code}",
                    answer.status_code,
                    outcome="error",
                    pause=parse_retry_after(answer.headers.get("retry-after")),
                )
            return ServiceAnswer(answer.status_code, self._json(answer.status_code, bytes(raw)))

    def _json(self, status: int, raw: bytes) -> Any:
        if not raw.strip():
            return None
        try:
            return parse_json(raw)
        except ValueError:
            if status >= 400:
                return None
            raise self._unavailable(
                f"it answers {status} with something that is not JSON"
            ) from None

    def _check(self, answer: ServiceAnswer, accept: Collection[int]) -> None:
        status = answer.status
        if status in accept:
            return
        if status in _NO_ENTRY:
            name = self.options.name.upper()
            why = (
                f"it answers {status}: it does not accept our credentials. Check "
                f"{name}_SERVICE_AUTH and {name}_SERVICE_SECRET"
            )
        else:
            why = f"it answers {status}{_detail(answer.body)}"
        if 400 <= status < 500:
            raise ServiceRefused(self._prefix(why), status)
        raise ServiceUnavailable(self._prefix(why), status)

    def _connected(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                verify=_trust(self.options.ca_file),
                timeout=self.options.timeout_seconds,
                follow_redirects=False,
                trust_env=False,
                limits=httpx2.Limits(max_connections=CONNECTIONS_MAX),
                headers={"user-agent": USER_AGENT, "accept": "application/json"},
            )
        return self._client

    def _unreachable(self, broken: Exception) -> ServiceUnavailable:
        reason = str(broken)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return self._temporary(
                NOT_TRUSTED,
                outcome="unreachable",
            )
        return self._temporary(
            f"it does not answer ({reason[:TEXT_CHARACTERS_MAX] or type(broken).__name__})",
            outcome="unreachable",
        )

    def _temporary(
        self, why: str, status: int | None = None, *, outcome: str, pause: float | None = None
    ) -> _Temporary:
        return _Temporary(self._prefix(why), status, outcome=outcome, pause=pause)

    def _unavailable(self, why: str) -> ServiceUnavailable:
        return ServiceUnavailable(self._prefix(why))

    def _prefix(self, why: str) -> str:
        return f"the {self.options.name.title()} Service at {self.health.host}: {why}"


async def request_token(
    url: str, client_id: str, secret: Secret, *, seconds: float, ca_file: Path | None = None
) -> Any:
    """Ask a token endpoint for a token of this client; return its JSON.

    `ca_file` verifies its certificate, as those of the services. Raises ServiceUnavailable.
    """
    host = urlsplit(url).hostname or url
    try:
        async with (
            asyncio.timeout(seconds),
            httpx2.AsyncClient(
                verify=_trust(ca_file), timeout=seconds, follow_redirects=False, trust_env=False
            ) as client,
        ):
            answer = await client.post(
                url,
                data={"grant_type": "client_credentials"},
                auth=(client_id, secret.reveal()),
                headers={"user-agent": USER_AGENT, "accept": "application/json"},
            )
            found = answer.json() if answer.status_code == 200 else None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as broken:
        why = str(broken)[:TEXT_CHARACTERS_MAX] or type(broken).__name__
        if "CERTIFICATE_VERIFY_FAILED" in str(broken):
            why = NOT_TRUSTED
        raise ServiceUnavailable(f"the token endpoint at {host} does not answer: {why}") from None
    except (ValueError, RecursionError):
        raise ServiceUnavailable(
            f"the token endpoint at {host} does not answer with JSON"
        ) from None
    if found is None:
        raise ServiceUnavailable(
            f"the token endpoint at {host} answers {answer.status_code}: check "
            "OPSJOBS_SERVICE_CLIENT_ID and the client's secret",
            answer.status_code,
        )
    return found


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)


def _never(_: Exception) -> bool:
    return False


def _pause(failure: Exception) -> bool | float:
    """Return if, or after how many seconds, an attempt is repeated."""
    if not isinstance(failure, _Temporary):
        return False
    return True if failure.pause_seconds is None else min(failure.pause_seconds, PAUSE_SECONDS_MAX)


def _detail(body: Any) -> str:
    """Return the service's own message, short and on one line."""
    found = body if isinstance(body, dict) else {}
    text = next((found[key] for key in ("detail", "message", "error") if key in found), None)
    if not isinstance(text, str):
        return ""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return f" ({line[:TEXT_CHARACTERS_MAX]})" if line else ""
