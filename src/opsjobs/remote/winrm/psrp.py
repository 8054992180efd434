"""PowerShell over WinRM (PSRP): a runspace pool for each run, with one pipeline in it.

The state machine is that of psrpcore. A pool is a process of its own on the host, and is not used
again: what a command changes in it (variables, its folder, modules) ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from dataclasses import replace as change
from typing import Any
from uuid import uuid4
from xml.etree.ElementTree import Element

import psrpcore
from psrpcore.types import (
    HostInfo,
    HostMethodIdentifier,
    PSInvocationState,
    RemoteStreamOptions,
    RunspacePoolState,
)

from opsjobs.model.action_base import signed_exit_code
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.remote.output_buffer import OutputBuffer
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.remote.winrm import messages
from opsjobs.remote.winrm.connection import Disconnected, WsmanFault
from opsjobs.remote.winrm.host import REFUSALS, SHELL_GONE, Shell, WinrmHost
from opsjobs.remote.winrm.messages import ProtocolError
from opsjobs.remote.winrm.process import (
    ABORTED,
    OPERATION_TIMEOUT,
    POLL_SECONDS,
    PROOF_SECONDS,
    wait_if_refused,
)
from opsjobs.remote.winrm.programs import HOST_IDLE_SECONDS, UnsupportedProgram, read_helper
from opsjobs.remote.winrm.records import RecordWriter
from opsjobs.telemetry.logs import log

# At level debug it logs whole messages, which hold what jobs are given.
logging.getLogger("psrpcore").setLevel(logging.INFO)

OPEN_SECONDS = 60.0
"""The time for the host to start the process of a pool."""
OBJECT_BYTES_MAX = 32 << 20
"""The maximum size of one object that a host sends, in all of its fragments."""
INPUT_LINES_MAX = 1_000_000
FRAGMENT_HEADER_BYTES = 21
DISCONNECTED = frozenset({0x803381C4, 0x803381DE})
"""The faults of a pool that the host has disconnected."""

_HOST = HostInfo(IsHostNull=False, IsHostUINull=True, IsHostRawUINull=True, UseRunspaceHost=False)
_ENDED = (PSInvocationState.Completed, PSInvocationState.Failed, PSInvocationState.Stopped)
_CONTACT = (Disconnected, ProtocolError, RemoteFailure)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline: a script with its parameters, or commands that an endpoint allows."""

    commands: tuple[tuple[str, tuple[tuple[str | None, Any], ...]], ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    nonce: str = ""


def plan_script(program: Program) -> Pipeline:
    """Return the pipeline that runs a command or a PowerShell script in a helper script.

    The exit code of the last program in a command is that of the command.
    """
    nonce = secrets.token_hex(8)
    script = (program.script or b"").decode("utf-8-sig", "replace")
    parameters = {
        "text": script if program.command is None else program.command,
        "arguments": list(program.args),
        "environment": dict(program.env),
        "folder": program.cwd or "",
        "command": program.command is not None,
        "nonce": nonce,
    }
    return Pipeline((), parameters, _lines(program.stdin or b""), nonce)


def plan_commands(text: str, *, stdin: bytes = b"") -> Pipeline:
    """Return the pipeline of commands, without a script, for endpoints that allow no language.

    Raises UnsupportedProgram for anything but names, parameters and literals.
    """
    found = tuple(_parse_command(part) for part in _split_pipeline(text))
    return Pipeline(found, lines=_lines(stdin))


def _lines(stdin: bytes) -> tuple[str, ...]:
    text = stdin.decode("utf-8", "replace")
    lines = tuple(_LINE_END.split(text))
    if not lines[-1]:  # what follows the last line end, or no input at all
        lines = lines[:-1]
    if len(lines) > INPUT_LINES_MAX:
        raise UnsupportedProgram(f"its input has more than {INPUT_LINES_MAX} lines")
    return lines


_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,8})")
"""Digits that are no such number stay text: 0042 may be a name."""
_TOKEN = re.compile(
    r"\s*(?:(?P<pipe>\|)|(?P<parameter>-[A-Za-z]\w*):?"
    r"|'(?P<single>(?:[^'\u2018-\u201b]|'')*)'|\"(?P<double>[^\"$`\u201c-\u201e]*)\""
    r"|(?P<bare>[\w.:\\/*?+%~=-]+))(?=\s|\||$|(?<=:))"
)


