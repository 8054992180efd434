"""Approvals: decisions by people for which an execution or its runs wait."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from opsjobs.model.access import Principal, Requester
from opsjobs.model.errors import Conflict, FieldError, Forbidden, Invalid
from opsjobs.model.execution import moment
from opsjobs.model.identity import PrincipalKind
from opsjobs.model.secret import JobSecret, Secret
from opsjobs.model.target import Target

OVERRIDE = "safety:override"
NO_LABELS: Mapping[str, str] = {}
ALONE = (
    "Another person has to approve. If there is none, a holder of safety:override decides alone "
    "with override_safety: true and a reason, which the audit log keeps."
)


class ApprovalStatus(StrEnum):
    """The status of an approval.

    `expired`: it was not decided in time, or what would run has changed; `cancelled`: its execution
    ended before."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def pending(self) -> bool:
        """True if it can still be decided."""
        return self is ApprovalStatus.PENDING


class ApprovalKind(StrEnum):
    """The kind of an approval: for the runs that reached an action, or for the whole launch."""

    ACTION = "action"
    LAUNCH = "launch"


@dataclass(frozen=True, slots=True)
class Author:
    """The author of something that will run; `wrote`: such as `version 2 of the job nightly`."""

    who: Requester
    wrote: str

    def data(self) -> dict[str, Any]:
        """Return an item of an approval's `would_run.authors`."""
        return {"name": self.who.name, "wrote": self.wrote}


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """The requirements of an approval: `needed` different people within `expires_seconds`.

    If `roles` or `users` are named, only those may approve."""

    message: str
    needed: int = 1
    expires_seconds: float | None = None
    roles: Sequence[str] = ()
    users: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of one person. `overridden`: made alone, by safety:override."""

    by: str
    approve: bool
    reason: str | None
    at: datetime
    overridden: bool = False

    def data(self) -> dict[str, Any]:
        """Return an item of an approval's `decisions`."""
        body = {
            "by": self.by,
            "approve": self.approve,
            "reason": self.reason,
            "at": moment(self.at),
        }
        return {**body, "overridden": True} if self.overridden else body


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval of one action of an execution, or of a launch.

    There is one for each approval action and execution, regardless of the number of targets that
    wait for it. `hash`: the fingerprint of the work, and its targets, at the time of the request
    (None: requested by a release that computed none)."""

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
    job_name: str = ""
    summary: str | None = None
    """The line that describes an ad-hoc execution."""
    decisions: Sequence[Decision] = field(default=())

    def data(self) -> dict[str, Any]:
        """Return an item of GET /approvals."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "execution_id": self.execution_id,
            "job_name": self.job_name,
            "summary": self.summary,
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

    def event_data(self) -> dict[str, Any]:
        """Return the `data` of its events: all but the text of a command, which stays here."""
        return {name: value for name, value in self.data().items() if name != "summary"}

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
        """Raise Forbidden if this principal may not decide the approval.

        Raises Conflict if the person has approved already, and Invalid if an override has no
        reason. The requester and the `authors` of the work cannot approve it, and no person
        can approve twice (`approvers`: those who have approved so far); these rules do not apply to
        a rejection. `labels`: the labels of the execution, for which a role has to be held."""
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
            raise Forbidden(
                "self_approval", f"{_why_same(principal, requester, 'asked for it')} {ALONE}"
            )
        for author in authors:
            if author.who.is_person(principal):
                raise Forbidden(
                    "author_approval",
                    f"{_why_same(principal, author.who, f'wrote {author.wrote}')} {ALONE}",
                )

        for approver in approvers:
            if approver.is_person(principal):
                raise Conflict("approved_already", _approved_by(principal, approver))

    def _for_others(self, principal: Principal) -> str:
        who = " or ".join([*(f"the role {role}" for role in self.roles), *self.users])
        detail = f"This is for {who} to decide, and {principal.name} is none of them."
        if set(principal.roles) & set(self.roles):
            return f"{detail} A role within a scope counts only for executions inside of it."
        if {principal.name, principal.person} & set(self.users):
            return (
                f"{detail} Users are people: an API key counts as one only if this person has made "
                "it, a service not by its name. Log in."
            )
        return detail


