"""One SSH connection, authenticated on both ends, and the commands that run over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncssh

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Capabilities, Target
from opsjobs.remote.disk import contact_error, transfer_error
from opsjobs.remote.process_group import Census, GroupSignal
from opsjobs.remote.session import LoginTimes, RemoteExit
from opsjobs.remote.ssh.process import LineBuilder, Receiver, SshProcess
from opsjobs.remote.ssh.sftp import RUNNING_DIGEST_LINE, SftpDisk, SshRunningDigest, open_sftp

ANSWER_LIMIT_BYTES = 64 * 1024
"""The maximum size of the response to an internal query, with login scripts' output."""

# Per connection: sshd's MaxSessions leaves two channels in addition to those that are handed out.
QUESTIONS_AT_ONCE = 2

_REFUSED_REQUEST = asyncssh.OPEN_REQUEST_SESSION_FAILED


@dataclass(frozen=True, slots=True)
class SshOptions:
    """The deadline of each phase and the limits of buffers."""

    connect_seconds: float = 30.0
    """Name lookup, TCP and key exchange together."""
    auth_seconds: float = 30.0
    """From the key exchange to the accepted login."""
    open_seconds: float = 30.0
    """From the request for a channel to the response that the command started."""
    keepalive_seconds: float = 15.0
    keepalive_count: int = 3
    """Unanswered keepalives after which the connection counts as lost."""
    window_bytes: int = 256 * 1024
    """The bytes that a machine may send on one channel before the worker has read them."""


class ChannelRefused(RemoteFailure):
    """The machine refuses another channel on this connection; nothing started."""


