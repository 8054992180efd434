"""A whole execution in one read: all of its runs as columns, or what was launched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opsjobs.model.execution import Execution
from opsjobs.store.envelope import mask_parameters
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

_MATRIX = load_statement(__file__, "run_matrix")
_SPECIFICATION = "select actions, parameters, policy from execution_specs where execution_id = %s"


@dataclass(frozen=True, slots=True)
class Specification:
    """The work that was launched, as it was fixed at that time; secrets are masked."""

    actions: list[dict[str, Any]]
    parameters: dict[str, Any]
    policy: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunMatrix:
    """All runs of an execution, and the position of its log, read in one snapshot.

    A reader that follows the log after `seq` misses no change of these runs.
    """

    seq: int
    columns: str
    """JSON: an object of equally long lists. Times are milliseconds since the launch."""


class ExecutionOverview:
    """Read access to executions as a whole; the number of runs is bounded at the launch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def matrix(self, execution: Execution) -> RunMatrix:
        """Return all runs as columns, in launch order. About 90 bytes per run."""
        row = await self._database.fetch_one(_MATRIX, {"execution": execution.id})
        assert row is not None, "the caller has read the execution, and each has a run"
        return RunMatrix(row["seq"], row["columns"])

    async def specification(self, execution: Execution) -> Specification:
        """Return what the execution was launched with."""
        row = await self._database.fetch_one(_SPECIFICATION, [execution.id])
        assert row is not None, "the caller has read the execution"
        actions = [{k: v for k, v in action.items() if k != "pins"} for action in row["actions"]]
        return Specification(actions, mask_parameters(row["parameters"]), row["policy"])
