"""A command on a machine over SSH: its output with back-pressure, and proof of its end."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from functools import partial

import asyncssh

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.remote.output_buffer import OutputBuffer
from opsjobs.remote.process_group import PROOF_SECONDS, Ask, Census, GroupSignal, NoGroup, end_group
from opsjobs.remote.session import Output, RemoteExit, check_command, explain_no_shell

GROUP_SECONDS = 2.0
"""The time that a kill waits for the login shell to print its process id."""

_SCAN_BYTES = 64 * 1024
_TOLD_BYTES = 512
_PID_DIGITS = 18
_FISH = rb"fish: [^\n]*\n[^\n]*%s \$\$'?\n *\^\n?"


LineBuilder = Callable[[str], str]
"""Builds a command line that starts with the given words, which identify its shell."""


class GroupLine:
    """The line in which the login shell prints its process id; filtered from the output.

    sshd makes every command the leader of its own process group, whose number is the shell's
    process id. Signals that are sent over the channel reach only a shell that is still alive:
    children that ignore TERM would outlive it (seen with OpenSSH 10, as root and as an ordinary
    user), so the group must be known. `eval` with `echo` are both built into POSIX shells and csh;
    `$$` is quoted because fish rejects a whole line that contains it bare.
    """

    __slots__ = ("_held", "_scanned_bytes", "mark", "pid", "searching", "shell")

    def __init__(self) -> None:
        self.mark = b"opsjobs:" + secrets.token_hex(8).encode()
        self.pid: int | None = None
        self.shell: str | None = None
        """The login shell, if it was queried and has responded."""
        self.searching = True
        self._held = b""
        self._scanned_bytes = 0

    @property
    def prefix(self) -> str:
        """The text to put before the command line.

        It is on the same line, so that a syntax error still starts nothing.
        """
        return f"eval 'echo {self.mark.decode()} $$'; "

    @property
    def identify(self) -> str:
        """The text for a POSIX shell, which also prints the name of the login shell."""
        return f"echo {self.mark.decode()} $$ $SHELL"

    def strip(self, data: bytes) -> bytes:
        """Return standard output without the line; hold back only a possible start of it."""
        data = self._held + data
        self._held = b""
        at = data.find(self.mark)
        if at >= 0:
            return self._cut_line(data, at)
        self._scanned_bytes += len(data)
        if self._scanned_bytes > _SCAN_BYTES:
            self.searching = False
            return data
        keep = next(
            (
                n
                for n in range(min(len(self.mark) - 1, len(data)), 0, -1)
                if self.mark.startswith(data[-n:])
            ),
            0,
        )
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def _cut_line(self, data: bytes, at: int) -> bytes:
        end = data.find(b"\n", at)
        if end < 0 and len(data) - at < len(self.mark) + _TOLD_BYTES:
            self._held = data[at:]
            return data[:at]
        self.searching = False
        number, _, shell = data[at + len(self.mark) : end].strip().partition(b" ")
        if end < 0 or not number.isdigit() or len(number) > _PID_DIGITS:
            return data
        self.shell = shell.decode(errors="replace") or None
        self.pid = int(number)
        return data[:at] + data[end + 1 :]

    def strip_fish(self, data: bytes) -> bytes:
        """Return standard error without fish's error message about `$$`.

        Commands of fish users run, but without a known group.
        """
        if self.mark not in data:
            return data
        self.searching = False
        return re.sub(_FISH % re.escape(self.mark), b"", data, count=1)

    def rest(self) -> bytes:
        """Return the bytes that were held back when the output ended."""
        self.searching = False
        held, self._held = self._held, b""
        return held


class Receiver(asyncssh.SSHClientSession[bytes]):
    """The channel's protocol: puts the data that asyncssh pushes into an OutputBuffer."""

    def __init__(self, name: str, *, marked: bool, bare_end: Callable[[], bool]) -> None:
        self._name = name
        self._bare_end = bare_end
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._exit: RemoteExit | None = None
        self._complete = False
        self.line = GroupLine() if marked else None
        self._must_identify = False
        self.grouped = asyncio.Event()
        self.exited = asyncio.Event()
        self.requested = False
        """True once the start request may have been written."""
        self.outflow = OutputBuffer(pause=self._pause, resume=self._resume)
        self._early: tuple[bytes, bool] | None = None
        self._given_up = False
        self._resuming = False
        self._pauses_next = False

    def build_line(self, command: str | LineBuilder) -> str:
        """Return the command line as it is sent.

        Raises ValueError for one that cannot be passed to a shell.
        """
        if not isinstance(command, str):
            self.line, self._must_identify = self.line or GroupLine(), True
            return command(self.line.identify)
        check_command(command)
        return command if self.line is None else self.line.prefix + command

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Store the channel; the start request follows, unless the caller gave up."""
        if self._given_up:
            chan.abort()
            return
        self._channel = chan
        self.requested = True
        if self._early is not None:
            # asyncssh writes the request before it waits for anything.
            (stdin, end), self._early = self._early, None
            asyncio.get_running_loop().call_soon(partial(self.send, stdin, end=end))

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Buffer output of the command."""
        line = self.line
        if line is not None and line.searching:
            data = line.strip(data) if datatype is None else line.strip_fish(data)
            if not line.searching:
                self.grouped.set()
        if data:
            self.outflow.put("stdout" if datatype is None else "stderr", data)

    def exit_status_received(self, status: int) -> None:
        """Record the exit code."""
        self._exit = RemoteExit(status)
        self.exited.set()

    def exit_signal_received(self, signal: str, _core_dumped: bool, _msg: str, _lang: str) -> None:
        """Record the signal that ended the command."""
        self._exit = RemoteExit(None, signal)
        self.exited.set()

    def eof_received(self) -> bool:
        """Record that all output was delivered; return False: no input is left to send either."""
        self._complete = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the output: the channel was closed after all output, or the connection broke."""
        if self.line is not None and (held := self.line.rest()):
            self.outflow.put("stdout", held)
        self.outflow.end(self._outcome(exc))
        self.grouped.set()
        self.exited.set()

    def _outcome(self, exc: Exception | None) -> RemoteExit | RemoteFailure:
        if self._exit is not None and (exc is None or self._complete):
            return self._require_confirmation(self._exit)
        if exc is None and self._bare_end():
            # Network devices close a channel without an exit status.
            return RemoteExit(None)
        reason = f": {exc}" if exc is not None else ""
        if self._exit is not None:
            message = (
                f"Connection to {self._name} was lost before all output was read{reason}: "
                f"the command ended ({self._exit})."
            )
        else:
            message = (
                f"Connection to {self._name} was lost before the command's end was seen{reason}: "
                "it may still be running."
            )
        return RemoteFailure(ErrorCode.LOST, message)

    def _require_confirmation(self, end: RemoteExit) -> RemoteExit:
        """Replace the exit of a command line that was not run.

        Its shell should have identified itself first, and did not.
        """
        if not self._must_identify or self.line is None or self.line.pid is not None:
            return end
        return explain_no_shell(end)

    @property
    def exit(self) -> RemoteExit | None:
        """The exit, which may be known before all output was read."""
        return self._exit

    def send_early(self, stdin: bytes, *, end: bool) -> None:
        """Send the command's standard input right after the start request.

        The response to the request is not awaited. The server of a POSIX machine keeps the order.
        Others may take the end of the input for the end of the session.
        """
        if stdin or end:
            self._early = stdin, end

    def send(self, stdin: bytes, *, end: bool) -> None:
        """Write to the command's standard input; close it if `end`."""
        if self._channel is None:
            return
        try:
            if stdin:
                self._channel.write(stdin)
            if end:
                self._channel.write_eof()
        except OSError:
            return  # The command ended without reading it, which its exit status shows.

    def give_up(self) -> None:
        """Do not start the command if the channel opens later.

        The caller has timed out, was cancelled, or was told that the command did not start.
        """
        self._given_up = True

    def signal(self, name: str) -> None:
        """Request the server to signal the command."""
        if self._channel is not None:
            self._channel.send_signal(name)

    def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            self._channel.abort()
            self._channel = None

    def _pause(self) -> None:
        if self._resuming:
            self._pauses_next = True
        elif self._channel is not None:
            self._channel.pause_reading()

    def _resume(self) -> None:
        """Resume, and pause again only once everything that asyncssh holds has arrived.

        With the first piece that it delivers, asyncssh reopens the whole window, however much it
        still holds: if paused at the second piece, the machine would send a window for each piece
        that is read (330 MB of a flood piled up, seen with 2.24).
        """
        if self._channel is None:
            return
        self._resuming = True
        try:
            self._channel.resume_reading()
        finally:
            self._resuming = False
        if self._pauses_next:
            self._pauses_next = False
            self._pause()


