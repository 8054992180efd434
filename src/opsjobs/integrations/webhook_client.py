"""POST messages to URLs of callers: only to checked addresses, and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2

from opsjobs.integrations.answers import parse_retry_after
from opsjobs.integrations.public_address import (
    AddressRefused,
    at_address,
    is_allowed,
    port_of,
    resolve_public,
)
from opsjobs.model.addresses import Network
from opsjobs.model.errors import FieldError, Invalid

SETTING = "OPSJOBS_WEBHOOK_ALLOW"
SECONDS_MAX = 5.0
BYTES_MAX = 64 << 10
CONNECTIONS_MAX = 200
USER_AGENT = "OpsConductor-Client/job-execution"
RETRY_AFTER_SECONDS_MAX = 86_400.0


class NotDelivered(Exception):
    """There was no response; the message is the reason."""


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The response of a receiver."""

    status: int
    text: str
    """The beginning of its body."""
    retry_after_seconds: float | None


class WebhookClient:
    """Sends messages; `allow` lists networks that are accepted although they are not public.

    A name is resolved once, and the connection is made to the address that was checked. No
    connection is kept: another host at the same address must not get it.
    """

    def __init__(self, *, allow: Sequence[Network] = (), seconds: float = SECONDS_MAX) -> None:
        self._allow = tuple(allow)
        self._seconds = seconds
        # Created on first use: it loads all trusted certificates.
        self._client: httpx2.AsyncClient | None = None
        # Threads of its own: a name server that hangs must delay nothing else.
        self._resolvers = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="webhook-dns")

    def check_url(self, url: str) -> None:
        """Raise Invalid if the URL names an address that may not be connected to.

        A name is checked only when a message is sent: what it resolves to may change.
        """
        parts = urlsplit(url)
        try:
            address = str(ip_address((parts.hostname or "").partition("%")[0]))
        except ValueError:
            return
        if not is_allowed(address, self._allow):
            detail = (
                f"{address} is not a public address. Use another one, or list its network in "
                f"{SETTING}."
            )
            raise Invalid(
                "private_address", detail, errors=[FieldError("/url", detail, "private_address")]
            )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> WebhookResponse:
        """POST and return the response, whatever its status. Raises NotDelivered."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(url, body, headers)
        except TimeoutError:
            raise NotDelivered(f"no response within {self._seconds:g} s") from None
        except httpx2.ConnectError as failed:
            where = urlsplit(url).netloc
            raise NotDelivered(f"cannot connect to {where}: {failed}") from None
        except AddressRefused as refused:
            raise NotDelivered(str(refused)) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as failed:
            raise NotDelivered(str(failed) or type(failed).__name__) from None

    async def close(self) -> None:
        """Close everything; do not wait for names that are being resolved."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> WebhookResponse:
        parts = urlsplit(url)
        host = str(parts.hostname)
        address = await resolve_public(
            host, port_of(parts), self._allow, setting=SETTING, executor=self._resolvers
        )
        if parts.scheme != "https" and is_allowed(address, ()):
            raise NotDelivered("a public address needs https: everyone on the way could read it")
        async with self._opened().stream(
            "POST",
            at_address(parts, address),
            content=body,
            headers={**headers, "host": parts.netloc},
            extensions={"sni_hostname": host},
        ) as response:
            pause = parse_retry_after(response.headers.get("retry-after"))
            return WebhookResponse(
                response.status_code,
                await _read_text(response),
                None if pause is None else min(pause, RETRY_AFTER_SECONDS_MAX),
            )

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                timeout=self._seconds,
                follow_redirects=False,
                trust_env=False,
                limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=0),
                headers={"user-agent": USER_AGENT, "accept": "*/*", "accept-encoding": "identity"},
            )
        return self._client


async def _read_text(response: httpx2.Response) -> str:
    """Return up to 64 KiB of the body; what follows is not read."""
    read = bytearray()
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) >= BYTES_MAX:
            break
    return bytes(read[:BYTES_MAX]).decode("utf-8", "replace")
