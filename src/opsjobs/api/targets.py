"""/targets: the machines of the built-in inventory, and how they are tried."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import check, requires
from opsjobs.api.conditions import Idempotent
from opsjobs.api.listing import created, listed, page_of
from opsjobs.model.failures import NotFound
from opsjobs.model.target import Endpoint, TargetDraft
from opsjobs.store.idempotency import Answer
from opsjobs.store.inventory import TARGETS
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["targets"])


async def known(id: str, request: Request) -> None:
    """Raises NotFound before the body is judged."""
    await request.app.state.parts.inventory.get(id)


@router.post("/targets", status_code=201, dependencies=[requires("targets:manage")], summary="Create a target")
async def create(request: Request, draft: TargetDraft, idem: Idempotent) -> Response:
    """Stores a machine; naming a credential needs `credentials:use`, too."""
    _check_credential(request, draft)
    target = await request.app.state.parts.inventory.create(draft, idem)
    return created(request, "" if isinstance(target, Answer) else f"/targets/{target.target.id}", target)


@router.get("/targets", dependencies=[requires("targets:read")], summary="List targets")
async def list_(
    request: Request,
    page: Annotated[PageRequest, page_of(TARGETS, also=["selector"])],
    selector: Annotated[str | None, Query(max_length=4_096, description="Labels, such as `env=prod,role!=db`.")] = None,
) -> Response:
    """By name unless `sort` says otherwise."""
    return listed(request, await request.app.state.parts.inventory.list(page, selector))


@router.get("/targets/{id}", dependencies=[requires("targets:read")], summary="Show a target")
async def show(id: str, request: Request) -> Response:
    """One machine; `credential` and `jump` are names."""
    return JSONResponse((await request.app.state.parts.inventory.get(id)).data())


@router.put("/targets/{id}", dependencies=[requires("targets:manage"), Depends(known)], summary="Replace a target")
async def replace(id: str, request: Request, draft: TargetDraft) -> Response:
    """Changes the whole; its version grows if anything is different."""
    _check_credential(request, draft)
    return JSONResponse((await request.app.state.parts.inventory.replace(id, draft)).data())


@router.delete("/targets/{id}", status_code=204, dependencies=[requires("targets:manage")], summary="Delete a target")
async def delete(id: str, request: Request) -> Response:
    """409 while other targets are reached through it."""
    await request.app.state.parts.inventory.delete(id)
    return Response(status_code=204)


@router.post("/targets/{id}/test", dependencies=[requires("targets:manage")], summary="Try to reach a target")
async def test(id: str, request: Request) -> Response:
    """Connects afresh and logs in; every step with its time. What the machine does is data: the answer is 200 either way."""
    steps = await request.app.state.parts.sessions.test(await _endpoint(id, request))
    shown = [{"name": step.name, "ok": step.ok, "ms": round(step.ms, 1), "error": step.error} for step in steps]
    return JSONResponse({"ok": bool(shown) and all(step["ok"] for step in shown), "steps": shown})


@router.post("/targets/{id}/scan-host-keys", dependencies=[requires("targets:manage")], summary="See a target's host keys")
async def scan_host_keys(id: str, request: Request) -> Response:
    """The keys that the machine shows now, without logging in and without trusting them; 502 where it cannot be reached."""
    keys = await request.app.state.parts.sessions.scan_host_keys(await _endpoint(id, request))
    return JSONResponse({"host_keys": [{"key": key.key, "fingerprint": key.fingerprint} for key in keys]})


async def _endpoint(id: str, request: Request) -> Endpoint:
    inventory = request.app.state.parts.inventory
    target_id: str = (await inventory.get(id)).target.id
    found: dict[str, Endpoint] = await inventory.endpoints([target_id])
    if target_id not in found:
        raise NotFound.of("target", id)
    return found[target_id]


def _check_credential(request: Request, draft: TargetDraft) -> None:
    if draft.credential is not None:
        check(request, "credentials:use")
