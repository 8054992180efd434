"""Grants: their notation, storage and combination, and the right to give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from opsjobs.model.access import (
    EVERYTHING,
    PERMISSIONS,
    Grant,
    Principal,
    Role,
    Scope,
    normalised,
    permissions_of,
)
from opsjobs.model.api_model import ApiModel
from opsjobs.model.identity import PrincipalKind
from opsjobs.model.selection import Requirement

GRANTS_MAX = 32
PERMISSIONS_MAX = 64
SCOPE_CHARACTERS_MAX = 1_024


class GrantDraft(ApiModel):
    """A role, or permissions by name, within a scope of labels (`env=staging`).

    An empty scope covers everything."""

    role: Role | None = None
    permissions: list[Annotated[str, Field(max_length=64)]] = Field(
        default_factory=list, max_length=PERMISSIONS_MAX
    )
    scope: str = Field(default="", max_length=SCOPE_CHARACTERS_MAX)

    @field_validator("permissions")
    @classmethod
    def _check_permissions(cls, permissions: list[str]) -> list[str]:
        spelt = [normalised(permission) for permission in permissions]
        if unknown := next(
            (
                p
                for p, s in zip(permissions, spelt, strict=True)
                if s not in PERMISSIONS | {EVERYTHING}
            ),
            None,
        ):
            raise ValueError(
                f"there is no permission {unknown!r}: there are {', '.join(sorted(PERMISSIONS))} "
                "and *"
            )
        return list(dict.fromkeys(spelt))

    @field_validator("scope")
    @classmethod
    def _readable(cls, scope: str) -> str:
        Scope.parse(scope)
        return scope.strip()

    @model_validator(mode="after")
    def _one_of_both(self) -> GrantDraft:
        if (self.role is None) == (not self.permissions):
            raise ValueError("give either a role or permissions")
        return self

    def dump(self) -> dict[str, Any]:
        """Return the grant as it is stored and shown."""
        return {
            "role": self.role and self.role.value,
            "permissions": self.permissions,
            "scope": self.scope,
        }


Grants = Annotated[list[GrantDraft], Field(min_length=1, max_length=GRANTS_MAX)]


def grants_of(kept: Iterable[Mapping[str, Any]]) -> tuple[Grant, ...]:
    """Return grants from their stored form; a role unknown to this release holds nothing."""
    return tuple(
        Grant.of_role(one["role"], Scope.parse(one["scope"]))
        if one.get("role")
        else Grant(frozenset(one["permissions"]), Scope.parse(one["scope"]))
        for one in kept
    )


def kept_of(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """Return the stored form of grants of any origin, listed by their permissions."""
    return [
        {"role": None, "permissions": sorted(grant.permissions), "scope": scope_text(grant.scope)}
        for grant in grants
        if grant.permissions
    ]


def scope_text(scope: Scope) -> str:
    """Return a scope in the notation of `Scope.parse`.

    >>> scope_text(Scope.parse("env in (dev, test),web"))
    'env in (dev,test),web'"""
    return ",".join(map(_requirement_text, scope.requirements))


def _requirement_text(requirement: Requirement) -> str:
    if not requirement.values:
        return requirement.key
    if len(requirement.values) == 1:
        return f"{requirement.key}={requirement.values[0]}"
    return f"{requirement.key} in ({','.join(requirement.values)})"


def principal_of(
    name: str, kind: PrincipalKind, kept: Sequence[Mapping[str, Any]], person: str | None
) -> Principal:
    """Return a principal with its stored grants."""
    roles = tuple(dict.fromkeys(one["role"] for one in kept if one.get("role")))
    return Principal(name, kind, grants_of(kept), roles, person)


def may_give(giver: Principal, grant: Grant) -> bool:
    """Return True if the giver holds all permissions of the grant, in at least its scope.

    This prevents privilege escalation."""
    return all(_holds(giver, permission, grant.scope) for permission in grant.permissions)


def _holds(giver: Principal, permission: str, scope: Scope) -> bool:
    held = [
        grant
        for grant in giver.grants
        if EVERYTHING in grant.permissions or permission in grant.permissions
    ]
    return any(set(grant.scope.requirements) <= set(scope.requirements) for grant in held)


def both(first: Principal, second: Principal) -> tuple[Grant, ...]:
    """Return the intersection of two principals' grants: permissions and scopes of both."""
    pairs = (
        (a, b, _common(a.permissions, b.permissions)) for a in first.grants for b in second.grants
    )
    return tuple(
        Grant(
            permissions,
            Scope(tuple(dict.fromkeys((*a.scope.requirements, *b.scope.requirements)))),
            tuple(role for role in a.roles if role in b.roles),
        )
        for a, b, permissions in pairs
        if permissions
    )


def both_roles(first: Principal, second: Principal) -> tuple[str, ...]:
    """Return the roles that two have in common, in the order of the first."""
    return tuple(role for role in first.roles if role in second.roles)


def within(held: Principal, bound: Principal) -> Principal:
    """Return a principal limited to the permissions that its grantor still holds.

    A role that loses a permission is dropped. A user of the platform who is the grantor, or the
    grantor's own, is carried along."""
    maker = bound.name if bound.kind == "external" else bound.platform_maker
    held = replace(held, platform_maker=maker)
    whole = [grant for grant in held.grants if may_give(bound, grant)]
    if len(whole) == len(held.grants):
        return held
    rest = replace(held, grants=tuple(grant for grant in held.grants if grant not in whole))
    lasting = tuple(r for r in held.roles if any(g.permissions == permissions_of(r) for g in whole))
    return replace(held, grants=(*whole, *both(rest, bound)), roles=lasting)


def _common(first: frozenset[str], second: frozenset[str]) -> frozenset[str]:
    if EVERYTHING in first:
        return second
    return first if EVERYTHING in second else first & second
