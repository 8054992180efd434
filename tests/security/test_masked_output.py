"""Point 11: secrets of a run are masked in its output before it is stored, everywhere.

The spellings and the cuts are in tests/model/test_masking.py; here is the path from the machine to
the record.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Break, Gate
from opsjobs.clock import TurnedClock
from opsjobs.engine.compiled_spec import compile_spec
from opsjobs.engine.run_credentials import KEPT_SECONDS, MaskFactory
from opsjobs.model.action import CommandAction
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import BecomeDraft, LaunchOrder, Policy
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.run_views import Execution
from opsjobs.model.secret import Secret
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.ledger.claim import Spec
from opsjobs.store.transaction import Database

TOKEN, PASSWORD, BECOME = 'tok/en+of"ada', "pass-of-login", "pass-of-ben's"
KEY = (
    "-----BEGIN X-----\n"
    + "\n".join(f"abcdefgh{n:02d}" * 6 for n in range(4))
    + "\n-----END X-----"
)
SECRETS = (TOKEN, PASSWORD, BECOME, KEY)
STARS = "*" * len(TOKEN)


async def launch(on: Harness, *actions: CommandAction, **policy: Any) -> Execution:
    """Launch with the secret parameter `token`, on web-1."""
    on.targets.add("web-1")
    order = LaunchOrder(
        list(actions),
        SelectionDraft(ids=["web-1"]),
        Policy(**{"durable": "auto", **policy}),
        "ad-hoc",
        parameters={"token": TOKEN},
        declared=[ParameterDraft(name="token", type="secret")],
    )
    launched = await on.launcher.launch(
        order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
    )
    assert launched.execution is not None
    return launched.execution


def let_in(on: Harness) -> None:
    """Give web-1 a login with a password and a key."""

    async def endpoints(target_ids: Sequence[str]) -> dict[str, Endpoint]:
        credential = Credential(
            "7", 1, "fleet", CredentialType.SSH_KEY, "ada", Secret(PASSWORD), Secret(KEY)
        )
        return {known: Endpoint(on.targets.targets[known], credential) for known in target_ids}

    on.targets.endpoints = endpoints  # type: ignore[method-assign]


async def everything(database: Database) -> str:
    """Return all rows of all tables, except actions: texts of a person in them are not secret."""
    tables = "select c.oid::regclass::text as name from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace"
    texts = []
    for table in await database.fetch(f"{tables} and relname <> 'execution_specs'"):
        rows = await database.fetch(f"select to_jsonb(t)::text as row from {table['name']} t")
        texts += [row["row"] for row in rows]
    logged = await database.fetch("select data from execution_log where data is not null")
    return "\n".join([*texts, *(row["data"].decode(errors="replace") for row in logged)])


async def test_what_is_printed_fails_and_is_handed_on_shows_no_secret(database: Database) -> None:
    async with harness(database) as on:
        let_in(on)
        password = CredentialDraft(
            name="sudo-pw", type=CredentialType.PASSWORD, username="deploy", password=BECOME
        )  # type: ignore[arg-type]
        await on.vault.create(password)
        escaped = '"' + "".join(f"\\u{ord(c):04x}" for c in TOKEN) + '"'
        say = (
            f'{{"it": "{json.dumps(TOKEN)[1:-1]}", "spelt": {escaped}, "{PASSWORD}": 7}}\n'.encode()
        )
        web = on.machine("web-1").reply(
            [Output("stdout", say[:20]), Output("stdout", say[20:]), RemoteExit(0)], to="say"
        )
        spelt = [base64.b64encode(b"-" + secret.encode()) for secret in SECRETS]
        web.reply(
            [
                *(Output("stderr", text + b"\n") for text in spelt),
                Output("stderr", KEY.encode()),
                RemoteExit(0),
            ],
            to="spell",
        )
        web.reply(
            [Break(RemoteFailure(ErrorCode.LOST, f"the machine says: {BECOME} and {PASSWORD}"))],
            to="break",
        )
        async with on.worker():
            execution = await launch(
                on,
                CommandAction(key="say", command="say", outputs="json_lines"),
                CommandAction(
                    key="spell",
                    command="spell",
                    become=BecomeDraft(user="root", credential="sudo-pw"),
                ),
                CommandAction(
                    key="echo",
                    command="echo ${actions.say.outputs.it} ${actions.say.outputs.spelt} ${actions.say.stdout}",
                ),
                CommandAction(key="literal", command=f"${{target.name}} --token '{TOKEN}'"),
                CommandAction(key="break", command="break", durable="off"),
            )
            ended = await on.ended(execution)
        assert ended.counts == {"lost": 1}
        results = {row["action"]: row for row in await on.results(execution)}
        assert results["say"]["outputs"] == {
            "it": "*" * (len(TOKEN) + 1),
            "spelt": STARS,
            "*" * len(PASSWORD): 7,
        }
        assert results["say"]["stdout_bytes"] == len(say) == len(await on.output(execution))
        assert web.starts[2].command.startswith(f"echo '{STARS}*' '{STARS}' "), (
            "what is handed on is what is on record"
        )
        assert results["literal"]["command"] == f"'web-1' --token '{STARS}'"
        assert (
            results["break"]["error_message"] == "the machine says: ************* and *************"
        )
        assert f"the machine says: {'*' * 13} and" in (await on.row(execution))["error_message"]
        stored = await everything(database)
        for secret in (*SECRETS, *KEY.splitlines()[1:-1]):
            encoded = base64.b64encode(b"-" + secret.encode())[2:-4].decode()
            assert secret not in stored
            assert json.dumps(secret)[1:-1] not in stored
            assert encoded not in stored
        logged = await on.output(execution, "stderr")
        assert len(logged) == sum(len(text) + 1 for text in spelt) + len(KEY)


@pytest.mark.parametrize("cut", [0, 1, 5, len(TOKEN) - 1, len(TOKEN)])
async def test_an_heir_masks_a_secret_that_the_dead_workers_last_byte_cut_in_two(
    database: Database, cut: int
) -> None:
    """No byte is lost or repeated, and no part of the secret is visible:

    held-back bytes were not stored.
    """
    said = b"one " + TOKEN.encode() + b" two\n" + TOKEN.encode()
    border = 4 + cut
    async with harness(database) as on, on.worker("worker-1"):
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply(
            [
                Output("stdout", said[:border]),
                Output("stderr", b"x"),
                gate,
                Output("stdout", said[border:]),
                RemoteExit(0),
            ]
        )
        execution = await launch(on, CommandAction(key="say", command="say"))

        async def there() -> bool:
            return await on.output(execution, "stderr") == b"x"

        await until(there)
        first = await on.output(execution)
        assert first == (b"one " if cut < len(TOKEN) else b"one " + STARS.encode())
        async with on.worker("worker-2"):
            await on.bury("worker-1")

            async def taken() -> bool:
                return (await on.row(execution))["worker"] == "worker-2"

            await until(taken)
            gate.event.set()
            assert (await on.ended(execution)).counts == {"succeeded": 1}
        assert await on.output(execution) == f"one {STARS} two\n{STARS}".encode()
        (result,) = await on.results(execution)
        assert (result["stdout_bytes"], result["stdout_stored"]) == (len(said), len(said))


async def test_what_is_no_secret_is_shown_at_once_though_its_run_has_some(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        let_in(on)
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([Output("stdout", b"ready\n"), gate, RemoteExit(0)])
        execution = await launch(on, CommandAction(key="say", command="say"))

        async def shown() -> bool:
            return await on.output(execution) == b"ready\n"

        await until(shown)
        gate.event.set()
        await on.ended(execution)


def test_the_forms_of_a_login_are_made_once_for_all_of_its_machines_and_let_go_after_a_minute() -> (
    None
):
    clock = TurnedClock()
    made, course = MaskFactory(clock), compile_spec(Spec(1, UUID(int=1), [], {}, clock.now()), {})

    def forms() -> int:
        login = Credential("7", 1, "fleet", CredentialType.PASSWORD, "ada", Secret(PASSWORD))
        (found,) = made.mask_for(
            course, Endpoint(Target("1", "web-1", "h", 22, Transport.SSH), login), {}
        )._forms
        return id(found)

    first = made.mask_for(course, None, {}), forms()
    assert not first[0]
    assert forms() == first[1]
    clock.turn(KEPT_SECONDS - 1)
    assert forms() == first[1]
    other = Credential("8", 1, "other", CredentialType.PASSWORD, "ada", Secret("another-one"))
    clock.turn(KEPT_SECONDS + 1)
    made.mask_for(course, Endpoint(Target("1", "web-1", "h", 22, Transport.SSH), other), {})
    assert [credential.name for credential in made._kept] == ["other"]
