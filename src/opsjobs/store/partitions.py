"""Daily partitions of the execution log, created ahead.

Rows that had no partition are moved to a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from psycopg import errors

from opsjobs.store.transaction import Database

DAYS_AHEAD = 14
# A reader of the log delays attaching a partition, and attaching delays later readers: for this
# long at most.
LOCK_WAIT_MS = 200
# Time limit for moving the rows of a day. Only writers of that day wait in the meantime.
MOVE_SECONDS = 600

WANTED = "select day from opsjobs_wanted_partitions(%(ahead)s) as day"
MAKE = "select opsjobs_make_partition(%(day)s) as made"


class Partitions:
    """Creates partitions, each in a transaction of its own, so that a failure stops no other."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_missing(self) -> Sequence[date]:
        """Return the days without a partition.

        Today and the days ahead, then days whose rows are in the default partition.
        """
        return [row["day"] for row in await self._database.fetch(WANTED, {"ahead": DAYS_AHEAD})]

    async def make(self, day: date) -> bool:
        """Create the partition of a day, and move its rows from the default partition.

        Returns False if the log is in use: try again later.
        """
        try:
            async with self._database.transaction() as connection:
                await connection.execute(f"set local lock_timeout = '{LOCK_WAIT_MS}ms'")
                await connection.execute(f"set local statement_timeout = '{MOVE_SECONDS}s'")
                connection.wait_longer(MOVE_SECONDS)
                try:
                    row = await (await connection.execute(MAKE, {"day": day})).fetchone()
                except errors.LockNotAvailable as busy:
                    raise _PartitionBusyError from busy
        except _PartitionBusyError:
            return False
        return row is not None and row["made"]


class _PartitionBusyError(Exception):
    """The log is in use."""
