"""What a caller may see and do, by the labels of things: 404 for what he may not know of, 403 for what he may see and not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from fastapi import Request

from opsjobs.api.auth import principal_of
from opsjobs.api.dependencies import services_of
from opsjobs.model.access import Principal, Reach
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.errors import Forbidden, NotFound


class Labelled(Protocol):
    """A thing that scopes can be held against."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""


T = TypeVar("T", bound=Labelled)


def permission_of(request: Request) -> str:
    """What this request's route requires: its `requires(…)` has let the caller pass, for some things at least."""
    permission: str = request.state.permission
    return permission


def reach(request: Request) -> Reach | None:
    """For which things the caller holds what the route requires; None: for all, so that nothing need be asked."""
    held = principal_of(request).reach(permission_of(request))
    return None if held.everywhere else held


def bounds(request: Request, permission: str | None = None, *, sees: str = "targets:read") -> Bounds:
    """How far the caller may go with what he asks for. `permission`: what it takes (default: what the route requires)."""
    return Bounds.of(principal_of(request), permission or permission_of(request), sees=sees)


def admitted(request: Request, noun: str, ref: object, thing: T, *, sees: str) -> T:
    """The thing in a route's path. Raises as `admit` does."""
    admit(request, noun, ref, thing.labels, sees=sees)
    return thing


def admit(
    request: Request, noun: str, ref: object, labels: Mapping[str, str], *, sees: str, permission: str | None = None
) -> None:
    """Raises NotFound, in the very words of a thing that is not there, where the caller may not know of it; Forbidden where he
    may, and not do to it what takes this permission (default: the one that the route requires).

    `ref` is what he called it, `sees` the permission to look at such things.
    """
    permission = permission or permission_of(request)
    principal = principal_of(request)
    if principal.reach(permission).holds(labels):
        return
    if not principal.reach(sees).holds(labels):
        raise NotFound.of(noun, ref)
    raise Forbidden("out_of_reach", f"{principal.name} may see the {noun} {ref}, and does not hold {permission} for it.")


def is_his(request: Request, name: str, kind: str) -> bool:
    """Whether the caller is this identity."""
    principal = principal_of(request)
    return (principal.name, principal.kind) == (name, kind)


async def owner(request: Request) -> Principal:
    """Who asks, and comes to own what is launched later in his name: what he may is kept where nothing else here knows of him."""
    principal = principal_of(request)
    await services_of(request).people.remember(None, principal)
    return principal


async def requester(request: Request) -> dict[str, Any]:
    """Who asks, as launches take it: a workflow of his launches more of it later."""
    principal = await owner(request)
    return {"requested_by": principal.name, "requested_by_kind": principal.kind}
