"""Requests to URLs of callers: webhooks, and allowed values of parameters.

They go only to addresses that are checked after they are resolved, and within limits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import httpx2

from opsjobs.clock import Clock
from opsjobs.integrations.answers import parse_json, parse_retry_after
from opsjobs.integrations.secrets.ttl_cache import TtlCache
from opsjobs.model.addresses import Network, is_allowed
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.parameter import ParameterDraft, Scalar
from opsjobs.model.units import describe_size

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


# --- allowed values of parameters


CHOICES_MAX = 1_000
CHOICES_CONNECTIONS_MAX = 10
KEPT_SECONDS = 30.0
KEPT_MAX = 1_000


class _Unfit(Exception):
    """The URL yields no choices; the message is the reason."""


class Choices:
    """Fetches `choices_url`; `allow` lists networks accepted although not public.

    Requests to a URL are all alike: concurrent callers share one fetch, and its failure.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        allow: Sequence[Network] = (),
        client: Callable[[], httpx2.AsyncClient] | None = None,
    ) -> None:
        self._allow = tuple(allow)
        self._client = client or _client
        self._cached: TtlCache[Sequence[Scalar]] = TtlCache(
            clock, seconds=KEPT_SECONDS, most=KEPT_MAX
        )

    async def fetch_all(self, parameters: Sequence[ParameterDraft]) -> dict[str, Sequence[Scalar]]:
        """Return the choices of each parameter with a URL.

        All fetches together take at most SECONDS_MAX. Raises Invalid if one fails.
        """
        asked = {
            parameter.name: parameter.choices_url
            for parameter in parameters
            if parameter.choices_url is not None
        }
        until = asyncio.get_running_loop().time() + SECONDS_MAX
        room = asyncio.Semaphore(CHOICES_CONNECTIONS_MAX)
        names: dict[str, str] = {}
        for name, url in asked.items():
            names.setdefault(url, name)
        fetched = await asyncio.gather(
            *(self._choices(name, url, until, room) for url, name in names.items()),
            return_exceptions=True,
        )
        found: dict[str, Sequence[Scalar]] = {}
        for url, choices in zip(names, fetched, strict=True):
            if isinstance(choices, BaseException):
                raise choices
            found[url] = choices
        return {name: found[url] for name, url in asked.items()}

    async def _choices(
        self, name: str, url: str, until: float, room: asyncio.Semaphore
    ) -> Sequence[Scalar]:
        try:
            async with asyncio.timeout_at(until), room:
                return await self._cached.get(url, lambda: self._fetch(url))
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            OSError,
            TimeoutError,
            ValueError,
            AddressRefused,
            _Unfit,
        ) as wrong:
            reason = str(wrong) or type(wrong).__name__
            if isinstance(wrong, TimeoutError):
                reason = f"no answer within {SECONDS_MAX:g} s"
            detail = f"the allowed values of {name} are unavailable from {url}: {reason}"
            raise Invalid(
                "no_choices",
                detail,
                errors=[FieldError(f"/parameters/{name}", detail, "no_choices")],
            ) from None

    async def _fetch(self, url: str) -> Sequence[Scalar]:
        # A deadline of its own: the callers who wait for it have begun at different times.
        async with asyncio.timeout(SECONDS_MAX):
            return _read(await self._load(url))

    async def _load(self, url: str) -> bytes:
        parts = urlsplit(url)
        host = str(parts.hostname)
        # Connect to the address that was checked, whatever the name resolves to afterwards; the
        # certificate is still checked against the name.
        address = await resolve_public(
            host, port_of(parts), self._allow, setting="OPSJOBS_CHOICES_ALLOW"
        )
        async with (
            self._client() as client,
            client.stream(
                "GET",
                at_address(parts, address),
                headers={"host": parts.netloc},
                extensions={"sni_hostname": host},
            ) as answer,
        ):
            if answer.status_code != 200:
                raise _Unfit(f"it answers {answer.status_code}")
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > BYTES_MAX:
                    raise _Unfit(f"it answers with more than {describe_size(BYTES_MAX)}")
            return body


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(timeout=SECONDS_MAX, follow_redirects=False, trust_env=False)


def _read(body: bytes) -> Sequence[Scalar]:
    try:
        answer = parse_json(body)
    except ValueError:
        raise _Unfit("it does not answer with JSON") from None
    items = answer if isinstance(answer, list) else []
    values = [item.get("value") if isinstance(item, dict) else item for item in items]
    fit = [value for value in values if isinstance(value, str | int | float | bool)]
    if not fit or len(fit) > CHOICES_MAX or len(fit) != len(values):
        raise _Unfit(f"it does not answer with a list of 1 to {CHOICES_MAX} values")
    return fit


# --- addresses that callers may make opsjobs connect to


class AddressRefused(Exception):
    """The host has no address that may be connected to."""


async def resolve_public(
    host: str,
    port: int,
    allow: Sequence[Network],
    *,
    setting: str,
    executor: Executor | None = None,
) -> str:
    """Return an address of the host, resolved once. Raises AddressRefused.

    All of its addresses must be public or within `allow`, in every form that they embed. The error
    is the same for a name that does not resolve: neither reveals what an internal name resolves to.
    `setting`: the name of the setting that `allow` comes from.
    """
    refused = AddressRefused(
        f"{host} has no public address; list its network in {setting} if it is meant"
    )
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            executor, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
    except (OSError, UnicodeError):
        raise refused from None
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not addresses or not all(is_allowed(address, allow) for address in addresses):
        raise refused
    return addresses[0]


def port_of(parts: SplitResult) -> int:
    """Return the port of a URL."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def at_address(parts: SplitResult, address: str) -> str:
    """Return the URL with the address in place of the host name."""
    shown = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=f"{shown}:{port_of(parts)}").geturl()
