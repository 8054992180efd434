"""POST /safety/check and GET /safety/rules."""

from __future__ import annotations

import asyncio
import os
import signal

from api.kit import api_client, problem
from opsjobs.composition import build
from opsjobs.settings import load
from opsjobs.store.transaction import Database


async def test_a_safety_check_returns_verdict_and_findings(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post(
            "/safety/check", json={"interpreter": "bash", "text": "uptime\nrm -rf /\n"}
        )
        body = answer.json()
        assert (answer.status_code, body["verdict"]) == (200, "block")
        (finding,) = body["findings"]
        assert {k: finding[k] for k in ("rule", "severity", "excerpt")} == {
            "rule": "delete-everything",
            "severity": "block",
            "excerpt": "rm -rf /",
        }
        harmless = await ada.http.post("/safety/check", json={"text": "echo 'rm -rf /'"})
        assert harmless.json() == {"verdict": "allow", "findings": []}


async def test_labels_and_share_of_targets_make_the_check_stricter_and_a_viewer_may_use_it(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        viewer, text = await ada.token_of("viewer"), 'rm -rf "$X"/'
        for labels, verdict in (([], "needs_approval"), (["env=prod"], "block")):
            answer = await ada.http.post(
                "/safety/check", json={"text": text, "labels": labels}, headers=viewer
            )
            assert answer.json()["verdict"] == verdict


async def test_an_invalid_safety_check_is_refused(database: Database) -> None:
    async with api_client(database) as ada:
        for body in (
            {},
            {"text": 1},
            {"text": "ls", "share_of_targets": 2},
            {"text": "x" * (256 << 10) + "x"},
            {"text": "ls", "no": 1},
        ):
            problem(await ada.http.post("/safety/check", json=body), 422, "invalid")


async def test_the_rules_are_listed_with_reasons_and_examples(database: Database) -> None:
    async with api_client(database) as ada:
        items = (await ada.http.get("/safety/rules")).json()["items"]
        found = next(item for item in items if item["name"] == "delete-maybe-empty")
        assert found["stricter"] == [{"when": "env=prod|production", "severity": "block"}]
        assert found["example"]
        assert found["reason"].endswith(".")


async def test_safety_check_off_is_409_and_starts_no_process(
    database: Database,
) -> None:
    urls = {
        "DATABASE_URL": "postgresql://nowhere",
        "REDIS_URL": "redis://nowhere",
        "ENCRYPTION_KEYS": "A" * 43 + "=",
    }
    for wanted in ("on", "off"):
        services = build(load({**urls, "ENABLE_SAFETY_CHECKS": wanted}))
        assert (services.safety_pool is None, services.safety_service is None) == (
            wanted == "off",
            wanted == "off",
        )
    async with api_client(database) as ada:
        ada.services.safety_pool = None
        problem(await ada.http.post("/safety/check", json={"text": "ls"}), 409, "safety_off")


async def test_a_slow_safety_check_does_not_block_other_requests(database: Database) -> None:
    async with api_client(database) as ada:
        viewer = await ada.token_of("viewer")
        await ada.http.post("/safety/check", json={"text": "ls"}, headers=viewer)
        pids = ada.services.safety_pool.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        text = {"text": "rm " + "*" * 400}
        slow = asyncio.create_task(ada.http.post("/safety/check", json=text, headers=viewer))
        while not ada.services.safety_pool.is_busy:
            await asyncio.sleep(0)
        assert (await ada.http.get("/livez")).status_code == 200
        assert (await ada.http.get("/jobs")).status_code == 200
        assert not slow.done()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert (await slow).json()["verdict"] == "needs_approval"
