"""Exclusive names within scopes: which names a scoped caller may use and see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opsjobs.model.access import Reach, labels_of
from opsjobs.model.access_bounds import Bounds, scopes_in_words
from opsjobs.model.errors import FieldError, Forbidden

BETWEEN_LABELS = "+"
BEHIND_LABELS = ":"


def labels_of_name(name: str) -> dict[str, str]:
    """Return the labels that a name is bound to.

    The labels are part of the name's text, so callers with different scopes never share a name by
    accident.

        >>> labels_of_name("env=staging+team=web:db"), labels_of_name("prod-db")
        ({'env': 'staging', 'team': 'web'}, {})"""
    labels, colon, _ = name.rpartition(BEHIND_LABELS)
    return labels_of(labels.split(BETWEEN_LABELS)) if colon else {}


def check_names(names: Iterable[str], bounds: Bounds) -> None:
    """Raise Forbidden for a name that callers of other scopes might wait for."""
    if bounds.act.everywhere:
        return
    for position, name in enumerate(names):
        if not bounds.act.holds(labels_of_name(name)):
            detail = (
                f"The exclusive name {name!r} is not bound to your scope "
                f"({scopes_in_words(bounds.act)}): write it as "
                f"{_example(bounds.act)}{BEHIND_LABELS}NAME, or ask a caller who holds "
                f"{bounds.permission} without a scope to write it."
            )
            raise Forbidden(
                "out_of_reach",
                detail,
                errors=[FieldError(f"/policy/exclusive/{position}", detail, "out_of_reach")],
            )


def _example(reach: Reach) -> str:
    first = reach.scopes[0].requirements if reach.scopes else ()
    return (
        BETWEEN_LABELS.join(f"{r.key}={r.values[0]}" if r.values else r.key for r in first)
        or "LABEL=VALUE"
    )


def redact_waiting(
    waiting_on: Mapping[str, Any] | None, *, everything: bool
) -> Mapping[str, Any] | None:
    """Return what an execution waits for, reduced to what the viewer may see.

    `everything`: the viewer may see all executions. A viewer of one execution may see those that
    have all of its labels; of others (`apart`) neither the number nor the reason is shown."""
    if waiting_on is None or "apart" not in waiting_on:
        return waiting_on
    told = {key: value for key, value in waiting_on.items() if key != "apart"}
    if waiting_on["apart"] and not everything:
        told.pop("execution", None)
        told["reason"] = f"{told['name']} is held or waited for by another execution"
    return told
