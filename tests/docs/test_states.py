"""The state diagrams of docs/concepts/executions.md match the code."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from docs.pages import coded, rows, samples
from opsjobs.model.execution import (
    FINAL_EXECUTION_STATUSES,
    MOVES,
    ExecutionStatus,
    RunStatus,
    WaitingFor,
    verdict,
)

PAGE = "docs/concepts/executions.md"
EDGE = re.compile(r"^\s*(\S+) --> (\w+|\[\*\])(?::.*)?$")
END = "[*]"


def diagrams() -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return the arrows of the diagrams of executions and of target runs."""
    first, second = (set(arrows(sample.text)) for sample in samples(PAGE, "mermaid"))
    return first, second


def arrows(text: str) -> Iterator[tuple[str, str]]:
    """Return the arrows of a diagram.

    An arrow from or to a group is an arrow from or to each of its members.
    """
    groups = {
        m[1]: m[2].split() for m in re.finditer(r"state (\w+) \{\n([^}]*)\}", text, re.MULTILINE)
    }
    for line in text.splitlines():
        if edge := EDGE.match(line):
            yield from itertools.product(
                groups.get(edge[1], [edge[1]]), groups.get(edge[2], [edge[2]])
            )


def states(edges: set[tuple[str, str]]) -> set[str]:
    return {state for edge in edges for state in edge} - {END}


def test_a_target_run_moves_as_the_ledger_allows() -> None:
    _, runs = diagrams()
    allowed = {(a.value, b.value) for a, targets in MOVES.items() for b in targets}
    assert {edge for edge in runs if END not in edge} == allowed
    assert {a for a, b in runs if b == END} == {s.value for s in RunStatus if s.final}
    assert [b for a, b in runs if a == END] == [RunStatus.WAITING.value]


def test_an_execution_has_every_state_and_leaves_no_final_one() -> None:
    executions, _ = diagrams()
    final = {s.value for s in FINAL_EXECUTION_STATUSES}
    assert states(executions) == {s.value for s in ExecutionStatus}
    assert {a for a, b in executions if b == END} == final
    assert {a for a, b in executions if b != END} & final == set()


def test_an_execution_ends_in_every_state_that_its_runs_can_come_to() -> None:
    executions, _ = diagrams()
    finals = [status for status in RunStatus if status.final]
    counts = [dict.fromkeys(some, 1) for n in (1, 2) for some in itertools.combinations(finals, n)]
    ends = {verdict(c, cancel_asked=asked).value for c in counts for asked in (False, True)}
    for state in ("running", "paused", "cancelling"):
        assert {b for a, b in executions if a == state} >= ends, state


def test_every_state_is_explained() -> None:
    explained = [word for row in rows(PAGE) for word in coded(row[0])]
    for enum in (ExecutionStatus, RunStatus, WaitingFor):
        assert {member.value for member in enum} <= set(explained)
