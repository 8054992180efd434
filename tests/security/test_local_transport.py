"""`transport: local` runs commands next to our keys.

It is off unless a setting turns it on, and never possible within a scope.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from kit.machines import local_endpoint
from opsjobs.engine.launching.launch import LaunchLimits
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.local import LocalSessions
from opsjobs.settings import load
from opsjobs.standalone.stack import Stack, StackOptions
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.target_import import Imports
from opsjobs.store.transaction import Database
from security.two_scopes import principal_with, scoped_app

HERE: dict[str, Any] = {
    "name": "here",
    "host": "127.0.0.1",
    "transport": "local",
    "labels": {"env": "staging"},
}
RUN: dict[str, Any] = {"actions": [{"command": "id"}], "targets": {"ids": ["here"]}}


def turn(services: Any, *, on: bool) -> None:
    """Return the services for local targets with the setting on or off."""
    services.inventory = TargetInventory(services.database, services.vault, local=on)
    services.imports = Imports(services.database, local=on)
    services.launcher._limits = LaunchLimits(local_transport=on)


async def imported(ada: ApiClient, *entries: dict[str, Any]) -> list[Any]:
    answer = await ada.http.post("/targets/import", json={"targets": [*entries]})
    return [(item["outcome"], (item["error"] or {}).get("code")) for item in answer.json()["items"]]


def test_the_setting_is_off_in_every_environment() -> None:
    for environment in ("development", "test", "staging"):
        assert not load({"ENVIRONMENT": environment}).security.local_transport
    assert load({"OPSJOBS_LOCAL_TRANSPORT": "on"}).security.local_transport


async def test_off_no_local_target_is_created_changed_or_imported(database: Database) -> None:
    async with api_client(database) as ada:
        refused = problem(await ada.http.post("/targets", json=HERE), 422, "local_transport_off")
        assert "OPSJOBS_LOCAL_TRANSPORT=on" in refused["detail"]
        assert refused["errors"][0]["pointer"] == "/transport"
        path = (await ada.http.post("/targets", json={**HERE, "transport": "ssh"})).headers[
            "location"
        ]
        problem(await ada.http.put(path, json=HERE), 422, "local_transport_off")
        assert (
            await imported(ada, HERE, {**HERE, "name": "new"})
            == [("refused", "local_transport_off")] * 2
        )


async def test_off_a_local_target_of_before_is_launched_on_no_more_and_can_be_mended(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        turn(ada.services, on=True)
        path = (await ada.http.post("/targets", json=HERE)).headers["location"]
        assert (await ada.http.post("/run", json=RUN)).status_code == 202
        turn(ada.services, on=False)
        refused = problem(await ada.http.post("/run", json=RUN), 422, "local_transport_off")
        assert "here" in refused["detail"]
        assert (await ada.http.put(path, json={**HERE, "transport": "ssh"})).status_code == 200


async def test_off_a_worker_opens_no_session() -> None:
    sessions = LocalSessions(on=False)
    with pytest.raises(RemoteFailure) as caught:
        async with sessions.session(local_endpoint()):
            pass
    assert caught.value.code is ErrorCode.SAFETY_BLOCKED
    assert [step.ok for step in await sessions.test(local_endpoint())] == [False]


async def test_within_a_scope_nobody_makes_changes_imports_or_uses_one_although_it_is_on(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        turn(app.services, on=True)
        path = (await app.http.post("/targets", json=HERE)).headers["location"]
        scoped = app.admit(principal_with("ben", ("manager", "env=staging")))
        problem(
            await app.http.post("/targets", json={**HERE, "name": "mine"}, headers=scoped),
            403,
            "out_of_reach",
        )
        problem(
            await app.http.put(path, json={**HERE, "slots": 3}, headers=scoped),
            403,
            "out_of_reach",
        )
        problem(
            await app.http.put(path, json={**HERE, "transport": "ssh"}, headers=scoped),
            403,
            "out_of_reach",
        )
        answer = await app.http.post(
            "/targets/import",
            json={"targets": [{**HERE, "slots": 4}, {**HERE, "name": "mine"}]},
            headers=scoped,
        )
        assert [item["error"]["code"] for item in answer.json()["items"]] == ["out_of_reach"] * 2
        refused = problem(
            await app.http.post("/run", json=RUN, headers=scoped), 403, "out_of_reach"
        )
        assert "transport: local" in refused["detail"]
        assert (await app.http.post("/run", json=RUN)).status_code == 202


def test_as_root_up_says_what_callers_can_do_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warnings(lab: int = 0, **environment: str) -> list[str]:
        return Stack(StackOptions(tmp_path, lab=lab, environment=environment)).warnings

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert warnings() == []
    assert "root" in warnings(OPSJOBS_LOCAL_TRANSPORT="on")[0]
    assert "lab" in warnings(lab=3)[0]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert warnings(lab=3, OPSJOBS_LOCAL_TRANSPORT="on") == []
