"""The Durable of a POSIX machine, over any session that starts command lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
)
from opsjobs.remote.spool import script
from opsjobs.remote.spool.channel import (
    Channel,
    Record,
    SpoolLogin,
    Start,
    parse_cancel,
    parse_look,
)
from opsjobs.remote.spool.direct import PLAIN_SHELLS
from opsjobs.remote.spool.live_follow import Live
from opsjobs.remote.spool.process import (
    DurableProcess,
    InlineOutput,
    Offsets,
    PolledOutput,
    RunRequests,
    run_lost,
)
from opsjobs.remote.spool.script import SpoolRequest

ANSWER_SECONDS = 60.0
"""The time for the first record of a response; a machine or its disk may be slow."""

KILL_SECONDS = 20.0
"""The time that a cancel may take after its grace period."""

KEYS_AT_ONCE = 100
LIVE_SECONDS = 0.05
"""A run that has not ended by then is followed live instead of awaited."""

LIVE_FACTOR = 3.0
"""The run is followed only after this multiple of its start time, to spare a busy machine."""


_NO_GROUP: Record = ("M", "setsid")


class Spool:
    """Durable runs on one machine.

    `beside` starts a command line whose standard input stays open until the process is closed. So
    does `talk`, in place of `start`, for programs that prompt for a password (default: beside).
    """

    def __init__(
        self, name: str, login: SpoolLogin, start: Start, beside: Start, talk: Start | None = None
    ) -> None:
        self._name = name
        self._login = login
        self._start = start
        self._beside = beside
        self._talk = talk or beside

    async def begin(self, order: StartOrder, expected: SpoolIdentity | None) -> RemoteProcess:
        """Start the run unless it was started before, and follow it from its first byte."""
        if expected is None:
            raise SpoolChanged(await self.identity(order.become))
        if not script.matches_user(expected, order.become):
            seen = self._login.stores.get(order.become.user if order.become is not None else None)
            raise SpoolChanged(seen or await self.identity(order.become))
        loop = asyncio.get_running_loop()
        asked = loop.time()
        channel, record = await self._start_run(order, expected)
        if record[0] == "B":
            now = loop.time()
            loop.call_later(LIVE_SECONDS, channel.release)
            source = InlineOutput(channel, now + max(LIVE_SECONDS, LIVE_FACTOR * (now - asked)))
            return DurableProcess(self._requests(order, expected), source)
        await channel.finish()
        if record[0] == "S":
            return await self.attach(order, expected, (0, 0))
        raise await self._refusal(record, order, expected)

    async def attach(
        self, order: StartOrder, expected: SpoolIdentity, offsets: Offsets
    ) -> RemoteProcess:
        """Follow a run that was started before, from these offsets on."""
        source = await self._attach(order, expected, offsets)
        return DurableProcess(self._requests(order, expected), source, offsets)

    async def look(self, key: RunKey, become: Become | None = None) -> CancelOutcome | None:
        """Return the state of a run. Raises RemoteFailure, SpoolUnavailable."""
        return parse_look(await self._answer(script.look(key, become)))

    async def cancel(
        self, key: RunKey, grace_seconds: float, become: Become | None = None
    ) -> CancelOutcome:
        """End the run, or make sure that it never starts."""
        request = script.cancel(key, grace_seconds, become)
        try:
            async with asyncio.timeout(grace_seconds + KILL_SECONDS):
                channel, record = await self._ask_somehow(request)
                await channel.finish()
                return parse_cancel(record)
        except (RemoteFailure, SpoolUnavailable, TimeoutError):
            return CancelOutcome(CancelProof.UNREACHABLE)

    async def clean(
        self, keys: Sequence[RunKey], become: Become | None = None, *, output_only: bool = False
    ) -> frozenset[RunKey]:
        """Remove the files of runs that have ended, or only their output.

        Return none as those whose files remain: a file that is open can be removed. Raises
        RemoteFailure, SpoolUnavailable.
        """
        for at in range(0, len(keys), KEYS_AT_ONCE):
            await self._answer(
                script.clean(keys[at : at + KEYS_AT_ONCE], become, output_only=output_only)
            )
        return frozenset()

    # Requests.

    async def _start_run(
        self, order: StartOrder, expected: SpoolIdentity
    ) -> tuple[Channel, Record]:
        """Send a start in the fastest way that this login shell supports."""
        login, become = self._login, order.become is not None
        try:
            request = script.start(order, expected, awaited=login.plain and login.awaits)
            channel, record = await self._ask(request, plain=login.plain and not become)
        except SpoolUnavailable:
            if become or not login.plain:
                raise
            login.plain = False
            channel, record = await self._ask(script.start(order, expected))
        if record == _NO_GROUP and not become:
            await channel.finish()
            channel, record = await self._ask_plainly(script.start(order, expected))
        if record[0] == "B" and not become:
            shell = [part for part in record[1:] if part != "."]
            login.plain = " ".join(shell) in PLAIN_SHELLS
            login.awaits = len(shell) == len(record) - 1
        return channel, record

    async def _ask_plainly(self, request: SpoolRequest) -> tuple[Channel, Record]:
        """Send a request to the login shell itself.

        If the login shell stays above the spool's shell, a process group for the command needs
        setsid; without the second shell it does not.
        """
        try:
            answered = await self._ask(request, plain=True)
        except SpoolUnavailable:
            raise self._lacking(_NO_GROUP[1:]) from None
        self._login.plain = True
        return answered

    def _lacking(self, missing: Sequence[str]) -> SpoolUnavailable:
        return SpoolUnavailable(
            f"{self._name} lacks {', '.join(missing)}, which a durable run needs."
        )

    async def identity(self, become: Become | None = None) -> SpoolIdentity:
        """Return the identity of the spool; create it if needed.

        Raises SpoolUnavailable, RemoteFailure.
        """
        try:
            record = await self._hello(script.hello(become))
        except ContactLost as lost:
            raise RemoteFailure(ErrorCode.CONNECTION_LOST, lost.message) from None
        match record:
            case ("I", store, boot):
                seen = script.identity(store, boot, become)
                self._login.stores[become.user if become is not None else None] = seen
                return seen
            case ("M", *missing):
                raise self._lacking(missing)
        message = (
            f"{self._name} cannot store runs: neither ~/.opsjobs nor /var/tmp/opsjobs-<uid> is "
            "writable. The disk may be full."
        )
        raise SpoolUnavailable(message)

    async def _hello(self, request: SpoolRequest) -> Record:
        record = await self._answer(request)
        if record == _NO_GROUP and request.become_request is None:
            channel, record = await self._ask_plainly(request)
            await channel.finish()
        return record

    async def _attach(
        self, order: StartOrder, expected: SpoolIdentity, offsets: Offsets
    ) -> PolledOutput:
        if not script.matches_user(expected, order.become):
            raise NotStarted(settled=False)
        channel, record = await self._ask_somehow(script.attach(order, expected, offsets))
        if record in (("A", "L"), ("A", "D")):
            return PolledOutput(channel, str(order.key))
        await channel.finish()
        raise await self._refusal(record, order, expected)

    async def _refusal(
        self, record: Record, order: StartOrder, expected: SpoolIdentity
    ) -> Exception:
        """Return the exception for a run that is not followed now."""
        if record == ("I",):
            return await self._stranger(order, expected)
        if record == _NO_GROUP:
            return self._lacking(record[1:])
        if record[0] == "A" and len(record) > 2:
            return NotStarted(settled=record[1] == "V", up_seconds=float(record[2]))
        return {
            ("V",): NotStarted(settled=True),
            ("A", "V"): NotStarted(settled=True),
            ("A", "N"): NotStarted(settled=False),
            ("A", "E"): ContactLost(
                f"Whether {order.key} was begun on {self._name} cannot be seen now."
            ),
            ("F",): SpoolUnavailable(
                f"{self._name} cannot store runs: their files are not writable. "
                "The disk may be full."
            ),
        }.get(record) or self._lost(record, order.key)

    def _lost(self, record: Record, key: RunKey) -> RemoteFailure:
        match record:
            case ("O",):
                message = f"{key} on {self._name} is another command than this one."
            case ("P", version):
                message = (
                    f"{key} on {self._name} was started by another release of opsjobs "
                    f"(spool {version}). Only that release can follow it."
                )
            case _:
                return run_lost(str(key))
        return NotFollowed(message)

    async def _stranger(self, order: StartOrder, expected: SpoolIdentity) -> Exception:
        seen = await self.identity(order.become)
        if seen == expected:
            return RemoteFailure(
                ErrorCode.CONNECTION_LOST,
                f"{self._name} could not read whose store it has; nothing was started.",
            )
        return SpoolChanged(seen)

    async def _answer(self, request: SpoolRequest) -> Record:
        """Return the single record of a request that ends with it."""
        channel, record = await self._ask(request)
        await channel.finish()
        return record

    async def _ask_somehow(self, request: SpoolRequest) -> tuple[Channel, Record]:
        """Call `_ask`, using another connection if this one has no free channel."""
        try:
            return await self._ask(request)
        except RemoteFailure as failure:
            if failure.code is not ErrorCode.CONNECTION_LOST:
                raise
        return await self._ask(request, self._beside)

    async def _ask(
        self, request: SpoolRequest, start: Start | None = None, *, plain: bool = False
    ) -> tuple[Channel, Record]:
        """Send a request, and wait for its first record.

        Raises RemoteFailure; SpoolUnavailable if the response is not from the spool.
        """
        if start is None:
            start = (
                self._talk
                if request.awaited
                or (request.become_request is not None and request.become_request.asks_password)
                else self._start
            )
        channel = await Channel.open(start, request, plain=plain)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                record = await channel.next_record()
        except TimeoutError:
            await channel.close()
            raise ContactLost(
                f"{self._name} did not answer within {ANSWER_SECONDS:.0f} s."
            ) from None
        except BaseException:
            await channel.close()
            raise
        if record is None:
            await channel.close()
            raise self._no_answer(channel, request)
        return channel, record

    def _no_answer(self, channel: Channel, request: SpoolRequest) -> Exception:
        """Return the exception for a request without a record.

        It was killed on its way, or was never run by a POSIX shell.
        """
        ended = channel.ended
        if ended is None or ended.code is None or ended.code > 128:
            return ContactLost(f"{self._name} ended our request before it answered ({ended}).")
        if request.become_request is not None:
            return request.become_request.failure(channel.last_lines)
        output = f" Its output: {channel.noise}" if channel.noise else ""
        return SpoolUnavailable(
            f"{self._name} does not run lines for a POSIX shell: ended with {ended.code}.{output}"
        )

    def _requests(self, order: StartOrder, expected: SpoolIdentity) -> RunRequests:
        async def attach(offsets: Offsets) -> PolledOutput:
            return await self._attach(order, expected, offsets)

        async def follow(channel: Channel) -> Live | None:
            return await Live.open(channel, self._beside, script.follow(order, expected, (0, 0)))

        async def cancel(grace_seconds: float) -> CancelOutcome:
            return await self.cancel(order.key, grace_seconds, order.become)

        return RunRequests(str(order.key), order.program, attach, follow, cancel)
