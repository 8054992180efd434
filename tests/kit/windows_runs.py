"""Durable runs on a stand-in Windows host, and faults of the helper that performs them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from kit.windows_hosts import WindowsHost, windows_host
from opsjobs.model.program import RunKey, SpoolIdentity, StartOrder
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Durable
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.standalone.lab.wsman import spool_stand_in
from opsjobs.standalone.lab.wsman.service import LabQuotas
from opsjobs.standalone.lab.wsman.stand_in_command import IMPORT_FOLDER


def wide(host: WindowsHost, slots: int, *, insist: bool = False) -> Endpoint:
    """Return the endpoint of a host that may have so many sessions."""
    endpoint = host.endpoint()
    return replace(endpoint, target=replace(endpoint.target, slots=slots), insist=insist)


class Runs:
    """A host, a pool, and the durable runs of one session."""

    def __init__(self, host: WindowsHost, pool: WinrmPool, durable: Durable) -> None:
        self.host = host
        self.pool = pool
        self.durable = durable
        self.identity = SpoolIdentity("", "")

    def order(self, command: str) -> StartOrder:
        """Return a command that appends to the file `starts` of its home, which is its folder."""
        return StartOrder(RunKey(uuid4(), "step-1", 1), f"echo x >>starts; {command}", 60.0)

    def files(self, order: StartOrder) -> Path:
        """Return the folder of a run."""
        return self.host.folder / "home" / ".opsjobs" / "runs" / str(order.key)

    @property
    def starts(self) -> int:
        """Return how many commands have started."""
        return len((self.host.folder / "home" / "starts").read_text().split())

    @property
    def shells(self) -> int:
        """Return how many shells the host has."""
        return len(self.host.server.service.shells)


@asynccontextmanager
async def runs(quotas: LabQuotas | None = None, *, slots: int = 10) -> AsyncIterator[Runs]:
    """Open a session to a host; `slots` is the number of sessions that it may have."""
    async with windows_host(quotas=quotas) as host:
        pool = WinrmPool(WinrmConnector())
        try:
            async with pool.session(wide(host, slots)) as session:
                durable = session.durable()
                assert durable is not None
                found = Runs(host, pool, durable)
                found.identity = await durable.identity()
                yield found
        finally:
            await pool.close()


def break_spool(on: Runs, fault: str) -> None:
    """Let the stand-in for PowerShell run the spool with this change."""
    changed = on.host.folder / "changed"
    package = changed / Path(spool_stand_in.__file__).parent.relative_to(IMPORT_FOLDER)
    package.mkdir(parents=True)
    for file in Path(spool_stand_in.__file__).parent.glob("*stand_in*.py"):
        shutil.copy(file, package)
    with (package / "spool_stand_in.py").open("a") as file:
        file.write(f"\n\n{fault}\n")
    program = on.host.folder / "programs" / "powershell.exe"
    text = program.read_text()
    assert IMPORT_FOLDER in text
    program.unlink()
    program.write_text(text.replace(IMPORT_FOLDER, str(changed)))
    program.chmod(0o755)
