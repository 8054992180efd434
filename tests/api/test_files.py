"""/files and /artifacts: bytes streamed in both directions, limits, harmless names."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from kit.ledger_fixtures import Owner, launch, machines
from opsjobs.store.blobs import Contents
from opsjobs.store.files import Artifacts
from opsjobs.store.transaction import Database

MIB = 1 << 20
RAW = {"Content-Type": "application/octet-stream"}


def noise(size: int) -> bytes:
    return random.Random(7).randbytes(size)


async def upload(
    ada: ApiClient, data: bytes, name: str = "app.conf", **headers: str
) -> dict[str, Any]:
    answer = await ada.http.post(
        "/files", params={"name": name}, content=data, headers={**RAW, **headers}
    )
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/files/{body['id']}"
    return body


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 11])
async def test_a_file_comes_back_as_it_was_sent(database: Database, size: int) -> None:
    async with api_client(database) as ada:
        data = noise(size)
        stored = await upload(ada, data)
        assert (stored["name"], stored["size"], stored["sha256"]) == (
            "app.conf",
            size,
            hashlib.sha256(data).hexdigest(),
        )
        assert stored["created_by"] == "ada"
        for ref in (stored["id"], stored["uuid"]):
            assert (await ada.http.get(f"/files/{ref}")).json() == stored
        got = await ada.http.get(f"/api/v1/files/{stored['id']}/content")
        assert got.content == data
        assert got.headers["content-length"] == str(size)
        assert (
            got.headers["content-disposition"]
            == "attachment; filename=\"app.conf\"; filename*=UTF-8''app.conf"
        )
        assert (got.headers["content-type"], got.headers["x-content-type-options"]) == (
            "application/octet-stream",
            "nosniff",
        )


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-www-form-urlencoded", "text/html", ""]
)
async def test_the_body_is_the_file_whatever_its_content_type(
    database: Database, kind: str
) -> None:
    async with api_client(database) as ada:
        data = b'{"not": json, \x00\xff'
        stored = (
            await ada.http.post(
                "/files?name=x", content=data, headers={"Content-Type": kind} if kind else {}
            )
        ).json()
        assert (await ada.http.get(f"/files/{stored['id']}/content")).content == data


async def test_an_upload_without_content_length_is_accepted(database: Database) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield noise(MIB)

    async with api_client(database) as ada:
        answer = await ada.http.post("/files", content=pieces())
        assert answer.json()["size"] == 5 * MIB
        assert answer.json()["name"] == "file"


async def test_a_file_over_the_limit_is_refused_by_content_length_and_by_its_bytes(
    database: Database,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield noise(MIB)
        yield b"1"

    async with api_client(database, file_bytes=MIB) as ada:
        await upload(ada, noise(MIB))
        detail = problem(
            await ada.http.post("/files", content=noise(MIB + 1)), 413, "file_too_large"
        )["detail"]
        assert "OPSJOBS_FILE_LIMIT_BYTES" in detail
        problem(await ada.http.post("/files", content=pieces()), 413, "file_too_large")


async def test_a_multipart_form_is_refused_as_a_file(database: Database) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/files", files={"file": b"data"})
        assert "--data-binary" in problem(answer, 415, "unsupported_media_type")["detail"]


@pytest.mark.parametrize("name", ["a/b", "../x", "a\x00b", "a\nb", "", "x" * 256])
async def test_an_invalid_file_name_is_refused(database: Database, name: str) -> None:
    async with api_client(database) as ada:
        problem(await ada.http.post("/files", params={"name": name}, content=b"x"), 422, "invalid")


async def test_a_file_name_cannot_inject_into_content_disposition(database: Database) -> None:
    async with api_client(database) as ada:
        stored = await upload(ada, b"x", 'a"; filename=evil ü.sh')
        got = await ada.http.get(f"/files/{stored['id']}/content")
        assert got.headers["content-disposition"] == (
            "attachment; filename=\"a__ filename_evil _.sh\"; filename*=UTF-8''a%22%3B%20filename%3Devil%20%C3%BC.sh"
        )


async def test_an_upload_with_an_idempotency_key_is_stored_once(database: Database) -> None:
    async with api_client(database) as ada:
        first = await upload(ada, b"one", **{"Idempotency-Key": "k"})
        again = await ada.http.post(
            "/files?name=app.conf", content=b"one", headers={"Idempotency-Key": "k"}
        )
        assert (again.json(), again.headers["idempotency-replayed"]) == (first, "true")
        for name, data in (("app.conf", b"two"), ("other", b"one")):
            answer = await ada.http.post(
                f"/files?name={name}", content=data, headers={"Idempotency-Key": "k"}
            )
            problem(answer, 422, "idempotency_mismatch")
        assert len((await ada.http.get("/files")).json()["items"]) == 1


async def test_files_are_listed_and_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        for n in range(3):
            await upload(ada, str(n).encode(), f"{n}.conf")
        items = (await ada.http.get("/files", params={"sort": "id"})).json()["items"]
        assert [item["name"] for item in items] == ["0.conf", "1.conf", "2.conf"]
        assert (await ada.http.delete(f"/files/{items[0]['id']}")).status_code == 204
        problem(await ada.http.get(f"/files/{items[0]['id']}"), 404, "file_not_found")
        problem(await ada.http.delete(f"/files/{items[0]['id']}"), 404, "file_not_found")


async def test_upload_and_delete_require_permissions(database: Database) -> None:
    async with api_client(database) as ada:
        viewer, operator, developer = [
            await ada.token_of(role) for role in ("viewer", "operator", "developer")
        ]
        problem(await ada.http.post("/files", content=b"x", headers=viewer), 403, "forbidden")
        mine = (await ada.http.post("/files", content=b"x", headers=operator)).json()
        adas = await upload(ada, b"y")
        assert (await ada.http.get(f"/files/{adas['id']}/content", headers=viewer)).content == b"y"
        problem(await ada.http.delete(f"/files/{mine['id']}", headers=viewer), 403, "forbidden")
        problem(await ada.http.delete(f"/files/{adas['id']}", headers=operator), 403, "forbidden")
        assert (await ada.http.delete(f"/files/{mine['id']}", headers=operator)).status_code == 204
        assert (await ada.http.delete(f"/files/{adas['id']}", headers=developer)).status_code == 204


async def test_an_aborted_upload_leaves_nothing(database: Database) -> None:
    """Over ASGI itself: a client that disconnects in the middle."""
    async with api_client(database) as ada:
        sent: list[Any] = []
        come = iter(
            [
                {"type": "http.request", "body": noise(3 * MIB), "more_body": True},
                {"type": "http.disconnect"},
            ]
        )

        async def receive() -> Any:
            return next(come)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/files", "raw_path": b"/files", "query_string": b"name=x", "root_path": "",
            "headers": [(b"authorization", f"Bearer {ada.token}".encode())], "scheme": "http", "server": ("x", 1), "extensions": {},
            "http_version": "1.1", "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await ada.http._transport.app(scope, receive, send)  # type: ignore[attr-defined]
        assert (await ada.http.get("/files")).json()["items"] == []


async def artifact(database: Database, path: str, data: bytes) -> int:
    """Store one artifact of a new execution; return the execution's id."""

    async def once() -> AsyncIterator[bytes]:
        yield data
        await asyncio.sleep(0)

    execution = await launch(database, machines(1))
    owner = await Owner(database).register()
    run = (await owner.claim()).runs[0]
    written = await Contents(database).write(once(), limit_bytes=MIB)
    assert await Artifacts(database).record(
        run.id, run.fence, action="get", attempt=1, path=path, written=written
    )
    return execution.id


async def test_artifacts_are_listed_and_downloaded_unchanged(database: Database) -> None:
    async with api_client(database) as ada:
        execution = await artifact(database, "/var/log/../../evil\n.sh", b"\x00log")
        listed = (await ada.http.get(f"/executions/{execution}/artifacts")).json()
        (item,) = listed["items"]
        assert {k: item[k] for k in ("path", "size", "action_key", "attempt")} == {
            "path": "/var/log/../../evil\n.sh", "size": 4, "action_key": "get", "attempt": 1,
        }  # fmt: skip
        assert item["target"]["name"] == "web-1"
        got = await ada.http.get(f"/artifacts/{item['uuid']}")
        assert got.content == b"\x00log"
        assert (
            got.headers["content-disposition"]
            == "attachment; filename=\"evil_.sh\"; filename*=UTF-8''evil%0A.sh"
        )
        assert got.headers["x-content-type-options"] == "nosniff"
        assert (await ada.http.get(f"/executions/{execution}/artifacts?target=2")).json()[
            "items"
        ] == []
        problem(await ada.http.get("/artifacts/999"), 404, "artifact_not_found")
        problem(await ada.http.get("/executions/999/artifacts"), 404, "execution_not_found")
