"""Access control: principals, their grants and scopes, and the people who must approve."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, cast

from pydantic import Field, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration, duration_limits
from opsjobs.model.identity import Identity, PrincipalKind
from opsjobs.model.naming import Name
from opsjobs.model.selection import Requirement, parse_selector
from opsjobs.model.validation_errors import fault


class Role(StrEnum):
    """Each holds what the one before it holds, and more."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    DEVELOPER = "developer"
    MANAGER = "manager"
    ADMIN = "admin"


EVERYTHING = "*"
LAUNCH = "jobs:execute"
RUN_COMMANDS = "commands:run"
"""The permission for launches without a stored job, such as POST /run, and their retries."""
SEE_EXECUTIONS = "executions:read"
PERMISSIONS = frozenset(
    {
        *("jobs:read", "jobs:create", "jobs:update", "jobs:delete", "jobs:execute"),
        "commands:run",
        *("executions:read", "executions:cancel", "executions:retry"),
        *("schedules:read", "schedules:manage"),
        *("triggers:read", "triggers:manage"),
        *("targets:read", "targets:manage"),
        *("credentials:use", "credentials:manage"),
        *("approvals:decide", "safety:override", "dead_letters:manage", "audit:read"),
        *("webhooks:manage", "system:read", "system:admin"),
    }
)

_VIEWER = frozenset(
    {
        *("jobs:read", "executions:read", "schedules:read", "triggers:read"),
        *("targets:read", "system:read"),
    }
)
_OPERATOR = _VIEWER | {
    "jobs:execute",
    "commands:run",
    "executions:cancel",
    "executions:retry",
    "schedules:manage",
    "dead_letters:manage",
}
_DEVELOPER = _OPERATOR | {"jobs:create", "jobs:update", "triggers:manage", "credentials:use"}
_MANAGER = _DEVELOPER | {
    "jobs:delete",
    "targets:manage",
    "approvals:decide",
    "audit:read",
    "webhooks:manage",
}
_OF_ROLE: Mapping[Role, frozenset[str]] = {
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _OPERATOR,
    Role.DEVELOPER: _DEVELOPER,
    Role.MANAGER: _MANAGER,
    Role.ADMIN: frozenset({EVERYTHING}),
}


def launch_permission(job_id: int | None) -> str:
    """Return the permission to launch this job; None: commands without a stored job.

    Holding one of the two does not include the other.

    >>> launch_permission(3), launch_permission(None)
    ('jobs:execute', 'commands:run')"""
    return RUN_COMMANDS if job_id is None else LAUNCH


def permissions_of(role: str) -> frozenset[str]:
    """Return the permissions of a role; an unknown role has none."""
    return _OF_ROLE[Role(role)] if role in set(Role) else frozenset()


@dataclass(frozen=True, slots=True)
class Scope:
    """The label conditions that a grant is limited to; without any it covers everything.

    Conditions may only be positive: an execution is matched by the labels that all of its targets
    have in common, and a label that is missing there may exist on each single target."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Parse a scope such as `env=staging,team in (web,db)`; "" is everything.

        Raises ValueError naming the fault."""
        if not text.strip():
            return EVERYWHERE
        requirements = parse_selector(text)
        if negated := next((r for r in requirements if r.negated), None):
            raise ValueError(
                f"the scope says what {negated.key!r} is not: say what it is, such as env=staging"
            )
        return cls(requirements)

    def holds(self, labels: Mapping[str, str]) -> bool:
        """True for a thing with these labels."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def covers(self, selector: Sequence[Requirement]) -> bool:
        """Return True if the selector by itself can only match things in this scope."""
        return all(
            any(_implies(given, wanted) for given in selector) for wanted in self.requirements
        )


def _implies(given: Requirement, wanted: Requirement) -> bool:
    if given.negated or given.key != wanted.key:
        return False
    return not wanted.values or (bool(given.values) and set(given.values) <= set(wanted.values))


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class Grant:
    """Permissions, and the scope in which they are held."""

    permissions: frozenset[str]
    scope: Scope = EVERYWHERE
    roles: tuple[str, ...] = field(default=(), compare=False)
    """The roles that the grant came from."""

    @classmethod
    def of_role(cls, role: str, scope: Scope = EVERYWHERE) -> Grant:
        """Return the grant of a role's permissions within a scope."""
        return cls(permissions_of(role), scope, (role,))

    def holds(self, permission: str) -> bool:
        """Return True if the grant gives this permission in any scope."""
        return EVERYTHING in self.permissions or normalised(permission) in self.permissions


@dataclass(frozen=True, slots=True)
class OwnReach:
    """The executions that one identity launched, in the scopes in which it may launch."""

    launcher: Identity
    scopes: tuple[Scope, ...]

    def holds(self, labels: Mapping[str, str], launcher: Identity | None) -> bool:
        """True for a thing with these labels that this launcher launched."""
        return launcher == self.launcher and any(scope.holds(labels) for scope in self.scopes)


