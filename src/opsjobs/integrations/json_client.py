"""GET requests for JSON: no redirects, no proxies, bounded in time and size."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2

from opsjobs.telemetry import trace_context

SECONDS_MAX = 5.0
BYTES_MAX = 256 << 10
CONNECTIONS_MAX = 20
USER_AGENT = "OpsConductor-Client/job-execution"


class ServiceUnavailable(Exception):
    """The service does not respond, or not as expected; `status` if it is not 200."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


class JsonClient:
    """A client of other services; accepts only responses with status 200 and JSON."""

    def __init__(self, *, seconds: float = SECONDS_MAX) -> None:
        self._seconds = seconds
        # Created on first use: it loads all trusted certificates, and most processes never need it.
        self._client: httpx2.AsyncClient | None = None

    async def get(self, url: str) -> Any:
        """Return the JSON at a URL. Raises ServiceUnavailable."""
        try:
            # The client's own timeout is per step: a slow trickle of a response would never end.
            async with (
                asyncio.timeout(self._seconds),
                self._connected().stream("GET", url, headers=trace_context.headers()) as answer,
            ):
                if answer.status_code != 200:
                    raise ServiceUnavailable(
                        f"{url} answers {answer.status_code}", answer.status_code
                    )
                return json.loads(await _read(answer, url))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as lost:
            raise ServiceUnavailable(
                f"{url} does not answer: {str(lost) or type(lost).__name__}"
            ) from None
        except (ValueError, RecursionError):
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
            raise ServiceUnavailable(f"{url} answers with more than {BYTES_MAX} bytes")
    return bytes(body)
