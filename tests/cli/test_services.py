"""`opsjobs services` against the real application: add, change, disable and remove."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from api.live import live_api
from cli.test_principals import Terminal
from opsjobs.store.transaction import Database


def keys() -> tuple[str, str]:
    """Return a private key and its public one, as PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return private, key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    ).decode()


async def test_a_service_is_registered_changed_disabled_and_removed(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, (_, public), (_, other) = tmp_path / "portal.pub", keys(), keys()
    file.write_text(public)
    async with live_api(database) as api:
        terminal = Terminal(api, tmp_path, monkeypatch, capsys)
        made = await terminal.run(
            "services", "add", "portal", "--key", str(file), "--role", "operator@team=web"
        )
        assert made == (0, "1\n", "service portal may: operator@team=web\n")
        assert (await terminal.run("services", "add", "robot", "--key", "-", stdin=other))[
            2
        ] == "service robot may: viewer\n"

        async def shown() -> tuple[str, str, bool]:
            service = json.loads(
                (await terminal.run("services", "show", "portal", "-o", "json"))[1]
            )
            return service["public_key"], str(service["grants"]), service["disabled"]

        before = await shown()
        assert (before[0].strip(), before[2]) == (public.strip(), False)
        assert (await terminal.run("services", "disable", "portal"))[
            2
        ] == "service portal is disabled\n"
        assert await shown() == (before[0], before[1], True), "nothing else changes"
        rights = [
            "--permission",
            "jobs:read@team=web",
            "--permission",
            "jobs:execute@team=web",
            "--permission",
            "targets:read",
        ]
        changed = (await terminal.run("services", "set", "portal", *rights))[2]
        assert changed == "service portal may: jobs:read jobs:execute@team=web, targets:read\n"
        assert (await shown())[2], "it is still disabled"
        assert (await terminal.run("services", "set", "portal", "--key", "-", stdin=other))[0] == 0
        assert (await shown())[0].strip() == other.strip()
        listed = (await terminal.run("services", "list"))[1]
        assert "disabled" in listed
        assert "jobs:execute@team=web" in listed
        assert (await terminal.run("services", "enable", "portal", "robot"))[2].count(
            "is enabled"
        ) == 2
        assert (await terminal.run("services", "rm", "portal", "nobody"))[0] == 4
        assert [s["name"] for s in (await api.http.get("/services")).json()["items"]] == ["robot"]
        again = ("services", "add", "portal", "--key", str(file))
        assert "--reuse-name" in (await terminal.run(*again))[2]
        assert (await terminal.run(*again, "--reuse-name"))[0] == 0


async def test_an_invalid_public_key_is_refused_and_a_private_key_is_not_sent(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, (private, _) = tmp_path / "portal.pem", keys()
    file.write_text(private)
    async with live_api(database) as api:
        terminal = Terminal(api, tmp_path, monkeypatch, capsys)
        code, _, err = await terminal.run("services", "add", "portal", "--key", str(file))
        assert code == 2
        assert "is a private key" in err
        assert (await terminal.run("services", "add", "portal", "--key", str(tmp_path / "none")))[
            0
        ] == 2
        assert (await terminal.run("services", "add", "portal", "--key", "-", stdin=""))[0] == 2
        assert (
            "is not a PEM"
            in (
                await terminal.run(
                    "services", "add", "portal", "--key", "-", stdin="ssh-ed25519 AAAA"
                )
            )[2]
        )
        assert (await terminal.run("services", "set", "portal"))[0] == 2
        assert (await api.http.get("/services")).json()["items"] == []
