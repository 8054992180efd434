"""The dependencies of routes: services, permission, the object in the path, parameters.

404 for an object that the caller may not see, 403 for one that it may see, but not change.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from opsjobs.api.authorization import (
    Within,
    admit,
    admit_execution,
    admit_launched,
    admitted,
    check_confirmed,
    check_permission,
    reach,
)
from opsjobs.api.cookies import READING
from opsjobs.api.paths import route_path
from opsjobs.api.request import principal_of
from opsjobs.composition.services import Services, services_of
from opsjobs.identity.platform_users import CONFIRMED
from opsjobs.model import text_patterns
from opsjobs.model.access import SEE_EXECUTIONS
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.run_views import Execution
from opsjobs.store.idempotency import IdempotentRequest
from opsjobs.store.jobs import StoredJob
from opsjobs.store.scheduling.rows import StoredSchedule
from opsjobs.store.triggers import StoredTrigger


# Async, like all dependencies here: FastAPI runs sync ones in a thread at each request.
async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]
"""The services of the application, as a parameter of a route."""


# --- the permission that a route requires


SENSITIVE = frozenset({"credentials:manage", "system:admin"})
"""Permissions whose changes need a fresh proof of a caller with a session."""
ANY_TOKEN = "any token"  # noqa: S105  shown in docs for routes that need no permission


class Permission:
    """Dependency that refuses callers without the permission.

    A caller who holds it only within a scope is refused if `within` is EVERYTHING.
    """

    def __init__(self, name: str, within: Within) -> None:
        self.name = name
        self.within = within

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


# --- the object in the path


async def load_job(id: str, request: Request) -> StoredJob:
    """Return the job. Raises NotFound or Forbidden.

    This precedes the check of the body: a wrong path is reported first.
    """
    found: StoredJob = await services_of(request).jobs.get(id)
    return admitted(request, "job", id, found, sees="jobs:read")


JobDep = Annotated[StoredJob, Depends(load_job)]


async def read_execution(request: Request, ref: str | int) -> Execution:
    """Return an execution as it is now, without checking the caller's scope."""
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    found: Execution = await services_of(request).executions.get(ref, seen)
    return found


async def load_execution(id: str, request: Request) -> Execution:
    """Return the execution. Raises NotFound or Forbidden before the body is checked."""
    return admit_execution(request, id, await read_execution(request, id))


ExecutionDep = Annotated[Execution, Depends(load_execution)]


async def admit_part(request: Request, noun: str, ref: object, execution_id: int) -> None:
    """Raise as `admit_launched` for a part of an execution: an approval, an artifact."""
    owned = await services_of(request).executions.ownership(execution_id)
    admit_launched(request, noun, ref, owned.labels, owned.launcher)


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


# --- the Idempotency-Key


_KEY = re.compile(r"[\x21-\x7e]{1,255}")
ROUTE_BYTES_MAX = 500
"""Maximum size of a stored route: it is indexed together with the caller and the key."""
_EMPTY = hashlib.sha256(b"").digest()


async def idempotent(
    request: Request,
    idempotency_key: Annotated[
        Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$"})]
        | None,
        Header(
            description="A repeated request with the same key gets the first answer again, "
            "for 24 hours."
        ),
    ] = None,
) -> IdempotentRequest | None:
    """Return the identity of the request for `store.idempotency`; None without a key.

    Raises Invalid.
    """
    if idempotency_key is None:
        return None
    if not _KEY.fullmatch(idempotency_key):
        detail = (
            "An Idempotency-Key is 1 to 255 printable ASCII characters without blanks, "
            "such as a UUID."
        )
        raise Invalid(
            "invalid_header", detail, errors=[FieldError("", detail, "header:Idempotency-Key")]
        )
    body = services_of(request).vault.blinded(getattr(request.state, "body_sha256", _EMPTY))
    # The key belongs to the caller and the route; the prefix /api/v1 names the same route.
    route = _short(f"{request.method} {route_path(request.scope)}")
    return IdempotentRequest(str(principal_of(request).identity), route, idempotency_key, body)


Idempotent = Annotated[IdempotentRequest | None, Depends(idempotent)]


def _short(route: str) -> str:
    """Return the route, or its hash if it is too long for an index entry.

    An id in a path may have any length.
    """
    encoded = route.encode()
    return route if len(encoded) <= ROUTE_BYTES_MAX else hashlib.sha256(encoded).hexdigest()


# --- query parameters that all routes of an execution's output share


class OutputQuery(BaseModel):
    """Query of a part of the output: that of one target, stream or action."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str | None = Field(
        None, max_length=200, pattern=text_patterns.LINE_OR_NOTHING, description="Id or name."
    )
    stream: Literal["stdout", "stderr"] | None = None
    action: str | None = Field(
        None,
        max_length=64,
        pattern=text_patterns.LINE_OR_NOTHING,
        description="An action's key.",
    )
