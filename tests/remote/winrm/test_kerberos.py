"""Kerberos logins to Windows hosts, against a real KDC; the stand-in verifies with a keytab."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pypsrp.client import Client

from contract.conftest import collect
from kit.backing_servers import open_folder
from kit.kdc import (
    HOST,
    PASSWORD,
    REALM,
    USER,
    Kdc,
    kerberos_credential,
    missing,
    running_kdc,
    write_config,
)
from kit.windows_hosts import (
    LOGINS,
    WindowsHost,
    authority,
    password_credential,
    windows_host,
)
from kit.windows_hosts import PASSWORD as LOCAL_PASSWORD
from kit.windows_hosts import USER as LOCAL_USER
from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.winrm import kerberos
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool

LOGINS_OF_DOMAIN = replace(LOGINS, schemes=("Negotiate", "Kerberos", "CredSSP", "Basic"))
BY_PASSWORD = kerberos_credential(password=PASSWORD)


@pytest.fixture(scope="module")
def realm() -> Iterator[Kdc]:
    lack = missing()
    if lack is not None:
        pytest.skip(f"Kerberos is not tested: {lack}")
    with open_folder() as folder, running_kdc(folder) as kdc:
        yield kdc


@pytest.fixture
def kdc(realm: Kdc, monkeypatch: pytest.MonkeyPatch) -> Kdc:
    monkeypatch.setenv("KRB5_CONFIG", str(realm.config))
    return realm


def of_domain(host: WindowsHost, credential: Credential, **options: Any) -> Endpoint:
    """Return the host by its name in the domain, which its certificate does not have."""
    trust = {"ca": None, "verify": False} if host.secure else {}
    endpoint = host.endpoint(credential, **{"auth": "kerberos", **trust, **options})
    return replace(endpoint, target=replace(endpoint.target, host=HOST))


async def run(endpoint: Endpoint, pool: WinrmPool | None = None) -> RemoteExit:
    pool_ = pool or WinrmPool(WinrmConnector(connect_seconds=20))
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


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    ("auth", "secret"),
    [("kerberos", "password"), ("kerberos", "keytab"), ("kerberos", "user"), ("negotiate", "user")],
)
async def test_kerberos_logs_in(kdc: Kdc, secure: bool, auth: str, secret: str) -> None:
    credential = {
        "password": BY_PASSWORD,
        "keytab": kerberos_credential(keytab=kdc.keytab(USER)),
        "user": password_credential("ada@opsjobs.test", PASSWORD),
    }[secret]
    async with windows_host(secure=secure, logins=LOGINS_OF_DOMAIN) as host:
        assert await run(of_domain(host, credential, auth=auth)) == RemoteExit(3)
        assert set(host.server.attempts) == {f"{USER} accepted"}


async def test_pypsrp_logs_in_to_the_stand_in(kdc: Kdc) -> None:
    async with windows_host(logins=LOGINS_OF_DOMAIN) as host:

        def call() -> int:
            with Client(
                HOST,
                username=USER,
                password=PASSWORD,
                ssl=False,
                port=host.server.port,
                auth="kerberos",
            ) as client:
                return client.execute_cmd("exit 3")[2]

        assert await asyncio.to_thread(call) == 3
        assert set(host.server.attempts) == {f"{USER} accepted"}


async def test_a_login_is_bound_to_the_certificate(kdc: Kdc) -> None:
    other = authority().client.der
    async with windows_host(secure=True, logins=LOGINS_OF_DOMAIN, bound_to=other) as host:
        refused = await failure(of_domain(host, BY_PASSWORD))
        assert refused.code is ErrorCode.AUTH_FAILED
        assert host.server.attempts == ["Kerberos refused"]


async def test_each_credential_has_tickets_of_its_own(kdc: Kdc) -> None:
    kdc.administer(f"addprinc -pw first ben@{REALM}")
    ben = kerberos_credential(f"ben@{REALM}", password="first")
    before = kdc.requests("ISSUE")
    pool = WinrmPool(WinrmConnector())
    async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
        found = await asyncio.gather(
            *(run(of_domain(host, one), pool) for one in (BY_PASSWORD, ben) * 4)
        )
        assert found == [RemoteExit(3)] * 8
        assert set(host.server.attempts) == {f"{USER} accepted", f"ben@{REALM} accepted"}
        assert len(host.server.attempts) > 2
        assert kdc.requests("ISSUE") == before + 2  # one for all logins of a credential
        assert not (kdc.folder / "nobody-uses-this").exists()
        await pool.close()


@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
async def test_a_wrong_password_is_tried_once_and_opens_the_circuit(kdc: Kdc, auth: str) -> None:
    before = kdc.requests("PREAUTH_FAILED")
    pool = WinrmPool(WinrmConnector())
    wrong = password_credential(USER, "guess")
    async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
        found = await asyncio.gather(
            *(failure(of_domain(host, wrong, auth=auth), pool) for _ in range(5))
        )
        assert {one.code for one in found} == {ErrorCode.AUTH_FAILED, ErrorCode.CIRCUIT_OPEN}
        (refused,) = (one for one in found if one.code is ErrorCode.AUTH_FAILED)
        assert f"The KDC of {REALM} refused the login of {USER}" in refused.message
        other = of_domain(host, wrong, auth=auth)
        other = replace(other, target=replace(other.target, id="id-win-2", name="win-2"))
        assert (await failure(other, pool)).code is ErrorCode.AUTH_FAILED  # without an attempt
        assert kdc.requests("PREAUTH_FAILED") == before + 1
        assert host.server.attempts == []
        await pool.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("modprinc -allow_tix {}", "is locked, disabled or expired"),
        ("modprinc -pwexpire yesterday {}", "has expired"),
        ("delprinc -force {}", "does not know"),
        ("cpw -pw second {}", "the password or the key is wrong"),
    ],
)
async def test_an_account_that_may_not_log_in_is_told_why(
    kdc: Kdc, change: str, words: str
) -> None:
    who = f"eve@{REALM}"
    kdc.administer(f"addprinc -pw first {who}")
    try:
        keytab = kdc.keytab(who)
        kdc.administer(change.format(who))
        async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
            refused = await failure(of_domain(host, kerberos_credential(who, keytab=keytab)))
        assert refused.code is ErrorCode.AUTH_FAILED
        assert words in refused.message
    finally:
        (kdc.folder / "eve.keytab").unlink()
        if "delprinc" not in change:
            kdc.administer(f"delprinc -force {who}")


async def test_a_host_that_the_realm_does_not_know_is_told(kdc: Kdc) -> None:
    async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
        refused = await failure(host.endpoint(BY_PASSWORD, auth="kerberos"))
        assert refused.code is ErrorCode.AUTH_FAILED
        assert "does not know the service host/127.0.0.1" in refused.message
        assert host.server.attempts == []


@contextmanager
def own_config(monkeypatch: pytest.MonkeyPatch, port: int) -> Iterator[None]:
    with open_folder() as folder:
        monkeypatch.setenv("KRB5_CONFIG", str(write_config(folder, port)))
        yield


@pytest.mark.parametrize("answer", ["none", "refused"])
async def test_without_a_kdc_the_login_says_so_and_negotiate_takes_ntlm(
    kdc: Kdc, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    local = password_credential("ada@opsjobs.test", LOCAL_PASSWORD)
    logins = replace(LOGINS_OF_DOMAIN, passwords={"ada@opsjobs.test": LOCAL_PASSWORD})
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with own_config(monkeypatch, silent.getsockname()[1] if answer == "none" else 1):
            pool = WinrmPool(WinrmConnector(connect_seconds=6))
            async with windows_host(logins=logins) as host:
                failed = await failure(of_domain(host, BY_PASSWORD), pool)
                assert failed.code is ErrorCode.CONNECT_TIMEOUT
                assert f"No KDC of the realm {REALM} answered" in failed.message
                assert host.server.attempts == []
                assert await run(of_domain(host, local, auth="negotiate"), pool) == RemoteExit(3)
                await pool.close()


async def test_a_realm_without_a_kdc_is_told(kdc: Kdc) -> None:
    async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
        elsewhere = kerberos_credential("ada@NOWHERE.TEST", password=PASSWORD)
        failed = await failure(of_domain(host, elsewhere))
        assert failed.code is ErrorCode.CREDENTIAL_MISSING
        assert "knows no KDC of the realm NOWHERE.TEST" in failed.message


def _tagged(tag: int, content: bytes) -> bytes:
    assert len(content) < 128, "a short one"
    return bytes([tag, len(content)]) + content


def skew_answer() -> bytes:
    """Return a KRB-ERROR (RFC 4120, section 5.9.1) with the code for a clock skew, 37."""
    realm = _tagged(0x1B, REALM.encode())
    names = b"".join(_tagged(0x1B, part) for part in (b"krbtgt", REALM.encode()))
    name = _tagged(0xA0, _tagged(0x02, b"\x02")) + _tagged(0xA1, _tagged(0x30, names))
    fields = (
        _tagged(0xA0, _tagged(0x02, b"\x05"))
        + _tagged(0xA1, _tagged(0x02, b"\x1e"))
        + _tagged(0xA4, _tagged(0x18, b"20200101000000Z"))
        + _tagged(0xA5, _tagged(0x02, b"\x00"))
        + _tagged(0xA6, _tagged(0x02, b"\x25"))
        + _tagged(0xA9, realm)
        + _tagged(0xAA, _tagged(0x30, name))
    )
    return _tagged(0x7E, _tagged(0x30, fields))


async def test_a_clock_that_is_off_is_told(kdc: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as clock:
        clock.bind(("127.0.0.1", 0))

        def answer() -> None:
            _, client = clock.recvfrom(65536)
            clock.sendto(skew_answer(), client)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with own_config(monkeypatch, clock.getsockname()[1]):
            async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
                failed = await failure(of_domain(host, BY_PASSWORD))
        thread.join(20)
    assert failed.code is ErrorCode.AUTH_FAILED
    assert "the clocks of the worker, of the host and of the KDC" in failed.message


async def test_without_the_extra_kerberos_says_so_and_negotiate_takes_ntlm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kerberos, "_MISSING", "No module named 'krb5'")
    async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
        missing_extra = await failure(of_domain(host, BY_PASSWORD))
        assert missing_extra.code is ErrorCode.CREDENTIAL_MISSING
        assert "pip install 'opsconductor-jobs[kerberos]'" in missing_extra.message
        local = password_credential(LOCAL_USER, LOCAL_PASSWORD)
        assert await run(of_domain(host, local, auth="negotiate")) == RemoteExit(3)


async def test_a_user_without_a_realm_has_no_tickets(kdc: Kdc) -> None:
    async with windows_host(logins=LOGINS_OF_DOMAIN) as host:
        failed = await failure(of_domain(host, password_credential()))
        assert failed.code is ErrorCode.CREDENTIAL_MISSING
        assert "write it as user@EXAMPLE.ORG" in failed.message
