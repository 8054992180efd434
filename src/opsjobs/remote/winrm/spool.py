"""Durable runs on a Windows host, which the helper `spool` starts and finds again by key."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Become, Program, RunKey, SpoolIdentity, StartOrder
from opsjobs.remote.session import (
    CancelOutcome,
    ContactLost,
    NotFollowed,
    NotStarted,
    RemoteProcess,
    SpoolChanged,
    SpoolUnavailable,
)
from opsjobs.remote.spool.channel import Channel, Record, as_contact_lost, parse_cancel, parse_look
from opsjobs.remote.spool.process import (
    DurableProcess,
    Offsets,
    PolledOutput,
    RunRequests,
    run_lost,
)
from opsjobs.remote.winrm.process import WinrmProcess
from opsjobs.remote.winrm.programs import Launch, UnsupportedProgram, launch_spool, order_parameters

ANSWER_SECONDS = 120.0
"""The time for the first record: PowerShell starts, and starts another one for the run."""
KILL_SECONDS = 60.0
"""The time that a cancel may take after its grace period."""
KEYS_AT_ONCE = 100
BEGUN = ("H",)
"""The record before a start: without a further one, the run may have been started."""
UNSEEN = ("U",)
"""The record of a host that cannot read a file, or a process, and so does not know."""
KNOWN_RUNS = frozenset({"attach", "look", "cancel"})
"""Operations on what a helper may have started: one that fails shows nothing about it."""

_KEY = re.compile(r"[0-9a-f-]{36}\.[a-z0-9][a-z0-9_-]{0,63}\.[0-9]{1,9}")

StartHelper = Callable[[Launch], Awaitable[WinrmProcess]]
"""Start a helper whose output is complete, or lost. Raises RemoteFailure as Session.start."""


class WindowsSpool:
    """Durable runs on one Windows host."""

    def __init__(self, name: str, start: StartHelper) -> None:
        self._name = name
        self._start = start

    async def begin(self, order: StartOrder, expected: SpoolIdentity | None) -> RemoteProcess:
        """Start the run unless it was started before, and follow it from its first byte."""
        if expected is None:
            raise SpoolChanged(await self.identity(order.become))
        try:
            given, data = order_parameters(order)
        except UnsupportedProgram as error:
            raise RemoteFailure(
                ErrorCode.INTERNAL, f"{self._name} cannot be sent this: {error}."
            ) from None
        given |= {"store": expected.store, "boot": expected.boot, "offsets": [0, 0]}
        channel, record = await self._ask("start", order.key, given, data)
        if record[0] == "A":
            return await self._follow(channel, record, order, expected, (0, 0))
        await channel.finish()
        if record == UNSEEN:
            raise self._unseen(channel)
        if record[0] == "S":
            return await self.attach(order, expected, (0, 0))
        raise await self._refusal(record, order)

    async def attach(
        self, order: StartOrder, expected: SpoolIdentity, offsets: Offsets
    ) -> RemoteProcess:
        """Follow a run that was started before, from these offsets on."""
        channel, record = await self._ask_to_attach(order, expected, offsets)
        return await self._follow(channel, record, order, expected, offsets)

    async def identity(self, become: Become | None = None) -> SpoolIdentity:
        """Return the identity of the spool; create it if needed.

        Raises SpoolUnavailable, RemoteFailure.
        """
        assert become is None, "nothing becomes another user over WinRM"
        try:
            record = await self._answer("hello", None, {"store": secrets.token_hex(16)})
        except ContactLost as lost:
            raise RemoteFailure(ErrorCode.CONNECTION_LOST, lost.message) from None
        if record == ("X", "profile"):
            raise SpoolUnavailable(
                f"{self._name} cannot store runs: the user has no profile there. Log on to the "
                "host as this user once."
            )
        if record[0] != "I":
            raise SpoolUnavailable(
                f"{self._name} cannot store runs: .opsjobs in the profile of the user is not "
                "writable, or WMI does not answer the user."
            )
        if len(record) != 3:
            raise RemoteFailure(
                ErrorCode.CONNECTION_LOST, f"{self._name} cannot read .opsjobs\\id now."
            )
        return SpoolIdentity(record[1], record[2])

    async def look(
        self,
        key: RunKey,
        become: Become | None = None,  # noqa: ARG002  nothing becomes another user here
    ) -> CancelOutcome | None:
        """Return the state of a run. Raises RemoteFailure, SpoolUnavailable."""
        return parse_look(await self._answer("look", key, {}))

    async def cancel(
        self,
        key: RunKey,
        grace_seconds: float,
        become: Become | None = None,  # noqa: ARG002  nothing becomes another user here
    ) -> CancelOutcome:
        """End the run, or make sure that it never starts.

        There is no grace period: Windows has no signal for what has no console.
        """
        try:
            async with asyncio.timeout(grace_seconds + KILL_SECONDS):
                return parse_cancel(await self._answer("cancel", key, {}))
        except (RemoteFailure, SpoolUnavailable, TimeoutError):
            return CancelOutcome(CancelProof.UNREACHABLE)

    async def clean(
        self,
        keys: Sequence[RunKey],
        become: Become | None = None,  # noqa: ARG002  nothing becomes another user here
        *,
        output_only: bool = False,
    ) -> frozenset[RunKey]:
        """Remove the files of runs that have ended, or only their output.

        Return the runs whose files remain, as they live, or something holds the files open. Raises
        RemoteFailure, SpoolUnavailable.
        """
        what = "output" if output_only else "all"
        kept: set[RunKey] = set()
        for at in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[at : at + KEYS_AT_ONCE]
            names = [_name(key) for key in some]
            _, *places = await self._answer("clean", None, {"what": what, "keys": names})
            kept |= {some[int(place)] for place in places}
        return frozenset(kept)

    # --- requests

    async def _ask_to_attach(
        self, order: StartOrder, expected: SpoolIdentity, offsets: Offsets
    ) -> tuple[Channel, Record]:
        given = {"store": expected.store, "boot": expected.boot, "digest": order.digest}
        return await self._ask("attach", order.key, {**given, "offsets": [*offsets]})

    async def _follow(
        self,
        channel: Channel,
        record: Record,
        order: StartOrder,
        expected: SpoolIdentity,
        offsets: Offsets,
    ) -> DurableProcess:
        source = await self._source(channel, record, order)
        requests = self._requests(order, expected)
        return DurableProcess(requests, source, offsets)

    async def _source(self, channel: Channel, record: Record, order: StartOrder) -> PolledOutput:
        if record in (("A", "L"), ("A", "D")):
            return PolledOutput(channel, str(order.key))
        await channel.finish()
        if record == UNSEEN:
            raise self._unseen(channel)
        raise await self._refusal(record, order)

    def _requests(self, order: StartOrder, expected: SpoolIdentity) -> RunRequests:
        async def attach(offsets: Offsets) -> PolledOutput:
            channel, record = await self._ask_to_attach(order, expected, offsets)
            return await self._source(channel, record, order)

        async def follow(_: Channel) -> None:
            return None

        async def cancel(grace_seconds: float) -> CancelOutcome:
            return await self.cancel(order.key, grace_seconds)

        program = order.program or Program(command=order.command)
        return RunRequests(str(order.key), program, attach, follow, cancel)

    async def _refusal(self, record: Record, order: StartOrder) -> Exception:
        """Return the exception for a run that is not followed now."""
        if record == ("I",):
            return SpoolChanged(await self.identity())
        return {
            ("A", "V"): NotStarted(settled=True),
            ("A", "N"): NotStarted(settled=False),
            ("A", "E"): ContactLost(
                f"Whether {order.key} was begun on {self._name} cannot be seen now."
            ),
            ("F",): SpoolUnavailable(
                f"{self._name} cannot start durable runs: their files are not writable, or WMI "
                "starts no process for the user."
            ),
            ("O",): NotFollowed(f"{order.key} on {self._name} is another command than this one."),
        }.get(record) or run_lost(str(order.key))

    async def _answer(self, operation: str, key: RunKey | None, given: Mapping[str, Any]) -> Record:
        """Return the single record of a request that ends with it.

        Raises ContactLost if the host cannot see the answer now, and as `_ask`.
        """
        channel, record = await self._ask(operation, key, given)
        await channel.finish()
        if record == UNSEEN:
            raise self._unseen(channel)
        return record

    def _unseen(self, channel: Channel) -> ContactLost:
        reason = f": {channel.noise}" if channel.noise else ""
        return ContactLost(
            f"{self._name} cannot read its files of durable runs now, or may not see their "
            f"processes{reason}."
        )

    async def _ask(
        self, operation: str, key: RunKey | None, given: Mapping[str, Any], data: bytes = b""
    ) -> tuple[Channel, Record]:
        """Send a request, and wait for its first record.

        Raises RemoteFailure; SpoolUnavailable if the response is not from the helper.
        """
        named = {"key": _name(key)} if key is not None else {}
        nonce = "\x1e" + secrets.token_hex(8)
        launch = launch_spool({"op": operation, "nonce": nonce, **named, **given}, data)
        try:
            process = await self._start(launch)
        except RemoteFailure as failure:
            raise as_contact_lost(failure) from None
        channel = Channel(process, nonce)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                record = await channel.next_record()
                if begun := record == BEGUN:
                    record = await channel.next_record()
            # From here on the helper only reads; one that starts a run must not be ended.
            process.ends_with_reader = True
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
            raise self._no_answer(channel, known=begun or operation in KNOWN_RUNS)
        return channel, record

    def _no_answer(self, channel: Channel, *, known: bool) -> Exception:
        """Return the exception for a request without a record; `known`: its run may be there."""
        ended = channel.ended
        output = f" Its output: {channel.noise}" if channel.noise else ""
        if known or ended is None or ended.code is None:
            return ContactLost(
                f"{self._name} ended our request before it answered ({ended}).{output}"
            )
        return SpoolUnavailable(
            f"{self._name} does not run our PowerShell helper (it ended with {ended.code}): "
            f"PowerShell 3 or newer is needed.{output}"
        )


def _name(key: RunKey) -> str:
    """Return the name of the folder of a run.

    Raises ValueError for an invalid key, which would name another folder.
    """
    name = str(key)
    if not _KEY.fullmatch(name):
        raise ValueError(f"{name!r} is not the key of a run")
    return name
