"""A command that outlives its worker: begun at most once, found again wherever contact broke, and left running by who must go.

The target is the judge of what was started; this side only asks. What is certain is recorded, what is not is `lost`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

from opsjobs import failpoints
from opsjobs.clock import Timer
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import LEAVING, Detached, Interrupted, StopReason
from opsjobs.engine.runs.direct_command import Work
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.spool_identity import SpoolIdentity, StartOrder
from opsjobs.model.units import format_duration
from opsjobs.remote.session import (
    ContactLost,
    Durable,
    IdentityDiffers,
    NoSpool,
    NotBegun,
    NotFollowed,
    RemoteExit,
    RemoteProcess,
    Settlement,
)

# How long a kill is tried while the machine cannot be reached; then the run ends `lost`, and the sweeper goes on.
KILL_SECONDS = 60.0
# The watchdog on the target ends what takes too long; so much later the worker does it, in case the watchdog was killed.
WATCHDOG_SECONDS = 15.0
REST_TRIES = 3
LEASE_PAUSE_SECONDS = 0.5
# A machine that says that it has been up for longer than a start is old was up when that was sent; by at least so much longer, as
# no two clocks go alike, and seconds are cut.
UP_SECONDS, UP_SHARE = 2.0, 1.01
_PAUSES_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
# Trouble that does not go away by trying again: who else could log in would only be locked out.
_FINAL = (
    ErrorCode.AUTH_FAILED,
    ErrorCode.HOST_KEY,
    ErrorCode.CREDENTIAL_MISSING,
    ErrorCode.BECOME_FAILED,
    ErrorCode.SAFETY_BLOCKED,
    ErrorCode.INTERNAL,
)


class DurableCommand:
    """One action of a run, done durably.

    `identity`: the store under which a start may have been sent. `again`: somebody may have sent it before us, but not before
    `since` (monotonic).
    `window_seconds`: how long lost contact is tried to be found again. `check_target`: raises where nothing may be begun there any more.
    """

    def __init__(
        self,
        work: Work,
        link: RunConnection,
        order: StartOrder,
        identity: SpoolIdentity | None,
        *,
        again: bool,
        since: float,
        window_seconds: float,
        may_start: Callable[[], bool],
        check_target: Callable[[], Awaitable[None]],
        next_attempt: Callable[[], tuple[StartOrder, Work]],
    ) -> None:
        self._work = work
        self._link = link
        self._order = order
        self._identity = identity
        self._taken_over = again
        self._perhaps_begun = again and identity is not None
        self._since = since if again else work.clock.monotonic()
        self._seen = False
        self._window_seconds = window_seconds
        self._may_start = may_start
        self._check_target = check_target
        self._next_attempt = next_attempt
        self._process: RemoteProcess | None = None
        self._lost_since: float | None = None
        self._losses = 0

    async def perform(self) -> ActionEnd:
        """Begin it or find it, follow it to its end, judge.

        Raises Left where this worker must go: the command goes on. Raises NoSpool where the machine cannot keep it and nothing
        was started; RemoteFailure(LOST) where the target shows that it is gone; ContactLost where nobody can know.
        """
        work = self._work
        try:
            with work.stops.here():
                exited = await self._follow()
            return outcomes.judged(exited, work.action["expected_exit_codes"], work.timeout_seconds)
        except Interrupted as stopped:
            return await self._stop(stopped.why)
        finally:
            work.stops.over(StopReason.ACTION_TIMEOUT)
            await self._let_go()

    async def _follow(self) -> RemoteExit:
        while True:
            try:
                self._process = await self._open()
                return await self._read(self._process)
            except IdentityDiffers as differs:
                await self._learn(differs.seen)
            except NotBegun as absent:
                await self._not_begun(absent)
            except NoSpool as reason:
                if not self._perhaps_begun:
                    raise
                raise ContactLost(f"the command was started, and its machine cannot say what became of it: {reason}") from None
            except RemoteFailure as failure:
                self._note_loss(failure)
                await self._let_go()
                await self._link.drop()
                await self._pause()

    async def _open(self) -> RemoteProcess:
        durable = await self._durable()
        if self._perhaps_begun and self._identity is not None:
            async with failpoints.at("attach"):
                process = await durable.attach(self._order, self._identity, self._work.capture.wanted)
            self._seen = True
            self._show_life()
            return process
        return await self._begin(durable)

    def _show_life(self) -> None:
        """A run that was taken over and found alive is no poison: said once, for it costs a write."""
        if self._taken_over and self._identity is not None:
            self._taken_over = False
            self._work.page.show_life()

    async def _begin(self, durable: Durable) -> RemoteProcess:
        process: RemoteProcess | None = None
        await self._check_target()  # of what was to be found again, and had never begun
        while not self._may_start():  # our lease is stale: until it is fresh again, or taken from us, nothing new begins
            await self._work.clock.sleep(LEASE_PAUSE_SECONDS)
        self._perhaps_begun = self._identity is not None  # at a first contact nothing is started
        try:
            async with failpoints.at("start"):
                process = await durable.begin(self._order, self._identity)
        except (IdentityDiffers, NotBegun, NoSpool):
            self._perhaps_begun = False
            raise
        except RemoteFailure as failure:
            if process is not None:
                await process.close()
                raise ContactLost(failure.message) from failure
            self._perhaps_begun = failure.code is ErrorCode.LOST
            raise
        self._seen = True
        return process

    async def _durable(self) -> Durable:
        durable = (await self._link.session()).durable()
        if durable is None:
            raise NoSpool("its platform keeps no durable runs")
        return durable

    async def _read(self, process: RemoteProcess) -> RemoteExit:
        self._lost_since, self._losses = None, 0
        self._work.page.regain_contact()
        timer = self._second_watchdog()
        try:
            return await self._work.read(process)
        finally:
            timer.cancel()

    def _second_watchdog(self) -> Timer:
        work = self._work
        began = work.page.started_at
        gone = (work.clock.now() - began).total_seconds() if began is not None else 0.0
        left = max(work.timeout_seconds - gone, 0.0) + work.grace_seconds + WATCHDOG_SECONDS
        return work.clock.later(left, lambda: work.stops.order(StopReason.ACTION_TIMEOUT))

    async def _learn(self, seen: SpoolIdentity) -> None:
        """Commit whom we are about to trust, before anything is started there."""
        if self._perhaps_begun and self._identity is not None:
            words = "its home is another one, or empty, since the command was started there: whether it ran to its end is unknown"
            raise ContactLost(words)
        self._identity = seen
        self._work.page.identify(seen)
        await self._written()

    async def _not_begun(self, absent: NotBegun) -> None:
        if not self._never(absent):
            words = f"{self._order.key} is on no record of its machine any more (a reboot?): whether it ran to its end is unknown"
            raise RemoteFailure(ErrorCode.LOST, words)
        if not absent.settled:
            self._perhaps_begun = False
            return
        # Whoever voided this start may have cancelled the run: only the owner may go on with the next one.
        self._order, self._work = self._next_attempt()
        await self._written()

    def _never(self, absent: NotBegun) -> bool:
        """Whether it is sure that the command never began."""
        if absent.up_seconds is None:
            # What we have seen, or heard of, had begun, and somebody has removed its record.
            return absent.settled or not (self._seen or any(self._work.capture.written))
        age_seconds = self._work.clock.monotonic() - self._since
        known = self._seen or any(self._work.capture.written)
        return not known and absent.up_seconds > age_seconds * UP_SHARE + UP_SECONDS

    async def _written(self) -> None:
        await self._work.page.run.written()
        if self._work.page.run.stale:
            raise Detached(StopReason.NOT_OURS)

    def _note_loss(self, failure: RemoteFailure) -> None:
        """Whether it is worth to look for it again; raises where it is not."""
        gone = failure.code is ErrorCode.LOST and not isinstance(failure, ContactLost)
        if gone or isinstance(failure, NotFollowed) or not self._perhaps_begun:
            raise failure
        if failure.code in _FINAL or failure.because in _FINAL:
            raise ContactLost(f"the command was started, but its machine lets us in no more: {failure.message}") from failure
        self._work.page.lose_contact(self._work.clock.now())
        now = self._work.clock.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._lost_since > self._window_seconds:
            window = format_duration(self._window_seconds)
            words = f"contact was lost for more than {window}, and the command is perhaps still running: {failure.message}"
            raise ContactLost(words) from failure

    async def _pause(self) -> None:
        pause = _PAUSES_SECONDS[min(self._losses, len(_PAUSES_SECONDS) - 1)]
        self._losses += 1
        if pause:
            await self._work.clock.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311  jitter, not a secret

    async def _let_go(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.close()

    async def _stop(self, why: StopReason) -> ActionEnd:
        """See to it that the command never begins, or ends; judge by the target's word."""
        work = self._work
        if why in LEAVING:
            raise Detached(why)
        await self._let_go()
        try:
            with work.stops.here(but_for=why):
                settlement = await self._settle()
                exited = await self._rest() if settlement.exit is not None else None
        except Interrupted as stopped:
            raise Detached(stopped.why) from None
        exited = exited or settlement.exit
        return outcomes.settled(settlement.proof, exited, why, work.action["expected_exit_codes"], work.timeout_seconds)

    async def _settle(self) -> Settlement:
        if not self._perhaps_begun:
            return Settlement(CancelProof.NEVER_STARTED)
        until = self._work.clock.monotonic() + KILL_SECONDS
        self._losses = 0
        while True:
            try:
                durable = await self._durable()
                async with failpoints.at("cancel"):
                    settlement = await self._cancelled(durable)
            except (RemoteFailure, NoSpool):
                settlement = Settlement(CancelProof.UNREACHABLE)
            if settlement.proof is not CancelProof.UNREACHABLE or self._work.clock.monotonic() > until:
                return settlement
            self._work.page.lose_contact(self._work.clock.now())
            await self._link.drop()
            await self._pause()

    async def _cancelled(self, durable: Durable) -> Settlement:
        settlement = await durable.cancel(self._order.key, self._work.grace_seconds, self._order.become)
        if settlement.proof is not CancelProof.NEVER_STARTED or await durable.identity(self._order.become) == self._identity:
            return settlement
        # Of what was started in another store this one knows nothing; after a reboot it may.
        return settlement if await self._never_began(durable) else Settlement(CancelProof.UNREACHABLE)

    async def _never_began(self, durable: Durable) -> bool:
        if self._identity is None:
            return True
        try:
            await (await durable.attach(self._order, self._identity, self._work.capture.wanted)).close()
        except NotBegun as absent:
            return self._never(absent)
        except IdentityDiffers:
            pass
        return False

    async def _rest(self) -> RemoteExit | None:
        """What the command said until its end: it is all there, on the target."""
        if self._identity is None:
            return None
        for _ in range(REST_TRIES):
            try:
                self._process = await (await self._durable()).attach(self._order, self._identity, self._work.capture.wanted)
                return await self._work.read(self._process)
            except (RemoteFailure, NoSpool, IdentityDiffers, NotBegun):
                await self._let_go()
                await self._link.drop()
        return None
