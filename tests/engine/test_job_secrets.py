"""Job secrets in a worker: opened for each run, passed as secrets, redacted in output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.harness import Harness, harness
from kit.fake_remote import FakeMachine
from kit.secret_canaries import Canary
from opsjobs.model.action import CommandAction, JobAction
from opsjobs.model.credential import Credential
from opsjobs.model.credential_draft import BoundTo, CredentialDraft, RotationDraft
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, ExecutionStatus, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import JobDraft, LaunchOrder
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.policy import Policy
from opsjobs.model.run_views import Execution
from opsjobs.model.secret import Secret
from opsjobs.model.selection import SelectionDraft
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.transaction import Database

OLD, NEW = Canary("old"), Canary("new")
PASSWORD = ParameterDraft(name="password", type="secret", from_credential="db")


async def secret(on: Harness, **fields: Any) -> str:
    body = {"name": "db", "type": "secret", "value": OLD.text, **fields}
    return str((await on.vault.create(CredentialDraft.model_validate(body))).id)


async def launch(on: Harness, *commands: str, durable: str = "auto") -> Execution:
    actions = [
        CommandAction(command=command, key=f"step-{n}")
        for n, command in enumerate(commands, start=1)
    ]
    order = LaunchOrder(
        actions, SelectionDraft(ids=["web-1"]), Policy(durable=durable), "dump", declared=[PASSWORD]
    )  # type: ignore[arg-type]
    launched = await on.launcher.launch(
        order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
    )
    assert launched.execution is not None
    return launched.execution


def hidden(canary: Canary) -> str:
    return "*" * len(canary.text)


def received_secrets(web: FakeMachine) -> list[str]:
    """Return the secret of each durable start there."""
    return [
        start.order.program.secrets["password"].reveal()
        for start in web.starts
        if start.order and start.order.program
    ]


async def failed(on: Harness, execution: Execution) -> tuple[str, str, str]:
    row = await on.row(await on.ended(execution))
    return row["status"], row["error_code"], row["error_message"]


@pytest.mark.parametrize("durable", ["auto", "off"])
async def test_a_run_gets_its_job_secret_and_redacts_it(database: Database, durable: str) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([Output("stdout", f"<{OLD.text}>\n".encode()), RemoteExit(0)])
        await secret(on)
        execution = await on.ended(await launch(on, "dump", durable=durable))
        assert execution.status is ExecutionStatus.COMPLETED
        assert await on.output(execution) == f"<{hidden(OLD)}>\n".encode()
        tables = [
            row["name"]
            for row in await database.fetch("select relname as name from pg_stat_user_tables")
        ]
        rows = [str(await database.fetch(f"select t::text from {table} t")) for table in tables]
        assert OLD.text not in str(rows)
        assert OLD.text not in str(on.said)
        assert (await database.fetch("select last_used_at from credentials"))[0][
            "last_used_at"
        ] is not None


async def test_runs_get_the_new_secret_after_a_rotation(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([RemoteExit(0)])
        known = await secret(on)
        execution = await launch(on, "dump")
        await on.vault.rotate(known, RotationDraft.model_validate({"value": NEW.text}))
        async with on.worker():
            await on.ended(execution)
            await on.ended(await launch(on, "dump"))
        assert received_secrets(web) == [NEW.text, NEW.text]


async def test_a_secret_bound_elsewhere_since_the_launch_is_withheld(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        known = await secret(on)
        execution = await launch(on, "dump")
        await database.fetch("update credentials set bound_jobs = '{7}' returning id")
        async with on.worker():
            status, code, message = await failed(on, execution)
        assert (status, code, web.starts) == ("unreachable", "credential_missing", [])
        assert (
            "'db', which gives the parameter password, cannot be used: the credential 'db' is bound to jobs"
            in message
        )
        await on.vault.bind(known, BoundTo())
        async with on.worker():
            assert (await on.ended(await launch(on, "dump"))).status is ExecutionStatus.COMPLETED


async def test_a_run_without_its_deleted_job_secret_starts_nothing(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        await secret(on)
        execution = await launch(on, "dump")
        await database.fetch("delete from credentials returning id")
        async with on.worker():
            status, code, message = await failed(on, execution)
    assert (status, code, web.starts) == ("unreachable", "credential_missing", [])
    assert message.endswith("which gives the parameter password, is gone")


async def test_an_external_job_secret_is_fetched_just_before_the_run(database: Database) -> None:
    asked: list[str] = []

    async def fetch(credential: Credential, purpose: str) -> Credential:
        asked.append(purpose)
        if len(asked) > 1:
            raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, "Vault is sealed.")
        return replace(credential, value=Secret(NEW.text))

    async with harness(database) as on, on.worker(fetch=fetch):
        web = on.machine("web-1").reply([Output("stdout", NEW.text.encode()), RemoteExit(0)])
        await secret(on, value=None, source={"backend": "vault", "path": "db"})
        execution = await on.ended(await launch(on, "dump"))
        assert (received_secrets(web), await on.output(execution)) == (
            [NEW.text],
            hidden(NEW).encode(),
        )
        _, code, message = await failed(on, await launch(on, "dump"))
    assert (code, len(web.starts)) == ("credential_missing", 1)
    assert message.endswith("cannot be used: Vault is sealed")


async def test_a_child_job_gets_the_job_secret(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        await secret(on)
        taken = ParameterDraft(name="password", type="secret", required=True)
        body = {
            "name": "inner",
            "targets": {"ids": ["web-1"]},
            "actions": [{"command": "dump"}],
            "parameters": [taken],
        }
        await on.jobs.create(JobDraft.model_validate(body), "ada")
        action = JobAction.model_validate(
            {"type": "job", "key": "go", "job": "inner", "parameters": {"password": "${password}"}}
        )
        order = LaunchOrder(
            [action], SelectionDraft(ids=["web-1"]), Policy(), "outer", declared=[PASSWORD]
        )
        launched = await on.launcher.launch(
            order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
        )
        assert launched.execution is not None
        assert (await on.ended(launched.execution)).status is ExecutionStatus.COMPLETED
    assert received_secrets(web) == [OLD.text]
