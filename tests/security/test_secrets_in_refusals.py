"""Point 10: a refusal does not repeat secrets: in the response, the log or the database.

A message of a machine does not either. That no secret is visible in normal operation is
tests/e2e/test_leftovers.py::test_no_secret_is_seen_in_any_process_file_or_log.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import api_client, job
from kit.machines import small_server
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.store.transaction import Database
from remote.conftest import pool
from security.test_masked_output import everything

CANARY = "canary-9f3e4711"
ARMOURED = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----"
LOGIN = {"name": "a", "type": "password", "username": "ada"}
CREDENTIALS: list[dict[str, Any]] = [
    {**LOGIN, "password": [CANARY]},
    {**LOGIN, "password": {"x": CANARY}},
    {**LOGIN, "password": "x", "passphrase": CANARY},
    {**LOGIN, "password": CANARY, "name": ""},
    {**LOGIN, "type": "nope", "password": CANARY},
    {**LOGIN, "type": "ssh_key", "private_key": CANARY},
    {**LOGIN, "type": "ssh_key", "private_key": ARMOURED, "passphrase": CANARY},
    {**LOGIN, "type": "kerberos", "keytab": CANARY},
    {**LOGIN, "type": "client_certificate", "certificate": CANARY, "private_key": ARMOURED},
]


async def test_what_the_api_refuses_is_repeated_to_nobody(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    async with api_client(database) as ada:
        answers = [await ada.http.post("/credentials", json=body) for body in CREDENTIALS]
        parameters = [{"name": "token", "type": "secret", "max_length": 30}]
        stored = (await ada.http.post("/jobs", json=job(parameters=parameters))).json()
        for wrong in (CANARY * 3, [CANARY], {"a": CANARY}, {CANARY: 1}):
            given = {"parameters": {"token": wrong}}
            answers += [
                await ada.http.post(f"/jobs/{stored['id']}/{verb}", json=given)
                for verb in ("execute", "preview")
            ]
        due = {"name": "x", "type": "cron", "cron": "* * * * *", "parameters": {"token": CANARY}}
        answers.append(await ada.http.post(f"/jobs/{stored['id']}/schedules", json=due))
        twice = f'{{"password": "{CANARY}", "password": "{CANARY}"}}'.encode()
        answers += [
            await ada.http.post(
                "/credentials", content=body, headers={"Content-Type": "application/json"}
            )
            for body in (twice, twice[:-1], b"\xff" + twice)
        ]
        refused = [(answer.status_code, CANARY in answer.text) for answer in answers]
        assert refused == [(422, False)] * len(answers)
        for body in (
            {"username": "ada", "password": CANARY},
            {"username": "ada", "password": [CANARY]},
        ):
            assert CANARY not in (await ada.http.post("/auth/login", json=body)).text
        stranger = await ada.http.get("/jobs", headers={"Authorization": f"Bearer opsc_{CANARY}"})
        assert (stranger.status_code, CANARY in stranger.text) == (401, False)
    assert CANARY not in await everything(database)
    assert CANARY not in capsys.readouterr().out


async def test_what_a_machine_repeats_of_a_password_is_masked_where_it_is_heard() -> None:
    """The message is copied to errors, circuits and the response of `targets test`."""
    login = Credential("c", 1, "wrong", CredentialType.PASSWORD, "ada", Secret(CANARY))
    async with small_server(password="another", repeating=True) as small, pool() as sessions:
        with pytest.raises(RemoteFailure) as failed:
            async with sessions.session(small.endpoint(login)):
                raise AssertionError("nobody is let in")
        steps = await sessions.test(small.endpoint(login))
    assert failed.value.code is ErrorCode.AUTH_FAILED
    told = [failed.value.message, *(step.error for step in steps if step.error)]
    for words in told:
        assert f"ada says {'*' * len(CANARY)}, in other words {'*' * len(CANARY) * 2}" in words
    assert len(told) == 2
