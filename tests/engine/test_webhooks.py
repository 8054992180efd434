"""Webhooks end to end: events of real executions, signed, to a real server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from docs import asyncapi
from engine.harness import Harness, harness, until
from kit.webhook_receiver import ReceiverServer, receiver
from opsjobs import failpoints
from opsjobs.engine.delivery.intake import DeliveryIntake, EventSource
from opsjobs.engine.delivery.sender import DeliverySender
from opsjobs.engine.delivery.webhooks import WebhookDestination, WebhookRouter
from opsjobs.engine.events import PERMISSIONS as EVENT_PERMISSIONS
from opsjobs.engine.events import EventBuilder, EventVisibility
from opsjobs.integrations.caller_urls import WebhookClient
from opsjobs.model.access import PERMISSIONS, Grant, Principal, Scope
from opsjobs.model.addresses import networks
from opsjobs.model.events import EventType
from opsjobs.model.identity import Identity
from opsjobs.model.webhook import WebhookDraft
from opsjobs.store.deliveries import LEASE_SECONDS, Deliveries
from opsjobs.store.delivery_log import DeliveryLog, WebhookDelivery
from opsjobs.store.envelope import new_key
from opsjobs.store.feeds import EventFeed
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.paging import PageRequest
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.transaction import Database
from opsjobs.store.webhooks import StoredWebhook, Webhooks

ADA = Principal("ada", "user", (Grant.of_role("admin"),), ("admin",))


@dataclass
class WebhookHarness:
    """The services of webhooks over a harness, run by hand or by loops."""

    on: Harness
    webhooks: Webhooks
    intake: DeliveryIntake
    sender: DeliverySender
    log: DeliveryLog
    rights: dict[str, Principal | None]

    async def add(
        self, server: ReceiverServer, path: str = "/hook", **fields: Any
    ) -> StoredWebhook:
        """Create a webhook of ada's; its secret is in `secrets`."""
        draft = WebhookDraft(
            **{
                "name": path.removeprefix("/"),
                "url": server.url(path),
                "events": ["execution.*"],
                **fields,
            }
        )
        made = await self.webhooks.create(draft, ADA)
        assert isinstance(made, tuple)
        webhook, secret = made
        self.secrets[path] = secret.reveal()
        return webhook

    def __post_init__(self) -> None:
        self.secrets: dict[str, str] = {}

    async def deliveries(self, webhook: StoredWebhook) -> list[WebhookDelivery]:
        """Return all deliveries to it, oldest first."""
        page = await self.log.list(webhook.receiver, PageRequest(limit=200, sort="id"))
        return list(page.items)

    async def pass_all(self) -> None:
        """Queue what happened, and send it until nothing is due."""
        await self.intake.run_once()
        await until(self.idle)

    async def idle(self) -> bool:
        """Send once; return True if nothing is due or being sent."""
        claimed = (await self.sender.run_once())["claimed"]
        return not claimed and not self.sender.lanes

    async def age(self, seconds: float) -> None:
        """Set the database's clock forward."""
        await self.on.database.fetch(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning 1",
            [seconds],
        )


@asynccontextmanager
async def webhook_harness(
    database: Database, *, answer_seconds: float = 60.0
) -> AsyncIterator[WebhookHarness]:
    async with harness(database) as on:
        client = WebhookClient(allow=networks(["127.0.0.0/8"]), seconds=answer_seconds)
        webhooks = Webhooks(database, [new_key()], on.clock)
        inventory = TargetInventory(database, on.vault)
        visibility = EventVisibility(on.executions, Schedules(database), inventory)
        rights: dict[str, Principal | None] = {"ada": ADA}

        async def current_principal(identity: Identity) -> Principal | None:
            return rights[identity.name]

        feed, deliveries = EventFeed(database), Deliveries(database)
        router = WebhookRouter(webhooks, visibility, current_principal)
        source = EventSource(feed, EventBuilder(on.executions, on.journal), router)
        destination = WebhookDestination(webhooks, client, on.clock, current_principal)
        sender = DeliverySender(deliveries, [destination], on.metrics)
        intake = DeliveryIntake(feed, deliveries, [source], on.metrics)
        await intake.run_once()
        yield WebhookHarness(on, webhooks, intake, sender, DeliveryLog(database), rights)
        await sender.close()
        await client.close()


