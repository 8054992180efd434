"""Helper process of `up`: migrate, set the admin key, add the lab, reap old workers.

It keeps database drivers out of `up` itself. Run as `python -m opsjobs.standalone.prepare
DATA_DIR`; the settings are read from the environment, as by all processes of `up`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import traceback
from collections.abc import Collection
from pathlib import Path

from opsjobs.model.errors import Failure
from opsjobs.settings import Settings, for_service, load
from opsjobs.standalone.data_dir import DataFolder
from opsjobs.standalone.lab.folder import LabFolder
from opsjobs.standalone.lab.registration import register, register_windows
from opsjobs.standalone.spawn import OWN_DATABASE, WITH_LAB, WITH_WINDOWS_LAB
from opsjobs.store.identities import IdentityStore
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.migrations import runner
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.workers import Workers


async def prepare(settings: Settings, folder: DataFolder, flags: Collection[str]) -> None:
    """Reap workers of a killed `up`, register the admin token and add the lab's targets.

    Idempotent. Raises Failure.
    """
    database = Database(DatabaseOptions(settings.database.url, application_name="opsjobs prepare"))
    await database.open()
    try:
        for worker in folder.workers():
            await Workers(database).reap(worker)
        folder.forget_workers()
        # In a database that several machines share, each `up` has its own key.
        name = "admin" if OWN_DATABASE in flags else f"admin-{socket.gethostname()}"
        await IdentityStore(database).ensure_key(
            name, "admin", folder.admin_token.read_text().strip()
        )
        vault = Vault(database, settings.security.encryption_keys)
        inventory, lab = TargetInventory(database, vault), LabFolder(folder.lab)
        if WITH_LAB in flags:
            await register(inventory, vault, lab)
        if WITH_WINDOWS_LAB in flags:
            await register_windows(inventory, vault, lab.windows)
    finally:
        await database.close()


def main(path: str, *flags: str) -> int:
    """Prepare everything; on failure print one line to stderr and return 1."""
    try:
        settings = for_service(load())
        runner.upgrade(settings.database.url, settings.security.encryption_keys)
        asyncio.run(prepare(settings, DataFolder(Path(path)), flags))
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    except Exception as bug:  # noqa: BLE001  the last line is shown by `up`; the log has everything
        traceback.print_exc()
        first = str(bug).strip().partition("\n")[0]
        sys.stderr.write(f"{type(bug).__name__}: {first}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
