"""What the actions of one target run share: the record, the way to the machine, and what earlier ones have come to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from opsjobs.clock import Clock
from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.launching.approval_service import Approving
from opsjobs.engine.launching.target_pinning import Pinning
from opsjobs.engine.runs.child_executions import Children
from opsjobs.engine.runs.outage import wait_out
from opsjobs.engine.runs.run_connection import Renew, RunConnections
from opsjobs.engine.runs.run_history import RunHistory
from opsjobs.engine.runs.run_journal import ActionEnd, RunJournal
from opsjobs.engine.runs.run_masks import hidden
from opsjobs.engine.runs.transfer import TransferTools
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, RunStatus, WaitingFor
from opsjobs.model.secret import Credential
from opsjobs.model.target import Endpoint
from opsjobs.remote.secret_fetcher import Fetch, nowhere
from opsjobs.remote.session import Sessions
from opsjobs.store.ledger import Claimed, Ledger, Progress
from opsjobs.telemetry import Metrics

# What takes longer than this waits in the ledger, where it holds nothing.
SHORT_SECONDS = 5.0
# Reads of stored output at a time, of all runs of a worker: they leave connections to those who claim and write.
READS_AT_ONCE = 2


def purpose_of(claimed: Claimed) -> str:
    """What the logins of a run are for, as a certificate names it."""
    return f"execution {claimed.execution_id} run {claimed.id}"


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Defaults of an action, and the seconds between TERM and KILL. The rest of the output is awaited as long after a kill.

    `reattach_seconds`: how long a durable command whose contact was lost is looked for. `spool_bytes`: of each stream that
    the target keeps. `attempts`: how often an action may be started in all. `retry_factor`: of a back-off that names none.
    """

    command_seconds: float = 300.0
    output_bytes: int = 10 << 20
    kill_grace_seconds: float = 5.0
    reattach_seconds: float = 900.0
    spool_bytes: int = 2 << 30
    attempts: int = 11
    retry_factor: float = 2.0


