"""/credentials: logins of machines and secrets of jobs. /keys: what encrypts them.

No answer shows a secret.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import FIELDS, Actions
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires
from opsjobs.api.http import IfMatchOrAny, render_created, render_replayed, tag
from opsjobs.api.resource import Edit, Resource, edit, put_and_patch
from opsjobs.api.schemas.credentials import (
    CredentialDetailOut,
    CredentialOut,
    CredentialPageOut,
    CredentialTestOut,
    CredentialUsageOut,
    KeyListOut,
    KeyRotationOut,
)
from opsjobs.api.schemas.responses import CREATED, REPLAYABLE_VERSION
from opsjobs.composition.services import services_of
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.credential_draft import BoundTo, CredentialDraft, RotationDraft
from opsjobs.model.errors import NotFound
from opsjobs.remote.credential_test import run_credential_test
from opsjobs.store.idempotency import Answer
from opsjobs.store.vault.rows import CREDENTIALS, StoredCredential, check_rotatable

router = APIRouter(tags=["credentials"])
resource = Resource[StoredCredential](
    router=router,
    path="/credentials",
    one="a credential",
    many="credentials",
    store=lambda services: services.vault,
    listing=CREDENTIALS,
    reads=requires("credentials:use"),
    manages=requires("credentials:manage"),
    item_model=CredentialOut,
    page_model=CredentialPageOut,
)
resource.add_list("List credentials without their secrets.")
resource.add_delete("Delete the credential. 409 while targets or actions of jobs use it.")
keys_router = APIRouter(tags=["keys"])


def _as_written(
    stored: StoredCredential, base: dict[str, Any], body: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields that a PATCH is merged onto.

    The binding stays unless the body contains it. For Kerberos the login name is the principal.
    """
    kept = {name: value for name, value in base.items() if name != "bound_to" or "bound_to" in body}
    if stored.type is CredentialType.KERBEROS:
        kept["principal"] = kept.pop("username", None)
    return kept


async def _secrets(
    request: Request, stored: StoredCredential, body: dict[str, Any]
) -> dict[str, str]:
    """Return the secrets that a PATCH keeps.

    It keeps none for another type or source. With a new private key, the old passphrase and
    certificate are dropped.
    """
    if body.get("type", stored.type.value) != stored.type.value or body.get("source") is not None:
        return {}
    held: dict[str, str] = await services_of(request).vault.secrets(str(stored.id))
    replaced = {"passphrase", "certificate"} if "private_key" in body else set()
    return {name: part for name, part in held.items() if name not in replaced}


Changed = Annotated[
    Edit[CredentialDraft],
    edit(
        CredentialDraft,
        resource.load,
        volatile=["last_used_at", *FIELDS],
        adapt=_as_written,
        hidden=_secrets,
    ),
]


@router.post(
    "/credentials",
    status_code=201,
    dependencies=[requires("credentials:manage")],
    summary="Create a credential",
    response_model=CredentialOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: CredentialDraft, idem: Idempotent
) -> Response:
    """Seal and store the credential. A key that its passphrase does not open is refused."""
    credential = await services.vault.create(draft, idem)
    return render_created(request, "/credentials", credential)


@router.get(
    "/credentials/{id}",
    dependencies=[requires("credentials:use")],
    summary="Get a credential",
    response_model=CredentialDetailOut,
)
async def show(id: str, request: Request, services: ServicesDep) -> Response:
    """Return the credential without its secrets.

    `can` and `cannot` are what the caller may do: update, rotate, test, bind, delete.
    """
    stored: StoredCredential = await services.vault.get(id)
    actions = Actions(request, "credential", stored.id, None, sees="credentials:use")
    for name in ("update", "test", "bind"):
        actions.allow(name, "credentials:manage")
    if actions.holds("rotate", "credentials:manage"):
        with actions.checking("rotate"):
            check_rotatable(stored.name, stored.type, stored.source)
    if actions.holds("delete", "credentials:manage"):
        with actions.checking("delete"):
            await services.vault.check_delete(stored)
    return JSONResponse({**stored.data(), **actions.data()})


