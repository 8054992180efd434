"""A small OpenID Connect provider over HTTP on loopback, with the checks of a real one.

Its faults can be set.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from kit.token_issuer import jwk, private, signed

CLIENT = "opsjobs-console"
SECRET = "s3cret&of:the+client%"
PEOPLE: dict[str, dict[str, Any]] = {
    "ada": {
        "sub": "f81d-1",
        "preferred_username": "ada.l",
        "name": "Ada Lovelace",
        "email": "ada@example.org",
        "roles": ["admin"],
    },
    "ben": {"sub": "f81d-2", "preferred_username": "ben.b", "roles": ["operator"]},
    "eve": {"sub": "f81d-3", "preferred_username": "eve", "groups": ["staff"]},
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Example IdP</title>
<h1>Example IdP</h1><form action="/authorize">{hidden}
<label>Who are you? <input name="user" autofocus></label><button>Sign in</button></form></html>"""
_BYE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Bye</title><h1>Signed out of Example IdP</h1>
<a href="{back}">Back</a></html>"""


@dataclass
class Provider:
    """The provider; its settings apply from the next request on."""

    url: str = ""
    redirect_uris: set[str] = field(default_factory=set)
    secret: str | None = SECRET
    """None for a public client."""
    people: dict[str, dict[str, Any]] = field(
        default_factory=lambda: json.loads(json.dumps(PEOPLE))
    )
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims of ID tokens to replace; None removes a claim."""
    document: dict[str, Any] = field(default_factory=dict)
    """Fields of the discovery document to replace; None removes a field."""
    forge: Callable[[dict[str, Any]], str] | None = None
    """Creates the ID token in place of the provider's key."""
    error: str | None = None
    """The error of the authorization endpoint, in place of a code."""
    broken: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Paths that only have this response."""
    key: tuple[str, str] = ("rsa", "key-1")
    published: list[tuple[str, str]] = field(default_factory=lambda: [("rsa", "key-1")])
    asked: list[str] = field(default_factory=list)
    authorized: list[dict[str, str]] = field(default_factory=list)
    """The parameters of each request to the authorization endpoint."""
    _codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _signed_in: dict[str, tuple[str, int]] = field(default_factory=dict)

    def rotate(self) -> None:
        """Sign with another key, which is published from now on."""
        self.key = ("other-rsa", f"key-{len(self.published) + 1}")
        self.published = [self.key]

    def discovery(self) -> dict[str, Any]:
        told = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "end_session_endpoint": f"{self.url}/logout",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "authorization_response_iss_parameter_supported": True,
            **self.document,
        }
        return {name: value for name, value in told.items() if value is not None}

    def jwks(self) -> dict[str, Any]:
        return {"keys": [jwk(kind, kid, use="sig") for kind, kid in self.published]}

    def id_token(self, grant: Mapping[str, Any]) -> str:
        at = int(time.time())
        whole = {
            "iss": self.url,
            "aud": grant["client_id"],
            "iat": at,
            "exp": at + 300,
            "typ": "ID",
            "auth_time": grant["auth_time"],
            "nonce": grant.get("nonce"),
            **self.people[grant["user"]],
            **self.claims,
        }
        told = {name: value for name, value in whole.items() if value is not None}
        if self.forge is not None:
            return self.forge(told)
        kind, kid = self.key
        return signed(told, private(kind), "RS256", kid=kid)


class _Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


@contextmanager
def openid_provider(*redirect_uris: str) -> Iterator[Provider]:
    """Run the provider on a free port of 127.0.0.1.

    It has one client, with this redirect URI.
    """
    provider = Provider(redirect_uris=set(redirect_uris))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(provider))
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            provider.asked.append(parts.path)
            if parts.path in provider.broken:
                self._send(*provider.broken[parts.path], "application/json")
                return
            match parts.path:
                case "/.well-known/openid-configuration":
                    self._json(200, provider.discovery())
                case "/keys":
                    self._json(200, provider.jwks())
                case "/authorize":
                    self._authorize(query)
                case "/logout":
                    self._log_out(query)
                case "/favicon.ico":
                    self._send(204, b"", "image/x-icon")
                case _:
                    self._send(404, b"", "text/plain")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[-1] for name, values in parse_qs(body).items()}
            provider.asked.append(self.path)
            if self.path in provider.broken:
                self._send(*provider.broken[self.path], "application/json")
                return
            try:
                self._json(200, self._token(form))
            except _Refused as refused:
                self._json(refused.status, {"error": refused.error})

        def _authorize(self, query: dict[str, str]) -> None:
            provider.authorized.append(query)
            if query.get("client_id") != CLIENT or (
                query.get("redirect_uri") not in provider.redirect_uris
            ):
                self._send(400, b"unknown client or redirect_uri", "text/plain")
                return
            if provider.error is not None:
                self._back(query, {"error": provider.error, "error_description": "<b>no</b>\r\nx"})
                return
            if query.get("response_type") != "code" or query.get("code_challenge_method") != "S256":
                self._back(query, {"error": "invalid_request"})
                return
            cookie = SimpleCookie(self.headers.get("cookie", "")).get("idp")
            known = provider._signed_in.get(cookie.value if cookie else "")
            headers = {}
            if query.get("user") in provider.people:
                known, name = (query["user"], int(time.time())), secrets.token_urlsafe(8)
                provider._signed_in[name] = known
                headers["set-cookie"] = f"idp={name}; HttpOnly; SameSite=Lax"
            elif known is None or query.get("prompt") == "login":
                hidden = "".join(
                    f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
                    for name, value in query.items()
                )
                self._send(200, _PAGE.format(hidden=hidden).encode(), "text/html")
                return
            code = secrets.token_urlsafe(16)
            provider._codes[code] = {**query, "user": known[0], "auth_time": known[1]}
            self._back(query, {"code": code}, headers)

        def _back(
            self, query: dict[str, str], told: dict[str, str], headers: dict[str, str] | None = None
        ) -> None:
            told = {**told, "state": query.get("state", ""), "iss": provider.url}
            location = f"{query['redirect_uri']}?{urlencode(told)}"
            self._send(302, b"", "text/plain", {"location": location, **(headers or {})})

        def _token(self, form: dict[str, str]) -> dict[str, Any]:
            if self.headers.get("authorization", "").startswith("Basic "):
                raw = base64.b64decode(self.headers["authorization"][6:]).decode()
                name, _, secret = raw.partition(":")
                client, given = unquote(name), unquote(secret)
            else:
                client, given = form.get("client_id", ""), form.get("client_secret")
            if client != CLIENT or given != provider.secret:
                raise _Refused(401, "invalid_client")
            # A code is valid once, whoever sends it.
            grant = provider._codes.pop(form.get("code", ""), None)
            if form.get("grant_type") != "authorization_code" or grant is None:
                raise _Refused(400, "invalid_grant")
            if form.get("redirect_uri") != grant["redirect_uri"]:
                raise _Refused(400, "invalid_grant")
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != grant["code_challenge"]:
                raise _Refused(400, "invalid_grant")
            return {
                "access_token": secrets.token_urlsafe(16),
                "token_type": "Bearer",
                "expires_in": 300,
                "id_token": provider.id_token(grant),
            }

        def _log_out(self, query: dict[str, str]) -> None:
            back = query.get("post_logout_redirect_uri", "")
            page = _BYE.format(back=escape(back)).encode()
            self._send(200, page, "text/html", {"set-cookie": "idp=; Max-Age=0"})

        def _json(self, status: int, told: Any) -> None:
            self._send(status, json.dumps(told).encode(), "application/json")

        def _send(
            self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
