"""A scripted machine: its answers, the record of requests, and ways to break it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from kit.fake_remote.disk import FakeFiles
from kit.fake_remote.run import FakeRun
from kit.fake_remote.script import Break, Deed, Echo, Gate, Pause, Script, wait_at_gate
from opsjobs.clock import Clock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program, RunKey, SpoolIdentity, StartOrder
from opsjobs.remote.output_buffer import OutputBuffer
from opsjobs.remote.session import NotStarted, Output, RemoteExit, explain_unstarted


@dataclass(frozen=True, slots=True)
class Start:
    """A command that was started; `order` if durable, `program` if it is more than a line."""

    command: str
    stdin: bytes
    at: datetime
    order: StartOrder | None = None
    program: Program | None = None


@dataclass(slots=True)
class FakeMachine:
    """One machine. Its durable runs outlive sessions, contact and workers."""

    name: str
    starts: list[Start] = field(default_factory=list)
    kills: list[CancelProof] = field(default_factory=list)
    """The proofs of every kill and cancel."""
    connects: int = 0
    """The number of sessions that were requested."""
    open_sessions: int = 0
    connect_seconds: float = 0.0
    auth_seconds: float | None = None
    """The reported duration of each login; None: there is no login."""
    connect_gate: Gate | None = None
    start_gate: Gate | None = None
    ignores_term: bool = False
    unkillable: bool = False
    """True: a kill ends as `unreachable`, and the command continues."""
    durable_off: bool = False
    """True: its platform has no durable runs."""
    no_spool: str | None = None
    """The reason that it cannot keep durable runs at present, or None."""
    interpreters: set[str] | None = None
    """The interpreters that it has; None: all."""
    folders: set[str] | None = None
    """The working directories that it has; None: all."""
    diskless: str | None = None
    """The reason that it serves no files, or None."""
    files: FakeFiles = field(default_factory=FakeFiles)
    processes: list[FakeProcess] = field(default_factory=list)
    """The processes that were started directly."""
    runs: dict[RunKey, FakeRun] = field(default_factory=dict)
    """The durable runs that it has recorded, ended ones as well."""
    voids: set[RunKey] = field(default_factory=set)
    """Keys that can never start any more."""
    cleaned: list[RunKey] = field(default_factory=list)
    kept: set[RunKey] = field(default_factory=set)
    """The runs whose files are held open: no cleaning removes them."""
    unheard: int = 0
    """The number of next start requests that get no answer, and start nothing."""
    up_seconds: float | None = None
    """Its reported uptime after a reboot; None: it cannot report one."""
    contacts: int = 0
    """Grows whenever contact breaks: older sessions are dead."""
    _store: int = 1
    _boot: int = 1
    _away: bool = False
    _rules: list[tuple[str | None, Script]] = field(default_factory=list)
    _refusal: RemoteFailure | None = None
    _start_refusals: list[tuple[RemoteFailure | NotStarted, bool]] = field(default_factory=list)

    @property
    def identity(self) -> SpoolIdentity:
        """Return the present identity of the spool."""
        return SpoolIdentity(f"{self.name}-store-{self._store}", f"{self.name}-boot-{self._boot}")

    def reply(self, script: Script, *, to: str | None = None) -> FakeMachine:
        """Set what commands do from now on: all of them, or those whose line is `to`."""
        self._rules.append((to, script))
        return self

    def refuse(self, failure: RemoteFailure) -> None:
        """Fail every session with this failure until `accept`."""
        self._refusal = failure

    def accept(self) -> None:
        """Accept sessions again."""
        self._refusal = None

    def refuse_start(
        self, failure: RemoteFailure | NotStarted, *, times: int = 1, begun: bool = True
    ) -> None:
        """Fail the next starts with this failure.

        One with LOST is recorded as a start, for it may have run. A durable run has then started,
        and continues, unless `begun` is False: the caller gets ContactLost in both cases. NotStarted:
        it died before it started, and voids the key.
        """
        self._start_refusals.extend([(failure, begun)] * times)

    def start_refusal(self) -> tuple[RemoteFailure | NotStarted | None, bool]:
        """Return the failure of the present start, if any, and whether its command runs anyway."""
        return self._start_refusals.pop(0) if self._start_refusals else (None, True)

    def cut(self) -> None:
        """Break all contact and refuse sessions until `mend`; commands continue."""
        self._away = True
        self._break_contact()

    def mend(self) -> None:
        """Make the machine reachable again."""
        self._away = False

    def reboot(self) -> None:
        """End everything that runs and break contact; the records of ended runs are kept."""
        self._boot += 1
        self._break_contact()
        for run in self.runs.values():
            run.vanish()

    def reimage(self) -> None:
        """Replace the system under the same name: it has no record of anything before."""
        self._store += 1
        self.reboot()
        self.runs.clear()
        self.voids.clear()

    def lose_wrapper(self, key: RunKey) -> None:
        """Kill the supervisor of this run: its end will not be recorded, unless a cancel ends it."""
        self.runs[key].orphan()

    def script_for(
        self, command: str, stdin: bytes, program: Program | None = None
    ) -> Sequence[Deed]:
        """Return the deeds of a command: by the last matching rule, else a silent success.

        If the machine lacks something, the only deed is that exit.
        """
        if program is not None and (missing := self._lacking(program)) is not None:
            return [missing]
        for to, script in reversed(self._rules):
            if to is None or to == command:
                return script(command, stdin) if callable(script) else script
        return [RemoteExit(0)]

    def _lacking(self, program: Program) -> RemoteExit | None:
        """Return the exit of a program that this machine cannot start."""
        if program.cwd is not None and self.folders is not None and program.cwd not in self.folders:
            return explain_unstarted("folder", program)
        if (
            program.script is not None
            and self.interpreters is not None
            and program.interpreter not in self.interpreters
        ):
            return explain_unstarted("interpreter", program)
        return None

    async def connect(self, clock: Clock) -> None:
        """Connect as scripted. Raises RemoteFailure."""
        self.connects += 1
        await wait_at_gate(self.connect_gate)
        if self.connect_seconds:
            await clock.sleep(self.connect_seconds)
        if self._refusal is not None:
            raise RemoteFailure(
                self._refusal.code, self._refusal.message, because=self._refusal.because
            )
        if self._away:
            raise RemoteFailure(
                ErrorCode.CONNECTION_REFUSED,
                f"{self.name} cannot be reached: it was cut off (as scripted).",
            )

    def check_contact(self, since: int) -> None:
        """Raise RemoteFailure(CONNECTION_LOST) for a dead session.

        `since` is the value of `contacts` when the session was opened.
        """
        if since != self.contacts:
            raise RemoteFailure(
                ErrorCode.CONNECTION_LOST,
                f"Connection to {self.name} had been lost before this was asked of it.",
            )

    async def close(self) -> None:
        """End the scripts that still run."""
        for process in self.processes:
            await process.close()
        for run in self.runs.values():
            await run.close()

    def _break_contact(self) -> None:
        self.contacts += 1
        for process in self.processes:
            process.cut()
        for run in self.runs.values():
            run.cut()


class FakeProcess:
    """A script that runs for one reader, and ends when it is closed."""

    def __init__(
        self, machine: FakeMachine, deeds: Sequence[Deed], stdin: bytes, clock: Clock
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._go_on = asyncio.Event()
        self._go_on.set()
        self._outflow = OutputBuffer(pause=self._go_on.clear, resume=self._go_on.set)
        self._task = asyncio.create_task(self._play(deeds, stdin))

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the script's output, then its exit or its failure."""
        return self._outflow.read()

    async def _play(self, deeds: Sequence[Deed], stdin: bytes) -> None:
        for deed in deeds:
            await self._go_on.wait()
            match deed:
                case Output(stream, data):
                    self._outflow.put(stream, data)
                case Echo():
                    self._outflow.put("stdout", stdin)
                case RemoteExit():
                    self._outflow.end(deed)
                case Break(failure):
                    self._outflow.end(failure)
                case Pause(seconds):
                    await self._clock.sleep(seconds)
                case Gate():
                    await deed.stand()
        self._outflow.end(RemoteExit(0))

    def cut(self) -> None:
        """Break contact: the reader gets LOST after the output so far."""
        self._outflow.end(
            RemoteFailure(
                ErrorCode.LOST, f"Connection to {self._machine.name} was lost (as scripted)."
            )
        )

    async def kill(self, grace_seconds: float) -> CancelProof:
        """Send TERM, or after the grace KILL for a machine whose commands ignore TERM."""
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
        self._outflow.end(RemoteExit(None, "KILL" if self._machine.ignores_term else "TERM"))
        return CancelProof.KILLED

    async def close(self) -> None:
        """Close it, which ends the script."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
