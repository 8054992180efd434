"""One SSH connection: made, proven on both ends, and the commands that run over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

from opsjobs.model.execution import ErrorCode
from opsjobs.model.failures import RemoteFailure
from opsjobs.model.target import Target
from opsjobs.remote.group import Census, Question
from opsjobs.remote.session import Output
from opsjobs.remote.ssh.options import SshOptions
from opsjobs.remote.ssh.process import Receiver, SshProcess

ANSWER_LIMIT_BYTES = 64 * 1024
"""How much of the answer to a question of ours is read, login scripts' output included."""

_REFUSED_REQUEST = asyncssh.OPEN_REQUEST_SESSION_FAILED


class ChannelRefused(RemoteFailure):
    """The machine will not open another channel on this connection; nothing started."""


class Connection:
    """A logged-in connection to one machine."""

    def __init__(self, wire: asyncssh.SSHClientConnection, target: Target, options: SshOptions) -> None:
        self.wire = wire
        self.target = target
        self._options = options
        self._on_lost: Callable[[], None] | None = None
        self._lost = False

    @property
    def alive(self) -> bool:
        """False once the connection was seen to be gone, or was closed."""
        return not self._lost and not self.wire.is_closed()

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call once, when the connection ends for whatever reason."""
        self._on_lost = callback
        if not self.alive:
            callback()

    def lost(self) -> None:
        """Told by the protocol that the connection is gone."""
        self._lost = True
        if self._on_lost is not None:
            self._on_lost()

    def close(self) -> None:
        """Say goodbye and let go; returns at once."""
        self._lost = True
        self.wire.close()

    async def wait_closed(self) -> None:
        """Wait until everything of the connection is let go."""
        await self.wire.wait_closed()

    async def start(self, command: str, *, stdin: bytes = b"", marked: bool | None = None, hold: bool = False) -> SshProcess:
        """Start a command line in the login shell; `marked` = learn its process group (default: on POSIX platforms).

        `hold` = its standard input does not end before the process is closed.

        Raises RemoteFailure: CONNECTION_LOST where nothing can have started (as ChannelRefused where only this
        connection has no room), LOST where the request was written and no answer came.
        """
        posix = self.target.platform not in ("network", "windows")
        receiver = Receiver(self.target.name, marked=posix if marked is None else marked, bare_end=self._bare_end)
        opening = asyncio.ensure_future(self._open(receiver, receiver.dress(command)))
        try:
            async with asyncio.timeout(self._options.open_seconds):
                await asyncio.shield(opening)
        except (asyncio.CancelledError, TimeoutError) as stopped:
            opening.add_done_callback(lambda done: _close_late(receiver, done))
            if isinstance(stopped, asyncio.CancelledError):
                raise
            raise self._not_started(receiver, "no answer in time") from None
        except asyncssh.ChannelOpenError as error:
            raise self._refused(receiver, error) from None
        except (asyncssh.Error, OSError) as error:
            raise self._not_started(receiver, error) from None
        receiver.send(stdin, end=not hold)
        return SshProcess(receiver, self._ask)

    def _bare_end(self) -> bool:
        """True where a channel that just closes is how commands end: network devices, while the connection lives."""
        return self.target.platform == "network" and self.alive

    async def _open(self, receiver: Receiver, command: str) -> None:
        await self.wire.create_session(lambda: receiver, command, encoding=None, window=self._options.window_bytes)

    def _refused(self, receiver: Receiver, error: asyncssh.ChannelOpenError) -> RemoteFailure:
        name = self.target.name
        answered = receiver.outflow.outcome is None
        if receiver.requested and error.code == _REFUSED_REQUEST and self.alive and answered:
            return RemoteFailure(ErrorCode.CONNECTION_LOST, f"{name} refused to start the command: {error.reason}.")
        if receiver.requested or not self.alive:
            return self._not_started(receiver, error.reason)
        return ChannelRefused(ErrorCode.CONNECTION_LOST, f"{name} refused another session: {error.reason} (MaxSessions?).")

    def _not_started(self, receiver: Receiver, reason: object) -> RemoteFailure:
        name = self.target.name
        if receiver.requested:
            message = f"Contact with {name} broke while the command was being started ({reason}): it may have run or not."
            return RemoteFailure(ErrorCode.LOST, message)
        return RemoteFailure(ErrorCode.CONNECTION_LOST, f"The connection to {name} broke before anything started ({reason}).")

    async def _ask(self, question: Question) -> Census | None:
        """Put a question about a process group over a second channel of this connection."""
        try:
            process = await self.start(question.line, marked=False)
        except ChannelRefused:
            return None
        heard = bytearray()
        try:
            async for piece in process:
                if isinstance(piece, Output) and piece.stream == "stdout" and len(heard) < ANSWER_LIMIT_BYTES:
                    heard += piece.data
        finally:
            await process.close()
        return question.answer(bytes(heard))


def _close_late(receiver: Receiver, opening: asyncio.Future[None]) -> None:
    """A channel that opened after its opener gave up must not stay open."""
    if not opening.cancelled():
        opening.exception()
    receiver.close()
