"""A command in a shell of a Windows host: follow its output, write its input, end it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import uuid4
from xml.etree.ElementTree import Element

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.remote.output_buffer import OutputBuffer
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.remote.winrm import messages
from opsjobs.remote.winrm.connection import Disconnected, WsmanFault
from opsjobs.remote.winrm.host import QUOTAS, SHELL_GONE, Shell, WinrmHost
from opsjobs.remote.winrm.messages import ProtocolError
from opsjobs.telemetry.logs import log

POLL_SECONDS = 20.0
"""The time for which the host holds a request for output."""
PROOF_SECONDS = 15.0
"""The time for the end of a command after it was terminated."""
REFUSED_PAUSE_SECONDS = 2.0
REFUSED_MAX = 30
"""A request for a running command that a quota refuses is repeated for a minute."""
INPUT_BYTES = 96 * 1024
"""One write to standard input: in base64 it fits in the smallest envelope, 150 KiB."""
SMALL_INPUT_BYTES = 2048
"""Input that fits in any pipe, so that writing it does not wait for the command."""
RECEIVED_AFTER_SIGNAL = 16
"""The responses that are taken without a reader while a command is being ended."""

OPERATION_TIMEOUT = 2150858793
ABORTED = frozenset({995, 1223})
"""The faults of requests for a command that was terminated."""
INPUT_CLOSED = ABORTED | {SHELL_GONE, 109, 232, 0x8007006D, 0x800700E8, 0x800703E3, 0x800704C7}
"""The faults of input for a command that has ended, or has closed its input."""
CONTROL_C_EXIT = -1073741510  # 0xC000013A, of a program that CTRL+C has ended

_CONTACT = (Disconnected, ProtocolError, RemoteFailure)


class WinrmProcess:
    """A command that was started; it is followed from the start on.

    `stdin`: its whole input; None if the caller writes it (`write`).
    """

    def __init__(
        self,
        host: WinrmHost,
        shell: Shell,
        command: str,
        stdin: bytes | None,
        after_kill: Callable[[], Coroutine[Any, Any, None]] | None = None,
        *,
        strict: bool = False,
        urgent: bool = False,
    ) -> None:
        """Follow it.

        `strict`: the command is given up as lost if a piece of its output may be missing. `urgent`:
        its input does not wait for that of others.
        """
        self.ends_with_reader = False
        """True: it is ended when it is closed before its end."""
        self._host = host
        self._strict = strict
        self._inputs = contextlib.nullcontext() if urgent else host.inputs
        self._after_kill = after_kill
        self._shell = shell
        self._command = command
        self._room = asyncio.Event()
        self._room.set()
        self._output = OutputBuffer(pause=self._room.clear, resume=self._room.set)
        self._closed = False
        self._interrupted = False
        self._terminated = False
        self._done = False
        self._unread = 0
        self._refused = 0
        """The requests for output that a quota has refused one after the other."""
        self._doubt: str | None = None
        self._following = asyncio.create_task(self._follow(stdin))

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output, then one RemoteExit."""
        return self._output.read()

    # --- output

    async def _follow(self, stdin: bytes | None) -> None:
        feeding = None
        try:
            if stdin is None:
                pass
            elif len(stdin) <= SMALL_INPUT_BYTES:
                await self._write(stdin)
            else:  # beside the output, which the command may have to write first
                feeding = asyncio.create_task(self._write(stdin))
            while self._output.outcome is None and not await self._receive():
                pass
        except asyncio.CancelledError:
            raise
        except _CONTACT as broken:
            self._lose(f"contact was lost while it was running ({broken})")
        except WsmanFault as fault:
            if self._terminated and fault.code in (*ABORTED, SHELL_GONE):
                self._output.end(RemoteExit(None, "KILL"))
            else:
                self._lose(f"the host no longer knows the command: {fault}")
        except Exception as error:  # noqa: BLE001  else its reader would wait for ever
            log.error("winrm_follow_failed", target=self._host.name, exc_info=error)
            self._lose(f"it can no longer be followed ({type(error).__name__}: {error})")
        finally:
            if feeding is not None:
                feeding.cancel()

    async def _receive(self) -> bool:
        """Ask for output once; return True after the last of it."""
        await self._wait_for_room()
        message = messages.receive(self._shell.id, self._command, POLL_SECONDS)
        try:
            received = messages.received_in(await self._request_output(message))
        except WsmanFault as fault:
            if fault.code == OPERATION_TIMEOUT:  # nothing was written in that time
                self._refused = 0
                return False
            self._refused += 1
            await wait_if_refused(fault, self._refused)
            return False
        self._refused = 0
        for name, data in received.pieces:
            self._output.put("stderr" if name == "stderr" else "stdout", data)
        self._done = received.done
        if received.done and received.exit_code is None and not self._terminated:
            self._lose("the command has ended, and the host did not say how")
        elif received.done:
            self._output.end(self._exit(received.exit_code))
        return received.done

    async def _request_output(self, message: messages.WsmanMessage) -> Element:
        """Ask for output; if the connection breaks, repeat the request with the same id.

        The host may have sent output on the broken connection. It is not known to repeat it, so
        from then on the output may be incomplete.
        """
        try:
            return await self._host.request(message, once=True)
        except Disconnected as lost:
            if self._strict:
                raise
            self._doubt = f"the connection broke during the command ({lost})"
            log.warning("winrm_output_in_doubt", target=self._host.name, reason=str(lost))
        return await self._host.request(message)

    async def _wait_for_room(self) -> None:
        if self._terminated or self._room.is_set():
            return
        if self._interrupted and self._unread < RECEIVED_AFTER_SIGNAL:
            self._unread += 1
            return
        await self._room.wait()

    def _exit(self, code: int | None) -> RemoteExit:
        if self._terminated:
            return RemoteExit(None, "KILL")
        if self._interrupted and code == CONTROL_C_EXIT:
            return RemoteExit(None, "TERM")
        return RemoteExit(code, detail=self._doubt)

    def _lose(self, reason: str) -> None:
        self._output.end(RemoteFailure(ErrorCode.LOST, f"{self._host.name}: {reason}."))

    # --- input

    async def write(self, data: bytes, *, end: bool) -> None:
        """Write to standard input, and close it if `end`.

        A write that a quota refuses is repeated: nothing of it was written. Raises WsmanFault,
        Disconnected, ProtocolError and RemoteFailure: it is then unknown what has arrived.
        """
        for refused in itertools.count(1):
            message = messages.send_input(self._shell.id, self._command, data, end=end)
            try:
                async with self._inputs:
                    await self._host.request(message, once=True)
            except WsmanFault as fault:
                await wait_if_refused(fault, refused)
            else:
                return

    @property
    def in_doubt(self) -> bool:
        """True if a piece of the output may be missing."""
        return self._doubt is not None

    def abandon(self) -> None:
        """End it in the background, with its shell."""
        self._following.cancel()
        self._discard()

    async def _write(self, data: bytes) -> None:
        """Write the whole input and end it; a command that does not read it may end before.

        If a part of it, or its end, may not have arrived, the command is lost.
        """
        try:
            await self._send(data)
        except WsmanFault as fault:
            if fault.code not in INPUT_CLOSED:
                self._cut_off(fault)
        except _CONTACT as broken:
            self._cut_off(broken)
        except Exception as error:  # noqa: BLE001  else the command would wait for ever
            log.error("winrm_input_failed", target=self._host.name, exc_info=error)
            self._cut_off(error)

    async def _send(self, data: bytes) -> None:
        for at in range(0, max(len(data), 1), INPUT_BYTES):
            piece = data[at : at + INPUT_BYTES]
            await self.write(piece, end=at + INPUT_BYTES >= len(data))

    def _cut_off(self, reason: Exception) -> None:
        """Give the command up, and end it: it may wait for input that never comes."""
        if self._interrupted or self._output.outcome is not None:
            return
        self._lose(f"its input was cut off ({reason}), so it is being ended")
        self._discard()

    # --- the end

    async def kill(self, grace_seconds: float) -> CancelProof:
        """Send CTRL+C, and terminate the command after the grace period; return the proof.

        The requests use a connection of their own: the other one waits for output. Before the
        proof its shell is deleted, as what it started may have outlived it.
        """
        if self._output.outcome is not None:
            return CancelProof.ALREADY_FINISHED
        self._interrupted = True
        self._room.set()
        try:
            async with asyncio.timeout(grace_seconds + PROOF_SECONDS):
                await self._signal(messages.CTRL_C)
                if not await self._ended_within(grace_seconds):
                    self._terminated = True
                    self._room.set()
                    await self._signal(messages.TERMINATE)
                    await self._ended_within(PROOF_SECONDS / 3)
                self._closed = True
                is_gone = await self._host.delete(self._shell)
                await self._output.settled.wait()
        except (TimeoutError, *_CONTACT):
            return CancelProof.UNREACHABLE
        return self._proof() if is_gone else CancelProof.UNREACHABLE

    async def _signal(self, code: str) -> None:
        try:
            await self._host.request(messages.signal(self._shell.id, self._command, code))
        except WsmanFault:
            return  # it has just ended: what is received next shows that

    async def _ended_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._output.settled.wait()
        except TimeoutError:
            return False
        return True

    def _proof(self) -> CancelProof:
        if isinstance(self._output.outcome, RemoteFailure):
            return CancelProof.UNREACHABLE
        if self._after_kill is not None:
            self._host.later(self._after_kill())
        return CancelProof.KILLED

    async def close(self) -> None:
        """Stop following it. If it has ended, its shell is kept for the next command."""
        if self._output.outcome is None:
            self._following.cancel()
        if self._closed:
            return
        ended = isinstance(self._output.outcome, RemoteExit)
        if ended and not self._terminated:
            self._closed = True
            self._host.release(self._shell, keep=True)
            self._host.later(self._forget())
        elif ended or self._done or self.ends_with_reader:
            self._discard()
        else:
            self._closed = True
            self._host.leave(self._shell)

    def _discard(self) -> None:
        """End it in the background: with its shell, or alone if another command is in that."""
        if self._closed:
            return
        self._closed = True
        if self._shell.users > 1:
            self._host.later(self._forget())
        self._host.release(self._shell, keep=False)

    async def _forget(self) -> None:
        """Make the host remove the command, which has ended, from its shell."""
        with contextlib.suppress(WsmanFault, *_CONTACT):
            await self._host.request(
                messages.signal(self._shell.id, self._command, messages.TERMINATE)
            )


async def wait_if_refused(fault: WsmanFault, times: int) -> None:
    """Wait before a request is repeated that a quota has refused so many times.

    Raises the fault if it is another one, or if it is time to give up.
    """
    if fault.code not in QUOTAS or times > REFUSED_MAX:
        raise fault
    await asyncio.sleep(REFUSED_PAUSE_SECONDS)


def new_command_id() -> str:
    """Return an id for a command."""
    return str(uuid4()).upper()