@dataclass(frozen=True, slots=True)
class Reach:
    """The scopes in which one permission is held; no scope means that it is not held at all."""

    scopes: tuple[Scope, ...]
    own: OwnReach | None = None
    """The executions that are in reach because the holder launched them."""

    @property
    def everywhere(self) -> bool:
        """True if one of the scopes covers everything."""
        return any(not scope.requirements for scope in self.scopes)

    @property
    def nowhere(self) -> bool:
        """True if nothing can be in reach."""
        return not self.scopes and self.own is None

    @property
    def only_own(self) -> bool:
        """True if nothing but what the holder launched is in reach."""
        return not self.scopes and self.own is not None

    def holds(self, labels: Mapping[str, str], launcher: Identity | None = None) -> bool:
        """True for a thing with these labels. `launcher`: that of an execution and its parts."""
        if self.own is not None and self.own.holds(labels, launcher):
            return True
        return any(scope.holds(labels) for scope in self.scopes)

    def __or__(self, other: Reach) -> Reach:
        """Return the union of both; they belong to one principal."""
        more = (scope for scope in other.scopes if scope not in self.scopes)
        return Reach((*self.scopes, *more), self.own or other.own)


UNBOUNDED = Reach((EVERYWHERE,))
NOWHERE = Reach(())


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request, proven by a token.

    `name` and `kind` together are one identity.
    """

    name: str
    kind: PrincipalKind
    grants: tuple[Grant, ...]
    roles: tuple[str, ...] = ()
    person: str | None = None
    """The human behind it if known: of a user that user, of an API key its intended owner.

    Two principals of one person do not count as two approvers.
    """
    makers: tuple[str, ...] = ()
    """The identities that may have the secret of an API key or a service.

    They are its creator, the creator of that one, and the people behind these.
    """
    platform_maker: str | None = None
    """The user of the platform whose rights limit an API key or a service, if there is one."""
    issued_at: float | None = field(default=None, compare=False)
    """The time (Unix seconds) of the information about a platform user."""

    @classmethod
    def of_role(
        cls,
        name: str,
        role: str,
        kind: PrincipalKind,
        *,
        scope: Scope = EVERYWHERE,
        person: str | None = None,
    ) -> Principal:
        """Return a principal with one role."""
        return cls(name, kind, (Grant.of_role(role, scope),), (role,), person)

    def has_permission(self, permission: str) -> bool:
        """Return True if any grant gives the permission, in any spelling.

        Spellings are `jobs:read`, `jobs.read` and `read_jobs`."""
        return any(grant.holds(permission) for grant in self.grants)

    def has_role(self, role: str, labels: Mapping[str, str]) -> bool:
        """Return True if the role is held for a thing with these labels.

        A role within a scope does not count outside of it."""
        scopes = [grant.scope for grant in self.grants if role in grant.roles]
        return role in self.roles and (not scopes or any(scope.holds(labels) for scope in scopes))

    def reach(self, permission: str) -> Reach:
        """Return the scopes in which the permission is held.

        A principal that may launch sees what it launched: `executions:read` is for the others.
        Launches in scopes in which it sees all executions add nothing.
        """
        held = Reach(self._scopes(permission))
        if permission != SEE_EXECUTIONS or held.everywhere:
            return held
        scopes = dict.fromkeys((*self._scopes(LAUNCH), *self._scopes(RUN_COMMANDS)))
        launching = tuple(scope for scope in scopes if scope not in held.scopes)
        own = OwnReach(self.identity, launching) if launching else None
        return Reach(held.scopes, own)

    def _scopes(self, permission: str) -> tuple[Scope, ...]:
        return tuple(grant.scope for grant in self.grants if grant.holds(permission))

    @property
    def identity(self) -> Identity:
        """Its kind and name, without its rights."""
        return Identity(self.kind, self.name)

    @property
    def makes(self) -> tuple[str, ...]:
        """The `makers` of what this principal creates: itself, its person, and its own makers."""
        people = () if self.person is None else (f"user/{self.person}", f"external/{self.person}")
        return tuple(dict.fromkeys((str(self.identity), *people, *self.makers)))

    @property
    def humans(self) -> frozenset[str]:
        """The names of the humans behind this principal.

        These are the name of a user or platform user, and the person behind a key or a service. The
        name of a key or a service proves nothing, because its creator chooses it. Neither does the
        person of a key that another identity created, because that identity has seen the token."""
        own = {self.name} if self.kind in ("user", "external") else set()
        other_made = self.kind == "api_key" and not set(self.makers) <= {
            f"user/{self.person}",
            f"external/{self.person}",
        }
        if self.person is None or other_made:
            return frozenset(own)
        return frozenset({*own, self.person})

    def is_same_person(self, other: Principal) -> bool:
        """Return False only if two different humans are known to be behind these two.

        They count as the same if one is a key or service and the other its maker, or if the owner
        of either is unknown."""
        if self.identity == other.identity or self.is_anybody or other.is_anybody:
            return True
        if self.person is not None and self.person == other.person:
            return True
        return self._has_made(other) or other._has_made(self) or self._shares_a_service(other)

    @property
    def is_anybody(self) -> bool:
        """True if the principal is an API key with no known owner."""
        return self.kind == "api_key" and self.person is None and bool(self.makers)

    def _has_made(self, other: Principal) -> bool:
        mine = (
            {str(self.identity)}
            if self.person is None
            else {str(self.identity), f"user/{self.person}", f"external/{self.person}"}
        )
        return not mine.isdisjoint(other.makers)

    def _shares_a_service(self, other: Principal) -> bool:
        """Return True for the same service: its key signs for every user that it acts for."""
        return (
            self.kind == other.kind == "service"
            and self.name.partition("/")[0] == other.name.partition("/")[0]
        )


@dataclass(frozen=True, slots=True)
class Requester:
    """The requester or an author of the work to be approved.

    `kind` None: unknown, so that any identity of this name counts as the same."""

    name: str
    kind: str | None = None
    person: str | None = None
    makers: Sequence[str] = ()

    @classmethod
    def from_principal(cls, principal: Principal) -> Requester:
        """Return the principal as a requester."""
        return cls(principal.name, principal.kind, principal.person, principal.makers)

    def is_person(self, other: Principal) -> bool:
        """Return True if the other one is, or may be, the same identity or the same human."""
        if self.kind is None and self.name in (other.name, other.person):
            return True
        kind = cast("PrincipalKind", self.kind or "user")
        return Principal(
            self.name, kind, (), person=self.person, makers=tuple(self.makers)
        ).is_same_person(other)

    def data(self) -> dict[str, Any]:
        """Return the JSON that is stored with an execution."""
        body = {"name": self.name, "kind": self.kind, "person": self.person}
        return {**body, "makers": list(self.makers)} if self.makers else body


def labels_of(tags: Iterable[str]) -> dict[str, str]:
    """Return a job's labels from its tags: `env=staging` has a value, `web` has none.

    >>> labels_of(["env=staging", "web"])
    {'env': 'staging', 'web': ''}"""
    return {key: value for key, _, value in (tag.partition("=") for tag in tags)}


_SINGULAR = {
    "job": "jobs",
    "command": "commands",
    "execution": "executions",
    "schedule": "schedules",
    "target": "targets",
    "credential": "credentials",
    "approval": "approvals",
    "dead_letter": "dead_letters",
    "webhook": "webhooks",
}


def normalised(permission: str) -> str:
    """Return the canonical spelling of a permission.

    Others spell it `jobs.read`, `read_jobs` or `job:read`.

        >>> normalised("read_jobs"), normalised("job:read")
        ('jobs:read', 'jobs:read')"""
    if permission == EVERYTHING:
        return permission
    text = permission.strip().lower().replace("-", "_")
    noun, separator, verb = re.sub(r"[.:]", ":", text, count=1).partition(":")
    if not separator:
        verb, _, noun = text.partition("_")
    return f"{_SINGULAR.get(noun, noun)}:{verb}"


APPROVERS_MAX = 20
EXPIRES_SECONDS = 86_400.0
EXPIRES_SECONDS_MAX = 30 * 86_400.0

RoleName = Annotated[str, Field(pattern=text_patterns.ROLE)]


class Approvers(ApiModel):
    """The number of different people who have to approve; the requester is not one of them.

    If `roles` or `users` are named, only those count. All of them need approvals:decide anyway."""

    approvers: int = Field(default=1, ge=1, le=APPROVERS_MAX)
    roles: list[RoleName] = Field(default_factory=list, max_length=APPROVERS_MAX)
    users: list[Name] = Field(default_factory=list, max_length=100)

    @model_validator(mode="after")
    def _enough_of_them(self) -> Approvers:
        if self.users and not self.roles and len(set(self.users)) < self.approvers:
            words = (
                f"{self.approvers} are to approve, and {len(set(self.users))} may: name more "
                "users, or a role"
            )
            raise fault("too_few_approvers", words, "users")
        return self


class ApprovalPolicy(Approvers):
    """The field `policy.approval`: an execution starts only after approval.

    It is rejected if it is not approved within `expires` seconds."""

    expires: Annotated[Duration, duration_limits(le=EXPIRES_SECONDS_MAX)] = EXPIRES_SECONDS
