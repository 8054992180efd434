"""Point 4: files of others cannot be brought to a machine by callers who may not see them.

This holds for callers who may run commands everywhere.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import problem
from opsjobs.store.transaction import Database
from security.two_scopes import principal_with, scoped_app

BYTES = {"Content-Type": "application/octet-stream"}
RUNS = (("jobs:execute", ""), ("commands:run", ""))


def bringing(file: object, **fields: Any) -> dict[str, Any]:
    """Return a body whose only action brings this file to web-1."""
    action = {
        "type": "file_transfer",
        "direction": "upload",
        "source": str(file),
        "destination": "/tmp/x",
    }
    return {"actions": [action], "targets": {"ids": ["web-1"]}, **fields}


@pytest.mark.parametrize("sees", [(), (("jobs:read", "env=staging"),)], ids=["nothing", "a scope"])
async def test_who_does_not_see_a_file_does_not_bring_it(database: Database, sees: Any) -> None:
    async with scoped_app(database) as on:
        await on.target("web-1", "staging")
        runner = on.admit(
            principal_with("ci", *RUNS, ("jobs:create", ""), ("targets:read", ""), *sees)
        )
        others = (await on.http.post("/files?name=x", content=b"secret", headers=BYTES)).json()
        for path, body in (
            ("/run", bringing(others["id"])),
            ("/jobs", bringing(others["uuid"], name="brings")),
        ):
            problem(await on.http.post(path, json=body, headers=runner), 422, "unknown_file")
        own = (
            await on.http.post("/files?name=y", content=b"mine", headers={**BYTES, **runner})
        ).json()
        assert (
            await on.http.post("/run", json=bringing(own["id"]), headers=runner)
        ).status_code == 202
        reader = on.admit(principal_with("dev", *RUNS, ("targets:read", ""), ("jobs:read", "")))
        assert (
            await on.http.post("/run", json=bringing(others["id"]), headers=reader)
        ).status_code == 202
