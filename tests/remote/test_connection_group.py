"""The channel slots on the connections of one group, as machines refuse sessions."""

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
        connection: Any = SimpleNamespace(alive=True, expires_at=None)
        made.append(PooledConnection(connection))
        return made[-1]

    group = ConnectionGroup(
        connect,
        slots=4,
        connections=9,
        monotonic=lambda: 0.0,
        now=lambda: datetime.now(UTC),
        on_idle=lambda: None,
    )
    first = [await group.take() for _ in range(4)]
    second = [await group.take() for _ in range(4)]
    assert [pooled.slots for pooled in made] == [4, 4]
    assert first[0].pooled is not second[0].pooled
    for slot in first[2:]:
        slot.release()
    assert first[0].shrink()  # two sessions are on it, and the machine refused one more
    assert second[0].shrink()  # of four, later
    assert [pooled.slots for pooled in made] == [1, 3]
    third = await group.take()
    assert third.pooled is made[2]
    assert third.pooled.slots == 1
