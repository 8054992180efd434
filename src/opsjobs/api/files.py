"""/files: uploaded files, which transfers copy to targets; streamed in and out."""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, admit, check_permission, is_caller, reach
from opsjobs.api.dependencies import ExecutionDep, Idempotent, ServicesDep, requires
from opsjobs.api.http import page_of, render_created, render_page
from opsjobs.api.long_lived import Download
from opsjobs.api.problems import Problem
from opsjobs.api.quotas import FileQuota
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.jobs import ArtifactPageOut, FilePageOut, StoredFileOut
from opsjobs.api.schemas.responses import BYTES, CREATED, PAGED
from opsjobs.composition.services import services_of
from opsjobs.model.access import SEE_EXECUTIONS
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.naming import Title
from opsjobs.model.units import describe_size
from opsjobs.store.blobs import Forgotten, TooManyBytes, Written
from opsjobs.store.executions import Ownership
from opsjobs.store.files import ARTIFACTS, FILES, Full, StoredFile
from opsjobs.store.idempotency import IdempotentRequest
from opsjobs.store.paging import PageRequest

SILENCE_SECONDS_MAX = 60

router = APIRouter(tags=["files"])
FileName = Annotated[
    Title,
    Query(
        min_length=1,
        max_length=255,
        pattern=r"^[^/\x00-\x1f\x7f]+$",
        description="The file's name.",
    ),
]
_RAW: dict[str, Any] = {
    "requestBody": {
        "description": "The file's bytes as they are.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


async def load_file(id: str, request: Request) -> StoredFile:
    """Return the file. Raises NotFound.

    Also raises NotFound if the caller's permission is limited to a scope, and someone else uploaded
    the file.
    """
    stored: StoredFile = await services_of(request).files.get(id)
    _admit(request, id, stored)
    return stored


def _admit(request: Request, ref: object, stored: StoredFile) -> None:
    if reach(request) is not None and not is_caller(request, stored.created_by):
        raise NotFound.for_ref("file", ref)


FileDep = Annotated[StoredFile, Depends(load_file)]


@router.post(
    "/files",
    status_code=201,
    dependencies=[requires("jobs:execute", Within.ANYWHERE)],
    summary="Upload a file",
    openapi_extra=_RAW,
    response_model=StoredFileOut,
    responses=CREATED,
)
async def upload(
    request: Request, services: ServicesDep, idem: Idempotent, name: FileName = "file"
) -> Response:
    """Store the body as a file, of any type and at most `OPSJOBS_FILE_LIMIT_BYTES`.

    It is streamed; an upload that breaks off leaves nothing.
    """
    limit = services.limits.file_bytes
    if (refusal := _refusal(request, limit)) is not None:
        return refusal
    quota: FileQuota = request.app.state.file_quota
    files, by = services.files, principal_of(request)
    room = await quota.room(files, by)
    at_most = limit if room is None else min(limit, room)
    pieces = _pieces(request) if room is None else quota.watched(_pieces(request), files, by)
    try:
        written = await services.contents.write(pieces, limit_bytes=at_most, by=by.identity)
        stored = await files.create(
            name,
            written,
            by.identity,
            _with_body_hash(idem, name, written),
            limits=quota.limits,
        )
    except Full:
        raise quota.full(by) from None
    except TooManyBytes:
        if room is not None and room < limit:
            raise quota.too_large(room) from None
        return _too_large(request, limit)
    except TimeoutError:
        detail = f"No bytes arrived for {SILENCE_SECONDS_MAX} seconds. Upload the file again."
        return Problem(request.scope, 408, "body_timeout", detail, headers={"Connection": "close"})
    except Forgotten:
        raise Conflict(
            "upload_forgotten",
            "The upload took too long: its first part was deleted. Upload the file again.",
        ) from None
    except ClientDisconnect:
        return Response(status_code=400)  # the client has disconnected, and reads no response
    return render_created(request, "/files", stored)


@router.get(
    "/files",
    dependencies=[requires("jobs:read", Within.LIST)],
    summary="List files",
    response_model=FilePageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(FILES)]
) -> Response:
    """List files.

    The default order is newest first. Within a scope, only files that the caller
    has uploaded, as files have no labels.
    """
    by = principal_of(request)
    only_of = None if reach(request) is None else by.identity
    return render_page(request, await services.files.list(page, only_of))


@router.get(
    "/files/{id}",
    dependencies=[requires("jobs:read", Within.OBJECT)],
    summary="Get a file",
    response_model=StoredFileOut,
)
async def show(stored: FileDep) -> Response:
    """Return name, size and SHA-256; the bytes are at `/files/{id}/content`."""
    return JSONResponse(stored.data())


@router.get(
    "/files/{id}/content",
    dependencies=[requires("jobs:read", Within.OBJECT)],
    summary="Download a file",
    response_class=Response,
    responses=BYTES,
)
async def content(request: Request, stored: FileDep) -> Response:
    """Return the bytes of the file."""
    return download(request, stored.name, stored, lambda: _admit(request, stored.id, stored))


@router.delete(
    "/files/{id}",
    status_code=204,
    dependencies=[requires("jobs:execute", Within.OBJECT)],
    summary="Delete a file",
)
async def delete(request: Request, services: ServicesDep, stored: FileDep) -> Response:
    """Delete the file; another caller's needs `jobs:update`, too. 409 while it is transferred."""
    if not is_caller(request, stored.created_by):
        check_permission(request, "jobs:update")
    await services.files.delete(stored.id)
    return Response(status_code=204)


def download(request: Request, name: str, stored: Any, still: Callable[[], object]) -> Response:
    """Return a download of stored bytes (`content_id`, `size`, `sha256`).

    Clients save them under this name and never display them. `still` raises if the caller has lost
    the permission.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)
    headers = {
        "Content-Length": str(stored.size),
        "Content-Disposition": (
            f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
        ),
        "ETag": f'"{stored.sha256}"',
    }
    stream = services_of(request).contents.stream(stored.content_id, stored.size)
    return Download(request, stream, still, media_type="application/octet-stream", headers=headers)


def _refusal(request: Request, limit: int) -> Response | None:
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit):
        return _too_large(request, limit)
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        detail = "The body is a form. Send the file itself, as `curl --data-binary @FILE` does."
        return Problem(request.scope, 415, "unsupported_media_type", detail)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        return Problem(
            request.scope,
            415,
            "unsupported_media_type",
            "The body is compressed. Send it uncompressed.",
        )
    return None


def _too_large(request: Request, limit: int) -> Response:
    detail = (
        f"The file is larger than the limit of {describe_size(limit)} "
        "(OPSJOBS_FILE_LIMIT_BYTES). Split it, or have the limit raised."
    )
    return Problem(request.scope, 413, "file_too_large", detail, headers={"Connection": "close"})


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises TimeoutError if it stalls, ClientDisconnect."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        yield piece


def _with_body_hash(
    idem: IdempotentRequest | None, name: str, written: Written
) -> IdempotentRequest | None:
    """Return the idempotent request with the hash of its body, which has been read by now.

    The same key with another file, or another name for it, is a different request.
    """
    return idem and replace(
        idem, body_sha256=hashlib.sha256(written.sha256 + name.encode()).digest()
    )


@router.get(
    "/executions/{id}/artifacts",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="List artifacts",
    response_model=ArtifactPageOut,
    responses=PAGED,
)
async def artifacts(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    page: Annotated[PageRequest, page_of(ARTIFACTS)],
) -> Response:
    """List the files that the execution downloaded, with their paths on the targets, in order."""
    return render_page(request, await services.artifacts.list(execution.id, page))


@router.get(
    "/artifacts/{id}",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Download an artifact",
    response_class=Response,
    responses=BYTES,
)
async def artifact_content(id: str, request: Request, services: ServicesDep) -> Response:
    """Return the bytes of the file."""
    artifact = await services.artifacts.get(id)
    # An unscoped caller needs no labels; if it loses that permission, the download ends.
    owned = (
        Ownership({}, None)
        if reach(request) is None
        else await services.executions.ownership(artifact.execution_id)
    )

    def still() -> None:
        admit(request, "artifact", id, owned.labels, sees=SEE_EXECUTIONS, launcher=owned.launcher)

    still()
    return download(request, posixpath.basename(artifact.path) or "file", artifact, still)
