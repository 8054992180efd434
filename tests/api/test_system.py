"""The routes that report the state of the service."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.kit import job, problem
from api.live import FakeBus, live_api
from opsjobs.api.app import _admit_admin, create_app
from opsjobs.api.system import fleet_gauges
from opsjobs.model.errors import DiskFull
from opsjobs.model.secret import Secret
from opsjobs.store.envelope import new_key
from opsjobs.store.restores import Restores
from opsjobs.store.system_status import HEAD, Complaint, Queue, Upkeep
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.workers import Incarnation, Workers
from store.drafts import password

NOWHERE = DatabaseOptions("postgresql://nobody@127.0.0.1:1/nothing", connections=2)


async def test_the_probes_answer_without_a_token_and_without_detail(database: Database) -> None:
    async with live_api(database) as api:
        for path in ("/livez", "/readyz", "/health", "/api/v1/health"):
            answer = await api.http.get(path, headers={"Authorization": ""})
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_without_redis_the_service_is_degraded_and_continues(database: Database) -> None:
    async with live_api(database, FakeBus(answers=False)) as api:
        answer = await api.http.get("/health")
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "degraded", "reasons": ["redis_away"]},
        )
        assert (await api.http.get("/readyz")).status_code == 200
        assert (await api.http.get("/status")).json()["redis"] == "away"


async def test_an_unconfigured_redis_degrades_nothing(database: Database) -> None:
    channel = FakeBus(answers=False)
    channel.is_configured = False
    async with live_api(database, channel) as api:
        answer = await api.http.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        told = (await api.http.get("/status")).json()
        assert (told["status"], told["redis"], told["reasons"]) == ("ok", "not configured", [])


async def test_missing_encryption_keys_degrade_the_service_and_are_counted(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await Vault(database, [new_key()]).create(password("ada"))
        await api.services.inspection.run_once()
        answer = await api.http.get("/health")
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "degraded", "reasons": ["secrets_not_readable"]},
        )
        assert (await api.http.get("/readyz")).json() == {
            "status": "ok",
            "reasons": ["secrets_not_readable"],
        }
        told = (await api.http.get("/status")).json()
        assert told["status"] == "degraded"
        assert "1 credentials" in told["reasons"][0]["detail"]


async def test_a_full_disk_is_reported_by_every_probe_and_to_the_caller(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_api(database) as api:
        async with database.connection() as connection:
            await connection.execute(_FULL)
        answer = await api.http.post("/jobs", json=job(targets={"ids": []}))
        problem(answer, 503, "database_disk_full")
        assert "disk of the database is full" in answer.json()["detail"]
        full = Complaint(DiskFull.code, DiskFull("").detail)
        monkeypatch.setattr(api.services.inspection, "complaints", [full])
        assert (await api.http.get("/health")).json() == {
            "status": "degraded",
            "reasons": ["database_disk_full"],
        }
        assert (await api.http.get("/readyz")).json() == {
            "status": "ok",
            "reasons": ["database_disk_full"],
        }
        assert (await api.http.get("/status")).json()["reasons"] == [
            {"code": full.code, "detail": full.detail}
        ]


# The error of PostgreSQL if a table cannot grow.
_FULL = """
create function full_disk() returns trigger language plpgsql as $$
begin raise exception 'could not extend file "base/5/16384": No space left on device' using errcode = '53100'; end $$;
create trigger full_disk before insert on jobs for each row execute function full_disk()"""


async def test_an_unusable_database_makes_the_service_not_ready(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_api(database) as api:
        monkeypatch.setattr(
            api.services.inspection,
            "complaints",
            [Complaint("database_encoding", "LATIN1", fatal=True)],
        )
        for path in ("/readyz", "/health"):
            answer = await api.http.get(path)
            assert (answer.status_code, answer.json()) == (
                503,
                {"status": "unavailable", "reasons": ["database_encoding"]},
            )


async def test_the_service_is_ready_only_once_the_admin_token_is_valid(database: Database) -> None:
    token = Secret("a-token-of-thirty-two-characters-")
    async with live_api(database) as api:
        probes = api.app.state.probes
        probes.admin_waits = True
        answer = await api.http.get("/readyz")
        assert (answer.status_code, answer.json()) == (
            503,
            {"status": "unavailable", "reasons": ["admin_token"]},
        )
        await _admit_admin(api.services, token, probes)
        assert (await api.http.get("/readyz")).status_code == 200
        assert (
            await api.http.get("/jobs", headers={"Authorization": f"Bearer {token.reveal()}"})
        ).status_code == 200
    assert create_app(api.services, admin_token=token).state.probes.admin_waits
    assert not create_app(api.services).state.probes.admin_waits


async def test_without_migrations_the_service_is_not_ready(database: Database) -> None:
    async with live_api(database) as api:
        async with database.connection() as connection:
            await connection.execute("update alembic_version set version_num = '0000'")
        assert (await api.http.get("/health")).status_code == 503
        assert (await api.http.get("/readyz")).status_code == 503
        assert (await api.http.get("/livez")).status_code == 200


async def test_before_a_restore_has_finished_the_service_is_not_ready(database: Database) -> None:
    async with live_api(database) as api:
        async with database.connection() as connection:
            await connection.execute("create table restore_unfinished()")
        answer = await api.http.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["restore_not_finished"])
        await Restores(database).finish()
        assert (await api.http.get("/readyz")).status_code == 200


async def test_without_postgresql_the_service_is_unavailable_within_its_deadline(
    database: Database,
) -> None:
    away = Database(NOWHERE)
    await away.open()
    try:
        async with live_api(database) as api:
            api.services.system_status._database = away
            answer = await api.http.get("/health")
            assert (answer.status_code, answer.json()) == (
                503,
                {"status": "unavailable", "reasons": ["database"]},
            )
            assert answer.elapsed.total_seconds() < 20
            assert (await api.http.get("/livez")).status_code == 200
    finally:
        await away.close()


async def test_status_shows_servers_workers_and_queues_with_system_read(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(3)
        await Workers(database).register(
            Incarnation(uuid4(), "worker-1", "default", 7, 200), lease_seconds=600
        )
        await Workers(database).tick("scheduler")
        told = (await api.http.get("/status")).json()
        assert (told["status"], told["database"]["schema"], told["scheduler"]["status"]) == (
            "ok",
            HEAD,
            "ok",
        )
        assert [(w["name"], w["zone"], w["alive"], w["room"]) for w in told["workers"]] == [
            ("worker-1", "default", True, 200)
        ]
        assert [(q["zone"], q["running"], q["ready"]) for q in told["queues"]] == [
            ("default", 3, 0)
        ]
        assert (told["executions"], told["log"]["days_ahead"]) == ({"running": 1}, 14)
        assert (await api.http.get("/workers")).json()["items"][0]["concurrency"] == 200
        assert (await api.http.get("/queues")).json()["items"] == told["queues"]
        for path in ("/status", "/metrics", "/workers", "/queues"):
            problem(
                await api.http.get(path, headers={"Authorization": "Bearer x"}),
                401,
                "token_invalid",
            )


async def test_metrics_hold_the_process_and_the_fleet(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(3)
        answer = await api.http.get("/metrics")
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


async def test_metrics_of_the_process_are_served_without_postgresql(database: Database) -> None:
    away = Database(NOWHERE)
    async with live_api(database) as api:
        api.services.system_status._database = away
        await away.open()
        away._pool.timeout = 0.2
        assert "opsjobs_database_up 0\n" in (await api.http.get("/metrics")).text
        await away.close()


def test_a_zone_name_cannot_inject_into_metric_labels() -> None:
    upkeep = Upkeep({}, 0, 0, 0, 15, 14, 1, 0)
    text = fleet_gauges({}, [Queue('a"b\\c\nd', 1, 2, 3, None, 1)], [], upkeep).decode()
    found = {f.name: f for f in text_string_to_metric_families(text)}
    assert found["opsjobs_workers_alive"].samples[0].labels == {"zone": 'a"b\\c\nd'}
