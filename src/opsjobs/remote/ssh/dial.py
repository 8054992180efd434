"""Connect over TCP to an address that the policy allows, and coalesce the writes to it.

asyncssh writes each packet by itself, and uvloop sends each write at once: starting a command with
its standard input would need a system call per packet, and would wake the machine's sshd as often.
So all writes of one turn of the event loop are joined into one.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, cast

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode

AT_ONCE_BYTES = 128 * 1024
"""The size at which data is sent before the turn's end: files are sent in pieces of it."""

Allow = Callable[[str], None]
"""Called with a resolved address; raises RemoteFailure if it may not be connected to."""

_NO_ROUTE = {
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
}
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}


async def dial(host: str, port: int, allow: Allow, deadline: float) -> socket.socket:
    """Return a connected socket; `deadline` is a time of the loop's clock.

    Tries the allowed addresses in the resolver's order, each for its share of the time left; the
    check and the connection use the same address. Raises RemoteFailure: DNS, CONNECT_TIMEOUT,
    CONNECTION_REFUSED, CONNECTION_LOST, INTERNAL (this process has no file descriptors left), or
    the exception of `allow` if no address is left.
    """
    addresses = _filter_allowed(await _resolve(host, port, deadline), allow)
    failure = RemoteFailure(ErrorCode.DNS, f"The name {host} has no address.")
    for index, (family, sockaddr) in enumerate(addresses):
        left = deadline - asyncio.get_running_loop().time()
        try:
            return await _connect(family, sockaddr, max(left, 0.0) / (len(addresses) - index))
        except OSError as error:
            failure = _failed(
                error, f"{host}:{port}" + (f" ({sockaddr[0]})" if sockaddr[0] != host else "")
            )
    raise failure


def check_literal(host: str, allow: Allow) -> None:
    """Check a host that a jump host will resolve with `allow`, as far as it is numeric."""
    if host.rstrip(".").lower().rpartition(".")[2] == "localhost":
        allow("127.0.0.1")
    elif (address := _numeric(host)) is not None:
        allow(address)


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _numeric(host: str) -> str | None:
    """Return the address if this host is numeric, else None.

    127.1, 0x7f000001 and 2130706433 are addresses to a resolver, too.
    """
    if _literal(host):
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


Found = list[tuple[int, tuple[Any, ...]]]


async def _resolve(host: str, port: int, deadline: float) -> Found:
    loop = asyncio.get_running_loop()
    # Only names need a thread per lookup.
    flags = socket.AI_NUMERICHOST if _literal(host) else 0
    try:
        if flags:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
        else:
            async with asyncio.timeout_at(deadline):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise RemoteFailure(
            ErrorCode.DNS, f"The name {host} was not resolved in time: check the DNS resolver."
        ) from None
    except (OSError, UnicodeError) as error:
        raise RemoteFailure(
            ErrorCode.DNS, f"The name {host} cannot be resolved: {_reason(error)}."
        ) from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _filter_allowed(found: Found, allow: Allow) -> Found:
    allowed: Found = []
    refusal: RemoteFailure | None = None
    for family, sockaddr in found:
        try:
            allow(str(sockaddr[0]))
        except RemoteFailure as failure:
            refusal = failure
        else:
            allowed.append((family, sockaddr))
    if refusal is not None and not allowed:
        raise refusal
    return allowed


async def _connect(family: int, sockaddr: tuple[Any, ...], seconds: float) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(connection, sockaddr)
    except BaseException:
        connection.close()
        raise
    return connection


def _failed(error: OSError, where: str) -> RemoteFailure:
    if error.errno in _OUT_OF_FILES:
        message = (
            f"This worker has no file descriptors left to connect to {where}: "
            "raise its limit (ulimit -n)."
        )
        return RemoteFailure(ErrorCode.INTERNAL, message)
    if isinstance(error, TimeoutError) or error.errno in _NO_ROUTE:
        reason = "no answer in time" if not error.errno else _reason(error)
        message = (
            f"{where} cannot be reached: {reason}. "
            "Check that the machine is up, and the firewalls on the way."
        )
        return RemoteFailure(ErrorCode.CONNECT_TIMEOUT, message)
    if isinstance(error, ConnectionRefusedError):
        return RemoteFailure(
            ErrorCode.CONNECTION_REFUSED,
            f"{where} refuses connections: check that sshd runs, and on that port.",
        )
    return RemoteFailure(
        ErrorCode.CONNECTION_LOST, f"The connection to {where} broke: {_reason(error)}."
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


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
