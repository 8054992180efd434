"""A server that speaks as Vault and OpenBao do: real HTTP on loopback, by what their documentation says of these routes.

AppRole login, tokens with a TTL that are renewed, looked up and revoked, KV version 2 with versions, deletion and destruction,
the SSH engine's signing, namespaces, policies, and the answers of a sealed, a standby and an overloaded node. Its time is
turned by hand.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncssh

Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Role:
    """An AppRole: its secret ids (None: bind_secret_id is false), and the tokens that it issues."""

    secret_ids: set[str] | None
    ttl: int = 1200
    max_ttl: int = 0
    policies: tuple[str, ...] = ("default", "opsjobs")


@dataclass
class Token:
    """A token of the server; with `ttl` 0 it does not expire."""

    namespace: str
    policies: tuple[str, ...]
    made: float
    ttl: int
    max_ttl: int = 0
    renewable: bool = True
    until: float = 0.0


@dataclass
class SshRole:
    """A role of the SSH engine."""

    allowed_users: str = "*"
    max_ttl: int = 3600
    allow_user_key_ids: bool = True
    default_extensions: tuple[str, ...] = ()


@dataclass
class Version:
    """One version of a secret."""

    fields: dict[str, Any]
    created_time: str
    deletion_time: str = ""
    destroyed: bool = False

    def metadata(self, number: int) -> dict[str, Any]:
        """Return the metadata as the server sends it."""
        return {
            "created_time": self.created_time,
            "custom_metadata": None,
            "deletion_time": self.deletion_time,
            "destroyed": self.destroyed,
            "version": number,
        }


@dataclass
class Faults:
    """Faults of the server, for a number of requests or until they are reset."""

    sealed: bool = False
    standby: str | None = None
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    raw: bytes | None = None
    silent: threading.Event | None = None
    echo: bool = False
    """Refuse with an error that repeats the request."""


@dataclass
class VaultKit:
    """The server: its data, the requests that it got, and its faults."""

    url: str = ""
    roles: dict[tuple[str, str], Role] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    kept: dict[tuple[str, str, str], list[Version]] = field(default_factory=dict)
    """Secrets by namespace, mount and path."""
    policies: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"default": (), "opsjobs": ("secret/data/", "ssh/sign/")}
    )
    """Path prefixes that may be read and updated."""
    ssh_roles: dict[str, SshRole] = field(default_factory=dict)
    authority: asyncssh.SSHKey = field(
        default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519")
    )
    faults: Faults = field(default_factory=Faults)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    _turned: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def turn(self, seconds: float) -> None:
        """Advance the clock of the server."""
        self._turned += seconds

    def approle(self, role: Role | None = None, *, namespace: str = "") -> tuple[str, str]:
        """Create an AppRole; return its role id and a secret id."""
        role_id, secret_id = secrets.token_hex(8), secrets.token_hex(8)
        self.roles[namespace, role_id] = role or Role({secret_id})
        return role_id, secret_id

    def token(
        self, *, ttl: int = 0, max_ttl: int = 0, namespace: str = "", renewable: bool = True
    ) -> str:
        """Create a token."""
        value = f"hvs.{secrets.token_urlsafe(16)}"
        policies = ("default", "opsjobs")
        self.tokens[value] = Token(
            namespace, policies, self._turned, ttl, max_ttl, renewable, self._turned + ttl
        )
        return value

    def put(
        self, path: str, fields: Mapping[str, Any], *, mount: str = "secret", namespace: str = ""
    ) -> int:
        """Write the next version of a secret; return its number."""
        versions = self.kept.setdefault((namespace, mount, path), [])
        versions.append(Version(dict(fields), self._moment()))
        return len(versions)

    def delete(self, path: str, *, mount: str = "secret") -> None:
        """Delete the newest version, which can be undone."""
        self.kept["", mount, path][-1].deletion_time = self._moment()

    def destroy(self, path: str, *, mount: str = "secret") -> None:
        """Destroy the newest version, which cannot be undone."""
        newest = self.kept["", mount, path][-1]
        newest.fields, newest.destroyed = {}, True

    def count(self, path: str) -> int:
        """Return the number of requests for this path."""
        return sum(asked == path for _, asked in self.asked)

    @property
    def authority_line(self) -> str:
        """The CA's public key, for TrustedUserCAKeys."""
        return self.authority.export_public_key().decode().strip()

    def _moment(self) -> str:
        return (
            (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._turned))
            .isoformat()
            .replace("+00:00", "Z")
        )

    # --- answering

    def answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        """Return the response to a request."""
        parts = urlsplit(target)
        path = unquote(parts.path).removeprefix("/v1/")
        with self._lock:
            self.asked.append((method, path))
            self.headers.append(headers)
            if (fault := self._faulty(path, headers, raw)) is not None:
                return fault
            body = json.loads(raw) if raw else {}
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            return self._route(method, path, headers, body, query)

    def _faulty(self, path: str, headers: Mapping[str, str], raw: bytes) -> Answer | None:
        faults = self.faults
        if faults.sealed:
            return _error(503, "Vault is sealed")
        if faults.standby is not None:
            return 307, None, {"Location": f"{faults.standby}/v1/{path}"}
        if faults.echo:
            return _error(400, f"bad request: {headers.get('x-vault-token')} {raw.decode()}")
        if faults.statuses:
            more = {"Retry-After": faults.retry_after} if faults.retry_after is not None else {}
            return *_error(faults.statuses.pop(0), "something broke")[:2], more
        return None

    def _route(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Any,
        query: Mapping[str, str],
    ) -> Answer:
        namespace = headers.get("x-vault-namespace", "").strip("/")
        if method == "POST" and path.startswith("auth/") and path.endswith("/login"):
            return self._login(namespace, path, body)
        token = self._known(headers.get("x-vault-token"))
        if token is None or not f"{namespace}/".startswith(
            f"{token.namespace}/" if token.namespace else ""
        ):
            return _error(403, "permission denied")
        match method, path:
            case "GET", "auth/token/lookup-self":
                ttl = int(token.until - self._turned) if token.ttl else 0
                return _ok(
                    {
                        "data": {
                            "ttl": ttl,
                            "renewable": token.renewable and bool(token.ttl),
                            "policies": token.policies,
                        }
                    }
                )
            case "POST" | "PUT", "auth/token/renew-self":
                return self._renew(headers["x-vault-token"], token)
            case "POST" | "PUT", "auth/token/revoke-self":
                del self.tokens[headers["x-vault-token"]]
                return 204, None, {}
        if not any(
            path.startswith(allowed)
            for policy in token.policies
            for allowed in self.policies.get(policy, ())
        ):
            return _error(403, "1 error occurred:\n\t* permission denied\n\n")
        return self._engine(method, path, namespace, body, query)

    def _engine(
        self, method: str, path: str, namespace: str, body: Any, query: Mapping[str, str]
    ) -> Answer:
        mount, slash, rest = path.partition("/data/")
        if slash and method == "GET":
            return self._read(self.kept.get((namespace, mount, rest), []), query)
        mount, slash, role = path.partition("/sign/")
        if slash and method in ("POST", "PUT") and mount == "ssh":
            return self._sign(role, body)
        return _error(404)

    def _login(self, namespace: str, path: str, body: Any) -> Answer:
        role = self.roles.get((namespace, body.get("role_id", "")))
        good = role is not None and (
            role.secret_ids is None or body.get("secret_id") in role.secret_ids
        )
        if path != "auth/approle/login" or role is None or not good:
            return _error(400, "invalid role or secret ID")
        value = f"hvs.{secrets.token_urlsafe(16)}"
        self.tokens[value] = Token(
            namespace,
            role.policies,
            self._turned,
            role.ttl,
            role.max_ttl,
            True,
            self._turned + role.ttl,
        )
        return _ok({"auth": self._auth(value, role.ttl)})

    def _renew(self, value: str, token: Token) -> Answer:
        if not token.renewable or not token.ttl:
            return _error(400, "lease is not renewable")
        end = token.made + token.max_ttl if token.max_ttl else float("inf")
        token.until = min(self._turned + token.ttl, end)
        return _ok({"auth": self._auth(value, int(token.until - self._turned))})

    def _auth(self, value: str, lease: int) -> dict[str, Any]:
        token = self.tokens[value]
        return {
            "client_token": value,
            "accessor": "accessor",
            "policies": token.policies,
            "token_policies": token.policies,
            "lease_duration": lease,
            "renewable": token.renewable,
        }

    def _known(self, value: str | None) -> Token | None:
        token = self.tokens.get(value or "")
        if token is not None and token.ttl and self._turned >= token.until:
            return None
        return token

    def _read(self, versions: list[Version], query: Mapping[str, str]) -> Answer:
        number = int(query.get("version", 0)) or len(versions)
        if not 0 < number <= len(versions):
            return _error(404)
        version = versions[number - 1]
        told = {"data": {"data": version.fields, "metadata": version.metadata(number)}}
        if version.deletion_time or version.destroyed:
            told["data"]["data"] = None  # type: ignore[assignment]
            return 404, told, {}
        return _ok(told)

    def _sign(self, name: str, body: Mapping[str, Any]) -> Answer:
        role = self.ssh_roles.get(name)
        if role is None:
            return _error(400, f'unknown role "{name}"')
        wanted = [user for user in body.get("valid_principals", "").split(",") if user]
        allowed = role.allowed_users.split(",")
        if bad := [user for user in wanted if role.allowed_users != "*" and user not in allowed]:
            return _error(400, f"{bad[0]} is not a valid value for valid_principals")
        if body.get("key_id") and not role.allow_user_key_ids:
            return _error(400, "setting key_id is not allowed by role")
        seconds = int(str(body.get("ttl", "3600")).removesuffix("s"))
        if seconds > role.max_ttl:
            return _error(400, f"ttl is larger than maximum allowed {role.max_ttl}")
        serial, key = secrets.randbits(64), asyncssh.import_public_key(body["public_key"])
        certificate = self.authority.generate_user_certificate(
            key,
            body.get("key_id") or "vault-approle",
            serial=serial,
            principals=wanted,
            valid_after="-30s",
            valid_before=f"+{seconds}s",
            permit_x11_forwarding="permit-X11-forwarding" in role.default_extensions,
            permit_agent_forwarding="permit-agent-forwarding" in role.default_extensions,
            permit_port_forwarding="permit-port-forwarding" in role.default_extensions,
            permit_pty="permit-pty" in role.default_extensions,
            permit_user_rc="permit-user-rc" in role.default_extensions,
        )
        return _ok(
            {
                "data": {
                    "serial_number": f"{serial:x}",
                    "signed_key": certificate.export_certificate().decode(),
                }
            }
        )


def _ok(more: dict[str, Any]) -> Answer:
    return (
        200,
        {
            "request_id": "r",
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "warnings": None,
            **more,
        },
        {},
    )


def _error(status: int, *errors: str) -> Answer:
    return status, {"errors": list(errors)}, {}


@contextmanager
def vault_kit(certificate: tuple[Path, Path] | None = None) -> Iterator[VaultKit]:
    """Run a server on a free port of loopback until the block ends.

    `certificate` (chain, key) makes it https.
    """
    kit = VaultKit()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kit))
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scheme = "https" if certificate is not None else "http"
    kit.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    try:
        yield kit
    finally:
        if kit.faults.silent is not None:
            kit.faults.silent.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(kit: VaultKit) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            if kit.faults.silent is not None:
                kit.faults.silent.wait(60)
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body, more = kit.answer(self.command, self.path, headers, raw)
            content = (
                kit.faults.raw
                if kit.faults.raw is not None
                else b""
                if body is None
                else json.dumps(body).encode()
            )
            self.send_response(status)
            for name, value in {
                **more,
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  the library's names

        def handle(self) -> None:
            # A client that gives up, or refuses the certificate, must not disturb the test's
            # output.
            try:
                super().handle()
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler
