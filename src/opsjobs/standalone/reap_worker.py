"""Helper process of `up`: record a worker's termination, so that takeover need not wait.

Without it, its runs would wait for the lease to expire.

Run as `python -m opsjobs.standalone.reap_worker WORKER_NAME`; the database URL is
read from the environment.
"""

from __future__ import annotations

import asyncio
import sys

from opsjobs.model.errors import Failure
from opsjobs.settings import load
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Workers


async def reap(url: str, name: str) -> None:
    """Reap all registrations of this worker. Raises Unavailable."""
    database = Database(DatabaseOptions(url, connections=1, application_name="opsjobs reap"))
    await database.open()
    try:
        await Workers(database).reap(name)
    finally:
        await database.close()


def main(name: str) -> int:
    """Reap the worker; on failure print one line to stderr and return 1."""
    try:
        asyncio.run(reap(load().database.url, name))
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
