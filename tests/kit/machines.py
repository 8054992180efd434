"""Endpoints, and machines of every transport, for tests that open sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncssh

from kit.sshd import Sshd
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint, HostKeyPolicy, Target, Transport
from opsjobs.remote.local import LocalSession
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.spool.become import InteractiveProcess


def key_credential(
    username: str, private_key: str, *, version: int = 1, passphrase: str | None = None
) -> Credential:
    """Return a credential with a private key; its id depends on the key."""
    return Credential(
        f"key-{hash(private_key)}",
        version,
        "fleet-key",
        CredentialType.SSH_KEY,
        username,
        private_key=Secret(private_key),
        passphrase=Secret(passphrase) if passphrase is not None else None,
    )


def endpoint(
    host: str,
    port: int,
    credential: Credential | None,
    *,
    name: str = "web-1",
    host_keys: Sequence[str] = (),
    policy: HostKeyPolicy = HostKeyPolicy.PINNED,
    platform: str = "linux",
    jumps: tuple[Endpoint, ...] = (),
) -> Endpoint:
    """Return an SSH machine; its id depends on its name."""
    target = Target(
        id=f"id-{name}",
        name=name,
        host=host,
        port=port,
        transport=Transport.SSH,
        platform=platform,
        host_keys=tuple(host_keys),
        host_key_policy=policy,
    )
    return Endpoint(target, credential, jumps)


def endpoint_of(
    server: Sshd,
    *,
    user: str | None = None,
    credential: Credential | None = None,
    name: str = "web-1",
    host: str | None = None,
    port: int | None = None,
    host_keys: Sequence[str] | None = None,
    policy: HostKeyPolicy = HostKeyPolicy.PINNED,
    platform: str = "linux",
    jumps: tuple[Endpoint, ...] = (),
) -> Endpoint:
    """Return a real sshd as a target.

    By default its host keys are pinned, and the credential has its login key.
    """
    return endpoint(
        host or server.host,
        port or server.port,
        credential or key_credential(user or server.user, server.private_key),
        name=name,
        host_keys=server.host_keys if host_keys is None else host_keys,
        policy=policy,
        platform=platform,
        jumps=jumps,
    )


def local_endpoint(name: str = "here") -> Endpoint:
    """Return this machine, without a login."""
    return Endpoint(
        Target(id=f"id-{name}", name=name, host="127.0.0.1", port=22, transport=Transport.LOCAL),
        None,
    )


@dataclass(slots=True)
class SmallServer:
    """An SSH server of asyncssh in the test's own loop; it runs commands as the current user."""

    port: int
    host_key: asyncssh.SSHKey
    login_key: asyncssh.SSHKey
    logins: list[str] = field(default_factory=list)
    """The login attempts: "password ada secret", "key ada"."""
    connections: int = 0

    @property
    def host_line(self) -> str:
        """The public host key."""
        return " ".join(self.host_key.export_public_key().decode().split()[:2])

    def endpoint(self, credential: Credential | None = None, **more: object) -> Endpoint:
        """Return this server as a target."""
        login = credential or key_credential("ada", self.login_key.export_private_key().decode())
        return endpoint("127.0.0.1", self.port, login, **{"host_keys": (self.host_line,), **more})  # type: ignore[arg-type]


@asynccontextmanager
async def small_server(
    *,
    password: str | None = None,
    interactive: bool = False,
    drop_at_start: bool = False,
    repeating: bool = False,
    files: Callable[[asyncssh.SSHServerChannel[bytes]], asyncssh.SFTPServer]
    | None = asyncssh.SFTPServer,
) -> AsyncIterator[SmallServer]:
    """Run a server until the block ends.

    `interactive`: the password is only accepted over keyboard-interactive. `drop_at_start`: hang up
    when a command is requested, without a response. `repeating`: hang up on a wrong password with a
    message that repeats it. `files`: the SFTP server (None: no SFTP).
    """
    running = SmallServer(
        0,
        asyncssh.generate_private_key("ssh-ed25519"),
        asyncssh.generate_private_key("ssh-ed25519"),
    )

    open_connections: list[asyncssh.SSHServerConnection] = []

    class Door(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            running.connections += 1
            open_connections.append(conn)
            self._conn = conn

        def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
            return _HangUp(self._conn)

        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return password is None

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            running.logins.append(f"key {username}")
            return key.public_data == running.login_key.public_data

        def password_auth_supported(self) -> bool:
            return password is not None and not interactive

        def validate_password(self, username: str, given: str) -> bool:
            running.logins.append(f"password {username} {given}")
            if repeating and given != password:
                raise asyncssh.PermissionDenied(
                    f"{username} says {given}, in other words {given.encode().hex()}"
                )
            return given == password

        def kbdint_auth_supported(self) -> bool:
            return interactive

        def get_kbdint_challenge(
            self, username: str, lang: str, submethods: str
        ) -> tuple[object, ...]:
            return ("", "", "", [("One-time code or password: ", False)])

        def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
            running.logins.append(f"interactive {username} {responses[0]}")
            return responses[0] == password

    server = await asyncssh.create_server(
        Door,
        "127.0.0.1",
        0,
        server_host_keys=[running.host_key],
        process_factory=None if drop_at_start else _run_command,
        sftp_factory=None if drop_at_start else files,
        encoding=None,
        config=None,
        agent_forwarding=False,
    )
    running.port = server.get_port()
    try:
        yield running
    finally:
        server.close()
        await server.wait_closed()
        for connection in open_connections:
            connection.abort()
            await connection.wait_closed()


class _HangUp(asyncssh.SSHServerSession[bytes]):
    """Breaks the connection when a command is requested."""

    def __init__(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connection = connection

    def exec_requested(self, command: str) -> bool:
        # its own abort() would only come after the response
        self._connection._transport.abort()
        return True


async def _run_command(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the command as sshd does: by the shell, as the leader of a session of its own."""
    # A client that disconnected must not break the connection, as an error here would.
    with contextlib.suppress(BrokenPipeError):
        await _serve(process)


async def _serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
    session = LocalSession()
    child = await session._start_beside(process.command or ":", b"")
    assert isinstance(child, InteractiveProcess)
    feeding = asyncio.create_task(_feed(child, process.stdin))
    try:
        async for piece in child:
            if isinstance(piece, RemoteExit):
                _say_how_it_ended(process, piece)
            else:
                sink = process.stdout if piece.stream == "stdout" else process.stderr
                sink.write(piece.data)
                await sink.drain()
    finally:
        feeding.cancel()
        await session.close()


async def _feed(child: InteractiveProcess, stdin: asyncssh.SSHReader[bytes]) -> None:
    """Pass on its standard input as it arrives, and its end; even if the client disconnects."""
    with contextlib.suppress(asyncssh.Error, OSError):
        while data := await stdin.read(65536):
            child.write_stdin(data, end=False)
    child.write_stdin(b"", end=True)


def _say_how_it_ended(process: asyncssh.SSHServerProcess[bytes], end: RemoteExit) -> None:
    if end.signal is not None:
        process.exit_with_signal(end.signal)
    else:
        process.exit(end.code or 0)
