"""Deliveries in PostgreSQL: queued, claimed by lane, settled under a fence.

A lane is the pending deliveries of one subject to one receiver. One process sends them, one after
the other, so they arrive in order; other lanes do not wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Json

from opsjobs import failpoints
from opsjobs.model.delivery import (
    ERROR_CHARACTERS_MAX,
    RESPONSE_CHARACTERS_MAX,
    Delivery,
    DeliveryReceiver,
    DeliveryStatus,
    Message,
    NewDelivery,
    SendOutcome,
)
from opsjobs.store.statements import load_statement, storable
from opsjobs.store.transaction import Connection, Database

LEASE_SECONDS = 30.0
"""Time after which another process takes over a lane; longer than one attempt may take."""
FAILURES_PROBED = 5
"""After so many failures in a row a receiver gets one attempt at a time."""
DELETED_ROWS_MAX = 2_000

_SOURCE = "select position from delivery_sources where name = %s for update skip locked"
_NEW_SOURCE = (
    "insert into delivery_sources (name, position) values (%s, %s) on conflict (name) do nothing"
)
_READ_TO = "update delivery_sources set position = %s, read_at = opsjobs_now() where name = %s"

_RECEIVERS = """
insert into delivery_receivers (destination, key)
select destination, key
from unnest(%(destinations)s::text[], %(keys)s::text[]) as r(destination, key)
order by 1, 2 on conflict (destination, key) do nothing"""
# A receiver without deliveries may be deleted between the two statements.
_KEPT_RECEIVERS = """
select r.id from delivery_receivers r
join (select distinct destination, key
      from unnest(%(destinations)s::text[], %(keys)s::text[]) as u(destination, key)) w
  on w.destination = r.destination and w.key = r.key
order by r.id for key share of r"""
_QUEUE = load_statement(__file__, "queue_deliveries")
_DELIVERY = """
d.id, d.attempts + 1 as attempt, d.redelivery, l.receiver_id, l.claim, r.destination, r.key,
m.message_id, m.type, d.subject, m.body, m.at,
extract(epoch from (select opsjobs_now()) - d.created_at)::float8 as waited_seconds,
coalesce(extract(epoch from (select opsjobs_now()) - r.failing_since),
  0)::float8 as failing_seconds"""
_CLAIM = load_statement(__file__, "claim_deliveries", delivery=_DELIVERY)
_HELD = """
select l.receiver_id, l.subject, l.claim from delivery_lanes l
join unnest(%(receivers)s::bigint[], %(subjects)s::text[], %(claims)s::bigint[])
  as o(receiver_id, subject, claim)
  on l.receiver_id = o.receiver_id and l.subject = o.subject and l.claim = o.claim
order by 1, 2 for update of l"""
# After the lanes were locked by `_HELD`, so that all their deliveries are seen.
_END_EMPTY = """
delete from delivery_lanes l
using unnest(%(receivers)s::bigint[], %(subjects)s::text[], %(claims)s::bigint[])
  as o(receiver_id, subject, claim)
where l.receiver_id = o.receiver_id and l.subject = o.subject and l.claim = o.claim
  and not exists (select from deliveries d where d.receiver_id = l.receiver_id
    and d.subject = l.subject and d.status = 'pending')"""
_SETTLE = load_statement(__file__, "settle_deliveries")
_RECEIVER_STATE = load_statement(__file__, "receiver_state")
_NEXT = load_statement(__file__, "next_deliveries", delivery=_DELIVERY)
_RELEASE = """
update delivery_lanes l set lease_until = null
from unnest(%(receivers)s::bigint[], %(subjects)s::text[], %(claims)s::bigint[])
  as o(receiver_id, subject, claim)
where l.receiver_id = o.receiver_id and l.subject = o.subject and l.claim = o.claim"""
_CANCEL_LANES = """
select l.receiver_id from delivery_lanes l join delivery_receivers r on r.id = l.receiver_id
where r.destination = %(destination)s and r.key = %(key)s order by l.subject for update of l"""
_CANCEL = """
with receiver as (
  select id from delivery_receivers where destination = %(destination)s and key = %(key)s
), lanes as (
  delete from delivery_lanes l using receiver r where l.receiver_id = r.id
), cancelled as (
  update deliveries d set status = 'cancelled', error = %(reason)s, finished_at = opsjobs_now()
  from receiver r where d.receiver_id = r.id and d.status = 'pending' returning 1)
