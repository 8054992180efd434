"""Point 14: a refused login is never tried again, by asyncssh, by a retry or by the next run."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from kit.command_runs import failure_of
from kit.machines import small_server
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.execution import ErrorCode
from opsjobs.model.retry import USUAL, RetryPolicy
from opsjobs.model.secret import Secret
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool


@pytest.mark.parametrize("interactive", [False, True])
async def test_twenty_runs_with_a_wrong_password_are_one_refused_login(
    interactive: bool,
) -> None:
    wrong = Credential(
        "20", 1, "ada's password", CredentialType.PASSWORD, "ada", password=Secret("battery")
    )
    async with small_server(password="correct horse", interactive=interactive) as small:
        pool = SshPool(Connector())
        try:
            failures = await asyncio.gather(
                *(failure_of(pool, small.endpoint(wrong)) for _ in range(20))
            )
            later = await failure_of(pool, small.endpoint(wrong))
        finally:
            await pool.close()
        assert len(small.logins) == 1
    assert {failure.code for failure in failures} <= {ErrorCode.AUTH_FAILED, ErrorCode.CIRCUIT_OPEN}
    assert later.code is ErrorCode.CIRCUIT_OPEN
    assert later.because is ErrorCode.AUTH_FAILED
    assert not any("battery" in failure.message for failure in [*failures, later])


def test_no_job_may_ask_for_it() -> None:
    with pytest.raises(ValidationError, match="auth_failed"):
        RetryPolicy.model_validate({"max_attempts": 3, "on": ["connect_timeout", "auth_failed"]})
    assert ErrorCode.AUTH_FAILED not in USUAL
