r"""Scripted machines for tests of what stands on sessions: they run nothing and do exactly as they are told.

fakes = FakeSessions(clock)
web = fakes.machine("web-1")
web.reply([Output("stdout", b"ok\n"), Exit(0)])            # for any command
web.reply([Gate(event), Exit(0)], to="sleep 60")           # for one command; the later rule wins
web.refuse(RemoteFailure(ErrorCode.AUTH_FAILED, "no"))     # at connect, until `accept()`
web.starts                                                 # every start that happened, in order
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from opsjobs.clock import Clock, SystemClock
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.failures import RemoteFailure
from opsjobs.model.target import Endpoint, Target
from opsjobs.remote.command import check_command
from opsjobs.remote.outflow import Outflow
from opsjobs.remote.session import Exit, HostKey, Output, Process, Session, Step


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long by the clock that the fakes were given."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Gate:
    """Wait until the test opens it; `reached` is set when the command stands before it."""

    event: asyncio.Event
    reached: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Echo:
    """Write the command's standard input to its standard output."""


@dataclass(frozen=True, slots=True)
class Break:
    """Contact breaks here: the reader gets this failure."""

    failure: RemoteFailure = field(default_factory=lambda: RemoteFailure(ErrorCode.LOST, "Contact broke (as scripted)."))


Deed = Output | Exit | Pause | Gate | Echo | Break
Script = Sequence[Deed] | Callable[[str, bytes], Sequence[Deed]]
"""What a command does, or a function of the command line and its standard input that tells."""


@dataclass(frozen=True, slots=True)
class Start:
    """A command that was started."""

    command: str
    stdin: bytes
    at: datetime


@dataclass(slots=True)
class FakeMachine:
    """One machine: what it answers, and what was asked of it."""

    name: str
    starts: list[Start] = field(default_factory=list)
    kills: list[CancelProof] = field(default_factory=list)
    connects: int = 0
    """Sessions that were asked for."""
    open_sessions: int = 0
    connect_seconds: float = 0.0
    connect_gate: Gate | None = None
    start_gate: Gate | None = None
    ignores_term: bool = False
    unkillable: bool = False
    """True: a kill ends as `unreachable`, and the command goes on."""
    processes: list[FakeProcess] = field(default_factory=list)
    _rules: list[tuple[str | None, Script]] = field(default_factory=list)
    _refusal: RemoteFailure | None = None
    _start_refusals: list[RemoteFailure] = field(default_factory=list)

    def reply(self, script: Script, *, to: str | None = None) -> FakeMachine:
        """What commands do from now on: all of them, or those whose line is `to`."""
        self._rules.append((to, script))
        return self

    def refuse(self, failure: RemoteFailure) -> None:
        """Every session ends with this failure until `accept`."""
        self._refusal = failure

    def accept(self) -> None:
        """Sessions are good again."""
        self._refusal = None

    def refuse_start(self, failure: RemoteFailure, *, times: int = 1) -> None:
        """The next starts end with this failure; one with LOST is recorded as a start, for it may have run."""
        self._start_refusals.extend([failure] * times)

    def script_for(self, command: str, stdin: bytes) -> Sequence[Deed]:
        """The deeds of a command: by the last rule that fits, else a silent success."""
        for to, script in reversed(self._rules):
            if to is None or to == command:
                return script(command, stdin) if callable(script) else script
        return [Exit(0)]

    def start_refusal(self) -> RemoteFailure | None:
        """The failure of the start that is happening now, if it has one."""
        return self._start_refusals.pop(0) if self._start_refusals else None

    async def connect(self, clock: Clock) -> None:
        """What happens at connect. Raises RemoteFailure."""
        self.connects += 1
        await _wait(self.connect_gate)
        if self.connect_seconds:
            await clock.sleep(self.connect_seconds)
        if self._refusal is not None:
            raise RemoteFailure(self._refusal.code, self._refusal.message)