async def test_an_execution_reaches_a_webhook_signed_in_order_and_once(database: Database) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        hook = await hooks.add(server, events=["execution.*", "job.completed", "target_run.*"])
        async with hooks.on.worker():
            execution = await hooks.on.run("true", 2, max_parallel=1)
        await hooks.pass_all()
        await hooks.pass_all()
        assert [each.type for each in server.received if "target_run" not in each.type] == [
            "execution.queued", "execution.started", "execution.completed", "job.completed",
        ]  # fmt: skip
        runs = [each for each in server.received if "target_run" in each.type]
        assert len(runs) == 4
        components = asyncapi.document()["components"]
        for each in server.received:
            described = {**asyncapi.payload(EventType(each.type)), "components": components}
            jsonschema_rs.validate(described, each.event)
            each.verify(hooks.secrets["/hook"])
            with pytest.raises(WebhookVerificationError):
                each.verify("whsec_" + "A" * 43 + "=")
            assert each.headers["content-type"] == "application/json"
            assert "." not in each.headers["webhook-id"]
        ids = [each.headers["webhook-id"] for each in server.received]
        assert len(set(ids)) == len(ids) == 8
        completed = next(each for each in server.received if each.type == "execution.completed")
        assert completed.event["data"] == execution.event_data()
        logged = await hooks.deliveries(hook)
        assert {(each.status.value, each.attempts, each.response_code) for each in logged} == {
            ("delivered", 1, 204)
        }


def test_the_audience_of_every_event_is_known() -> None:
    # A notification is sent to the webhook that its rule names, and is in no stream.
    nouns = {event.value.partition(".")[0] for event in EventType} - {"notification"}
    assert nouns == set(EVENT_PERMISSIONS)
    assert set(EVENT_PERMISSIONS.values()) <= PERMISSIONS


async def test_what_a_killed_process_sent_but_did_not_record_comes_again_with_the_same_id(
    database: Database,
) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        await hooks.add(server, events=["execution.queued"])
        await hooks.on.launch()
        failpoints.arm("delivery.settle:error@1")
        await hooks.pass_all()
        failpoints.arm("")
        assert len(server.received) == 1
        await hooks.age(LEASE_SECONDS)
        await hooks.pass_all()
        first, again = server.received
        assert first.headers["webhook-id"] == again.headers["webhook-id"]
        assert first.event["id"] == again.event["id"]
        async with hooks.on.worker():
            await hooks.on.ended(await hooks.on.executions.get(1))


async def test_a_receiver_that_is_down_for_an_hour_gets_all_of_each_execution_in_order(
    database: Database,
) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        await hooks.add(server)
        server.reply = lambda _: (503, {}, b"down")
        async with hooks.on.worker():
            for _ in range(3):
                await hooks.on.run("true", 1)
                await hooks.pass_all()
                await hooks.on.turn(1_200)
                await hooks.pass_all()
        failed = len(server.received)
        server.received.clear()
        server.reply = lambda _: (200, {}, b"")
        await hooks.on.turn(1_800)
        await hooks.pass_all()
        assert failed >= 6
        by_subject: dict[str, list[str]] = {}
        for each in server.received:
            by_subject.setdefault(each.event["subject"], []).append(each.type)
        assert list(by_subject.values()) == [
            ["execution.queued", "execution.started", "execution.completed"]
        ] * 3  # fmt: skip


async def test_a_webhook_gets_what_its_owner_may_see_now(database: Database) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        staging = Principal(
            "ada", "user", (Grant.of_role("viewer", Scope.parse("env=staging")),), ("viewer",)
        )
        hook = await hooks.add(server, events=["execution.queued"])
        selecting = await hooks.add(server, "/prod", events=["*"], selector="env=prod")
        hooks.rights["ada"] = staging
        await hooks.on.launch()
        await hooks.pass_all()
        assert server.received == [], "its labels are not in the scope"
        hooks.rights["ada"] = ADA
        await hooks.on.launch()
        await hooks.intake.run_once()
        hooks.rights["ada"] = None
        await hooks.pass_all()
        assert server.received == [], "asked again when it is sent"
        (delivery,) = await hooks.deliveries(hook)
        assert delivery.status.value == "cancelled"
        assert delivery.error == "ada, who owns the webhook, has no access any more"
        assert await hooks.deliveries(selecting) == []
        async with hooks.on.worker():
            for ref in (1, 2):
                await hooks.on.ended(await hooks.on.executions.get(ref))


