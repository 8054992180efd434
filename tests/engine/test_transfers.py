"""Transfers as executions: complete or absent, resumed after every kind of break.

A file is read once for many machines.
"""

from __future__ import annotations

import asyncio
import io
import random
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote.script import Gate
from opsjobs.clock import TurnedClock
from opsjobs.engine.runs import run_tools
from opsjobs.engine.runs.run_tools import RunLimits
from opsjobs.engine.runs.upload_source import BLOCK_BYTES, ChunkCache, ContentSlice, list_members
from opsjobs.model.action import FileTransferAction
from opsjobs.model.errors import Invalid, RemoteFailure
from opsjobs.model.execution import ExecutionStatus, RunStatus
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import Execution, Result
from opsjobs.remote.download import FindLimits
from opsjobs.store.files import ArtifactLimits, Artifacts, StoredFile
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def stored(on: Harness, data: bytes, name: str = "app.conf") -> StoredFile:
    async def once() -> AsyncIterator[bytes]:
        yield data

    file = await on.files.create(
        name, await on.contents.write(once(), limit_bytes=1 << 30), Identity("api_key", "ada")
    )
    assert isinstance(file, StoredFile)
    return file


def put(file: StoredFile, to: str = "/etc/app.conf", **fields: Any) -> FileTransferAction:
    body = {
        "type": "file_transfer",
        "key": "put",
        "direction": "upload",
        "source": str(file.id),
        "destination": to,
        **fields,
    }
    return FileTransferAction.model_validate(body)


def get(path: str = "/var/log/*.log", **fields: Any) -> FileTransferAction:
    return FileTransferAction.model_validate(
        {"type": "file_transfer", "key": "get", "direction": "download", "source": path, **fields}
    )


def web(on: Harness, name: str = "web-1") -> Any:
    """Return the files of a machine that has /etc and /var/log."""
    machine = on.machine(name)
    machine.files.folders |= {"/", "/etc", "/var", "/var/log"}
    return machine.files


async def result(on: Harness, execution: Execution) -> Result:
    (found,) = (await on.executions.results(execution, PageRequest())).items
    return found


async def artifacts(on: Harness, execution: Execution) -> dict[str, bytes]:
    items = (await on.artifacts.list(execution.id, PageRequest(limit=200))).items
    return {
        f"{item.target.name}:{item.path}": b"".join(
            [piece async for piece in on.contents.stream(item.content_id, item.size)]
        )
        for item in items
    }


async def test_a_file_comes_to_every_machine(database: Database) -> None:
    async with harness(database) as on:
        data = noise(3 * MIB + 7)
        file = await stored(on, data)
        disks = [web(on, f"web-{n}") for n in range(1, 6)]
        async with on.worker():
            done = await on.ended(
                await on.launch([put(file, mode="0640", owner="app", group="12")], 5)
            )
        assert done.status is ExecutionStatus.COMPLETED
        for disk in disks:
            placed = disk.found["/etc/app.conf"]
            assert (bytes(placed.data), placed.mode, placed.owner, placed.group) == (
                data,
                0o640,
                1001,
                12,
            )
            assert [*disk.found] == ["/etc/app.conf"]
            assert len(disk.synced) == 1
        first = (await on.executions.results(done, PageRequest())).items[0]
        assert (
            first.stdout.head.decode()
            == f"/etc/app.conf: {file.size} bytes, sha256 {file.sha256}\n"
        )
        assert first.exit_code is None


async def test_one_file_to_many_machines_is_read_once(database: Database) -> None:
    async with harness(database) as on:
        file = await stored(on, noise(6 * MIB))
        for n in range(1, 21):
            web(on, f"web-{n}")
        async with on.worker():
            done = await on.ended(await on.launch([put(file)], 20))
            assert on.chunks.reads == 6
        assert done.status is ExecutionStatus.COMPLETED


