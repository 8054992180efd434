"""The client that asyncssh is given for one login, and the socket that it writes to.

A connection that has been open for a while is in the oldest generation of the garbage collector.
Left in cycles it would stay, 28 KB each, until a full collection, which stops the loop for seconds.
So asyncssh's references of a closed connection to itself are cut, and it is freed at once.

asyncssh writes each packet by itself, and uvloop sends each write at once: starting a command with
its standard input would need a system call per packet, and would wake the machine's sshd as often.
So all writes of one turn of the event loop are joined into one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import asyncssh

from opsjobs.remote.ssh.auth_material import AuthMaterial
from opsjobs.remote.ssh.connection import SshConnection
from opsjobs.remote.ssh.host_keys import HostKeyVerifier

PROMPT_CHARACTERS = 80
"""The maximum length of a server's prompt that is quoted in an error."""


class LoginClient(asyncssh.SSHClient):
    """The asyncssh client of one login; records the server's demands after a partial success."""

    def __init__(
        self, verifier: HostKeyVerifier, login: AuthMaterial, exchanged: Callable[[], None]
    ) -> None:
        self._verifier = verifier
        self._keys = list(login.keys)
        self._password = login.password
        self._exchanged = exchanged
        self._prompted = False
        self._given = False
        self._refused = False
        self._more: str | None = None
        self._prompts: list[str] = []
        self._wire: asyncssh.SSHClientConnection | None = None
        self.connection: SshConnection | None = None

    @property
    def second_factor(self) -> str | None:
        """The second factor that the server asked for after it accepted the credential, or None.

        A server lists a rejected method again, and asyncssh then asks for another key or password.
        After a partial success it lists only the other methods (RFC 4252, 5.1).
        """
        if len(self._prompts) > 1:
            return f"`{self._prompts[-1]}`"
        return None if self._refused else self._more

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Store the connection; the login follows."""
        self._wire = conn

    def connection_lost(self, _exc: Exception | None) -> None:
        """Handle the end of the connection, before or after the login."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.mark_lost()
        wire, self._wire = self._wire, None
        if wire is not None:
            asyncio.get_running_loop().call_soon(release, wire)

    def validate_host_public_key(
        self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Return True for an acceptable host key that is not pinned."""
        return self._verifier.accepts(key)

    def begin_auth(self, _username: str) -> None:
        """Record that the keys are exchanged and the host key is valid."""
        self._exchanged()

    def public_key_auth_requested(self) -> Any:
        """Return all keys on the first call, and none on later calls."""
        keys, self._keys = self._keys, []
        self._record_answer(given=bool(keys))
        return keys or None

    def password_auth_requested(self) -> str | None:
        """Return the password once, for either method: a second try could lock the account."""
        password, self._password = self._password, None
        self._record_answer(given=password is not None)
        return password.reveal() if password is not None else None

    def kbdint_auth_requested(self) -> str | None:
        """Accept keyboard-interactive once, if there is a password to respond with.

        A server without PAM may offer it and ask nothing: then the method `password` follows.
        """
        if self._password is not None:
            prompted, self._prompted = self._prompted, True
            return None if prompted else ""
        if self._given:
            self._more = "keyboard-interactive"
        return None

    def _record_answer(self, *, given: bool) -> None:
        self._given = self._given or given
        self._refused = self._refused or not given

    def kbdint_challenge_received(
        self, _name: str, _instructions: str, _lang: str, prompts: Any
    ) -> Any:
        """Respond to a single hidden prompt with the password; any other needs a person."""
        if not prompts:
            return []
        asked = ", ".join(str(prompt).strip()[:PROMPT_CHARACTERS] for prompt, _echo in prompts)
        if asked not in self._prompts:
            self._prompts.append(asked)
        password = self._password if len(prompts) == 1 and not prompts[0][1] else None
        if password is None:
            return None
        self._password = None
        self._given = True
        return [password.reveal()]


def release(wire: Any) -> None:
    """Cut the references of a closed connection to itself.

    Nothing is received or sent over it any more.
    """
    held = vars(wire)
    for name, value in list(held.items()):
        if getattr(value, "__self__", None) is wire:  # a handler
            held[name] = _ended_handler
        elif _refers(value, wire):  # a key exchange that was not completed
            held[name] = None


def _refers(value: object, wire: Any) -> bool:
    return any(part is wire for part in getattr(value, "__dict__", {}).values())


def _ended_handler(*_: Any, **__: Any) -> bool:
    """Do nothing, in place of a handler after the end."""
    return False


def forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an exception and its causes.

    Their frames hold the connection, which holds the exception.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


AT_ONCE_BYTES = 128 * 1024
"""The size at which data is sent before the turn's end: files are sent in pieces of it."""


class SocketTunnel:
    """A connected socket in the form of a tunnel, through which asyncssh connects."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected

    async def create_connection(
        self, factory: Callable[[], Any], _host: str, _port: int
    ) -> tuple[Any, Any]:
        """Return the transport, and asyncssh's protocol over it. Raises OSError."""
        transport, protocol = await asyncio.get_running_loop().create_connection(
            lambda: _CoalescingProtocol(factory()), sock=self._connected
        )
        return transport, protocol.protocol


class _CoalescingProtocol(asyncio.Protocol):
    """The protocol between the loop's transport and asyncssh, with a coalescing transport."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        # Received data is passed on directly.
        self.data_received = protocol.data_received  # type: ignore[method-assign]  # an instance's
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]  # likewise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.protocol.connection_made(_CoalescingTransport(cast(asyncio.Transport, transport)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)


class _CoalescingTransport:
    """The part of a transport that asyncssh uses."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def write(self, data: bytes) -> None:
        """Send the data together with the other writes of this turn of the loop."""
        if not self._pending:
            self._loop.call_soon(self._send)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= AT_ONCE_BYTES:
            self._send()

    def _send(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if pending and not self._transport.is_closing():
            self._transport.write(b"".join(pending) if len(pending) > 1 else pending[0])

    def close(self) -> None:
        """Send the remaining data, and close."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._pending.clear()
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the information of the loop's transport about its socket."""
        return self._transport.get_extra_info(name, default)
