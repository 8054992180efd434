"""Schedulers that are killed between send and mark: real processes and a real SIGKILL.

Nothing is lost, and a repetition has the same id.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from api.kit import job
from engine.harness import until
from kit.backing_servers import AUDIT_KEY
from kit.webhook_receiver import ReceiverServer, receiver
from opsjobs import failpoints
from opsjobs.api.app import create_app
from opsjobs.bus import Bus
from opsjobs.composition import build
from opsjobs.model.webhook import message_id
from opsjobs.settings import load
from opsjobs.standalone.spawn import bare_environment, spawn
from opsjobs.store.deliveries import LEASE_SECONDS
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics

JOBS = 3
# Between send and mark, and before the commit that queues.
KILLS = (
    "publish:kill_after@1",
    "delivery.queue:kill_after@1",
    "delivery.settle:kill@1",
)
CHANGES = len(KILLS)
EVENTS = JOBS * (1 + CHANGES)


def scheduler(environment: Mapping[str, str], log: Path, fault: str) -> subprocess.Popen[bytes]:
    """Start a real scheduler, with or without a fault."""
    return spawn(
        [sys.executable, "-m", "opsjobs", "scheduler"],
        log=log,
        environment={
            **bare_environment(),
            "PYTHONPATH": os.pathsep.join(sys.path),
            **environment,
            **({failpoints.VARIABLE: fault} if fault else {}),
        },
    )


@asynccontextmanager
async def api(environment: Mapping[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the API in this process."""
    services = build(load(environment))
    app = create_app(services)
    async with app.router.lifespan_context(app):
        token = await services.identities.create_key("root", "admin")
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://opsjobs",
            headers={"Authorization": f"Bearer {token}"},
        ) as client:
            yield client


async def make_jobs(client: httpx2.AsyncClient, hook: str) -> list[int]:
    """Connect a webhook, and create jobs: one subject each."""
    body = {"name": "ours", "url": hook, "events": ["job.created", "job.updated"]}
    made = await client.post("/webhooks", json=body)
    assert made.status_code == 201, made.text
    assert (await client.post("/target-groups", json={"name": "web"})).status_code == 201
    jobs = [await client.post("/jobs", json=job(f"job-{number}")) for number in range(JOBS)]
    return [each.json()["id"] for each in jobs]


async def change_jobs(client: httpx2.AsyncClient, jobs: Sequence[int], change: int) -> None:
    """Change each job once."""
    for number, id_ in enumerate(jobs):
        body = job(f"job-{number}", description=f"change {change}")
        changed = await client.put(f"/jobs/{id_}", json=body, headers={"If-Match": "*"})
        assert changed.status_code == 200, changed.text


def in_order(events: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if the first arrivals of each subject are in the order of their changes."""
    first = {each["id"]: each for each in reversed(events)}  # the first one stays
    by_subject: dict[str, list[str]] = {}
    for id_ in dict.fromkeys(each["id"] for each in events):
        by_subject.setdefault(first[id_]["subject"], []).append(first[id_]["data"]["description"])
    expected = ["", *(f"change {n}" for n in range(CHANGES))]
    return len(by_subject) == JOBS and all(told == expected for told in by_subject.values())


async def test_killed_between_send_and_mark_each_event_and_webhook_arrives(
    database: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ENCRYPTION_KEYS": AUDIT_KEY.reveal(),
        "OPSJOBS_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    bus = Bus(redis_url, Metrics())
    heard: list[dict[str, Any]] = []

    async def listen() -> None:
        async with bus.listen("opsconductor.events") as messages:
            async for _, message in messages:
                heard.append(json.loads(message))

    async with receiver() as server:
        listening = asyncio.create_task(listen())
        async with api(environment) as client:
            jobs = await make_jobs(client, server.url())
            for number, fault in enumerate(KILLS):
                await change_jobs(client, jobs, number)
                log = tmp_path / f"{number}.log"
                process = scheduler(environment, log, fault)
                code = await asyncio.to_thread(process.wait, 60)
                assert code == -signal.SIGKILL, log.read_text()
                await database.fetch(
                    "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning 1",
                    [LEASE_SECONDS + 1],
                )
        last = scheduler(environment, tmp_path / "last.log", "")
        try:
            await until(lambda: all_arrived(database))
        finally:
            last.terminate()
            await asyncio.to_thread(last.wait, 60)
        await until(lambda: len({event["id"] for event in job_events(heard)}) == EVENTS)
        listening.cancel()
        await bus.close()
    told = job_events(heard)
    arrived_again(told)
    arrived_again(hooked(server))
    assert {event["id"] for event in hooked(server)} == {event["id"] for event in told}
    assert in_order(told)
    assert in_order(hooked(server))


def job_events(heard: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in heard if event["type"].startswith("io.opsconductor.job.")]


async def all_arrived(database: Database) -> bool:
    """Return True if everything is marked: published, positioned, and delivered."""
    rows = await database.fetch(
        "select (select count(*) from events where published_at is null or position is null) as events, "
        "(select count(*) from delivery_lanes) as lanes, "
        "(select count(*) from deliveries where status = 'delivered') as done"
    )
    return (rows[0]["events"], rows[0]["lanes"], rows[0]["done"]) == (0, 0, EVENTS)


def hooked(server: ReceiverServer) -> list[dict[str, Any]]:
    """Return the events of the webhook; check the ids in their headers."""
    assert all(
        each.headers["webhook-id"] == message_id(each.event["id"]) for each in server.received
    )
    return [each.event for each in server.received]


def arrived_again(events: Sequence[Mapping[str, Any]]) -> None:
    """Check that every event arrived, some of them twice, and that repetitions are equal."""
    counts = Counter(event["id"] for event in events)
    assert len(counts) == EVENTS
    assert max(counts.values()) >= 2, "one that was killed had sent it"
    for id_ in counts:
        same = {json.dumps(event, sort_keys=True) for event in events if event["id"] == id_}
        assert len(same) == 1