async def test_into_a_folder_a_file_goes_by_its_own_name(database: Database) -> None:
    async with harness(database) as on:
        file, disk = await stored(on, b"listen 80;\n", "site.conf"), web(on)
        async with on.worker():
            await on.ended(await on.launch([put(file, "/etc")]))
            await on.ended(await on.launch([put(file, "/var/")]))
        assert sorted(disk.found) == ["/etc/site.conf", "/var/site.conf"]


async def test_what_is_there_already_is_not_brought_again(database: Database) -> None:
    async with harness(database) as on:
        data = noise(MIB)
        file, disk = await stored(on, data), web(on).put("/etc/app.conf", data, mode=0o600)
        async with on.worker():
            done = await on.ended(await on.launch([put(file)]))
        assert disk.moved_bytes == 0
        assert (await result(on, done)).stdout.head.endswith(b", was there already\n")


async def test_contact_that_breaks_in_the_middle_is_taken_up_again(database: Database) -> None:
    async with harness(database) as on:
        data = noise(12 * MIB)
        file = await stored(on, data)
        disks = []
        for n in range(1, 4):
            disk, machine, breaks = web(on, f"web-{n}"), on.machine(f"web-{n}"), [4 * MIB, 9 * MIB]

            def at(moved: int, machine: Any = machine, breaks: list[int] = breaks) -> None:
                if breaks and moved >= breaks[0]:
                    breaks.pop(0)
                    machine.cut()
                    asyncio.get_running_loop().call_later(0.05, machine.mend)

            disk.on_bytes = at
            disks.append((disk, breaks))
        async with on.worker():
            done = await on.ended(await on.launch([put(file)], 3), 60)
        assert done.status is ExecutionStatus.COMPLETED
        for disk, breaks in disks:
            assert bytes(disk.found["/etc/app.conf"].data) == data
            assert not breaks
            # After each of the two breaks, it resumes one window before the end of what had
            # arrived.
            assert disk.moved_bytes <= len(data) + 2 * 3 * MIB


