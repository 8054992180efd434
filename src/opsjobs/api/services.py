"""The services of the application, as routes and their helpers get them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from opsjobs.api.request import principal_of
from opsjobs.composition.services import Services
from opsjobs.model.access import SEE_EXECUTIONS, Principal
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import Execution


def services_of(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


# Async, like all dependencies of the API: FastAPI runs the others in a thread.
async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]
"""The services of the application, as a parameter of a route."""


async def owner(request: Request) -> Principal:
    """Return the caller as the owner of later launches in its name.

    The grants of an external identity are stored, because no other table has them.
    """
    principal = principal_of(request)
    await services_of(request).identities.remember(None, principal)
    return principal


async def requester(request: Request) -> Identity:
    """Return the caller as the requester of a launch.

    A workflow later launches further jobs in its name.
    """
    return (await owner(request)).identity


async def read_execution(request: Request, ref: str | int) -> Execution:
    """Return an execution as it is now, without checking the caller's scope."""
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    found: Execution = await services_of(request).executions.get(ref, seen)
    return found
