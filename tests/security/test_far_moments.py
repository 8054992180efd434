"""Instants far from now are refused everywhere.

Neither offsets nor intervals lead out of the range of a datetime.
"""

from __future__ import annotations

import importlib
import pkgutil
from datetime import UTC
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import TypeAdapter

import opsjobs.store
from api.kit import api_client, problem
from opsjobs.model.api_model import Moment, in_reach, read_instant
from opsjobs.model.errors import Invalid
from opsjobs.store.paging import Listing, PageRequest
from opsjobs.store.transaction import Database

FAR = [
    "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59+00:00",
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "2200-01-01T00:00:00Z",
]


def listings() -> dict[str, Listing]:
    """Return every list of the store, with the module and name that it has there."""
    found = {}
    for module in pkgutil.walk_packages(opsjobs.store.__path__, "opsjobs.store."):
        if "migrations" not in module.name:
            for name, thing in vars(importlib.import_module(module.name)).items():
                if isinstance(thing, Listing):
                    found[f"{module.name}.{name}"] = thing
    return found


@pytest.mark.parametrize("far", FAR)
def test_one_function_bounds_them_and_bodies_ask_it(far: str) -> None:
    with pytest.raises(ValueError, match="out of reach"):
        read_instant(far)
    with pytest.raises(ValueError, match="out of reach"):
        TypeAdapter(Moment).validate_python(far)


def test_what_is_in_reach_is_kept_in_utc() -> None:
    assert (
        in_reach(read_instant("2026-11-24T09:00:00+02:00")).isoformat()
        == "2026-11-24T07:00:00+00:00"
    )
    for edge in ("1970-01-01T00:00:00+14:00", "2199-12-31T23:59:59-12:00"):
        assert read_instant(edge).tzinfo is UTC


@pytest.mark.parametrize("far", FAR)
async def test_no_filter_of_any_list_takes_one(database: Database, far: str) -> None:
    tried = 0
    for listing in listings().values():
        for column in [column for column, kind in listing.columns.items() if kind.kind == "moment"]:
            with pytest.raises(Invalid):
                await listing.page(database, PageRequest(filters={column: far}))
            tried += 1
    assert tried > 10


@pytest.mark.parametrize("far", FAR)
async def test_no_route_breaks_at_one(database: Database, far: str) -> None:
    async with api_client(database) as ada:
        path = (
            await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.5"})
        ).headers["location"]
        for where in (
            f"/jobs?created_at={quote(far)}",
            f"/executions?created_at={quote(far)}",
            f"/dead-letters?since={quote(far)}",
        ):
            assert (await ada.http.get(where)).status_code == 422, where
        problem(
            await ada.http.post(
                "/api-keys", json={"name": "ci", "role": "viewer", "expires_at": far}
            ),
            422,
            "invalid",
        )
        problem(await ada.http.post(f"{path}/maintenance", json={"until": far}), 422, "invalid")
        body: dict[str, Any] = {
            "name": "holidays",
            "windows": [{"from": far, "until": "2026-01-01T00:00:00Z"}],
        }
        assert (await ada.http.post("/calendars", json=body)).status_code == 422
        declared = {"name": "at", "type": "datetime", "default": far}
        job = {
            "name": "j",
            "actions": [{"command": "id"}],
            "targets": {"ids": ["web-1"]},
            "parameters": [declared],
        }
        assert (await ada.http.post("/jobs", json=job)).status_code == 422