async def test_a_killed_workers_transfer_is_gone_on_with_by_its_heir(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        data, gate = noise(8 * MIB), Gate(asyncio.Event())
        file, disk = await stored(on, data), web(on)

        def hold_at(moved: int) -> None:
            if moved >= 6 * MIB:
                disk.gate = gate

        disk.on_bytes = hold_at
        async with on.worker("first"), on.worker("second"):
            execution = await on.launch([put(file)])
            await until(gate.reached.is_set)
            disk.gate, disk.on_bytes, moved = None, None, disk.moved_bytes
            await on.bury("first" if (await on.row(execution))["worker"] == "first" else "second")
            gate.event.set()
            done = await on.ended(execution, 60)
        assert done.status is ExecutionStatus.COMPLETED
        assert bytes(disk.found["/etc/app.conf"].data) == data
        assert [*disk.found] == ["/etc/app.conf"]
        assert disk.moved_bytes - moved <= 6 * MIB


async def test_a_worker_that_stops_leaves_its_transfer_to_the_next_one(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        data, gate = noise(4 * MIB), Gate(asyncio.Event())
        file, disk = await stored(on, data), web(on)
        disk.gate = gate
        async with on.worker("first"):
            execution = await on.launch([put(file)])
            await until(gate.reached.is_set)
        disk.gate = None
        async with on.worker("second"):
            done = await on.ended(execution, 60)
        assert done.status is ExecutionStatus.COMPLETED
        assert bytes(disk.found["/etc/app.conf"].data) == data


async def test_a_cancel_stops_a_transfer_and_leaves_what_was_there(database: Database) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        file, disk = await stored(on, noise(4 * MIB)), web(on).put("/etc/app.conf", b"old")

        def hold_at(moved: int) -> None:
            if moved >= 2 * MIB:
                disk.gate = gate

        disk.on_bytes = hold_at
        async with on.worker():
            execution = await on.launch([put(file)])
            await until(gate.reached.is_set)
            await on.cancel(execution)
            done = await on.ended(execution)
        assert done.status is ExecutionStatus.CANCELLED
        found = await result(on, execution)
        assert (found.status, found.cancel_proof) == (RunStatus.CANCELLED, "killed")
        assert {path: bytes(there.data) for path, there in disk.found.items()} == {
            "/etc/app.conf": b"old"
        }


async def test_a_timeout_stops_a_transfer(database: Database) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        file, disk = await stored(on, noise(MIB)), web(on)
        disk.gate = gate
        async with on.worker():
            done = await on.ended(await on.launch([put(file, timeout="1s")]))
        assert done.status is ExecutionStatus.TIMEOUT
        found = await result(on, done)
        assert found.error is not None
        assert "the action's timeout of 1s has passed" in found.error.message
        assert not disk.found


async def test_contact_that_stays_away_ends_it_when_the_window_is_over(database: Database) -> None:
    async with harness(database) as on:
        file, disk, machine = await stored(on, noise(4 * MIB)), web(on), on.machine("web-1")
        disk.on_bytes = lambda moved: machine.cut() if moved >= MIB else None
        async with on.worker(limits=RunLimits(reattach_seconds=1)):
            done = await on.ended(await on.launch([put(file)]), 60)
        found = await result(on, done)
        assert found.error is not None
        assert (found.status, found.error.code) == (RunStatus.FAILED, "transfer")
        assert "the connection was lost for more than 1s" in found.error.message
        assert "/etc/app.conf" not in disk.found


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("full", "No space left on device"),
        ("nowhere", "cannot write next to"),
        ("diskless", "serves no files: no SFTP here"),
        ("rots", "stored other bytes than were sent, twice"),
        ("stranger", "knows no user or group stranger"),
    ],
)
async def test_what_a_machine_will_not_do_is_a_failure_in_words(
    database: Database, how: str, words: str
) -> None:
    async with harness(database) as on:
        file, disk = await stored(on, noise(MIB)), web(on)
        fields: dict[str, Any] = {}
        match how:
            case "full":
                disk.full_at_bytes = 300_000
            case "nowhere":
                fields["to"] = "/nowhere/app.conf"
            case "diskless":
                on.machine("web-1").diskless = "no SFTP here"
            case "rots":
                disk.rots = 10
            case "stranger":
                fields["owner"] = "stranger"
        async with on.worker():
            done = await on.ended(await on.launch([put(file, **fields)]))
        found = await result(on, done)
        assert found.error is not None
        assert (found.status, found.error.code) == (RunStatus.FAILED, "transfer")
        assert words in found.error.message
        assert not disk.found.keys() & {"/etc/app.conf", "/nowhere/app.conf"}


async def test_a_machine_without_a_program_for_it_is_read_back(database: Database) -> None:
    async with harness(database) as on:
        data = noise(MIB)
        file, disk = await stored(on, data), web(on)
        disk.no_program = True
        async with on.worker():
            await on.ended(await on.launch([put(file)]))
        assert bytes(disk.found["/etc/app.conf"].data) == data
        assert disk.moved_bytes == 2 * len(data)


async def test_a_file_that_was_never_uploaded_is_refused_at_launch(database: Database) -> None:
    async with harness(database) as on:
        file = await stored(on, b"x")
        await on.files.delete(file.id)
        with pytest.raises(Invalid, match="There is no file") as refused:
            await on.launch(["true", put(file)])
        assert refused.value.errors[0].pointer == "/actions/1/source"


async def test_files_come_from_every_machine(database: Database) -> None:
    async with harness(database) as on:
        data = noise(2 * MIB + 3)
        for n in (1, 2):
            web(on, f"web-{n}").put("/var/log/a.log", data).put("/var/log/b.log", b"").put(
                "/var/log/c.txt", b"no"
            )
        async with on.worker():
            done = await on.ended(await on.launch([get()], 2))
        assert done.status is ExecutionStatus.COMPLETED
        assert await artifacts(on, done) == {
            f"web-{n}:/var/log/{name}": content
            for n in (1, 2)
            for name, content in (("a.log", data), ("b.log", b""))
        }
        chunks = await database.fetch_one("select count(*) as n from file_chunks")
        await on.turn(4_000)
        while await on.contents.sweep():
            pass
        assert chunks == {"n": 18}
        assert await database.fetch_one("select count(*) as n from file_chunks") == {"n": 9}


