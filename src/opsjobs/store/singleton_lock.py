"""Turns: of all processes one at a time does what one is enough for."""

from __future__ import annotations

from opsjobs.store.transaction import Database

# A turn from the future is one of before the clock was set back.
_TAKE = """
insert into services as s (name, ticked_at) values (%(service)s, opsjobs_now())
on conflict (name) do update set ticked_at = excluded.ticked_at
where s.ticked_at <= excluded.ticked_at - make_interval(secs => %(pause)s) or s.ticked_at > excluded.ticked_at
returning true as ours"""
_HOLD = "update services set ticked_at = opsjobs_now() where name = %(service)s"
_LEAVE = "update services set ticked_at = opsjobs_now() - make_interval(secs => %(pause)s) where name = %(service)s"


class SingletonLock:
    """The turns of services: a row each, with the moment of its last sign of life."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, service: str, pause_seconds: float) -> bool:
        """Return True to one process if no other has shown itself for so long."""
        return await self._database.fetch_one(_TAKE, {"service": service, "pause": pause_seconds}) is not None

    async def hold(self, service: str) -> None:
        """Show that the turn is still in use."""
        async with self._database.connection() as connection:
            await connection.execute(_HOLD, {"service": service})

    async def leave(self, service: str, pause_seconds: float) -> None:
        """End a turn that has left work behind: the next one need not wait."""
        async with self._database.connection() as connection:
            await connection.execute(_LEAVE, {"service": service, "pause": pause_seconds})
