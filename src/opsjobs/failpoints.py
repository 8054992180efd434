"""Faults on order, at every numbered step of the straight line: for tests that kill, stall or break this process just there.

`OPSJOBS_FAILPOINT=name:action[:arg][@n]`, several separated by commas; `@n` = only the n-th passage, else every one.

    kill          SIGKILL of our own process, before the step
    sleep:2.5     wait so many seconds (0.1 without), then do the step
    error         the step does not happen, the caller gets an error
    error_after   the step happens, and the caller gets an error all the same

    launch          engine: targets are resolved, the execution is planned
    ledger.launch   engine and store: the launch's transaction, its commit included
    notify            engine: the bells of a launch
    claim           store: the claim's transaction
    begin           engine: what runs need is read, between their claim and their start
    session         engine: a session to a machine is opened
    start           engine: a command is started
    attach          engine: a command that was started before is looked for and followed
    cancel          engine: a durable command is ended
    settle          store: a group commit of output, results and ends
    finish          engine: a run whose last action has ended is put on record
    fire            store: due moments become pending firings, the commit included
    firing.prepare  engine: the targets of pending firings are resolved
    firing.launch   store: pending firings become executions, the commit included
    relay           engine: a shard's facts are told
    stream          api: a follower reads a page of the log

The error is Unavailable; at `session`, `attach` and `cancel` a RemoteFailure with connection_lost; at `start`
connection_lost before, lost after.
Nothing set costs one look at a module variable.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType

from opsjobs.model.errors import Failure, RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode

VARIABLE = "OPSJOBS_FAILPOINT"
NAMES = frozenset(
    {
        "launch",
        "ledger.launch",
        "notify",
        "claim",
        "begin",
        "session",
        "start",
        "attach",
        "cancel",
        "settle",
        "finish",
        "fire",
        "firing.launch",
        "firing.prepare",
        "relay",
        "stream",
    }
)
ACTIONS = frozenset({"kill", "sleep", "error", "error_after"})
SLEEP_SECONDS = 0.1
_ORDER = re.compile(r"(?P<name>[a-z.]+):(?P<action>[a-z_]+)(?::(?P<seconds>\d+(?:\.\d+)?))?(?:@(?P<nth>[1-9]\d*))?")
_CODES: Mapping[tuple[str, str], ErrorCode] = {
    **{(name, how): ErrorCode.CONNECTION_LOST for name in ("session", "attach", "cancel") for how in ("error", "error_after")},
    ("start", "error"): ErrorCode.CONNECTION_LOST,
    ("start", "error_after"): ErrorCode.LOST,
}


@dataclass(slots=True)
class _FaultOrder:
    """One fault that was ordered; `passed` counts how often its step was come to."""

    name: str
    action: str
    seconds: float
    nth: int | None
    passed: int = 0

    def due(self) -> bool:
        self.passed += 1
        return self.nth is None or self.passed == self.nth

    def failure(self) -> Failure:
        words = f"failpoint {self.name}:{self.action}"
        code = _CODES.get((self.name, self.action))
        return Unavailable(words) if code is None else RemoteFailure(code, words)


class _Passage:
    """One way through a step for which faults are ordered."""

    def __init__(self, due: list[_FaultOrder]) -> None:
        self._due = due

    async def __aenter__(self) -> None:
        for order in self._due:
            match order.action:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "sleep":
                    await asyncio.sleep(order.seconds)
                case "error":
                    raise order.failure()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for order in self._due:
            if kind is None and order.action == "error_after":
                raise order.failure()


_FREE: AbstractAsyncContextManager[None] = nullcontext()
_orders: list[_FaultOrder] = []


def arm(text: str) -> None:
    """Order these faults, spelt as in the variable, instead of all before. Raises ValueError saying what cannot be read."""
    _orders[:] = [_order(part.strip()) for part in text.split(",") if part.strip()]


def at(name: str) -> AbstractAsyncContextManager[None]:
    """`async with failpoints.at("settle"):` around the step of this name."""
    if not _orders:
        return _FREE
    return _Passage([order for order in _orders if order.name == name and order.due()])


def _order(part: str) -> _FaultOrder:
    found = _ORDER.fullmatch(part)
    if found is None:
        raise ValueError(f"{VARIABLE}: {part!r} is not name:action[:seconds][@n].")
    if found["name"] not in NAMES:
        raise ValueError(f"{VARIABLE}: there is no step {found['name']!r}: use {', '.join(sorted(NAMES))}.")
    if found["action"] not in ACTIONS or (found["seconds"] and found["action"] != "sleep"):
        raise ValueError(f"{VARIABLE}: {part!r}: the action is one of kill, sleep[:seconds], error, error_after.")
    seconds, nth = float(found["seconds"] or SLEEP_SECONDS), int(found["nth"]) if found["nth"] else None
    return _FaultOrder(found["name"], found["action"], seconds, nth)


arm(os.environ.get(VARIABLE, ""))
