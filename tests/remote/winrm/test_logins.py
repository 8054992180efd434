"""Logins to Windows hosts: every authentication over http and https, and refusals."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import replace
from typing import Any

import pytest

from contract.conftest import collect
from kit.windows_hosts import (
    DOMAIN_PASSWORD,
    DOMAIN_USER,
    LOGINS,
    at_port,
    authority,
    certificate_credential,
    password_credential,
    until,
    windows_host,
)
from opsjobs.composition.late_sessions import LateSessions
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint
from opsjobs.model.winrm import spell_fingerprint
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool

FINGERPRINT = hashlib.sha256(authority().host.der).hexdigest()


async def run(endpoint: Endpoint, pool: WinrmPool | None = None) -> RemoteExit:
    pool_ = pool or WinrmPool(WinrmConnector())
    try:
        async with pool_.session(endpoint) as session:
            return (await collect(await session.start("exit 3")))[2]
    finally:
        if pool is None:
            await pool_.close()


async def failure(endpoint: Endpoint, pool: WinrmPool | None = None) -> RemoteFailure:
    with pytest.raises(RemoteFailure) as failed:
        await run(endpoint, pool)
    return failed.value


@pytest.mark.parametrize(
    ("secure", "auth"),
    [
        *[(False, auth) for auth in ("negotiate", "ntlm", "credssp")],
        *[(True, auth) for auth in ("negotiate", "ntlm", "credssp", "basic", "certificate")],
    ],
)
async def test_each_authentication_logs_in(secure: bool, auth: str) -> None:
    async with windows_host(secure=secure) as host:
        credential = certificate_credential() if auth == "certificate" else password_credential()
        assert await run(host.endpoint(credential, auth=auth)) == RemoteExit(3)
        assert set(host.server.attempts) == {"ada accepted"}


async def test_tokens_of_logins_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with windows_host() as host:
        for auth in ("negotiate", "credssp"):
            assert await run(host.endpoint(auth=auth)) == RemoteExit(3)
    assert [record for record in caplog.records if "step" in record.getMessage()] == []


async def test_a_user_of_a_domain_logs_in() -> None:
    async with windows_host() as host:
        credential = password_credential(DOMAIN_USER, DOMAIN_PASSWORD)
        assert await run(host.endpoint(credential)) == RemoteExit(3)
        assert host.server.attempts == ["CORP\\ben accepted"]


@pytest.mark.parametrize("auth", ["negotiate", "ntlm", "credssp", "basic"])
async def test_a_wrong_password_is_tried_once_and_opens_the_circuit(auth: str) -> None:
    async with windows_host(secure=True) as host:
        pool = WinrmPool(WinrmConnector())
        wrong = host.endpoint(password_credential(password="guess", version=2), auth=auth)
        found = await asyncio.gather(*(failure(wrong, pool) for _ in range(5)))
        assert {one.code for one in found} == {ErrorCode.AUTH_FAILED, ErrorCode.CIRCUIT_OPEN}
        assert host.server.connections == 1
        assert not any("guess" in one.message for one in found)
        await pool.close()


async def test_another_authentication_is_another_circuit() -> None:
    async with windows_host(logins=replace(LOGINS, schemes=("Negotiate",))) as host:
        pool = WinrmPool(WinrmConnector())
        refused = await failure(host.endpoint(auth="credssp"), pool)
        assert refused.code is ErrorCode.AUTH_FAILED
        assert "does not offer auth credssp; it offers: Negotiate" in refused.message
        assert await run(host.endpoint(auth="negotiate"), pool) == RemoteExit(3)
        await pool.close()


async def test_a_pinned_certificate_is_trusted_and_no_other() -> None:
    alarms: list[str] = []
    async with windows_host(secure=True) as host:
        good = host.endpoint(ca=None, fingerprint=FINGERPRINT)
        assert await run(good) == RemoteExit(3)
        connector = WinrmConnector(alarm=lambda _, words: alarms.append(words))
        pool = WinrmPool(connector)
        bad = await failure(host.endpoint(ca=None, fingerprint="ab" * 32), pool)
        assert bad.code is ErrorCode.HOST_KEY
        assert spell_fingerprint(FINGERPRINT) in bad.message
        assert alarms == [bad.message]
        assert host.server.attempts == ["ada accepted"]  # nothing was sent to the impostor
        await pool.close()


async def test_an_unknown_certificate_is_refused_unless_verification_is_off() -> None:
    async with windows_host(secure=True) as host:
        refused = await failure(host.endpoint(ca=None))
        assert refused.code is ErrorCode.HOST_KEY
        assert "opsjobs targets trust win-1" in refused.message
        assert host.server.attempts == []
        assert await run(host.endpoint(ca=None, verify=False)) == RemoteExit(3)


async def test_the_certificate_of_another_name_is_refused() -> None:
    async with windows_host(secure=True) as host:
        found = host.endpoint()
        other = replace(found, target=replace(found.target, host="localhost"))
        refused = await failure(other)
        assert refused.code is ErrorCode.HOST_KEY
        assert "localhost" in refused.message


async def test_a_scan_shows_the_certificate() -> None:
    async with windows_host(secure=True) as host:
        pool = WinrmPool(WinrmConnector())
        (shown,) = await pool.scan_host_keys(host.endpoint(ca=None))
        assert shown.key == f"x509 {FINGERPRINT}"
        assert shown.fingerprint == spell_fingerprint(FINGERPRINT)
        assert host.server.attempts == []
        await pool.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"auth": "certificate"}, "of type password"), ({}, "of type client_certificate")],
)
async def test_a_credential_of_another_type_is_not_sent(options: Any, words: str) -> None:
    async with windows_host(secure=True) as host:
        credential = password_credential() if options else certificate_credential()
        missing = await failure(host.endpoint(credential, **options))
        assert missing.code is ErrorCode.CREDENTIAL_MISSING
        assert words in missing.message
        assert host.server.connections == 0


async def test_a_port_without_a_listener_refuses() -> None:
    async with windows_host() as host:
        endpoint = at_port(host.endpoint(), 1)
        refused = await failure(endpoint)
        assert refused.code is ErrorCode.CONNECTION_REFUSED
        assert "WinRM" in refused.message


async def test_a_listener_of_the_other_scheme_is_no_crash() -> None:
    async with windows_host() as plain, windows_host(secure=True) as secure:
        over_tls = replace(
            secure.endpoint(), target=replace(secure.endpoint().target, port=plain.server.port)
        )
        over_http = replace(
            plain.endpoint(), target=replace(plain.endpoint().target, port=secure.server.port)
        )
        for endpoint in (over_tls, over_http):
            assert (await failure(endpoint)).code is ErrorCode.CONNECTION_LOST


async def test_connects_are_counted_and_their_failures_by_code() -> None:
    codes: list[ErrorCode] = []
    late = LateSessions("opsjobs.remote.winrm.pool", {"fail": codes.append})
    assert late.built == []  # metrics do not load the transport
    async with windows_host() as host:
        async with late.session(host.endpoint()) as session:
            await collect(await session.start("exit 0"))
        (counts,) = late.built
        await until(lambda: counts.idle_connections == 1)
        assert (counts.connections, counts.handshakes, counts.handshakes_waiting) == (1, 0, 0)
        with pytest.raises(RemoteFailure):
            async with late.session(
                host.endpoint(password_credential(password="guess", version=2))
            ):
                raise AssertionError("it is refused")
        assert codes == [ErrorCode.AUTH_FAILED]
        await late.close()
