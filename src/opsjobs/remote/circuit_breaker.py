"""The circuit breaker of the pool: request permission to log in and cache good logins."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID, uuid4

from opsjobs.clock import Clock, SystemClock
from opsjobs.model.circuit import (
    Ask,
    Circuit,
    CircuitKey,
    CircuitPolicy,
    CircuitState,
    Report,
    Right,
    describe_open,
)
from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint
from opsjobs.telemetry.logs import log

WATCH_SECONDS = 1.0
BATCH = 500
AGAIN_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Pauses before asking again, during another process's attempt or a PostgreSQL failure."""

Question = TypeVar("Question")
Reply = TypeVar("Reply")


class CircuitRepository(Protocol):
    """The store of circuits, shared by all processes."""

    async def ask(self, asks: Sequence[Ask]) -> list[tuple[Right, Circuit]]:
        """Return the response to each request, in order, with its circuit. Raises Unavailable."""

    async def report(self, reports: Sequence[Report]) -> list[CircuitState | None]:
        """Record outcomes of attempts; return for each the changed state or None.

        Raises Unavailable.
        """

    async def watch(self, held: Collection[UUID]) -> set[CircuitKey]:
        """Extend the rights that are held; return the keys of all circuits that are not healthy.

        It does not matter which process found them unhealthy. Raises Unavailable.
        """


class OwnCircuits:
    """Circuits of a single process, for a pool without a database."""

    def __init__(self, policy: CircuitPolicy | None = None, clock: Clock | None = None) -> None:
        self._policy = policy or CircuitPolicy()
        self._clock = clock or SystemClock()
        self._known: dict[CircuitKey, Circuit] = {}

    async def ask(self, asks: Sequence[Ask]) -> list[tuple[Right, Circuit]]:
        """Respond in the same way as the shared store."""
        return [self._ask(ask) for ask in asks]

    def _ask(self, ask: Ask) -> tuple[Right, Circuit]:
        self._known[ask.key], right = self._known.get(ask.key, Circuit(ask.login)).ask(
            ask, self._now
        )
        return right, self._known[ask.key]

    async def report(self, reports: Sequence[Report]) -> list[CircuitState | None]:
        """Record in the same way as the shared store, but report no changes."""
        for report in reports:
            before = self._known.get(report.key, Circuit(report.login))
            self._known[report.key] = before.after_report(report, self._now, self._policy)
        return [None for _ in reports]

    async def watch(
        self,
        held: Collection[UUID],  # noqa: ARG002  only one process
    ) -> set[CircuitKey]:
        """Return the keys of the circuits that are not healthy."""
        return {key for key, circuit in self._known.items() if not circuit.well}

    @property
    def _now(self) -> datetime:
        return self._clock.now()


class Permit:
    """Permission for one login attempt."""

    def __init__(self, ask: Ask, token: UUID | None) -> None:
        self.ask = ask
        self.token = token
        self.spared = False

    def spare(self) -> None:
        """Exempt this login: failures from now on are not its own, as it was not reached."""
        self.spared = True

    def report(self, failure: RemoteFailure | None) -> Report:
        """Return the report of the attempt's outcome."""
        if failure is None:
            return Report(self.ask.key, self.ask.login, None, "", self.token)
        code = ErrorCode.INTERNAL if self.spared else failure.code
        return Report(self.ask.key, self.ask.login, code, failure.message, self.token)


def ignore(_changed: CircuitState | None, _code: ErrorCode | None) -> None:
    """Ignore changes of circuits."""


