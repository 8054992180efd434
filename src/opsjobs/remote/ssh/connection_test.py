"""The test of a connection (`targets test`): one new connection, each step timed."""

from __future__ import annotations

import time

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.target import Endpoint
from opsjobs.remote.connection_steps import elapsed_ms, failed_steps, login_steps, try_shell
from opsjobs.remote.session import Output, RemoteExit, SessionStep
from opsjobs.remote.ssh.connect import Connector, ConnectTiming
from opsjobs.remote.ssh.connection import SshConnection


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
