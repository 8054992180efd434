"""Commands on the worker's own machine: `/bin/sh -c` in a new session, clean environment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.target import POSIX, Capabilities, Endpoint
from opsjobs.remote.disk import Disk
from opsjobs.remote.local_disk import LocalDisk
from opsjobs.remote.output_buffer import OutputBuffer
from opsjobs.remote.process_group import Census, GroupSignal, NoGroup, end_group
from opsjobs.remote.session import (
    Durable,
    HostKey,
    LoginTimes,
    Output,
    RemoteExit,
    RemoteProcess,
    Session,
    SessionStep,
    Stream,
    check_command,
)
from opsjobs.remote.spool.channel import SpoolLogin
from opsjobs.remote.spool.direct import build_one_line, start_directly
from opsjobs.remote.spool.durable import Spool

_THIS_MACHINE = "127.0.0.1"
_SHELL = "/bin/sh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMES = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}
_PASSED_ON = ("LANG", "LC_ALL", "TZ", "TMPDIR")


class LocalSessions:
    """The Sessions of transport `local`.

    `allow` is called as for a loopback address: in production, this must be allowed explicitly.
    `on` is OPSJOBS_LOCAL_TRANSPORT of this worker; if off, there are no sessions at all.
    """

    def __init__(self, allow: Callable[[str], None] | None = None, *, on: bool = True) -> None:
        self._allow = allow
        self._on = on

    @asynccontextmanager
    async def session(
        self,
        endpoint: Endpoint,  # noqa: ARG002  there is only one machine
    ) -> AsyncIterator[Session]:
        """Yield a session on this machine; commands left running are released, not ended.

        Raises RemoteFailure(SAFETY_BLOCKED) if this machine may not be a target.
        """
        if not self._on:
            message = (
                "transport: local is off for this worker: set OPSJOBS_LOCAL_TRANSPORT=on, "
                "or change the target to ssh."
            )
            raise RemoteFailure(ErrorCode.SAFETY_BLOCKED, message)
        if self._allow is not None:
            self._allow(_THIS_MACHINE)
        session = LocalSession()
        try:
            yield session
        finally:
            await session.close()

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Test the shell, which is the only step."""
        started = time.monotonic()
        try:
            async with self.session(endpoint) as session:
                async for _ in await session.start(":"):
                    pass
        except RemoteFailure as failure:
            return [SessionStep("shell", False, _ms_since(started), failure.message)]
        return [SessionStep("shell", True, _ms_since(started))]

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:  # noqa: ARG002  as above
        """Return no keys: the local machine is reached without SSH."""
        return []

    async def close(self) -> None:
        """Do nothing: no connection is kept open."""


class LocalSession:
    """A session that starts commands on this machine."""

    login_times: LoginTimes | None = None
    capabilities: Capabilities = POSIX

    def __init__(self) -> None:
        self._started: list[LocalProcess] = []

    async def start(
        self,
        command: str | Program,
        *,
        stdin: bytes = b"",
        marked: bool | None = None,  # noqa: ARG002  each command has its own process group
    ) -> RemoteProcess:
        """Start a command line in /bin/sh, or a program.

        Raises RemoteFailure(CONNECTION_LOST) if this machine cannot start it.
        """
        if not isinstance(command, Program):
            return await self._start(command, stdin, hold=False)
        if (line := build_one_line(command, plain=True)) is not None:
            return await self._ask(line(":"), b"")
        return await start_directly(self._ask, command)

    def durable(self) -> Durable | None:
        """Return the durable runs on this machine."""
        return Spool(
            _THIS_MACHINE, SpoolLogin(plain=True), self._ask, self._start_beside, self._start_beside
        )

    @asynccontextmanager
    async def disk(self) -> AsyncIterator[Disk]:
        """Yield this machine's files."""
        yield LocalDisk(_environment(os.environ)["HOME"])

    async def _ask(self, line: str, stdin: bytes) -> RemoteProcess:
        return await self._start(line, stdin, hold=False)

    async def _start_beside(self, line: str, stdin: bytes) -> RemoteProcess:
        return await self._start(line, stdin, hold=True)

    async def _start(self, command: str, stdin: bytes, *, hold: bool) -> RemoteProcess:
        check_command(command)
        child = _Child()
        starting = asyncio.ensure_future(child.start(command, stdin, hold=hold))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Not before all its pipes are connected.
            starting.add_done_callback(lambda done: _release_late(child, done))
            raise
        except OSError as error:
            message = f"The command could not be started on this machine: {error}."
            raise RemoteFailure(ErrorCode.CONNECTION_LOST, message) from None
        process = LocalProcess(child)
        self._started.append(process)
        return process

    async def close(self) -> None:
        """Release all started processes."""
        for process in self._started:
            await process.close()


def _release_late(child: _Child, starting: asyncio.Future[None]) -> None:
    if not starting.cancelled():
        starting.exception()
    child.release()


