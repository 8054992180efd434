"""How far somebody may go with what he asks for, and what he is told of what lies beyond."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opsjobs.model.access import UNBOUNDED, Principal, Reach, Scope
from opsjobs.model.errors import FieldError, Forbidden
from opsjobs.model.local_transport import refuse_scoped
from opsjobs.model.target import Requirement, Target, Transport


@dataclass(frozen=True, slots=True)
class Bounds:
    """`act`: for which things he may do it; `sight`: of which things he may know that there are such, which `act` is a part of.

    `permission` is what he holds within `act`, for words.
    """

    act: Reach = UNBOUNDED
    sight: Reach = UNBOUNDED
    permission: str = "*"

    @classmethod
    def of(cls, principal: Principal, permission: str, *, sees: str = "targets:read") -> Bounds:
        """Of somebody who wants to do what `permission` is for, to things that holders of `sees` may see."""
        act = principal.reach(permission)
        return cls(act, act | principal.reach(sees), permission)

    def check_targets(self, targets: Sequence[Target]) -> None:
        """Raises Forbidden where one of them lies outside: naming the first that he may see, if there is one.

        How many there are is said to whoever may see them all; else it would count what nobody has shown him.
        """
        if self.act.everywhere:
            return
        outside = [target for target in targets if not self.act.holds(target.labels)]
        if not outside:
            local = next((target.name for target in targets if target.transport is Transport.LOCAL), None)
            if local is not None:
                raise refuse_scoped(local)
            return
        seen = next((target.name for target in outside if self.sight.holds(target.labels)), None)
        if seen is None:
            raise out_of_sight()
        among = f"{len(outside)} of the {len(targets)} targets selected lie" if self.sight.everywhere else "it lies"
        detail = f"{seen} is out of your reach: {among} outside of the scope in which you hold {self.permission}. Select others."
        raise Forbidden("out_of_reach", detail)

    def check_labels(self, labels: Mapping[str, str], what: str) -> None:
        """Raises Forbidden where a thing with these labels, which is written or named here, lies outside."""
        if not self.act.holds(labels):
            detail = f"{what} lies outside of the scope in which you hold {self.permission}: {scopes_in_words(self.act)}."
            raise Forbidden("out_of_reach", detail)

    def check_relabelled(self, labels: Mapping[str, str], old: Mapping[str, str] | None, name: str) -> None:
        """Raises Forbidden where a target of this name comes to have other labels than before (`old`; None: it is new).

        Others' jobs and groups select by labels and bring their secrets along: within a scope only those labels are said that it
        names itself, with values that it names.
        """
        before = old if old is not None else {}
        changed = sorted(key for key in labels.keys() | before.keys() if labels.get(key) != before.get(key))
        held = [scope for scope in self.act.scopes if scope.holds(labels) and (old is None or scope.holds(old))]
        if not changed or any(all(_names(scope, key, labels) for key in changed) for scope in held):
            return
        detail = (
            f"By its labels a target is selected for others' jobs: within {scopes_in_words(self.act)} you may not change "
            f"{', '.join(changed)[:200]} of {name!r}. Leave all labels beside those of your scope as they are (a new target has none), "
            f"or ask an administrator who holds {self.permission} without a scope."
        )
        raise Forbidden("out_of_reach", detail, errors=[FieldError("/labels", detail, "out_of_reach")])


NO_BOUNDS = Bounds()


def out_of_sight() -> Forbidden:
    """What is said of a selection that finds what its author may not see, or nothing at all: he is not to tell which."""
    detail = "What is selected is out of your reach, or there is no such thing: select targets that lie within your scope."
    return Forbidden("out_of_reach", detail)


def scopes_in_words(reach: Reach) -> str:
    """The scopes as they are written: `env=staging, or team in (web,db)`."""
    return ", or ".join(",".join(map(_words, scope.requirements)) or "everything" for scope in reach.scopes) or "nothing"


def _names(scope: Scope, key: str, labels: Mapping[str, str]) -> bool:
    """Whether the scope, which holds these labels, says what this one is; where it says only that it is there, it is empty."""
    return any(r.key == key and (r.values or labels.get(key) == "") for r in scope.requirements)


def _words(requirement: Requirement) -> str:
    if not requirement.values:
        return requirement.key
    if len(requirement.values) == 1:
        return f"{requirement.key}={requirement.values[0]}"
    return f"{requirement.key} in ({','.join(requirement.values)})"


def in_common(labelled: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The labels that all of these have with the same value; of none at all, none.

    >>> in_common([{"env": "prod", "role": "web"}, {"env": "prod", "role": "db"}])
    {'env': 'prod'}
    """
    of_all: dict[str, str] | None = None
    for labels in labelled:
        of_all = dict(labels) if of_all is None else {key: value for key, value in of_all.items() if labels.get(key) == value}
        if not of_all:
            break
    return of_all or {}
