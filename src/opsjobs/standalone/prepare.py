"""A short-lived process of `up`: the schema, the admin's key, the lab's targets, the dead of last time.

`up` itself stays free of drivers.

`python -m opsjobs.standalone.prepare DATA_DIR`; the settings come by the environment, as for all processes of `up`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import traceback
from pathlib import Path

from opsjobs.model.errors import Failure
from opsjobs.settings import Settings, for_service, load
from opsjobs.standalone.data_dir import DataFolder
from opsjobs.standalone.helper_process import OWN_DATABASE, WITH_LAB
from opsjobs.standalone.lab.folder import LabFolder
from opsjobs.standalone.lab.registration import register
from opsjobs.store.identities import IdentityStore
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.migrations import runner
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault import Vault
from opsjobs.store.workers import Workers


async def prepare(settings: Settings, folder: DataFolder, *, lab: bool, own_database: bool) -> None:
    """Bury the workers of an `up` that was killed, make the admin token good and the lab known. Idempotent. Raises Failure."""
    database = Database(DatabaseOptions(settings.database.url, application_name="opsjobs prepare"))
    await database.open()
    try:
        for worker in folder.workers():
            await Workers(database).reap(worker)
        folder.forget_workers()
        # In a database that several machines share, each `up` has a key of its own.
        name = "admin" if own_database else f"admin-{socket.gethostname()}"
        await IdentityStore(database).ensure_key(name, "admin", folder.admin_token.read_text().strip())
        vault = Vault(database, settings.security.encryption_keys)
        if lab:
            await register(TargetInventory(database, vault), vault, LabFolder(folder.lab))
    finally:
        await database.close()


def main(path: str, *flags: str) -> int:
    """Do it all; 1 and one line on stderr where it cannot be done."""
    try:
        settings = for_service(load())
        runner.upgrade(settings.database.url, settings.security.encryption_keys)
        asyncio.run(prepare(settings, DataFolder(Path(path)), lab=WITH_LAB in flags, own_database=OWN_DATABASE in flags))
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    except Exception as bug:  # noqa: BLE001  the last line is what `up` shows; the log has all of it
        traceback.print_exc()
        first = str(bug).strip().partition("\n")[0]
        sys.stderr.write(f"{type(bug).__name__}: {first}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
