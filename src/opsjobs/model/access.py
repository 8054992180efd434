"""Who is asking and what they may do: principals, their grants, and how far each of these reaches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from opsjobs.model.target import Requirement, parse_selector

PrincipalKind = Literal["api_key", "user", "service", "external"]
IdentityKind = Literal["api_key", "user", "service", "external", "system"]
"""Of whoever asks for something: a principal, or opsjobs by itself."""


class Role(StrEnum):
    """Each holds what the one before it holds, and more."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    DEVELOPER = "developer"
    MANAGER = "manager"
    ADMIN = "admin"


EVERYTHING = "*"
PERMISSIONS = frozenset(
    {
        *("jobs:read", "jobs:create", "jobs:update", "jobs:delete", "jobs:execute"),
        *("executions:read", "executions:cancel", "executions:retry"),
        *("schedules:read", "schedules:manage"),
        *("targets:read", "targets:manage"),
        *("credentials:use", "credentials:manage"),
        *("approvals:decide", "safety:override", "dead_letters:manage", "audit:read"),
        *("system:read", "system:admin"),
    }
)

_VIEWER = frozenset({"jobs:read", "executions:read", "schedules:read", "targets:read", "system:read"})
_OPERATOR = _VIEWER | {"jobs:execute", "executions:cancel", "executions:retry", "schedules:manage", "dead_letters:manage"}
_DEVELOPER = _OPERATOR | {"jobs:create", "jobs:update", "credentials:use"}
_MANAGER = _DEVELOPER | {"jobs:delete", "targets:manage", "approvals:decide", "audit:read"}
_OF_ROLE: Mapping[Role, frozenset[str]] = {
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _OPERATOR,
    Role.DEVELOPER: _DEVELOPER,
    Role.MANAGER: _MANAGER,
    Role.ADMIN: frozenset({EVERYTHING}),
}


def permissions_of(role: str) -> frozenset[str]:
    """What a role may do; a role that we do not know may do nothing."""
    return _OF_ROLE[Role(role)] if role in set(Role) else frozenset()


@dataclass(frozen=True, slots=True)
class Scope:
    """The things that a grant is for: those whose labels satisfy all of these conditions; none of them = everything.

    Only what a label is may be said, not what it is not: an execution is known by the labels that all of its targets have in
    common, and what is missing there may be there on each one.
    """

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Of `env=staging,team in (web,db)`; "" is everything. Raises ValueError naming the fault."""
        if not text.strip():
            return EVERYWHERE
        requirements = parse_selector(text)
        if negated := next((r for r in requirements if r.negated), None):
            raise ValueError(f"the scope says what {negated.key!r} is not: say what it is, such as env=staging")
        return cls(requirements)

    def holds(self, labels: Mapping[str, str]) -> bool:
        """True for a thing with these labels."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def covers(self, selector: Sequence[Requirement]) -> bool:
        """True where whatever such a selector finds lies inside, because it says so itself."""
        return all(any(_implies(said, wanted) for said in selector) for wanted in self.requirements)


def _implies(said: Requirement, wanted: Requirement) -> bool:
    if said.negated or said.key != wanted.key:
        return False
    return not wanted.values or (bool(said.values) and set(said.values) <= set(wanted.values))


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class Grant:
    """Permissions, and the things that they are for."""

    permissions: frozenset[str]
    scope: Scope = EVERYWHERE
    roles: tuple[str, ...] = field(default=(), compare=False)
    """The roles that it came with."""

    @classmethod
    def of_role(cls, role: str, scope: Scope = EVERYWHERE) -> Grant:
        """What a role may do, within a scope."""
        return cls(permissions_of(role), scope, (role,))

    def holds(self, permission: str) -> bool:
        """Whether it gives this permission anywhere at all."""
        return EVERYTHING in self.permissions or normalised(permission) in self.permissions


@dataclass(frozen=True, slots=True)
class Reach:
    """How far one permission goes for somebody: the scopes of all grants that give it. No scope at all: nowhere."""

    scopes: tuple[Scope, ...]

    @property
    def everywhere(self) -> bool:
        """True where no thing is out of reach."""
        return any(not scope.requirements for scope in self.scopes)

    def holds(self, labels: Mapping[str, str]) -> bool:
        """True for a thing with these labels."""
        return any(scope.holds(labels) for scope in self.scopes)

    def __or__(self, other: Reach) -> Reach:
        """What either of the two holds."""
        return Reach((*self.scopes, *(scope for scope in other.scopes if scope not in self.scopes)))


