"""Fault injection for tests: kill, stall or fail this process at a named step.

`OPSJOBS_FAILPOINT=name:action[:arg][@n]`, several separated by commas. `@n` limits the fault to
the n-th passage of the step; without it, every passage fails.

    kill          SIGKILL this process before the step
    kill_after    do the step, then SIGKILL this process
    sleep:2.5     sleep so many seconds (default 0.1), then do the step
    error         skip the step and raise
    error_after   do the step, then raise

    launch             engine: targets are resolved, the execution is planned
    ledger.launch      engine and store: the launch's transaction, its commit included
    notify             engine: the wake-ups of a launch
    claim              store: the claim's transaction
    begin              engine: the set-up of claimed runs is read
    session            engine: a session to a host is opened
    start              engine: a command is started
    attach             engine: a running durable command is found and followed
    cancel             engine: a durable command is ended
    settle             store: a group commit of output, results and terminal states
    finish             engine: the end of a run is recorded
    fire               store: due times become pending firings, the commit included
    firing.prepare     engine: the targets of pending firings are resolved
    firing.launch      store: pending firings become executions, the commit included
    publish            engine: the events of a shard are published
    event.position     store: committed events get their positions, the commit included
    notification.plan  store: messages of a turn of the planner are queued, before the commit
    delivery.queue     store: the messages of a source are queued, before the commit
    delivery.settle    store: outcomes of deliveries are recorded, the commit included
    stream             api: a follower reads a page of the log

The error is Unavailable; at `session`, `attach` and `cancel` a RemoteFailure with connection_lost;
at `start` a RemoteFailure with connection_lost before the step and lost after it.
Without faults a step costs one read of a module variable.
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
        "publish",
        "event.position",
        "notification.plan",
        "delivery.queue",
        "delivery.settle",
        "stream",
    }
)
ACTIONS = frozenset({"kill", "kill_after", "sleep", "error", "error_after"})
SLEEP_SECONDS = 0.1
_FORM = re.compile(
    r"(?P<name>[a-z.]+):(?P<action>[a-z_]+)(?::(?P<seconds>\d+(?:\.\d+)?))?(?:@(?P<nth>[1-9]\d*))?"
)
_CODES: Mapping[tuple[str, str], ErrorCode] = {
    **{
        (name, how): ErrorCode.CONNECTION_LOST
        for name in ("session", "attach", "cancel")
        for how in ("error", "error_after")
    },
    ("start", "error"): ErrorCode.CONNECTION_LOST,
    ("start", "error_after"): ErrorCode.LOST,
}


@dataclass(slots=True)
class _Fault:
    """An injected fault; `passed` counts the passages of its step."""

    name: str
    action: str
    seconds: float
    nth: int | None
    passed: int = 0

    def is_due(self) -> bool:
        self.passed += 1
        return self.nth is None or self.passed == self.nth

    def failure(self) -> Failure:
        words = f"failpoint {self.name}:{self.action}"
        code = _CODES.get((self.name, self.action))
        return Unavailable(words) if code is None else RemoteFailure(code, words)


class _Passage:
    """One passage of a step that has faults."""

    def __init__(self, due: list[_Fault]) -> None:
        self._due = due

    async def __aenter__(self) -> None:
        for fault in self._due:
            match fault.action:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "sleep":
                    await asyncio.sleep(fault.seconds)
                case "error":
                    raise fault.failure()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fault in self._due:
            if kind is not None:
                continue
            match fault.action:
                case "kill_after":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "error_after":
                    raise fault.failure()


_NO_FAULT: AbstractAsyncContextManager[None] = nullcontext()
_faults: list[_Fault] = []


def arm(text: str) -> None:
    """Replace all faults by these, in the form of the variable.

    Raises ValueError if it is invalid.
    """
    _faults[:] = [_parse(part.strip()) for part in text.split(",") if part.strip()]


def at(name: str) -> AbstractAsyncContextManager[None]:
    """Return the context of the step of this name: `async with failpoints.at("settle"):`."""
    if not _faults:
        return _NO_FAULT
    return _Passage([fault for fault in _faults if fault.name == name and fault.is_due()])


def _parse(part: str) -> _Fault:
    found = _FORM.fullmatch(part)
    if found is None:
        raise ValueError(f"{VARIABLE}: {part!r} is invalid. Use name:action[:seconds][@n].")
    if found["name"] not in NAMES:
        raise ValueError(
            f"{VARIABLE}: unknown step {found['name']!r}. Use one of {', '.join(sorted(NAMES))}."
        )
    if found["action"] not in ACTIONS or (found["seconds"] and found["action"] != "sleep"):
        raise ValueError(
            f"{VARIABLE}: unknown action in {part!r}. "
            "Use kill, kill_after, sleep[:seconds], error or error_after."
        )
    seconds = float(found["seconds"] or SLEEP_SECONDS)
    nth = int(found["nth"]) if found["nth"] else None
    return _Fault(found["name"], found["action"], seconds, nth)


arm(os.environ.get(VARIABLE, ""))
