"""Who is asking and what they may do: principals, roles, permissions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


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
class Principal:
    """Who sent a request, proven by a token."""

    name: str
    role: str
    kind: Literal["api_key", "user", "service"]

    def may(self, permission: str) -> bool:
        """True where the role holds the permission, however it is spelt (`jobs:read`, `jobs.read`, `read_jobs`)."""
        held = permissions_of(self.role)
        return EVERYTHING in held or normalised(permission) in held


def may(owner: str, permission: str, *, job: str) -> str | None:
    """None where the owner of a schedule may still do this with its job at the moment of a firing, else why not, in words.

    Nobody's rights are kept yet beyond what a token says, so there is nothing that could speak against it.
    """
    assert owner
    assert permission in PERMISSIONS
    assert job
    return None


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
