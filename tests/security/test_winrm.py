"""Point 15: WinRM never speaks Basic over http."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from api.kit import api_client, problem
from opsjobs.model.winrm import WinrmAuth, WinrmOptions
from opsjobs.store.transaction import Database


@pytest.mark.parametrize("auth", [WinrmAuth.BASIC, WinrmAuth.CERTIFICATE])
def test_what_is_not_encrypted_by_itself_needs_https(auth: WinrmAuth) -> None:
    assert WinrmOptions(scheme="https", auth=auth).auth is auth
    with pytest.raises(ValidationError, match="over http it would not be encrypted"):
        WinrmOptions(scheme="http", auth=auth)


async def test_no_target_can_be_told_to_use_basic_over_http(database: Database) -> None:
    async with api_client(database) as ada:
        target = {"name": "win-1", "host": "10.0.0.9", "transport": "winrm"}
        basic = {"scheme": "http", "auth": "basic"}
        problem(await ada.http.post("/targets", json={**target, "winrm": basic}), 422, "invalid")
        made = await ada.http.post("/targets", json={**target, "winrm": {"auth": "basic"}})
        assert made.status_code == 201, made.text
        way = f"/targets/{made.json()['id']}"
        problem(await ada.http.patch(way, json={"winrm": {"scheme": "http"}}), 422, "invalid")
        problem(await ada.http.put(way, json={**target, "winrm": basic}), 422, "invalid")
