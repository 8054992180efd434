"""The limits and the services that a worker gives to its runs.

The services are described by what runs ask of them, so that a run knows neither how executions are
launched nor how the ledger is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from opsjobs.clock import Clock
from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.engine.runs.run_connection import Renew, wait_out
from opsjobs.engine.runs.upload_source import ChunkCache
from opsjobs.model.action import FrozenApproval, FrozenJob
from opsjobs.model.approval import Approval
from opsjobs.model.run_views import Execution
from opsjobs.model.target import Endpoint
from opsjobs.remote.download import FindLimits
from opsjobs.remote.session import Fetch, Sessions, refuse_external
from opsjobs.remote.upload import WINDOW_BYTES
from opsjobs.store.blobs import Contents
from opsjobs.store.files import Artifacts, Files
from opsjobs.store.ledger.claim import Claimed, Progress, Spec
from opsjobs.store.outbox import Outbox
from opsjobs.telemetry.metrics import Metrics

# Concurrent reads of stored output, for all runs of a worker: the limit leaves connections to the
# claims and flushes.
READS_AT_ONCE = 2
# How often a transfer reports its progress, in the log and as an event.
PROGRESS_SECONDS = 5.0
# How many executions are kept in memory with the time of their last report.
REPORTS_KEPT = 1_000
# Bytes in flight of all transfers of a worker together; each gets at least two requests.
WINDOWS_BYTES = 32 << 20
WINDOW_BYTES_MIN = 256 << 10


class StdoutReader(Protocol):
    """Reads recorded output; implemented by the ledger."""

    async def read_stdout(self, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
        """Return the start of an attempt's recorded stdout, up to the first gap."""


class ChildLauncher(Protocol):
    """Launches the jobs that actions run; implemented by ChildExecutions."""

    async def launch_or_get(
        self, spec: Spec, run: Claimed, action: FrozenJob, attempt: int
    ) -> Execution:
        """Launch the execution of this attempt, or return it if it was launched before.

        Raises NotFound, Invalid, Conflict or Forbidden if it cannot be launched.
        """


class ApprovalRequests(Protocol):
    """Requests the approvals that actions wait for; implemented by ApprovalService."""

    async def ask(self, execution_id: int, action: FrozenApproval) -> Approval:
        """Return the approval of this action of a running execution; the first call requests it."""


class TargetCheck(Protocol):
    """Compares machines with those of the launch; implemented by PinCheck."""

    async def find_refusal(
        self, spec: Spec, parameters: Mapping[str, Any], position: int, endpoint: Endpoint
    ) -> str | None:
        """Return why the run at this position must not begin on this machine; None if it may."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Defaults and limits of actions."""

    command_seconds: float = 300.0
    """Timeout of an action that does not set one."""
    output_bytes: int = 10 << 20
    """Output limit of an action that does not set one."""
    kill_grace_seconds: float = 5.0
    """Seconds between TERM and KILL; after a kill, also the time to wait for remaining output."""
    reattach_seconds: float = 900.0
    """Time limit of the search for a durable command after the connection was lost."""
    spool_bytes: int = 2 << 30
    """The maximum number of bytes of each stream that the target keeps."""
    attempts: int = 11
    """The maximum number of attempts at an action."""
    retry_factor: float = 2.0
    """Back-off factor for policies that do not set one."""


@dataclass(slots=True)
class TransferTools:
    """The services and state that the transfers of a worker share."""

    files: Files
    contents: Contents
    artifacts: Artifacts
    chunks: ChunkCache
    outbox: Outbox
    metrics: Metrics
    limits: FindLimits
    current_principal: PrincipalLookup
    """Returns the current permissions of an identity, for files that are named only in a run."""
    under_way: int = 0
    """The number of running transfers."""
    reported_at: dict[int, float] = field(default_factory=dict)
    """When (monotonic) an execution's progress was last reported."""

    def should_report(self, execution_id: int, now: float) -> bool:
        """Return True if an execution's next progress event is due.

        There is one event for all transfers of an execution.
        """
        if now - self.reported_at.get(execution_id, -PROGRESS_SECONDS) < PROGRESS_SECONDS:
            return False
        self.reported_at.pop(execution_id, None)
        self.reported_at[execution_id] = now
        while len(self.reported_at) > REPORTS_KEPT:
            del self.reported_at[next(iter(self.reported_at))]
        return True

    def window_bytes(self) -> int:
        """Return one transfer's share of the bytes in flight."""
        return max(WINDOW_BYTES_MIN, min(WINDOW_BYTES, WINDOWS_BYTES // max(1, self.under_way)))


@dataclass(frozen=True, slots=True)
class RunTools:
    """The services that every run of a worker depends on."""

    ledger: StdoutReader
    sessions: Sessions
    clock: Clock
    limits: RunLimits
    metrics: Metrics
    transfers: TransferTools
    child_executions: ChildLauncher
    approvals: ApprovalRequests
    may_start: Callable[[], bool]
    """Returns True if the worker's lease is fresh enough to start something on a machine."""
    refresh_credentials: Renew
    """Returns an endpoint with the current versions of its logins."""
    pin_check: TargetCheck
    """Checks that a machine is unchanged since its approval or its check at launch."""
    fetch: Fetch = refuse_external
    """Fetches secrets that are kept in an external store."""
    random: Random = field(default_factory=Random)
    reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READS_AT_ONCE))

    async def read_stdout(self, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
        """Return the head of an attempt's stored stdout.

        Queues for the read, and waits out an outage of the database. Call it inside
        `StopSignal.interruptible()`.
        """
        async with self.reads:
            return await wait_out(lambda: self.ledger.read_stdout(run, seen, max_bytes), self.clock)