class _Child:
    """A child process and its pipes.

    asyncio's own subprocess is not used, as it kills the child when it is released.
    """

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        self._pipes: list[_Pipe] = []
        self._stdin = _StdinPipe()
        self.output = OutputBuffer(pause=self._pause, resume=self._resume)

    @property
    def pid(self) -> int:
        """The process id, which is also the number of its process group."""
        return self._popen.pid if self._popen is not None else 0

    async def start(self, command: str, stdin: bytes, *, hold: bool) -> None:
        """Start the command; `hold` keeps its standard input open until it is released.

        Raises OSError or ValueError if that is not possible.
        """
        self._popen = popen = _spawn(command)
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=_wait_for,
            args=(popen, loop, self._settle),
            name=f"wait-{popen.pid}",
            daemon=True,
        ).start()
        self._pipes = stdout, stderr = [_Pipe("stdout", self), _Pipe("stderr", self)]
        await loop.connect_read_pipe(lambda: stdout, popen.stdout)
        await loop.connect_read_pipe(lambda: stderr, popen.stderr)
        await loop.connect_write_pipe(lambda: self._stdin, popen.stdin)
        self._stdin.write(stdin, end=not hold)

    def on_pipe_end(self) -> None:
        """Handle the end of a pipe."""
        self._settle()

    def _settle(self) -> None:
        """End the output once the child has exited and no process can write to its pipes."""
        code = self._popen.returncode if self._popen is not None else None
        if code is None or not self._pipes or not all(pipe.ended for pipe in self._pipes):
            return
        self._stdin.abort()
        self.output.end(
            RemoteExit(code) if code >= 0 else RemoteExit(None, _NAMES.get(-code, str(-code)))
        )

    def _pause(self) -> None:
        for pipe in self._pipes:
            pipe.pause()

    def _resume(self) -> None:
        for pipe in self._pipes:
            pipe.resume()

    def write_stdin(self, data: bytes, *, end: bool) -> None:
        """Write to its standard input, and close it if `end`."""
        self._stdin.write(data, end=end)

    def release(self) -> None:
        """Close this end of the pipes; the command itself is not affected."""
        for pipe in self._pipes:
            pipe.close()
        self._stdin.abort()


class _StdinPipe(asyncio.BaseProtocol):
    """The worker's end of the standard input of a child."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None

    def write(self, data: bytes, *, end: bool) -> None:
        """Write all of the data, then close the stream if `end`."""
        if self._transport is not None:
            self._transport.write(data)
            if end:
                self._transport.write_eof()

    def abort(self) -> None:
        """Close, whether or not everything was read."""
        transport, self._transport = self._transport, None
        # A pipe that is at its end with nothing buffered is already closing; aborting it then is an
        # error.
        if transport is not None and not (
            transport.is_closing() and transport.get_write_buffer_size() == 0
        ):
            transport.abort()


class _Pipe(asyncio.Protocol):
    """The worker's end of one output stream of a child."""

    def __init__(self, stream: Stream, child: _Child) -> None:
        self._stream = stream
        self._child = child
        self._transport: asyncio.ReadTransport | None = None
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._child.output.put(self._stream, data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.ended = True
        self._child.on_pipe_end()

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _spawn(command: str) -> subprocess.Popen[bytes]:
    environment = _environment(os.environ)
    return subprocess.Popen(  # noqa: S603  this transport exists to run what its author wrote
        [_SHELL, "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
        cwd=environment["HOME"],
    )


def _wait_for(
    popen: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, ended: Callable[[], None]
) -> None:
    popen.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits for it any more
        loop.call_soon_threadsafe(ended)


class LocalProcess:
    """A command that was started on this machine."""

    def __init__(self, child: _Child) -> None:
        self._child = child

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output, then one RemoteExit."""
        return self._child.output.read()

    async def kill(self, grace_seconds: float) -> CancelProof:
        """Send TERM to the command's process group, and KILL after the grace period."""
        if self._child.output.outcome is not None:
            return CancelProof.ALREADY_FINISHED
        try:
            return await end_group(self._child.pid, grace_seconds, _ask)
        except NoGroup:
            return CancelProof.UNREACHABLE

    def write_stdin(self, data: bytes, *, end: bool) -> None:
        """Write to its standard input, if it was started with `hold`."""
        self._child.write_stdin(data, end=end)

    async def close(self) -> None:
        """Close the pipes, whether or not the command has ended."""
        self._child.release()


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a login, without the worker's settings, which hold secrets."""
    account = pwd.getpwuid(os.getuid()) if _has_account(os.getuid()) else None
    home = account.pw_dir if account is not None and Path(account.pw_dir).is_dir() else "/"
    name = account.pw_name if account is not None else str(os.getuid())
    passed_on = {key: ours[key] for key in _PASSED_ON if key in ours}
    return {
        **passed_on,
        "PATH": _PATH,
        "HOME": home,
        "USER": name,
        "LOGNAME": name,
        "SHELL": _SHELL,
    }


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


async def _ask(question: GroupSignal) -> Census | None:
    try:
        asked = await asyncio.create_subprocess_exec(
            *question.argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError:
        return None
    output, _ = await asked.communicate()
    return question.answer(output)


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
