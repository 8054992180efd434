"""Deliveries: at least once, in the order of each subject; a hanging receiver delays no other."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from engine.harness import until
from opsjobs import failpoints
from opsjobs.engine.delivery import sender as sending
from opsjobs.engine.delivery.intake import Batch, DeliveryIntake
from opsjobs.engine.delivery.sender import DeliverySender
from opsjobs.engine.loop import Loop
from opsjobs.model.delivery import (
    Delivery,
    DeliveryReceiver,
    Message,
    NewDelivery,
    RetryPlan,
    SendOutcome,
)
from opsjobs.store.deliveries import (
    FAILURES_PROBED,
    LEASE_SECONDS,
    ClaimedDelivery,
    Deliveries,
    Settlement,
    cancel_pending,
    queue_deliveries,
)
from opsjobs.store.feeds import EventFeed
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics


class RecordingDestination:
    """Records deliveries.

    `down`: receivers that refuse; `hangs`: that hang; `full`: without a free place.
    """

    name = "post"
    retry = RetryPlan(first_seconds=20.0)

    def __init__(self) -> None:
        self.got: dict[str, list[str]] = defaultdict(list)
        self.attempts: list[Delivery] = []
        self.down: set[str] = set()
        self.broken: set[str] = set()
        self.hangs: set[str] = set()
        self.full: set[str] = set()

    async def send(self, delivery: Delivery) -> SendOutcome:
        self.attempts.append(delivery)
        if delivery.receiver.key in self.hangs:
            await asyncio.Event().wait()
        if delivery.receiver.key in self.full:
            return SendOutcome.postpone("no place is free", after_seconds=20.0)
        if delivery.receiver.key in self.down or delivery.message.id in self.broken:
            return SendOutcome.retry("it answers 503", code=503)
        self.got[delivery.receiver.key].append(delivery.message.id)
        return SendOutcome.delivered(code=204)


@asynccontextmanager
async def sending_to(
    database: Database, destination: RecordingDestination, *, senders: int = 1
) -> AsyncIterator[list[DeliverySender]]:
    """Run so many senders, as processes do, until the end of the block."""
    metrics, made, loops = Metrics(), list[DeliverySender](), list[Loop]()
    for _ in range(senders):
        sender = DeliverySender(Deliveries(database), [destination], metrics)
        loop = Loop("delivery_sender", sender.run_once, interval_seconds=0.05, metrics=metrics)
        sender.wake = loop.wake
        loop.start()
        made.append(sender)
        loops.append(loop)
    try:
        yield made
    finally:
        for loop, sender in zip(loops, made, strict=True):
            await loop.stop()
            await sender.close()
    assert metrics.bugs.labels("delivery_sender")._value.get() == 0


async def queue(database: Database, *ids: str, to: Sequence[str] = ("a",)) -> int:
    """Queue messages `<subject>/<number>` for these receivers."""
    receivers = [DeliveryReceiver("post", key) for key in to]
    at = datetime(2026, 3, 1, tzinfo=UTC)
    new = [
        NewDelivery(Message(each, "x.y", each.partition("/")[0], {"id": each}, at), receivers)
        for each in ids
    ]
    async with database.transaction() as connection:
        return len(await queue_deliveries(connection, "test", new))


async def turn(database: Database, seconds: float) -> None:
    """Set the database's clock forward."""
    await database.fetch(
        "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning 1", [seconds]
    )


async def statuses(database: Database) -> dict[str, int]:
    rows = await database.fetch("select status, count(*) as n from deliveries group by 1")
    return {row["status"]: row["n"] for row in rows}


async def has_statuses(database: Database, **expected: int) -> bool:
    return await statuses(database) == expected


async def at_rest(database: Database) -> bool:
    """Whether the outcome of each attempt is recorded and no lane is in work."""
    return not await leased(database)


async def settled(database: Database) -> bool:
    return not await database.fetch("select 1 from delivery_lanes")


async def test_messages_arrive_once_at_each_receiver_and_in_the_order_of_their_subject(
    database: Database,
) -> None:
    destination = RecordingDestination()
    ids = [f"s{n % 5}/{n}" for n in range(100)]
    async with sending_to(database, destination, senders=3):
        for start in range(0, 100, 10):
            await queue(database, *ids[start : start + 10], to=("a", "b"))
        assert await queue(database, *ids[:3], to=("a", "b")) == 0, "they are queued already"
        await until(lambda: settled(database))
    for key in ("a", "b"):
        assert sorted(destination.got[key]) == sorted(ids)
        for subject in range(5):
            own = [each for each in destination.got[key] if each.startswith(f"s{subject}/")]
            assert own == [each for each in ids if each.startswith(f"s{subject}/")]
    assert await statuses(database) == {"delivered": 200}


