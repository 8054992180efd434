"""An approval: a question to people that stands in the way of an execution or of its runs, and what was said to it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from opsjobs.model.access import Principal, PrincipalKind
from opsjobs.model.errors import Conflict, FieldError, Forbidden, Invalid
from opsjobs.model.execution import moment
from opsjobs.model.secret import JobSecret, Secret
from opsjobs.model.target import Target

OVERRIDE = "safety:override"
NO_LABELS: Mapping[str, str] = {}
ALONE = (
    "Somebody else has to. Where there is nobody else, who holds safety:override decides alone with override_safety: true "
    "and a reason, which the audit log keeps."
)


class ApprovalStatus(StrEnum):
    """How it stands. `expired`: nobody decided in time, or what would run has changed; `cancelled`: its execution ended before."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def pending(self) -> bool:
        """True where somebody can still decide it."""
        return self is ApprovalStatus.PENDING


class ApprovalKind(StrEnum):
    """What waits for it: the runs that came to an action, or the whole launch."""

    ACTION = "action"
    LAUNCH = "launch"


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asked for what is to be approved, or wrote it. `kind` None: not known, so that whoever has the name is taken for the same."""

    name: str
    kind: str | None = None
    person: str | None = None
    makers: Sequence[str] = ()

    @classmethod
    def of(cls, principal: Principal) -> Requester:
        """The one who asks."""
        return cls(principal.name, principal.kind, principal.person, principal.makers)

    def is_person(self, other: Principal) -> bool:
        """Whether the other one is the same identity, or the same human, or may be."""
        if self.kind is None and self.name in (other.name, other.person):
            return True
        kind = cast("PrincipalKind", self.kind or "user")
        return Principal(self.name, kind, (), person=self.person, makers=tuple(self.makers)).is_same_person(other)

    def data(self) -> dict[str, Any]:
        """As it is kept beside an execution."""
        said = {"name": self.name, "kind": self.kind, "person": self.person}
        return {**said, "makers": list(self.makers)} if self.makers else said


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote something that will run; `wrote`: what, as in `version 2 of the job nightly`."""

    who: Requester
    wrote: str

    def data(self) -> dict[str, Any]:
        """An item of an approval's `would_run.authors`."""
        return {"name": self.who.name, "wrote": self.wrote}


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """What an approval takes: `needed` different people, of these roles or users where some are named, within `expires_seconds`."""

    message: str
    needed: int = 1
    expires_seconds: float | None = None
    roles: Sequence[str] = ()
    users: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What one person said. `overridden`: alone, by safety:override."""

    by: str
    approve: bool
    reason: str | None
    at: datetime
    overridden: bool = False

    def data(self) -> dict[str, Any]:
        """An item of an approval's `decisions`."""
        said = {"by": self.by, "approve": self.approve, "reason": self.reason, "at": moment(self.at)}
        return {**said, "overridden": True} if self.overridden else said


