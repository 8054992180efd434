"""The lab's machines behave like sshd for one command, and only listen on loopback."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from contract.durable_machines import alive
from kit.ports import free_port
from opsjobs.standalone.lab.folder import LabFolder, LabRecord, Machine, machine_names
from opsjobs.standalone.lab.machines import Lab

ALL_BYTES = bytes(range(256)) * 4_000
SECONDS = 60.0


@asynccontextmanager
async def lab(folder: Path, count: int = 2) -> AsyncIterator[LabRecord]:
    found = Lab(folder, count)
    try:
        yield await found.start()
    finally:
        await found.stop()


@asynccontextmanager
async def login(
    folder: Path, record: LabRecord, machine: Machine, **chosen: object
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    known = asyncssh.import_known_hosts(f"[127.0.0.1]:{machine.port} {record.host_key}\n")
    options = {
        "username": record.user,
        "client_keys": [str(folder / "client-key")],
        "known_hosts": known,
        "config": None,
        **chosen,
    }
    async with asyncssh.connect("127.0.0.1", machine.port, **options) as connection:  # type: ignore[arg-type]
        yield connection


async def test_output_and_exit_codes_are_exact(tmp_path: Path) -> None:
    async with lab(tmp_path) as record, login(tmp_path, record, record.machines[1]) as connection:
        done = await connection.run(
            "cat; printf 'no\\0newline\\377' >&2; exit 3", input=ALL_BYTES, encoding=None
        )
        assert (done.stdout, done.stderr, done.exit_status) == (ALL_BYTES, b"no\0newline\xff", 3)


async def test_much_output_arrives_completely(tmp_path: Path) -> None:
    async with lab(tmp_path) as record, login(tmp_path, record, record.machines[0]) as connection:
        done = await connection.run("head -c 20000000 /dev/zero", encoding=None)
        assert done.stdout == bytes(20_000_000)


async def test_a_signal_reaches_the_process_group(tmp_path: Path) -> None:
    async with lab(tmp_path) as record, login(tmp_path, record, record.machines[0]) as connection:
        process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
            "sleep 600 & echo $!; wait", encoding=None
        )
        child = int(await process.stdout.readline())
        process.send_signal("TERM")
        done = await process.wait()
        assert done.exit_signal is not None
        assert done.exit_signal[0] == "TERM"
        # The channel closes when the last writer of its pipes is gone: the child, too, which has closed them as it ends.
        async with asyncio.timeout(SECONDS):
            while alive(child):
                await asyncio.sleep(0.01)


async def test_lab_commands_run_as_the_current_user_without_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    async with lab(tmp_path) as record, login(tmp_path, record, record.machines[1]) as connection:
        done = await connection.run("id -un; pwd; echo $HOSTNAME; env", check=True)
        lines = str(done.stdout).splitlines()
        assert lines[:3] == [
            pwd.getpwuid(os.geteuid()).pw_name,
            str(tmp_path / "homes/lab-2"),
            "lab-2",
        ]
        assert "DATABASE_URL" not in str(done.stdout)


async def test_only_the_lab_key_and_user_can_log_in(tmp_path: Path) -> None:
    async with lab(tmp_path) as record:
        other = asyncssh.generate_private_key("ssh-ed25519")
        for wrong in (
            {"client_keys": [other]},
            {"username": "ada"},
            {"client_keys": None, "password": "guess"},
        ):
            with pytest.raises(asyncssh.PermissionDenied):
                async with login(tmp_path, record, record.machines[0], agent_path=None, **wrong):
                    pass


async def test_lab_keys_and_ports_are_kept(tmp_path: Path) -> None:
    # Not the first free ones: another lab on this machine may take those at any moment.
    before = tuple(Machine(name, free_port()) for name in machine_names(3))
    LabFolder(tmp_path).write(LabRecord(0, "", "", before))
    async with lab(tmp_path, 3) as first:
        assert first.machines == before
    async with lab(tmp_path, 4) as second:
        assert second.machines[:3] == first.machines
        assert second.host_key == first.host_key
        assert {
            p.stat().st_mode & 0o777 for p in (tmp_path / "client-key", tmp_path / "host-key")
        } == {0o600}


async def test_two_labs_run_side_by_side(tmp_path: Path) -> None:
    async with lab(tmp_path / "one") as one, lab(tmp_path / "two") as two:
        assert not {m.port for m in one.machines} & {m.port for m in two.machines}


async def test_the_lab_listens_only_on_loopback(tmp_path: Path) -> None:
    async with lab(tmp_path) as record:
        ports = {f"{m.port:04X}" for m in record.machines}
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        ]
        listening = [fields[1].split(":") for fields in lines if fields[3] == "0A"]
        assert {address for address, port in listening if port in ports} == {"0100007F"}


async def test_many_concurrent_logins_succeed(tmp_path: Path) -> None:
    async with lab(tmp_path, 40) as record:

        async def one(machine: Machine) -> str:
            async with login(tmp_path, record, machine) as connection:
                return str((await connection.run("echo $HOSTNAME", check=True)).stdout).strip()

        assert await asyncio.gather(*map(one, record.machines)) == [m.name for m in record.machines]


@pytest.fixture(autouse=True)
def _children_by_descriptor() -> Iterator[None]:
    """Watch children as the process of the lab does, until the test has ended.

    With this watcher, a loop of another thread than the main one, as in `kit.loop_thread`, starts
    no process: it would stay for all tests that follow in this process.
    """
    if sys.version_info < (3, 12):
        before = asyncio.get_child_watcher()
        _watch_children(asyncio.PidfdChildWatcher())
        yield
        _watch_children(before)
    else:
        yield


def _watch_children(watcher: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.set_child_watcher(watcher)