async def test_a_message_that_fails_delays_only_later_ones_of_its_subject_at_its_receiver(
    database: Database,
) -> None:
    destination = RecordingDestination()
    destination.broken = {"s1/1"}
    async with sending_to(database, destination):
        await queue(database, "s1/1", "s1/2", "s2/1", to=("a",))
        await queue(database, "s1/3", to=("b",))
        await until(lambda: "s2/1" in destination.got["a"] and "s1/3" in destination.got["b"])
        await queue(database, "s1/4")
        await until(lambda: len([d for d in destination.attempts if d.message.id == "s1/1"]) == 1)
        assert destination.got["a"] == ["s2/1"]
        destination.broken.clear()
        await until(lambda: at_rest(database))
        await turn(database, 21)
        await until(lambda: settled(database))
    assert destination.got["a"] == ["s2/1", "s1/1", "s1/2", "s1/4"]


async def test_a_receiver_that_is_down_for_an_hour_gets_everything_in_order(
    database: Database,
) -> None:
    destination = RecordingDestination()
    destination.down = {"a"}
    ids = [f"s{n % 4}/{n}" for n in range(40)]
    async with sending_to(database, destination, senders=2):
        for n in range(10):
            await queue(database, *ids[4 * n : 4 * n + 4], to=("a", "b"))
            await turn(database, 360)
        await until(lambda: len(set(destination.got["b"])) == 40)
        assert not destination.got["a"]
        assert len(destination.attempts) < 40 + 4 * 15, "the pauses grow"
        destination.down.clear()
        await until(lambda: at_rest(database))
        # One lane finds out that it is back; then all others go on at once.
        await turn(database, 1_800)
        await until(lambda: settled(database))
    # The clock was advanced while messages were sent, so leases expired: some were sent twice.
    got = list(dict.fromkeys(destination.got["a"]))
    for subject in range(4):
        own = [each for each in got if each.startswith(f"s{subject}/")]
        assert own == [each for each in ids if each.startswith(f"s{subject}/")]
    (receiver,) = await database.fetch(
        "select failures, failing_since from delivery_receivers where key = 'a'"
    )
    assert receiver == {"failures": 0, "failing_since": None}


async def test_a_receiver_that_hangs_delays_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SEND_SECONDS_MAX", 600.0)
    destination = RecordingDestination()
    destination.hangs = {"bad"}
    async with sending_to(database, destination):
        ids = [f"s{n}/1" for n in range(300)]
        await queue(database, *ids, to=("bad", "good"))
        await until(lambda: len(destination.got["good"]) == 300)
        hanging = [delivery for delivery in destination.attempts if delivery.receiver.key == "bad"]
        assert len(hanging) == sending.LANES_PER_RECEIVER
        await until(lambda: has_statuses(database, delivered=300, pending=300))
    assert await statuses(database) == {"delivered": 300, "pending": 300}


async def test_a_receiver_that_fails_again_and_again_gets_one_attempt_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SEND_SECONDS_MAX", 600.0)
    destination = RecordingDestination()
    destination.down = {"a"}
    async with sending_to(database, destination):
        await queue(database, *(f"s{n}/1" for n in range(FAILURES_PROBED)))
        await until(lambda: len(destination.attempts) == FAILURES_PROBED)
        await until(lambda: failures(database, FAILURES_PROBED))
        destination.hangs = {"a"}
        await queue(database, *(f"t{n}/1" for n in range(20)))
        await until(lambda: len(destination.attempts) > FAILURES_PROBED)
        for _ in range(5):
            await asyncio.sleep(0.1)
        assert len(destination.attempts) == FAILURES_PROBED + 1


async def failures(database: Database, count: int) -> bool:
    rows = await database.fetch("select failures from delivery_receivers")
    return [row["failures"] for row in rows] == [count]


async def test_a_message_without_a_place_is_put_back_and_counts_as_no_failure(
    database: Database,
) -> None:
    async def rows() -> list[dict[str, object]]:
        return await database.fetch(
            "select d.status, d.attempts, d.attempted_at is null as unattempted, r.failures, "
            "r.failing_since, l.lease_until, d.error from deliveries d "
            "join delivery_receivers r on r.id = d.receiver_id "
            "left join delivery_lanes l on l.receiver_id = r.id"
        )

    async def put_back() -> bool:
        return (await rows())[0]["error"] is not None

    destination = RecordingDestination()
    destination.full = {"a"}
    async with sending_to(database, destination):
        await queue(database, "s/1")
        await until(put_back)
        (waiting,) = await rows()
        assert waiting == {
            "status": "pending",
            "attempts": 0,
            "unattempted": True,
            "failures": 0,
            "failing_since": None,
            "lease_until": None,
            "error": "no place is free",
        }
        destination.full.clear()
        await turn(database, 21)
        await until(lambda: settled(database))
    (done,) = await rows()
    assert (done["status"], done["attempts"]) == ("delivered", 1)


