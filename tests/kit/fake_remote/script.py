"""The script of a command on a scripted machine, deed by deed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import Output, RemoteExit


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this long by the clock of the fakes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Gate:
    """Wait until the test opens it; `reached` is set when the command waits before it."""

    event: asyncio.Event
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def stand(self) -> None:
        """Wait before it."""
        self.reached.set()
        await self.event.wait()


@dataclass(frozen=True, slots=True)
class Echo:
    """Write the command's standard input to its standard output.

    A durable run has no input but its program's.
    """


@dataclass(frozen=True, slots=True)
class Break:
    """Break contact here: the reader gets this failure.

    With a durable run, the first follower that reaches this place gets ContactLost with this
    message, and the run continues.
    """

    failure: RemoteFailure = field(
        default_factory=lambda: RemoteFailure(ErrorCode.LOST, "Contact broke (as scripted).")
    )


Deed = Output | RemoteExit | Pause | Gate | Echo | Break
Script = Sequence[Deed] | Callable[[str, bytes], Sequence[Deed]]
"""The deeds of a command, or a function from its command line and standard input to them."""


async def wait_at_gate(gate: Gate | None) -> None:
    """Wait before the gate, if there is one."""
    if gate is not None:
        await gate.stand()
