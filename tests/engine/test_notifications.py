"""Notifications: committed events become messages by the rules, each decided once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg import errors

from engine.harness import Harness, harness
from kit.fake_remote import Gate
from kit.schedule_fixtures import ScheduleHarness
from opsjobs import failpoints
from opsjobs.engine.notification.messages import ReceiverBook
from opsjobs.engine.notification.planner import NotificationPlanner
from opsjobs.model.delivery import NewDelivery
from opsjobs.model.errors import Unavailable
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import JobDraft, LaunchOrder
from opsjobs.model.notification import NotificationDefaultDraft
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store import notifications
from opsjobs.store.deliveries import queue_deliveries
from opsjobs.store.feeds import EventFeed
from opsjobs.store.jobs import StoredJob
from opsjobs.store.notifications import Notifications
from opsjobs.store.transaction import Connection, Database
from opsjobs.telemetry.metrics import Metrics

MAIL = {"channel": "email", "to": ["ada@example.org"]}
WEBHOOKS = {"pager": "0193c0de-0000-7000-8000-000000000001"}


class NotificationHarness:
    """Jobs whose next executions fail or succeed, and the planner."""

    def __init__(self, on: Harness) -> None:
        self.on = on
        self.notifications = Notifications(on.database)
        self.feed = EventFeed(on.database)
        self.metrics = Metrics()

    def planner(self) -> NotificationPlanner:
        async def find(names: Any, _owner: Any) -> dict[str, str]:
            return {name: WEBHOOKS[name] for name in names if name in WEBHOOKS}

        return NotificationPlanner(
            self.notifications,
            ReceiverBook(find),
            self.metrics,
            link=lambda execution: f"https://jobs.example.org/executions/{execution}",
        )

    async def plan(self) -> int:
        """Plan everything that has happened; return how many deliveries were queued."""
        while await self.feed.assign():
            pass
        return (await self.planner().run_once())["notifications"]

    async def job(self, *rules: dict[str, Any], name: str = "backup", **fields: Any) -> StoredJob:
        self.on.targets.add("web-1")
        body = {
            "name": name,
            "actions": [{"type": "command", "command": "true", "key": "dump", "durable": "off"}],
            "targets": {"ids": ["web-1"]},
            "policy": {"notify": list(rules)} if rules else {},
            **fields,
        }
        made = await self.on.jobs.create(JobDraft.model_validate(body), "ada")
        assert isinstance(made, StoredJob)
        return made

    async def end(self, job: StoredJob, code: int = 0, stderr: str = "") -> Execution:
        """Run the job to its end with this exit code."""
        machine = self.on.sessions.machine("web-1")
        said = [Output("stderr", stderr.encode())] if stderr else []
        machine.reply([*said, RemoteExit(code)])
        definition = job.job.definition
        launched = await self.on.launcher.launch(
            LaunchOrder(
                definition.actions,
                definition.targets,
                definition.policy,
                definition.name,
                job.job.id,
                job.job.version,
            ),
            triggered_by=TriggeredBy.API,
            requested_by=Identity("api_key", "ada"),
        )
        assert launched.execution is not None
        return await self.on.ended(launched.execution)

    async def queued(self) -> list[dict[str, Any]]:
        """Return the deliveries in the order in which they were queued."""
        return await self.on.database.fetch(
            "select r.destination, r.key, d.subject as lane, m.type, m.message_id, m.body "
            "from deliveries d join delivery_messages m on m.id = d.message_id "
            "join delivery_receivers r on r.id = d.receiver_id order by d.id"
        )

    async def subjects(self) -> list[str]:
        return [row["body"]["subject"].removeprefix("[opsjobs] ") for row in await self.queued()]


@asynccontextmanager
async def notification_harness(database: Database) -> AsyncIterator[NotificationHarness]:
    async with harness(database) as on, on.worker():
        made = NotificationHarness(on)
        assert await made.plan() == 0, "the first turn begins at the end of what there is"
        yield made


async def test_a_failure_and_the_recovery_are_told_with_what_failed(database: Database) -> None:
    async with notification_harness(database) as planning:
        job = await planning.job(MAIL)
        failed = await planning.end(job, 3, "tar: /srv: no space left\n")
        assert await planning.plan() == 1
        await planning.end(job)
        assert await planning.plan() == 1
        await planning.end(job)
        assert await planning.plan() == 0
        first, second = await planning.queued()
    assert (first["destination"], first["key"]) == ("email", "ada@example.org")
    assert (first["type"], second["type"]) == ("notification.failed", "notification.recovered")
    assert first["body"]["subject"] == "[opsjobs] backup #1 failed on 1 of 1 target"
    assert second["body"]["subject"] == "[opsjobs] backup #2 is back to normal after a failure"
    text = first["body"]["text"]
    assert "web-1 (10.0.0.1): failed in dump (nonzero_exit)" in text
    assert "    | tar: /srv: no space left" in text
    assert f"https://jobs.example.org/executions/{failed.id}" in text
    assert first["lane"] == f"job/{job.job.id}"
    assert first["body"]["data"]["uuid"] == failed.uuid


async def test_a_rule_reaches_each_recipient_over_its_channel(database: Database) -> None:
    async with notification_harness(database) as planning:
        rules = [
            {"channel": "email", "to": ["ada@example.org", "ben@example.org"]},
            {"channel": "service", "to": ["17"], "channel_id": "3"},
            {"channel": "apprise", "to": ["chat-url"]},
            {"channel": "webhook", "to": ["pager", "gone"]},
        ]
        failed = await planning.end(await planning.job(*rules), 1)
        assert await planning.plan() == 6
        queued = await planning.queued()
    assert [(row["destination"], row["key"]) for row in queued] == [
        ("email", "ada@example.org"),
        ("email", "ben@example.org"),
        ("notification_service", "17"),
        ("apprise", "chat-url"),
        ("webhook", WEBHOOKS["pager"]),
        ("unknown_webhook", "gone"),
    ]
    assert queued[2]["body"]["channel_id"] == "3"
    event = queued[4]["body"]["event"]
    assert queued[4]["body"]["visibility"] is None
    assert event["type"] == "io.opsconductor.notification.sent.v1"
    assert event["id"] == queued[4]["message_id"]
    assert event["subject"] == failed.uuid
    assert event["data"]["event"] == "failed"
    assert event["data"]["subject"] == "[opsjobs] backup #1 failed on 1 of 1 target"


async def test_an_event_is_decided_once_although_the_planner_is_killed(database: Database) -> None:
    async with notification_harness(database) as planning:
        job = await planning.job({**MAIL, "on": ["failed"], "quiet": {"max_per_hour": 2}})
        await planning.end(job, 1)
        for action in ("error", "error_after"):
            failpoints.arm(f"notification.plan:{action}")
            with pytest.raises(Unavailable):
                await planning.plan()
            assert await planning.queued() == []
        failpoints.arm("")
        assert await planning.plan() == 1
        assert await planning.plan() == 0
        await planning.end(job, 1)
        assert await planning.plan() == 1
        await planning.end(job, 1)
        assert await planning.plan() == 0, "the messages that were rolled back did not count"
        ids = [row["message_id"] for row in await planning.queued()]
    assert len(set(ids)) == 2


async def test_two_planners_tell_no_event_twice(database: Database) -> None:
    async with notification_harness(database) as planning:
        await planning.end(await planning.job(MAIL), 1)
        async with planning.notifications.turn() as turn:
            assert turn is not None
            assert await planning.plan() == 0, "another one has the turn"
        assert await planning.plan() == 1


async def test_only_changes_are_told_and_the_rest_is_counted(database: Database) -> None:
    async with notification_harness(database) as planning:
        job = await planning.job({**MAIL, "quiet": {"only_changes": True}})
        for code in (1, 1, 1, 0, 0, 1):
            await planning.end(job, code)
            await planning.plan()
        assert await planning.subjects() == [
            "backup #1 failed on 1 of 1 target",
            "backup #4 is back to normal after 3 failures",
            "backup #6 failed on 1 of 1 target",
        ]
        recovered = (await planning.queued())[1]["body"]
    assert "2 notifications were held back by the quiet rules since " in recovered["text"]
    assert recovered["data"]["held_back"] == 2


async def test_a_digest_gathers_and_is_sent_when_it_is_due(database: Database) -> None:
    async with notification_harness(database) as planning:
        job = await planning.job({**MAIL, "quiet": {"digest": "1h"}})
        for code in (1, 1, 0):
            await planning.end(job, code)
        assert await planning.plan() == 0
        await planning.on.turn(3_540)
        assert await planning.plan() == 0
        await planning.on.turn(70)
        assert await planning.plan() == 1
        assert await planning.plan() == 0
        (digest,) = await planning.queued()
    assert digest["type"] == "notification.digest"
    assert digest["body"]["subject"] == "[opsjobs] 3 notifications in 1h"
    assert [line.partition("  ")[2] for line in digest["body"]["text"].splitlines()[2:]] == [
        "backup #1 failed on 1 of 1 target",
        "backup #2 failed on 1 of 1 target, for the 2nd time in a row",
        "backup #3 is back to normal after 2 failures",
    ]
    assert digest["body"]["data"]["job_id"] == job.job.id


@pytest.mark.parametrize(
    "damage", ['rule = \'{"channel": "pigeon"}\'', "gathered = '7'", "gathered = '[{}]'"]
)
async def test_a_digest_that_cannot_be_read_is_deleted_and_holds_up_no_other(
    database: Database, damage: str
) -> None:
    async with notification_harness(database) as planning:
        digest = {**MAIL, "quiet": {"digest": "1h"}}
        job, other = await planning.job(digest), await planning.job(digest, name="other")
        await planning.end(job, 1)
        await planning.end(other, 1)
        assert await planning.plan() == 0
        await database.fetch(
            f"update notification_rules set {damage} where scope_id = %s returning 1", [job.job.id]
        )
        await planning.on.turn(3_610)
        await planning.end(await planning.job(MAIL, name="third"), 1)
        assert await planning.plan() == 2
        subjects = await planning.subjects()
        rows = await database.fetch("select scope_id from notification_rules order by 1")
    assert subjects == ["1 notification in 1h", "third #1 failed on 1 of 1 target"]
    assert job.job.id not in [row["scope_id"] for row in rows]


async def test_an_event_that_cannot_be_planned_is_given_up_after_an_hour(
    database: Database,
) -> None:
    async with harness(database, open_ends=True) as on, on.worker():
        planning = NotificationHarness(on)
        await planning.plan()
        first, last = await planning.job(MAIL, name="first"), await planning.job(MAIL, name="last")
        rule = {**MAIL, "on": ["approval_needed"]}
        asking = await planning.job(policy={"notify": [rule], "approval": {"approvers": 1}})
        await planning.end(first, 1)
        while await planning.feed.assign():
            pass
        definition = asking.job.definition
        order = LaunchOrder(
            definition.actions, definition.targets, definition.policy, "backup", asking.job.id, 1
        )
        await on.launcher.launch(
            order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
        )
        await database.fetch(
            'update events set data = data || \'{"expires_at": "soon"}\' '
            "where type = 'approval.requested' returning 1"
        )
        assert await planning.plan() == 1, "what comes before it is told, and stays told"
        await planning.end(last, 1)
        assert await planning.plan() == 0, "what comes after it waits"
        assert planning.metrics.bugs.labels("notification_planner")._value.get() == 2
        await on.turn(3_601)
        assert await planning.plan() == 1
        assert await planning.plan() == 0
        assert await planning.subjects() == [
            "first #1 failed on 1 of 1 target",
            "last #1 failed on 1 of 1 target",
        ]


@pytest.mark.parametrize(
    ("type_", "data"),
    [("schedule.missed", "5"), ("schedule.missed", '{"name": "nightly"}')],
)
async def test_an_event_that_cannot_be_read_ends_no_turn_and_is_given_up(
    database: Database, type_: str, data: str
) -> None:
    """It ended every later turn, too: no more notifications were sent."""
    async with notification_harness(database) as planning:
        first, last = await planning.job(MAIL, name="first"), await planning.job(MAIL, name="last")
        await planning.end(first, 1)
        await database.fetch(
            "insert into events (shard, type, subject, data) "
            "values (0, %s, gen_random_uuid(), %s::jsonb) returning 1",
            [type_, data],
        )
        assert await planning.plan() == 1, "what comes before it is told"
        await planning.on.turn(3_601)
        await planning.end(last, 1)
        assert await planning.plan() == 1
        assert planning.metrics.bugs.labels("notification_planner")._value.get() >= 1
        assert await planning.subjects() == [
            "first #1 failed on 1 of 1 target",
            "last #1 failed on 1 of 1 target",
        ]


async def test_at_most_n_in_an_hour_by_the_clock_of_the_database(database: Database) -> None:
    async with notification_harness(database) as planning:
        job = await planning.job({**MAIL, "on": ["failed"], "quiet": {"max_per_hour": 1}})
        for _ in range(3):
            await planning.end(job, 1)
        assert await planning.plan() == 1
        await planning.on.turn(3_601)
        await planning.end(job, 1)
        assert await planning.plan() == 1
        text = (await planning.queued())[1]["body"]["text"]
    assert "2 notifications were held back by the quiet rules since " in text


async def test_the_default_applies_to_jobs_without_rules_and_is_counted_over_all(
    database: Database,
) -> None:
    async with notification_harness(database) as planning:
        default = {"notify": [{**MAIL, "quiet": {"max_per_hour": 1}}]}
        await planning.notifications.set_default(NotificationDefaultDraft.model_validate(default))
        one, two = await planning.job(name="one"), await planning.job(name="two")
        none = await planning.job(name="none", policy={"notify": []})
        own = await planning.job({"channel": "email", "to": ["ben@example.org"]}, name="own")
        for job in (one, none, own, two):
            await planning.end(job, 1)
        await planning.plan()
        queued = await planning.queued()
    assert [(row["key"], row["body"]["data"]["job_name"]) for row in queued] == [
        ("ada@example.org", "one"),
        ("ben@example.org", "own"),
    ]


async def test_a_cancelled_execution_is_no_outcome(database: Database) -> None:
    async with notification_harness(database) as planning:
        job = await planning.job({**MAIL, "on": ["completed", "failed", "recovered"]})
        await planning.end(job, 1)
        machine = planning.on.sessions.machine("web-1")
        gate = Gate(asyncio.Event())
        machine.reply([gate])
        definition = job.job.definition
        order = LaunchOrder(
            definition.actions, definition.targets, definition.policy, "backup", job.job.id, 1
        )
        launched = await planning.on.launcher.launch(
            order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
        )
        assert launched.execution is not None
        await gate.reached.wait()
        await planning.on.cancel(launched.execution)
        await planning.on.ended(launched.execution)
        await planning.end(job)
        await planning.plan()
        assert await planning.subjects() == [
            "backup #1 failed on 1 of 1 target",
            "backup #3 is back to normal after a failure",
        ]


async def test_an_end_that_is_seen_late_changes_nothing(database: Database) -> None:
    async with notification_harness(database) as planning:
        job = await planning.job({**MAIL, "quiet": {"only_changes": True}})
        await planning.end(job, 1)
        await planning.end(job, 0)
        while await planning.feed.assign():
            pass
        # Their events arrive in the other order, as those of different shards may.
        await database.fetch(
            "update events set position = position + 1000 where type = 'execution.failed' returning 1"
        )
        await database.fetch("update event_positions set last = last + 1000 returning 1")
        assert (await planning.planner().run_once())["notifications"] == 0
        await planning.end(job, 1)
        await planning.plan()
        assert await planning.subjects() == ["backup #3 failed on 1 of 1 target"]


async def test_a_missed_and_a_late_firing_are_told_by_the_rules_of_the_schedule(
    database: Database,
) -> None:
    async with harness(database, open_ends=True) as on:
        planning, scheduling = NotificationHarness(on), ScheduleHarness(database)
        await planning.plan()
        rules = [{**MAIL, "on": ["late", "missed"], "late_after": "2m"}]
        job = await scheduling.job("backup", policy={"notify": []})
        await scheduling.schedule(job, "quick", notify=rules, interval=5)
        await scheduling.schedule(job, "strict", misfire="skip", notify=rules, interval=5)
        scheduler = scheduling.scheduler()
        await scheduling.turn(seconds=61)
        await scheduler.run_once()
        assert await planning.plan() == 0
        await scheduling.turn(seconds=420)
        await scheduler.run_once()
        await planning.plan()
        subjects = await planning.subjects()
        rows = await planning.queued()
    assert "backup was not launched by the schedule strict" in subjects
    assert any(" late by the schedule quick" in subject for subject in subjects)
    missed = next(row for row in rows if row["type"] == "notification.missed")
    assert missed["body"]["data"]["reason"]
    assert missed["body"]["data"]["due_at"]


async def test_a_needed_approval_is_told_at_once(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        planning = NotificationHarness(on)
        await planning.plan()
        rule = {**MAIL, "on": ["approval_needed"], "quiet": {"digest": "1h", "max_per_hour": 1}}
        policy = {"notify": [rule], "approval": {"approvers": 1}}
        job = await planning.job(policy=policy)
        definition = job.job.definition
        for _ in range(2):
            await on.launcher.launch(
                LaunchOrder(
                    definition.actions,
                    definition.targets,
                    definition.policy,
                    "backup",
                    job.job.id,
                    1,
                ),
                triggered_by=TriggeredBy.API,
                requested_by=Identity("api_key", "ada"),
            )
        assert await planning.plan() == 2
        assert await planning.subjects() == [
            "backup #1 needs an approval",
            "backup #2 needs an approval",
        ]


async def test_a_turn_queues_in_one_statement_and_is_taken_again_after_a_deadlock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[int]()

    async def queue(connection: Connection, source: str, new: Sequence[NewDelivery]) -> Any:
        calls.append(len(new))
        if len(calls) == 1:
            raise errors.DeadlockDetected
        return await queue_deliveries(connection, source, new)

    async with notification_harness(database) as planning:
        job = await planning.job(MAIL, {**MAIL, "to": ["ben@example.org"]})
        await planning.end(job, 1)
        monkeypatch.setattr(notifications, "queue_deliveries", queue)
        assert await planning.plan() == 2
        assert calls == [2, 2]
        assert [row["key"] for row in await planning.queued()] == [
            "ada@example.org",
            "ben@example.org",
        ]


async def test_an_event_that_fails_halfway_queues_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = ReceiverBook.find

    async def broken(self: ReceiverBook, channel: Any, to: Any) -> Any:
        if "ben@example.org" in to:
            raise ZeroDivisionError
        return await find(self, channel, to)

    async with notification_harness(database) as planning:
        await planning.end(await planning.job(MAIL, {**MAIL, "to": ["ben@example.org"]}), 1)
        with monkeypatch.context() as patched:
            patched.setattr(ReceiverBook, "find", broken)
            assert await planning.plan() == 0
        assert await planning.plan() == 2


async def test_old_states_of_rules_are_deleted(database: Database) -> None:
    async with notification_harness(database) as planning:
        await planning.end(await planning.job({**MAIL, "quiet": {"max_per_hour": 1}}), 1)
        await planning.plan()
        assert await planning.notifications.delete_old() == 0
        await planning.on.turn(31 * 86_400)
        assert await planning.notifications.delete_old() == 1