async def test_a_download_goes_on_where_contact_broke(database: Database) -> None:
    async with harness(database) as on:
        data, breaks = noise(8 * MIB), [3 * MIB, 6 * MIB]
        disk, machine = web(on).put("/var/log/a.log", data), on.machine("web-1")

        def at(moved: int) -> None:
            if breaks and moved >= breaks[0]:
                breaks.pop(0)
                machine.cut()
                asyncio.get_running_loop().call_later(0.05, machine.mend)

        disk.on_bytes = at
        async with on.worker():
            done = await on.ended(await on.launch([get()]), 60)
        assert await artifacts(on, done) == {"web-1:/var/log/a.log": data}
        assert disk.moved_bytes <= len(data) + 2 * 3 * MIB


async def test_a_file_that_changed_while_contact_was_away_is_read_from_its_beginning(
    database: Database,
) -> None:
    async with harness(database) as on:
        machine = on.machine("web-1")
        disk = web(on).put("/var/log/a.log", noise(4 * MIB), modified=1)

        def at(moved: int) -> None:
            if moved >= 3 * MIB and disk.found["/var/log/a.log"].modified == 1:
                disk.put("/var/log/a.log", noise(4 * MIB, 2), modified=2)
                machine.cut()
                machine.mend()

        disk.on_bytes = at
        async with on.worker():
            done = await on.ended(await on.launch([get()]), 60)
        # As long as it was when it was found, and all of it from one time.
        assert await artifacts(on, done) == {"web-1:/var/log/a.log": noise(4 * MIB, 2)}


async def test_a_file_that_says_it_is_empty_is_read_to_its_end(database: Database) -> None:
    async with harness(database) as on:
        disk = web(on).put("/var/log/a.log", noise(MIB))
        disk.found["/var/log/a.log"].claims_bytes = 0
        async with on.worker():
            done = await on.ended(await on.launch([get()]))
        assert await artifacts(on, done) == {"web-1:/var/log/a.log": noise(MIB)}


async def test_a_file_that_never_ends_is_not_followed_for_ever(database: Database) -> None:
    async with harness(database) as on:
        on.find_limits = FindLimits(bytes=MIB)
        disk = web(on).put("/var/log/a.log", noise(3 * MIB))
        disk.found["/var/log/a.log"].claims_bytes = 0
        async with on.worker():
            done = await on.ended(await on.launch([get()]))
        found = await result(on, done)
        assert found.error is not None
        assert "OPSJOBS_FILE_LIMIT_BYTES" in found.error.message
        assert await artifacts(on, done) == {}


async def test_names_that_no_text_can_hold_are_spelt_out(database: Database) -> None:
    async with harness(database) as on:
        web(on).put("/var/log/\udcff.log", b"1")
        async with on.worker():
            done = await on.ended(await on.launch([get()]))
        assert await artifacts(on, done) == {"web-1:/var/log/\\xff.log": b"1"}


