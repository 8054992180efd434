"""Authorization of a caller: by permission, by labels, and of the grants that it gives.

404 for an object that the caller may not see, 403 for one that it may see, but not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Request
from pydantic import Field

from opsjobs.api.cookies import READING
from opsjobs.api.request import principal_of, session_of
from opsjobs.api.services import services_of
from opsjobs.identity.platform_users import CONFIRMED
from opsjobs.model import approval
from opsjobs.model.access import EVERYTHING, Principal, Reach
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.api_model import Overriding
from opsjobs.model.errors import FieldError, Forbidden, NotFound
from opsjobs.model.execution import Execution
from opsjobs.model.grants import GrantDraft, grants_of, may_give
from opsjobs.store.jobs import StoredJob
from opsjobs.store.scheduling.schedule_rows import StoredSchedule
from opsjobs.store.triggers import StoredTrigger

SENSITIVE = frozenset({"credentials:manage", "system:admin"})
"""Permissions whose changes need a fresh proof of a caller with a session."""
ANY_TOKEN = "any token"  # noqa: S105  shown in docs for routes that need no permission


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


class Permission:
    """Dependency that refuses callers without the permission.

    A caller who holds it only within a scope is refused if `within` is EVERYTHING.
    """

    def __init__(self, name: str, within: Within) -> None:
        self.name = name
        self.within = within

    # Async, like all dependencies here: FastAPI runs sync ones in a thread at each request.
    async def __call__(self, request: Request) -> None:
        """Check the permission. Raises Forbidden, and Unavailable."""
        if self.name in CONFIRMED:
            await confirm_caller(request)
        check_permission(request, self.name, within=self.within)
        if self.name in SENSITIVE and request.method not in READING:
            check_confirmed(request)
        request.state.permission = self.name


async def confirm_caller(request: Request) -> None:
    """Limit the caller to the rights that the platform's User Service confirms.

    Raises Forbidden if it is disabled there, and Unavailable if the service does not answer.
    """
    users = services_of(request).platform_users
    request.state.principal = await users.confirm(principal_of(request))


def check_confirmed(request: Request) -> None:
    """Raise Forbidden for a session whose caller has not proven lately who it is.

    Tokens are not asked: a screen that was left open shows none.
    """
    session = session_of(request)
    if session is not None and not session.is_confirmed:
        raise Forbidden(
            "password_again",
            "This needs a proof that it is still you: the last one is over 10 minutes old. "
            "Confirm the session (POST /auth/confirm), then send the request again.",
        )


def requires(permission: str, within: Within = Within.EVERYTHING) -> Any:
    """Return the dependency for `dependencies=[requires("jobs:create")]`.

    Every route except OPEN_ROUTES has exactly one.
    """
    return Depends(Permission(permission, within))


class _AnyToken(Permission):
    """Dependency that accepts any valid token: the route is about the caller itself."""

    def __init__(self) -> None:
        super().__init__(ANY_TOKEN, Within.ANYWHERE)

    async def __call__(self, request: Request) -> None:
        """Check that the caller was authenticated before."""
        principal_of(request)


def requires_a_token() -> Any:
    """Return the dependency of the few routes about the caller itself, without a permission."""
    return Depends(_AnyToken())


def check_permission(
    request: Request, permission: str, *, within: Within = Within.EVERYTHING
) -> None:
    """Raise Forbidden if the caller does not hold the permission.

    If `within` is EVERYTHING, also raise it if the caller holds it only within a scope.
    """
    principal = principal_of(request)
    held = principal.reach(permission)
    if not held.scopes:
        roles = ", ".join(principal.roles) or "none"
        detail = (
            f"{principal.name} (roles: {roles}) does not hold {permission}. Ask an administrator."
        )
        raise Forbidden("forbidden", detail)
    if within is Within.EVERYTHING and not held.everywhere:
        detail = (
            f"{principal.name} holds {permission} only within a scope, and this request takes it "
            "without one. Ask an administrator."
        )
        raise Forbidden("out_of_reach", detail)


ReuseName = Annotated[
    bool,
    Field(
        description="Reuse the name of a deleted identity, and inherit what it owned. "
        "Takes an administrator without a scope."
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
    """Return the object in a route's path. Raises as `admit`."""
    admit(request, noun, ref, thing.labels, sees=sees)
    return thing