def _split_pipeline(text: str) -> list[list[tuple[str, str]]]:
    """Return the tokens of each command, with their kinds. Raises UnsupportedProgram."""
    found: list[list[tuple[str, str]]] = [[]]
    at, text = 0, text.strip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or token.lastgroup is None:
            raise UnsupportedProgram(
                "this endpoint runs commands with parameters and literal values only (JEA), and "
                f"cannot run: {text[at : at + 40]}"
            )
        if token.lastgroup == "pipe":
            found.append([])
        else:
            value = token[token.lastgroup]
            if token.lastgroup == "single":
                value = value.replace("''", "'")
            found[-1].append((token.lastgroup, value))
        at = token.end()
    return found


def _parse_command(
    tokens: list[tuple[str, str]],
) -> tuple[str, tuple[tuple[str | None, Any], ...]]:
    """Return the name of a command and its parameters. Raises UnsupportedProgram."""
    if not tokens or tokens[0][0] == "parameter":
        raise UnsupportedProgram("a command has no name")
    parameters: list[tuple[str | None, Any]] = []
    waiting: str | None = None
    for kind, text in tokens[1:]:
        if kind == "parameter":
            if waiting is not None:
                parameters.append((waiting, True))
            waiting = text[1:]
            continue
        value: Any = int(text) if kind == "bare" and _NUMBER.fullmatch(text) else text
        parameters.append((waiting, value))
        waiting = None
    if waiting is not None:
        parameters.append((waiting, True))
    return tokens[0][1], tuple(parameters)