def _why_same(principal: Principal, other: Requester, did: str) -> str:
    asked = Principal(
        other.name,
        cast("PrincipalKind", other.kind or "user"),
        (),
        (),
        other.person,
        tuple(other.makers),
    )
    if unknown := next((who.name for who in (principal, asked) if who.is_anybody), None):
        advice = "make it again with `person` (--person), or log in as a user"
        return (
            f"Whose the API key {unknown} is, is not known, "
            f"so that both may be one person: {advice}."
        )
    if other.name != principal.name:
        return (
            f"{other.name} {did}, and {principal.name} may be the same person (as such, as its "
            "maker or its service)."
        )
    return f"{principal.name} {did}, and cannot approve it as well."


def _approved_by(principal: Principal, approver: Requester) -> str:
    if (principal.name, principal.kind) == (approver.name, approver.kind):
        return (
            f"{principal.name} has approved already: different people have to approve. Ask another "
            "person."
        )
    return (
        f"{principal.name} and {approver.name}, who has approved already, may be one person (a key "
        "and its maker, or one service): "
        "different people have to approve. Ask another person, or log in as a user."
    )


def check_override(principal: Principal, reason: str | None) -> None:
    """Raise Forbidden without safety:override everywhere, Invalid without a reason."""
    if not principal.reach(OVERRIDE).everywhere:
        how = (
            "holds it within a scope only"
            if principal.has_permission(OVERRIDE)
            else "does not hold it"
        )
        detail = (
            f"An override takes {OVERRIDE}, and {principal.name} {how}: ask another person to "
            "approve, or an administrator."
        )
        raise Forbidden("forbidden", detail)
    if not (reason or "").strip():
        detail = "override_safety needs a reason: the audit log keeps why."
        raise Invalid(
            "reason_missing", detail, errors=[FieldError("/reason", detail, "reason_missing")]
        )


def person_of(principal: Principal) -> str:
    """Return the key by which a person is counted once: the human if known, else the identity."""
    return (
        f"person:{principal.person}"
        if principal.person is not None
        else f"{principal.kind}:{principal.name}"
    )


def fingerprint(
    job_name: str,
    actions: Iterable[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    policy: Mapping[str, Any],
    targets: Iterable[Target],
    *,
    salt: bytes,
) -> str:
    """Return the hash (64 hexadecimal digits) of the work that would run, and its targets.

    Secrets are included as a digest, which cannot be brute-forced without `salt`."""
    places = [_place(target) for target in sorted(targets, key=_id)]
    values = {name: _value(value, salt) for name, value in parameters.items()}
    whole = [job_name, [dict(action) for action in actions], values, dict(policy), places]
    return hashlib.sha256(
        json.dumps(_plain(whole), sort_keys=True, ensure_ascii=True).encode()
    ).hexdigest()


def _place(target: Target) -> list[Any]:
    """Return the properties that identify a target and decide the work that runs there.

    Labels belong to it, because they are values of commands."""
    where = [
        target.id,
        target.name,
        target.host,
        target.port,
        target.transport.value,
        target.platform,
    ]
    trust = [target.credential, target.jump, target.host_key_policy.value, list(target.host_keys)]
    return [*where, *trust, dict(target.labels)]


def _id(target: Target) -> str:
    return target.id


def _value(value: Any, salt: bytes) -> Any:
    if isinstance(value, JobSecret):
        return {"credential": value.credential_id}
    return (
        hmac.digest(salt, value.reveal().encode(), "sha256").hex()
        if isinstance(value, Secret)
        else value
    )


def _plain(value: Any) -> Any:
    """Return the value as the database returns it.

    Whole floats become integers there, and tuples become lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
