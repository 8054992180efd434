"""Point 19: words on a program's command line are never options; host names match a grammar."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import api_client, problem
from opsjobs.store.transaction import Database

HOSTS = [
    "-oProxyCommand=id", "-", "--help", "web 1", "web;id", "$(id)", "`id`", "web/../x", "a" * 254, "web\n1", "", "user@web",
]  # fmt: skip
USERS = ["-l", "-oProxyCommand=id", "--", ""]


@pytest.mark.parametrize("host", HOSTS)
async def test_what_is_no_host_name_is_no_target(database: Database, host: str) -> None:
    async with api_client(database) as ada:
        body = problem(
            await ada.http.post("/targets", json={"name": "web-1", "host": host}), 422, "invalid"
        )
        assert [error["pointer"] for error in body["errors"]] == ["/host"]
        good = await ada.http.post("/targets", json={"name": "web-1", "host": "web-1.example.org"})
        assert good.status_code == 201


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        (
            "/credentials",
            {"name": "key", "type": "password", "password": "x", "username": None},
            "/username",
        ),
        (
            "/jobs",
            {
                "name": "j",
                "targets": {"groups": ["web"]},
                "actions": [{"command": "id", "become": {"user": None}}],
            },
            "/actions/0/command/become/user",
        ),
    ],
)
async def test_no_account_begins_with_a_dash(
    database: Database, path: str, body: dict[str, Any], pointer: str, user: str
) -> None:
    async with api_client(database) as ada:
        told = problem(await ada.http.post(path, json=_with(body, user)), 422, "invalid")
        assert any(
            error["pointer"].endswith(pointer.rpartition("/")[2]) for error in told["errors"]
        )


def _with(value: Any, user: str) -> Any:
    """Return the body with the user, unless it has one."""
    if isinstance(value, dict):
        return {key: _with(one, user) for key, one in value.items()}
    if isinstance(value, list):
        return [_with(one, user) for one in value]
    return user if value is None else value
