"""The stand-in host with other clients: pywinrm and pypsrp, which work with real Windows.

So the stand-in cannot drift into agreeing with our own client only.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import pypsrp.exceptions
import pytest
import winrm
import winrm.exceptions
from pypsrp.complex_objects import PSInvocationState
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.shell import Process, SignalCode, WinRS
from pypsrp.wsman import WSMan

from kit.windows_hosts import (
    DOMAIN_PASSWORD,
    DOMAIN_USER,
    PASSWORD,
    USER,
    WindowsHost,
    authority,
    until,
    windows_host,
)
from opsjobs.standalone.lab.wsman import server
from opsjobs.standalone.lab.wsman.service import LabQuotas

T = TypeVar("T")


async def beside(work: Callable[[], T]) -> T:
    """Run a blocking client in a thread."""

    def quietly() -> T:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of requests and urllib3
            return work()

    return await asyncio.to_thread(quietly)


def pypsrp_to(host: WindowsHost, auth: str = "negotiate", **more: Any) -> WSMan:
    options: dict[str, Any] = {"username": USER, "password": PASSWORD, **more}
    if host.secure:
        options["cert_validation"] = str(host.folder / "ca.pem")
        (host.folder / "ca.pem").write_text(authority().ca.certificate)
    else:
        options["encryption"] = "always"
    return WSMan("127.0.0.1", port=host.server.port, ssl=host.secure, auth=auth, **options)


def pywinrm_to(host: WindowsHost, transport: str = "ntlm", **more: Any) -> winrm.Session:
    scheme = "https" if host.secure else "http"
    options: dict[str, Any] = {}
    if host.secure:
        options["ca_trust_path"] = str(host.folder / "ca.pem")
        (host.folder / "ca.pem").write_text(authority().ca.certificate)
    return winrm.Session(
        f"{scheme}://127.0.0.1:{host.server.port}/wsman",
        auth=(USER, PASSWORD),
        transport=transport,
        **options,
        **more,
    )


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("transport", ["ntlm", "credssp"])
async def test_pywinrm_runs_commands(transport: str, secure: bool) -> None:
    async with windows_host(secure=secure) as host:
        session = pywinrm_to(host, transport)
        done = await beside(lambda: session.run_cmd("echo out; echo err >&2; exit", ["3"]))
        assert (done.std_out, done.std_err, done.status_code) == (b"out\n", b"err\n", 3)


async def test_pywinrm_runs_powershell() -> None:
    async with windows_host() as host:
        session = pywinrm_to(host)
        done = await beside(lambda: session.run_ps("Write-Output 'grüße'; exit 5"))
        assert (done.std_out, done.status_code) == ("grüße\r\n".encode(), 5)


async def test_pywinrm_logs_in_with_basic_and_a_certificate_over_https() -> None:
    async with windows_host(secure=True) as host:
        basic = pywinrm_to(host, "basic")
        assert (await beside(lambda: basic.run_cmd("exit 4"))).status_code == 4
        client = authority().client
        certificate, key = host.folder / "client.pem", host.folder / "client.key"
        certificate.write_text(client.certificate)
        key.write_text(client.key)
        mutual = pywinrm_to(host, "certificate", cert_pem=str(certificate), cert_key_pem=str(key))
        assert (await beside(lambda: mutual.run_cmd("exit 6"))).status_code == 6
        assert host.server.attempts == [f"{USER} accepted"] * len(host.server.attempts)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("auth", ["negotiate", "ntlm", "credssp"])
async def test_pypsrp_writes_input_and_reads_output(auth: str, secure: bool) -> None:
    def work() -> tuple[Any, bytes]:
        with pypsrp_to(host, auth) as wsman, WinRS(wsman) as shell:
            process = Process(shell, "cat; exit 7")
            process.begin_invoke()
            process.send(b"x" * 200_000, end=False)
            process.send(b"y", end=True)
            process.end_invoke()
            process.signal(SignalCode.TERMINATE)
            return process.rc, process.stdout

    async with windows_host(secure=secure) as host:
        assert await beside(work) == (7, b"x" * 200_000 + b"y")
        assert host.server.service.shells == {}


async def test_pypsrp_logs_in_as_a_user_of_a_domain() -> None:
    def work() -> Any:
        with (
            pypsrp_to(host, username=DOMAIN_USER, password=DOMAIN_PASSWORD) as wsman,
            WinRS(wsman, environment={"A": "b c"}, working_directory="/usr") as shell,
        ):
            process = Process(shell, "echo $A $USERNAME; pwd")
            process.invoke()
            return process.stdout

    async with windows_host() as host:
        assert await beside(work) == b"b c ben\n/usr\n"


async def test_a_wrong_password_is_refused() -> None:
    def work() -> None:
        with pypsrp_to(host, password="wrong") as wsman, WinRS(wsman):
            pass

    async with windows_host() as host:
        with pytest.raises(pypsrp.exceptions.AuthenticationError):
            await beside(work)
        session = pywinrm_to(host)
        session.protocol.transport.password = "wrong"
        with pytest.raises(winrm.exceptions.InvalidCredentialsError):
            await beside(lambda: session.run_cmd("exit 0"))


async def test_pypsrp_understands_the_faults() -> None:
    def fault_of(work: Callable[[], Any]) -> Any:
        with pytest.raises(pypsrp.exceptions.WSManFaultError) as failed:
            work()
        assert failed.value.reason
        return failed.value.code

    def work() -> list[Any]:
        with pypsrp_to(host) as wsman, WinRS(wsman) as shell:
            process = Process(shell, "sleep 30")
            process.begin_invoke()
            slow = fault_of(lambda: shell.receive(command_id=process.id, timeout=1))
            full = fault_of(lambda: WinRS(wsman).open())
            unknown = fault_of(lambda: shell.receive(command_id="nothing"))
            process.signal(SignalCode.TERMINATE)
            aborted = fault_of(lambda: shell.receive(command_id=process.id))
            shell.close()
            gone = fault_of(lambda: shell.receive(command_id="nothing"))
        return [slow, full, unknown, aborted, gone]

    async with windows_host(quotas=LabQuotas(shells=1)) as host:
        assert await beside(work) == [2150858793, 2150859173, 2150858843, 995, 2150858843]


async def test_pypsrp_reads_the_configuration() -> None:
    def work() -> int:
        with pypsrp_to(host) as wsman:
            wsman.update_max_payload_size()
            return wsman.max_envelope_size

    async with windows_host(quotas=LabQuotas(envelope_kib=150)) as host:
        assert await beside(work) == 150 * 1024


async def test_ctrl_c_ends_a_command_of_pypsrp() -> None:
    def work() -> Any:
        with pypsrp_to(host) as wsman, WinRS(wsman) as shell:
            process = Process(shell, "echo up; sleep 60")
            process.begin_invoke()
            while not process.stdout:
                process.poll_invoke()
            process.signal(SignalCode.CTRL_C)
            process.end_invoke()
            return process.rc

    async with windows_host() as host:
        assert await beside(work) == 0xC000013A
        await until(lambda: not host.server.service.shells)


async def test_pypsrp_runs_pipelines_with_every_stream_and_input() -> None:
    def work() -> list[Any]:
        with pypsrp_to(host) as wsman, RunspacePool(wsman) as pool:
            first = PowerShell(pool).add_script(
                "Write-Output out; Write-Warning low; Write-Verbose more; Write-Debug deep;"
                "Write-Error bad; Write-Information info; Write-Progress Copying half 50"
            )
            output = first.invoke()
            streams = first.streams
            echo = PowerShell(pool).add_script("$input").invoke(input=["a", "ü" * 100_000])
            failed = PowerShell(pool).add_script("throw 'no'")
            failed.invoke()
            return [
                output,
                [record.message for record in (*streams.warning, *streams.verbose, *streams.debug)],
                [str(record) for record in streams.error],
                [record.message_data for record in streams.information],
                [record.activity for record in streams.progress],
                echo,
                failed.state,
                pool.get_available_runspaces(),
            ]

    async with windows_host() as host:
        found = await beside(work)
        assert found == [
            ["out"],
            ["low", "more", "deep"],
            ["bad"],
            ["info"],
            ["Copying"],
            ["a", "ü" * 100_000],
            PSInvocationState.FAILED,
            1,
        ]
        assert host.server.service.shells == {}


async def test_pypsrp_stops_a_pipeline() -> None:
    def work() -> Any:
        with pypsrp_to(host) as wsman, RunspacePool(wsman) as pool:
            slow = PowerShell(pool).add_script("Start-Sleep 600")
            slow.begin_invoke()
            slow.stop()
            return slow.state

    async with windows_host() as host:
        assert await beside(work) == PSInvocationState.STOPPED


async def test_pypsrp_disconnects_and_another_client_connects_to_its_pool() -> None:
    def work() -> list[Any]:
        with pypsrp_to(host) as wsman:
            pool = RunspacePool(wsman)
            pool.open()
            pool.disconnect()
            pool.connect()
            again = PowerShell(pool).add_script("Write-Output again").invoke()
            slow = PowerShell(pool).add_script("Start-Sleep -Milliseconds 300; Write-Output late")
            slow.begin_invoke()
            pool.disconnect()
        with pypsrp_to(host) as other:
            (found,) = RunspacePool.get_runspace_pools(other)
            found.connect()
            (pipeline,) = found.create_disconnected_power_shells()
            late = pipeline.connect()
            found.close()
        return [again, late]

    async with windows_host() as host:
        assert await beside(work) == [["again"], ["late"]]
        await until(lambda: not host.server.service.shells)


@pytest.mark.parametrize(
    "part", [b"POST /wsman HTT", b"POST /wsman HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_a_client_that_does_not_finish_its_request_is_disconnected(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)
    async with windows_host() as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.server.port)
        writer.write(part)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()
