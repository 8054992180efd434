"""/targets: the machines of the built-in inventory: stored, imported, tested, maintained."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import (
    FIELDS,
    Actions,
    Within,
    admitted,
    bounds,
    check_permission,
    reach,
)
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires
from opsjobs.api.http import page_of, render_created, render_page, render_replayed
from opsjobs.api.request import principal_of
from opsjobs.api.resource import Edit, edit, put_and_patch
from opsjobs.api.schemas.executions import TargetPastRunPageOut
from opsjobs.api.schemas.responses import CREATED, PAGED, REPLAYABLE
from opsjobs.api.schemas.targets import (
    CircuitPageOut,
    HostKeyScanOut,
    ImportOut,
    ResetCircuitsOut,
    ShownTargetOut,
    ShownTargetPageOut,
    TargetDetailOut,
    TargetMaintenanceOut,
    TargetOut,
    TargetTestOut,
)
from opsjobs.composition.services import services_of
from opsjobs.engine.credential_scopes import CredentialScopes
from opsjobs.model.api_model import ApiModel, Duration, Moment
from opsjobs.model.errors import NotFound
from opsjobs.model.target import Endpoint, Target, TargetDraft
from opsjobs.model.target_health import TargetHealth
from opsjobs.model.target_import import ImportDraft
from opsjobs.store import audit
from opsjobs.store.circuits import CIRCUITS
from opsjobs.store.idempotency import Answer
from opsjobs.store.inventory import TARGETS, StoredTarget
from opsjobs.store.paging import PageRequest
from opsjobs.store.target_history import TARGET_RUNS

router = APIRouter(tags=["targets"])


class MaintenanceDraft(ApiModel):
    """Body of POST /targets/{id}/maintenance.

    It begins a maintenance `until` a time, for a `duration`, or until further notice; `off` ends
    it.
    """

    until: Moment | None = None
    duration: Duration | None = None
    off: bool = False
    reason: str | None = Field(default=None, min_length=1, max_length=2_000)

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if (self.until is not None) + (self.duration is not None) + self.off > 1:
            raise ValueError(
                "a maintenance ends at a time (until), after a duration, or now (off): send one"
            )
        return self


async def load_target(id: str, request: Request) -> StoredTarget:
    """Return the target. Raises NotFound or Forbidden before the body is checked."""
    found: StoredTarget = await services_of(request).inventory.get(id)
    return admitted(request, "target", id, found, sees="targets:read")


TargetDep = Annotated[StoredTarget, Depends(load_target)]


@router.post(
    "/targets",
    status_code=201,
    dependencies=[requires("targets:manage", Within.BODY)],
    summary="Create a target",
    response_model=TargetOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: TargetDraft, idem: Idempotent
) -> Response:
    """Create a target. Naming a credential or a jump host needs `credentials:use`, too."""
    _check_credential(request, draft)
    target = await services.inventory.create(draft, idem, bounds=bounds(request))
    return render_created(request, "/targets", target)


@router.post(
    "/targets/import",
    dependencies=[requires("targets:manage", Within.BODY)],
    summary="Import targets",
    response_model=ImportOut,
    responses=REPLAYABLE,
)
async def import_(
    request: Request, services: ServicesDep, draft: ImportDraft, idem: Idempotent
) -> Response:
    """Create or update at most 1,000 targets in one transaction.

    The response states for each whether it was created, updated, unchanged, skipped or refused.
    Naming a credential or a jump host, or changing the address of a target that has one, needs
    `credentials:use`, too.
    """
    services.inventory.check_writable("import targets")
    uses_logins = partial(check_permission, request, "credentials:use")
    if any(
        entry.get("credential") is not None or entry.get("jump") is not None
        for entry in draft.entries
    ):
        uses_logins()
    imports = services.imports
    imported = await imports.take_in(draft, idem, bounds=bounds(request), uses_logins=uses_logins)
    return (
        render_replayed(request, imported)
        if isinstance(imported, Answer)
        else JSONResponse(imported.data())
    )


@router.get(
    "/targets",
    dependencies=[requires("targets:read", Within.LIST)],
    summary="List targets",
    response_model=ShownTargetPageOut,
    responses=PAGED,
)
async def list_(
    request: Request,
    services: ServicesDep,
    page: Annotated[PageRequest, page_of(TARGETS, also=["selector"])],
    selector: Annotated[
        str | None, Query(max_length=4_096, description="Labels, such as `env=prod,role!=db`.")
    ] = None,
) -> Response:
    """List targets with their health. The default order is by name."""
    found = await services.inventory.list(page, selector, reach=reach(request))
    health = await services.target_history.load_health(
        [one.target.id for one in found.items], principal_of(request).reach("executions:read")
    )
    return render_page(request, found, lambda one: _render(one, health.get(one.target.id)))


@router.get(
    "/targets/{id}",
    dependencies=[requires("targets:read", Within.OBJECT)],
    summary="Get a target",
    response_model=TargetDetailOut,
)
async def show(request: Request, stored: TargetDep) -> Response:
    """Return the target and its health; `credential` and `jump` are names.

    `health` is computed from runs in executions that the caller may see; its `status` is that of
    the machine, from all runs.

    `can` and `cannot` are what the caller may do: update, test, scan_host_keys, maintain,
    reset_circuits, delete.
    """
    body = await _render_with_health(request, stored)
    return JSONResponse({**body, **await _actions(request, stored)})


async def _actions(request: Request, stored: StoredTarget) -> dict[str, Any]:
    actions = Actions(request, "target", stored.target.id, stored.labels, sees="targets:read")
    for name in ("update", "test", "scan_host_keys", "maintain", "reset_circuits"):
        actions.allow(name, "targets:manage")
    if actions.holds("delete", "targets:manage"):
        with actions.checking("delete"):
            await services_of(request).inventory.check_delete(stored)
    return actions.data()


async def _render_with_health(request: Request, stored: StoredTarget) -> dict[str, Any]:
    health = await services_of(request).target_history.load_health(
        [stored.target.id], principal_of(request).reach("executions:read")
    )
    return _render(stored, health.get(stored.target.id))


def _render(stored: StoredTarget, health: TargetHealth | None) -> dict[str, Any]:
    return {**stored.data(), "health": health.data() if health is not None else None}


@router.get(
    "/targets/{id}/runs",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="List past runs of a target",
    response_model=TargetPastRunPageOut,
    responses=PAGED,
)
async def runs(
    request: Request,
    services: ServicesDep,
    stored: TargetDep,
    page: Annotated[PageRequest, page_of(TARGET_RUNS)],
) -> Response:
    """List the runs on the target in all executions, the newest first.

    Runs of executions that the caller may not see are left out.
    """
    return render_page(
        request, await services.target_history.list_runs(stored.target.id, page, reach(request))
    )


@put_and_patch(
    router,
    "/targets/{id}",
    dependencies=[requires("targets:manage", Within.OBJECT), Depends(load_target)],
    thing="a target",
    response_model=ShownTargetOut,
)
async def replace(
    id: str,
    request: Request,
    services: ServicesDep,
    change: Annotated[
        Edit[TargetDraft], edit(TargetDraft, load_target, volatile=["health", *FIELDS])
    ],
) -> Response:
    """Replace the whole target. Its version grows if anything changes."""
    _check_credential(request, change.draft)
    stored = await services.inventory.replace(
        id, change.draft, bounds=bounds(request), basis=change.basis
    )
    await services.ledger.resize_slots(stored.target.id, stored.target.slots)
    return JSONResponse(await _render_with_health(request, stored))


@router.delete(
    "/targets/{id}",
    status_code=204,
    dependencies=[requires("targets:manage", Within.OBJECT), Depends(load_target)],
    summary="Delete a target",
)
async def delete(id: str, services: ServicesDep) -> Response:
    """Delete the target. 409 while other targets are reached through it."""
    await services.inventory.delete(id)
    return Response(status_code=204)


@router.post(
    "/targets/{id}/test",
    dependencies=[requires("targets:manage", Within.OBJECT)],
    summary="Test a target",
    response_model=TargetTestOut,
)
async def test(request: Request, services: ServicesDep, stored: TargetDep) -> Response:
    """Open a new connection, even if the circuit is open, and return every step with its time.

    200 whether the target can be reached or not.
    """
    endpoint = await _endpoint(request, stored)
    await audit.note(
        services.database, "target.tested", "target", endpoint.target.id, endpoint.target.name
    )
    steps = await services.sessions.test(endpoint)
    shown = [
        {"name": step.name, "ok": step.ok, "ms": round(step.ms, 1), "error": step.error}
        for step in steps
    ]
    return JSONResponse(
        {"ok": bool(steps) and all(step.ok for step in steps if step.needed), "steps": shown}
    )


@router.post(
    "/targets/{id}/scan-host-keys",
    dependencies=[requires("targets:manage", Within.OBJECT)],
    summary="Scan a target's host keys",
    response_model=HostKeyScanOut,
)
async def scan_host_keys(request: Request, services: ServicesDep, stored: TargetDep) -> Response:
    """Return the host keys that the target shows, without logging in or trusting them.

    424 if it cannot be reached.
    """
    endpoint = await _endpoint(request, stored)
    await audit.note(
        services.database, "target.scanned", "target", endpoint.target.id, endpoint.target.name
    )
    keys = await services.sessions.scan_host_keys(endpoint)
    return JSONResponse(
        {"host_keys": [{"key": key.key, "fingerprint": key.fingerprint} for key in keys]}
    )


@router.get(
    "/targets/{id}/maintenance",
    dependencies=[requires("targets:read", Within.OBJECT)],
    summary="Get a target's maintenance",
    response_model=TargetMaintenanceOut,
)
async def maintenance(request: Request, stored: TargetDep) -> Response:
    """Return its end, reason and author; `maintenance` is null if there is none."""
    return await _maintenance(request, stored.target)


@router.post(
    "/targets/{id}/maintenance",
    dependencies=[requires("targets:manage", Within.OBJECT), Depends(load_target)],
    summary="Begin or end a target's maintenance",
    response_model=TargetMaintenanceOut,
)
async def maintain(
    request: Request, services: ServicesDep, stored: TargetDep, draft: MaintenanceDraft
) -> Response:
    """Hold the target's runs until the maintenance ends. Running ones continue."""
    target = stored.target
    if draft.off:
        await services.ledger.release_target(target.id)
    else:
        by = principal_of(request).name
        await services.ledger.hold_target(
            target.id,
            target.slots,
            until=draft.until,
            seconds=draft.duration,
            reason=draft.reason,
            by=by,
        )
    return await _maintenance(request, target)


