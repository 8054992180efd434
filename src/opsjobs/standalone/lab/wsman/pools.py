"""The runspace pools of the stand-in: PSRP by psrpcore, in front of its PowerShell."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from typing import Any

import psrpcore
from psrpcore.types import (
    ErrorCategoryInfo,
    ErrorRecord,
    HostMethodIdentifier,
    NETException,
    PSCustomObject,
    PSInvocationState,
)

from opsjobs.standalone.lab.wsman.commands import LabShell
from opsjobs.standalone.lab.wsman.stand_in_command import make_command

FRAGMENT_BYTES = 32 * 1024
FRAGMENT_HEADER_BYTES = 21


class LabStream:
    """Output of a pool, or of one of its pipelines, until it is received."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.ended = False
        self.aborted = False
        self.exit_code: int | None = None
        self.changed = asyncio.Event()
        self.last: tuple[str, bytes] | None = None
        self._held: deque[bytes] = deque()

    def put(self, data: bytes) -> None:
        """Add a fragment."""
        self._held.append(data)
        self.changed.set()

    @property
    def done(self) -> bool:
        """True if it has ended and everything was received."""
        return self.ended and not self._held

    @property
    def ready(self) -> bool:
        """True if a request for output can be answered now."""
        return bool(self._held) or self.ended or self.aborted

    def take(self, size: int) -> list[tuple[str, bytes]]:
        """Return the next fragments, at most `size` bytes of them."""
        taken: list[tuple[str, bytes]] = []
        while self._held and (not taken or len(self._held[0]) <= size):
            data = self._held.popleft()
            size -= len(data)
            taken.append(("stdout", data))
        return taken


