"""The Durable of a scripted machine, on the runs that it records."""

from __future__ import annotations

from collections.abc import Sequence

from kit.fake_remote.machine import FakeMachine, Start
from kit.fake_remote.run import FakeFollower, FakeRun
from kit.fake_remote.script import wait_at_gate
from opsjobs.clock import Clock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Become, RunKey, SpoolIdentity, StartOrder
from opsjobs.remote.session import (
    CancelOutcome,
    ContactLost,
    NotFollowed,
    NotStarted,
    RemoteProcess,
    SpoolChanged,
    SpoolUnavailable,
    check_command,
)


class FakeDurable:
    """Durable runs over one session; `since` is the machine's `contacts` when it was opened."""

    def __init__(self, machine: FakeMachine, clock: Clock, since: int) -> None:
        self._machine = machine
        self._clock = clock
        self._since = since
        self._following: list[FakeFollower] = []

    async def begin(self, order: StartOrder, expected: SpoolIdentity | None) -> RemoteProcess:
        """Start the script of this command line, unless the key was started before.

        Raises also what `refuse_start` was given.
        """
        if order.program is None:
            check_command(order.command)
        await wait_at_gate(self._machine.start_gate)
        self._check_store()
        if self._machine.unheard:
            self._machine.unheard -= 1
            raise ContactLost(f"{self._machine.name} was not heard (as scripted).")
        if expected != self._machine.identity:
            raise SpoolChanged(self._machine.identity)
        run = self._find(order)
        return self._follow(self._start(order) if run is None else run, (0, 0))

    async def attach(
        self, order: StartOrder, expected: SpoolIdentity, offsets: tuple[int, int]
    ) -> RemoteProcess:
        """Follow a run from these offsets on."""
        self._check_store()
        seen = self._machine.identity
        if expected.store != seen.store:
            raise SpoolChanged(seen)
        if expected.boot != seen.boot:
            return self._follow(self._ended(order), offsets)
        if (run := self._find(order)) is None:
            raise NotStarted(settled=False)
        return self._follow(run, offsets)

    async def identity(self, become: Become | None = None) -> SpoolIdentity:
        """Return the identity of the spool."""
        return self._machine.identity

    async def look(self, key: RunKey, become: Become | None = None) -> CancelOutcome | None:
        """Return the state of a run."""
        self._machine.check_contact(self._since)
        run = self._machine.runs.get(key)
        if run is None:
            return CancelOutcome(CancelProof.NEVER_STARTED)
        return None if run.working else _settled(run)

    async def cancel(
        self,
        key: RunKey,
        grace_seconds: float,
        become: Become | None = None,
    ) -> CancelOutcome:
        """Void the key, or end its run, as far as the machine's settings allow."""
        settlement = await self._cancel(key, grace_seconds)
        self._machine.kills.append(settlement.proof)
        return settlement

    async def clean(
        self,
        keys: Sequence[RunKey],
        become: Become | None = None,
        *,
        output_only: bool = False,
    ) -> frozenset[RunKey]:
        """Forget the runs that have ended, or their output; return what the machine keeps."""
        machine = self._machine
        machine.check_contact(self._since)
        for key in keys:
            if key in machine.kept:
                continue
            run = machine.runs.get(key)
            if output_only:
                if run is not None and not run.working:
                    run.record.clear()
            elif run is None or not run.working:
                machine.runs.pop(key, None)
                machine.voids.discard(key)
                machine.cleaned.append(key)
        return frozenset(machine.kept.intersection(keys))

    async def close(self) -> None:
        """Close the followers."""
        for follower in self._following:
            await follower.close()

    def _check_store(self) -> None:
        self._machine.check_contact(self._since)
        if self._machine.no_spool is not None:
            raise SpoolUnavailable(self._machine.no_spool)

    def _find(self, order: StartOrder) -> FakeRun | None:
        """Return the run of this order if it may be followed; None if its key is unknown."""
        if order.key in self._machine.voids:
            raise NotStarted(settled=True)
        run = self._machine.runs.get(order.key)
        if run is not None and run.order.digest != order.digest:
            raise NotFollowed(
                f"{order.key} on {self._machine.name} is another command than this one."
            )
        if run is not None and run.gone:
            raise RemoteFailure(
                ErrorCode.LOST,
                f"{order.key} on {self._machine.name} is gone: how it ended is on no record.",
            )
        return run

    def _ended(self, order: StartOrder) -> FakeRun:
        """Return the run of this order if its end is recorded: all that counts after a reboot."""
        void, up_seconds = order.key in self._machine.voids, self._machine.up_seconds
        run = None if void else self._find(order)
        if run is None and up_seconds is not None:
            raise NotStarted(settled=void, up_seconds=up_seconds)
        if run is None or run.live:
            message = f"{self._machine.name} was rebooted: nothing there shows what became of {order.key}."
            raise RemoteFailure(ErrorCode.LOST, message)
        return run

    def _start(self, order: StartOrder) -> FakeRun:
        machine = self._machine
        refusal, begun = machine.start_refusal()
        if isinstance(refusal, NotStarted):
            machine.voids.add(order.key)
        if refusal is not None and not (
            isinstance(refusal, RemoteFailure) and refusal.code is ErrorCode.LOST
        ):
            raise refusal
        run = self._run(order) if begun else None
        if isinstance(refusal, RemoteFailure):
            raise ContactLost(refusal.message)
        assert run is not None, "a start that is not lost has begun"
        return run

    def _run(self, order: StartOrder) -> FakeRun:
        machine = self._machine
        stdin = order.program.stdin or b"" if order.program is not None else b""
        machine.starts.append(Start(order.command, stdin, self._clock.now(), order, order.program))
        run = FakeRun(
            order, machine.script_for(order.command, stdin, order.program), machine, self._clock
        )
        machine.runs[order.key] = run
        return run

    def _follow(self, run: FakeRun, offsets: tuple[int, int]) -> FakeFollower:
        key = run.order.key

        async def kill(grace_seconds: float) -> CancelProof:
            return (await self.cancel(key, grace_seconds)).proof

        follower = FakeFollower(run, offsets, kill)
        self._following.append(follower)
        return follower

    async def _cancel(self, key: RunKey, grace_seconds: float) -> CancelOutcome:
        machine = self._machine
        if not self._in_contact() or machine.no_spool is not None:
            return CancelOutcome(CancelProof.UNREACHABLE)
        if (run := machine.runs.get(key)) is None:
            machine.voids.add(key)
            return CancelOutcome(CancelProof.NEVER_STARTED)
        if not run.working:
            return _settled(run)
        await run.kill(grace_seconds, "cancel")
        if run.working or not self._in_contact():
            return CancelOutcome(CancelProof.UNREACHABLE)
        return CancelOutcome(CancelProof.KILLED, run.exit)

    def _in_contact(self) -> bool:
        return self._since == self._machine.contacts


def _settled(run: FakeRun) -> CancelOutcome:
    return CancelOutcome(CancelProof.ALREADY_FINISHED, run.exit)
