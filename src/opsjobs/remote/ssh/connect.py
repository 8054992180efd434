"""Connect to an endpoint: dial, check the host key and log in, each with a deadline.

`run_steps` is the test of a connection (`targets test`): one new connection, each step timed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint, Target
from opsjobs.remote.connection_steps import elapsed_ms, failed_steps, login_steps, try_shell
from opsjobs.remote.dial import Allow, check_literal, dial
from opsjobs.remote.session import (
    Fetch,
    HostKey,
    LoginTimes,
    Output,
    RemoteExit,
    SessionStep,
    refuse_external,
)
from opsjobs.remote.ssh.auth_material import AuthMaterial, AuthMaterials
from opsjobs.remote.ssh.client import LoginClient, SocketTunnel, forget_frames
from opsjobs.remote.ssh.connection import SshConnection, SshOptions
from opsjobs.remote.ssh.error_mapping import ConnectAttempt, login_mask
from opsjobs.remote.ssh.host_keys import KEY_KINDS, HostKeyVerifier, describe

# AES-GCM comes before asyncssh's first choice, ChaCha20: it is as strong, done by the processor,
# and a run costs a third less (measured 0.28 ms against 0.42). The rest is asyncssh's own list, for
# machines with older algorithms. None is in CBC mode, in which an observer of a packet can predict
# the start of the next one (RFC 4251 9.3.1).
CIPHERS = [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
]

Remember = Callable[[str, str], Awaitable[None]]
"""Called with a target's id and a newly accepted host key, after the first good login."""


Observe = Callable[[float], None]
"""Called with the duration in seconds of each successful connect."""


Fail = Callable[[ErrorCode], None]
"""Called with the error code of each failed connect."""


Alarm = Callable[[Target, str], None]
"""Called if a machine shows no valid host key, with the reason: it may be an impostor."""


def ignore_alarm(target: Target, words: str) -> None:
    """Ignore an alarm."""


def ignore_failure(code: ErrorCode) -> None:
    """Ignore a failed connect."""


def ignore_connect_time(seconds: float) -> None:
    """Ignore the connect time."""


def allow_any(address: str) -> None:
    """Allow every address."""


async def forget_host_key(target_id: str, key: str) -> None:
    """Do not store an accepted host key."""


@dataclass(slots=True)
class ConnectTiming:
    """When (monotonic) the phases of one connect ended."""

    started: float = field(default_factory=time.monotonic)
    exchanged: float | None = None
    finished: float | None = None