UNBOUNDED = Reach((EVERYWHERE,))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request, proven by a token.

    `name` and `kind` together are one identity. `person`: the human behind it where that is known, which of a user is the user,
    of an API key whoever it was made for; two principals of one person do not make four eyes. `makers`: of an API key or a service
    the identities that may have its secret: who made it, who made that one, and the people behind these. `issued_at`: of somebody of the
    platform, to when (Unix seconds) what is known of him goes back.
    """

    name: str
    kind: PrincipalKind
    grants: tuple[Grant, ...]
    roles: tuple[str, ...] = ()
    person: str | None = None
    makers: tuple[str, ...] = ()
    issued_at: float | None = field(default=None, compare=False)

    @classmethod
    def of_role(
        cls, name: str, role: str, kind: PrincipalKind, *, scope: Scope = EVERYWHERE, person: str | None = None
    ) -> Principal:
        """Somebody with one role."""
        return cls(name, kind, (Grant.of_role(role, scope),), (role,), person)

    def may(self, permission: str) -> bool:
        """True where a grant gives the permission for something, however it is spelt (`jobs:read`, `jobs.read`, `read_jobs`)."""
        return any(grant.holds(permission) for grant in self.grants)

    def has_role(self, role: str, labels: Mapping[str, str]) -> bool:
        """True if the role is held for a thing with these labels: a role within a scope does not count outside of it."""
        scopes = [grant.scope for grant in self.grants if role in grant.roles]
        return role in self.roles and (not scopes or any(scope.holds(labels) for scope in scopes))

    def reach(self, permission: str) -> Reach:
        """For which things the permission is held."""
        return Reach(tuple(grant.scope for grant in self.grants if grant.holds(permission)))

    @property
    def identity(self) -> str:
        """Name and kind in one word: `ada` of an API key, `user/ada` of a user; a key's name has no slash."""
        return self.name if self.kind == "api_key" else f"{self.kind}/{self.name}"

    @property
    def makes(self) -> tuple[str, ...]:
        """The `makers` of what this principal makes: itself, the person behind it, and its own makers."""
        people = () if self.person is None else (f"user/{self.person}", f"external/{self.person}")
        return tuple(dict.fromkeys((self.identity, *people, *self.makers)))

    @property
    def humans(self) -> frozenset[str]:
        """By which names it is a human: the name of a user or of somebody of the platform, and the person behind a key or a service.

        The name of a key or a service says nothing: whoever may make one chooses it. Nor does the person of a key that another
        identity has made, which knows its token.
        """
        own = {self.name} if self.kind in ("user", "external") else set()
        other_made = self.kind == "api_key" and not set(self.makers) <= {f"user/{self.person}", f"external/{self.person}"}
        if self.person is None or other_made:
            return frozenset(own)
        return frozenset({*own, self.person})

    def is_same_person(self, other: Principal) -> bool:
        """False only if two humans are known to be behind these: not of a key or service and its maker, nor of what may be anybody's."""
        if (self.name, self.kind) == (other.name, other.kind) or self.is_anybody or other.is_anybody:
            return True
        if self.person is not None and self.person == other.person:
            return True
        return self._has_made(other) or other._has_made(self) or self._shares_a_service(other)

    @property
    def is_anybody(self) -> bool:
        """True for an API key that was made for nobody knows whom."""
        return self.kind == "api_key" and self.person is None and bool(self.makers)

    def _has_made(self, other: Principal) -> bool:
        mine = {self.identity} if self.person is None else {self.identity, f"user/{self.person}", f"external/{self.person}"}
        return not mine.isdisjoint(other.makers)

    def _shares_a_service(self, other: Principal) -> bool:
        """True for one service, on behalf of whomever it speaks: its key signs all of that."""
        return self.kind == other.kind == "service" and self.name.partition("/")[0] == other.name.partition("/")[0]


def labels_of(tags: Iterable[str]) -> dict[str, str]:
    """A job's labels: its tags, of which `env=staging` is a label with a value and `web` one without.

    >>> labels_of(["env=staging", "web"])
    {'env': 'staging', 'web': ''}
    """
    return {key: value for key, _, value in (tag.partition("=") for tag in tags)}


_SINGULAR = {
    "job": "jobs",
    "execution": "executions",
    "schedule": "schedules",
    "target": "targets",
    "credential": "credentials",
    "approval": "approvals",
    "dead_letter": "dead_letters",
}


def normalised(permission: str) -> str:
    """Our spelling of a permission that others spell `jobs.read`, `read_jobs` or `job:read`.

    >>> normalised("read_jobs"), normalised("job:read")
    ('jobs:read', 'jobs:read')
    """
    if permission == EVERYTHING:
        return permission
    text = permission.strip().lower().replace("-", "_")
    noun, separator, verb = re.sub(r"[.:]", ":", text, count=1).partition(":")
    if not separator:
        verb, _, noun = text.partition("_")
    return f"{_SINGULAR.get(noun, noun)}:{verb}"