@dataclass(frozen=True, slots=True)
class RunTools:
    """What every run of a worker works with. `may_start`: whether its lease is fresh enough to start something on a machine.

    `renew`: the way to a machine with its logins as they are by now. `fetch`: gets secrets that are kept elsewhere.
    `pinning`: whether a machine is still the one that was approved or judged.
    """

    ledger: Ledger
    sessions: Sessions
    clock: Clock
    limits: RunLimits
    metrics: Metrics
    transfers: TransferTools
    children: Children
    approving: Approving
    may_start: Callable[[], bool]
    renew: Renew
    pinning: Pinning
    fetch: Fetch = nowhere
    random: Random = field(default_factory=Random)
    reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READS_AT_ONCE))

    async def stdout(self, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
        """Return the beginning of an attempt's stored stdout; queue for the read, and wait out an outage of the store.

        Call it inside `Stops.here()`.
        """
        async with self.reads:
            return await wait_out(lambda: self.ledger.read_stdout(run, seen, max_bytes), self.clock)


@dataclass(frozen=True, slots=True)
class Later:
    """An action that waits: until `at` (monotonic seconds; None: until somebody wakes the run), or for what it `awaits`."""

    waiting_for: WaitingFor
    at: float | None = None
    awaits: str | None = None
    attempt: int | None = None


RELEASE_BYTES = 1024 * 1024
"""A run that wrote more to its target has its output there removed as soon as it is on record, not a day later."""


@dataclass(slots=True)
class RunState:
    """One run at work. `lost`: why it is unknown what became of its commands, should they have been started directly.

    `inherited`: somebody had it before, and may have begun what is on no record. `since`: nothing of it was begun before that
    (monotonic). `direct`: its commands go without a store. `kept`: something of it may lie in a store. `sweep`: what became of
    something there is to be found out. `dead`: actions of which all attempts are used, or whose author would have them buried.
    `opened`: credentials with passwords. `learnt`: those that came from elsewhere. `attempt`: the highest so far; `numbers`: with
    which each action ended. `forgotten`: why the stdout of an action that another run did is
    not kept any more. `checked`: the machine was held against what was asked about, and `refused` says why it may not be.
    """

    record: RunJournal
    course: CompiledSpec
    endpoint: Endpoint | None
    past: RunHistory
    tools: RunTools
    links: RunConnections
    opened: Mapping[str, Credential]
    lost: str | None
    inherited: bool
    since: float
    direct: bool
    kept: bool
    draining: bool = False
    sweep: bool = False
    attempt: int = 1
    dead: set[str] = field(default_factory=set)
    ends: dict[str, ActionEnd] = field(default_factory=dict)
    stdouts: dict[str, str] = field(default_factory=dict)
    forgotten: dict[str, str] = field(default_factory=dict)
    learnt: set[Credential] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)
    checked: bool = False
    refused: str | None = None

    @property
    def releases_output(self) -> bool:
        """True if the target is to drop the run's output soon: it was given secrets, or wrote much."""
        if self.course.secrets or self.course.kept:
            return True
        return sum(sum(end.written) for end in self.ends.values()) > RELEASE_BYTES

    def learn(self, credentials: Iterable[Credential]) -> None:
        """Secrets that came from elsewhere meanwhile: from now on nothing that the run says shows them."""
        for credential in credentials:
            if credential not in self.learnt:
                self.learnt.add(credential)
                self.record.mask = self.record.mask.also(hidden(credential.secrets))

    async def check_target(self) -> None:
        """Raise RemoteFailure(TARGET_CHANGED) where nothing may be begun on the machine, for it is not what was asked about.

        An outage of the store is waited out: call it inside `Stops.here()`.
        """
        endpoint = self.endpoint
        if not self.checked and endpoint is not None:
            position = self.record.claimed.position
            self.refused = await wait_out(lambda: self.tools.pinning.refusal(self.course, position, endpoint), self.tools.clock)
            self.checked = True
        if self.refused is not None:
            raise RemoteFailure(ErrorCode.TARGET_CHANGED, self.refused)

    def check_heard(self, key: str) -> None:
        """Raise RemoteFailure(INTERNAL) if an action reads stdout that is not kept any more: it must not be taken for empty."""
        for other in sorted(self.course.hears.get(key, ())):
            if (words := self.forgotten.get(other)) is not None:
                raise RemoteFailure(ErrorCode.INTERNAL, words)

    @property
    def target_name(self) -> str:
        """As it was at launch."""
        return self.record.claimed.target_name

    def values(self, key: str, number: int = 1) -> dict[str, Any]:
        """What the condition and the templates of an action may read, as they name it, at its attempt `number`.

        The run's own attempt is the highest of all that is over before: what happens beside it may be otherwise for an heir.
        """
        before = self.course.workflow.before(key)
        attempt = max([number, *(n for other, n in self.numbers.items() if other in before)])
        spec, endpoint, claimed = self.course.spec, self.endpoint, self.record.claimed
        target = endpoint.target if endpoint is not None else None
        return {
            "parameters": self.course.parameters,
            "target": {
                "name": claimed.target_name,
                "host": target.host if target is not None else None,
                "platform": target.platform if target is not None else None,
                "labels": target.labels if target is not None else {},
            },
            "execution": {"id": spec.execution_id, "number": spec.number},
            "job": {"name": spec.job_name},
            "run": {"attempt": attempt},
            "actions": {key: self._result(key, end) for key, end in self.ends.items()},
        }

    def _result(self, key: str, end: ActionEnd) -> dict[str, Any]:
        return {
            "status": end.status.value,
            "exit_code": end.exit_code,
            "stdout": self.stdouts.get(key),
            "outputs": end.outputs,
        }

    def note(self, key: str, end: ActionEnd, number: int) -> None:
        """An action has ended so, for good, with this attempt."""
        self.ends[key], self.numbers[key] = end, number
        if end.status is RunStatus.LOST and self.course.on_lost == "dead_letter":
            self.dead.add(key)
