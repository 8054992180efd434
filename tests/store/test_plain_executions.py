"""Plain executions send no statements for strategies and workflows.

Every statement of a claim and of a settle is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from kit.ledger_fixtures import Owner, launch, machines
from opsjobs.store.transaction import Database, DatabaseOptions

CLAIM = ["begin", "candidates", "lock", "lock slots", "decide", "commit"]
SETTLE = ["begin", "lock", "lock slots", "settle", "unpark", "admit", "count", "stopping", "commit"]
GROWTH = ["begin", "lock", "settle", "count", "stopping", "commit"]


@pytest.fixture
def database(database_url: str) -> Database:
    """One connection: the first statement of another one, made meanwhile, would be counted, too."""
    return Database(DatabaseOptions(database_url, connections=1, application_name="test"))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Count the statements that are sent in the block."""
    sent: list[str] = []
    execute = psycopg.AsyncConnection.execute

    async def counting(self: Any, query: Any, *given: Any, **more: Any) -> Any:
        if query:  # the pool checks an idle connection with an empty statement
            sent.append(str(query))
        return await execute(self, query, *given, **more)

    with monkeypatch.context() as watched:
        watched.setattr(psycopg.AsyncConnection, "execute", counting)
        yield sent


async def test_a_plain_claim_and_its_settles_send_no_extra_statements(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await launch(database, machines(3))
    owner = Owner(database)
    with counted(monkeypatch) as sent:
        runs = (await owner.claim(floor=1)).runs
    assert len(sent) == len(CLAIM), sent
    with counted(monkeypatch) as sent:
        await owner.settle(owner.flush(runs, None))
    assert len(sent) == len(GROWTH), sent
    moves = owner.flush(runs).runs
    with counted(monkeypatch) as sent:
        await owner.settle(owner.say(moves))
    assert len(sent) == len(SETTLE), sent


async def test_a_claim_without_a_floor_writes_the_floor_of_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await launch(database, machines(1))
    with counted(monkeypatch) as sent:
        assert (await Owner(database).claim()).runs
    assert len(sent) == len(CLAIM) + 1, sent
    assert "zone_turns" in sent[-1]


async def test_only_watched_executions_send_statements_for_waves(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await launch(database, machines(2), actions=2, barrier=True)
    owner = Owner(database)
    with counted(monkeypatch) as sent:
        runs = (await owner.claim(floor=1)).runs
    assert len(sent) == len(CLAIM), sent
    flush = owner.flush(runs[:1])
    with counted(monkeypatch) as sent:
        await owner.settle(flush)
    assert len(sent) == len(SETTLE) + 4, "judge, admit, tell the parents, pass on names"