class Breaker:
    """The breaker of one process: known good logins pass at once, all others ask in batches.

    `observe` is called for each circuit that a report of this process has opened (with the reason)
    or closed, and with (None, reason) for each session that an open circuit has refused.
    """

    def __init__(
        self,
        circuits: CircuitRepository | None = None,
        clock: Clock | None = None,
        *,
        observe: Callable[[CircuitState | None, ErrorCode | None], None] = ignore,
    ) -> None:
        self._clock = clock or SystemClock()
        self._circuits = circuits or OwnCircuits(clock=self._clock)
        self._alone = circuits is None
        self._observe = observe
        self._good: dict[CircuitKey, str] = {}
        self._held: dict[UUID, CircuitKey] = {}
        self._ours: dict[CircuitKey, asyncio.Event] = {}
        self._asks: OutcomeBatch[Ask, tuple[Right, Circuit]] = OutcomeBatch(self._circuits.ask)
        self._reports: OutcomeBatch[Report, CircuitState | None] = OutcomeBatch(
            self._circuits.report
        )
        self._watching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def attempt(self, endpoint: Endpoint, *, insist: bool = False) -> AsyncIterator[Permit]:
        """Permit one login attempt within the block, and report its outcome.

        Raises RemoteFailure(CIRCUIT_OPEN).
        """
        permit = await self._enter(_ask_for(endpoint, insist=insist), endpoint.target.name)
        try:
            yield permit
        except RemoteFailure as failure:
            await self._failed(permit, failure)
            raise
        except BaseException:
            permit.spare()
            self._leave(permit, RemoteFailure(ErrorCode.INTERNAL, "given up"))
            raise
        self._succeeded(permit)

    async def report(self, endpoint: Endpoint, failure: RemoteFailure | None) -> None:
        """Report the outcome of a deliberate attempt that ignored the circuit."""
        permit = Permit(_ask_for(endpoint, insist=False), None)
        self._good.pop(permit.ask.key, None)
        await self._send_report(permit.report(failure))

    async def close(self) -> None:
        """Send pending reports for at most a second, then stop."""
        if self._watching is not None:
            self._watching.cancel()
        await self._reports.close(1.0)
        await self._asks.close(0.0)

    # Before the attempt.

    async def _enter(self, ask: Ask, name: str) -> Permit:
        if self._good.get(ask.key) == ask.login:
            return Permit(ask, None)
        self._watch()
        for count in itertools.count():
            right, circuit = await self._answer(ask)
            if right is Right.OPEN:
                self._observe(None, circuit.code)
                raise RemoteFailure(
                    ErrorCode.CIRCUIT_OPEN, describe_open(name, circuit), because=circuit.code
                )
            if right is Right.FREE:
                if circuit.free:
                    self._good[ask.key] = ask.login
                return Permit(ask, None)
            if right is Right.YOURS:
                self._held[ask.token] = ask.key
                self._ours[ask.key] = asyncio.Event()
                return Permit(ask, ask.token)
            await self._wait(ask.key, count)
        raise AssertionError("it counts for ever")

    async def _answer(self, ask: Ask) -> tuple[Right, Circuit]:
        """Request permission to log in, retrying while PostgreSQL is unavailable.

        An attempt with `insist` continues without a response; all others wait for PostgreSQL, as
        nothing can be recorded without it.
        """
        while True:
            try:
                return await self._asks.do(ask)
            except Unavailable:
                if ask.insist:
                    return Right.FREE, Circuit(ask.login)
                await self._clock.sleep(AGAIN_SECONDS[-1])

    async def _wait(self, key: CircuitKey, count: int) -> None:
        """Wait for an attempt of this process, or pause before asking again for other processes."""
        ours = self._ours.get(key)
        if ours is not None:
            await ours.wait()
        else:
            await self._clock.sleep(AGAIN_SECONDS[min(count, len(AGAIN_SECONDS) - 1)])

    # After the attempt.

    def _succeeded(self, permit: Permit) -> None:
        known = self._good.get(permit.ask.key) == permit.ask.login
        self._good[permit.ask.key] = permit.ask.login
        if permit.token is not None or not known:
            self._leave(permit, None)

    async def _failed(self, permit: Permit, failure: RemoteFailure) -> None:
        self._good.pop(permit.ask.key, None)
        try:
            await self._send_report(permit.report(failure))
        finally:
            self._release(permit)

    def _leave(self, permit: Permit, failure: RemoteFailure | None) -> None:
        """Send the report in the background."""
        sending = asyncio.ensure_future(self._send_report(permit.report(failure)))
        self._reports.keep(sending)
        sending.add_done_callback(lambda _: self._release(permit))

    def _release(self, permit: Permit) -> None:
        if permit.token is not None:
            self._held.pop(permit.token, None)
            tried = self._ours.pop(permit.ask.key, None)
            if tried is not None:
                tried.set()

    async def _send_report(self, report: Report) -> None:
        changed = None
        while True:
            try:
                changed = await self._reports.do(report)
                break
            except Unavailable:
                await self._clock.sleep(AGAIN_SECONDS[-1])
            except Exception:  # noqa: BLE001  a bug must not hide how the login ended
                log.exception("circuit_report_failed", target=report.key.target_id)
                break
        if changed is not None:
            self._observe(changed, report.code)

    # Periodic check of all circuits.

    def _watch(self) -> None:
        if self._watching is None and not self._alone:
            self._watching = asyncio.create_task(self._watch_on(), name="circuits")

    async def _watch_on(self) -> None:
        """Drop cached logins whose circuit another process found unhealthy."""
        while True:
            await self._clock.sleep(WATCH_SECONDS)
            try:
                unwell = await self._circuits.watch([*self._held])
            except Unavailable:
                continue
            except Exception:  # noqa: BLE001  a defect must not end the other checks
                log.exception("circuits_not_watched")
                continue
            for key in unwell:
                self._good.pop(key, None)