class Fragments:
    """Cuts a stream of a host into whole fragments, which is all that psrpcore understands."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._open_bytes = 0

    def add(self, data: bytes) -> bytes:
        """Return the fragments that are whole now. Raises ProtocolError."""
        self._bytes += data
        at = 0
        while len(self._bytes) - at >= FRAGMENT_HEADER_BYTES:
            size = int.from_bytes(self._bytes[at + 17 : at + 21], "big")
            if size + self._open_bytes > OBJECT_BYTES_MAX:
                raise ProtocolError(f"an object has more than {OBJECT_BYTES_MAX >> 20} MiB")
            if len(self._bytes) - at < FRAGMENT_HEADER_BYTES + size:
                break
            ends = self._bytes[at + 16] & 2
            self._open_bytes = 0 if ends else self._open_bytes + size
            at += FRAGMENT_HEADER_BYTES + size
        whole = bytes(self._bytes[:at])
        del self._bytes[:at]
        return whole


class RunspacePool:
    """A pool on the host, for one pipeline."""

    def __init__(self, host: WinrmHost, configuration: str | None) -> None:
        self.host = host
        self.resource = messages.configuration_uri(configuration)
        self.core = psrpcore.ClientRunspacePool(host=_HOST, runspace_pool_id=uuid4())
        self.shell: Shell
        self._fragments = Fragments()
        self._refused = 0

    async def open(self) -> None:
        """Create the pool, and wait until it is open.

        Raises WsmanFault, Disconnected, ProtocolError, RemoteFailure: nothing of a command has
        started then.
        """
        self.core.open()
        opening = self.core.data_to_send()
        assert opening is not None, "it has just been opened"
        self.shell = await self.host.create_pool(
            str(self.core.runspace_pool_id).upper(),
            lambda shell, name: messages.create_pool(
                shell, name, self.resource, opening.data, HOST_IDLE_SECONDS
            ),
            self.resource,
        )
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                while self.core.state is RunspacePoolState.Opening:
                    await self._receive_state()
        except TimeoutError:
            self.discard()
            raise ProtocolError(f"it did not open a pool within {OPEN_SECONDS:.0f} s") from None
        except BaseException:
            self.discard()
            raise
        if self.core.state is not RunspacePoolState.Opened:
            self.discard()
            raise ProtocolError(f"its pool is {self.core.state.name.lower()}")

    async def _receive_state(self) -> None:
        try:
            received = messages.received_in(
                await self.request(messages.receive_output(self.shell.id, None, POLL_SECONDS))
            )
        except WsmanFault as fault:
            if fault.code != OPERATION_TIMEOUT:
                self._refused += 1
                await wait_if_refused(fault, self._refused)
            return
        for event in self.events(received):
            if isinstance(event, psrpcore.RunspacePoolStateEvent) and event.reason is not None:
                raise ProtocolError(f"it does not open a pool: {event.reason}")

    def events(self, received: messages.Received) -> list[Any]:
        """Return what a response of the host says. Raises ProtocolError."""
        found: list[Any] = []
        try:
            for _, data in received.pieces:
                whole = self._fragments.add(data)
                self.core.receive_data(
                    psrpcore.PSRPPayload(whole, psrpcore.StreamType.default, None)
                )
                while (event := self.core.next_event()) is not None:
                    found.append(event)
        except ProtocolError:
            raise
        except Exception as error:  # noqa: BLE001  psrpcore raises what its parsers raise
            raise ProtocolError(f"it sent an object that cannot be read ({error})") from None
        return found

    async def request(self, message: messages.WsmanMessage, *, once: bool = False) -> Element:
        """Send a request of this pool. Raises as `WinrmHost.request`."""
        return await self.host.request(change(message, resource=self.resource), once=once)

    def discard(self) -> None:
        """Delete the pool in the background, with what runs in it."""
        self.host.later(self.host.delete(self.shell))


async def start_pipeline(host: WinrmHost, configuration: str | None, plan: Pipeline) -> PsrpProcess:
    """Open a pool and start the pipeline in it.

    Raises WsmanFault, Disconnected, ProtocolError and RemoteFailure if nothing has started,
    RemoteFailure(LOST) if that is unknown.
    """
    pool = RunspacePool(host, configuration)
    await pool.open()
    pipeline = _build(pool.core, plan)
    pipeline.start()
    try:
        size = await host.input_bytes()
        first = pool.core.data_to_send(size)
        assert first is not None, "a pipeline has at least one fragment"
        command = await _send_start(pool, str(pipeline.pipeline_id).upper(), first.data)
    except BaseException:
        pool.discard()
        raise
    return PsrpProcess(pool, pipeline, command, plan, size)


def _build(core: Any, plan: Pipeline) -> Any:
    pipeline = psrpcore.ClientPowerShell(
        core,
        host=_HOST,
        no_input=not plan.lines,
        remote_stream_options=RemoteStreamOptions.AddInvocationInfoToErrorRecord,
    )
    if not plan.commands:
        pipeline.add_script(read_helper("pipeline")).add_parameter("p", plan.parameters)
        return pipeline
    for name, parameters in plan.commands:
        pipeline.add_command(name)
        for parameter, value in parameters:
            pipeline.add_parameter(parameter, value)
    return pipeline


async def _send_start(pool: RunspacePool, command: str, data: bytes) -> str:
    """Start the pipeline; return the id that the host gave it. Old hosts choose it themselves."""
    message = messages.start_pipeline(pool.shell.id, command, data)
    try:
        return messages.command_id_in(await pool.request(message, once=True))
    except WsmanFault as fault:
        if fault.code in REFUSALS:
            raise
        raise _unconfirmed(pool.host.name, fault) from None
    except Disconnected as lost:
        if lost.rejected:
            raise
        raise _unconfirmed(pool.host.name, lost) from None
    except ProtocolError as error:
        raise _unconfirmed(pool.host.name, error) from None


def _unconfirmed(name: str, reason: Exception) -> RemoteFailure:
    return RemoteFailure(
        ErrorCode.LOST,
        f"{name} was sent the command, and did not confirm its start ({reason}): it is unknown "
        "whether it ran.",
    )


class PsrpProcess:
    """A pipeline that was started; it is followed from the start on."""

    def __init__(
        self, pool: RunspacePool, pipeline: Any, command: str, plan: Pipeline, size: int
    ) -> None:
        self._pool = pool
        self._pipeline = pipeline
        self._command = command
        self._plan = plan
        self._size = size
        self._room = asyncio.Event()
        self._room.set()
        self._output = OutputBuffer(pause=self._room.clear, resume=self._room.set)
        self._writer = RecordWriter(self._output.put)
        self._exit_code: int | None = None
        self._stopping = False
        self._doubt: str | None = None
        self._discarded = False
        self._refused = 0
        self._following = asyncio.create_task(self._follow())

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output, then one RemoteExit."""
        return self._output.read()

    async def _follow(self) -> None:
        feeding = asyncio.create_task(self._feed())
        try:
            while self._output.outcome is None:
                if not self._stopping:
                    await self._room.wait()
                await self._receive()
        except _CONTACT as broken:
            self._lose(f"contact was lost while it was running ({broken})")
        except WsmanFault as fault:
            if self._stopping and fault.code in (*ABORTED, SHELL_GONE):
                self._output.end(RemoteExit(None, "KILL"))
            else:
                self._lose(f"the host no longer knows the command: {fault}")
        except Exception as error:  # noqa: BLE001  else its reader would wait for ever
            log.error("psrp_follow_failed", target=self._pool.host.name, exc_info=error)
            self._lose(f"it can no longer be followed ({type(error).__name__}: {error})")
        finally:
            feeding.cancel()

    async def _receive(self) -> None:
        """Ask for output once, and pass on the records in it."""
        message = messages.receive_output(self._pool.shell.id, self._command, POLL_SECONDS)
        try:
            received = messages.received_in(await self._request_output(message))
        except WsmanFault as fault:
            if fault.code == OPERATION_TIMEOUT:
                self._refused = 0
                return
            if fault.code in DISCONNECTED:
                await self._pool.request(messages.reconnect(self._pool.shell.id))
                return
            self._refused += 1
            await wait_if_refused(fault, self._refused)
            return
        self._refused = 0
        for event in self._pool.events(received):
            self._take(event)
        if received.done and self._output.outcome is None:
            self._lose("the pipeline has ended, and the host did not say how")

    async def _request_output(self, message: messages.WsmanMessage) -> Element:
        message = change(message, resource=self._pool.resource)
        try:
            return await self._pool.host.request(message, once=True)
        except Disconnected as lost:
            self._doubt = f"the connection broke during the command ({lost})"
            log.warning("winrm_output_in_doubt", target=self._pool.host.name, reason=str(lost))
        return await self._pool.host.request(message)

    def _take(self, event: Any) -> None:
        if isinstance(event, psrpcore.PipelineStateEvent):
            if event.state in _ENDED:
                self._end(event)
        elif isinstance(event, psrpcore.PipelineHostCallEvent):
            if event.method_identifier is HostMethodIdentifier.SetShouldExit:
                self._exit_code = int(event.method_parameters[0])
        else:
            self._writer.write(event)

    def _end(self, event: Any) -> None:
        if event.state is PSInvocationState.Stopped:
            self._output.end(RemoteExit(None, "TERM"))
            return
        code = self._exit_code or 0
        if event.state is PSInvocationState.Failed and self._exit_code is None:
            if self._plan.nonce and str(event.reason) == f"{self._plan.nonce} folder":
                folder = self._plan.parameters["folder"]
                words = f"the working directory {folder} is not there, or cannot be entered"
                self._output.end(RemoteExit(None, None, "folder", words))
                return
            self._writer.write_error(event.reason)
            code = 1
        self._output.end(RemoteExit(signed_exit_code(code), detail=self._doubt))

    def _lose(self, reason: str) -> None:
        self._output.end(RemoteFailure(ErrorCode.LOST, f"{self._pool.host.name}: {reason}."))

    async def _feed(self) -> None:
        """Send what is left of the pipeline, and its input; each line is an object.

        If a part of it may not have arrived, the pipeline is lost.
        """
        try:
            await self._flush()
            if self._plan.lines:
                for line in self._plan.lines:
                    self._pipeline.send(line)
                    if len(self._pool.core._send_buffer) > 200:
                        await self._flush()
                self._pipeline.send_eof()
                await self._flush()
        except WsmanFault as fault:
            if not (fault.code in ABORTED or fault.code == SHELL_GONE):
                self._cut_off(fault)
        except _CONTACT as broken:
            self._cut_off(broken)
        except Exception as error:  # noqa: BLE001  else the pipeline would wait for ever
            log.error("psrp_input_failed", target=self._pool.host.name, exc_info=error)
            self._cut_off(error)

    async def _flush(self) -> None:
        while (payload := self._pool.core.data_to_send(self._size)) is not None:
            await self._send(payload.data)

    async def _send(self, data: bytes) -> None:
        """Send fragments; repeat what a quota refuses, as nothing of it has arrived."""
        for refused in itertools.count(1):
            message = messages.send_objects(self._pool.shell.id, self._command, data)
            try:
                await self._pool.request(message, once=True)
            except WsmanFault as fault:
                await wait_if_refused(fault, refused)
            else:
                return

    def _cut_off(self, reason: Exception) -> None:
        if not self._stopping and self._output.outcome is None:
            self._lose(f"its input was cut off ({reason}), so it is being ended")
            self._discard()

    # --- the end

    async def kill(self, grace_seconds: float) -> CancelProof:
        """Stop the pipeline; delete its pool, with what it started, and return the proof."""
        if self._output.outcome is not None:
            return CancelProof.ALREADY_FINISHED
        self._stopping = True
        self._room.set()
        try:
            async with asyncio.timeout(grace_seconds + PROOF_SECONDS):
                with contextlib.suppress(WsmanFault):
                    await self._pool.request(
                        messages.signal(self._pool.shell.id, self._command, messages.STOP_PIPELINE)
                    )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_seconds):
                        await self._output.settled.wait()
                self._discarded = True
                is_gone = await self._pool.host.delete(self._pool.shell)
                await self._output.settled.wait()
        except (TimeoutError, *_CONTACT):
            return CancelProof.UNREACHABLE
        lost = isinstance(self._output.outcome, RemoteFailure)
        return CancelProof.UNREACHABLE if lost or not is_gone else CancelProof.KILLED

    def _discard(self) -> None:
        if not self._discarded:
            self._discarded = True
            self._pool.discard()

    async def close(self) -> None:
        """Stop following it; delete its pool if it has ended."""
        if self._output.outcome is None:
            self._following.cancel()
        else:
            self._discard()
