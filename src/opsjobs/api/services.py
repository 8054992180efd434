"""The services of the application, as routes and their helpers get them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from opsjobs.composition.services import Services


def services_of(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


# Async, like all dependencies of the API: FastAPI runs the others in a thread.
async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]
"""The services of the application, as a parameter of a route."""
