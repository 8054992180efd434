"""The fixtures on which all other tests rely."""

from __future__ import annotations

import redis

from opsjobs.store.transaction import Database


async def test_a_test_gets_a_migrated_database_of_its_own(database: Database) -> None:
    await database.fetch("insert into services (name, ticked_at) values ('one', now()) returning 1")
    assert await database.fetch_one("select count(*) as n from jobs") == {"n": 0}


async def test_the_next_test_gets_another_database(database: Database) -> None:
    assert await database.fetch_one("select count(*) as n from services") == {"n": 0}


def test_a_test_gets_an_empty_valkey(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("a", "b")


def test_the_next_test_gets_an_empty_valkey(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
