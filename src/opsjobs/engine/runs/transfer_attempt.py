"""One attempt at a transfer, as the run's walk asks for it: with a page in the record, and no store on the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.attempt import ready
from opsjobs.engine.runs.cancellation import StopSignal
from opsjobs.engine.runs.output import Capture
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.engine.runs.run_state import RunState
from opsjobs.engine.runs.transfer import Transfer, TransferOrder
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.units import parse_duration
from opsjobs.remote.session import Output
from opsjobs.store.ledger import Progress


class TransferAttempt:
    """Attempt `number` at a transfer; `seen`: it is on record already. Its face is that of Attempt.

    It goes directly, is never `gone` and never `commanding`: whoever has the run goes on with it, where this worker or the one
    before left it.
    """

    gone = False
    direct = True
    commanding = False

    def __init__(
        self, state: RunState, action: Mapping[str, Any], number: int, stops: StopSignal, *, seen: Progress | None
    ) -> None:
        self._state = state
        self._action = action
        self._seen = seen
        self._stops = stops
        self.number = number
        self.page: AttemptEntry | None = None

    async def perform(self) -> ActionEnd:
        """Do it; the page stays open. Raises RemoteFailure where nothing was begun, Interrupted, Left."""
        state = self._state
        if state.endpoint is None:
            words = f"target {state.target_name} was removed from the inventory after the launch"
            raise RemoteFailure(ErrorCode.INTERNAL, words)
        with self._stops.here():
            await state.check_target()
        link = state.links.take()
        try:
            await ready(state, self._stops, link)
            return await self._begun(link)
        finally:
            state.links.give(link)

    async def _begun(self, link: RunConnection) -> ActionEnd:
        state, seen = self._state, self._seen
        started_at = seen.started_at if seen is not None else state.tools.clock.now()
        page = self.page = state.record.begin(self._action["key"], self.number, started_at, seen=seen, known=False)
        page.logged_in = link.logged_in()
        capture = Capture(page, state.tools.limits.output_bytes, page.stored)
        try:
            end = await Transfer(self._order(capture, page), link, state.tools.transfers).perform()
        except RemoteFailure as failure:
            end = outcomes.failed(failure)
        return replace(end, written=capture.finish())

    def _order(self, capture: Capture, page: AttemptEntry) -> TransferOrder:
        state, seen, limits = self._state, self._seen, self._state.tools.limits
        timeout = self._action.get("timeout")
        spec = state.course.spec
        written = next((a for a in spec.actions if a["key"] == self._action["key"]), self._action)
        late = "${" in written["source"]
        return TransferOrder(
            self._action,
            state.record.claimed,
            str(spec.execution_uuid),
            self.number,
            say=lambda words: capture.add(Output("stdout", words.encode())),
            note_contact=lambda there: page.regain_contact() if there else page.lose_contact(state.tools.clock.now()),
            stops=self._stops,
            clock=state.tools.clock,
            gone_seconds=seen.age_seconds if seen is not None else 0.0,
            timeout_seconds=limits.command_seconds if timeout is None else parse_duration(timeout),
            window_seconds=limits.reattach_seconds,
            asked_by=(spec.requested_by, spec.requested_by_kind) if late else None,
        )
