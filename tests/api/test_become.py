"""Actions that run as another user, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import api_client, definition_of, job, problem
from api.live import live_api
from opsjobs.store.transaction import Database

SUDO = {"name": "sudo-pw", "type": "password", "username": "deploy", "password": "canary-pw"}
AGENT = {"name": "login", "type": "agent", "username": "deploy"}


def acts(**become: Any) -> list[dict[str, Any]]:
    return [{"command": "id", "become": become}]


async def test_a_job_stores_become(database: Database) -> None:
    async with api_client(database) as ada:
        made = (await ada.http.post("/jobs", json=job(actions=acts()))).json()
        assert made["actions"][0]["become"] == {
            "user": "root",
            "method": "sudo",
            "credential": None,
        }
        again = await ada.http.put(
            "/jobs/1",
            json=definition_of(made),
            headers={"If-Match": "*"},
        )
        assert (again.status_code, again.json()["version"]) == (200, 1)
        other = await ada.http.put(
            "/jobs/1",
            json=job(actions=acts(user="postgres", method="su")),
            headers={"If-Match": "*"},
        )
        assert other.json()["actions"][0]["become"] == {
            "user": "postgres",
            "method": "su",
            "credential": None,
        }


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"actions": acts(user="-rf")}, "/actions/0/become/user", "name of an account"),
        ({"actions": acts(user="a b")}, "/actions/0/become/user", "name of an account"),
        ({"actions": acts(user="a;b")}, "/actions/0/become/user", "name of an account"),
        ({"actions": acts(user="root\n")}, "/actions/0/become/user", "name of an account"),
        ({"actions": acts(user="")}, "/actions/0/become/user", "name of an account"),
        ({"actions": acts(method="pbrun")}, "/actions/0/become/method", "'sudo', 'su' or 'doas'"),
        ({"actions": acts(password="x")}, "/actions/0/become/password", "no such field"),
        ({"actions": acts(method="doas", credential="sudo-pw")}, "/actions/0/become", "nopass"),
        (
            {"actions": [{"command": "id", "become": {}, "durable": "off"}]},
            "/actions/0/become",
            "'step-1' has become",
        ),
        ({"actions": acts(), "policy": {"durable": "off"}}, "/actions/0/become", "durable is off"),
    ],
)
async def test_an_invalid_become_is_refused(
    database: Database, fields: dict[str, Any], pointer: str, words: str
) -> None:
    code = "become_needs_durable" if "durable" in words or "has become" in words else "invalid"
    async with api_client(database) as ada:
        told = problem(await ada.http.post("/jobs", json=job(**fields)), 422, code)
        assert [error["pointer"] for error in told["errors"]] == [pointer]
        assert words in told["errors"][0]["detail"]


async def test_durable_required_in_the_action_overrides_off_in_the_policy(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        body = job(
            actions=[{"command": "id", "become": {}, "durable": "required"}],
            policy={"durable": "off"},
        )
        assert (await ada.http.post("/jobs", json=body)).status_code == 201


async def test_a_become_credential_requires_credentials_use(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await ada.http.post("/credentials", json=SUDO)
        await ada.http.post(
            "/jobs", json=job(actions=acts(credential="sudo-pw"), targets={"ids": ["web-1"]})
        )
        operator, developer = await ada.as_role("operator"), await ada.as_role("developer")
        body = {"actions": acts(credential="sudo-pw"), "targets": {"ids": ["web-1"]}}
        told = problem(await ada.http.post("/run", json=body, headers=operator), 403, "forbidden")
        assert "credentials:use" in told["detail"]
        assert (
            await ada.http.post("/run", json={**body, "actions": acts()}, headers=operator)
        ).status_code == 202
        assert (await ada.http.post("/run", json=body, headers=developer)).status_code == 202
        assert (await ada.http.post("/jobs/1/execute", headers=operator)).status_code == 202, (
            "the job's author named it"
        )


@pytest.mark.parametrize(
    ("name", "code"), [("nobody", "unknown_credential"), ("login", "not_a_password")]
)
async def test_a_launch_requires_the_become_password(
    database: Database, name: str, code: str
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await ada.http.post("/credentials", json=AGENT)
        body = {"actions": acts(credential=name), "targets": {"ids": ["web-1"]}}
        told = problem(await ada.http.post("/run", json=body), 422, code)
        assert told["errors"][0]["pointer"] == "/actions/0/become/credential"
        await ada.http.post("/jobs", json=job(**body))
        problem(await ada.http.post("/jobs/1/execute"), 422, code)
