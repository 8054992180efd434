"""Connect over TCP to an address that the policy allows."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode

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


async def dial(
    host: str, port: int, allow: Allow, deadline: float, *, service: str = "sshd"
) -> socket.socket:
    """Return a connected socket; `deadline` is a time of the loop's clock.

    `service`: what should listen there, for messages.

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
            where = f"{host}:{port}" + (f" ({sockaddr[0]})" if sockaddr[0] != host else "")
            failure = _failed(error, where, service)
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


def _failed(error: OSError, where: str, service: str) -> RemoteFailure:
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
            f"{where} refuses connections: check that {service} runs, and on that port.",
        )
    return RemoteFailure(
        ErrorCode.CONNECTION_LOST, f"The connection to {where} broke: {_reason(error)}."
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
