"""Become another user end to end: ledger, vault, worker, OpenSSH and sudo are real."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engine.harness import Harness, harness, until
from kit.machines import endpoint_of
from kit.os_accounts import account, configured, needs
from kit.sshd import Sshd, sshd
from opsjobs.engine.background.remote_cleanup import RemoteCleanup
from opsjobs.model.credential import CredentialType
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.job import BecomeDraft, CommandAction
from opsjobs.model.run_views import Execution
from opsjobs.model.target import Endpoint
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool
from opsjobs.store.transaction import Database

PASSWORD = "canary-of-deploy"
DAY_SECONDS = 24 * 3600.0


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd() as running:
        yield running


@dataclass(frozen=True, slots=True)
class RealHarness:
    """A harness whose machine is real: `deploy` logs in, and may become ben by sudo with a password."""

    on: Harness
    sessions: SshPool
    deploy: str
    ben: str

    def as_ben(self, command: str) -> CommandAction:
        """Return a command that runs as ben."""
        return CommandAction(
            command=command, become=BecomeDraft(user=self.ben, credential="sudo-pw")
        )

    async def launch(self, *commands: str | CommandAction) -> Execution:
        """Launch these commands on the machine."""
        return await self.on.launch(commands, durable="auto")

    def files(self, user: str) -> list[str]:
        """Return the files of runs that belong to this user."""
        folder = Path(pwd.getpwnam(user).pw_dir) / ".opsjobs" / "runs"
        return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


@asynccontextmanager
async def real_harness(database: Database, server: Sshd) -> AsyncIterator[RealHarness]:
    needs("sudo")
    with account(password=PASSWORD) as deploy, account() as ben:
        server.authorize(deploy, (server.folder / "login.pub").read_text().strip())
        where = endpoint_of(server, user=deploy)
        rule = f"{deploy} ALL=({ben}) ALL\n"
        with configured(f"/etc/sudoers.d/opsjobs-{os.getpid()}", rule, 0o440):
            pool = SshPool(Connector())
            async with harness(database) as on:
                on.targets.endpoints = _reached(on, where)  # type: ignore[method-assign]
                secret = CredentialDraft(
                    name="sudo-pw", type=CredentialType.PASSWORD, username=deploy, password=PASSWORD
                )  # type: ignore[arg-type]
                await on.vault.create(secret)
                try:
                    yield RealHarness(on, pool, deploy, ben)
                finally:
                    await pool.close()


def _reached(on: Harness, where: Endpoint) -> object:
    async def endpoints(target_ids: Sequence[str]) -> dict[str, Endpoint]:
        return {
            i: replace(where, target=replace(where.target, id=i, name=on.targets.targets[i].name))
            for i in target_ids
        }

    return endpoints


async def test_commands_of_several_users_run_and_are_cleaned_up_a_day_later(
    database: Database, server: Sshd
) -> None:
    async with real_harness(database, server) as real, real.on.worker(sessions=real.sessions):
        run = await real.launch(
            "id -un", real.as_ben("id -un; sleep 0.3; pwd"), "id -un >&2", real.as_ben("exit 0")
        )
        ended = await real.on.ended(run)
        assert ended.counts == {"succeeded": 1}, await real.on.results(run)
        home = pwd.getpwnam(real.ben).pw_dir
        assert await real.on.output(run) == f"{real.deploy}\n{real.ben}\n{home}\n".encode()
        assert await real.on.output(run, "stderr") == f"{real.deploy}\n".encode()
        assert real.files(real.ben)
        await real.on.turn(DAY_SECONDS + 1)
        care = RemoteCleanup(
            real.on.ledger,
            real.on.targets,
            real.on.vault,
            real.sessions,
            real.on.clock,
            zone="default",
        )
        assert (await care.run_once())["cleaned"] == 1
        assert (real.files(real.deploy), real.files(real.ben)) == ([], [])


async def test_after_a_takeover_a_real_command_is_followed_as_the_same_user(
    database: Database, server: Sshd, tmp_path: Path
) -> None:
    latch = tmp_path / "latch"
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    async with real_harness(database, server) as real:
        async with real.on.worker("worker-1", sessions=real.sessions, lease_seconds=600):
            run = await real.launch(
                "true",
                real.as_ben(f"echo one; until [ -e {latch} ]; do sleep 0.05; done; echo two"),
            )

            async def said() -> bool:
                return await real.on.output(run) == b"one\n"

            await until(said)
            async with real.on.worker("worker-2", sessions=real.sessions):
                await real.on.bury("worker-1")

                async def taken() -> bool:
                    return (await real.on.row(run))["worker"] == "worker-2"

                await until(taken)
                latch.touch()
                assert (await real.on.ended(run)).counts == {"succeeded": 1}
        assert await real.on.output(run) == b"one\ntwo\n"


async def test_a_cancel_kills_a_command_of_another_user(database: Database, server: Sshd) -> None:
    async with real_harness(database, server) as real, real.on.worker(sessions=real.sessions):
        run = await real.launch(real.as_ben("trap '' TERM; echo $$; while :; do sleep 1; done"))

        async def said() -> bool:
            return (await real.on.output(run)).endswith(b"\n")

        await until(said)
        pid = int(await real.on.output(run))
        assert Path(f"/proc/{pid}").exists()
        await real.on.cancel(run)
        assert (await real.on.ended(run)).counts == {"cancelled": 1}
        assert (await real.on.row(run))["cancel_proof"] == "killed"
        await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_a_wrong_become_password_is_reported_as_become_failed(
    database: Database, server: Sshd
) -> None:
    async with real_harness(database, server) as real, real.on.worker(sessions=real.sessions):
        (known,) = await real.on.database.fetch("select id from credentials")
        wrong = CredentialDraft(
            name="sudo-pw",
            type=CredentialType.PASSWORD,
            username=real.deploy,
            password="canary-wrong",
        )  # type: ignore[arg-type]
        await real.on.vault.replace(str(known["id"]), wrong)
        run = await real.launch(real.as_ben("true"))
        await real.on.ended(run)
        row = await real.on.row(run)
        assert (row["status"], row["error_code"]) == ("failed", "become_failed")
        assert "incorrect password attempt" in row["error_message"]
        assert "canary" not in row["error_message"]
        assert real.files(real.ben) == []
