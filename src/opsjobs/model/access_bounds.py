"""The bounds of a caller's permission, and the details in errors about resources outside.

They hold for targets, labels, and exclusive names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.access import UNBOUNDED, Principal, Reach, Scope, labels_of
from opsjobs.model.errors import FieldError, Forbidden
from opsjobs.model.selection import Requirement
from opsjobs.model.target import LOCAL_REASON, Target, Transport


@dataclass(frozen=True, slots=True)
class Bounds:
    """The scopes in which a caller may act, and the larger ones in which things are visible."""

    act: Reach = UNBOUNDED
    """The things that the caller may act on."""
    sight: Reach = UNBOUNDED
    """The things whose existence is visible to the caller, which include `act`."""
    permission: str = "*"
    """The permission that is held within `act`, for messages."""

    @classmethod
    def for_principal(
        cls, principal: Principal, permission: str, *, sees: str = "targets:read"
    ) -> Bounds:
        """Return the bounds of a principal: it acts by `permission`, and sees objects by `sees`."""
        act = principal.reach(permission)
        return cls(act, act | principal.reach(sees), permission)

    def check_targets(self, targets: Sequence[Target]) -> None:
        """Raise Forbidden if a target is outside the scope, naming the first visible one, if any.

        The number of targets outside is given only if the caller may see all of them; otherwise it
        would reveal invisible ones."""
        if self.act.everywhere:
            return
        outside = [target for target in targets if not self.act.holds(target.labels)]
        if not outside:
            local = next(
                (target.name for target in targets if target.transport is Transport.LOCAL), None
            )
            if local is not None:
                raise refuse_scoped(local)
            return
        seen = next((target.name for target in outside if self.sight.holds(target.labels)), None)
        if seen is None:
            raise out_of_sight()
        among = (
            f"{len(outside)} of the {len(targets)} targets selected lie"
            if self.sight.everywhere
            else "it lies"
        )
        detail = (
            f"{seen} is out of your reach: {among} outside of the scope in which you hold "
            f"{self.permission}. Select others."
        )
        raise Forbidden("out_of_reach", detail)

    def check_labels(self, labels: Mapping[str, str], what: str) -> None:
        """Raise Forbidden if a thing with these labels, written or named, is outside the scope."""
        if not self.act.holds(labels):
            detail = (
                f"{what} lies outside of the scope in which you hold {self.permission}: "
                f"{scopes_in_words(self.act)}."
            )
            raise Forbidden("out_of_reach", detail)

    def check_relabelled(
        self, labels: Mapping[str, str], old: Mapping[str, str] | None, name: str
    ) -> None:
        """Raise Forbidden if the target's labels change in a way that the scope does not allow.

        `old`: the labels before (None: the target is new). Other people's jobs and groups select
        targets by labels and bring their own secrets. Within a scope a caller may therefore only
        set labels that the scope names itself, with values that it names."""
        before = old if old is not None else {}
        changed = sorted(
            key for key in labels.keys() | before.keys() if labels.get(key) != before.get(key)
        )
        held = [
            scope
            for scope in self.act.scopes
            if scope.holds(labels) and (old is None or scope.holds(old))
        ]
        if not changed or any(all(_names(scope, key, labels) for key in changed) for scope in held):
            return
        detail = (
            "By its labels a target is selected for others' jobs: within "
            f"{scopes_in_words(self.act)} you may not change "
            f"{', '.join(changed)[:200]} of {name!r}. Leave all labels beside those of your scope "
            "as they are (a new target has none), "
            f"or ask an administrator who holds {self.permission} without a scope."
        )
        raise Forbidden(
            "out_of_reach", detail, errors=[FieldError("/labels", detail, "out_of_reach")]
        )


NO_BOUNDS = Bounds()


def refuse_scoped(name: str) -> Forbidden:
    """Describe why a caller with a scope may not run anything on this target."""
    detail = (
        f"{name} has transport: local, which is refused within a scope. {LOCAL_REASON} Select "
        "others."
    )
    return Forbidden("out_of_reach", detail)


def out_of_sight() -> Forbidden:
    """Return the error for a selection that matches nothing, or something invisible.

    The caller must not be able to distinguish the two."""
    detail = (
        "What is selected is out of your reach, or there is no such thing: select targets that "
        "lie within your scope."
    )
    return Forbidden("out_of_reach", detail)


def scopes_in_words(reach: Reach) -> str:
    """Return the scopes in their notation: `env=staging, or team in (web,db)`."""
    return (
        ", or ".join(
            ",".join(map(_format_requirement, scope.requirements)) or "everything"
            for scope in reach.scopes
        )
        or "nothing"
    )


def _names(scope: Scope, key: str, labels: Mapping[str, str]) -> bool:
    """Return True if the scope, which matches these labels, fixes the value of this label.

    A scope that only demands that the label exists fixes it to the empty value."""
    return any(r.key == key and (r.values or labels.get(key) == "") for r in scope.requirements)


def _format_requirement(requirement: Requirement) -> str:
    if not requirement.values:
        return requirement.key
    if len(requirement.values) == 1:
        return f"{requirement.key}={requirement.values[0]}"
    return f"{requirement.key} in ({','.join(requirement.values)})"


def in_common(labelled: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the labels that all of these have with the same value; {} if there are no items.

    >>> in_common([{"env": "prod", "role": "web"}, {"env": "prod", "role": "db"}])
    {'env': 'prod'}"""
    of_all: dict[str, str] | None = None
    for labels in labelled:
        of_all = (
            dict(labels)
            if of_all is None
            else {key: value for key, value in of_all.items() if labels.get(key) == value}
        )
        if not of_all:
            break
    return of_all or {}


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
    waiting_on: Mapping[str, Any] | None, *, everything: bool, alike: bool = True
) -> Mapping[str, Any] | None:
    """Return the waits of an execution, reduced to those that the viewer may see.

    `everything`: the viewer may see all executions. `alike`: it may see those that have all labels
    of this one; a viewer who sees only its own executions may not. Of others (`apart`) neither the
    number nor the reason is shown."""
    if waiting_on is None or "apart" not in waiting_on:
        return waiting_on
    visible = {key: value for key, value in waiting_on.items() if key != "apart"}
    if not everything and (waiting_on["apart"] or not alike):
        visible.pop("execution", None)
        visible["reason"] = f"{visible['name']} is held or waited for by another execution"
    return visible
