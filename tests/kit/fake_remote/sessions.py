"""Sessions to scripted machines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from kit.fake_remote.disk import FakeDisk
from kit.fake_remote.durable import FakeDurable
from kit.fake_remote.machine import FakeMachine, FakeProcess, Start
from kit.fake_remote.script import wait_at_gate
from opsjobs.clock import Clock, SystemClock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.target import Capabilities, Endpoint, Target
from opsjobs.remote.disk import Disk, transfer_error
from opsjobs.remote.session import (
    Durable,
    HostKey,
    LoginTimes,
    RemoteProcess,
    Session,
    SessionStep,
    check_command,
)


class FakeSessions:
    """The Sessions of scripted machines; a machine is found by its target's name."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.machines: dict[str, FakeMachine] = {}

    def machine(self, name: str) -> FakeMachine:
        """Return the machine of this name, created by the first call."""
        return self.machines.setdefault(name, FakeMachine(name))

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Yield a session, or raise the failure that the machine was given."""
        machine = self.machine(endpoint.target.name)
        for hop in (*endpoint.jumps, endpoint):
            if hop.credential is not None and hop.credential.fault is not None:
                words = (
                    f"The credential {hop.credential.name} cannot be used: {hop.credential.fault}."
                )
                raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, words)
        await machine.connect(self._clock)
        session = FakeSession(machine, endpoint.target.capabilities, self._clock)
        machine.open_sessions += 1
        try:
            yield session
        finally:
            machine.open_sessions -= 1
            await session.close()

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Return the steps that follow from the machine's answer."""
        try:
            await self.machine(endpoint.target.name).connect(self._clock)
        except RemoteFailure as failure:
            return [SessionStep("connect", False, 0.0, failure.message)]
        return [SessionStep(name, True, 0.0) for name in ("connect", "auth", "shell")]

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return a key made from the machine's name."""
        target: Target = endpoint.target
        await self.machine(target.name).connect(self._clock)
        return [HostKey(f"ssh-ed25519 {target.name}", f"SHA256:{target.name}")]

    async def close(self) -> None:
        """End the scripts that still run."""
        for machine in self.machines.values():
            await machine.close()


class FakeSession:
    """A session that starts scripts."""

    def __init__(self, machine: FakeMachine, capabilities: Capabilities, clock: Clock) -> None:
        self._capabilities = capabilities
        self._machine = machine
        self._clock = clock
        self._since = machine.contacts
        self._started: list[FakeProcess] = []
        self._durable = FakeDurable(machine, clock, self._since)
        now, took = clock.monotonic(), machine.auth_seconds
        self.login_times = None if took is None else LoginTimes(now - took, now)

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the target, without durable runs if `durable_off`."""
        durable = self._capabilities.durable and not self._machine.durable_off
        return replace(self._capabilities, durable=durable)

    async def start(
        self,
        command: str | Program,
        *,
        stdin: bytes = b"",
        marked: bool | None = None,
    ) -> RemoteProcess:
        """Start the script of this command line, or of the text of this program.

        Raises what `refuse_start` was given.
        """
        program = command if isinstance(command, Program) else None
        line = command if isinstance(command, str) else command.text
        stdin = stdin if program is None else program.stdin or b""
        if program is None:
            check_command(line)
        machine = self._machine
        await wait_at_gate(machine.start_gate)
        machine.check_contact(self._since)
        refusal, _ = machine.start_refusal()
        if refusal is None or (
            isinstance(refusal, RemoteFailure) and refusal.code is ErrorCode.LOST
        ):
            machine.starts.append(Start(line, stdin, self._clock.now(), program=program))
        if refusal is not None:
            raise refusal
        process = FakeProcess(machine, machine.script_for(line, stdin, program), stdin, self._clock)
        machine.processes.append(process)
        self._started.append(process)
        return process

    def durable(self) -> Durable | None:
        """Return the machine's durable runs, unless `durable_off`."""
        return self._durable if self.capabilities.durable else None

    @asynccontextmanager
    async def disk(self) -> AsyncIterator[Disk]:
        """Yield the machine's files, unless `diskless`, over the contact of this session."""
        machine = self._machine
        machine.check_contact(self._since)
        if machine.diskless is not None:
            raise transfer_error(machine.name, "serves no files", machine.diskless)
        yield FakeDisk(machine.name, machine.files, lambda: machine.check_contact(self._since))

    async def close(self) -> None:
        """Close what was started, and what was followed."""
        for process in self._started:
            await process.close()
        await self._durable.close()
