"""Allowed values of parameters from a URL: cached, limited, from public addresses only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from opsjobs.clock import Clock
from opsjobs.integrations.answers import parse_json
from opsjobs.integrations.public_address import (
    AddressRefused,
    at_address,
    port_of,
    resolve_public,
)
from opsjobs.model.addresses import Network
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.parameter import ParameterDraft, Scalar

SECONDS_MAX = 5.0
BYTES_MAX = 64 << 10
CHOICES_MAX = 1_000
CONNECTIONS_MAX = 10
KEPT_SECONDS = 30.0
KEPT_MAX = 1_000


class _Unfit(Exception):
    """The URL yields no choices; the message is the reason."""


@dataclass(frozen=True, slots=True)
class _CachedChoices:
    choices: Sequence[Scalar]
    until: float


class Choices:
    """Fetches `choices_url`; `allow` lists networks accepted although not public."""

    def __init__(
        self,
        clock: Clock,
        *,
        allow: Sequence[Network] = (),
        client: Callable[[], httpx2.AsyncClient] | None = None,
    ) -> None:
        self._clock = clock
        self._allow = tuple(allow)
        self._client = client or _client
        self._kept: dict[str, _CachedChoices] = {}

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
        room = asyncio.Semaphore(CONNECTIONS_MAX)
        names = {url: name for name, url in reversed(asked.items())}
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
        kept, now = self._kept.get(url), self._clock.monotonic()
        if kept is not None and now < kept.until:
            return kept.choices
        try:
            async with asyncio.timeout_at(until), room:
                choices = _read(await self._fetched(url))
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
            detail = f"the allowed values of {name} cannot be had from {url}: {reason}"
            raise Invalid(
                "no_choices",
                detail,
                errors=[FieldError(f"/parameters/{name}", detail, "no_choices")],
            ) from None
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[url] = _CachedChoices(choices, now + KEPT_SECONDS)
        return choices

    async def _fetched(self, url: str) -> bytes:
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
                    raise _Unfit(f"it answers with more than {BYTES_MAX} bytes")
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
