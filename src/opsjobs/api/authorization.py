"""Authorization of a caller: by permission, by labels, and of the grants that it gives.

404 for an object that the caller may not see, 403 for one that it may see, but not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Request
from pydantic import Field

from opsjobs.api.request import principal_of, session_of
from opsjobs.model import approval
from opsjobs.model.access import EVERYTHING, LAUNCH, RUN_COMMANDS, SEE_EXECUTIONS, Principal, Reach
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.api_model import Overriding
from opsjobs.model.errors import FieldError, Forbidden, NotFound, Refusal
from opsjobs.model.grants import GrantDraft, grants_of, may_give
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import Execution


class Within(StrEnum):
    """Treatment of callers who hold a route's permission only within a scope.

    Checks of objects, lists and bodies are below.
    """

    EVERYTHING = "everything"
    """Refuses the caller: the route's objects have no labels, or it is about all objects."""
    OBJECT = "object"
    """Checks the object in the path: 404 if it is hidden from the caller, 403 if only visible."""
    LIST = "list"
    """Shows only objects within the caller's scope; pages and totals do not count others."""
    BODY = "body"
    """Checks the objects that the body names or describes."""
    ANYWHERE = "anywhere"
    """Allows the caller: the objects have no labels and may be seen with any such permission."""


def check_confirmed(request: Request) -> None:
    """Raise Forbidden for a session whose caller has not proven lately who it is.

    Tokens are not asked: a screen that was left open shows none.
    """
    session = session_of(request)
    if session is not None and not session.is_confirmed:
        raise Forbidden(
            "password_again",
            "This change needs a recent confirmation: the last one is over 10 minutes old. "
            "Confirm the session (POST /auth/confirm), then send the request again.",
        )


def check_permission(
    request: Request, permission: str, *, within: Within = Within.EVERYTHING
) -> None:
    """Raise Forbidden if the caller does not hold the permission.

    If `within` is EVERYTHING, also raise it if the caller holds it only within a scope.
    """
    principal = principal_of(request)
    held = principal.reach(permission)
    if held.nowhere:
        raise Forbidden("forbidden", _describe_missing(principal, permission))
    if within is Within.EVERYTHING and not held.everywhere:
        detail = (
            f"{principal.name} holds {permission} only within a scope, and this request takes it "
            "without one. Ask an administrator."
        )
        raise Forbidden("out_of_reach", detail)


def _describe_missing(principal: Principal, permission: str) -> str:
    name, roles = principal.name, ", ".join(principal.roles) or "none"
    detail = f"{name} (roles: {roles}) does not hold {permission}"
    if permission == RUN_COMMANDS and principal.has_permission(LAUNCH):
        return (
            f"{detail}: {name} may launch stored jobs, but no other commands. Launch a job (POST "
            f"/jobs/{{id}}/execute), or ask an administrator for {permission}."
        )
    return f"{detail}. Ask an administrator."


ReuseName = Annotated[
    bool,
    Field(
        description="Reuse the name of a deleted identity, and inherit what it owned. "
        "Requires an administrator without a scope."
    ),
]


class Labelled(Protocol):
    """An object with labels, which scopes match against."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""


T = TypeVar("T", bound=Labelled)


def permission_of(request: Request) -> str:
    """Return the permission that the route requires, and that the caller holds in some scope."""
    permission: str = request.state.permission
    return permission


def reach(request: Request) -> Reach | None:
    """Return the scopes in which the caller holds the route's permission; None: everywhere."""
    held = principal_of(request).reach(permission_of(request))
    return None if held.everywhere else held


def bounds(
    request: Request, permission: str | None = None, *, sees: str = "targets:read"
) -> Bounds:
    """Return the scopes in which the caller may act and see.

    `permission`: the one to act (default: the route's). `sees`: the one to see objects.
    """
    return Bounds.for_principal(
        principal_of(request), permission or permission_of(request), sees=sees
    )


def admitted(request: Request, noun: str, ref: object, thing: T, *, sees: str) -> T:
    """Return the object in a route's path. Raises as `admit`.

    If the route lists its executions, the caller's own are among them.
    """
    launcher = principal_of(request).identity
    admit(request, noun, ref, thing.labels, sees=sees, launcher=launcher)
    return thing


def admit_execution(request: Request, ref: object, execution: Execution) -> Execution:
    """Return the execution in a route's path. Raises as `admit_launched`."""
    admit_launched(request, "execution", ref, execution.labels, execution.requested_by)
    return execution


def admit_launched(
    request: Request,
    noun: str,
    ref: object,
    labels: Mapping[str, str],
    launcher: Identity | None,
) -> None:
    """Raise as `admit` for an execution or a part of it.

    A caller who sees only its own executions does nothing to those of others.
    """
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    if seen.only_own and not seen.holds(labels, launcher):
        raise NotFound.for_ref(noun, ref)
    admit(request, noun, ref, labels, sees=SEE_EXECUTIONS, launcher=launcher)


