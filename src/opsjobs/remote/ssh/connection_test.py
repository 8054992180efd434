"""The test of a connection (`targets test`): one new connection, each step timed."""

from __future__ import annotations

import time

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output, RemoteExit, SessionStep
from opsjobs.remote.ssh.connect import Connector, ConnectTiming
from opsjobs.remote.ssh.connection import SshConnection

_WORD = "opsjobs-test"


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
        return _failed(timing, failure), failure
    finished = timing.finished or time.monotonic()
    exchanged = timing.exchanged or finished
    steps = [
        SessionStep("connect", True, _ms(timing.started, exchanged)),
        SessionStep("auth", True, _ms(exchanged, finished)),
    ]
    try:
        return [*steps, *await _inside(connection)], None
    finally:
        connection.close()


async def _inside(connection: SshConnection) -> list[SessionStep]:
    shell = await _shell(connection)
    steps = [shell]
    if shell.ok and connection.capabilities.become:
        steps.append(await _sudo(connection))
    if shell.ok and connection.capabilities.sftp:
        steps.append(await _sftp(connection))
    return steps


def _failed(timing: ConnectTiming, failure: RemoteFailure) -> list[SessionStep]:
    now = time.monotonic()
    if timing.exchanged is None:
        return [SessionStep("connect", False, _ms(timing.started, now), failure.message)]
    connected = SessionStep("connect", True, _ms(timing.started, timing.exchanged))
    return [connected, SessionStep("auth", False, _ms(timing.exchanged, now), failure.message)]


async def _shell(connection: SshConnection) -> SessionStep:
    started = time.monotonic()
    try:
        process = await connection.start(f"echo {_WORD}")
        pieces = [piece async for piece in process]
    except RemoteFailure as failure:
        return SessionStep("shell", False, _ms(started, time.monotonic()), failure.message)
    output = b"".join(piece.data for piece in pieces if isinstance(piece, Output))
    ended = pieces[-1]
    good = _WORD.encode() in output and isinstance(ended, RemoteExit)
    error = (
        None
        if good
        else f"`echo {_WORD}` did not print it, but: {output[:200].decode(errors='replace')!r}"
    )
    return SessionStep("shell", good, _ms(started, time.monotonic()), error)


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
    return SessionStep("sudo", good, _ms(started, time.monotonic()), error, needed=False)


async def _sftp(connection: SshConnection) -> SessionStep:
    """Test whether files can be transferred."""
    started = time.monotonic()
    try:
        await connection.try_sftp()
    except RemoteFailure as failure:
        return SessionStep(
            "sftp", False, _ms(started, time.monotonic()), failure.message, needed=False
        )
    return SessionStep("sftp", True, _ms(started, time.monotonic()), needed=False)


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)