class OutcomeBatch(Generic[Question, Reply]):
    """Process questions in batches: those that arrive during one batch form the next one."""

    def __init__(self, answer: Callable[[Sequence[Question]], Awaitable[Sequence[Reply]]]) -> None:
        self._answer = answer
        self._waiting: list[tuple[Question, asyncio.Future[Reply]]] = []
        self._working: asyncio.Task[None] | None = None
        self._kept: set[asyncio.Future[Any]] = set()

    async def do(self, question: Question) -> Reply:
        """Return the reply to this question, or raise its failure."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, reply))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        try:
            return await reply
        finally:
            del reply  # its exception refers to this frame

    def keep(self, doing: asyncio.Future[Any]) -> None:
        """Keep a reference to a future that is not awaited elsewhere."""
        self._kept.add(doing)
        doing.add_done_callback(self._kept.discard)

    async def close(self, seconds: float) -> None:
        """Wait at most `seconds` for the kept futures, then cancel them."""
        if self._kept:
            await asyncio.wait([*self._kept], timeout=seconds)
        left = [*self._kept, *([self._working] if self._working is not None else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            portion, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                await self._reply(portion)
            except BaseException:
                _fail([reply for _, reply in portion], None)
                raise

    async def _reply(self, portion: Sequence[tuple[Question, asyncio.Future[Reply]]]) -> None:
        """Answer these questions together, or one by one if one of them fails."""
        try:
            replies = await self._answer([question for question, _ in portion])
        except Exception as failure:  # noqa: BLE001  each waiter gets the failure, of any kind
            if isinstance(failure, Unavailable) or len(portion) == 1:
                _fail([reply for _, reply in portion], failure)
                return
            for one in portion:
                await self._reply([one])
            return
        for (_, reply), found in zip(portion, replies, strict=True):
            if not reply.done():
                reply.set_result(found)


def _fail(replies: Sequence[asyncio.Future[Any]], failure: Exception | None) -> None:
    for reply in replies:
        if not reply.done():
            if failure is None:
                reply.cancel()
            else:
                reply.set_exception(_copy(failure))


def _copy(failure: Exception) -> Exception:
    """Return a separate exception for each waiter: a shared one would collect all tracebacks."""
    return Unavailable(str(failure)) if isinstance(failure, Unavailable) else failure


def _ask_for(endpoint: Endpoint, *, insist: bool) -> Ask:
    credential = endpoint.credential
    key = CircuitKey(endpoint.target.id, credential.id if credential is not None else "")
    return Ask(key, _login(endpoint), uuid4(), insist)


def _login(endpoint: Endpoint) -> str:
    """Return a digest of a login's identity: host, user, secret, way and jump hosts."""
    target, credential = endpoint.target, endpoint.credential
    parts = [
        target.host,
        target.port,
        *((credential.version, credential.username) if credential is not None else ()),
        *((target.winrm.model_dump(mode="json"),) if target.winrm is not None else ()),
        *((jump.target.id, jump.target.host, jump.target.port) for jump in endpoint.jumps),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
