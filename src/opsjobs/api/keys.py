"""/keys: what is sealed under which of ENCRYPTION_KEYS, and its rotation to the current one."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import requires
from opsjobs.api.dependencies import ServicesDep
from opsjobs.api.schemas.credentials import KeyListOut, KeyRotationOut

router = APIRouter(tags=["keys"])

STRETCH_SECONDS = 2.0
"""One request's work: an answer comes in time, and shows how far it is."""


@router.get("/keys", dependencies=[requires("system:admin")], summary="List the encryption keys", response_model=KeyListOut)
async def list_(services: ServicesDep) -> Response:
    """By their ids: which is current, how much is sealed under each, which may be removed."""
    states = await services.keys.states()
    return JSONResponse({"items": [state.data() for state in states], "next": None})


@router.post(
    "/keys/rotate", dependencies=[requires("system:admin")], summary="Rotate the encryption keys", response_model=KeyRotationOut
)
async def rotate(services: ServicesDep) -> Response:
    """Seals what is under older keys under the current one, for up to 2 seconds: repeat it until `done`."""
    return JSONResponse((await services.keys.rotate(STRETCH_SECONDS)).data())
