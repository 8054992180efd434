"""The audit log: an entry is written with its change, or neither of them."""

from __future__ import annotations

import pytest
from psycopg import errors

from opsjobs.model.access import Principal
from opsjobs.store import audit
from opsjobs.store.audit import Actor
from opsjobs.store.transaction import Database


async def test_a_row_says_who_did_what_to_what_and_from_where(database: Database) -> None:
    ada = Actor.from_principal(
        Principal.of_role("ada", "admin", "user", person="ada"),
        address="192.0.2.7",
        request_id="r-1",
    )
    with audit.acting(ada):
        async with database.transaction() as connection:
            await audit.record(
                connection,
                "target.updated",
                "target",
                7,
                "web-1",
                before={"port": 22},
                after={"port": 2222},
            )
    row = await database.fetch_one("select * from audit_log")
    assert row is not None
    assert (row["actor"], row["actor_kind"], row["person"], row["address"], row["request_id"]) == (
        "ada", "user", "ada", "192.0.2.7", "r-1",
    )  # fmt: skip
    assert (row["action"], row["thing"], row["thing_id"], row["thing_name"]) == (
        "target.updated",
        "target",
        "7",
        "web-1",
    )
    assert (row["before"], row["after"]) == ({"port": 22}, {"port": 2222})


async def test_a_change_without_a_request_is_recorded_as_made_by_opsjobs(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        await audit.record(connection, "schedule.paused", "schedule", 1)
    row = await database.fetch_one("select actor, actor_kind from audit_log")
    assert row == {"actor": "opsjobs", "actor_kind": "system"}


async def test_where_the_row_cannot_be_written_the_rest_is_not_done(database: Database) -> None:
    async def change() -> None:
        async with database.transaction() as connection:
            await connection.execute("insert into target_groups (name) values ('web')")
            await audit.record(connection, "not an action", "group", "web")

    with pytest.raises(errors.CheckViolation):
        await change()
    assert await database.fetch("select from target_groups") == []
