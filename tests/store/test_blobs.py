"""Contents of files and artifacts: stored once, in bounded pieces, removed if unused."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from kit.ledger_fixtures import Owner, launch, machines
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.identity import Identity
from opsjobs.store import blobs
from opsjobs.store.blobs import CHUNK_BYTES, Contents, Forgotten, TooManyBytes, Written
from opsjobs.store.files import Artifacts, Files, StoredFile
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database

MIB = 1 << 20
ADA = Identity("api_key", "ada")


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def cut(data: bytes, sizes: Sequence[int]) -> AsyncIterator[bytes]:
    """Return the bytes in pieces of these sizes, repeatedly."""
    at = 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        yield data[at : at + size]
        at += size


async def write(database: Database, data: bytes, *, limit: int = 1 << 30) -> Written:
    return await Contents(database).write(cut(data, [100_000]), limit_bytes=limit)


async def upload(database: Database, data: bytes, name: str = "app.conf") -> StoredFile:
    stored = await Files(database).create(name, await write(database, data), ADA)
    assert isinstance(stored, StoredFile)
    return stored


async def whole(database: Database, stored: StoredFile) -> bytes:
    return b"".join(
        [piece async for piece in Contents(database).stream(stored.content_id, stored.size)]
    )


async def rows(database: Database) -> tuple[int, int]:
    """Return the numbers of contents and chunks."""
    row = await database.fetch_one(
        "select (select count(*) from file_contents) c, (select count(*) from file_chunks) k"
    )
    assert row is not None
    return row["c"], row["k"]


async def turn(database: Database, hours: float) -> None:
    await database.fetch(
        "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning 1",
        [hours * 3600],
    )


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * MIB + 17]
)
async def test_what_was_written_is_read_again(database: Database, size: int) -> None:
    data = noise(size)
    stored = await upload(database, data)
    assert (stored.size, stored.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert await whole(database, stored) == data
    assert (await rows(database))[1] == -(-size // CHUNK_BYTES)


async def test_pieces_of_any_size_become_chunks_of_256_kib(database: Database) -> None:
    data = noise(3 * MIB + 5)
    await Contents(database).write(cut(data, [1, 700_001, CHUNK_BYTES, 4095]), limit_bytes=1 << 30)
    found = await database.fetch("select octet_length(data) as size from file_chunks order by n")
    assert [row["size"] for row in found] == [CHUNK_BYTES] * 12 + [5]


async def test_chunks_are_kept_as_they_are(database: Database) -> None:
    """Compressing compressed data would cost more than writing it."""
    row = await database.fetch_one(
        "select attstorage::text as how from pg_attribute where attrelid = 'file_chunks'::regclass "
        "and attname = 'data'"
    )
    assert row == {"how": "e"}


async def test_the_same_bytes_are_kept_once(database: Database) -> None:
    data = noise(MIB)
    first, second = await upload(database, data, "a"), await upload(database, data, "b")
    assert first.content_id == second.content_id
    await Contents(database).sweep()
    assert await rows(database) == (1, 4)
    assert await whole(database, second) == data


async def test_the_same_bytes_written_at_the_same_time_are_kept_once(database: Database) -> None:
    data = noise(MIB)
    stored = await asyncio.gather(*(upload(database, data, str(n)) for n in range(6)))
    assert len({file.content_id for file in stored}) == 1
    while await Contents(database).sweep():
        pass
    assert await rows(database) == (1, 4)


async def test_more_bytes_than_allowed_are_refused(database: Database) -> None:
    with pytest.raises(TooManyBytes):
        await write(database, noise(MIB), limit=MIB - 1)
    assert await write(database, noise(MIB), limit=MIB)


async def test_an_upload_that_broke_off_is_swept_at_once(database: Database) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield noise(3 * MIB)
        while (await rows(database))[1] == 0:
            await asyncio.sleep(0)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Contents(database).write(broken(), limit_bytes=1 << 30)
    assert await Contents(database).sweep() == 1
    assert await rows(database) == (0, 0)


async def test_an_upload_that_still_comes_is_not_swept(database: Database) -> None:
    data = noise(12 * MIB)

    async def slow() -> AsyncIterator[bytes]:
        for at in range(0, len(data), MIB):
            await turn(database, 0.3)
            assert await Contents(database).sweep() == 0
            yield data[at : at + MIB]

    written = await Contents(database).write(slow(), limit_bytes=1 << 30)
    stored = await Files(database).create("slow", written, ADA)
    assert isinstance(stored, StoredFile)
    assert await whole(database, stored) == data


async def test_an_upload_that_was_swept_says_so(database: Database) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield noise(3 * MIB)
        while (await rows(database))[1] == 0:
            await asyncio.sleep(0)
        await turn(database, 1.1)
        assert await Contents(database).sweep() == 1
        yield noise(3 * MIB)

    with pytest.raises(Forgotten):
        await Contents(database).write(stalled(), limit_bytes=1 << 30)


async def test_a_deleted_files_bytes_go_an_hour_later_unless_another_has_them(
    database: Database,
) -> None:
    data = noise(MIB)
    first, second = await upload(database, data), await upload(database, data)
    assert (
        await Contents(database).sweep() == 1
    )  # the chunks of the second upload, which turned out to be the same content
    await Files(database).delete(first.id)
    await turn(database, 1.1)
    assert await Contents(database).sweep() == 0
    assert await whole(database, second) == data
    await Files(database).delete(second.uuid)
    await turn(database, 1.1)
    assert await Contents(database).sweep() == 1
    assert await rows(database) == (0, 0)


async def test_a_sweep_does_not_take_what_is_named_in_that_moment(database: Database) -> None:
    """The sweep has found unused content; meanwhile an upload of the same bytes refers to it."""
    data = noise(MIB)
    first = await upload(database, data)
    await Files(database).delete(first.id)
    await turn(database, 1.1)
    again = await write(database, data)
    async with database.transaction() as naming:
        await blobs.seal(naming, again)
        assert (
            await Contents(database).sweep() == 0
        )  # the row is locked: it is left to the next round
        await naming.execute(
            "insert into files (uuid, name, content_id, created_by) values (gen_random_uuid(), "
            "'x', %s, 'ada')",
            [first.content_id],
        )
    await Contents(database).sweep()
    assert b"".join(await Contents(database).read(first.content_id, 0)) == data


async def test_a_large_content_is_swept_in_portions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "SWEEP_CHUNKS", 3)
    await write(database, noise(2 * MIB))
    await turn(database, 1.1)
    assert await Contents(database).sweep() == 1
    assert await rows(database) == (0, 0)


async def test_a_file_is_found_by_id_and_uuid_and_listed(database: Database) -> None:
    stored = await upload(database, b"one", "a.conf")
    await upload(database, b"two", "b.conf")
    files = Files(database)
    assert await files.get(stored.id) == await files.get(stored.uuid) == stored
    page = await files.list(PageRequest(filters={"name": ["a.conf"]}))
    assert [file.id for file in page.items] == [stored.id]
    with pytest.raises(NotFound):
        await files.get(10_000)


async def test_an_upload_with_the_same_key_is_answered_and_not_done_again(
    database: Database,
) -> None:
    files, data = Files(database), b"listen 80;\n"
    request = IdempotentRequest("ada", "POST /files", "key-1", hashlib.sha256(data).digest())
    first = await files.create("a", await write(database, data), ADA, request)
    assert isinstance(first, StoredFile)
    again = await files.create("a", await write(database, data), ADA, request)
    assert isinstance(again, Answer)
    assert again.body["id"] == first.id


async def use(database: Database, stored: StoredFile) -> None:
    execution = await launch(database, machines(1))
    await database.fetch(
        """update execution_specs set actions = jsonb_build_array(
          jsonb_build_object('key', 'put', 'type', 'file_transfer', 'direction', 'upload', 'source',
            %s::text))
        where execution_id = %s returning 1""",
        [stored.uuid, execution.id],
    )


async def test_a_file_that_is_on_its_way_is_not_deleted(database: Database) -> None:
    stored = await upload(database, b"one")
    await use(database, stored)
    with pytest.raises(Conflict, match="has not ended"):
        await Files(database).delete(stored.id)


async def test_an_artifact_is_recorded_once_and_only_by_the_owner_of_the_run(
    database: Database,
) -> None:
    execution = await launch(database, machines(1))
    owner = await Owner(database).register()
    run = (await owner.claim()).runs[0]
    artifacts = Artifacts(database)
    of = {"action": "get", "attempt": 1, "path": "/var/log/" + "x" * 3_000}
    assert await artifacts.record(run.id, run.fence, **of, written=await write(database, b"one"))
    assert await artifacts.record(
        run.id, run.fence, **of, written=await write(database, b"two, later")
    )
    assert not await artifacts.record(
        run.id, run.fence - 1, **of, written=await write(database, b"stale")
    )
    (found,) = (await artifacts.list(execution.id, PageRequest())).items
    assert (found.target.name, found.path, found.size) == ("web-1", of["path"], 10)
    assert await artifacts.get(found.uuid) == found
    data = [piece async for piece in Contents(database).stream(found.content_id, found.size)]
    assert data == [b"two, later"]


async def test_artifacts_go_with_their_execution(database: Database) -> None:
    execution = await launch(database, machines(1))
    owner = await Owner(database).register()
    run = (await owner.claim()).runs[0]
    written = await write(database, noise(MIB))
    assert await Artifacts(database).record(
        run.id, run.fence, action="get", attempt=1, path="/a", written=written
    )
    await database.fetch("delete from job_executions where id = %s returning 1", [execution.id])
    await turn(database, 1.1)
    assert await Contents(database).sweep() == 1
    assert await rows(database) == (0, 0)
