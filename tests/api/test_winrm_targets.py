"""Targets of transport winrm over HTTP: their options, defaults and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import api_client, problem
from kit.windows_hosts import authority
from opsjobs.store.transaction import Database

LOGIN = {"name": "login", "type": "password", "username": "CORP\\deploy", "password": "canary-pw"}
KEY_LOGIN = {"name": "agent", "type": "agent", "username": "deploy"}
DEFAULTS = {
    "scheme": "https",
    "auth": "negotiate",
    "verify": True,
    "ca": None,
    "fingerprint": None,
    "engine": "winrs",
    "configuration": None,
    "encoding": None,
}
SHA256 = "AB:" * 31 + "CD"


def win(**fields: Any) -> dict[str, Any]:
    return {"name": "win-1", "host": "10.0.0.9", "transport": "winrm", **fields}


async def test_the_defaults_follow_from_the_transport(database: Database) -> None:
    async with api_client(database) as ada:
        assert (await ada.http.post("/credentials", json=LOGIN)).status_code == 201
        made = (await ada.http.post("/targets", json=win(credential="login"))).json()
        assert (made["port"], made["platform"], made["winrm"]) == (5986, "windows", DEFAULTS)
        read = (await ada.http.get("/targets/1")).json()
        assert read == {**made, **{part: read[part] for part in ("health", "can", "cannot")}}
        plain = await ada.http.post(
            "/targets", json=win(name="win-2", winrm={"scheme": "http", "auth": "ntlm"})
        )
        assert plain.json()["port"] == 5985
        web = await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.5"})
        assert web.json()["winrm"] is None


async def test_options_are_patched_one_by_one(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/targets", json=win())
        ca = authority().ca.certificate
        for change in ({"fingerprint": SHA256}, {"ca": ca}, {"auth": "credssp"}):
            changed = await ada.http.patch("/targets/1", json={"winrm": change})
            assert changed.status_code == 200, changed.text
        assert changed.json()["winrm"] == {
            **DEFAULTS,
            "fingerprint": "ab" * 31 + "cd",
            "ca": ca,
            "auth": "credssp",
        }
        assert changed.json()["version"] == 4
        back = {"transport": "ssh", "winrm": None, "port": 22, "platform": "linux"}
        assert (await ada.http.patch("/targets/1", json=back)).json()["winrm"] is None
        there = {"transport": "winrm", "port": 5986, "platform": "windows"}
        assert (await ada.http.patch("/targets/1", json=there)).json()["winrm"] == DEFAULTS


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"winrm": {"scheme": "http", "auth": "basic"}}, "basic needs scheme https"),
        ({"winrm": {"scheme": "http", "auth": "certificate"}}, "certificate needs scheme https"),
        ({"winrm": {"scheme": "http", "fingerprint": SHA256}}, "need scheme https"),
        ({"winrm": {"fingerprint": "ab"}}, "64 hexadecimal digits"),
        ({"winrm": {"ca": "no certificate"}}, "PEM form"),
        ({"winrm": {"auth": "digest"}}, "negotiate"),
        ({"winrm": {"colour": "red"}}, "colour"),
        ({"platform": "linux"}, "platform windows"),
        ({"jump": "web-1"}, "jump host"),
        ({"transport": "ssh", "winrm": {}}, "transport winrm"),
    ],
)
async def test_what_cannot_work_is_refused(
    database: Database, fields: dict[str, Any], words: str
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.5"})
        refused = await ada.http.post("/targets", json=win(**fields))
        assert refused.status_code == 422
        assert words in refused.text


async def test_a_credential_of_another_type_is_refused(database: Database) -> None:
    async with api_client(database) as ada:
        for login in (LOGIN, KEY_LOGIN):
            assert (await ada.http.post("/credentials", json=login)).status_code == 201
        refused = await ada.http.post("/targets", json=win(credential="agent"))
        problem(refused, 422, "wrong_credential_type")
        assert "of type agent, and WinRM with auth negotiate" in refused.text
        mutual = await ada.http.post(
            "/targets", json=win(credential="login", winrm={"auth": "certificate"})
        )
        assert "one of type client_certificate" in mutual.text


async def test_an_import_takes_windows_hosts(database: Database) -> None:
    async with api_client(database) as ada:
        entries = [win(), win(name="win-2", winrm={"scheme": "http"})]
        for outcome in ("created", "unchanged"):
            done = (await ada.http.post("/targets/import", json={"targets": entries})).json()
            assert [item["outcome"] for item in done["items"]] == [outcome, outcome]