async def test_an_owner_who_is_gone_gets_nothing_and_one_with_less_rights_not_that(
    database: Database,
) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        hook = await hooks.add(server, events=["execution.queued"])
        # A message without a stream, like notifications and tests.
        await hooks.webhooks.send_test(hook)
        hooks.rights["ada"] = None
        await hooks.pass_all()
        hooks.rights["ada"] = ADA
        await hooks.on.launch()
        await hooks.intake.run_once()
        viewer = Grant.of_role("viewer", Scope.parse("env=staging"))
        hooks.rights["ada"] = Principal("ada", "user", (viewer,), ("viewer",))
        await hooks.pass_all()
        assert server.received == []
        assert [(each.status.value, each.error) for each in await hooks.deliveries(hook)] == [
            ("cancelled", "ada, who owns the webhook, has no access any more"),
            ("cancelled", "ada may not see this event any more"),
        ]
        async with hooks.on.worker():
            await hooks.on.ended(await hooks.on.executions.get(1))


async def test_410_disables_a_webhook_at_once_and_says_so(database: Database) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        await hooks.add(server, events=["execution.queued"])
        await hooks.add(server, "/watcher", events=["webhook.disabled"])
        server.reply = lambda got: (410 if got.path == "/hook" else 204, {}, b"")
        await hooks.on.launch()
        await hooks.pass_all()
        await hooks.pass_all()
        hook = (await hooks.webhooks.list(PageRequest(sort="id"))).items[0]
        assert (hook.enabled, hook.disabled_reason) == (False, "its receiver answered 410 Gone")
        assert [(got.path, got.type) for got in server.received] == [
            ("/hook", "execution.queued"),
            ("/watcher", "webhook.disabled"),
        ]
        rows = await database.fetch(
            "select actor, action, reason from audit_log where action = 'webhook.disabled'"
        )
        assert rows == [
            {
                "actor": "opsjobs",
                "action": "webhook.disabled",
                "reason": "its receiver answered 410 Gone",
            }
        ]
        async with hooks.on.worker():
            await hooks.on.ended(await hooks.on.executions.get(1))


async def test_a_webhook_that_accepts_nothing_for_days_is_disabled(database: Database) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        hook = await hooks.add(server, events=["execution.queued"])
        server.reply = lambda _: (500, {}, b"no")
        await hooks.on.launch()
        await hooks.pass_all()
        await hooks.age(2 * 86_400)
        await hooks.pass_all()
        assert (await hooks.webhooks.get(hook.uuid)).enabled
        await hooks.age(1.1 * 86_400)
        await hooks.pass_all()
        now = await hooks.webhooks.get(hook.uuid)
        assert now.disabled_reason == (
            "it has accepted nothing for 3 days; last: the receiver answered 500; only 2xx is a success"
        )
        async with hooks.on.worker():
            await hooks.on.ended(await hooks.on.executions.get(1))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((302, {"location": "http://127.0.0.1:1/"}, b""), "the receiver answered 302; redirects are not followed"),
        ((429, {"retry-after": "600"}, b"slow"), "the receiver answered 429; only 2xx is a success"),
        (None, "no response within 1 s"),
    ],
)  # fmt: skip
async def test_failures_are_logged_with_what_happened_and_the_next_attempt(
    database: Database, reply: Any, error: str
) -> None:
    seconds = 60.0 if reply else 1.0
    async with (
        webhook_harness(database, answer_seconds=seconds) as hooks,
        receiver() as server,
    ):
        hook = await hooks.add(server, events=["execution.queued"])
        server.reply = lambda _: reply
        await hooks.on.launch()
        await hooks.pass_all()
        (delivery,) = await hooks.deliveries(hook)
        assert (delivery.status.value, delivery.error) == ("pending", error)
        assert delivery.next_attempt_at is not None
        assert delivery.attempted_at is not None
        waits = (delivery.next_attempt_at - delivery.attempted_at).total_seconds()
        assert waits == pytest.approx(600 if reply and reply[0] == 429 else 5, abs=4)
        async with hooks.on.worker():
            await hooks.on.ended(await hooks.on.executions.get(1))


async def test_after_a_rotation_both_secrets_verify_until_the_overlap_ends(
    database: Database,
) -> None:
    async with webhook_harness(database) as hooks, receiver() as server:
        hook = await hooks.add(server)
        _, new = await hooks.webhooks.rotate(hook.uuid, 3_600.0)
        await hooks.webhooks.send_test(hook)
        await hooks.pass_all()
        (test,) = server.received
        assert test.type == "webhook.test"
        test.verify(hooks.secrets["/hook"])
        test.verify(new.reveal())
        _, newest = await hooks.webhooks.rotate(hook.uuid, 0.001)
        await hooks.webhooks.send_test(hook)
        await hooks.pass_all()
        server.received[-1].verify(newest.reveal())
        for old in (hooks.secrets["/hook"], new.reveal()):
            with pytest.raises(WebhookVerificationError):
                server.received[-1].verify(old)
