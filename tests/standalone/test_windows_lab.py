"""The stand-in Windows hosts of `up --lab-windows`."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from contract.conftest import collect
from kit.ports import free_port
from kit.windows_hosts import until, windows_host
from opsjobs.model.selection import SelectionDraft
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.standalone.lab.folder import LabFolder, LabRecord, Machine
from opsjobs.standalone.lab.registration import register_windows
from opsjobs.standalone.lab.wsman.machines import PREFIX, start_hosts
from opsjobs.store.envelope import new_key
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault


async def test_they_are_registered_and_run_commands(database: Database, tmp_path: Path) -> None:
    vault = Vault(database, [new_key()])
    inventory = TargetInventory(database, vault)
    servers = await start_hosts(tmp_path, 2)
    try:
        for _ in range(2):  # each start registers them
            await register_windows(inventory, vault, LabFolder(tmp_path))
        found = await inventory.resolve(SelectionDraft(selector="os=windows-like"))
        assert sorted((t.name, t.version) for t in found) == [("lab-win-1", 1), ("lab-win-2", 1)]
        endpoints = await inventory.endpoints([target.id for target in found])
        pool = WinrmPool(WinrmConnector())
        for target in found:
            async with pool.session(endpoints[target.id]) as session:
                said = await collect(await session.start("echo $HOME; exit 3"))
            assert said == (f"{tmp_path}/homes/{target.name}/home\n".encode(), b"", RemoteExit(3))
        await pool.close()
    finally:
        for server in servers:
            await server.stop()
    servers = await start_hosts(tmp_path, 1)
    await register_windows(inventory, vault, LabFolder(tmp_path))
    assert [
        t.name for t in await inventory.resolve(SelectionDraft(selector="os=windows-like"))
    ] == ["lab-win-1"]
    await servers[0].stop()


async def test_ports_and_password_are_kept_and_only_loopback_listens(tmp_path: Path) -> None:
    seen = []
    # Not the first free one: another lab on this machine may take that at any moment.
    port = free_port()
    LabFolder(tmp_path).write(LabRecord(0, "", "", (Machine(f"{PREFIX}-1", port),)))
    for _ in range(2):
        (server,) = await start_hosts(tmp_path, 1)
        seen.append((server.port, LabFolder(tmp_path).password.read_text()))
        assert LabFolder(tmp_path).password.stat().st_mode & 0o777 == 0o600
        await server.stop()
    assert seen[0] == seen[1]
    assert seen[0][0] == port
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.2", seen[0][0]))  # nothing listens on all addresses


async def test_a_host_that_was_stopped_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with windows_host() as host:
        pool = WinrmPool(WinrmConnector())
        async with pool.session(host.endpoint()) as session:
            await anext(aiter(await session.start("echo up; sleep 60 & sleep 60")))
        await pool.close()
        connected = host.server.connections
        _, silent = await asyncio.open_connection("127.0.0.1", host.server.port)
        await until(lambda: host.server.connections > connected)
        assert host.server.service.shells
        await host.server.stop()
        assert asyncio.all_tasks() == before
        silent.close()
