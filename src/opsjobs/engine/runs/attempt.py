"""One attempt at an action that starts something on the machine: durably or directly, begun here or by somebody before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opsjobs.engine.become import become_of, check_direct, opened_for, with_fetched
from opsjobs.engine.launching import job_secrets
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import LEAVING, Detached, Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.direct_command import DirectCommand, Work
from opsjobs.engine.runs.durable_command import DurableCommand
from opsjobs.engine.runs.output import Capture
from opsjobs.engine.runs.programs import as_run, environment, plain, program_of, rendered
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.engine.runs.run_masks import fetched
from opsjobs.engine.runs.run_state import RunState, purpose_of
from opsjobs.engine.runs.stdout_capture import StdoutCapture
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus
from opsjobs.model.outputs import OUTPUTS_BYTES_MAX, Wanted
from opsjobs.model.program import Program
from opsjobs.model.spool_identity import Become, RunKey, StartOrder, durability
from opsjobs.model.units import parse_duration, parse_size
from opsjobs.remote.session import ContactLost, NoSpool
from opsjobs.store.ledger import Progress
from opsjobs.telemetry import log

LEASE_PAUSE_SECONDS = 0.5
# Of what somebody before us has stored, as much is read again for those who listen.
HEARD_BYTES = 4 << 20


class Attempt:
    """Attempt `number` at an action. `seen`: it is on record already. `perhaps`: somebody may have begun it, on record or not.

    `page`: its page in the record, once it has begun. `gone`: the target shows that it runs no more, and not how it ended.
    `commanding`: a command is at work that nobody else could follow.
    """

    def __init__(
        self, state: RunState, action: Mapping[str, Any], number: int, stops: StopSignal, *, seen: Progress | None, perhaps: bool
    ) -> None:
        self._state = state
        self._action = action
        self._seen = seen
        self._stops = stops
        self.number = number
        self.page: AttemptEntry | None = None
        self.gone = False
        self.commanding = False
        wish = self._wish()
        kept = seen is not None and seen.identity is not None
        self._required = wish == "required"
        self._durable = wish != "off" and (kept or not (state.direct or (seen is not None and seen.direct)))
        self._perhaps = perhaps
        self._identity = seen.identity if seen is not None and seen.identity is not None else state.record.identity
        self._words: StdoutCapture | None = None
        self._opened = state.opened

    @property
    def direct(self) -> bool:
        """Whether it goes outside any store."""
        return not self._durable

    @property
    def again(self) -> bool:
        """Whether somebody before us may have begun it in a store, where it can be looked for."""
        return self._perhaps and self._durable and self._identity is not None

    @property
    def _told_by_its_place(self) -> bool:
        """Whether an heir knows without the record that it may have begun: in a list it is what comes next.

        Where an heir may come to wait before that (a transfer is repeated, a back-off goes on), whoever has the run then is no
        heir any more. So of what goes directly this holds for what the run begins with alone.
        """
        first = self.number == 1 and not self._state.ends
        return self._state.course.workflow.linear and (self._durable or first)

    def _wish(self) -> str:
        target = self._state.endpoint.target.durable if self._state.endpoint is not None else None
        return durability(self._action.get("durable"), self._state.course.spec.policy.get("durable"), target)

    async def perform(self) -> ActionEnd:
        """Do it; the page stays open. Raises RemoteFailure where nothing was begun, Interrupted, Left."""
        state = self._state
        if not self._durable and self._perhaps and state.lost is not None:
            raise RemoteFailure(ErrorCode.LOST, state.lost)
        if state.endpoint is None:
            raise self._removed()
        if not self.again:
            with self._stops.here():
                await state.check_target()
        link = state.links.take(insist=self.again)
        try:
            if self.again:
                await self._open()
                self._program = self._made()
            else:
                with self._stops.here():
                    await self._open()
                self._program = self._made()
                await ready(self._state, self._stops, link)
            return await self._begun(link)
        finally:
            state.links.give(link)

    async def _open(self) -> None:
        """Get the secrets that are elsewhere: to become another user by, and so that nothing shows them. Raises RemoteFailure."""
        state, wish = self._state, self._action.get("become")
        fetch, purpose = state.tools.fetch, purpose_of(state.record.claimed)
        self._opened = await opened_for(wish, state.opened, fetch, purpose)
        for known in job_secrets.credentials([state.course]):
            self._opened = await with_fetched(known, self._opened, fetch, purpose)
        try:
            got = await fetched(state.endpoint, fetch, purpose)
        except RemoteFailure:
            if not self.again:
                raise
            got = []  # it runs, and is looked after over whatever connection there is
        state.learn([*got, *(one for known, one in self._opened.items() if one is not state.opened.get(known))])

    def _made(self) -> Program | None:
        if plain(self._state, self._action):
            return None
        try:
            return program_of(self._state, self._action, self.number, self._opened)
        except RemoteFailure as missing:
            if not self.again or missing.code is not ErrorCode.CREDENTIAL_MISSING:
                raise
            raise ContactLost(f"the command was perhaps started, and what it needs cannot be had: {missing.message}") from None

    def _removed(self) -> RemoteFailure:
        if self._perhaps and self._state.lost is not None:
            return RemoteFailure(ErrorCode.LOST, self._state.lost)
        words = f"target {self._state.target_name} was removed from the inventory after the launch"
        return RemoteFailure(ErrorCode.INTERNAL, words)

    async def _begun(self, link: RunConnection) -> ActionEnd:
        page = self._begin()
        page.logged_in = link.logged_in()
        self._words = await self._listener(page)
        work = self._work(page)
        if self._seen is None and not self._told_by_its_place:
            # Nobody could tell that it has begun, but by the record.
            await self._written()
        try:
            end = await (self._durably(link, work) if self._durable else self._directly(link, work))
        except RemoteFailure as failure:
            self.gone = self._durable and failure.code is ErrorCode.LOST and not isinstance(failure, ContactLost)
            end = outcomes.failed(failure)
        return self._closed(end)

    def _closed(self, end: ActionEnd) -> ActionEnd:
        end = replace(end, written=self._capture.finish())
        if self._words is None:
            return end
        self._state.stdouts[self._action["key"]] = self._words.text(self._capture.head_bytes)
        # Once more: what JSON spells in its own way is a secret again when it is read.
        return replace(end, outputs=self._state.record.mask.tree(self._words.outputs()))

    def _begin(self) -> AttemptEntry:
        state, seen = self._state, self._seen
        started_at = seen.started_at if seen is not None else state.tools.clock.now()
        command = as_run(state, self._action)
        self.page = state.record.begin(
            self._action["key"], self.number, started_at, seen=seen, known=self._durable, command=command
        )
        self.page.direct = self.page.direct or not self._durable
        return self.page

    def _work(self, page: AttemptEntry) -> Work:
        action, limits = self._action, self._state.tools.limits
        asked = action.get("output_limit")
        limit = limits.output_bytes if asked is None else min(parse_size(asked), limits.output_bytes)
        heard = self._words.add if self._words is not None else None
        self._capture = Capture(page, limit, page.stored, heard=heard, again=self._durable)
        seconds = limits.command_seconds if action.get("timeout") is None else parse_duration(action["timeout"])
        return Work(
            action,
            self._capture,
            page,
            self._stops,
            self._state.tools.clock,
            seconds,
            limits.kill_grace_seconds,
        )

    def _line(self) -> str | Program:
        """What a channel is given where it goes directly: a program, which has the variables of the run.

        Where no POSIX shell is, a plain line stays one: on network devices, and on Windows unless it has parameters.
        """
        course, endpoint = self._state.course, self._state.endpoint
        platform = endpoint.target.platform if endpoint is not None else "linux"
        network = platform == "network"
        if self._program is None:
            if network or (platform == "windows" and not course.parameters):
                return str(self._action["command"])
            return program_of(self._state, self._action, self.number, self._opened)
        return self._program.text if network and self._program.plain and not self._action.get("env") else self._program

    async def _listener(self, page: AttemptEntry) -> StdoutCapture | None:
        wanted: Wanted = self._action.get("outputs") or "none"
        if wanted == "none" and self._action["key"] not in self._state.course.heard:
            return None
        words = StdoutCapture(wanted)
        if self._seen is not None and page.stored[0]:
            words.add(await self._heard_before(self._seen, OUTPUTS_BYTES_MAX if wanted == "none" else HEARD_BYTES))
        return words

    async def _heard_before(self, seen: Progress, max_bytes: int) -> bytes:
        """Return the stdout that a worker before us has stored. Raises Left.

        An order to end the run stops the read and no more: the command may be at work, and is ended next.
        """
        state = self._state
        try:
            with self._stops.here():
                return await state.tools.stdout(state.record.claimed, seen, max_bytes)
        except Interrupted as stopped:
            if stopped.why in LEAVING:
                raise Detached(stopped.why) from None
            return b""

    async def _durably(self, link: RunConnection, work: Work) -> ActionEnd:
        state = self._state
        command = DurableCommand(
            work,
            link,
            self._order(work),
            self._identity,
            again=self.again,
            since=state.since,
            window_seconds=state.tools.limits.reattach_seconds,
            may_start=state.tools.may_start,
            check_target=state.check_target,
            next_attempt=self._next_attempt,
        )
        state.kept = True
        try:
            return await command.perform()
        except NoSpool as reason:
            check_direct(work.action, f"{state.target_name} cannot keep one: {reason}")
            if self._required:
                words = f"durable is required, and {state.target_name} cannot keep a durable run: {reason}"
                raise RemoteFailure(ErrorCode.INTERPRETER_MISSING, words) from None
            log.info("no_durable_runs", target=state.target_name, reason=str(reason))
        # On record before the start: who takes the run over can know nothing of a direct command.
        state.direct, self._durable = True, False
        work.page.identify(None)
        await self._written()
        return await self._directly(link, work)

    async def _directly(self, link: RunConnection, work: Work) -> ActionEnd:
        check_direct(work.action, f"on {self._state.target_name} this run goes directly (durable is off, or cannot be)")
        # Once more: what had to be on record first may have taken longer than our lease is good for.
        await ready(self._state, self._stops, link)
        with self._stops.here():
            await self._state.check_target()
        session = await link.session()
        self.commanding = True
        try:
            return await DirectCommand(work, self._line()).perform(session)
        finally:
            self.commanding = False

    async def _written(self) -> None:
        await self._state.record.written()
        if self._state.record.stale:
            raise Detached(StopReason.NOT_OURS)

    def _order(self, work: Work) -> StartOrder:
        key = RunKey(self._state.record.claimed.uuid, work.action["key"], self.number)
        more: dict[str, Any] = {
            "grace_seconds": work.grace_seconds,
            "limit_bytes": self._state.tools.limits.spool_bytes,
            "become": self._become(),
        }
        if self._program is not None:
            return StartOrder.of(key, self._program, work.timeout_seconds, **more)
        variables = environment(self._state, self._action, self.number)
        return StartOrder(key, self._action["command"], work.timeout_seconds, environment=variables, **more)

    def _become(self) -> Become | None:
        try:
            return become_of(self._action, self._opened)
        except RemoteFailure as missing:
            if not self.again:
                raise
            raise ContactLost(f"the command was perhaps started, and nobody may look after it now: {missing.message}") from None

    def _next_attempt(self) -> tuple[StartOrder, Work]:
        """The start that was voided is on record as never begun; the next one goes by the next number, and shows it."""
        assert self.page is not None, "what is voided has a page"
        state, key, now = self._state, self._action["key"], self._state.tools.clock.now()
        self.number += 1
        state.attempt = max(state.attempt, self.number)
        self._action = rendered(state, state.course.actions[key], self.number)
        self._program = self._made()
        self.page.end(ActionEnd(RunStatus.SKIPPED, cancel_proof=CancelProof.NEVER_STARTED), now)
        self.page = state.record.begin(key, self.number, now, command=as_run(state, self._action))
        work = self._work(self.page)
        return self._order(work), work


async def ready(state: RunState, stops: StopSignal, link: RunConnection) -> None:
    """Reach the machine before anything is said of the action; turn back where it must not be started.

    Raises RemoteFailure, Interrupted.
    """
    with stops.here():
        await link.session()
    with stops.here():
        while state.inherited and not (state.draining or state.tools.may_start()):
            await state.tools.clock.sleep(LEASE_PAUSE_SECONDS)
    if state.draining or not state.tools.may_start():
        raise Interrupted(StopReason.WORKER_STOPS)
