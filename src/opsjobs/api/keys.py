"""/keys: which of ENCRYPTION_KEYS encrypt which data, and rotation to the current key."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import requires
from opsjobs.api.dependencies import ServicesDep
from opsjobs.api.schemas.credentials import KeyListOut, KeyRotationOut

router = APIRouter(tags=["keys"])

STRETCH_SECONDS = 2.0
"""One request's work: an answer comes in time, and shows how far it is."""


@router.get(
    "/keys",
    dependencies=[requires("system:admin")],
    summary="List encryption keys",
    response_model=KeyListOut,
)
async def list_(services: ServicesDep) -> Response:
    """Return each key's id, whether it is current or removable, and how much it seals."""
    states = await services.keys.states()
    return JSONResponse({"items": [state.data() for state in states], "next": None})


@router.post(
    "/keys/rotate",
    dependencies=[requires("system:admin")],
    summary="Rotate encryption keys",
    response_model=KeyRotationOut,
)
async def rotate(services: ServicesDep) -> Response:
    """Re-seal rows under the current key, for up to 2 seconds. Repeat until `done`."""
    return JSONResponse((await services.keys.rotate(STRETCH_SECONDS)).data())
