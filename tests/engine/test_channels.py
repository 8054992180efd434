"""From a committed event to the mailbox and the platform: retries, killed senders, audit rows in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from engine.harness import until
from kit.backing_servers import AUDIT_KEY
from kit.mail_server import MailServer, mail_server
from kit.platform_services import MS, V3, PlatformServices, platform_services
from kit.ports import free_port
from opsjobs import failpoints
from opsjobs.clock import SystemClock
from opsjobs.composition.platform import build_integrations
from opsjobs.engine.background.audit_forwarding import (
    PENDING_MAX,
    AuditDestination,
    AuditSource,
)
from opsjobs.engine.delivery.intake import DeliveryIntake
from opsjobs.engine.delivery.sender import DeliverySender, Destination
from opsjobs.engine.loop import Loop
from opsjobs.engine.notification.channels import EmailDestination, NoWebhookDestination
from opsjobs.integrations.mail import Mailer, SmtpOptions
from opsjobs.integrations.services.messages import AuditService
from opsjobs.model.delivery import DeliveryReceiver, Message, NewDelivery
from opsjobs.model.secret import Secret
from opsjobs.settings import load
from opsjobs.store import audit
from opsjobs.store.audit_chain import Seals
from opsjobs.store.deliveries import LEASE_SECONDS, Deliveries, queue_deliveries
from opsjobs.store.feeds import AuditFeed, EventFeed
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics

AT = datetime(2026, 11, 28, 21, 0, tzinfo=UTC)


def mail_to(port: int, ca_file: Path) -> EmailDestination:
    options = SmtpOptions(
        "localhost",
        port,
        "opsjobs@example.org",
        username="opsjobs",
        password=Secret("correct horse"),
        ca_file=str(ca_file),
        timeout_seconds=30,
    )
    return EmailDestination(Mailer(options))


@asynccontextmanager
async def sender(database: Database, *destinations: Destination) -> AsyncIterator[None]:
    metrics = Metrics()
    sending = DeliverySender(Deliveries(database), destinations, metrics)
    loop = Loop("delivery_sender", sending.run_once, interval_seconds=0.05, metrics=metrics)
    sending.wake = loop.wake
    loop.start()
    try:
        yield
    finally:
        await loop.stop()
        await sending.close()


async def queue(database: Database, *ids: str, destination: str = "email") -> None:
    new = [
        NewDelivery(
            Message(
                one,
                "notification.failed",
                "job/1",
                {"subject": f"[opsjobs] {one}", "text": "-", "channel_id": None, "data": {}},
                AT,
            ),
            [DeliveryReceiver(destination, "ada@example.org")],
        )
        for one in ids
    ]
    async with database.transaction() as connection:
        await queue_deliveries(connection, "notifications", new)


async def turn(database: Database, seconds: float) -> None:
    await database.fetch(
        "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning 1", [seconds]
    )


async def rows(database: Database) -> list[dict[str, Any]]:
    return await database.fetch("select status, attempts, error from deliveries order by id")


async def settled(database: Database) -> bool:
    return not await database.fetch("select 1 from delivery_lanes")


def subjects(server: MailServer) -> Sequence[str]:
    return [message_from_bytes(m.content, policy=default)["Subject"] for m in server.received]


async def test_mail_waits_for_a_server_that_is_down_for_an_hour_and_keeps_its_order(
    database: Database, tmp_path: Path
) -> None:
    port = free_port()
    async with mail_server(tmp_path) as other:
        ca_file = other.ca_file
    async with sender(database, mail_to(port, ca_file)):
        await queue(database, "m-1", "m-2", "m-3")

        async def tried() -> bool:
            return (await rows(database))[0]["attempts"] >= 1

        await until(tried)
        await turn(database, 3_600)

        async def tried_again() -> bool:
            return (await rows(database))[0]["attempts"] >= 2

        await until(tried_again)
        assert f"localhost:{port} cannot be used" in (await rows(database))[0]["error"]
        async with mail_server(tmp_path, port=port) as server:
            await turn(database, 3_600)
            await until(lambda: settled(database))
    assert subjects(server) == ["[opsjobs] m-1", "[opsjobs] m-2", "[opsjobs] m-3"]
    assert [row["status"] for row in await rows(database)] == ["delivered"] * 3


async def test_mail_that_was_sent_but_not_recorded_comes_again_with_the_same_id(
    database: Database, tmp_path: Path
) -> None:
    async with mail_server(tmp_path) as server:
        await queue(database, "m-1")
        failpoints.arm("delivery.settle:error")
        try:
            async with sender(database, mail_to(server.port, server.ca_file)):
                await server.arrived.wait()
        finally:
            failpoints.arm("")
        assert (await rows(database))[0]["status"] == "pending"
        await turn(database, LEASE_SECONDS + 1)
        async with sender(database, mail_to(server.port, server.ca_file)):
            await until(lambda: settled(database))
        ids = [message_from_bytes(m.content)["Message-ID"] for m in server.received]
    assert len(ids) >= 2
    assert set(ids) == {"<m-1@example.org>"}


async def test_a_refused_address_is_given_up_and_holds_back_no_other_message(
    database: Database, tmp_path: Path
) -> None:
    async with mail_server(tmp_path) as server:
        server.replies["ada@example.org"] = "550 no such mailbox"
        await queue(database, "m-1")
        async with sender(database, mail_to(server.port, server.ca_file), NoWebhookDestination()):
            await until(lambda: settled(database))
            server.replies.clear()
            await queue(database, "m-2")
            await queue(database, "m-3", destination="unknown_webhook")
            await until(lambda: settled(database))
    found = await rows(database)
    assert [row["status"] for row in found] == ["failed", "delivered", "failed"]
    assert "550: no such mailbox" in found[0]["error"]
    assert "There is no webhook 'ada@example.org'" in found[2]["error"]


# --- the Audit Service


@asynccontextmanager
async def forwarding(
    database: Database, platform: PlatformServices
) -> AsyncIterator[DeliveryIntake]:
    environ = {
        "AUDIT_SERVICE_URL": platform.url("audit"),
        "AUDIT_SERVICE_PROFILE": platform.generation,
        "OPSJOBS_SERVICE_TIMEOUT": "10",
    }
    integrations = build_integrations(load(environ), SystemClock(), Metrics())
    service = integrations.get("AUDIT")
    assert service is not None
    assert service.profile.audit is not None
    destination = AuditDestination(AuditService(service.client, service.profile.audit))
    intake = DeliveryIntake(
        EventFeed(database), Deliveries(database), [AuditSource(AuditFeed(database))], Metrics()
    )
    await intake.run_once()
    try:
        async with sender(database, destination):
            yield intake
    finally:
        await integrations.close()


async def record(database: Database, first: int, last: int) -> None:
    async with database.transaction() as connection:
        things = [(n, f"job-{n}", {"version": 1}) for n in range(first, last + 1)]
        await audit.record_many(connection, "job.created", "job", things)
    while await Seals(database, [AUDIT_KEY]).seal():
        pass


@pytest.mark.parametrize("generation", [V3, MS])
async def test_sealed_rows_arrive_in_order_with_their_numbers(
    database: Database, generation: str
) -> None:
    details = "details" if generation == V3 else "event_data"
    with platform_services(generation) as platform:
        await record(database, 1, 3)
        async with forwarding(database, platform) as intake:
            await record(database, 4, 60)
            await intake.run_once()
            await until(lambda: settled(database))
        sent = [event[details]["id"] for event in platform.events]
        names = [event[details]["resource_name"] for event in platform.events]
    assert names == [f"job-{n}" for n in range(4, 61)], "from the connection of the service on"
    assert sent == sorted(sent)
    assert await AuditFeed(database).backlog("audit_service") == 0


async def test_rows_wait_for_a_service_that_is_down_and_none_is_lost(database: Database) -> None:
    with platform_services() as platform:
        async with forwarding(database, platform) as intake:
            platform.faults["audit"] = "500"
            await record(database, 1, 5)
            await intake.run_once()
            await until(lambda: bool(platform.asked("audit")))
            assert await AuditFeed(database).backlog("audit_service") == 5
            platform.faults.clear()

            async def arrived() -> bool:
                await turn(database, 300)
                return await settled(database)

            await until(arrived)
        names = [event["details"]["resource_name"] for event in platform.events]
    assert list(dict.fromkeys(names)) == [f"job-{n}" for n in range(1, 6)]


async def test_the_queue_is_bounded_and_the_rest_waits_in_the_audit_log(
    database: Database,
) -> None:
    await record(database, 1, 1)
    source, feed = AuditSource(AuditFeed(database)), AuditFeed(database)
    intake = DeliveryIntake(EventFeed(database), Deliveries(database), [source], Metrics())
    await intake.run_once()
    await record(database, 2, PENDING_MAX + 301)
    await intake.run_once()
    assert await feed.count_pending("audit_service", 10_000) == PENDING_MAX
    assert await feed.backlog("audit_service") == PENDING_MAX + 300
