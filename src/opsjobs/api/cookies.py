"""The cookies of a browser, and refusal of requests by other sites."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import Scope

from opsjobs.api.connections import Network
from opsjobs.model.errors import Forbidden
from opsjobs.store.identities.cookie_sessions import COOKIE_PREFIX
from opsjobs.store.identities.provider import LOGIN_COOKIE_PREFIX

SECURE_PREFIX = "__Host-"
"""Over https. A browser accepts such a name only from this host, by https, for all paths."""
READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class CookieKind:
    """A cookie by its name over http, the beginning of its values, and whose requests have it."""

    name: str
    prefix: str
    same_site: Literal["strict", "lax"]

    def full_name(self, *, secure: bool) -> str:
        """Return its name over https (`secure`) or http."""
        return f"{SECURE_PREFIX}{self.name}" if secure else self.name


SESSION = CookieKind("opsjobs", COOKIE_PREFIX, "strict")
LOGIN = CookieKind("opsjobs-login", LOGIN_COOKIE_PREFIX, "lax")
"""Binds a login at the OpenID Connect provider to the browser that began it."""


class CookiePolicy:
    """The cookies of each request.

    `trusted`: the proxies whose X-Forwarded-Proto is accepted. `plain_http`: accept cookies over
    http from other machines, too; production does not.
    """

    def __init__(self, trusted: Sequence[Network] = (), *, plain_http: bool = True) -> None:
        self._trusted = tuple(trusted)
        self._plain_http = plain_http

    def read(self, scope: Scope, kind: CookieKind = SESSION) -> str | None:
        """Return the cookie that the request may use; None if it has none."""
        secure = self._is_https(scope)
        if not secure and not self._may_be_plain(scope):
            return None
        sent = cookie_parser(Headers(scope=scope).get("cookie", ""))
        value = sent.get(kind.full_name(secure=secure), "")
        return value if value.startswith(kind.prefix) else None

    def set(
        self,
        response: Response,
        scope: Scope,
        value: str,
        *,
        max_age_seconds: float,
        kind: CookieKind = SESSION,
    ) -> None:
        """Add the cookie to the response. Raises Forbidden if the request came by plain http."""
        self.check(scope)
        self._write(response, scope, value, int(max_age_seconds), kind)

    def clear(self, response: Response, scope: Scope, kind: CookieKind = SESSION) -> None:
        """Have the browser delete its cookie."""
        self._write(response, scope, "", 0, kind)

    def check(self, scope: Scope) -> None:
        """Raise Forbidden if a login at this address would send the cookie in plain text."""
        if not self._is_https(scope) and not self._may_be_plain(scope):
            raise Forbidden(
                "https_required",
                "This request came over plain http, and ENVIRONMENT is production: a session needs "
                "https. Behind a proxy, set OPSJOBS_TRUSTED_PROXIES to its address, and have it "
                "send X-Forwarded-Proto.",
            )

    def _write(
        self, response: Response, scope: Scope, value: str, max_age: int, kind: CookieKind
    ) -> None:
        secure = self._is_https(scope)
        response.set_cookie(
            kind.full_name(secure=secure),
            value,
            max_age=max_age,
            path="/",
            secure=secure,
            httponly=True,
            samesite=kind.same_site,
        )

    def _may_be_plain(self, scope: Scope) -> bool:
        return self._plain_http or _is_of_this_machine(Headers(scope=scope))

    def _is_https(self, scope: Scope) -> bool:
        if scope.get("scheme") == "https":
            return True
        client = scope.get("client")
        if client is None or not self._is_trusted(client[0]):
            return False
        # The last one was written by the trusted proxy itself.
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-proto")).split(",")
        return forwarded[-1].strip().lower() == "https"

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(
            address in network for network in self._trusted if network.version == address.version
        )


def check_same_origin(scope: Scope, *, has_cookie: bool) -> None:
    """Raise Forbidden for a request that a page of another site may have caused.

    Browsers send Sec-Fetch-Site; without it (plain http) the Origin has to be ours. A read may also
    be typed into the address bar, and may lack both headers. `has_cookie`: the request has the
    cookie, so a write that lacks both is refused.
    """
    headers, reading = Headers(scope=scope), scope["method"] in READING
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        ours = site == "same-origin" or (reading and site == "none")
    elif origin is not None:
        ours = _host_of(origin) == headers.get("host", "").lower() != ""
    else:
        ours = reading or not has_cookie
    if not ours:
        raise Forbidden(
            "cross_site",
            "The request has a session's cookie and does not come from a page of opsjobs. "
            "Programs send `Authorization: Bearer …` instead of a cookie.",
        )


def _host_of(origin: str) -> str | None:
    """Return the host and port of an Origin; None if it is not one."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_of_this_machine(headers: Headers) -> bool:
    """Return True if the browser's address is loopback, as far as the headers tell.

    A proxy may replace the host by its upstream's: so no header of a proxy, and no other origin.
    """
    if any(name == "forwarded" or name.startswith("x-forwarded-") for name in headers):
        return False
    origin = headers.get("origin")
    return _is_loopback(headers.get("host", "")) and (
        origin is None or _is_loopback(origin.partition("://")[2])
    )


def _is_loopback(host: str) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
