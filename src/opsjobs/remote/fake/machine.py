"""A scripted machine: what it answers, what was asked of it, and the levers with which a test breaks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from opsjobs.clock import Clock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.spool_identity import RunKey, SpoolIdentity, StartOrder
from opsjobs.remote.fake.disk import FakeFiles
from opsjobs.remote.fake.run import FakeRun
from opsjobs.remote.fake.script import Break, Deed, Echo, Gate, Pause, Script, stand_before
from opsjobs.remote.output_buffer import Outflow
from opsjobs.remote.session import NotBegun, Output, RemoteExit, unstarted


@dataclass(frozen=True, slots=True)
class Start:
    """A command that was started; `order` where it is a durable run, `program` where it is more than a line."""

    command: str
    stdin: bytes
    at: datetime
    order: StartOrder | None = None
    program: Program | None = None


@dataclass(slots=True)
class FakeMachine:
    """One machine. Its durable runs are its own: they outlive sessions, contact and workers."""

    name: str
    starts: list[Start] = field(default_factory=list)
    kills: list[CancelProof] = field(default_factory=list)
    """The proofs of every kill and cancel."""
    connects: int = 0
    """Sessions that were asked for."""
    open_sessions: int = 0
    connect_seconds: float = 0.0
    auth_seconds: float | None = None
    """How long it says that each login took; None: nobody logs in."""
    connect_gate: Gate | None = None
    start_gate: Gate | None = None
    ignores_term: bool = False
    unkillable: bool = False
    """True: a kill ends as `unreachable`, and the command goes on."""
    durable_off: bool = False
    """True: its platform knows no durable runs."""
    no_spool: str | None = None
    """Why it cannot keep durable runs just now."""
    interpreters: set[str] | None = None
    """The interpreters that it has; None: all."""
    folders: set[str] | None = None
    """The working directories that it has; None: all."""
    diskless: str | None = None
    """Why it serves no files."""
    files: FakeFiles = field(default_factory=FakeFiles)
    processes: list[FakeProcess] = field(default_factory=list)
    """What was started directly."""
    runs: dict[RunKey, FakeRun] = field(default_factory=dict)
    """The durable runs that it knows of, ended ones as well."""
    voids: set[RunKey] = field(default_factory=set)
    """Keys that can never begin any more."""
    cleaned: list[RunKey] = field(default_factory=list)
    unheard: int = 0
    """So many requests for a start get no answer, and begin nothing."""
    up_seconds: float | None = None
    """Since when it is up, as it tells after a reboot; None: it cannot tell."""
    contacts: int = 0
    """Grows whenever contact breaks for everybody: sessions that are older are dead."""
    _store: int = 1
    _boot: int = 1
    _away: bool = False
    _rules: list[tuple[str | None, Script]] = field(default_factory=list)
    _refusal: RemoteFailure | None = None
    _start_refusals: list[tuple[RemoteFailure | NotBegun, bool]] = field(default_factory=list)

    @property
    def identity(self) -> SpoolIdentity:
        """Which store answers now."""
        return SpoolIdentity(f"{self.name}-store-{self._store}", f"{self.name}-boot-{self._boot}")

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

    def refuse_start(self, failure: RemoteFailure | NotBegun, *, times: int = 1, begun: bool = True) -> None:
        """The next starts end with this failure.

        One with LOST is recorded as a start, for it may have run. A durable run has then begun, and goes on, unless `begun`
        is False: the caller gets ContactLost in both cases. NotBegun: it died before it began, and voids the key.
        """
        self._start_refusals.extend([(failure, begun)] * times)

    def start_refusal(self) -> tuple[RemoteFailure | NotBegun | None, bool]:
        """The failure of the start that is happening now, if it has one, and whether its command runs all the same."""
        return self._start_refusals.pop(0) if self._start_refusals else (None, True)

    def cut(self) -> None:
        """Contact breaks for all who have it, and nobody gets a session until `mend`; commands go on."""
        self._away = True
        self._break_contact()

    def mend(self) -> None:
        """The machine can be reached again."""
        self._away = False

    def reboot(self) -> None:
        """Everything that runs is gone, and contact breaks; what has ended is still on record."""
        self._boot += 1
        self._break_contact()
        for run in self.runs.values():
            run.vanish()

    def reimage(self) -> None:
        """Another system under the same name: it knows nothing of what was before."""
        self._store += 1
        self.reboot()
        self.runs.clear()
        self.voids.clear()

    def lose_wrapper(self, key: RunKey) -> None:
        """Somebody killed what keeps this run's books: its end will be on no record, unless a cancel ends it."""
        self.runs[key].orphan()

    def script_for(self, command: str, stdin: bytes, program: Program | None = None) -> Sequence[Deed]:
        """The deeds of a command: by the last rule that fits, else a silent success; none where the machine lacks something."""
        if program is not None and (missing := self._lacking(program)) is not None:
            return [missing]
        for to, script in reversed(self._rules):
            if to is None or to == command:
                return script(command, stdin) if callable(script) else script
        return [RemoteExit(0)]

    def _lacking(self, program: Program) -> RemoteExit | None:
        """How a program ends that this machine cannot start."""
        if program.cwd is not None and self.folders is not None and program.cwd not in self.folders:
            return unstarted("folder", program)
        if program.script is not None and self.interpreters is not None and program.interpreter not in self.interpreters:
            return unstarted("interpreter", program)
        return None

    async def connect(self, clock: Clock) -> None:
        """What happens at connect. Raises RemoteFailure."""
        self.connects += 1
        await stand_before(self.connect_gate)
        if self.connect_seconds:
            await clock.sleep(self.connect_seconds)
        if self._refusal is not None:
            raise RemoteFailure(self._refusal.code, self._refusal.message, because=self._refusal.because)
        if self._away:
            raise RemoteFailure(ErrorCode.CONNECTION_REFUSED, f"{self.name} cannot be reached: it was cut off (as scripted).")

    def check_contact(self, since: int) -> None:
        """Raise RemoteFailure(CONNECTION_LOST) for a session that was opened when `contacts` stood there, and is dead."""
        if since != self.contacts:
            raise RemoteFailure(ErrorCode.CONNECTION_LOST, f"Contact with {self.name} had broken before this was asked of it.")

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
    """A script that runs for one reader, and ends when it is let go."""

    def __init__(self, machine: FakeMachine, deeds: Sequence[Deed], stdin: bytes, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._go_on = asyncio.Event()
        self._go_on.set()
        self._outflow = Outflow(pause=self._go_on.clear, resume=self._go_on.set)
        self._task = asyncio.create_task(self._play(deeds, stdin))

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
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
        """Contact breaks: the reader gets LOST after what had come."""
        self._outflow.end(RemoteFailure(ErrorCode.LOST, f"Contact with {self._machine.name} broke (as scripted)."))

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
        self._outflow.end(RemoteExit(None, "KILL" if self._machine.ignores_term else "TERM"))
        return CancelProof.KILLED

    async def close(self) -> None:
        """Let go: the script ends here."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
