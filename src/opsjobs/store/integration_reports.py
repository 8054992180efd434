"""Reports of each process on the services of the platform that it is connected to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from opsjobs.store.transaction import Database

KEPT_SECONDS = 60.0
"""A report that is not repeated for so long is that of a dead process."""

_REPORT = """
with gone as (
  delete from integration_reports
  where (process = %(process)s and name <> all(%(names)s))
    or reported_at < (select opsjobs_now()) - make_interval(secs => %(kept)s)
)
insert into integration_reports
  (process, name, host, profile, state, last_error, since, asked_at, reported_at)
select %(process)s, name, host, profile, state, last_error, since, asked_at, opsjobs_now()
from unnest(%(names)s::text[], %(hosts)s::text[], %(profiles)s::text[], %(states)s::text[],
  %(errors)s::text[], %(since)s::timestamptz[], %(asked)s::timestamptz[])
  as r(name, host, profile, state, last_error, since, asked_at)
on conflict (process, name) do update set host = excluded.host, profile = excluded.profile,
  state = excluded.state, last_error = excluded.last_error, since = excluded.since,
  asked_at = excluded.asked_at, reported_at = excluded.reported_at"""
_READ = """
select process, name, host, profile, state, last_error, since, asked_at from integration_reports
where reported_at >= (select opsjobs_now()) - make_interval(secs => %s) order by process, name"""
_WITHDRAW = "delete from integration_reports where process = %s"


@dataclass(frozen=True, slots=True)
class IntegrationReport:
    """The state of one service as one process sees it."""

    process: str
    name: str
    host: str
    profile: str
    state: str
    last_error: str | None
    since: datetime
    """When it came into this state."""
    asked_at: datetime | None
    """The end of the last request; None before the first."""


class IntegrationReports:
    """The reports of all processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, process: str, reports: Sequence[IntegrationReport]) -> None:
        """Replace the reports of a process, and delete those of processes that are dead."""
        values = {
            "process": process,
            "kept": KEPT_SECONDS,
            "names": [each.name for each in reports],
            "hosts": [each.host for each in reports],
            "profiles": [each.profile for each in reports],
            "states": [each.state for each in reports],
            "errors": [each.last_error for each in reports],
            "since": [each.since for each in reports],
            "asked": [each.asked_at for each in reports],
        }
        async with self._database.connection() as connection:
            await connection.execute(_REPORT, values)

    async def read(self) -> Sequence[IntegrationReport]:
        """Return the reports of living processes."""
        rows = await self._database.fetch(_READ, [KEPT_SECONDS])
        return [IntegrationReport(**row) for row in rows]

    async def withdraw(self, process: str) -> None:
        """Delete the reports of a process that ends."""
        async with self._database.connection() as connection:
            await connection.execute(_WITHDRAW, [process])
