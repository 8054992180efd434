"""Unused rows of deliveries: receivers, sources, names of webhooks, unsent messages."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from opsjobs.model.delivery import DeliveryReceiver, Message, NewDelivery
from opsjobs.store.deliveries import Deliveries, queue_deliveries
from opsjobs.store.delivery_upkeep import NAMES_KEPT_DAYS, UNSERVED_DAYS, DeliveryUpkeep
from opsjobs.store.transaction import Connection, Database

AT = datetime(2026, 11, 29, tzinfo=UTC)
DAY = 86_400.0
SOURCES = ("webhooks", "notifications")
DESTINATIONS = ("webhook", "email")


async def turn(database: Database, days: float) -> None:
    await database.fetch(
        "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning 1",
        [days * DAY],
    )


async def queue(connection: Connection, id_: str, destination: str, key: str = "") -> None:
    message = Message(id_, "x.y", "s", {"id": id_}, AT)
    receivers = [DeliveryReceiver(destination, key)]
    await queue_deliveries(connection, "test", [NewDelivery(message, receivers)])


async def queued(database: Database, id_: str, destination: str, key: str = "") -> None:
    async with database.transaction() as connection:
        await queue(connection, id_, destination, key)


async def receivers(database: Database) -> list[str]:
    rows = await database.fetch("select destination, key from delivery_receivers order by id")
    return [f"{row['destination']}/{row['key']}" for row in rows]


async def test_receivers_are_deleted_with_their_last_delivery(database: Database) -> None:
    upkeep = DeliveryUpkeep(database)
    await queued(database, "m-1", "email", "ada@example.org")
    await queued(database, "m-2", "email", "ben@example.org")
    await database.fetch(
        "update deliveries set status = 'delivered', finished_at = now() returning 1"
    )
    assert await upkeep.delete_receivers() == 0, "their deliveries are shown"
    await turn(database, 8)
    await queued(database, "m-3", "email", "ben@example.org")
    assert await Deliveries(database).delete_old(7 * DAY) == 2
    assert await upkeep.delete_receivers() == 1
    assert await receivers(database) == ["email/ben@example.org"]


async def test_a_receiver_that_is_being_queued_for_is_not_deleted(database: Database) -> None:
    """No message is lost in either order.

    The upkeep skips a locked receiver, and one that it has deleted is stored again.
    """
    upkeep = DeliveryUpkeep(database)
    await queued(database, "m-1", "email", "ada@example.org")
    await database.fetch("delete from delivery_messages returning 1")
    async with database.transaction() as connection:
        await queue(connection, "m-2", "email", "ada@example.org")
        assert await upkeep.delete_receivers() == 0
    assert await receivers(database) == ["email/ada@example.org"]
    await database.fetch("delete from delivery_messages returning 1")
    async with database.transaction() as connection:
        # Like the upkeep, which has not committed yet.
        await connection.execute("delete from delivery_receivers")
        waits = asyncio.create_task(queued(database, "m-3", "email", "ada@example.org"))
        blocked = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
        while not await database.fetch(blocked):
            await asyncio.sleep(0.01)
    await waits
    rows = await database.fetch(
        "select m.message_id from deliveries d join delivery_messages m on m.id = d.message_id"
    )
    assert [row["message_id"] for row in rows] == ["m-3"]


async def test_a_service_that_is_disconnected_is_forgotten_after_a_week(
    database: Database,
) -> None:
    deliveries, upkeep = Deliveries(database), DeliveryUpkeep(database)
    await deliveries.start_source("audit_service", 7)
    await queued(database, "audit/8", "audit_service")
    await queued(database, "m-1", "email", "ada@example.org")
    await turn(database, UNSERVED_DAYS - 1)
    async with deliveries.reading("audit_service"):
        pass  # another process is still connected to it
    await turn(database, UNSERVED_DAYS - 1)
    assert await upkeep.end_unserved(SOURCES, DESTINATIONS) == 0
    await turn(database, 2)
    assert await upkeep.end_unserved([*SOURCES, "audit_service"], DESTINATIONS) == 0, (
        "this process has it"
    )
    assert await upkeep.end_unserved(SOURCES, DESTINATIONS) == 2
    rows = await database.fetch(
        "select r.destination, d.status, d.error from deliveries d "
        "join delivery_receivers r on r.id = d.receiver_id order by d.id"
    )
    assert [(row["destination"], row["status"]) for row in rows] == [
        ("audit_service", "cancelled"),
        ("email", "pending"),
    ]
    assert rows[0]["error"] == "no process has sent to audit_service for 7 days"
    names = await database.fetch("select name from delivery_sources order by name")
    assert [row["name"] for row in names] == ["notifications", "webhooks"]
    lanes = await database.fetch("select 1 from delivery_lanes")
    assert len(lanes) == 1


async def test_messages_for_an_unknown_destination_wait_for_a_week(database: Database) -> None:
    upkeep = DeliveryUpkeep(database)
    await queued(database, "m-1", "pigeon")
    assert await upkeep.end_unserved(SOURCES, DESTINATIONS) == 0
    await turn(database, UNSERVED_DAYS + 1)
    assert await upkeep.end_unserved(SOURCES, DESTINATIONS) == 1
    assert not await database.fetch("select 1 from delivery_lanes")


RULE = {"on": ["failed"], "channel": "webhook", "to": ["ours"]}
IN_DEFAULT = "update notification_default set rules = %s returning 1"
IN_JOB = """
with j as (insert into jobs (uuid, name, state, created_by)
  values (gen_random_uuid(), 'j', 'active', 'ada') returning id)
insert into job_versions (job_id, version, name, description, job_type, policy, created_by)
select id, 1, 'j', '', 'command', jsonb_build_object('notify', %s::jsonb), 'ada' from j
returning 1"""


@pytest.mark.parametrize("statement", [None, IN_DEFAULT, IN_JOB])
async def test_a_name_of_a_webhook_is_kept_for_a_month_and_while_a_rule_has_it(
    database: Database, statement: str | None
) -> None:
    upkeep = DeliveryUpkeep(database)
    await database.fetch(
        "insert into webhook_names (name, owner, owner_kind, released_at) "
        "values ('ours', 'ada', 'user', opsjobs_now()) returning 1"
    )
    if statement is not None:
        rules: list[Any] = [RULE, {**RULE, "channel": "email", "to": ["a@example.org"]}]
        await database.fetch(statement, [Jsonb(rules)])
    await turn(database, NAMES_KEPT_DAYS - 1)
    assert await upkeep.delete_names() == 0
    await turn(database, 2)
    assert await upkeep.delete_names() == (1 if statement is None else 0)