def admit(
    request: Request,
    noun: str,
    ref: object,
    labels: Mapping[str, str],
    *,
    sees: str,
    permission: str | None = None,
) -> None:
    """Raise NotFound or Forbidden unless the caller holds the permission for these labels.

    NotFound, with the message for an object that does not exist, if the caller may not see it
    (`sees`: the permission to see such objects); Forbidden if it may. `ref`: the id or name in the
    request. `permission`: default: the one that the route requires.
    """
    permission = permission or permission_of(request)
    principal = principal_of(request)
    if principal.reach(permission).holds(labels):
        return
    if not principal.reach(sees).holds(labels):
        raise NotFound.for_ref(noun, ref)
    detail = (
        f"{principal.name} may see the {noun} {ref}, but does not hold {permission} for it. "
        "Ask an administrator."
    )
    raise Forbidden("out_of_reach", detail)


def is_caller(request: Request, name: str, kind: str) -> bool:
    """Return True if the caller is this identity."""
    principal = principal_of(request)
    return (principal.name, principal.kind) == (name, kind)


async def owner(request: Request) -> Principal:
    """Return the caller as the owner of later launches in its name.

    The grants of an external identity are stored, because no other table has them.
    """
    principal = principal_of(request)
    await services_of(request).identities.remember(None, principal)
    return principal


async def requester(request: Request) -> dict[str, Any]:
    """Return the caller in the form that launches accept.

    A workflow later launches further jobs in its name.
    """
    principal = await owner(request)
    return {"requested_by": principal.name, "requested_by_kind": principal.kind}


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


async def load_job(id: str, request: Request) -> StoredJob:
    """Return the job. Raises NotFound or Forbidden.

    This precedes the check of the body: a wrong path is reported first.
    """
    found: StoredJob = await services_of(request).jobs.get(id)
    return admitted(request, "job", id, found, sees="jobs:read")


JobDep = Annotated[StoredJob, Depends(load_job)]


async def load_execution(id: str, request: Request) -> Execution:
    """Return the execution. Raises NotFound or Forbidden before the body is checked."""
    found = await read_execution(request, id)
    return admitted(request, "execution", id, found, sees="executions:read")


async def read_execution(request: Request, ref: str | int) -> Execution:
    """Return an execution as it is now, without checking the caller's scope."""
    everything = principal_of(request).reach("executions:read").everywhere
    found: Execution = await services_of(request).executions.get(ref, everything=everything)
    return found


ExecutionDep = Annotated[Execution, Depends(load_execution)]


async def load_schedule(id: str, request: Request) -> StoredSchedule:
    """Return the schedule. Raises NotFound or Forbidden, by the labels of its job.

    This precedes the check of the body.
    """
    schedules = services_of(request).schedules
    schedule: StoredSchedule = await schedules.get(id)
    if reach(request) is not None:
        admit(request, "schedule", id, await schedules.labels(schedule), sees="schedules:read")
    return schedule


ScheduleDep = Annotated[StoredSchedule, Depends(load_schedule)]


async def load_trigger(id: str, request: Request) -> StoredTrigger:
    """Return the trigger. Raises NotFound or Forbidden, by the labels of its job.

    This precedes the check of the body.
    """
    triggers = services_of(request).job_triggers
    trigger: StoredTrigger = await triggers.get(id)
    if reach(request) is not None:
        admit(request, "trigger", id, await triggers.labels(trigger), sees="triggers:read")
    return trigger


TriggerDep = Annotated[StoredTrigger, Depends(load_trigger)]