class SshConnection:
    """A logged-in connection to one machine.

    `expires_at` is the expiry of the credential used for its login; None = never.
    """

    def __init__(
        self,
        wire: asyncssh.SSHClientConnection,
        target: Target,
        options: SshOptions,
        login_times: LoginTimes,
        expires_at: datetime | None = None,
    ) -> None:
        self.wire = wire
        self.login_times = login_times
        self.expires_at = expires_at
        self.target = target
        self._options = options
        self._on_lost: Callable[[], None] | None = None
        self._lost = False
        self._questions = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self._digest_runs = False

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the machine over SSH."""
        return self.target.capabilities

    @property
    def alive(self) -> bool:
        """False once the connection is lost or closed."""
        return not self._lost and not self.wire.is_closed()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the connection ends for any reason."""
        if self.alive:
            self._on_lost = callback
        else:
            callback()

    def mark_lost(self) -> None:
        """Record that the connection is lost; called by the protocol."""
        self._lost = True
        callback, self._on_lost = self._on_lost, None
        if callback is not None:
            callback()

    def close(self) -> None:
        """Disconnect; return at once."""
        self._lost = True
        self.wire.close()

    async def wait_closed(self) -> None:
        """Wait until all resources of the connection are released."""
        await self.wire.wait_closed()

    async def start(
        self,
        command: str | LineBuilder,
        *,
        stdin: bytes = b"",
        marked: bool | None = None,
        hold: bool = False,
    ) -> SshProcess:
        """Start a command line in the login shell.

        `marked`: find out its process group (default: if it leads one). `hold`: its standard input
        stays open until the process is closed.

        Raises RemoteFailure: CONNECTION_LOST if nothing can have started (as ChannelRefused if only
        this connection has no room), LOST if the request was written and no response arrived.
        """
        can = self.capabilities
        receiver = Receiver(
            self.target.name,
            marked=can.process_groups if marked is None else marked,
            bare_end=self._may_end_bare,
        )
        if can.posix_shell:
            receiver.send_early(stdin, end=not hold)
        opening = asyncio.ensure_future(self._open(receiver, receiver.build_line(command)))
        try:
            async with asyncio.timeout(self._options.open_seconds):
                await asyncio.shield(opening)
        except (asyncio.CancelledError, TimeoutError) as stopped:
            receiver.give_up()
            opening.add_done_callback(lambda done: _close_late(receiver, done))
            if isinstance(stopped, asyncio.CancelledError):
                raise
            raise self._not_started(receiver, "no answer in time") from None
        except asyncssh.ChannelOpenError as error:
            raise self._open_failure(receiver, error) from None
        except (asyncssh.Error, OSError) as error:
            raise self._not_started(receiver, error) from None
        if not can.posix_shell:
            receiver.send(stdin, end=not hold)
        return SshProcess(receiver, self.ask)

    async def try_sftp(self) -> None:
        """Open the SFTP subsystem and close it again.

        Raises RemoteFailure(CONNECTION_LOST) if there is none.
        """
        try:
            async with asyncio.timeout(self._options.open_seconds):
                client = await self.wire.start_sftp_client()
        except (asyncssh.Error, OSError, TimeoutError) as error:
            words = f"{self.target.name} offers no SFTP: {str(error) or 'no answer in time'}."
            raise RemoteFailure(ErrorCode.CONNECTION_LOST, words) from None
        client.exit()

    def _may_end_bare(self) -> bool:
        """Return True if a closed channel alone marks the end of a command, while connected."""
        return not self.capabilities.exit_status and self.alive

    async def _open(self, receiver: Receiver, command: str) -> None:
        await self.wire.create_session(
            lambda: receiver, command, encoding=None, window=self._options.window_bytes
        )

    def _open_failure(self, receiver: Receiver, error: asyncssh.ChannelOpenError) -> RemoteFailure:
        name = self.target.name
        answered = receiver.outflow.outcome is None
        if receiver.requested and error.code == _REFUSED_REQUEST and self.alive and answered:
            return RemoteFailure(
                ErrorCode.CONNECTION_LOST, f"{name} refused to start the command: {error.reason}."
            )
        if receiver.requested or not self.alive:
            return self._not_started(receiver, error.reason)
        return ChannelRefused(
            ErrorCode.CONNECTION_LOST,
            f"{name} refused another session: {error.reason} (see MaxSessions in its sshd_config).",
        )

    def _not_started(self, receiver: Receiver, reason: object) -> RemoteFailure:
        name = self.target.name
        if receiver.requested:
            message = (
                f"Connection to {name} was lost while the command was being started ({reason}): "
                "it may have run or not."
            )
            return RemoteFailure(ErrorCode.LOST, message)
        return RemoteFailure(
            ErrorCode.CONNECTION_LOST,
            f"The connection to {name} broke before anything started ({reason}).",
        )

    @asynccontextmanager
    async def disk(self) -> AsyncIterator[SftpDisk]:
        """Yield the machine's files.

        Raises RemoteFailure: TRANSFER if it does not serve files, CONNECTION_LOST.
        """
        client = await self._sftp()
        try:
            yield SftpDisk(client, self.target.name, self._run_program, self._start_digest)
        finally:
            client.exit()

    async def _sftp(self) -> asyncssh.SFTPClient:
        name = self.target.name
        try:
            return await open_sftp(self.wire, self._options.open_seconds)
        except asyncssh.ChannelOpenError as error:
            if error.code == _REFUSED_REQUEST and self.alive:
                raise transfer_error(
                    name,
                    "serves no files",
                    "its SSH server has no SFTP (Subsystem sftp in sshd_config)",
                ) from None
            if self.alive:
                raise ChannelRefused(
                    ErrorCode.CONNECTION_LOST, f"{name} refused another session: {error.reason}."
                ) from None
            raise contact_error(name, error) from None
        except TimeoutError:
            raise contact_error(name, "no answer in time") from None
        except (asyncssh.Error, OSError) as error:
            if self.alive and isinstance(error, asyncssh.SFTPError):
                raise transfer_error(
                    name, "serves no files", f"its SFTP server does not work ({error.reason})"
                ) from None
            raise contact_error(name, error) from None

    async def _run_program(self, line: str, stdin: bytes) -> bytes | None:
        """Return the output of a program that succeeds; None if it fails or cannot be started.

        Raises RemoteFailure.
        """
        async with self._questions:
            try:
                output, end = await self._answer(line, stdin)
            except ChannelRefused:
                return None
            except RemoteFailure as failure:
                if self.alive:
                    return None
                raise contact_error(self.target.name, failure.message) from None
        return output if end == RemoteExit(0) else None

    async def _start_digest(self, path: bytes) -> SshRunningDigest | None:
        """Start computing a digest while the file is written.

        It uses one of the channels for internal queries; the other one stays free.
        """
        if self._digest_runs or self._questions.locked():
            return None
        self._digest_runs = True
        await self._questions.acquire()
        try:
            process = await self.start(
                RUNNING_DIGEST_LINE, stdin=path + b"\n", marked=False, hold=True
            )
        except BaseException as stopped:
            self._end_digest()
            if isinstance(stopped, RemoteFailure):
                return None
            raise
        return SshRunningDigest(process, self._end_digest)

    def _end_digest(self) -> None:
        self._digest_runs = False
        self._questions.release()

    async def ask(self, question: GroupSignal) -> Census | None:
        """Query a process group over one more channel of this connection.

        Returns None if the server refuses the channel.
        """
        try:
            output, _ = await self._answer(question.line, b"")
        except ChannelRefused:
            return None
        return question.answer(output)

    async def _answer(self, line: str, stdin: bytes) -> tuple[bytes, RemoteExit]:
        """Return the command line's standard output, up to a limit, and its exit."""
        process = await self.start(line, stdin=stdin, marked=False)
        output, end = bytearray(), RemoteExit(None)
        try:
            async for piece in process:
                if isinstance(piece, RemoteExit):
                    end = piece
                elif piece.stream == "stdout" and len(output) < ANSWER_LIMIT_BYTES:
                    output += piece.data
        finally:
            await process.close()
        return bytes(output), end


def _close_late(receiver: Receiver, opening: asyncio.Future[None]) -> None:
    """Close a channel that opened after its opener stopped waiting."""
    if not opening.cancelled():
        opening.exception()
    receiver.close()
