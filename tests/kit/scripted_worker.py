"""A worker that the test controls: it launches executions and writes runs to the real ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from opsjobs.clock import uuid7
from opsjobs.model.execution import (
    CancelProof,
    ErrorCode,
    RunError,
    RunStatus,
    TriggeredBy,
)
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import Execution
from opsjobs.model.target import Target, Transport
from opsjobs.store.executions import Executions
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import Flush, LogLine, ResultState, RunMove, count_lines
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.transaction import Database

Stream = Literal["stdout", "stderr"]


def target(number: int, name: str | None = None) -> Target:
    """Return a machine web-<number>."""
    return Target(str(number), name or f"web-{number}", f"10.0.0.{number % 250}", 22, Transport.SSH)


class ScriptedExecution:
    """An execution whose runs the test ends.

    `runs`: the claimed runs by target name, filled by `claim`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ledger = Ledger(database)
        self._owner = uuid4()
        self._flushes = 0
        self._results: dict[tuple[int, str], ResultState] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._open: set[tuple[object, ...]] = set()
        self.execution_id = 0
        self.runs: dict[str, Claimed] = {}

    async def launch(
        self,
        targets: int | Sequence[Target] = 1,
        *,
        commands: Sequence[str] = ("uptime",),
        job_name: str = "ad-hoc",
        requested_by: str = "ada",
        triggered_by: TriggeredBy = TriggeredBy.MANUAL,
    ) -> Execution:
        """Commit an execution of these commands (step-1, step-2 …) on web-1, web-2 …

        Nothing is claimed yet.
        """
        machines = (
            [target(n) for n in range(1, targets + 1)] if isinstance(targets, int) else targets
        )
        actions = [
            {"key": f"step-{n}", "type": "command", "command": c}
            for n, c in enumerate(commands, start=1)
        ]
        new = NewExecution(
            uuid7(datetime.now(UTC)), None, None, job_name, actions, {}, 5, max(len(machines), 1), None, machines,
            triggered_by, Identity("api_key", requested_by), "why not",
        )  # fmt: skip
        async with self._database.transaction() as connection:
            launched = await self._ledger.launch(connection, new)
        self.execution_id = launched.id
        return launched

    async def claim(self) -> dict[str, Claimed]:
        """Claim the runs that are ready."""
        claim = await self._ledger.claim(
            owner=self._owner, worker="worker-1", zone="default", limit=10_000, floor=0
        )
        self.runs |= {run.target_name: run for run in claim.runs}
        return self.runs

    async def write(
        self,
        name: str,
        data: bytes,
        *,
        stream: Stream = "stdout",
        action: str = "step-1",
        chunk: int = 65_536,
    ) -> None:
        """Write to a stream of a target; each 2 MiB are stored in one group commit."""
        for start in range(0, len(data), 2 << 20):
            part = data[start : start + (2 << 20)]
            offset = self._stored(name, action, stream)
            lines = self._counted(
                name,
                [
                    LogLine(
                        self.runs[name].id,
                        "output",
                        action,
                        self._attempt(name, action),
                        stream,
                        offset + at,
                        part[at : at + chunk],
                    )
                    for at in range(0, len(part), chunk)
                ],
            )
            await self._flush(name, action, lines, {stream: offset + len(part)})

    async def drop(
        self, name: str, dropped: int, *, stream: Stream = "stdout", action: str = "step-1"
    ) -> None:
        """Drop so many bytes of the stream, as the output limit does."""
        offset = self._stored(name, action, stream)
        line = LogLine(
            self.runs[name].id,
            "output",
            action,
            self._attempt(name, action),
            stream,
            offset,
            None,
            dropped,
        )
        self._counted(name, [line])
        await self._flush(name, action, [line], {stream: offset + dropped})

    async def end_action(self, name: str, action: str, exit_code: int = 0) -> None:
        """End one action; the run continues."""
        status = RunStatus.FAILED if exit_code else RunStatus.SUCCEEDED
        line = LogLine(
            self.runs[name].id,
            "result",
            action,
            self._attempt(name, action),
            body={"status": status.value, "exit_code": exit_code},
        )
        await self._flush(name, action, [line], {}, status=status, exit_code=exit_code)

    def next_attempt(self, name: str, action: str = "step-1") -> None:
        """Count what follows for the action's next attempt."""
        self._attempts[name, action] = self._attempt(name, action) + 1
        del self._results[self.runs[name].id, action]

    async def finish(
        self,
        name: str,
        exit_code: int = 0,
        *,
        action: str = "step-1",
        error: RunError | None = None,
    ) -> None:
        """End the run with its last action."""
        code = error or (
            RunError(ErrorCode.NONZERO_EXIT, f"exit {exit_code}") if exit_code else None
        )
        status = code.code.run_status if code else RunStatus.SUCCEEDED
        run = self.runs[name]
        body: dict[str, Any] = {
            "target_run": run.id,
            "target": run.target_id,
            "status": status.value,
            "error": None,
        }
        lines = [
            LogLine(
                run.id,
                "result",
                action,
                self._attempt(name, action),
                body={"status": status.value, "exit_code": exit_code},
            ),
            LogLine(run.id, "status", body=body),
        ]
        await self._flush(
            name, action, lines, {}, status=status, exit_code=exit_code, error=code, ends=True
        )

    async def start(self, targets: int = 1) -> Execution:
        """Launch and claim; return the execution."""
        await self.launch(targets)
        await self.claim()
        return await self.current()

    async def current(self) -> Execution:
        """Return the execution as it is now."""
        return await Executions(self._database).get(str(self.execution_id))

    def _counted(self, name: str, lines: list[LogLine]) -> list[LogLine]:
        """Count the lines that begin in each piece, like the worker's journal."""
        for line in lines:
            key = (self.runs[name].id, line.action, line.attempt, line.stream)
            line.lines, is_open = count_lines(line.data, continues=key in self._open)
            (self._open.add if is_open else self._open.discard)(key)
        return lines

    def _attempt(self, name: str, action: str) -> int:
        return self._attempts.get((name, action), 1)

    def _stored(self, name: str, action: str, stream: Stream) -> int:
        result = self._results.get((self.runs[name].id, action))
        return result.stored[stream == "stderr"] if result else 0

    async def _flush(
        self,
        name: str,
        action: str,
        lines: Sequence[LogLine],
        reached: dict[Stream, int],
        *,
        status: RunStatus = RunStatus.RUNNING,
        exit_code: int | None = None,
        error: RunError | None = None,
        ends: bool = False,
        proof: CancelProof | None = None,
    ) -> None:
        run = self.runs[name]
        before = self._results.get((run.id, action))
        was = before.stored if before else (0, 0)
        now = (reached.get("stdout", was[0]), reached.get("stderr", was[1]))
        started = before.started_at if before else datetime.now(UTC)
        result = ResultState(
            run.id, action, self._attempt(name, action), before is None, status, was, now, now, started,
            datetime.now(UTC) if status.final else None, exit_code, error, proof,
        )  # fmt: skip
        self._flushes += 1
        move = RunMove(
            run.id,
            run.execution_id,
            run.target_id,
            run.fence,
            status if ends else None,
            exit_code,
            error,
            proof,
        )
        settled = await self._ledger.settle(
            Flush(self._owner, "worker-1", self._flushes, [move], [result], lines)
        )
        assert not settled.stale
        self._results[run.id, action] = result
