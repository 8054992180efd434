"""Upkeep of deliveries: rows that nothing needs any more, messages that no process sends."""

from __future__ import annotations

from collections.abc import Collection

from opsjobs.model.delivery import DeliveryReceiver
from opsjobs.store.deliveries import cancel_pending
from opsjobs.store.transaction import Database

UNSERVED_DAYS = 7
"""Time for which a source may be unread, and a delivery wait for an unknown destination."""
NAMES_KEPT_DAYS = 30
"""Time for which the name of a deleted webhook is kept, and longer while a rule has it."""
ROWS_MAX = 1_000
RECEIVERS_MAX = 100

# The failures of a webhook are shown as long as it exists. Locked first, so that the second
# statement sees every delivery that was queued by then; later ones see that the receiver is gone.
_EMPTY_RECEIVERS = """
select r.id from delivery_receivers r
where not exists (select from deliveries d where d.receiver_id = r.id)
  and not (r.destination = 'webhook'
    and exists (select from webhooks w where w.uuid::text = r.key))
order by r.id limit %s for update skip locked"""
_DELETE_RECEIVERS = """
delete from delivery_receivers r where r.id = any(%s)
  and not exists (select from deliveries d where d.receiver_id = r.id)"""
_SOURCES = f"""
delete from delivery_sources where name <> all(%s)
  and read_at < (select opsjobs_now()) - interval '{UNSERVED_DAYS} days'"""
_UNSERVED = f"""
select r.destination, r.key from delivery_receivers r
where r.destination <> all(%(served)s)
  and not exists (select from delivery_sources s where s.name = r.destination)
  and exists (select from deliveries d where d.receiver_id = r.id and d.status = 'pending'
    and d.created_at < (select opsjobs_now()) - interval '{UNSERVED_DAYS} days')
order by r.id limit %(limit)s"""
_RULES = """
select v.policy -> 'notify' as rules from jobs j
  join job_versions v on v.job_id = j.id and v.version = j.version where j.state <> 'archived'
union all select s.definition -> 'notify' from job_schedules s where s.deleted_at is null
union all select d.rules from notification_default d
union all select x.policy -> 'notify' from job_executions e
  join execution_specs x on x.execution_id = e.id where e.finished_at is null"""
_NAMES = f"""
with named as (
  select distinct t.name from ({_RULES}) r
  cross join jsonb_array_elements(
    case when jsonb_typeof(r.rules) = 'array' then r.rules else '[]' end) as rule
  cross join jsonb_array_elements_text(
    case when jsonb_typeof(rule -> 'to') = 'array' then rule -> 'to' else '[]' end) as t(name)
  where rule ->> 'channel' = 'webhook'
)
delete from webhook_names where name = any(array(
  select n.name from webhook_names n
  where n.released_at < (select opsjobs_now()) - interval '{NAMES_KEPT_DAYS} days'
    and not exists (select from webhooks w where w.name = n.name)
    and not exists (select from named where named.name = n.name)
  order by n.released_at limit %s for update skip locked))"""


class DeliveryUpkeep:
    """Deletes receivers, sources and names of webhooks that nothing needs any more."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_receivers(self) -> int:
        """Delete receivers without deliveries, but for those of webhooks; return how many."""

        async def once() -> int:
            async with self._database.transaction() as connection:
                found = await (await connection.execute(_EMPTY_RECEIVERS, [ROWS_MAX])).fetchall()
                ids = [row["id"] for row in found]
                return (await connection.execute(_DELETE_RECEIVERS, [ids])).rowcount

        return await self._database.retry(once)

    async def delete_names(self) -> int:
        """Delete names of webhooks that are gone for 30 days and in no rule; return how many."""
        return await self._delete(_NAMES, ROWS_MAX)

    async def end_unserved(self, sources: Collection[str], destinations: Collection[str]) -> int:
        """End what no process reads or sends any more, such as to a service that was disconnected.

        `sources`, `destinations`: those that this process has. Others may have more, so it takes a
        week without a reader; a worker does not call it beside a scheduler. Returns how many
        sources were deleted, and deliveries cancelled.
        """
        ended = await self._delete(_SOURCES, list(sources))
        wanted = {"served": list(destinations), "limit": RECEIVERS_MAX}
        for row in await self._database.fetch(_UNSERVED, wanted):
            receiver = DeliveryReceiver(row["destination"], row["key"])
            reason = f"no process has sent to {receiver.destination} for {UNSERVED_DAYS} days"
            async with self._database.transaction() as connection:
                ended += await cancel_pending(connection, receiver, reason)
        return ended

    async def _delete(self, statement: str, bound: int | list[str]) -> int:
        async def once() -> int:
            async with self._database.transaction() as connection:
                return (await connection.execute(statement, [bound])).rowcount

        return await self._database.retry(once)
