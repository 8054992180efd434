"""The plans with which PostgreSQL runs the statements of a verb, reported by auto_explain."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg.errors import Diagnostic

from opsjobs.store.transaction import Connection, Database, DatabaseOptions

# Tables that grow with launches, firings, output and uploads, not with the fleet.
GROWING = (
    "approval_decisions",
    "approvals",
    "artifacts",
    "audit_log",
    "dead_letter_answers",
    "events",
    "exclusive_locks",
    "execution_gates",
    "execution_log",
    "execution_specs",
    "file_chunks",
    "file_contents",
    "files",
    "idempotency_keys",
    "job_execution_results",
    "job_executions",
    "schedule_executions",
    "target_runs",
)
# The scans that read a table. Of a bitmap, the heap scan counts.
_SCANS = (
    "Seq Scan",
    "Index Scan",
    "Index Only Scan",
    "Bitmap Heap Scan",
    "Tid Scan",
    "Sample Scan",
)
_SETTINGS = {
    "log_min_duration": "0",
    "log_format": "json",
    "log_level": "notice",
    "log_nested_statements": "on",
    "log_timing": "off",
    "log_parameter_max_length": "200",
}
_SINCE_16 = ("auto_explain.log_parameter_max_length",)


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of a table:

    `rows` were read in all of its loops, used or not (0 without `analyze`).
    """

    kind: str
    table: str
    index: str | None
    rows: float

    @property
    def growing(self) -> bool:
        """True if the table grows without end. A day of the log counts as the log."""
        return self.table in GROWING or self.table.startswith("execution_log_")


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement as it was run, and its scans."""

    query: str
    milliseconds: float
    root: Mapping[str, Any]
    parameters: str = ""
    scans: tuple[Scan, ...] = field(default=())

    def whole(self) -> list[Scan]:
        """Return the sequential scans of tables that grow."""
        return [scan for scan in self.scans if scan.kind == "Seq Scan" and scan.growing]

    def rows(self) -> float:
        """Return the number of rows that were read from tables that grow."""
        return sum(scan.rows for scan in self.scans if scan.growing)

    def text(self) -> str:
        """Return the plan as text, one line a node."""
        return "\n".join(_lines(self.root, 0))


class Explaining(Database):
    """A Database that keeps the plan of each of its statements.

    `analyze`: include the rows that were really read. `settings` apply to every connection, such as
    `enable_seqscan`.
    """

    def __init__(
        self,
        options: DatabaseOptions,
        *,
        analyze: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(options)
        self.plans: list[Plan] = []
        self._settings = {f"auto_explain.{name}": value for name, value in _SETTINGS.items()}
        self._settings |= {
            "auto_explain.log_analyze": "on" if analyze else "off",
            **(settings or {}),
        }
        self._told: set[int] = set()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection whose plans are recorded."""
        async with super().connection() as connection:
            if id(connection) not in self._told:
                self._told.add(id(connection))
                await connection.execute("load 'auto_explain'")
                for name, value in self._settings.items():
                    if name in _SINCE_16 and connection.info.server_version < 160_000:
                        continue
                    await connection.execute("select set_config(%s, %s, false)", [name, value])
                connection.add_notice_handler(self._hear)
            yield connection

    def take(self) -> list[Plan]:
        """Return the plans since the last call.

        Those of functions that only return the time are left out.
        """
        taken, self.plans = self.plans, []
        return [plan for plan in taken if "from opsjobs_clock" not in plan.query]

    def _hear(self, notice: Diagnostic) -> None:
        text = notice.message_primary or ""
        if not text.startswith("duration: ") or "plan:" not in text:
            return
        head, _, body = text.partition("plan:")
        told = json.loads(body)
        root = told["Plan"]
        milliseconds = float(head.removeprefix("duration: ").split()[0])
        self.plans.append(
            Plan(
                told.get("Query Text", ""),
                milliseconds,
                root,
                str(told.get("Query Parameters", "")),
                tuple(_scans(root)),
            )
        )


def _scans(node: Mapping[str, Any]) -> Iterator[Scan]:
    if node["Node Type"] in _SCANS and "Relation Name" in node:
        yield Scan(node["Node Type"], node["Relation Name"], node.get("Index Name"), _rows(node))
    for child in node.get("Plans", ()):
        yield from _scans(child)


def _rows(node: Mapping[str, Any]) -> float:
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    each: float = node.get("Actual Rows", 0) + sum(node.get(name, 0) for name in removed)
    return each * float(node.get("Actual Loops", 0))


def _lines(node: Mapping[str, Any], depth: int) -> Iterator[str]:
    what = [
        node["Node Type"],
        node.get("Relation Name", ""),
        node.get("Index Name", ""),
        node.get("CTE Name", ""),
    ]
    facts = [
        f"{name}: {node[name]}"
        for name in ("Index Cond", "Recheck Cond", "Filter", "Join Filter", "Sort Key")
        if name in node
    ]
    seen = f"rows {node.get('Actual Rows', '?')} x {node.get('Actual Loops', '?')}, estimated {node.get('Plan Rows')}"
    removed = node.get("Rows Removed by Filter", 0) or node.get("Rows Removed by Join Filter", 0)
    name = f"{node.get('Subplan Name', '')} " if "Subplan Name" in node else ""
    yield f"{'  ' * depth}{name}{' '.join(w for w in what if w)} ({seen}{f', removed {removed}' if removed else ''}) {'; '.join(facts)}"
    for child in node.get("Plans", ()):
        yield from _lines(child, depth + 1)