class FakeSessions:
    """The Sessions of machines that are only scripts; a machine is found by its target's name."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.machines: dict[str, FakeMachine] = {}

    def machine(self, name: str) -> FakeMachine:
        """The machine of this name, made at the first call."""
        return self.machines.setdefault(name, FakeMachine(name))

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """A session, or the failure that the machine was told to give."""
        machine = self.machine(endpoint.target.name)
        await machine.connect(self._clock)
        session = FakeSession(machine, self._clock)
        machine.open_sessions += 1
        try:
            yield session
        finally:
            machine.open_sessions -= 1
            await session.close()

    async def test(self, endpoint: Endpoint) -> list[Step]:
        """The steps that the machine's answer makes."""
        try:
            await self.machine(endpoint.target.name).connect(self._clock)
        except RemoteFailure as failure:
            return [Step("connect", False, 0.0, failure.message)]
        return [Step(name, True, 0.0) for name in ("connect", "auth", "shell")]

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """A key made of the machine's name."""
        target: Target = endpoint.target
        await self.machine(target.name).connect(self._clock)
        return [HostKey(f"ssh-ed25519 {target.name}", f"SHA256:{target.name}")]

    async def close(self) -> None:
        """End the scripts that still run."""
        for machine in self.machines.values():
            for process in machine.processes:
                await process.close()


class FakeSession:
    """Starts scripts."""

    def __init__(self, machine: FakeMachine, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._started: list[FakeProcess] = []

    async def start(self, command: str, *, stdin: bytes = b"") -> Process:
        """Start the script of this command line. Raises what `refuse_start` was told."""
        check_command(command)
        machine = self._machine
        await _wait(machine.start_gate)
        refusal = machine.start_refusal()
        if refusal is None or refusal.code is ErrorCode.LOST:
            machine.starts.append(Start(command, stdin, self._clock.now()))
        if refusal is not None:
            raise refusal
        process = FakeProcess(machine, machine.script_for(command, stdin), stdin, self._clock)
        machine.processes.append(process)
        self._started.append(process)
        return process

    async def close(self) -> None:
        """Let go of what was started."""
        for process in self._started:
            await process.close()


class FakeProcess:
    """A script that runs."""

    def __init__(self, machine: FakeMachine, deeds: Sequence[Deed], stdin: bytes, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._go_on = asyncio.Event()
        self._go_on.set()
        self._outflow = Outflow(pause=self._go_on.clear, resume=self._go_on.set)
        self._task = asyncio.create_task(self._play(deeds, stdin))

    def __aiter__(self) -> AsyncIterator[Output | Exit]:
        """The script's output, then its Exit or its failure."""
        return self._outflow.read()

    async def _play(self, deeds: Sequence[Deed], stdin: bytes) -> None:
        for deed in deeds:
            await self._go_on.wait()
            match deed:
                case Output(stream, data):
                    self._outflow.put(stream, data)
                case Echo():
                    self._outflow.put("stdout", stdin)
                case Exit():
                    self._outflow.end(deed)
                case Break(failure):
                    self._outflow.end(failure)
                case Pause(seconds):
                    await self._clock.sleep(seconds)
                case Gate():
                    await _wait(deed)
        self._outflow.end(Exit(0))

    async def kill(self, grace_seconds: float) -> CancelProof:
        """TERM, or after the grace KILL for a machine whose commands ignore TERM."""
        proof = await self._kill(grace_seconds)
        self._machine.kills.append(proof)
        return proof

    async def _kill(self, grace_seconds: float) -> CancelProof:
        outcome = self._outflow.outcome
        if isinstance(outcome, RemoteFailure) or (outcome is None and self._machine.unkillable):
            return CancelProof.UNREACHABLE
        if outcome is not None:
            return CancelProof.ALREADY_FINISHED
        if self._machine.ignores_term:
            await self._clock.sleep(grace_seconds)
        self._task.cancel()
        self._outflow.end(Exit(None, "KILL" if self._machine.ignores_term else "TERM"))
        return CancelProof.KILLED

    async def close(self) -> None:
        """Let go: the script ends here."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _wait(gate: Gate | None) -> None:
    if gate is not None:
        gate.reached.set()
        await gate.event.wait()