async def test_what_a_killed_process_sent_but_did_not_record_is_sent_again_with_the_same_id(
    database: Database,
) -> None:
    destination = RecordingDestination()
    failpoints.arm("delivery.settle:error@1")
    async with sending_to(database, destination):
        await queue(database, "s1/1", "s1/2")
        await until(lambda: destination.got["a"] == ["s1/1"])
        await until(lambda: leased(database))
    failpoints.arm("")
    async with sending_to(database, destination):
        await asyncio.sleep(0.3)
        assert destination.got["a"] == ["s1/1"], "its lease holds"
        await turn(database, LEASE_SECONDS)
        await until(lambda: settled(database))
    assert destination.got["a"] == ["s1/1", "s1/1", "s1/2"]
    assert [d.message.id for d in destination.attempts] == destination.got["a"]


async def leased(database: Database) -> bool:
    return bool(await database.fetch("select 1 from delivery_lanes where lease_until is not null"))


async def test_an_outcome_of_a_lane_that_was_taken_over_is_dropped(database: Database) -> None:
    deliveries = Deliveries(database)
    await queue(database, "s1/1")

    async def claim() -> sending.ClaimedDelivery:
        (claimed,) = await deliveries.claim(["post"], limit=5, per_receiver=5, running={})
        return claimed

    slow = await claim()
    assert not await deliveries.claim(["post"], limit=5, per_receiver=5, running={})
    await turn(database, LEASE_SECONDS)
    quick = await claim()
    failed = sending.Settlement(slow, SendOutcome.refuse("gone"), None, 1)
    assert await deliveries.settle([failed]) == []
    assert await statuses(database) == {"pending": 1}
    done = sending.Settlement(quick, SendOutcome.delivered(), None, 1)
    assert await deliveries.settle([done]) == []
    assert await statuses(database) == {"delivered": 1}


async def test_a_delivery_is_given_up_after_days_and_the_next_of_its_subject_gets_its_turn(
    database: Database,
) -> None:
    destination = RecordingDestination()
    destination.broken = {"s1/1"}
    async with sending_to(database, destination):
        await queue(database, "s1/1", "s1/2")
        await until(lambda: len(destination.attempts) == 1)
        await until(lambda: failures(database, 1))
        await turn(database, 3 * 86_400)
        await until(lambda: settled(database))
    assert destination.got["a"] == ["s1/2"]
    assert await statuses(database) == {"failed": 1, "delivered": 1}
    (row,) = await database.fetch(
        "select attempts, response_code, error from deliveries where status = 'failed'"
    )
    assert row == {"attempts": 2, "response_code": 503, "error": "it answers 503"}


async def test_a_bug_of_a_destination_is_a_failed_attempt(database: Database) -> None:
    class Buggy(RecordingDestination):
        async def send(self, delivery: Delivery) -> SendOutcome:
            self.attempts.append(delivery)
            raise ZeroDivisionError

    destination, metrics = Buggy(), Metrics()
    sender = DeliverySender(Deliveries(database), [destination], metrics)
    await queue(database, "s1/1")
    await sender.run_once()
    await until(lambda: failures(database, 1))
    assert metrics.bugs.labels("delivery_sender")._value.get() == 1
    assert metrics.delivery_attempts.labels("post", "retry")._value.get() == 1
    await sender.close()


async def test_cancelled_deliveries_are_not_sent_and_the_next_ones_are(database: Database) -> None:
    destination = RecordingDestination()
    await queue(database, "s1/1", "s2/1", to=("a", "b"))
    async with database.transaction() as connection:
        assert (
            await cancel_pending(connection, DeliveryReceiver("post", "a"), "the webhook is off")
            == 2
        )
    async with sending_to(database, destination):
        await queue(database, "s1/2", to=("a", "b"))
        await until(lambda: settled(database))
    assert destination.got["a"] == ["s1/2"]
    assert sorted(destination.got["b"]) == ["s1/1", "s1/2", "s2/1"]


async def claim(deliveries: Deliveries) -> Sequence[ClaimedDelivery]:
    return await deliveries.claim(["post"], limit=9, per_receiver=9, running={})


