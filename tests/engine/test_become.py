"""Become another user: the credential is pinned at launch and opened just in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import FakeMachine, Gate
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.errors import Invalid, RemoteFailure
from opsjobs.model.execution import ErrorCode, ExecutionStatus
from opsjobs.model.job import BecomeDraft, CommandAction
from opsjobs.model.program import Become
from opsjobs.model.run_views import Execution
from opsjobs.model.secret import Secret
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.transaction import Database

CANARY = "canary-of-sudo"


def as_user(**become: Any) -> CommandAction:
    return CommandAction(command="work", become=BecomeDraft(**become))


async def credential(
    on: Harness, name: str = "sudo-pw", type: CredentialType = CredentialType.PASSWORD
) -> str:
    secret = {"password": CANARY} if type is CredentialType.PASSWORD else {}
    return str(
        (
            await on.vault.create(
                CredentialDraft(name=name, type=type, username="deploy", **secret)
            )
        ).id
    )  # type: ignore[arg-type]


def becomes(web: FakeMachine) -> list[Become | None]:
    """Return the user of each durable run there."""
    assert all(start.order is not None for start in web.starts), "a direct start"
    return [start.order.become for start in web.starts if start.order is not None]


async def launch(on: Harness, *commands: str | CommandAction) -> Execution:
    return await on.launch(commands, durable="auto")


async def failed(on: Harness, execution: Execution) -> tuple[str, str, str]:
    row = await on.row(await on.ended(execution))
    return row["status"], row["error_code"], row["error_message"]


async def test_a_command_becomes_its_user_with_the_password_of_its_credential(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        known = await credential(on)
        execution = await launch(
            on, as_user(user="postgres", method="su", credential="sudo-pw"), as_user(), "plain"
        )
        await on.ended(execution)
        spec = (await on.ledger.load_specs([execution.id]))[execution.id]
    assert becomes(web) == [Become("postgres", "su", Secret(CANARY)), Become("root", "sudo"), None]
    assert spec.actions[0]["become"] == {
        "user": "postgres",
        "method": "su",
        "credential": "sudo-pw",
        "credential_id": known,
    }
    assert CANARY not in str(spec)


async def test_the_become_password_is_redacted_everywhere(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([RemoteExit(3)])
        await credential(on)
        await on.ended(await launch(on, as_user(credential="sudo-pw")))
        tables = [
            row["name"]
            for row in await database.fetch("select relname as name from pg_stat_user_tables")
        ]
        rows = [str(await database.fetch(f"select t::text from {table} t")) for table in tables]
        assert CANARY not in str(rows)
        assert CANARY not in str(on.said)


@pytest.mark.parametrize(
    ("name", "code", "pointer"),
    [
        ("nobody", "unknown_credential", "/actions/1/become/credential"),
        ("login-key", "not_a_password", "/actions/1/become/credential"),
    ],
)
async def test_an_unusable_become_credential_is_refused_at_launch(
    database: Database, name: str, code: str, pointer: str
) -> None:
    async with harness(database) as on:
        await credential(on, "login-key", CredentialType.AGENT)
        with pytest.raises(Invalid) as refused:
            await launch(on, "true", as_user(credential=name))
        assert await database.fetch("select 1 from job_executions") == []
    assert (refused.value.code, refused.value.errors[0].pointer) == (code, pointer)


async def test_a_credential_renamed_after_the_launch_is_still_used(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([RemoteExit(0)])
        known = await credential(on)
        execution = await launch(on, as_user(credential="sudo-pw"))
        renamed = CredentialDraft(
            name="other", type=CredentialType.PASSWORD, username="deploy", password="rotated"
        )  # type: ignore[arg-type]
        await on.vault.replace(known, renamed)
        await on.vault.create(
            CredentialDraft(
                name="sudo-pw", type=CredentialType.PASSWORD, username="x", password="not this"
            )
        )  # type: ignore[arg-type]
        async with on.worker():
            await on.ended(execution)
    assert becomes(web) == [Become("root", "sudo", Secret("rotated"))]


async def test_a_credential_deleted_after_the_launch_is_missing_and_nothing_starts(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([RemoteExit(0)])
        known = await credential(on)
        execution = await launch(on, as_user(credential="sudo-pw"))
        await on.vault.delete(known)
        async with on.worker():
            status, code, message = await failed(on, execution)
    assert (status, code) == ("unreachable", "credential_missing")
    assert "'sudo-pw'" in message
    assert web.starts == []


async def test_a_running_command_whose_credential_was_deleted_is_lost_and_not_repeated(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker("worker-1"):
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)])
        known = await credential(on)
        execution = await launch(on, as_user(credential="sudo-pw"))
        await asyncio.wait_for(gate.reached.wait(), 60)
        await on.vault.delete(known)
        async with on.worker("worker-2"):
            await on.bury("worker-1")
            status, code, message = await failed(on, execution)
        gate.event.set()
    assert (status, code) == ("lost", "lost")
    assert "perhaps" in message
    assert len(web.starts) == 1


async def test_after_a_takeover_a_command_is_followed_as_the_same_user(database: Database) -> None:
    async with harness(database) as on, on.worker("worker-1", lease_seconds=600):
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)])
        await credential(on)
        execution = await launch(on, as_user(credential="sudo-pw"))
        await asyncio.wait_for(gate.reached.wait(), 60)
        async with on.worker("worker-2"):
            await on.bury("worker-1")

            async def taken() -> bool:
                return (await on.row(execution))["worker"] == "worker-2"

            await until(taken)
            gate.event.set()
            assert (await on.ended(execution)).counts == {"succeeded": 1}
    assert becomes(web) == [Become("root", "sudo", Secret(CANARY))]


async def test_the_message_of_a_machine_that_refuses_become_is_reported(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        web.refuse_start(
            RemoteFailure(ErrorCode.BECOME_FAILED, "sudo: a password is required"), begun=False
        )
        assert await failed(on, await launch(on, as_user())) == (
            "failed",
            "become_failed",
            "sudo: a password is required",
        )
        assert web.starts == []


async def test_a_machine_without_durable_runs_never_runs_it_without_become(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        web.no_spool = "rm is missing"
        status, code, message = await failed(on, await launch(on, as_user()))
    assert (status, code) == ("failed", "become_failed")
    assert "rm is missing" in message
    assert web.starts == []


async def test_a_platform_without_durable_runs_never_runs_it_without_become(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        web.durable_off = True
        assert (await failed(on, await launch(on, as_user())))[:2] == ("failed", "become_failed")
    assert web.starts == []


async def test_a_command_is_not_run_without_become_after_a_direct_one(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        web.no_spool = "rm is missing"
        execution = await on.ended(await launch(on, "plain", as_user()))
        row = await on.row(execution)
    assert (row["status"], row["error_code"]) == ("failed", "become_failed")
    assert [start.command for start in web.starts] == ["plain"]


async def test_a_target_with_durable_off_never_runs_it_without_become(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        on.targets.targets["1"] = replace(on.targets.targets["1"], durable="off")
        status, code, message = await failed(on, await launch(on, as_user()))
    assert (status, code) == ("failed", "become_failed")
    assert "durable is off" in message
    assert web.starts == []


async def test_a_changed_become_password_is_not_tried_again_and_again(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)])
        execution = await launch(on, as_user())
        await asyncio.wait_for(gate.reached.wait(), 60)
        connects = web.connects
        web.refuse(RemoteFailure(ErrorCode.BECOME_FAILED, "sudo: 1 incorrect password attempt"))
        web.cut()
        status, code, message = await failed(on, execution)
        gate.event.set()
    assert web.connects == connects + 1
    assert (status, code) == ("lost", "lost")
    assert "incorrect password" in message


async def test_an_external_become_password_is_fetched_for_each_attempt_and_redacted(
    database: Database,
) -> None:
    asked: list[tuple[str, str]] = []

    async def fetch(found: Credential, purpose: str) -> Credential:
        asked.append((found.name, purpose))
        return replace(found, password=Secret(CANARY))

    async with harness(database) as on, on.worker(fetch=fetch):
        web = on.machine("web-1").reply(
            [Output("stdout", f"it is {CANARY}".encode()), RemoteExit(0)]
        )
        source = {"backend": "vault", "path": "sudo"}
        body = {"name": "sudo-pw", "type": "password", "username": "deploy", "source": source}
        await on.vault.create(CredentialDraft.model_validate(body))
        execution = await launch(on, as_user(credential="sudo-pw"))
        await on.ended(execution)
        run_id = (await on.row(execution))["id"]
        tables = [
            row["name"]
            for row in await database.fetch("select relname as name from pg_stat_user_tables")
        ]
        rows = [str(await database.fetch(f"select t::text from {table} t")) for table in tables]
    assert becomes(web) == [Become("root", "sudo", Secret(CANARY))]
    assert asked == [("sudo-pw", f"execution {execution.id} run {run_id}")]
    assert CANARY not in str(rows)
    assert CANARY.encode().hex() not in str(rows)


async def test_an_external_become_password_that_cannot_be_fetched_starts_nothing(
    database: Database,
) -> None:
    async def fetch(found: Credential, purpose: str) -> Credential:
        raise RemoteFailure(
            ErrorCode.CREDENTIAL_MISSING, "the Vault at https://vault:8200 is sealed."
        )

    async with harness(database) as on, on.worker(fetch=fetch):
        web = on.machine("web-1").reply([RemoteExit(0)])
        source = {"backend": "vault", "path": "sudo"}
        body = {"name": "sudo-pw", "type": "password", "username": "deploy", "source": source}
        await on.vault.create(CredentialDraft.model_validate(body))
        status, code, message = await failed(on, await launch(on, as_user(credential="sudo-pw")))
    assert (status, code) == ("unreachable", "credential_missing")
    assert "is sealed" in message
    assert web.starts == []


async def test_a_retry_policy_can_wait_out_an_unavailable_vault(
    database: Database,
) -> None:
    asked: list[str] = []

    async def fetch(found: Credential, purpose: str) -> Credential:
        asked.append(purpose)
        if len(asked) == 1:
            raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, "nobody answers there")
        return replace(found, password=Secret(CANARY))

    async with harness(database) as on, on.worker(fetch=fetch):
        web = on.machine("web-1").reply([RemoteExit(0)])
        source = {"backend": "vault", "path": "sudo"}
        body = {"name": "sudo-pw", "type": "password", "username": "deploy", "source": source}
        await on.vault.create(CredentialDraft.model_validate(body))
        retry = {"max_attempts": 2, "base": "10ms", "jitter": False, "on": ["credential_missing"]}
        execution = await on.launch([as_user(credential="sudo-pw")], durable="auto", retry=retry)
        ended = await on.ended(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert becomes(web) == [Become("root", "sudo", Secret(CANARY))]
    assert len(asked) == 2
