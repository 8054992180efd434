"""`.venv/bin/python bench/deliveries.py [--events 10000] [--webhooks 20]`: measure the time of events to webhooks, one of which hangs.

Everything runs on this machine: an embedded PostgreSQL, one sender as in a scheduler, and the receivers in a separate
process. Each event has a subject of its own. Runs once with all receivers healthy, and once with one that accepts connections and
never responds. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kit.backing_servers import Databases, make_postgres, open_folder
from opsjobs.clock import SystemClock
from opsjobs.engine.delivery.intake import DeliveryIntake, EventSource
from opsjobs.engine.delivery.sender import DeliverySender
from opsjobs.engine.delivery.webhooks import WebhookDestination, WebhookRouter
from opsjobs.engine.events import EventBuilder, EventVisibility
from opsjobs.engine.loop import Loop
from opsjobs.integrations.caller_urls import WebhookClient
from opsjobs.model.access import Grant, Principal
from opsjobs.model.addresses import networks
from opsjobs.model.events import EventType
from opsjobs.model.identity import Identity
from opsjobs.model.webhook import WebhookDraft
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.envelope import new_key
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.executions import Executions
from opsjobs.store.feeds import EventFeed
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.outbox import append_event
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.webhooks import Webhooks
from opsjobs.telemetry.logs import configure
from opsjobs.telemetry.metrics import Metrics

ADA = Principal("ada", "user", (Grant.of_role("admin"),), ("admin",))
JOB = {"id": 1, "name": "restart-web", "tags": ["web"], "description": "x" * 600}
ANSWER = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def receivers(port: multiprocessing.Queue[int]) -> None:
    """Respond 204 to every path except /hang."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST /hang "):
                await asyncio.sleep(3_600)
            writer.write(ANSWER)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1_000)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def measured(url: str, port: int, events: int, webhooks: int, *, hanging: int) -> str:
    database = Database(DatabaseOptions(url, connections=8))
    await database.open()
    keys, clock, metrics = [new_key()], SystemClock(), Metrics()
    hooks = Webhooks(database, keys, clock)
    executions, schedules = Executions(database), Schedules(database)
    inventory = TargetInventory(database, Vault(database, keys))

    async def current_principal(_: Identity) -> Principal:
        return ADA

    router = WebhookRouter(
        hooks, EventVisibility(executions, schedules, inventory), current_principal
    )
    feed, deliveries = EventFeed(database), Deliveries(database)
    source = EventSource(feed, EventBuilder(executions, ExecutionLog(database)), router)
    client = WebhookClient(allow=networks(["127.0.0.0/8"]))
    destination = WebhookDestination(hooks, client, clock, current_principal)
    sender = DeliverySender(deliveries, [destination], metrics)
    intake = DeliveryIntake(feed, deliveries, [source], metrics)
    await intake.run_once()
    for number in range(webhooks):
        path = "hang" if number < hanging else f"good-{number}"
        draft = WebhookDraft(
            name=f"{path}-{number}", url=f"http://127.0.0.1:{port}/{path}", events=["job.*"]
        )
        await hooks.create(draft, ADA)
    for start in range(0, events, 500):
        async with database.transaction() as connection:
            for n in range(start, min(start + 500, events)):
                await append_event(connection, EventType.JOB_UPDATED, uuid4(), JOB, shard=n)
    began = time.monotonic()
    loops = [
        Loop("delivery_intake", intake.run_once, interval_seconds=1.0, metrics=metrics),
        Loop("delivery_sender", sender.run_once, interval_seconds=1.0, metrics=metrics),
    ]
    intake.wake = sender.wake = loops[1].wake
    for loop in loops:
        loop.start()
    wanted = events * (webhooks - hanging)
    done = 0
    while done < wanted:
        await asyncio.sleep(1)
        rows = await database.fetch("select status, count(*) as n from deliveries group by 1")
        counts = Counter({row["status"]: row["n"] for row in rows})
        done = counts["delivered"]
    seconds = time.monotonic() - began
    (late,) = await database.fetch(
        "select percentile_cont(0.5) within group (order by finished_at - created_at) as middle, "
        "max(finished_at - created_at) as most from deliveries where status = 'delivered'"
    )
    for loop in loops:
        await loop.stop()
    await sender.close()
    await client.close()
    await database.close()
    return (
        f"| {hanging} | {wanted:,} | {seconds:.0f} | {wanted / seconds:,.0f} | "
        f"{late['middle'].total_seconds():.1f} | {late['most'].total_seconds():.1f} | {counts['pending']:,} |"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=10_000)
    options.add_argument("--webhooks", type=int, default=20)
    wanted = options.parse_args()
    configure("bench", "WARNING")
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    serving = multiprocessing.Process(target=receivers, args=(ports,), daemon=True)
    serving.start()
    port = ports.get()
    print(
        "| receivers that hang | delivered to the others | seconds | a second | queued to delivered, s: p50 | most | pending |"
    )
    print("|---|---|---|---|---|---|---|")
    for hanging in (0, 1):
        with open_folder() as folder:
            server = make_postgres(folder, {"max_connections": "100"})
            made = Databases(server.start())
            url = made.url_of(made.create())
            print(
                asyncio.run(measured(url, port, wanted.events, wanted.webhooks, hanging=hanging)),
                flush=True,
            )
            made.close()
            server.stop(5)
    serving.terminate()


if __name__ == "__main__":
    main()