async def test_nothing_to_download_is_a_failure(database: Database) -> None:
    async with harness(database) as on:
        web(on)
        async with on.worker():
            done = await on.ended(await on.launch([get("/var/log/none")]))
        found = await result(on, done)
        assert found.error is not None
        assert found.error.code == "transfer"


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (ArtifactLimits(caller_bytes=250), "250 bytes (OPSJOBS_ARTIFACTS_PER_CALLER_BYTES)"),
        (ArtifactLimits(caller_artifacts=2), "2 (OPSJOBS_ARTIFACTS_PER_CALLER)"),
    ],
)
async def test_the_artifacts_of_a_caller_are_limited_until_some_are_deleted(
    database: Database, limits: ArtifactLimits, setting: str
) -> None:
    async with harness(database) as on:
        disk = web(on)
        for name in "abc":
            disk.put(f"/var/log/{name}.log", noise(100))
        on.artifacts = Artifacts(database, on.clock, limits=limits)
        async with on.worker():
            first = await on.ended(await on.launch([get()]))
            error = (await result(on, first)).error
            assert error is not None
            assert error.code == "transfer"
            assert "/var/log/c.log was not stored: the artifacts of ada are over" in error.message
            assert setting in error.message
            assert [*await artifacts(on, first)] == ["web-1:/var/log/a.log", "web-1:/var/log/b.log"]
            # Other callers have limits of their own, and deleted artifacts do not count.
            async with database.transaction() as connection:
                await connection.execute("delete from artifacts where path = '/var/log/a.log'")
            second = await on.ended(await on.launch([get("/var/log/a.log")]))
            assert second.status is ExecutionStatus.COMPLETED
        (used,) = await database.fetch(
            "select requested_by, sum(bytes)::int as bytes, sum(artifacts)::int as artifacts "
            "from artifact_usage group by 1"
        )
        assert used == {"requested_by": "ada", "bytes": 200, "artifacts": 2}


async def test_a_download_of_a_caller_without_room_reads_nothing(database: Database) -> None:
    async with harness(database) as on:
        web(on).put("/var/log/a.log", noise(100))
        on.artifacts = Artifacts(database, on.clock, limits=ArtifactLimits(caller_bytes=100))
        async with on.worker():
            first = await on.ended(await on.launch([get()]))
            assert first.status is ExecutionStatus.COMPLETED
            second = await on.ended(await on.launch([get()]))
        error = (await result(on, second)).error
        assert error is not None
        assert error.message.startswith("the artifacts of ada are over the limit of 100 ")


async def test_a_transfer_among_commands_is_one_action_of_several(database: Database) -> None:
    async with harness(database) as on:
        file, disk = await stored(on, b"x"), web(on)
        async with on.worker():
            done = await on.ended(await on.launch(["true", put(file), "true"]))
        assert done.status is ExecutionStatus.COMPLETED
        assert [row["status"] for row in await on.results(done)] == ["succeeded"] * 3
        assert "/etc/app.conf" in disk.found


async def test_a_long_transfer_tells_how_far_it_is(database: Database) -> None:
    clock = TurnedClock()
    async with harness(database, clock) as on:
        gate = Gate(asyncio.Event())
        file, disk = await stored(on, noise(4 * MIB)), web(on)

        def hold_at(moved: int) -> None:
            if moved >= 3 * MIB:
                disk.gate = gate

        disk.on_bytes = hold_at
        async with on.worker():
            execution = await on.launch([put(file)])
            await until(gate.reached.is_set)
            clock.turn(run_tools.PROGRESS_SECONDS)

            async def told() -> bool:
                return b" of 4194304 bytes\n" in await on.output(execution)

            await until(told)
            disk.on_bytes = disk.gate = None
            gate.event.set()
            await on.ended(execution)
        events = await database.fetch(
            "select execution_id from events where type = 'execution.progress'"
        )
        assert events[0] == {"execution_id": execution.id}


