"""The places on the connections of one route, as machines refuse sessions."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from opsjobs.remote.ssh.connection_group import ConnectionGroup, PooledConnection


async def test_the_fewest_places_that_a_machine_has_allowed_stay_the_limit_of_new_connections() -> (
    None
):
    made: list[PooledConnection] = []

    async def connect() -> PooledConnection:
        connection: Any = SimpleNamespace(alive=True, good_until=None)
        made.append(PooledConnection(connection))
        return made[-1]

    route = ConnectionGroup(
        connect,
        places=4,
        lines=9,
        now=lambda: 0.0,
        today=lambda: datetime.now(UTC),
        idle=lambda: None,
    )
    first = [await route.take() for _ in range(4)]
    second = [await route.take() for _ in range(4)]
    assert [line.places for line in made] == [4, 4]
    assert first[0].line is not second[0].line
    for place in first[2:]:
        place.leave()
    assert first[0].shrink()  # two sessions are on it, and the machine refused one more
    assert second[0].shrink()  # of four, later
    assert [line.places for line in made] == [1, 3]
    third = await route.take()
    assert third.line is made[2]
    assert third.line.places == 1