async def test_outcomes_do_not_wait_for_one_who_queues_for_the_same_receiver(
    database: Database,
) -> None:
    deliveries = Deliveries(database)
    await queue(database, "s1/1")
    (claimed,) = await claim(deliveries)
    refused = Settlement(claimed, SendOutcome.retry("it answers 503", code=503), 60.0, 1)
    message = Message("s2/1", "x.y", "s2", {}, datetime(2026, 3, 1, tzinfo=UTC))
    async with database.transaction() as connection, asyncio.timeout(20):
        new = [NewDelivery(message, [DeliveryReceiver("post", "a")])]
        await queue_deliveries(connection, "test", new)
        await deliveries.settle([refused])
    assert await failures(database, 1)


async def test_old_deliveries_are_deleted_with_their_messages_unless_they_are_pending(
    database: Database,
) -> None:
    destination, deliveries = RecordingDestination(), Deliveries(database)
    destination.down = {"b"}
    async with sending_to(database, destination):
        await queue(database, "s1/1", to=("a",))
        await queue(database, "s1/2", to=("a", "b"))
        await until(lambda: has_statuses(database, delivered=2, pending=1))
        await until(lambda: failures_of_b(database))
    assert await deliveries.delete_old(86_400) == 0
    await turn(database, 2 * 86_400)
    assert await deliveries.delete_old(86_400) == 1
    assert await statuses(database) == {"delivered": 1, "pending": 1}


async def test_a_message_that_is_being_delivered_again_is_not_deleted(database: Database) -> None:
    destination, deliveries = RecordingDestination(), Deliveries(database)
    async with sending_to(database, destination):
        await queue(database, "s1/1")
        await until(lambda: settled(database))
    await turn(database, 2 * 86_400)
    message = Message("s1/1", "x.y", "s1", {}, datetime(2026, 3, 1, tzinfo=UTC))
    new = [NewDelivery(message, [DeliveryReceiver("post", "a")])]
    async with database.transaction() as connection, asyncio.timeout(20):
        await queue_deliveries(connection, "test", new, redelivery=True)
        assert await deliveries.delete_old(86_400) == 0
    assert await deliveries.delete_old(86_400) == 0
    assert await statuses(database) == {"delivered": 1, "pending": 1}


async def test_a_lane_without_deliveries_is_ended_once_it_is_due(database: Database) -> None:
    deliveries = Deliveries(database)
    await queue(database, "s1/1", "s2/1")
    await database.fetch("delete from deliveries where subject = 's1' returning 1")
    assert [each.delivery.message.id for each in await claim(deliveries)] == ["s2/1"]
    lanes = await database.fetch("select subject from delivery_lanes")
    assert [row["subject"] for row in lanes] == ["s2"]


async def failures_of_b(database: Database) -> bool:
    return bool(await database.fetch("select 1 from delivery_receivers where failures > 0"))


class NumberSource:
    """A source whose facts are the numbers up to `last`."""

    def __init__(self, name: str, last: int = 0) -> None:
        self.name = name
        self.last = last
        self.fails = False

    async def start(self) -> int:
        return self.last

    async def read(self, after: int) -> Batch:
        if self.fails:
            raise ZeroDivisionError
        through = min(after + 3, self.last)
        at = datetime(2026, 3, 1, tzinfo=UTC)
        return Batch(
            through,
            [
                NewDelivery(
                    Message(f"n/{n}", "x.y", "n", {}, at), [DeliveryReceiver("post", self.name)]
                )
                for n in range(after + 1, through + 1)
            ],
        )


async def queued(database: Database) -> dict[str, Collection[str]]:
    rows = await database.fetch(
        """select r.key, array_agg(m.message_id order by d.id) as ids from deliveries d
        join delivery_messages m on m.id = d.message_id
        join delivery_receivers r on r.id = d.receiver_id group by 1"""
    )
    return {row["key"]: row["ids"] for row in rows}


async def test_each_fact_of_a_source_is_queued_once_by_any_number_of_processes(
    database: Database,
) -> None:
    good, bad = NumberSource("good", 5), NumberSource("bad", 0)
    bad.fails = True
    metrics = Metrics()
    intakes = [
        DeliveryIntake(EventFeed(database), Deliveries(database), [bad, good], metrics)
        for _ in range(3)
    ]
    await intakes[0].run_once()
    assert await queued(database) == {}, "a new source begins at its end"
    good.last = bad.last = 20
    failpoints.arm("delivery.queue:error_after@1")
    with pytest.raises(Exception, match="failpoint"):
        await intakes[0].run_once()
    failpoints.arm("")
    await asyncio.gather(*(intake.run_once() for intake in intakes))
    await intakes[0].run_once()
    assert await queued(database) == {"good": [f"n/{n}" for n in range(6, 21)]}
    assert metrics.bugs.labels("delivery_intake")._value.get() >= 1
    bad.fails = False
    await intakes[0].run_once()
    assert (await queued(database))["bad"] == [f"n/{n}" for n in range(1, 21)]
