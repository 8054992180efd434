"""The commands of the stand-in: processes of /bin/sh, and their output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from opsjobs.standalone.lab.wsman.envelopes import SHELL

HELD_BYTES_MAX = 256 * 1024
"""Output that waits in the host; the process waits at its pipe above this."""
PIPES_SECONDS = 1.0
"""The time for which the pipes may stay open after the process has ended."""
CONTROL_C_EXIT = 0xC000013A
IDLE_SECONDS = 7200.0
"""The idle time of a shell for which no other one is asked."""


class LabCommand(asyncio.SubprocessProtocol):
    """One command: a session of its own, so that it is ended with its children."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.exit_code: int | None = None
        self.aborted = False
        self.changed = asyncio.Event()
        self.last: tuple[str, bytes] | None = None
        """The id of the last request for output, and its response, in case it is repeated."""
        self._held: deque[tuple[str, bytes]] = deque()
        self._held_bytes = 0
        self._is_paused = False
        """True while the process waits at its pipes, because too much output is held."""
        self._transport: asyncio.SubprocessTransport | None = None
        self._pipes = {1, 2}
        """The descriptors of its output that are open."""
        self._code: int | None = None
        """The exit code of the process; its pipes may still be open."""
        self._ended = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def start(self, line: str, environment: Mapping[str, str], folder: Path) -> None:
        """Start the line in /bin/sh. Raises OSError."""
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            "/bin/sh",
            "-c",
            line,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
        )

    def answer(self, output: bytes, exit_code: int) -> None:
        """End as a process would that has written this, without starting one."""
        if output:
            self._hold("stdout", output)
        self._end(exit_code)

    @property
    def done(self) -> bool:
        """True if it has ended and all of its output was received."""
        return self.exit_code is not None and not self._held

    @property
    def ready(self) -> bool:
        """True if a request for output can be answered now."""
        return bool(self._held) or self.exit_code is not None or self.aborted

    def take(self, size: int) -> list[tuple[str, bytes]]:
        """Return the next output, at most `size` bytes of it."""
        taken: list[tuple[str, bytes]] = []
        while self._held and size > 0:
            name, data = self._held.popleft()
            if len(data) > size:
                self._held.appendleft((name, data[size:]))
                data = data[:size]
            taken.append((name, data))
            size -= len(data)
            self._held_bytes -= len(data)
        if self._held_bytes < HELD_BYTES_MAX:
            self._pause(paused=False)
        return taken

    async def write(self, data: bytes, *, end: bool) -> None:
        """Write to standard input. Raises BrokenPipeError if nothing reads it."""
        if self._transport is None:  # it was answered
            return
        stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        if data:
            if not stdin.is_closing():
                stdin.write(data)
                await self._writable.wait()
            if stdin.is_closing():
                raise BrokenPipeError
        if end:
            stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Signal the command and its children."""
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._transport.get_pid(), number)

    def terminate(self) -> None:
        """End it at once; requests for its output are aborted."""
        if self.exit_code is None:
            self.signal(signal.SIGKILL)
            self.aborted = True
        self._pause(paused=False)
        self.changed.set()

    async def close(self) -> None:
        """End it, and wait for that."""
        self.terminate()
        self._held.clear()
        if self._transport is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PIPES_SECONDS * 2):
                    await self._ended.wait()
            self._transport.close()

    def _pause(self, *, paused: bool) -> None:
        """Stop reading the output of the process, or go on."""
        if self._is_paused == paused or self._transport is None:
            return
        self._is_paused = paused
        for number in self._pipes:
            pipe = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(number))
            if paused:
                pipe.pause_reading()
            else:
                pipe.resume_reading()

    def _hold(self, name: str, data: bytes) -> None:
        self._held.append((name, data))
        self._held_bytes += len(data)
        self.changed.set()

    def _end(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self._ended.set()
        self.changed.set()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the process, whose output may come before `start` returns."""
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Hold a piece of its output."""
        self._hold("stdout" if fd == 1 else "stderr", data)
        if self._held_bytes >= HELD_BYTES_MAX and not self.aborted:
            self._pause(paused=True)

    def pipe_connection_lost(
        self,
        fd: int,
        exc: Exception | None,  # noqa: ARG002  a pipe that broke has ended as well
    ) -> None:
        """Note the end of a pipe."""
        if fd == 0:
            self._writable.set()
        self._pipes.discard(fd)
        if not self._pipes:
            self._end_with_pipes()

    def process_exited(self) -> None:
        """Note the exit. A child in the background may hold the pipes for a while."""
        assert self._transport is not None, "it was started"
        code = self._transport.get_returncode()
        assert code is not None, "it has exited"
        self._code = code if code >= 0 else _ended_by(-code)
        if self._pipes:
            asyncio.get_running_loop().call_later(PIPES_SECONDS, self._end_without_pipes)
        else:
            self._end_with_pipes()

    def pause_writing(self) -> None:
        """Make writers wait until the process has read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._writable.set()

    def _end_without_pipes(self) -> None:
        """End although a pipe is open; what waits for its receiver does not count."""
        if self._is_paused:
            asyncio.get_running_loop().call_later(PIPES_SECONDS, self._end_without_pipes)
        elif self.exit_code is None:
            self._pipes.clear()
            self._end_with_pipes()

    def _end_with_pipes(self) -> None:
        if self._code is not None and self.exit_code is None:
            assert self._transport is not None, "it was started"
            self._transport.close()
            self._end(self._code)


def _ended_by(number: int) -> int:
    return CONTROL_C_EXIT if number == signal.SIGTERM else 128 + number


class LabShell:
    """A shell of the stand-in: environment and folder of its commands."""

    def __init__(
        self, id_: str, name: str, environment: Mapping[str, str], folder: Path, owner: str
    ) -> None:
        self.id = id_
        self.name = name
        self.environment = environment
        self.folder = folder
        self.owner = owner
        self.idle_seconds = IDLE_SECONDS
        self.asked_at = 0.0
        """When a request for it began or ended last."""
        self.requests = 0
        """The requests for it that are being performed."""
        self.commands: dict[str, Any] = {}
        """Commands of a cmd shell, or pipelines of a runspace pool."""
        self.resource = f"{SHELL}/cmd"

    async def close(self) -> None:
        """End all commands."""
        for command in self.commands.values():
            await command.close()
