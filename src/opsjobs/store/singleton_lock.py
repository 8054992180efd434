"""Locks that let one process at a time do a service's work."""

from __future__ import annotations

from opsjobs.store.transaction import Database

# A time in the future was written before the clock was set back.
_ACQUIRE = """
insert into services as s (name, ticked_at) values (%(service)s, opsjobs_now())
on conflict (name) do update set ticked_at = excluded.ticked_at
where s.ticked_at <= excluded.ticked_at - make_interval(secs => %(pause)s)
  or s.ticked_at > excluded.ticked_at
returning true as ours"""
_RENEW = "update services set ticked_at = opsjobs_now() where name = %(service)s"
_RELEASE = "update services set ticked_at = opsjobs_now() - make_interval(secs => %(pause)s) where name = %(service)s"


class SingletonLock:
    """The locks of services: a row each, with the time of the holder's last sign of life."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, service: str, pause_seconds: float) -> bool:
        """Return True to one process if no other has renewed the lock for `pause_seconds`."""
        return (
            await self._database.fetch_one(_ACQUIRE, {"service": service, "pause": pause_seconds})
            is not None
        )

    async def renew(self, service: str) -> None:
        """Show that the lock is still in use."""
        async with self._database.connection() as connection:
            await connection.execute(_RENEW, {"service": service})

    async def release(self, service: str, pause_seconds: float) -> None:
        """Release a lock with work left behind, so that the next holder need not wait."""
        async with self._database.connection() as connection:
            await connection.execute(_RELEASE, {"service": service, "pause": pause_seconds})
