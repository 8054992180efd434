"""`opsjobs login`, `logout`, `users` and `tokens` against the real application.

They cover the identity of commands, and how it changes.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from api.live import LiveApi, live_api
from opsjobs.cli.app import run
from opsjobs.store.transaction import Database

# It runs in this process, and logs to the same stream as the commands.
_OF_THE_SERVICE = re.compile(r"^\d{4}-.*\[(info|warning|error) .*\n", re.MULTILINE)
PASSWORD = "correct horse battery"


class Terminal:
    """Runs commands in a thread next to the service, in an environment of their own."""

    def __init__(
        self,
        api: LiveApi,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.file = home / "opsjobs" / "logins.json"
        self.url = f"http://127.0.0.1:{api.port}"
        for name, value in {
            "XDG_CONFIG_HOME": str(home),
            "OPSJOBS_DATA_DIR": str(home / "none"),
            "OPSJOBS_URL": self.url,
        }.items():
            monkeypatch.setenv(name, value)
        self.token(api.token)

    def token(self, token: str | None) -> None:
        """Set OPSJOBS_TOKEN from now on."""
        if token is None:
            self._monkeypatch.delenv("OPSJOBS_TOKEN", raising=False)
        else:
            self._monkeypatch.setenv("OPSJOBS_TOKEN", token)

    async def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = await asyncio.to_thread(run, arguments)
        said = self._capsys.readouterr()
        return code, _OF_THE_SERVICE.sub("", said.out), said.err

    def kept(self) -> dict[str, Any]:
        """Return the entry of this service in the logins file."""
        return dict(json.loads(self.file.read_text())[self.url])

    def change(self, **fields: Any) -> None:
        """Change the entry in the file."""
        self.file.write_text(json.dumps({self.url: {**self.kept(), **fields}}))


async def test_a_login_authenticates_commands_until_logout(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with live_api(database) as api:
        terminal = Terminal(api, tmp_path, monkeypatch, capsys)
        code, out, err = await terminal.run(
            "users",
            "add",
            "ben",
            "--role",
            "viewer",
            "--role",
            "operator@env=staging",
            stdin=f"{PASSWORD}\n",
        )
        assert (code, out, err) == (0, "1\n", "user ben may: viewer, operator@env=staging\n")
        terminal.token(None)
        code, _, err = await terminal.run("login", "ben", stdin="wrong\n")
        assert code == 5
        assert err == "opsjobs: The name or the password is wrong, or the user is disabled.\n"
        assert not terminal.file.exists()
        code, out, err = await terminal.run("login", "ben", stdin=f"{PASSWORD}\n")
        assert (code, out, err) == (0, "", f"logged in at {terminal.url} as ben\n")
        assert stat.S_IMODE(terminal.file.stat().st_mode) == 0o600
        assert stat.S_IMODE(terminal.file.parent.stat().st_mode) == 0o700
        first = terminal.kept()
        assert (await terminal.run("jobs", "list"))[0] == 0
        assert (await terminal.run("users", "list"))[0] == 5  # as ben, who is a viewer
        assert terminal.kept() == first
        # The access token has expired: the next command uses the refresh token; of many at once,
        # one does.
        terminal.change(expires_at=0)
        codes = await asyncio.gather(*(asyncio.to_thread(run, ["jobs", "list"]) for _ in range(4)))
        assert codes == [0] * 4
        assert terminal.kept()["refresh_token"] != first["refresh_token"]
        # OPSJOBS_TOKEN takes precedence.
        terminal.token(api.token)
        assert (await terminal.run("users", "list"))[0] == 0
        assert (await terminal.run("logout"))[0] == 0
        assert json.loads(terminal.file.read_text()) == {}
        answer = await api.http.get(
            "/auth/me", headers={"Authorization": f"Bearer {terminal_access(first)}"}
        )
        assert answer.status_code == 401
        assert (await terminal.run("logout"))[0] == 4


def terminal_access(kept: dict[str, Any]) -> str:
    return str(kept["access_token"])


async def test_a_login_that_ended_at_the_service_is_reported_and_deleted(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with live_api(database) as api:
        terminal = Terminal(api, tmp_path, monkeypatch, capsys)
        await terminal.run("users", "add", "ben", stdin=f"{PASSWORD}\n")
        await terminal.run("login", "ben", stdin=f"{PASSWORD}\n")
        assert (await terminal.run("users", "disable", "ben"))[2] == "user ben is disabled\n"
        terminal.token(None)
        terminal.change(expires_at=0)
        code, _, err = await terminal.run("jobs", "list")
        assert code == 5
        assert "The login at" in err
        assert "opsjobs login NAME" in err
        assert json.loads(terminal.file.read_text()) == {}
        terminal.file.write_text("{")
        assert "remove it, and `opsjobs login` again" in (await terminal.run("jobs", "list"))[2]


async def test_users_are_shown_changed_and_removed(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with live_api(database) as api:
        terminal = Terminal(api, tmp_path, monkeypatch, capsys)
        await terminal.run("users", "add", "ben", stdin=f"{PASSWORD}\n")
        assert "12 characters" in (await terminal.run("users", "add", "eve", stdin="short\n"))[2]
        assert (await terminal.run("users", "add", "eve", stdin=""))[0] == 2
        assert (await terminal.run("users", "set", "ben"))[0] == 2
        assert (await terminal.run("users", "set", "ben", "--role", "manager@team=web"))[
            2
        ] == "user ben may: manager@team=web\n"
        listed = (await terminal.run("users", "list"))[1]
        assert "manager@team=web" in listed
        assert "enabled" in listed
        shown = json.loads((await terminal.run("users", "show", "ben", "-o", "json"))[1])
        assert (shown["name"], shown["disabled"]) == ("ben", False)
        assert (await terminal.run("users", "passwd", "ben", stdin="another good phrase\n"))[0] == 0
        await terminal.run("login", "ben", stdin="another good phrase\n")
        terminal.token(None)
        assert (await terminal.run("users", "passwd", stdin=f"another good phrase\n{PASSWORD}\n"))[
            2
        ] == "your password is changed. Log in again\n"
        assert (await terminal.run("login", "ben", stdin=f"{PASSWORD}\n"))[0] == 0
        terminal.token(api.token)
        assert (await terminal.run("users", "enable", "ben"))[0] == 0
        assert (await terminal.run("users", "rm", "ben", "nobody"))[0] == 4
        assert (await api.http.get("/users")).json()["items"] == []


async def test_tokens_are_created_with_scope_listed_and_revoked(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with live_api(database) as api:
        terminal = Terminal(api, tmp_path, monkeypatch, capsys)
        code, out, err = await terminal.run(
            "tokens",
            "add",
            "bot",
            "--permission",
            "jobs:read,audit:read",
            "--scope",
            "env=dev",
            "--expires",
            "30d",
        )
        assert code == 0
        assert out.startswith("opsc_")
        assert "(jobs:read audit:read@env=dev)" in err
        assert (await terminal.run("tokens", "add", "bot-2"))[2].startswith(
            "token bot-2 is added (operator)"
        )
        listed = (await terminal.run("tokens", "list", "-o", "wide"))[1]
        assert "jobs:read audit:read@env=dev" in " ".join(listed.split())
        assert out.strip() not in listed
        for wrong in (
            ["--role", "viewer", "--permission", "jobs:read"],
            ["--expires", "soon"],
            ["--expires", "2999-01-01T00:00:00"],
            ["--scope", "a!=b"],
        ):
            assert (await terminal.run("tokens", "add", "bot-3", *wrong))[0] == 2
        assert (await terminal.run("tokens", "rm", "bot"))[2] == "token bot is removed\n"
        assert (
            await api.http.get("/jobs", headers={"Authorization": f"Bearer {out.strip()}"})
        ).status_code == 401
        assert os.environ["OPSJOBS_TOKEN"] not in listed
