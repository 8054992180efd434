"""Login methods: passwords by two methods, keys with a passphrase, certificates, an agent."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from kit import os_accounts
from kit.command_runs import code_of, failure_of, run
from kit.machines import endpoint_of, key_credential, small_server
from kit.sshd import Sshd, keygen, sshd
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh import auth_material
from remote.conftest import pool
from remote.spool_machines import until

OK = (b"", b"", RemoteExit(0))


def password(text: str) -> Credential:
    return Credential(
        "20", 1, "ada's password", CredentialType.PASSWORD, "ada", password=Secret(text)
    )


@pytest.mark.parametrize("interactive", [False, True])
async def test_a_password_opens_the_door(interactive: bool) -> None:
    async with (
        small_server(password="correct horse", interactive=interactive) as small,
        pool() as sessions,
    ):
        assert await run(sessions, small.endpoint(password("correct horse")), "true") == OK


@pytest.mark.parametrize("interactive", [False, True])
async def test_a_wrong_password_is_tried_once(interactive: bool) -> None:
    async with (
        small_server(password="correct horse", interactive=interactive) as small,
        pool() as sessions,
    ):
        assert await code_of(sessions, small.endpoint(password("battery"))) is ErrorCode.AUTH_FAILED
        assert len(small.logins) == 1


async def test_a_password_opens_a_server_whose_dialog_asks_nothing() -> None:
    """OpenSSH without PAM offers keyboard-interactive, and has no prompt for it."""
    methods = ("KbdInteractiveAuthentication yes", "PasswordAuthentication yes", "UsePAM no")
    with (
        os_accounts.account(password="correct horse") as user,
        sshd(user=user, settings=methods) as server,
    ):
        login = dataclasses.replace(password("correct horse"), username=user)
        wrong = dataclasses.replace(login, version=2, password=Secret("battery"))
        async with pool() as sessions:
            assert await run(sessions, endpoint_of(server, credential=login), "true") == OK
            where = endpoint_of(server, credential=wrong)
            assert await code_of(sessions, where) is ErrorCode.AUTH_FAILED
        await until(lambda: "Failed password" in server.log)  # it is logged after the answer
        assert server.log.count("Failed password") == 1


async def test_a_key_is_not_offered_where_the_credential_is_a_password() -> None:
    async with small_server() as small, pool() as sessions:
        assert await code_of(sessions, small.endpoint(password("x"))) is ErrorCode.AUTH_FAILED
        assert small.logins == []


async def test_a_key_with_a_passphrase_opens_with_it(server: Sshd, encrypted_key: str) -> None:
    login = key_credential(server.user, encrypted_key, passphrase="open sesame")
    async with pool() as sessions:
        assert await run(sessions, endpoint_of(server, credential=login), "true") == OK


@pytest.mark.parametrize("passphrase", ["wrong", None])
async def test_a_wrong_or_missing_passphrase_is_credential_missing(
    server: Sshd, encrypted_key: str, passphrase: str | None
) -> None:
    login = key_credential(server.user, encrypted_key, passphrase=passphrase)
    async with pool() as sessions:
        failure = await failure_of(sessions, endpoint_of(server, credential=login))
        assert failure.code is ErrorCode.CREDENTIAL_MISSING
        assert "passphrase" in failure.message
        assert "wrong" not in failure.message


async def test_a_key_is_read_once_for_each_version_of_its_credential(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = auth_material._parse

    def counted(credential: Credential) -> auth_material.AuthMaterial:
        read.append(credential.version)
        return real(credential)

    monkeypatch.setattr(auth_material, "_parse", counted)
    async with pool() as sessions:
        for name in ("web-1", "web-2", "db-1"):
            for version in (1, 2):
                login = key_credential(server.user, server.private_key, version=version)
                assert (
                    await run(sessions, endpoint_of(server, credential=login, name=name), "true")
                    == OK
                )
    assert sorted(read) == [1, 2]


async def test_a_certificate_opens_the_door_that_trusts_its_authority(tmp_path: Path) -> None:
    keygen(tmp_path / "authority")
    keygen(tmp_path / "ada")
    with sshd(settings=[f"TrustedUserCAKeys {tmp_path}/authority.pub"]) as running:
        sign = [
            "ssh-keygen",
            "-q",
            "-s",
            str(tmp_path / "authority"),
            "-I",
            "ada",
            "-n",
            running.user,
            str(tmp_path / "ada.pub"),
        ]
        subprocess.run(sign, check=True, capture_output=True)
        login = Credential(
            "30",
            1,
            "signed",
            CredentialType.SSH_CERTIFICATE,
            running.user,
            private_key=Secret((tmp_path / "ada").read_text()),
            certificate=(tmp_path / "ada-cert.pub").read_text(),
        )
        async with pool() as sessions:
            assert await run(sessions, endpoint_of(running, credential=login), "true") == OK
            unsigned = key_credential(running.user, (tmp_path / "ada").read_text())
            assert (
                await code_of(sessions, endpoint_of(running, credential=unsigned))
                is ErrorCode.AUTH_FAILED
            )


async def test_a_certificate_of_another_key_is_credential_missing(
    server: Sshd, tmp_path: Path
) -> None:
    keygen(tmp_path / "authority")
    keygen(tmp_path / "ada")
    sign = [
        "ssh-keygen",
        "-q",
        "-s",
        str(tmp_path / "authority"),
        "-I",
        "ada",
        "-n",
        "ada",
        str(tmp_path / "ada.pub"),
    ]
    subprocess.run(sign, check=True, capture_output=True)
    login = Credential(
        "31",
        1,
        "mixed up",
        CredentialType.SSH_CERTIFICATE,
        server.user,
        private_key=Secret(server.private_key),
        certificate=(tmp_path / "ada-cert.pub").read_text(),
    )
    async with pool() as sessions:
        assert (
            await code_of(sessions, endpoint_of(server, credential=login))
            is ErrorCode.CREDENTIAL_MISSING
        )


async def test_an_agent_opens_the_door(
    server: Sshd, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    login = Credential("40", 1, "agent", CredentialType.AGENT, server.user)
    async with pool() as sessions:
        # an empty agent is distinguished from a refused login
        assert (
            await code_of(sessions, endpoint_of(server, credential=login))
            is ErrorCode.CREDENTIAL_MISSING
        )
        subprocess.run(
            ["ssh-add", "-q", str(server.folder / "login")], check=True, capture_output=True
        )
        assert await run(sessions, endpoint_of(server, credential=login), "true") == OK
        # Nothing is forwarded to the target.
        assert (
            await run(sessions, endpoint_of(server, credential=login), 'echo "[$SSH_AUTH_SOCK]"')
        )[0] == b"[]\n"


@pytest.mark.parametrize("path", ["", "/nonexistent/agent.sock"])
async def test_no_agent_is_credential_missing(
    server: Sshd, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    login = Credential("41", 1, "agent", CredentialType.AGENT, server.user)
    async with pool() as sessions:
        assert (
            await code_of(sessions, endpoint_of(server, credential=login))
            is ErrorCode.CREDENTIAL_MISSING
        )


async def test_files_agent_and_settings_of_the_workers_user_are_not_looked_at(
    server: Sshd, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / ".ssh"
    home.mkdir(parents=True)
    (home / "config").write_text("ProxyCommand touch /tmp/opsjobs-was-here\nPort 1\n")
    shutil.copy(server.folder / "login", home / "id_ed25519")
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    subprocess.run(["ssh-add", "-q", str(server.folder / "login")], check=True, capture_output=True)
    keygen(tmp_path / "other")
    wrong = key_credential(server.user, (tmp_path / "other").read_text())
    async with pool() as sessions:
        assert (
            await code_of(sessions, endpoint_of(server, credential=wrong)) is ErrorCode.AUTH_FAILED
        )
        assert await run(sessions, endpoint_of(server), "true") == OK
    assert not Path("/tmp/opsjobs-was-here").exists()


@pytest.fixture(params=["openssh", "pkcs8"])
def encrypted_key(request: pytest.FixtureRequest, server: Sshd, tmp_path: Path) -> str:
    """Return the server's login key, encrypted with a passphrase, in both common forms."""
    if request.param == "openssh":
        path = tmp_path / "closed"
        shutil.copy(server.folder / "login", path)
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(path)],
            check=True,
            capture_output=True,
        )
        return path.read_text()
    key = asyncssh.import_private_key(server.private_key)
    return key.export_private_key("pkcs8-pem", passphrase="open sesame").decode()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the socket of an empty agent for this test."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs ssh-agent: install openssh-client")
    socket = tmp_path / "agent.sock"
    told = subprocess.run(
        ["ssh-agent", "-a", str(socket)], check=True, capture_output=True, text=True
    ).stdout
    process_id = re.search(r"SSH_AGENT_PID=(\d+)", told)
    assert process_id is not None
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield str(socket)
    os.kill(int(process_id[1]), 15)