def tar(*entries: tuple[str, bytes | None, str], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of files (name, bytes), folders (name, None) and links (name, b"", kind)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, data, kind in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if data is None else 0o640
            info.type = {
                "": tarfile.REGTYPE,
                "link": tarfile.SYMTYPE,
                "hard": tarfile.LNKTYPE,
                "pipe": tarfile.FIFOTYPE,
            }[kind]
            info.type = tarfile.DIRTYPE if data is None else info.type
            info.linkname = "/etc/passwd" if kind else ""
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return packed.getvalue()


def packed(*names: str) -> bytes:
    return tar(*((name, name.encode(), "") for name in names))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
async def test_a_tar_is_unpacked_into_a_folder(database: Database, form: int) -> None:
    async with harness(database) as on:
        large, long = noise(3 * MIB), "deep/" * 20 + "x" * 90
        body = tar(
            ("./", None, ""),
            ("a.conf", b"a", ""),
            ("bin", None, ""),
            ("bin/run", large, ""),
            (long, b"long", ""),
            form=form,
        )
        file, disk = await stored(on, body, "site.tar"), web(on)
        async with on.worker():
            done = await on.ended(await on.launch([put(file, "/etc/site", unpack=True)]))
        assert done.status is ExecutionStatus.COMPLETED, await result(on, done)
        assert {path: bytes(there.data) for path, there in disk.found.items()} == {
            "/etc/site/a.conf": b"a", "/etc/site/bin/run": large, f"/etc/site/{long}": b"long",
        }  # fmt: skip
        assert disk.found["/etc/site/a.conf"].mode == 0o640


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (packed("../x"), "leads outside"),
        (packed("a/../../x"), "leads outside"),
        (packed("/etc/passwd"), "leads outside"),
        (packed("a/" * 40 + "x"), "leads outside"),
        (packed("a", "a/b"), "as a file and as a folder"),
        (packed("a/b", "a"), "as a file and as a folder"),
        (tar(("l", b"", "link")), "neither a file nor a folder"),
        (tar(("l", b"", "hard")), "neither a file nor a folder"),
        (tar(("l", b"", "pipe")), "neither a file nor a folder"),
        (noise(2_000), "is not a tar archive"),
        (tar(("a", noise(100_000), ""))[:50_000], "is truncated"),
        (packed("\0"), "without a name"),
    ],
)
async def test_a_tar_that_would_lead_elsewhere_changes_nothing(
    database: Database, body: bytes, words: str
) -> None:
    async with harness(database) as on:
        file, disk = await stored(on, body, "site.tar"), web(on)
        async with on.worker():
            done = await on.ended(await on.launch([put(file, "/etc/site", unpack=True)]))
        found = await result(on, done)
        assert found.error is not None
        assert found.error.code == "transfer"
        assert words in found.error.message
        assert not disk.found


async def test_random_bytes_are_no_tar_and_no_bug(database: Database) -> None:
    """Yield headers with one byte changed, each at another place.

    They are refused in words, or read as something harmless.
    """
    async with harness(database) as on:
        body = tar(("a" * 120, b"x" * 600, ""), ("b", b"y", ""))
        for seed in range(60):
            drawn = random.Random(seed)
            broken = bytearray(body)
            for _ in range(3):
                broken[drawn.randrange(len(broken))] = drawn.randrange(256)
            file = await stored(on, bytes(broken))
            source = ContentSlice(
                ChunkCache(on.contents), file.content_id, 0, file.size, bytes.fromhex(file.sha256)
            )
            try:
                found = await list_members(source)
            except RemoteFailure:
                continue
            assert all(
                not member.path.startswith("/") and ".." not in member.path.split("/")
                for member in found
            )


async def test_a_slice_is_read_from_any_place_on(database: Database) -> None:
    async with harness(database) as on:
        data = noise(2 * BLOCK_BYTES + 12_345)
        file, chunks = await stored(on, data), ChunkCache(on.contents, kept_bytes=BLOCK_BYTES)
        for start, size in (
            (0, len(data)),
            (1, 5),
            (BLOCK_BYTES - 1, 2),
            (262_143, 300_000),
            (len(data) - 1, 1),
            (77, 0),
        ):
            part = ContentSlice(chunks, file.content_id, start, size, b"")
            for offset in (0, size // 2, size):
                pieces = [piece async for piece in part.pieces(offset)]
                assert b"".join(pieces) == data[start + offset : start + size]
                assert all(len(piece) <= 262_144 for piece in pieces)