select count(*) as n from cancelled"""
# Messages with all their deliveries, unless one is still to be delivered. Locked first, so that a
# redelivery is either seen or stores the message again.
_OLD = """
select id from delivery_messages
where created_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
order by created_at limit %(limit)s for update skip locked"""
_DELETE_OLD = """
delete from delivery_messages m where m.id = any(%s)
  and not exists (select from deliveries d where d.message_id = m.id and d.status = 'pending')"""


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery with the fence of its lane."""

    delivery: Delivery
    receiver_id: int
    claim: int

    @property
    def lane(self) -> tuple[int, str, int]:
        """The lane as it was claimed: another claim of it is not equal."""
        return self.receiver_id, self.delivery.message.subject, self.claim


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result of an attempt, to be recorded."""

    claimed: ClaimedDelivery
    outcome: SendOutcome
    pause_seconds: float | None
    """Time until the next attempt; None if the delivery has ended."""
    duration_ms: int

    @property
    def status(self) -> DeliveryStatus:
        """The delivery's status after it: failed, if no attempt is left."""
        if self.outcome.status is DeliveryStatus.PENDING and self.pause_seconds is None:
            return DeliveryStatus.FAILED
        return self.outcome.status


class Deliveries:
    """Queues, claims and settles deliveries; each verb is one bounded transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def reading(self, source: str) -> AsyncIterator[SourceReading | None]:
        """Yield the position of a source, which is stored at the end of the block.

        None if another process reads it, or if it is new: call `start_source` then.
        """
        async with self._database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '60s'")
            row = await (await connection.execute(_SOURCE, [source])).fetchone()
            if row is None:
                yield None
                return
            reading = SourceReading(connection, source, row["position"])
            yield reading
            async with failpoints.at("delivery.queue"):
                await connection.execute(_READ_TO, [reading.position, source])

    async def start_source(self, source: str, position: int) -> None:
        """Let a new source begin after this position; no effect if it has one."""
        async with self._database.connection() as connection:
            await connection.execute(_NEW_SOURCE, [source, position])

    async def claim(
        self,
        destinations: Sequence[str],
        *,
        limit: int,
        per_receiver: int,
        running: Mapping[int, int],
    ) -> Sequence[ClaimedDelivery]:
        """Claim due lanes for LEASE_SECONDS; return the first pending delivery of each.

        `running`: how many lanes of a receiver this process has already, by receiver id.
        """
        rows = await self._database.retry(
            lambda: self._database.fetch(
                _CLAIM,
                {
                    "destinations": list(destinations),
                    "limit": limit,
                    "per_receiver": per_receiver,
                    "busy": list(running),
                    "running": list(running.values()),
                    "probed": FAILURES_PROBED,
                    "lease": LEASE_SECONDS,
                },
            )
        )
        empty = [row for row in rows if row["id"] is None]
        if empty:
            await self._database.retry(lambda: self._end_empty(empty))
        return [_claimed(row) for row in rows if row["id"] is not None]

    async def _end_empty(self, rows: Sequence[DictRow]) -> None:
        """End claimed lanes without a pending delivery; give back those that have one by now."""
        lanes = {
            "receivers": [row["receiver_id"] for row in rows],
            "subjects": [row["lane"] for row in rows],
            "claims": [row["claim"] for row in rows],
        }
        async with self._database.transaction() as connection:
            for statement in (_HELD, _END_EMPTY, _RELEASE):
                await connection.execute(statement, lanes)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[ClaimedDelivery]:
        """Record outcomes; return the next delivery of each lane that continues.

        An outcome is dropped if its lane was taken over meanwhile: the new owner sends again.
        """
        return await self._database.retry(lambda: self._settle(settlements))

    async def _settle(self, settlements: Sequence[Settlement]) -> Sequence[ClaimedDelivery]:
        async with failpoints.at("delivery.settle"), self._database.transaction() as connection:
            held = {
                (row["receiver_id"], row["subject"], row["claim"])
                for row in await (
                    await connection.execute(_HELD, _lanes(s.claimed for s in settlements))
                ).fetchall()
            }
            mine = [s for s in settlements if s.claimed.lane in held]
            if not mine:
                return []
            await connection.execute(_SETTLE, _outcomes(mine))
            await connection.execute(_RECEIVER_STATE, _by_receiver(mine))
            rows = await (await connection.execute(_NEXT, _continued(mine))).fetchall()
            return [_claimed(row) for row in rows]

    async def release(self, claimed: Sequence[ClaimedDelivery]) -> None:
        """Give lanes back unattempted, so that another process need not wait for the lease."""
        async with self._database.connection() as connection:
            await connection.execute(_RELEASE, _lanes(claimed))

    async def delete_old(self, keep_seconds: float) -> int:
        """Delete messages with their deliveries, at most 2,000 messages; return how many."""
        parameters = {"seconds": keep_seconds, "limit": DELETED_ROWS_MAX}

        async def once() -> int:
            async with self._database.transaction() as connection:
                old = await (await connection.execute(_OLD, parameters)).fetchall()
                ids = [row["id"] for row in old]
                return (await connection.execute(_DELETE_OLD, [ids])).rowcount

        return await self._database.retry(once)


class SourceReading:
    """One turn at a source: its position, and a way to queue what was read."""

    def __init__(self, connection: Connection, source: str, position: int) -> None:
        self._connection = connection
        self._source = source
        self.position = position

    async def queue(self, deliveries: Sequence[NewDelivery]) -> Sequence[int]:
        """Queue deliveries; return their ids. One that is queued already is not queued twice."""
        return await queue_deliveries(self._connection, self._source, deliveries)


async def queue_deliveries(
    connection: Connection,
    source: str,
    deliveries: Sequence[NewDelivery],
    *,
    redelivery: bool = False,
) -> Sequence[int]:
    """Queue messages for their receivers in the caller's transaction.

    Returns the ids of the deliveries. A message is stored once by its source and id. A receiver
    gets it once, unless it is a redelivery.
    """
    pairs = [(new.message, receiver) for new in deliveries for receiver in new.receivers]
    if not pairs:
        return []
    messages = list({message.id: message for message, _ in pairs}.values())
    receivers = {
        "destinations": [receiver.destination for _, receiver in pairs],
        "keys": [receiver.key for _, receiver in pairs],
    }
    await _keep_receivers(connection, receivers)
    rows = await (
        await connection.execute(
            _QUEUE,
            {
                "source": source,
                "message_ids": [message.id for message in messages],
                "types": [message.type for message in messages],
                "bodies": [Json(message.body) for message in messages],
                "moments": [message.at for message in messages],
                "of": [message.id for message, _ in pairs],
                "subjects": [message.subject for message, _ in pairs],
                "redelivery": redelivery,
                **receivers,
            },
        )
    ).fetchall()
    return [row["id"] for row in rows]


async def _keep_receivers(connection: Connection, receivers: Mapping[str, list[str]]) -> None:
    """Store receivers, and lock them so that none is deleted before its delivery is queued."""
    wanted = len(set(zip(receivers["destinations"], receivers["keys"], strict=True)))
    kept = 0
    while kept < wanted:
        await connection.execute(_RECEIVERS, receivers)
        kept = len(await (await connection.execute(_KEPT_RECEIVERS, receivers)).fetchall())


async def cancel_pending(connection: Connection, receiver: DeliveryReceiver, reason: str) -> int:
    """Cancel all pending deliveries of a receiver in the caller's transaction.

    Returns how many. One that is being sent now may still arrive.
    """
    parameters = {"destination": receiver.destination, "key": receiver.key, "reason": reason}
    # Locked first, so that every delivery that is queued by then is seen.
    await connection.execute(_CANCEL_LANES, parameters)
    row = await (await connection.execute(_CANCEL, parameters)).fetchone()
    assert row is not None
    return int(row["n"])


def _claimed(row: DictRow) -> ClaimedDelivery:
    message = Message(row["message_id"], row["type"], row["subject"], row["body"], row["at"])
    delivery = Delivery(
        row["id"],
        DeliveryReceiver(row["destination"], row["key"]),
        message,
        row["attempt"],
        row["waited_seconds"],
        row["failing_seconds"],
        row["redelivery"],
    )
    return ClaimedDelivery(delivery, row["receiver_id"], row["claim"])


def _lanes(claimed: Iterable[ClaimedDelivery]) -> dict[str, list[Any]]:
    claimed = list(claimed)
    return {
        "receivers": [each.receiver_id for each in claimed],
        "subjects": [each.delivery.message.subject for each in claimed],
        "claims": [each.claim for each in claimed],
    }


def _outcomes(settlements: Sequence[Settlement]) -> dict[str, list[Any]]:
    outcomes = [settlement.outcome for settlement in settlements]
    return {
        "ids": [settlement.claimed.delivery.id for settlement in settlements],
        "statuses": [settlement.status.value for settlement in settlements],
        "codes": [outcome.code for outcome in outcomes],
        "responses": [_cut(outcome.response, RESPONSE_CHARACTERS_MAX) for outcome in outcomes],
        "errors": [_cut(outcome.error, ERROR_CHARACTERS_MAX) for outcome in outcomes],
        "durations": [settlement.duration_ms for settlement in settlements],
        "attempted": [outcome.attempted for outcome in outcomes],
    }


def _by_receiver(settlements: Sequence[Settlement]) -> dict[str, list[Any]]:
    works, failed = dict[int, bool](), dict[int, int]()
    for settlement in settlements:
        receiver, outcome = settlement.claimed.receiver_id, settlement.outcome
        is_failure = outcome.status is DeliveryStatus.PENDING and outcome.attempted
        works[receiver] = works.get(receiver, False) or outcome.status is DeliveryStatus.DELIVERED
        failed[receiver] = failed.get(receiver, 0) + is_failure
    return {
        "receivers": list(works),
        "works": list(works.values()),
        "failed": list(failed.values()),
    }


def _continued(settlements: Sequence[Settlement]) -> dict[str, Any]:
    lanes = _lanes(settlement.claimed for settlement in settlements)
    return {
        "receivers": lanes["receivers"],
        "subjects": lanes["subjects"],
        "pauses": [settlement.pause_seconds for settlement in settlements],
        "lease": LEASE_SECONDS,
    }


def _cut(text: str | None, characters: int) -> str | None:
    return None if text is None else storable(text, characters)
