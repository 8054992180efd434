"""`waiting_on` of GET /executions/{id} names the reason that keeps runs from starting."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from api.live import LiveApi, live_api
from opsjobs.model.target import TargetDraft
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Incarnation

RUN = {"actions": [{"command": "uptime"}]}


async def waiting_on(ada: LiveApi, *targets: str) -> dict[str, Any] | None:
    launched = (await ada.http.post("/run", json={**RUN, "targets": {"ids": list(targets)}})).json()
    for zone in ("default", "paris"):
        await ada.services.ledger.claim(owner=uuid4(), worker="w", zone=zone, limit=0, floor=0)
    found: dict[str, Any] | None = (await ada.http.get(f"/executions/{launched['id']}")).json()[
        "waiting_on"
    ]
    return found


async def worker(ada: LiveApi, zone: str = "default") -> Incarnation:
    made = Incarnation(uuid4(), f"worker-{zone}", zone, 1, 10)
    await ada.services.database.fetch(
        """insert into workers (id, name, zone, pid, concurrency, expires_at)
           values (%s, %s, %s, 1, 10, opsjobs_now() + interval '1 minute') returning id""",
        [made.id, made.name, zone],
    )
    return made


async def test_waiting_on_names_a_zone_without_workers(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.services.inventory.create(
            TargetDraft(name="web-1", host="10.0.0.1", zone="paris")
        )
        await worker(ada)
        assert await waiting_on(ada, "web-1") == {
            "kind": "workers",
            "reason": "no worker runs in the zone paris, in which 1 target waits",
            "targets": 1,
            "target": "web-1",
            "zones": ["paris"],
        }
        await worker(ada, "paris")
        assert await waiting_on(ada, "web-1") is None
        listed = (await ada.http.get("/executions")).json()["items"]
        assert [item["waiting_on"] for item in listed] == [None, None]


async def test_waiting_on_names_targets_under_maintenance_and_without_free_slots(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        for name in ("web-1", "web-2"):
            await ada.services.inventory.create(TargetDraft(name=name, host="10.0.0.1", slots=1))
        by = await worker(ada)

        async def claims() -> None:
            await ada.services.ledger.claim(
                owner=by.id, worker=by.name, zone="default", limit=10, floor=0
            )

        await ada.http.post("/targets/1/maintenance", json={"reason": "new disk"})
        held = (await ada.http.post("/run", json={**RUN, "targets": {"ids": ["web-1"]}})).json()
        await claims()
        found = (await ada.http.get(f"/executions/{held['id']}")).json()["waiting_on"]
        assert (found["kind"], found["target"], found["until"]) == ("maintenance", "web-1", None)
        assert found["reason"] == "web-1 is under maintenance: new disk"
        await ada.http.post("/run", json={**RUN, "targets": {"ids": ["web-2"]}})
        await claims()
        full = (await ada.http.post("/run", json={**RUN, "targets": {"ids": ["web-2"]}})).json()
        await claims()
        found = (await ada.http.get(f"/executions/{full['id']}")).json()["waiting_on"]
        assert (found["kind"], found["reason"]) == (
            "slot",
            "all slots of web-2 are taken by other executions",
        )