class SshProcess:
    """A command that was started over SSH."""

    def __init__(self, receiver: Receiver, ask: Ask) -> None:
        self._receiver = receiver
        self._ask = ask
        self.ask_elsewhere: Ask | None = None
        """Queries over another connection, for servers that allow one channel per connection."""

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output, then one RemoteExit.

        Raises RemoteFailure(LOST) if the connection breaks first.
        """
        return self._receiver.outflow.read()

    @property
    def shell(self) -> str | None:
        """The login shell, if the line identified it."""
        return self._receiver.line.shell if self._receiver.line is not None else None

    async def kill(self, grace_seconds: float) -> CancelProof:
        """End the command's process group over another channel.

        Uses channel signals if no group is known.
        """
        receiver = self._receiver
        if receiver.outflow.outcome is not None:
            return _proof_of(receiver, CancelProof.ALREADY_FINISHED)
        group = await self._group()
        if group is not None:
            try:
                return await end_group(group, grace_seconds, self._question)
            except NoGroup:
                pass
        return await self._by_signal(grace_seconds)

    async def _question(self, question: GroupSignal) -> Census | None:
        census = await self._ask(question)
        if census is None and self.ask_elsewhere is not None:
            census = await self.ask_elsewhere(question)
        return census

    async def _group(self) -> int | None:
        line = self._receiver.line
        if line is None:
            return None
        try:
            async with asyncio.timeout(GROUP_SECONDS):
                await self._receiver.grouped.wait()
        except TimeoutError:
            pass
        return line.pid

    async def _by_signal(self, grace_seconds: float) -> CancelProof:
        if self._receiver.exit is not None:
            return CancelProof.ALREADY_FINISHED
        for name, seconds in (("TERM", grace_seconds), ("KILL", PROOF_SECONDS)):
            self._receiver.signal(name)
            try:
                async with asyncio.timeout(seconds):
                    await self._receiver.exited.wait()
                return _proof_of(self._receiver, CancelProof.KILLED)
            except TimeoutError:
                continue
        return CancelProof.UNREACHABLE

    def write_stdin(self, data: bytes, *, end: bool) -> None:
        """Write to its standard input, if it was started with `hold`."""
        self._receiver.send(data, end=end)

    async def close(self) -> None:
        """Close the channel, whether or not the command has ended."""
        self._receiver.close()


def _proof_of(receiver: Receiver, proof: CancelProof) -> CancelProof:
    """Return the proof if the command's end was seen, else UNREACHABLE."""
    return proof if receiver.exit is not None else CancelProof.UNREACHABLE
