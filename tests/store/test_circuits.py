"""Circuits in PostgreSQL: one try at a time among all workers, its outcome, and the events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

from opsjobs.model.circuit import (
    RIGHT_SECONDS,
    Ask,
    CircuitKey,
    CircuitPolicy,
    CircuitState,
    Report,
    Right,
)
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.remote.circuit_breaker import Breaker
from opsjobs.store.circuits import CircuitStore
from opsjobs.store.paging import PageRequest
from opsjobs.store.system_status import SystemStatus
from opsjobs.store.transaction import Database
from store.drafts import password, target
from store.test_inventory import inventory_on

KEY = CircuitKey("1", "1")
POLICY = CircuitPolicy(failures=2, pause_seconds=10, refused_pause_seconds=600)
REFUSED = ErrorCode.CONNECTION_REFUSED


def ask(key: CircuitKey = KEY, login: str = "a", *, insist: bool = False) -> Ask:
    return Ask(key, login, uuid4(), insist)


async def right(circuits: CircuitStore, wish: Ask) -> Right:
    return (await circuits.ask([wish]))[0][0]


async def report_code(
    circuits: CircuitStore,
    code: ErrorCode | None,
    *,
    key: CircuitKey = KEY,
    token: UUID | None = None,
    login: str = "a",
) -> CircuitState | None:
    return (await circuits.report([Report(key, login, code, "no", token)]))[0]


async def shift(database: Database, seconds: float) -> None:
    await database.fetch(
        "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning one",
        [seconds],
    )


async def events(database: Database) -> list[str]:
    return [
        row["type"]
        for row in await database.fetch(
            "select type from events where type like 'circuit.%%' order by id", []
        )
    ]


async def test_of_many_that_ask_at_once_one_may_try(database: Database) -> None:
    workers = [CircuitStore(database), CircuitStore(database)]
    asked = await asyncio.gather(*(right(workers[n % 2], ask()) for n in range(20)))
    assert sorted(r.value for r in asked) == ["busy"] * 19 + ["yours"]


async def test_batches_of_several_workers_over_the_same_logins_do_not_lock_each_other_out(
    database: Database,
) -> None:
    workers = [CircuitStore(database), CircuitStore(database)]
    keys = [CircuitKey(str(n), "1") for n in range(60)]
    rounds = await asyncio.gather(
        *(
            worker.ask([ask(key) for key in way])
            for worker in workers
            for way in (keys, keys[::-1], keys[30:] + keys[:30])
        )
    )
    given = [key for way, answers in zip([keys, keys[::-1], keys[30:] + keys[:30]] * 2, rounds, strict=True)
             for key, (found, _) in zip(way, answers, strict=True) if found is Right.YOURS]  # fmt: skip
    assert sorted(given, key=lambda key: key.target_id) == sorted(
        keys, key=lambda key: key.target_id
    )


async def test_a_proven_login_needs_no_trial_until_one_fails(
    database: Database,
) -> None:
    circuits, other = CircuitStore(database, POLICY), CircuitStore(database, POLICY)
    wish = ask()
    assert await right(circuits, wish) is Right.YOURS
    assert await report_code(circuits, None, token=wish.token) is None
    assert [await right(other, ask()) for _ in range(2)] == [Right.FREE, Right.FREE]
    assert await other.watch([]) == set()
    await report_code(circuits, REFUSED)
    assert await other.watch([]) == {KEY}
    assert await right(other, ask()) is Right.FREE
    assert await report_code(circuits, REFUSED) is CircuitState.OPEN
    assert await right(other, ask()) is Right.OPEN
    assert await right(other, ask(insist=True)) is Right.YOURS


async def test_a_right_is_prolonged_while_its_holder_lives(database: Database) -> None:
    circuits = CircuitStore(database)
    wish = ask()
    await circuits.ask([wish])
    for _ in range(3):
        await shift(database, RIGHT_SECONDS - 1)
        await circuits.watch([wish.token])
    assert await right(circuits, ask()) is Right.BUSY
    await shift(database, RIGHT_SECONDS + 1)
    assert await right(circuits, ask()) is Right.YOURS


async def test_a_refused_login_opens_its_circuit_half_opens_it_for_one_and_reports_each_change_once(
    database: Database,
) -> None:
    circuits, other = CircuitStore(database, POLICY), CircuitStore(database, POLICY)
    wish = ask()
    await circuits.ask([wish])
    assert await report_code(circuits, ErrorCode.AUTH_FAILED, token=wish.token) is CircuitState.OPEN
    assert [await right(worker, ask()) for worker in (circuits, other)] == [Right.OPEN] * 2
    await shift(database, 601)
    again = ask()
    assert [await right(other, again), await right(circuits, ask())] == [Right.YOURS, Right.BUSY]
    assert await report_code(other, ErrorCode.AUTH_FAILED, token=again.token) is None
    await shift(database, 1201)
    third = ask()
    assert await right(circuits, third) is Right.YOURS
    assert await report_code(circuits, None, token=third.token) is CircuitState.CLOSED
    assert await events(database) == ["circuit.opened", "circuit.closed"]


async def test_what_a_machine_says_is_stored_whatever_it_is(database: Database) -> None:
    circuits = CircuitStore(database, POLICY)
    await circuits.ask([ask()])
    said = "go away\0\udc80" + 10_000 * "!"
    assert await circuits.report([Report(KEY, "a", ErrorCode.AUTH_FAILED, said)]) == [
        CircuitState.OPEN
    ]
    (found,) = (await circuits.list(PageRequest(limit=10))).items
    assert found.message == ("go away\ufffd?" + 10_000 * "!")[:4_000]


class Choosy(CircuitStore):
    """Circuits that fail to store a report with `poison`."""

    async def report(self, reports: Sequence[Report]) -> list[CircuitState | None]:
        """Store all of them, or none."""
        if any(report.message == "poison" for report in reports):
            raise ValueError("a fault of ours (as scripted)")
        return await super().report(reports)


async def test_a_report_that_cannot_be_taken_in_keeps_no_other_from_it(database: Database) -> None:
    breaker = Breaker(Choosy(database, POLICY))
    ways = [
        Endpoint(Target(str(n), f"web-{n}", "10.0.0.1", 22, Transport.SSH), None) for n in range(3)
    ]
    said = ["no", "poison", "no"]

    async def try_(way: Endpoint, words: str) -> None:
        async with breaker.attempt(way):
            raise RemoteFailure(ErrorCode.AUTH_FAILED, words)

    ended = await asyncio.gather(*map(try_, ways, said), return_exceptions=True)
    await breaker.close()
    assert [(type(one), str(one)) for one in ended] == [(RemoteFailure, words) for words in said], (
        "as the machines said"
    )
    rows = await database.fetch("select target_id, state from circuits order by 1")
    assert [(row["target_id"], row["state"]) for row in rows] == [
        ("0", "open"),
        ("1", "closed"),
        ("2", "open"),
    ]


async def test_a_changed_login_starts_anew(database: Database) -> None:
    circuits = CircuitStore(database, POLICY)
    await report_code(circuits, ErrorCode.AUTH_FAILED)
    assert await right(circuits, ask()) is Right.OPEN
    assert await right(circuits, ask(login="b")) is Right.YOURS
    assert await events(database) == ["circuit.opened", "circuit.closed"]


async def test_the_list_shows_circuits_with_failures_and_a_reset_closes_one(
    database: Database,
) -> None:
    inventory = inventory_on(database)
    await inventory._vault.create(password("login"))
    made = await inventory.create(target("web-1", credential="login"))
    circuits = CircuitStore(database, POLICY)
    good = CircuitKey("9", "")
    await report_code(circuits, None, key=good)
    await report_code(circuits, ErrorCode.AUTH_FAILED)
    (shown,) = (await circuits.list(PageRequest())).items
    told = shown.data()
    assert told["target"] == {"id": "1", "name": "web-1", "host": "10.0.0.5"}
    assert (told["credential"], told["state"], told["error"]) == (
        "login",
        "open",
        {"code": "auth_failed", "message": "no"},
    )
    assert (await SystemStatus(database).upkeep()).circuits_open == 1
    await shift(database, 601)
    half = (
        await circuits.list(PageRequest(filters={"state": ["half_open"], "target": ["web-1"]}))
    ).items
    assert [c.target for c in half] == ["web-1"]
    assert [
        c.target_id for c in (await circuits.list(PageRequest(filters={"state": ["closed"]}))).items
    ] == ["9"]
    assert [c.target for c in await circuits.reset("1")] == ["web-1"]
    assert await circuits.reset("1") == []
    assert (await circuits.list(PageRequest())).items == []
    assert await right(circuits, ask()) is Right.YOURS
    assert await events(database) == ["circuit.opened", "circuit.closed"]
    assert made


async def test_circuits_go_with_their_target_and_their_credential(database: Database) -> None:
    inventory = inventory_on(database)
    await inventory._vault.create(password("login"))
    await inventory.create(target("web-1"))
    circuits = CircuitStore(database)
    for key in (CircuitKey("1", ""), CircuitKey("2", "1"), CircuitKey("2", "")):
        await report_code(circuits, ErrorCode.AUTH_FAILED, key=key)
    await inventory.delete("1")
    await inventory._vault.delete("1")
    assert [(c.target_id, c.credential) for c in (await circuits.list(PageRequest())).items] == [
        ("2", None)
    ]