@put_and_patch(
    router,
    "/credentials/{id}",
    dependencies=[requires("credentials:manage"), Depends(resource.load)],
    thing="a credential",
    response_model=CredentialOut,
)
async def replace(id: str, services: ServicesDep, change: Changed) -> Response:
    """Replace the credential, secrets included; PATCH keeps the secrets that it does not name.

    New sessions use it, open ones continue.
    """
    return JSONResponse((await services.vault.replace(id, change.draft, basis=change.basis)).data())


@router.post(
    "/credentials/{id}/rotate",
    dependencies=[requires("credentials:manage"), Depends(resource.load)],
    summary="Rotate a credential",
    response_model=CredentialOut,
    responses=REPLAYABLE_VERSION,
)
async def rotate(
    *,
    id: str,
    request: Request,
    services: ServicesDep,
    draft: RotationDraft,
    if_match: IfMatchOrAny,
    idem: Idempotent,
) -> Response:
    """Replace the secrets of the same login.

    Runs use them from now on, and the login's circuits are closed.
    """
    rotated = await services.vault.rotate(id, draft, if_match, idem)
    if isinstance(rotated, Answer):
        return render_replayed(request, rotated, etag=True)
    return JSONResponse(rotated.data(), headers={"ETag": tag(rotated.version)})


@router.post(
    "/credentials/{id}/test",
    dependencies=[requires("credentials:manage")],
    summary="Test a credential",
    response_model=CredentialTestOut,
)
async def test(id: str, services: ServicesDep) -> Response:
    """Return whether the secrets can be read and used now, without showing them.

    200 either way; recorded in the audit log.
    """
    credential: StoredCredential = await services.vault.get(id)
    opened: dict[str, Credential] = await services.vault.open_many([str(credential.id)])
    if str(credential.id) not in opened:
        raise NotFound.for_ref("credential", id)
    result = (
        await run_credential_test(opened[str(credential.id)], services.external_secrets.fetch)
    ).data()
    await services.vault.tested(credential, result)
    return JSONResponse(result)


@router.put(
    "/credentials/{id}/bound-to",
    dependencies=[requires("credentials:manage"), Depends(resource.load)],
    summary="Bind a credential",
    response_model=CredentialOut,
)
async def bind(id: str, services: ServicesDep, bound_to: BoundTo) -> Response:
    """Restrict the credential to these targets, groups and jobs. Empty lists: no restriction."""
    return JSONResponse((await services.vault.bind(id, bound_to)).data())


@router.get(
    "/credentials/{id}/usage",
    dependencies=[requires("credentials:manage")],
    summary="List uses of a credential",
    response_model=CredentialUsageOut,
)
async def usage(id: str, services: ServicesDep) -> Response:
    """Return the targets that log in with it, and the jobs whose actions name it."""
    return JSONResponse((await services.vault.usage(id)).data())


ROTATION_SECONDS = 2.0
"""Time limit of one request, so that the response arrives in time and shows the progress."""


@keys_router.get(
    "/keys",
    dependencies=[requires("system:admin")],
    summary="List encryption keys",
    response_model=KeyListOut,
)
async def list_keys(services: ServicesDep) -> Response:
    """Return each key's id, whether it is current or removable, and how much it seals."""
    states = await services.keys.states()
    return JSONResponse({"items": [state.data() for state in states], "next": None})


@keys_router.post(
    "/keys/rotate",
    dependencies=[requires("system:admin")],
    summary="Rotate encryption keys",
    response_model=KeyRotationOut,
)
async def rotate_keys(services: ServicesDep) -> Response:
    """Re-seal rows under the current key, for up to 2 seconds. Repeat until `done`."""
    return JSONResponse((await services.keys.rotate(ROTATION_SECONDS)).data())
