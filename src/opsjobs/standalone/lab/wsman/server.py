"""The HTTP server of the stand-in: connections, each with its login and encryption."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import re
import shlex
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import h11
import spnego
import spnego.channel_bindings
import spnego.exceptions
from spnego._ntlm_raw.crypto import ntowfv1

from opsjobs.remote.winrm.http_head import read_head
from opsjobs.remote.winrm.login import digest_certificate
from opsjobs.remote.winrm.sealing import (
    CREDSSP,
    KERBEROS,
    SPNEGO,
    SealingError,
    is_sealed,
    seal,
    unseal,
)
from opsjobs.standalone.lab.wsman import envelopes
from opsjobs.standalone.lab.wsman.envelopes import LabRequest, WsmanRefusal
from opsjobs.standalone.lab.wsman.service import LabQuotas, LabService
from opsjobs.standalone.lab.wsman.stand_in_command import make_command

SOAP = "application/soap+xml;charset=UTF-8"
IDLE_SECONDS = 120.0
REQUEST_SECONDS = 60.0
"""Time limit of a request, from its first byte to its last."""
READ_BYTES = 64 * 1024
BODY_BYTES_MAX = 4 << 20
_REQUEST = re.compile(r"[A-Z]+ [!-~]+ HTTP/1\.1")
_EXIT_CODE = re.compile(rb"<rsp:ExitCode>[^<]*</rsp:ExitCode>")


@dataclass(slots=True)
class LabFaults:
    """Faults to play, for tests: each name is the last part of an action, such as Receive."""

    close_before: dict[str, int] = field(default_factory=dict)
    """So many requests are not performed: the connection is closed instead."""
    close_after: dict[str, int] = field(default_factory=dict)
    """So many requests are performed, and the connection is closed instead of the response."""
    fault_before: dict[str, int] = field(default_factory=dict)
    """The next request is not performed, but refused with the fault of this code."""
    fault_after: dict[str, int] = field(default_factory=dict)
    """The next request is performed, and answered with the fault of this code."""
    empty_after: dict[str, int] = field(default_factory=dict)
    """So many requests are performed, and answered with HTTP 400 and nothing else."""
    hold_seconds: dict[str, float] = field(default_factory=dict)
    """The next request is performed only after this time."""
    hide_exit_codes: bool = False
    """The end of a command is reported without its exit code."""
    forget_encryption: int = 0
    """So many encrypted requests are answered with HTTP 400."""
    latency_seconds: float = 0.0

    def strikes(self, which: dict[str, int], action: str) -> bool:
        """Return True if this fault is due for the action, and count it."""
        name = action.rpartition("/")[2]
        if which.get(name, 0) > 0:
            which[name] -= 1
            return True
        return False

    def refuse(self, which: dict[str, int], action: str) -> None:
        """Raise the fault that is due for the action, once. Raises WsmanRefusal."""
        code = which.pop(action.rpartition("/")[2], None)
        if code is not None:
            raise WsmanRefusal(code, f"The stand-in was told to answer with fault {code}.")

    async def hold(self, action: str) -> None:
        """Wait if this fault is due for the action, once."""
        await asyncio.sleep(self.hold_seconds.pop(action.rpartition("/")[2], 0.0))


@dataclass(frozen=True, slots=True)
class LabLogins:
    """The accepted logins: passwords by user name, and client certificates by common name."""

    passwords: Mapping[str, str]
    certificates: Mapping[str, str] = field(default_factory=dict)
    schemes: tuple[str, ...] = ("Negotiate", "CredSSP", "Basic")


def publish_logins(logins: LabLogins, path: Path) -> None:
    """Write the file in which pyspnego's NTLM acceptor finds the logins of this process.

    It takes it from a variable of the process and from nowhere else.
    """
    lines = [
        f"{name}:0:{'0' * 32}:{ntowfv1(password).hex()}:[U]:LCT-0\n"
        for name, password in logins.passwords.items()
    ]
    path.touch(mode=0o600)
    path.write_text("".join(lines))
    os.environ["NTLM_USER_FILE"] = str(path)


class WsmanServer:
    """One stand-in host, listening on 127.0.0.1."""

    def __init__(
        self,
        logins: LabLogins,
        folder: Path,
        *,
        tls: ssl.SSLContext | None = None,
        certificate: bytes | None = None,
        quotas: LabQuotas | None = None,
    ) -> None:
        self.faults = LabFaults()
        self.logins = logins
        self.attempts: list[str] = []
        """The logins that were tried: "ada refused", "ada accepted"."""
        self.connections = 0
        self._folder = folder
        self._tls = tls
        self._certificate = certificate
        self._quotas = quotas or LabQuotas()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.idle: set[asyncio.StreamWriter] = set()
        """The connections without a request."""
        self.port = 0
        self.service: LabService

    async def start(self, listener: socket.socket | None = None) -> None:
        """Listen, on a free port if no listening socket is given. Raises OSError."""
        if listener is None:
            listener = socket.create_server(("127.0.0.1", 0))
        self._server = await asyncio.start_server(
            self._accept, sock=listener, ssl=self._tls, limit=1 << 20
        )
        self.port = self._server.sockets[0].getsockname()[1]
        scheme = "http" if self._tls is None else "https"
        url = f"{scheme}://127.0.0.1:{self.port}/wsman"
        home = self._folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        self.service = LabService(url, home, _make_programs(self._folder), self._quotas)

    async def stop(self) -> None:
        """Close the port and all connections, and end all commands; no task is left."""
        if self._server is not None:
            self._server.close()
        self.close_connections()
        await self.service.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def close_connections(self) -> None:
        """Close all connections at once; shells and commands go on."""
        for writer in [*self._writers]:
            writer.transport.abort()

    def close_idle_connections(self) -> None:
        """Close the connections without a request, as after two minutes."""
        for writer in [*self.idle]:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            await _Guest(self, reader, writer, self._certificate).serve()
        except (OSError, h11.ProtocolError, TimeoutError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


def _make_programs(folder: Path) -> Path:
    """Return a folder with the programs that commands expect of Windows."""
    programs = folder / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("powershell", "powershell.exe", "cmd", "cmd.exe"):
        file = programs / name
        command = make_command("powershell_stand_in", name.partition(".")[0])
        file.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        file.chmod(0o755)
    return programs


@dataclass(slots=True)
class _Http:
    """One request over HTTP; `is_last`: the client ends the connection after it."""

    headers: dict[str, str]
    body: bytes
    is_last: bool = False


class _Guest:
    """One connection: its login, its encryption and its requests."""

    def __init__(
        self,
        server: WsmanServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        certificate: bytes | None,
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._certificate = certificate
        self._rest = b""
        """The beginning of the next request."""
        self._context: Any = None
        self._scheme = ""
        self._user: str | None = None

    async def serve(self) -> None:
        """Answer requests until the client closes, or is idle for too long."""
        while (request := await self._next_request()) is not None:
            if self._server.faults.latency_seconds:
                await asyncio.sleep(self._server.faults.latency_seconds)
            if not await self._answer(request) or request.is_last:
                return

    async def _next_request(self) -> _Http | None:
        self._server.idle.add(self._writer)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                data = self._rest or await self._reader.read(READ_BYTES)
        finally:
            self._server.idle.discard(self._writer)
        async with asyncio.timeout(REQUEST_SECONDS):
            return await self._read_request(data)

    async def _read_request(self, data: bytes) -> _Http | None:
        """Return the request that begins with this."""
        head = read_head(data)
        if head is None or _REQUEST.fullmatch(head.line) is None:
            return await self._next_by_h11(data)
        if head.end - head.begin > BODY_BYTES_MAX:
            return None
        if len(data) < head.end:
            data += await self._reader.readexactly(head.end - len(data))
        self._rest = data[head.end :]
        return _Http(dict(head.fields), data[head.begin : head.end])

    async def _next_by_h11(self, data: bytes) -> _Http | None:
        """Return a request of any form that HTTP allows, such as one in chunks."""
        protocol = h11.Connection(h11.SERVER)
        protocol.receive_data(data)
        event = await self._event(protocol)
        if not isinstance(event, h11.Request):
            return None
        body = bytearray()
        while not isinstance(part := await self._event(protocol), h11.EndOfMessage):
            if isinstance(part, h11.Data):
                body += part.data
            if len(body) > BODY_BYTES_MAX or not isinstance(part, h11.Data):
                return None
        self._rest = protocol.trailing_data[0]
        headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        return _Http(headers, bytes(body), protocol.their_state is h11.MUST_CLOSE)

    async def _event(self, protocol: h11.Connection) -> Any:
        while (event := protocol.next_event()) is h11.NEED_DATA:
            protocol.receive_data(await self._reader.read(READ_BYTES))
        return event

    async def _answer(self, request: _Http) -> bool:
        """Answer one request; return False if the connection is to be closed."""
        token = None
        if "authorization" in request.headers:
            try:
                token = self._log_in(request.headers["authorization"])
            except _Refused:
                return await self._respond(401, self._challenge(None))
        if self._user is None:
            return await self._respond(401, self._challenge(token))
        headers = self._challenge(token) if token is not None else {}
        if not request.body:
            return await self._respond(200, headers)
        return await self._manage(request, headers)

    def _challenge(self, token: bytes | None) -> dict[str, str]:
        if token is not None:
            return {"WWW-Authenticate": f"{self._scheme} {base64.b64encode(token).decode()}"}
        return {"WWW-Authenticate": ",".join(self._server.logins.schemes)}

    # --- login

    def _log_in(self, header: str) -> bytes | None:
        """Take one step of a login; return the token for the client. Raises _Refused."""
        scheme, _, data = header.partition(" ")
        if scheme.endswith("/https/mutual"):
            self._by_certificate()
            return None
        if scheme not in self._server.logins.schemes:
            raise _Refused
        try:
            given = base64.b64decode(data, validate=True)
        except binascii.Error:
            raise _Refused from None
        if scheme == "Basic":
            self._by_password(given)
            return None
        if self._user is not None or self._context is None:
            self._user, self._scheme = None, scheme
            self._context = self._acceptor(given)
        try:
            token: bytes | None = self._context.step(given)
        except (spnego.exceptions.SpnegoError, ValueError, AttributeError):
            # AttributeError: pyspnego asks a context for its flags that Kerberos has refused.
            self._refuse(scheme)
        if self._context.complete:
            self._user = self._context.client_principal or "someone"
            self._server.attempts.append(f"{self._user} accepted")
        return token

    def _acceptor(self, first: bytes) -> Any:
        bindings = None
        if self._certificate is not None and self._scheme != "CredSSP":
            bindings = spnego.channel_bindings.GssChannelBindings(
                application_data=b"tls-server-end-point:" + digest_certificate(self._certificate)
            )
        protocol = "credssp" if self._scheme == "CredSSP" else "negotiate"
        if first.startswith(b"NTLMSSP\0"):
            protocol = "ntlm"
        return spnego.server(protocol=protocol, channel_bindings=bindings)

    def _by_password(self, given: bytes) -> None:
        user, _, password = given.decode(errors="replace").partition(":")
        if self._server.logins.passwords.get(user) != password:
            self._refuse(user)
        self._user = user
        self._server.attempts.append(f"{user} accepted")

    def _by_certificate(self) -> None:
        peer = self._writer.get_extra_info("peercert") or {}
        names = {value for part in peer.get("subject", ()) for key, value in part}
        for name, user in self._server.logins.certificates.items():
            if name in names:
                self._user = user
                self._server.attempts.append(f"{user} accepted")
                return
        self._refuse("certificate")

    def _refuse(self, who: str) -> None:
        self._context = None
        self._server.attempts.append(f"{who} refused")
        raise _Refused

    # --- requests

    async def _manage(self, http: _Http, headers: dict[str, str]) -> bool:
        """Perform a request, encrypted or over TLS, and send the response."""
        faults = self._server.faults
        data = http.body
        sealed = is_sealed(http.headers.get("content-type", ""))
        if sealed:
            try:
                if faults.forget_encryption > 0:
                    faults.forget_encryption -= 1
                    raise SealingError("forgotten")  # noqa: TRY301  as if it could not be read
                data = unseal(self._context, data)
            except (SealingError, spnego.exceptions.SpnegoError, AttributeError):
                return await self._respond(400, {})
        elif self._certificate is None and self._scheme:
            return await self._respond(400, {})
        status, request = 200, None
        try:
            request = envelopes.read_request(data)
            self._server.service.check_size(len(data))
            if faults.strikes(faults.close_before, request.action):
                return False
            body = await self._perform(request)
            if body is None or faults.strikes(faults.close_after, request.action):
                return False
            if faults.strikes(faults.empty_after, request.action):
                return await self._respond(400, {})
        except WsmanRefusal as refusal:
            status, body = 500, envelopes.respond_fault(request, refusal)
        content_type = SOAP
        if sealed:
            protocol = {"CredSSP": CREDSSP, "Kerberos": KERBEROS}.get(self._scheme, SPNEGO)
            content_type, body = seal(self._context, protocol, body)
        return await self._respond(status, {**headers, "Content-Type": content_type}, body)

    async def _perform(self, request: LabRequest) -> bytes | None:
        assert self._user is not None, "it is logged in"
        faults = self._server.faults
        faults.refuse(faults.fault_before, request.action)
        await faults.hold(request.action)
        body = await self._server.service.perform(request, self._user, self._reader.at_eof)
        faults.refuse(faults.fault_after, request.action)
        if body is not None and faults.hide_exit_codes:
            return _EXIT_CODE.sub(b"", body)
        return body

    async def _respond(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> bool:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Server: Microsoft-HTTPAPI/2.0"]
        for name, value in headers.items():
            several = name == "WWW-Authenticate" and "," in value and " " not in value
            lines += [f"{name}: {one}" for one in (value.split(",") if several else (value,))]
        lines += [f"Content-Length: {len(body)}", "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        return not self._writer.is_closing()


class _Refused(Exception):
    """A login that is not accepted."""
