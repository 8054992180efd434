"""The commands of the stand-in: processes of /bin/sh, and their output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opsjobs.standalone.lab.wsman.envelopes import SHELL

HELD_BYTES_MAX = 256 * 1024
"""Output that waits in the host; the process waits at its pipe above this."""
READ_BYTES = 64 * 1024
PIPES_SECONDS = 1.0
"""The time for which the pipes may stay open after the process has ended."""
CONTROL_C_EXIT = 0xC000013A
IDLE_SECONDS = 7200.0
"""The idle time of a shell for which no other one is asked."""


class LabCommand:
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
        self._room = asyncio.Event()
        self._room.set()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, line: str, environment: Mapping[str, str], folder: Path) -> None:
        """Start the line in /bin/sh. Raises OSError."""
        self._process = await asyncio.create_subprocess_exec(
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
        self._reading = asyncio.create_task(self._read_all())

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
            self._room.set()
        return taken

    async def write(self, data: bytes, *, end: bool) -> None:
        """Write to standard input. Raises BrokenPipeError if nothing reads it."""
        assert self._process is not None, "it was started"
        stdin = self._process.stdin
        assert stdin is not None, "it is a pipe"
        if data:
            stdin.write(data)
            await stdin.drain()
        if end:
            stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Signal the command and its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def terminate(self) -> None:
        """End it at once; requests for its output are aborted."""
        if self.exit_code is None:
            self.signal(signal.SIGKILL)
            self.aborted = True
        self._room.set()
        self.changed.set()

    async def close(self) -> None:
        """End it, and wait for that."""
        self.terminate()
        if self._reading is not None:
            self._held.clear()
            await asyncio.wait({self._reading}, timeout=PIPES_SECONDS * 2)
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _read_all(self) -> None:
        process = self._process
        assert process is not None, "it was started"
        assert process.stdout is not None, "it is a pipe"
        assert process.stderr is not None, "it is a pipe"
        pipes = {
            asyncio.create_task(self._read("stdout", process.stdout)),
            asyncio.create_task(self._read("stderr", process.stderr)),
        }
        try:
            code = await process.wait()
            # A child in the background may hold the pipes; what waits for its receiver does not
            # count.
            while True:
                _, left = await asyncio.wait(pipes, timeout=PIPES_SECONDS)
                if not left or self._room.is_set():
                    break
        finally:
            for pipe in pipes:
                pipe.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)
        self.exit_code = code if code >= 0 else _ended_by(-code)
        self.changed.set()

    async def _read(self, name: str, pipe: asyncio.StreamReader) -> None:
        while data := await pipe.read(READ_BYTES):
            self._held.append((name, data))
            self._held_bytes += len(data)
            self.changed.set()
            if self._held_bytes >= HELD_BYTES_MAX and not self.aborted:
                self._room.clear()
                await self._room.wait()


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
