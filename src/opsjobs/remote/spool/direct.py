"""A program that ends with its channel.

It is sent as one line if that can hold everything, else with records of its shell.
"""

from __future__ import annotations

import asyncio
import shlex
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from opsjobs.model.execution import CancelProof
from opsjobs.model.program import Program
from opsjobs.remote.session import (
    Cause,
    Output,
    RemoteExit,
    RemoteProcess,
    explain_no_shell,
    explain_unstarted,
)
from opsjobs.remote.spool import script
from opsjobs.remote.spool.become import quote
from opsjobs.remote.spool.channel import RecordParser
from opsjobs.remote.spool.program import SHORT_BYTES, exports

_CAUSES: dict[str, Cause] = {"interpreter": "interpreter", "folder": "folder", "storage": "storage"}


PLAIN_SHELLS = frozenset({"/bin/sh", "/usr/bin/sh", "/bin/dash", "/usr/bin/dash", "/bin/ash"})
"""Login shells that run the lines unchanged, without reading a file of the user's first."""

_UNLIKE = frozenset("\n!\\")
"""Characters that login shells read differently in single quotes."""


def build_one_line(program: Program, *, plain: bool) -> Callable[[str], str] | None:
    """Return a function that makes the whole program a command line, or None if it has files.

    The function is passed shell code that prints the shell and its process id. A program without
    files needs nothing over its standard input, which halves the cost on its target. A login shell
    that is `plain` is the program's own shell; any other one becomes a `sh`, or starts one if it is
    too restricted for that.
    """
    command = program.command
    if command is None or program.cwd is not None or program.stdin or program.secrets:
        return None
    words = f"{exports(program.env)}; {command}" if program.env else command
    if len(words) > SHORT_BYTES:
        return None
    if plain:
        return lambda tell: f"{tell}\n{words}"
    if not _UNLIKE.isdisjoint(words):
        return None
    # If the shell cannot parse this, the error is its own: it has identified itself before.
    spoken = shlex.quote(words)
    return lambda tell: (
        f"exec sh -c {quote(f'{tell}; eval {spoken}')} "
        f"|| eval {quote(tell)} && sh -c {quote(words)}"
    )


async def start_directly(
    start: Callable[[str, bytes], Awaitable[RemoteProcess]], program: Program
) -> RemoteProcess:
    """Start a program by a request. Raises RemoteFailure as `start`."""
    request = script.start_program(program)
    # Replace the login shell, which would not wait for processes that handle a signal; a
    # restricted one can only start a child.
    line = f"exec {request.line()} || {request.line()}"
    return ReportingProcess(await start(line, request.stdin), request.nonce, program)


class ReportingProcess:
    """A program whose shell reports its start, or the failure to start, on standard error.

    The reports carry a nonce that is not passed to the program. `explain` returns the exit of a
    program whose start was not reported.
    """

    def __init__(
        self,
        process: RemoteProcess,
        nonce: str,
        program: Program,
        explain: Callable[[RemoteExit], RemoteExit] = explain_no_shell,
    ) -> None:
        self._process = process
        self._records = RecordParser(nonce, "stderr")
        self._program = program
        self._explain = explain
        self._pieces: AsyncIterator[Output | RemoteExit] | None = None
        self._over = False
        self._ready: deque[Output | RemoteExit] = deque()
        self._begun = False
        self._cause: Cause | None = None

    async def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output, then one RemoteExit. A cancelled reader may read again."""
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self._over:
                return
            self._take(await self._pull())

    async def _pull(self) -> Output | RemoteExit:
        if self._pieces is None:
            self._pieces = aiter(self._process)
        try:
            return await anext(self._pieces)
        except asyncio.CancelledError:
            self._pieces = None  # a cancelled iterator is finished; a new one continues
            raise

    def _take(self, piece: Output | RemoteExit) -> None:
        if isinstance(piece, RemoteExit):
            self._over = True
            self._ready.extend(self._records.rest())
            self._ready.append(self._end(piece))
            return
        if piece.stream == "stdout":
            self._ready.append(piece)
            return
        for item in self._records.feed(piece.data):
            if isinstance(item, Output):
                self._ready.append(item)
            elif item[0] == "B":
                self._begun = True
            else:
                self._cause = _CAUSES.get(item[-1])

    def _end(self, end: RemoteExit) -> RemoteExit:
        if self._cause is not None:
            return explain_unstarted(self._cause, self._program)
        return end if self._begun else self._explain(end)

    async def kill(self, grace_seconds: float) -> CancelProof:
        """Send TERM to its process group, and KILL after the grace period."""
        return await self._process.kill(grace_seconds)

    async def close(self) -> None:
        """Close the channel."""
        await self._process.close()
