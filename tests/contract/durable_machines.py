"""Durable runs on one machine of a backend, with helpers for what tests often do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from contract.conftest import NEVER, Backend, Latch, OpenBackend, collect
from kit.fake_remote import Deed
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import RunKey, SpoolIdentity, StartOrder
from opsjobs.remote.session import (
    ContactLost,
    Durable,
    NotFollowed,
    NotStarted,
    Output,
    RemoteExit,
    RemoteProcess,
    SpoolChanged,
)

SAID = [Output("stdout", b"one\0\xff"), Output("stderr", b"\xfetwo\n")]
SAY = r"printf 'one\000\377'; printf '\376two\n' >&2"


class Machine:
    """One machine of a backend with its spool identity, and the durable runs of a test."""

    def __init__(self, backend: Backend, durable: Durable, identity: SpoolIdentity) -> None:
        self.backend = backend
        self.durable = durable
        self.identity = identity
        self._orders: list[StartOrder] = []

    @property
    def windows(self) -> bool:
        """True if it has no signals: a cancel ends a run at once."""
        return self.backend.endpoint.target.winrm is not None

    @property
    def first_signal(self) -> str:
        """The first signal that a run gets when it is to end."""
        return "KILL" if self.windows else "TERM"

    def order(
        self,
        command: str,
        deeds: Sequence[Deed] = (RemoteExit(0),),
        *,
        ignores_term: bool = False,
        **limits: float,
    ) -> StartOrder:
        """Return a command that records its start; `deeds` are what a fake machine does for it."""
        key = RunKey(uuid4(), "step-1", 1)
        command = f"echo started >>'{self.backend.folder}/{key}'; {command}"
        self.backend.script(command, deeds, ignores_term=ignores_term)
        order = StartOrder(
            key, command, **{"timeout_seconds": NEVER, "grace_seconds": 30.0, **limits}
        )  # type: ignore[arg-type]
        self._orders.append(order)
        return order

    def latch(self) -> Latch:
        """Return a new latch."""
        return Latch(self.backend.folder / f"latch-{uuid4()}")

    def starts(self, order: StartOrder) -> int:
        """Return how often it really started."""
        if self.backend.fake is not None:
            machine = self.backend.fake.machine(self.backend.endpoint.target.name)
            return len(
                [
                    start
                    for start in machine.starts
                    if start.order is not None and start.order.key == order.key
                ]
            )
        testimony = self.backend.folder / str(order.key)
        return len(testimony.read_text().splitlines()) if testimony.exists() else 0

    async def begin(self, order: StartOrder) -> RemoteProcess:
        """Begin it under the machine's identity."""
        return await self.durable.begin(order, self.identity)

    async def attach(self, order: StartOrder, offsets: tuple[int, int] = (0, 0)) -> RemoteProcess:
        """Attach to it under the machine's identity."""
        return await self.durable.attach(order, self.identity, offsets)

    async def done(self, order: StartOrder) -> tuple[bytes, bytes, RemoteExit]:
        """Begin it and follow it to its end."""
        return await collect(await self.begin(order))

    @asynccontextmanager
    async def elsewhere(self) -> AsyncIterator[Machine]:
        """Yield the same machine over another session."""
        async with self.backend.sessions.session(self.backend.endpoint) as session:
            durable = session.durable()
            assert durable is not None
            yield Machine(self.backend, durable, self.identity)

    async def tidy_up(self) -> None:
        """Remove everything, over a new session: the test may have broken this one."""
        async with self.elsewhere() as again:
            for order in self._orders:
                await again.durable.cancel(order.key, 0.0)
            await again.durable.clean([order.key for order in self._orders])


@asynccontextmanager
async def machine(open_backend: OpenBackend) -> AsyncIterator[Machine]:
    """Yield a machine of this backend."""
    async with open_backend() as backend, backend.sessions.session(backend.endpoint) as session:
        durable = session.durable()
        assert durable is not None
        found = Machine(backend, durable, await identity_of(durable))
        try:
            yield found
        finally:
            await found.tidy_up()


async def identity_of(durable: Durable) -> SpoolIdentity:
    """Return the identity that a begin without one reports."""
    with pytest.raises(SpoolChanged) as met:
        await durable.begin(StartOrder(RunKey(uuid4(), "step-1", 1), "exit 99", NEVER), None)
    return met.value.seen


async def lost(happening: Awaitable[object]) -> str:
    """Return the message for a run that no longer exists: LOST, but not ContactLost."""
    with pytest.raises(RemoteFailure) as failed:
        await happening
    assert failed.value.code is ErrorCode.LOST
    assert not isinstance(failed.value, ContactLost)
    return failed.value.message


async def not_followed(happening: Awaitable[object]) -> bool:
    """Return True if the run is refused as another one, which may be running: NotFollowed, LOST."""
    with pytest.raises(NotFollowed) as failed:
        await happening
    return failed.value.code is ErrorCode.LOST


async def never_starts(happening: Awaitable[object]) -> bool:
    """Return True if a run that is not there can never start."""
    with pytest.raises(NotStarted) as absent:
        await happening
    return absent.value.settled


async def first(process: RemoteProcess, size: int) -> bytes:
    """Return the first bytes of stdout, at least `size`; reading can continue."""
    said = b""
    async for piece in process:
        assert isinstance(piece, Output)
        said += piece.data if piece.stream == "stdout" else b""
        if len(said) >= size:
            return said
    raise AssertionError("it ended before that")


async def until_ended(web: Machine, order: StartOrder) -> None:
    """Return once the run has ended."""
    async with asyncio.timeout(60):
        while await web.durable.look(order.key) is None:
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Return True if this process of the machine, which is this one, is still running."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False