class LabPipeline(LabStream):
    """A pipeline: a process of the stand-in's PowerShell that reports records."""

    def __init__(self, id_: str, pool: LabPool) -> None:
        super().__init__(id_)
        self.core = psrpcore.ServerPipeline(pool.core, uuid.UUID(id_))
        self._pool = pool
        self._input: list[Any] = []
        self._process: asyncio.subprocess.Process | None = None
        self._running: asyncio.Task[None] | None = None

    def take_input(self, value: Any) -> None:
        """Add one object of its input."""
        self._input.append(value)

    def begin(self) -> None:
        """Run it, once its input is complete."""
        if self._running is None:
            self.core.start()
            self._pool.flush()
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            failed = await self._run_process()
        except (OSError, RuntimeError) as error:  # RuntimeError: asyncio watches no children
            failed = f"The stand-in cannot run it: {error}"
        self._finish(failed)

    async def _run_process(self) -> str | None:
        """Run the pipeline to its end; return why it failed. Raises OSError, RuntimeError."""
        metadata: Any = self.core.metadata
        commands = [
            {
                "text": str(command.command_text),
                "script": bool(command.is_script),
                "parameters": [[_plain(name), _plain(value)] for name, value in command.parameters],
            }
            for command in metadata.commands
        ]
        self._process = await asyncio.create_subprocess_exec(
            *make_command("powershell_stand_in", "records"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._pool.environment),
            cwd=self._pool.folder,
            limit=8 << 20,
        )  # fmt: skip
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "it is a pipe"
        assert stdout is not None, "it is a pipe"
        stdin.write(json.dumps({"commands": commands, "input": self._input}).encode() + b"\n")
        stdin.close()
        failed: str | None = None
        while line := await stdout.readline():
            record = json.loads(line)
            if record["stream"] == "failed":
                failed = record["value"]
            elif self.core.state is PSInvocationState.Running:
                self._write(record["stream"], record["value"])
                self._pool.flush()
        await self._process.wait()
        return failed

    def _write(self, stream: str, value: Any) -> None:
        """Report one record to the client."""
        core = self.core
        if stream == "output":
            core.write_output(PSCustomObject(**value) if isinstance(value, dict) else value)
        elif stream == "error":
            core.write_error(NETException(Message=value), fully_qualified_error_id="LabError")
        elif stream == "progress":
            core.write_progress(
                value["activity"], 1, value["status"], percent_complete=value["percent"]
            )
        elif stream == "information":
            core.write_information(value, "stand-in", tags=["PSHOST"])
        elif stream == "exit":
            core.host_call(HostMethodIdentifier.SetShouldExit, [value])
        else:
            {"warning": core.write_warning, "verbose": core.write_verbose}.get(
                stream, core.write_debug
            )(value)

    def _finish(self, failed: str | None) -> None:
        if self.core.state is not PSInvocationState.Running:
            return
        if failed is None:
            self.core.complete()
        else:
            error = ErrorRecord(
                Exception=NETException(Message=failed),
                CategoryInfo=ErrorCategoryInfo(),
                FullyQualifiedErrorId="RuntimeException",
            )
            self.core._change_state(PSInvocationState.Failed, error)
        self._pool.flush()
        self.ended = True
        self.changed.set()

    def stop(self) -> None:
        """End it, as CTRL+C does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self.core.state is PSInvocationState.Running:
            self.core.stop()
            self._pool.flush()
        self.ended = True
        self.changed.set()

    def terminate(self) -> None:
        """End it, and abort requests for its output unless it had ended."""
        self.aborted = not self.ended
        self.stop()

    async def close(self) -> None:
        """End it, and wait for that."""
        self.terminate()
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=2)
            self._running.cancel()
            await asyncio.wait({self._running})


class LabPool(LabShell):
    """A runspace pool."""

    def __init__(self, resource: str, *shell: Any) -> None:
        super().__init__(*shell)
        self.resource = resource
        self.core = psrpcore.ServerRunspacePool()
        self.stream = LabStream("")
        self.disconnected = False
        self.pipelines: dict[str, LabPipeline] = {}

    def feed(self, data: bytes) -> None:
        """Take what a client sends. Raises PSRPCoreError."""
        self.core.receive_data(psrpcore.PSRPPayload(data, psrpcore.StreamType.default, None))
        while (event := self.core.next_event()) is not None:
            self._take(event)
        self.flush()

    def _take(self, event: Any) -> None:
        pipeline = self.pipelines.get(str(event.pipeline_id).upper())
        if isinstance(event, psrpcore.GetAvailableRunspacesEvent):
            self.core.runspace_availability_response(event.ci, self.core.max_runspaces)
        elif isinstance(event, (psrpcore.SetMaxRunspacesEvent, psrpcore.SetMinRunspacesEvent)):
            self.core.runspace_availability_response(event.ci, response=True)
        elif pipeline is None:
            return
        elif isinstance(event, psrpcore.PipelineInputEvent):
            pipeline.take_input(_plain(event.data))
        elif isinstance(event, psrpcore.EndOfPipelineInputEvent) or (
            isinstance(event, psrpcore.CreatePipelineEvent) and event.pipeline.no_input
        ):
            pipeline.begin()

    def flush(self) -> None:
        """Move what is to be sent to the streams."""
        while (payload := self.core.data_to_send(FRAGMENT_BYTES)) is not None:
            pipeline = self.pipelines.get(str(payload.pipeline_id).upper())
            (pipeline or self.stream).put(payload.data)

    def connect(self, data: bytes) -> bytes:
        """Connect another client to the pool; return what answers it."""
        self.core.disconnect()
        self.core.connect()
        self.core.receive_data(psrpcore.PSRPPayload(data, psrpcore.StreamType.default, None))
        while self.core.next_event() is not None:
            pass
        payload = self.core.data_to_send()
        assert payload is not None, "a client is told what the pool is"
        first = FRAGMENT_HEADER_BYTES + int.from_bytes(payload.data[17:21], "big")
        self.stream.put(payload.data[first:])
        self.flush()
        self.disconnected = False
        return payload.data[:first]

    def add(self, command_id: str, data: bytes) -> None:
        """Start a pipeline. Raises PSRPCoreError."""
        pipeline = LabPipeline(command_id.upper(), self)
        self.pipelines[pipeline.id] = pipeline
        self.commands[command_id] = pipeline
        self.feed(data)

    async def close(self) -> None:
        """End all pipelines."""
        self.stream.aborted = True
        self.stream.changed.set()
        await super().close()


def _plain(value: Any) -> Any:
    """Return a value of PowerShell as one that JSON has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value)
