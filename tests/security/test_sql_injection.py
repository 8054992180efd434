"""Point 22: a caller's text is always bound: it finds nothing and breaks nothing.

It is tried in every parameter of every list.
"""

from __future__ import annotations

from typing import Any

from api.live import live_api
from opsjobs.model.target import TargetDraft
from opsjobs.store.transaction import Database

PAYLOADS = [
    "' or '1'='1",
    "'; drop table targets; --",
    "1) or (1=1",
    "%s",
    "%(x)s",
    "\\'; select pg_sleep(9); --",
    "${jndi:x}",
    "*",
]
STREAMS = {"/executions/{id}/events"}


def parameters(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Yield every query parameter of every reading route without an id in its path."""
    return [
        (path, parameter["name"])
        for path, operations in description["paths"].items()
        if "{" not in path and path not in STREAMS and "get" in operations
        for parameter in operations["get"].get("parameters", [])
        if parameter["in"] == "query"
    ]


async def test_no_text_of_a_caller_becomes_a_statement(database: Database) -> None:
    async with live_api(database) as on:
        await on.services.inventory.create(TargetDraft(name="web-1", host="10.0.0.1"))
        asked = parameters((await on.http.get("/openapi.json")).json())
        assert len(asked) > 80
        for number, (path, name) in enumerate(asked):
            payload = PAYLOADS[number % len(PAYLOADS)]
            answer = await on.http.get(path, params={name: payload})
            # 303: a login at the provider begins.
            assert answer.status_code in (200, 303, 422), (path, name, payload, answer.text)
            if answer.status_code == 200 and path == "/targets":
                assert answer.json()["items"] == [], (name, payload)
        assert (await on.http.get("/targets")).json()["items"][0]["name"] == "web-1"
