"""Translate a reach to SQL: a condition over a row's labels, and over who launched it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import md5
from itertools import count
from typing import Any

from opsjobs.model.access import OwnReach, Reach, Scope
from opsjobs.model.selection import Requirement

OF_JOB = """
(select opsjobs_labels(lv.tags) from jobs lj join job_versions lv on lv.job_id = lj.id
  and lv.version = lj.version
 where lj.id = {})"""
"""The labels of the job whose id is this expression."""
OF_EXECUTION = "(select ls.labels from execution_specs ls where ls.execution_id = {})"
"""The labels of the execution whose id is this expression."""
_OF_LAUNCHER = "requested_by = %(own_name)s and {}requested_by_kind = %(own_kind)s"
LAUNCHED = f"({_OF_LAUNCHER.format('')})"
"""True for the rows with these columns that the holder of a reach launched."""
LAUNCHED_SPEC = f"(s.{_OF_LAUNCHER.format('s.')})"
"""The same of a row `s` of execution_specs."""
LAUNCHED_IDS = (
    f"select ls.execution_id from execution_specs ls where ls.{_OF_LAUNCHER.format('ls.')}"
)
"""The executions that the holder of a reach launched; an index finds them."""
LAUNCHED_EXECUTION = (
    "exists (select from execution_specs ls where ls.execution_id = {} "
    f"and ls.{_OF_LAUNCHER.format('ls.')} offset 0)"
)
"""True if the execution whose id is this expression is one of them.

`offset 0`: each is looked up by its key. Without it PostgreSQL may first read all of them.
"""


def condition(
    reach: Reach | None,
    labels: str,
    launched: str | None = None,
    *,
    numbers: Iterator[int] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return SQL that is true for the rows within reach, and its parameters; "" if all are.

    `labels` is a jsonb expression over the row, evaluated once per row; if it is NULL, the row is
    outside of every scope. `launched`: for executions and parts of them, one of the conditions
    above, in terms of the row. `numbers`: of the parameters, shared by the conditions of a query.
    """
    if reach is None or reach.everywhere:
        return "", {}
    values: dict[str, Any] = {}
    numbers = count() if numbers is None else numbers
    within = _within(reach.scopes, labels, values, numbers)
    if reach.own is None:
        return within, values
    assert launched is not None, "only executions are in reach because the holder launched them"
    own = _own(reach.own, launched, labels, values, numbers)
    return (f"({within} or {own})" if reach.scopes else own), values


def _own(
    own: OwnReach, launched: str, labels: str, values: dict[str, Any], numbers: Iterator[int]
) -> str:
    values |= {"own_name": own.launcher.name, "own_kind": own.launcher.kind}
    if any(not scope.requirements for scope in own.scopes):
        return launched
    return f"({launched} and {_within(own.scopes, labels, values, numbers)})"


def _within(
    scopes: Sequence[Scope], labels: str, values: dict[str, Any], numbers: Iterator[int]
) -> str:
    any_of = " or ".join(_scope(scope, values, numbers) for scope in scopes) or "false"
    return f"coalesce((select {any_of} from (select {labels} as l offset 0) labelled), false)"


def marks(reach: Reach | None) -> list[str] | None:
    """Return the marks of execution_labels that find all within scope; None if labels cannot.

    One requirement of each scope is enough to find everything within it, and some rows more, so
    `condition` has to be applied as well.
    """
    if reach is None or reach.everywhere or not (reach.scopes or reach.own):
        return None
    found: list[str] = []
    for scope in reach.scopes:
        requirement = next((r for r in scope.requirements if r.values), None)
        if requirement is None:
            return None
        found += [_mark(requirement.key, value) for value in requirement.values]
    return found


def _mark(key: str, value: str) -> str:
    return md5(f"{key}={value}".encode(), usedforsecurity=False).hexdigest()


def _scope(scope: Scope, values: dict[str, Any], numbers: Iterator[int]) -> str:
    assert scope.requirements, "a scope of everything is no condition"
    return (
        "("
        + " and ".join(
            _requirement(requirement, values, numbers) for requirement in scope.requirements
        )
        + ")"
    )


def _requirement(requirement: Requirement, values: dict[str, Any], numbers: Iterator[int]) -> str:
    assert not requirement.negated, "a scope has no negated requirements"
    key = f"reach_{next(numbers)}"
    values[key] = requirement.key
    if not requirement.values:
        return f"l ? %({key})s"
    held = f"reach_{next(numbers)}"
    values[held] = list(requirement.values)
    return f"coalesce(l ->> %({key})s = any(%({held})s::text[]), false)"


def and_within(
    reach: Reach | None, labels: str, launched: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return `condition` in a form to append to another condition: ` and …`, or empty."""
    text, values = condition(reach, labels, launched)
    return (f" and {text}" if text else ""), values


def and_within_each(
    reaches: Iterable[Reach | None], labels: str, launched: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return `and_within` for rows that are in all of these reaches of one principal."""
    numbers = count()
    found = [condition(reach, labels, launched, numbers=numbers) for reach in reaches]
    texts = "".join(f" and {text}" for text, _ in found if text)
    return texts, {name: value for _, values in found for name, value in values.items()}