async def _maintenance(request: Request, target: Target) -> Response:
    maintenance = (await services_of(request).ledger.load_maintenances([target.id])).get(target.id)
    shown = {"id": target.id, "name": target.name, "host": target.host}
    return JSONResponse(
        {"target": shown, "maintenance": maintenance.data() if maintenance is not None else None}
    )


async def _endpoint(request: Request, stored: StoredTarget) -> Endpoint:
    target_id = stored.target.id
    services = services_of(request)
    found: dict[str, Endpoint] = await services.inventory.endpoints([target_id])
    if target_id not in found:
        raise NotFound.for_ref("target", target_id)
    scopes = await CredentialScopes.load(services.vault, found.values(), {})
    return scopes.apply_to_endpoint(found[target_id], None)


def _check_credential(request: Request, draft: TargetDraft) -> None:
    # The login to a jump host uses the credential of the jump host.
    if draft.credential is not None or draft.jump is not None:
        check_permission(request, "credentials:use")


async def load_target_id(target: str, request: Request) -> str:
    """Return the target's id. Raises NotFound or Forbidden before the body is checked."""
    stored: StoredTarget = await services_of(request).inventory.get(target)
    return admitted(request, "target", target, stored, sees="targets:read").target.id


@router.get(
    "/circuits",
    dependencies=[requires("system:read", Within.LIST)],
    summary="List circuits",
    response_model=CircuitPageOut,
    responses=PAGED,
)
async def list_circuits(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(CIRCUITS)]
) -> Response:
    """List circuits that are not closed, the newest first; `state=closed` lists the others.

    A circuit whose pause is over is `half_open`.
    """
    return render_page(request, await services.circuits.list(page, reach(request)))


@router.post(
    "/circuits/{target}/reset",
    dependencies=[requires("targets:manage", Within.OBJECT)],
    summary="Reset a target's circuits",
    response_model=ResetCircuitsOut,
)
async def reset_circuits(
    services: ServicesDep, target_id: Annotated[str, Depends(load_target_id)]
) -> Response:
    """Close the circuits of the target, and return those that were not closed.

    The next run tries the login again, alone at first.
    """
    found = await services.circuits.reset(target_id)
    return JSONResponse({"items": [circuit.data() for circuit in found]})
