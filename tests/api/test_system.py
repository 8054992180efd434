"""How the service says it is."""

from __future__ import annotations

from uuid import uuid4

from prometheus_client.parser import text_string_to_metric_families

from api.kit import problem
from api.live import Channel, live
from opsjobs.api.system import fleet_gauges
from opsjobs.store.fleet import HEAD, Queue, Upkeep
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Incarnation, Workers

NOWHERE = DatabaseOptions("postgresql://nobody@127.0.0.1:1/nothing", connections=2)


async def test_the_probes_answer_without_a_token_and_without_detail(database: Database) -> None:
    async with live(database) as desk:
        for path in ("/livez", "/readyz", "/health", "/api/v1/health"):
            answer = await desk.http.get(path, headers={"Authorization": ""})
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_without_redis_the_service_is_degraded_and_goes_on(database: Database) -> None:
    async with live(database, Channel(answers=False)) as desk:
        answer = await desk.http.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "degraded"})
        assert (await desk.http.get("/readyz")).status_code == 200
        assert (await desk.http.get("/status")).json()["redis"] == "away"


async def test_without_migrations_the_service_is_not_ready(database: Database) -> None:
    async with live(database) as desk:
        async with database.connection() as connection:
            await connection.execute("update alembic_version set version_num = '0000'")
        assert (await desk.http.get("/health")).status_code == 503
        assert (await desk.http.get("/readyz")).status_code == 503
        assert (await desk.http.get("/livez")).status_code == 200


async def test_without_postgresql_the_service_is_unavailable_and_says_so_soon(database: Database) -> None:
    away = Database(NOWHERE)
    await away.open()
    try:
        async with live(database) as desk:
            desk.parts.fleet._database = away
            answer = await desk.http.get("/health")
            assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
            assert answer.elapsed.total_seconds() < 20
            assert (await desk.http.get("/livez")).status_code == 200
    finally:
        await away.close()


async def test_status_tells_it_all_to_whoever_may_see_it(database: Database) -> None:
    async with live(database) as desk:
        await desk.story.live(3)
        await Workers(database).register(Incarnation(uuid4(), "worker-1", "default", 7, 200), lease_seconds=15)
        await Workers(database).tick("scheduler")
        told = (await desk.http.get("/status")).json()
        assert (told["status"], told["database"]["schema"], told["scheduler"]["status"]) == ("ok", HEAD, "ok")
        assert [(w["name"], w["zone"], w["alive"], w["room"]) for w in told["workers"]] == [("worker-1", "default", True, 200)]
        assert [(q["zone"], q["running"], q["ready"]) for q in told["queues"]] == [("default", 3, 0)]
        assert (told["executions"], told["log"]["days_ahead"]) == ({"running": 1}, 14)
        assert (await desk.http.get("/workers")).json()["items"][0]["concurrency"] == 200
        assert (await desk.http.get("/queues")).json()["items"] == told["queues"]
        for path in ("/status", "/metrics", "/workers", "/queues"):
            problem(await desk.http.get(path, headers={"Authorization": "Bearer x"}), 401, "token_invalid")


async def test_metrics_hold_the_process_and_the_fleet(database: Database) -> None:
    async with live(database) as desk:
        await desk.story.live(3)
        answer = await desk.http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = {family.name: family for family in text_string_to_metric_families(answer.text)}
        assert all(name.startswith("opsjobs_") for name in found)
        assert {s.labels["state"]: s.value for s in found["opsjobs_queue_runs"].samples} == {
            "waiting": 0,
            "ready": 0,
            "running": 3,
        }
        assert found["opsjobs_database_up"].samples[0].value == 1
        assert "opsjobs_http_request_seconds" in found
        assert len(found) >= 12


async def test_metrics_are_there_without_postgresql(database: Database) -> None:
    away = Database(NOWHERE)
    async with live(database) as desk:
        desk.parts.fleet._database = away
        await away.open()
        away._pool.timeout = 0.2
        assert "opsjobs_database_up 0\n" in (await desk.http.get("/metrics")).text
        await away.close()


def test_a_zones_name_cannot_break_out_of_its_label() -> None:
    upkeep = Upkeep({}, 0, 0, 0, 15, 14, 1, 0)
    text = fleet_gauges({}, [Queue('a"b\\c\nd', 1, 2, 3, None, 1)], [], upkeep).decode()
    found = {f.name: f for f in text_string_to_metric_families(text)}
    assert found["opsjobs_workers_alive"].samples[0].labels == {"zone": 'a"b\\c\nd'}
