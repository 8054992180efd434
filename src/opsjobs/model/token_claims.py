"""Verification of a platform token's claims, after its signature, and its principal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from pydantic import ValidationError

from opsjobs.model.access import (
    EVERYTHING,
    LAUNCH,
    PERMISSIONS,
    RUN_COMMANDS,
    Grant,
    Principal,
    Scope,
    normalised,
    permissions_of,
)
from opsjobs.model.errors import Unauthorised
from opsjobs.model.grants import GRANTS_MAX, SCOPE_CHARACTERS_MAX, GrantDraft, grants_of
from opsjobs.model.naming import is_clean

Claims = Mapping[str, Any]

LEEWAY_SECONDS_MAX = 30
NAME_CHARACTERS_MAX = 200
ROLES_MAX = 100
CLAIM_PERMISSIONS_MAX = 500
SECONDS_MAX = 1 << 40
# Issuers sign their refresh and ID tokens with the same key: a token that states its use must
# state one of these.
_USES = ("typ", "type", "token_type", "token_use")
_ACCESS = frozenset({"access", "access_token", "bearer", "at+jwt", "jwt"})
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f\ud800-\udfff][^\x00-\x1f\x7f\ud800-\udfff]*")


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """The rules for a token's claims.

    `issuer` None and no `audiences`: unchecked, which production does not allow.
    """

    issuer: str | None = None
    audiences: tuple[str, ...] = ()
    leeway_seconds: float = 10.0
    needs_exp: bool = True
    """False only if another service verifies the token each time."""
    name_claim: str = "sub"
    """The only claim that names its bearer.

    If it is missing, the platform's older `username` does, then `user_id`.
    """
    execute_runs_commands: bool = True
    """True if the permission jobs:execute covers commands:run.

    A platform that does not know our permissions cannot name it.
    """

    def __post_init__(self) -> None:
        assert 0 <= self.leeway_seconds <= LEEWAY_SECONDS_MAX, (
            "a leeway is for clocks that differ, not for old tokens"
        )


def rejected(why: str) -> Unauthorised:
    """Return the refusal of a token, with a reason that continues "it"."""
    return Unauthorised("token_invalid", f"The token is not valid: it {why}.")


def check(claims: Claims, rules: ClaimRules, now: float) -> None:
    """Raise Unauthorised if the token is invalid at `now` (Unix seconds) or not for this use.

    It must be issued for this service, and for access."""
    check_times(claims, rules, now)
    check_parties(claims, rules)
    for claim in _USES:
        value = claims.get(claim)
        if value is not None and not (isinstance(value, str) and value.lower() in _ACCESS):
            raise rejected(f"is not for access, but for something else ({claim})")


def check_times(claims: Claims, rules: ClaimRules, now: float) -> None:
    """Raise Unauthorised if the token has expired at `now` (Unix seconds), or begins later."""
    exp, nbf, iat = (seconds_of(claims, name) for name in ("exp", "nbf", "iat"))
    if exp is None and rules.needs_exp:
        raise rejected("says not until when it is good (exp)")
    if exp is not None and exp <= now - rules.leeway_seconds:
        raise rejected("has expired")
    if any(start is not None and start > now + rules.leeway_seconds for start in (nbf, iat)):
        raise rejected("is not good yet (nbf, iat)")


def check_parties(claims: Claims, rules: ClaimRules) -> None:
    """Raise Unauthorised if the token comes from another issuer, or is for another audience."""
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise rejected("comes from another issuer (iss)")
    if rules.audiences and not set(audiences_of(claims)) & set(rules.audiences):
        raise rejected("is meant for another audience (aud)")


def external(claims: Claims, rules: ClaimRules) -> Principal:
    """Return the platform's user from either set of claims.

    The sets are `user_id, username, role, permissions` and `sub, roles, permissions`. Unknown roles
    and permissions hold nothing. By default jobs:execute in `permissions` covers commands:run.
    `scope_labels` (`env=staging`) limits all of them; `opsjobs_grants`, a list like that of POST
    /users, adds roles and permissions with a scope each, and exactly these.
    Raises Unauthorised if any of these has an invalid form, because its meaning would be unclear.
    """
    name = _name(claims, rules.name_claim)
    roles = list(
        dict.fromkeys([*_texts(claims, "role", ROLES_MAX), *_texts(claims, "roles", ROLES_MAX)])
    )
    permissions = frozenset(
        normalised(p) for p in _texts(claims, "permissions", CLAIM_PERMISSIONS_MAX)
    )
    if rules.execute_runs_commands and LAUNCH in permissions:
        permissions |= {RUN_COMMANDS}
    scope = _scope(claims)
    held: frozenset[str] = frozenset().union(
        permissions & (PERMISSIONS | {EVERYTHING}), *(permissions_of(role) for role in roles)
    )
    bounded = bool(roles and scope.requirements)
    grants = (
        (Grant(held, scope, tuple(roles)), *_grants(claims)) if held or bounded else _grants(claims)
    )
    return Principal(
        name, "external", grants, tuple(roles), name, issued_at=seconds_of(claims, "iat")
    )


def seconds_of(claims: Claims, name: str) -> float | None:
    """Return a claim that is a time in Unix seconds; None without it. Raises Unauthorised."""
    value = claims.get(name)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= SECONDS_MAX
    ):
        raise rejected(f"says a time that is none ({name})")
    return value


def audiences_of(claims: Claims) -> list[str]:
    """Return the audiences of a token. Raises Unauthorised if it has none, or no valid ones."""
    audience = claims.get("aud")
    listed = [audience] if isinstance(audience, str) else audience
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise rejected("has no valid audience (aud)")
    return listed


def subject(claims: Claims) -> str:
    """Return the subject: `sub`, or `user_id` of older tokens. Raises Unauthorised."""
    return _text_or_number(claims, "sub") or _text_or_number(claims, "user_id") or _nobody()


def _name(claims: Claims, name_claim: str) -> str:
    subject(claims)
    # Older tokens have a number instead of a subject: their display name is the username.
    for claim in (name_claim, "username", "user_id"):
        if name := _text_or_number(claims, claim):
            return name
    return _nobody()


def _nobody() -> str:
    raise rejected("says not whose it is (sub)")


def _text_or_number(claims: Claims, claim: str) -> str | None:
    value = claims.get(claim)
    if value is None:
        return None
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not is_name(text):
        raise rejected(f"has a name that cannot be one ({claim})")
    return text


def is_name(value: object) -> TypeGuard[str]:
    """Return True if it is a valid name: up to 200 characters that can be stored and shown."""
    return (
        isinstance(value, str)
        and len(value) <= NAME_CHARACTERS_MAX
        and _NAME.fullmatch(value) is not None
        and is_clean(value)
    )


def _texts(claims: Claims, claim: str, at_most: int) -> Sequence[str]:
    value = claims.get(claim)
    if value is None:
        return ()
    listed = value.replace(",", " ").split() if isinstance(value, str) else value
    if (
        not isinstance(listed, list)
        or len(listed) > at_most
        or not all(isinstance(one, str) and len(one) <= 200 for one in listed)
    ):
        raise rejected(f"has no list of words in {claim}")
    if any(_UNSTORABLE.search(one) for one in listed):
        raise rejected(f"has characters in {claim} that no word has")
    return listed


def _scope(claims: Claims) -> Scope:
    text = claims.get("scope_labels", "")
    try:
        return Scope.parse(text if _is_short_text(text) else ",")
    except ValueError:
        raise rejected("has a scope that cannot be read (scope_labels)") from None


def _grants(claims: Claims) -> tuple[Grant, ...]:
    grants = claims.get("opsjobs_grants", [])
    try:
        drafts = [
            GrantDraft.model_validate(one) for one in (grants if _is_short_list(grants) else [None])
        ]
    except ValidationError:
        raise rejected("has grants that cannot be read (opsjobs_grants)") from None
    if any(_UNSTORABLE.search(draft.scope) for draft in drafts):
        raise rejected("has characters in opsjobs_grants that no scope has")
    return grants_of(draft.dump() for draft in drafts)


def _is_short_text(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and len(value) <= SCOPE_CHARACTERS_MAX
        and not _UNSTORABLE.search(value)
    )


def _is_short_list(value: object) -> bool:
    return isinstance(value, list) and len(value) <= GRANTS_MAX