@dataclass(frozen=True, slots=True)
class Approval:
    """One a workflow's approval action and execution, whatever the number of targets that wait for it; or one a launch.

    `hash`: of what would run where when it was asked (None: it was asked by a release that made none).
    """

    id: int
    uuid: str
    execution_id: int
    action: str
    message: str
    status: ApprovalStatus
    asked_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None
    kind: ApprovalKind = ApprovalKind.ACTION
    needed: int = 1
    roles: Sequence[str] = ()
    users: Sequence[str] = ()
    hash: str | None = None
    requested_by: str = ""
    decisions: Sequence[Decision] = field(default=())

    def data(self) -> dict[str, Any]:
        """An item of GET /approvals, which is also the `data` of its events."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "execution_id": self.execution_id,
            "kind": self.kind.value,
            "action": self.action or None,
            "message": self.message,
            "status": self.status.value,
            "requested_by": self.requested_by,
            "approvers": self.needed,
            "roles": list(self.roles),
            "users": list(self.users),
            "hash": self.hash,
            "decisions": [decision.data() for decision in self.decisions],
            "asked_at": moment(self.asked_at),
            "expires_at": moment(self.expires_at),
            "decided_at": moment(self.decided_at),
            "decided_by": self.decided_by,
            "reason": self.reason,
        }

    def check(
        self,
        principal: Principal,
        requester: Requester,
        *,
        approve: bool,
        override: bool,
        reason: str | None,
        authors: Iterable[Author] = (),
        approvers: Iterable[Requester] = (),
        labels: Mapping[str, str] = NO_LABELS,
    ) -> None:
        """Raise Forbidden if this principal may not decide it, Conflict if it has, Invalid if an override has no reason.

        The requester and the `authors` of what will run do not approve it, nor does one person twice (`approvers`: those who
        have approved so far); rejecting is for everybody. `labels`: of the execution, for which a role has to be held.
        """
        if override:
            check_override(principal, reason)
            return
        named = bool(self.roles or self.users)
        in_role = any(principal.has_role(role, labels) for role in self.roles)
        if named and not in_role and not principal.humans & set(self.users):
            raise Forbidden("not_an_approver", self._for_others(principal))
        if not approve:
            return
        if requester.is_person(principal):
            raise Forbidden("self_approval", f"{_why_same(principal, requester, 'asked for it')} {ALONE}")
        for author in authors:
            if author.who.is_person(principal):
                raise Forbidden("author_approval", f"{_why_same(principal, author.who, f'wrote {author.wrote}')} {ALONE}")

        for approver in approvers:
            if approver.is_person(principal):
                raise Conflict("approved_already", _approved_by(principal, approver))

    def _for_others(self, principal: Principal) -> str:
        who = " or ".join([*(f"the role {role}" for role in self.roles), *self.users])
        said = f"This is for {who} to decide, and {principal.name} is none of them."
        if set(principal.roles) & set(self.roles):
            return f"{said} A role within a scope counts only for executions inside of it."
        if {principal.name, principal.person} & set(self.users):
            return f"{said} Users are people: an API key counts as one only if this person has made it, a service not by its name. Log in."
        return said


def _why_same(principal: Principal, other: Requester, did: str) -> str:
    asked = Principal(other.name, cast("PrincipalKind", other.kind or "user"), (), (), other.person, tuple(other.makers))
    if unknown := next((who.name for who in (principal, asked) if who.is_anybody), None):
        way = "make it again with `person` (--person), or log in as a user"
        return f"Whose the API key {unknown} is, is not known, so that both may be one person: {way}."
    if other.name != principal.name:
        return f"{other.name} {did}, and {principal.name} may be the same person (as such, as its maker or its service)."
    return f"{principal.name} {did}, and does not approve it, too."


def _approved_by(principal: Principal, approver: Requester) -> str:
    if (principal.name, principal.kind) == (approver.name, approver.kind):
        return f"{principal.name} has approved already: different people have to approve. Ask another person."
    return (
        f"{principal.name} and {approver.name}, who has approved already, may be one person (a key and its maker, or one service): "
        "different people have to approve. Ask another person, or log in as a user."
    )


def check_override(principal: Principal, reason: str | None) -> None:
    """Raises Forbidden for who does not hold safety:override everywhere, Invalid where there is no reason."""
    if not principal.reach(OVERRIDE).everywhere:
        how = "holds it within a scope only" if principal.may(OVERRIDE) else "does not hold it"
        detail = f"An override takes {OVERRIDE}, and {principal.name} {how}: ask somebody else to approve, or an administrator."
        raise Forbidden("forbidden", detail)
    if not (reason or "").strip():
        detail = "override_safety needs a reason: the audit log keeps why."
        raise Invalid("reason_missing", detail, errors=[FieldError("/reason", detail, "reason_missing")])


def person_of(principal: Principal) -> str:
    """By what a person is counted once: the human where that is known, else the identity."""
    return f"person:{principal.person}" if principal.person is not None else f"{principal.kind}:{principal.name}"


def fingerprint(
    job_name: str,
    actions: Iterable[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    policy: Mapping[str, Any],
    targets: Iterable[Target],
    *,
    salt: bytes,
) -> str:
    """The hash of what would run where: 64 hexadecimal digits. Secrets are in it by a digest that only `salt` could be tried on."""
    places = [_place(target) for target in sorted(targets, key=_id)]
    values = {name: _value(value, salt) for name, value in parameters.items()}
    whole = [job_name, [dict(action) for action in actions], values, dict(policy), places]
    return hashlib.sha256(json.dumps(_plain(whole), sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _place(target: Target) -> list[Any]:
    """What of a machine decides which one it is, and what runs there: its labels are values of commands."""
    where = [target.id, target.name, target.host, target.port, target.transport.value, target.platform]
    trust = [target.credential, target.jump, target.host_key_policy.value, list(target.host_keys)]
    return [*where, *trust, dict(target.labels)]


def _id(target: Target) -> str:
    return target.id


def _value(value: Any, salt: bytes) -> Any:
    if isinstance(value, JobSecret):
        return {"credential": value.credential_id}
    return hmac.digest(salt, value.reveal().encode(), "sha256").hex() if isinstance(value, Secret) else value


def _plain(value: Any) -> Any:
    """As it comes back from the database: a whole number has no fraction there, and there are no tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