def admit(
    request: Request,
    noun: str,
    ref: object,
    labels: Mapping[str, str],
    *,
    sees: str,
    permission: str | None = None,
    launcher: Identity | None = None,
) -> None:
    """Raise NotFound or Forbidden unless the caller holds the permission for these labels.

    NotFound, with the message for an object that does not exist, if the caller may not see it
    (`sees`: the permission to see such objects); Forbidden if it may. `ref`: the id or name in the
    request. `permission`: default: the one that the route requires. `launcher`: that of an
    execution, or of the one that the object is part of.
    """
    permission = permission or permission_of(request)
    principal = principal_of(request)
    if principal.reach(permission).holds(labels, launcher):
        return
    if not principal.reach(sees).holds(labels, launcher):
        raise NotFound.for_ref(noun, ref)
    detail = (
        f"{principal.name} may see the {noun} {ref}, but does not hold {permission} for it. "
        "Ask an administrator."
    )
    raise Forbidden("out_of_reach", detail)


def is_caller(request: Request, identity: Identity) -> bool:
    """Return True if the caller is this identity."""
    return principal_of(request).identity == identity


def check_grantable(request: Request, grants: Iterable[GrantDraft]) -> None:
    """Raise Forbidden if the grants to give exceed those that the caller holds."""
    giver = principal_of(request)
    if not all(may_give(giver, grant) for grant in grants_of(one.dump() for one in grants)):
        detail = (
            f"{giver.name} grants more than {giver.name} holds. "
            "Ask an administrator who holds all of it."
        )
        raise Forbidden("more_than_held", detail)


def check_holds(request: Request, name: str, kept: Iterable[Mapping[str, Any]]) -> None:
    """Raise Forbidden if the identity to change holds grants that the caller cannot give.

    `kept`: the grants of that identity.
    """
    caller = principal_of(request)
    if not all(may_give(caller, grant) for grant in grants_of(kept)):
        detail = (
            f"{name} holds more than {caller.name} holds. Ask an administrator who holds all of it."
        )
        raise Forbidden("more_than_held", detail)


def check_reuse_name(request: Request, *, reuse_name: bool) -> None:
    """Raise Forbidden if the caller sets `reuse_name` and does not hold everything.

    The objects that the deleted identity owned are not known: they may exceed the caller's grants.
    """
    caller = principal_of(request)
    if reuse_name and not caller.reach(EVERYTHING).everywhere:
        detail = (
            f"{caller.name} may not set reuse_name: it takes an administrator without a scope. "
            "Choose another name."
        )
        raise Forbidden(
            "more_than_held", detail, errors=[FieldError("/reuse_name", detail, "more_than_held")]
        )


def check_override(request: Request, draft: Overriding) -> None:
    """Raise Forbidden if the caller overrides and may not, Invalid if the reason is missing."""
    if draft.override_safety:
        check_confirmed(request)
        approval.check_override(principal_of(request), draft.reason)


# --- the fields `can` and `cannot` of single objects, judged by the code of their requests


FIELDS = ("can", "cannot")


class Actions:
    """The fields `can` and `cannot` of an object with these labels.

    An action whose permission the caller does not hold at all is in neither of them. `noun`, `ref`,
    `sees`, `launcher`: as of `admit`. `labels`: None if such objects have none, so that a
    permission within a scope is not enough.
    """

    def __init__(
        self,
        request: Request,
        noun: str,
        ref: object,
        labels: Mapping[str, str] | None,
        *,
        sees: str,
        launcher: Identity | None = None,
    ) -> None:
        self._request = request
        self._noun = noun
        self._ref = ref
        self._labels = labels
        self._sees = sees
        self._launcher = launcher
        self._can: list[str] = []
        self._cannot: dict[str, Refusal] = {}

    def holds(self, action: str, *permissions: str) -> bool:
        """Return True if the caller holds these permissions for the object.

        A permission that it holds for other objects only is a reason in `cannot`.
        """
        principal = principal_of(self._request)
        if not all(principal.has_permission(one) for one in permissions):
            return False
        try:
            for one in permissions:
                self._admit(one)
        except Refusal as refused:
            self._cannot[action] = refused
            return False
        return True

    def _admit(self, permission: str) -> None:
        if self._labels is None:
            return check_permission(self._request, permission)
        return admit(
            self._request,
            self._noun,
            self._ref,
            self._labels,
            sees=self._sees,
            permission=permission,
            launcher=self._launcher,
        )

    def allow(self, action: str, *permissions: str) -> None:
        """Add an action that nothing but the caller's permissions can refuse now."""
        if self.holds(action, *permissions):
            self.add(action, None)

    @contextmanager
    def checking(self, action: str) -> Iterator[None]:
        """Add an action that the caller's permissions have; what the block raises refuses it."""
        try:
            yield
        except Refusal as refused:
            self.add(action, refused)
        else:
            self.add(action, None)

    def add(self, action: str, refusal: Refusal | None) -> None:
        """Add an action that the caller's permissions have; `refusal`: how it is refused now."""
        if refusal is None:
            self._can.append(action)
        else:
            self._cannot[action] = refusal

    def data(self) -> dict[str, Any]:
        """Return both fields."""
        return {
            "can": self._can,
            "cannot": {
                action: {"code": refused.code, "detail": refused.detail}
                for action, refused in self._cannot.items()
            },
        }
