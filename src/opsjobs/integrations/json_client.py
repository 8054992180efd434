"""Requests for JSON: no redirects, no proxies, bounded in time and size."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import httpx2

from opsjobs.integrations.answers import parse_json
from opsjobs.model.units import describe_size
from opsjobs.telemetry import trace_context

SECONDS_MAX = 5.0
BYTES_MAX = 256 << 10
CONNECTIONS_MAX = 20
USER_AGENT = "OpsConductor-Client/job-execution"


class ServiceUnavailable(Exception):
    """The service does not respond, or not as expected; `status` if that is unexpected."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


class JsonClient:
    """A client of other services; accepts only responses with an expected status and JSON."""

    def __init__(self, *, seconds: float = SECONDS_MAX) -> None:
        self._seconds = seconds
        # Created on first use: it loads all trusted certificates, and most processes never need it.
        self._client: httpx2.AsyncClient | None = None

    async def get(self, url: str) -> Any:
        """Return the JSON at a URL. Raises ServiceUnavailable."""
        _, found = await self._ask("GET", url, accept=(200,))
        return found

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        basic: tuple[str, str] | None = None,
        accept: Collection[int] = (200,),
    ) -> tuple[int, Any]:
        """Post a form; return the status, one of `accept`, and the JSON.

        `basic`: name and password of HTTP Basic. Raises ServiceUnavailable.
        """
        options: dict[str, Any] = {"data": dict(form)}
        if basic is not None:
            options["auth"] = basic
        return await self._ask("POST", url, accept=accept, **options)

    async def _ask(
        self, method: str, url: str, *, accept: Collection[int], **options: Any
    ) -> tuple[int, Any]:
        headers = trace_context.headers()
        try:
            # The client's own timeout is per step: a slow trickle of a response would never end.
            async with (
                asyncio.timeout(self._seconds),
                self._connected().stream(method, url, headers=headers, **options) as answer,
            ):
                if answer.status_code not in accept:
                    raise ServiceUnavailable(
                        f"{url} answers {answer.status_code}", answer.status_code
                    )
                return answer.status_code, parse_json(await _read(answer, url))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as lost:
            raise ServiceUnavailable(
                f"{url} does not answer: {str(lost) or type(lost).__name__}"
            ) from None
        except ValueError:
            raise ServiceUnavailable(f"{url} does not answer with JSON") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _connected(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                timeout=self._seconds,
                follow_redirects=False,
                trust_env=False,
                limits=httpx2.Limits(max_connections=CONNECTIONS_MAX),
                headers={"user-agent": USER_AGENT, "accept": "application/json"},
            )
        return self._client


async def _read(answer: httpx2.Response, url: str) -> bytes:
    body = bytearray()
    async for portion in answer.aiter_bytes():
        body += portion
        if len(body) > BYTES_MAX:
            raise ServiceUnavailable(f"{url} answers with more than {describe_size(BYTES_MAX)}")
    return bytes(body)