class Connector:
    """Connects to endpoints; the only state is the cache of parsed keys."""

    def __init__(
        self,
        options: SshOptions | None = None,
        *,
        allow: Allow = allow_any,
        remember: Remember = forget_host_key,
        observe: Observe = ignore_connect_time,
        fail: Fail = ignore_failure,
        fetch: Fetch = refuse_external,
        alarm: Alarm = ignore_alarm,
    ) -> None:
        self.options = options or SshOptions()
        self._observe = observe
        self._fail = fail
        self._allow = allow
        self._remember = remember
        self._alarm = alarm
        self._logins = AuthMaterials(fetch)

    async def connect(
        self,
        endpoint: Endpoint,
        through: SshConnection | None = None,
        timing: ConnectTiming | None = None,
    ) -> SshConnection:
        """Connect to the endpoint's target, through another connection if given.

        The endpoint's jumps are not read. Raises RemoteFailure: DNS, CONNECT_TIMEOUT,
        CONNECTION_REFUSED, CONNECTION_LOST, HOST_KEY, AUTH_FAILED, CREDENTIAL_MISSING,
        SAFETY_BLOCKED (the address policy), INTERNAL (out of file descriptors).
        """
        target = endpoint.target
        verifier = HostKeyVerifier.for_target(target)
        async with self._logins.open(endpoint) as login:
            try:
                connection = await self._handshake(
                    target, login, verifier, through, timing or ConnectTiming()
                )
            except RemoteFailure as failure:
                self._fail(failure.code)
                # The machine received the password and may repeat it in its refusal.
                sent = [login.password] if login.password is not None else []
                words = login_mask(endpoint, *sent).text(failure.message)
                raise RemoteFailure(failure.code, words, because=failure.because) from None
        if verifier.accepted is not None:
            await self._remember_key(target, verifier.accepted, connection)
        return connection

    async def _remember_key(self, target: Target, key: str, connection: SshConnection) -> None:
        try:
            await self._remember(target.id, key)
        except BaseException:
            connection.close()
            raise

    async def _handshake(
        self,
        target: Target,
        login: AuthMaterial,
        verifier: HostKeyVerifier,
        through: SshConnection | None,
        timing: ConnectTiming,
    ) -> SshConnection:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.connect_seconds
        limit = asyncio.timeout_at(deadline)

        def exchanged() -> None:
            timing.exchanged = time.monotonic()
            limit.reschedule(loop.time() + self.options.auth_seconds)

        client = LoginClient(verifier, login, exchanged)
        attempt = ConnectAttempt(
            target, login.username, through.target if through is not None else None, login.terms
        )
        try:
            async with self._dial(target, through, deadline) as route, limit:
                wire = await asyncssh.connect(
                    **route,
                    **_arguments(self.options, login, verifier),
                    client_factory=lambda: client,
                )
        except TimeoutError:
            raise attempt.too_slow(exchanged=timing.exchanged is not None) from None
        except (asyncssh.Error, OSError, ValueError) as error:
            raise self._failed(error, attempt, verifier, client) from None
        timing.finished = time.monotonic()
        self._observe(timing.finished - timing.started)
        login_times = LoginTimes(timing.exchanged or timing.finished, timing.finished)
        client.connection = SshConnection(wire, target, self.options, login_times, login.expires_at)
        return client.connection

    def _failed(
        self,
        error: Exception,
        attempt: ConnectAttempt,
        verifier: HostKeyVerifier,
        client: LoginClient,
    ) -> RemoteFailure:
        failure = attempt.failed(error, verifier, second_factor=client.second_factor)
        forget_frames(error)
        if failure.code is ErrorCode.HOST_KEY:
            self._alarm(attempt.target, failure.message)
        return failure

    @asynccontextmanager
    async def _dial(
        self, target: Target, through: SshConnection | None, deadline: float
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield asyncssh's arguments for the route: a connected socket, or a tunnel.

        The socket is closed if the block fails.
        """
        if through is not None:
            check_literal(target.host, self._allow)
            yield {"host": target.host, "port": target.port, "tunnel": through.wire}
            return
        connected = await dial(target.host, target.port, self._allow, deadline)
        file = _inode(connected)
        try:
            # asyncssh needs host and port itself if the peer has already disconnected and has no
            # address any more.
            yield {"tunnel": SocketTunnel(connected), "host": target.host, "port": target.port}
        except BaseException:
            # After a reset right after the connect, uvloop closes the descriptor without notifying
            # the socket object, and by now the descriptor may belong to another socket: it must not
            # be closed, neither here nor when the socket object is collected.
            if _inode(connected) == file:
                connected.close()
            else:
                connected.detach()
            raise

    async def scan(self, target: Target, through: SshConnection | None = None) -> list[HostKey]:
        """Return the host keys that the target shows, with one connection per kind.

        Raises RemoteFailure as `connect` does.
        """
        found: list[asyncssh.SSHKey] = []
        failure: RemoteFailure | None = None
        for kind in KEY_KINDS:
            try:
                found.append(await self._fetch_host_key(target, through, kind))
            except RemoteFailure as error:
                # A server without a key of this kind reports that, or just disconnects.
                if error.code not in (ErrorCode.HOST_KEY, ErrorCode.CONNECTION_LOST):
                    raise
                failure = error
        if not found and failure is not None:
            raise failure
        return describe(found)

    async def _fetch_host_key(
        self, target: Target, through: SshConnection | None, kind: tuple[str, ...]
    ) -> asyncssh.SSHKey:
        attempt = ConnectAttempt(target, "", through.target if through is not None else None)
        deadline = asyncio.get_running_loop().time() + self.options.connect_seconds
        try:
            async with self._dial(target, through, deadline) as route, asyncio.timeout_at(deadline):
                key = await asyncssh.get_server_host_key(
                    **route, server_host_key_algs=kind, config=None
                )
        except TimeoutError:
            raise attempt.too_slow(exchanged=False) from None
        except (asyncssh.Error, OSError) as error:
            raise attempt.failed(error) from None
        if key is None:
            raise RemoteFailure(ErrorCode.HOST_KEY, f"{target.name} showed no host key.")
        return key


def _inode(connected: socket.socket) -> int | None:
    """Return the inode behind the socket's descriptor, or None if it is closed."""
    try:
        return os.fstat(connected.fileno()).st_ino
    except OSError:
        return None


def _arguments(
    options: SshOptions, login: AuthMaterial, verifier: HostKeyVerifier
) -> dict[str, Any]:
    """Return all options that asyncssh would otherwise read from files, variables or an agent."""
    by_password = login.password is not None
    return {
        "config": None,
        "username": login.username,
        "known_hosts": verifier.known,
        "encryption_algs": CIPHERS,
        "server_host_key_algs": verifier.algorithms,
        "client_keys": None,
        "agent_path": None,
        "agent_forwarding": False,
        "x11_forwarding": False,
        "pkcs11_provider": None,
        "public_key_auth": not by_password,
        "password_auth": by_password,
        # Also for keys, which respond to nothing there: a server that wants a second factor is then
        # distinguished from one that rejects the login.
        "kbdint_auth": True,
        "host_based_auth": False,
        "gss_host": None,
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": None,
        "encoding": None,
        "request_pty": False,
        "login_timeout": 0,
        "connect_timeout": None,
        "keepalive_interval": options.keepalive_seconds,
        "keepalive_count_max": options.keepalive_count,
    }


async def run_steps(
    connector: Connector, endpoint: Endpoint, through: SshConnection | None
) -> tuple[list[SessionStep], RemoteFailure | None]:
    """Return the steps connect (name, TCP, keys), auth, shell, sudo and sftp, and the failure.

    The failure is the reason why there was no login, or None. The test ends with the first failed
    step that sessions need; sudo and sftp are only informative.
    """
    timing = ConnectTiming()
    try:
        connection = await connector.connect(endpoint, through, timing)
    except RemoteFailure as failure:
        return failed_steps(timing.started, timing.exchanged, failure), failure
    finished = timing.finished or time.monotonic()
    steps = login_steps(timing.started, timing.exchanged or finished, finished)
    try:
        return [*steps, *await _inside(connection)], None
    finally:
        connection.close()


async def _inside(connection: SshConnection) -> list[SessionStep]:
    shell = await try_shell(connection.start, exit_code=None)
    steps = [shell]
    if shell.ok and connection.capabilities.become:
        steps.append(await _sudo(connection))
    if shell.ok and connection.capabilities.files:
        steps.append(await _sftp(connection))
    return steps


async def _sudo(connection: SshConnection) -> SessionStep:
    """Test whether commands can become root without a password."""
    started = time.monotonic()
    try:
        process = await connection.start("sudo -n true")
        pieces = [piece async for piece in process]
        good = isinstance(pieces[-1], RemoteExit) and pieces[-1].code == 0
        output = b"".join(piece.data for piece in pieces if isinstance(piece, Output))
    except RemoteFailure as failure:
        good, output = False, failure.message.encode()
    error = (
        None
        if good
        else output[:200].decode(errors="replace").strip()
        or "it ended with an error and said nothing"
    )
    return SessionStep("sudo", good, elapsed_ms(started), error, needed=False)


async def _sftp(connection: SshConnection) -> SessionStep:
    """Test whether files can be transferred."""
    started = time.monotonic()
    try:
        await connection.try_sftp()
    except RemoteFailure as failure:
        return SessionStep("sftp", False, elapsed_ms(started), failure.message, needed=False)
    return SessionStep("sftp", True, elapsed_ms(started), needed=False)
