"""A session on a Windows host: start commands and programs in its shells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import OURS, Program
from opsjobs.model.target import PSRP, WINRM, Capabilities
from opsjobs.model.winrm import WinrmOptions
from opsjobs.remote.disk import Disk, contact_error, transfer_error
from opsjobs.remote.session import Durable, LoginTimes, RemoteExit, RemoteProcess, check_command
from opsjobs.remote.spool.direct import ReportingProcess
from opsjobs.remote.winrm import messages
from opsjobs.remote.winrm.connection import Disconnected, WsmanFault
from opsjobs.remote.winrm.disk import HelperChannel, WinrmDisk
from opsjobs.remote.winrm.host import (
    ACCESS_DENIED,
    FOLDER_INVALID,
    PLACE_SECONDS,
    REFUSALS,
    SHELL_GONE,
    Shell,
    WinrmHost,
)
from opsjobs.remote.winrm.messages import ProtocolError
from opsjobs.remote.winrm.process import OPERATION_TIMEOUT, WinrmProcess, new_command_id
from opsjobs.remote.winrm.programs import (
    Launch,
    UnsupportedProgram,
    launch_cleanup,
    launch_disk,
    launch_line,
    launch_program,
)
from opsjobs.remote.winrm.psrp import Pipeline, plan_commands, plan_script, start_pipeline
from opsjobs.remote.winrm.spool import WindowsSpool
from opsjobs.telemetry.logs import log

CLEAN_SECONDS = 60.0
"""The time for the command that removes the folder of a program that was killed."""


class StartMissed(Exception):
    """The host shows that it did not start the command, and that it never will."""


class WinrmSession:
    """A session: it holds a place on the host, and connections only during requests.

    `placed`: it has one already; else it takes one for what it starts, and none for a cancel.
    """

    def __init__(
        self,
        host: WinrmHost,
        login_times: LoginTimes | None,
        options: WinrmOptions,
        *,
        placed: bool = True,
    ) -> None:
        self._placed = placed
        self._closed = False
        self._host = host
        self._options = options
        self.capabilities: Capabilities = PSRP if options.engine == "psrp" else WINRM
        self._started: list[RemoteProcess] = []
        self.login_times = login_times

    async def start(
        self,
        command: str | Program,
        *,
        stdin: bytes = b"",
        marked: bool | None = None,  # noqa: ARG002  Windows ends a command with its children
    ) -> RemoteProcess:
        """Start a line in cmd, or a program; with engine psrp, a line of PowerShell.

        Raises RemoteFailure: CONNECTION_LOST, TARGET_BUSY or AUTH_FAILED if nothing can have
        started, LOST if the request was written and no response arrived.
        """
        try:
            if (plan := self._plan(command, stdin)) is not None:
                pipeline = await self._start_pipeline(plan)
                self._started.append(pipeline)
                return pipeline
            if isinstance(command, Program):
                launch = launch_program(command)
            else:
                check_command(command)
                launch = launch_line(command, stdin=stdin)
            process = await self._start(launch)
            self._started.append(process)
        except UnsupportedProgram as error:
            raise RemoteFailure(
                ErrorCode.INTERNAL, f"{self._host.name} cannot be sent this: {error}."
            ) from None
        if launch.nonce is not None and isinstance(command, Program):
            return ReportingProcess(process, launch.nonce, command, explain_no_powershell)
        return process

    def _plan(self, command: str | Program, stdin: bytes) -> Pipeline | None:
        """Return the pipeline for this, or None if a WinRS shell runs it.

        Raises UnsupportedProgram.
        """
        if self._options.engine != "psrp":
            return None
        if not isinstance(command, Program):
            check_command(command)
            command = Program(command=command, stdin=stdin)
        if self._options.configuration is not None:
            return _plan_for_endpoint(command, self._options.configuration)
        if command.command is None and command.interpreter != "powershell":
            return None
        # The files of secrets are removed by a helper, even if this process dies.
        return None if command.secrets else plan_script(command)

    async def _start_pipeline(self, plan: Pipeline) -> RemoteProcess:
        """Start this in a pool of its own. Raises as `start`."""
        await self._take_place()
        try:
            return await start_pipeline(self._host, self._options.configuration, plan)
        except WsmanFault as fault:
            raise self._not_started(fault) from None
        except ValueError as error:
            raise UnsupportedProgram(str(error)) from None
        except (Disconnected, ProtocolError) as lost:
            raise RemoteFailure(
                ErrorCode.CONNECTION_LOST, f"{self._host.name} did not start the command: {lost}."
            ) from None

    async def _take_place(self) -> None:
        """Wait for a place, if this session has none. Raises RemoteFailure(TARGET_BUSY)."""
        if self._placed or self._closed:
            return
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._host.places.acquire()
        except TimeoutError:
            raise RemoteFailure(
                ErrorCode.TARGET_BUSY,
                f"{self._host.name} had no place for a further command within "
                f"{PLACE_SECONDS:.0f} s.",
            ) from None
        if self._placed or self._closed:  # meanwhile
            self._host.places.release()
        self._placed = not self._closed

    async def _start(self, launch: Launch, *, strict: bool = False) -> RemoteProcess:
        """Start this. Raises as `start`, and UnsupportedProgram."""
        if not launch.urgent:
            await self._take_place()
        try:
            return await self._start_in(await self._host.take_shell(launch), launch, strict=strict)
        except WsmanFault as fault:
            if fault.code in FOLDER_INVALID:
                return EndedProcess(
                    RemoteExit(
                        None,
                        None,
                        "folder",
                        f"the working directory {launch.folder} is not there, or cannot be entered",
                    )
                )
            raise self._not_started(fault) from None
        except ValueError as error:
            raise UnsupportedProgram(str(error)) from None
        except (Disconnected, ProtocolError, StartMissed) as lost:
            raise RemoteFailure(
                ErrorCode.CONNECTION_LOST, f"The connection to {self._host.name} broke: {lost}."
            ) from None

    async def _start_in(self, shell: Shell, launch: Launch, *, strict: bool) -> WinrmProcess:
        """Start the command in this shell, or in a new one if that certainly did not happen.

        The host may have deleted a kept shell, or closed an idle connection.
        """
        try:
            command = await self._request_start(shell, launch)
        except (WsmanFault, StartMissed) as missed:
            gone = isinstance(missed, WsmanFault) and missed.code == SHELL_GONE and shell.used
            if not (gone or isinstance(missed, StartMissed)):
                raise
            shell = await self._host.new_shell(launch)
            command = await self._request_start(shell, launch)
        shell.used = True
        clean = partial(self._clean, launch.place) if launch.place is not None else None
        return WinrmProcess(
            self._host, shell, command, launch.stdin, clean, strict=strict, urgent=launch.urgent
        )

    async def _clean(self, place: str) -> None:
        """Remove the folder of a program that was killed; its helper did not get to it."""
        try:
            async with asyncio.timeout(CLEAN_SECONDS):
                process = await self._start(launch_cleanup(place))
                try:
                    end = [piece async for piece in process][-1]
                finally:
                    await process.close()
            failure = "" if end == RemoteExit(0) else str(end)
        except (RemoteFailure, TimeoutError) as error:
            failure = str(error) or "it took too long"
        if failure:
            log.warning(
                "winrm_folder_left",
                target=self._host.name,
                folder=f"opsjobs-{place}",
                reason=failure,
            )

    async def _request_start(self, shell: Shell, launch: Launch) -> str:
        """Start the command; return its id. If it does not start, its shell is deleted."""
        try:
            return await self._send_start(shell, launch)
        except StartMissed:
            raise
        except BaseException as failure:
            if isinstance(failure, RemoteFailure) and failure.code is ErrorCode.LOST:
                self._host.leave(shell)
            else:
                self._host.release(shell, keep=False)
            raise

    async def _send_start(self, shell: Shell, launch: Launch) -> str:
        """Start the command under an id of ours; return the id that the host gave it."""
        command = new_command_id()
        message = messages.start_command(shell.id, command, launch.line)
        try:
            response = await self._host.request(message, once=True)
            given = messages.command_id_in(response)
        except WsmanFault as fault:
            if fault.code in REFUSALS:
                raise
            await self._find_started(shell, command, str(fault), pending=True)
            return command
        except (Disconnected, ProtocolError) as lost:
            pending = isinstance(lost, Disconnected) and lost.timed_out
            await self._find_started(shell, command, str(lost), pending=pending)
            return command
        if given.upper() == command:
            self._host.honours_ids = True
        return given

    async def _find_started(
        self, shell: Shell, command: str, reason: str, *, pending: bool
    ) -> None:
        """Return if the host knows the command, whose start was not confirmed.

        `pending`: the host may still be starting it, even if it does not know it yet. Raises
        StartMissed if it certainly has not started, else RemoteFailure(LOST).
        """
        lost = RemoteFailure(
            ErrorCode.LOST,
            f"{self._host.name} was sent the command, and did not confirm its start ({reason}): it "
            "is unknown whether it runs.",
        )
        try:
            # Empty input does nothing: only the ids are looked up.
            await self._host.request(messages.send_input(shell.id, command, b"", end=False))
        except WsmanFault as fault:
            if fault.code == OPERATION_TIMEOUT:
                return
            if pending or fault.code != SHELL_GONE or not self._host.honours_ids:
                raise lost from None
        except (Disconnected, ProtocolError, RemoteFailure):
            raise lost from None
        else:
            return
        # The shell is there, then, and goes: a request that is still on its way starts nothing.
        if shell.users > 1 or await self._host.request_delete(shell) is not None:
            raise lost
        shell.is_gone = True
        self._host.release(shell, keep=False)
        raise StartMissed(reason)

    def _not_started(self, fault: WsmanFault) -> RemoteFailure:
        if fault.code == ACCESS_DENIED:
            return RemoteFailure(
                ErrorCode.AUTH_FAILED,
                f"{self._host.name} accepts the login, but refuses a shell ({fault}). Add the "
                "user to the group Remote Management Users or Administrators.",
            )
        return RemoteFailure(
            ErrorCode.CONNECTION_LOST, f"{self._host.name} did not start the command: {fault}."
        )

    def durable(self) -> Durable | None:
        """Return the durable runs on this host; None with engine psrp."""
        if not self.capabilities.durable:
            return None
        return WindowsSpool(self._host.name, self._start_helper)

    async def _start_helper(self, launch: Launch) -> WinrmProcess:
        """Start a helper whose output is complete, or lost. Raises RemoteFailure as `start`."""
        process = await self._start(launch, strict=True)
        assert isinstance(process, WinrmProcess), "it needs no folder"
        self._started.append(process)
        return process

    @asynccontextmanager
    async def disk(self) -> AsyncIterator[Disk]:
        """Yield the files of the host, served by a helper script for the time of the block.

        Raises RemoteFailure: TRANSFER if PowerShell does not run it, CONNECTION_LOST.
        """
        channel = await self._start_disk()
        try:
            await channel.ask("hello")
            yield WinrmDisk(channel)
        finally:
            await channel.close()

    async def _start_disk(self) -> HelperChannel:
        launch, helper = launch_disk()
        try:
            # Before the start: nothing may fail between it and the channel, which ends the helper.
            size = await self._host.input_bytes()
            process = await self._start(launch)
        except (RemoteFailure, Disconnected, ProtocolError) as failure:
            if isinstance(failure, RemoteFailure) and failure.code is not ErrorCode.LOST:
                raise
            raise contact_error(self._host.name, failure) from None
        if not isinstance(process, WinrmProcess):
            raise transfer_error(self._host.name, "serves no files", "it starts no PowerShell")
        channel = HelperChannel(process, self._host.name, size)
        channel.write(helper)
        return channel

    async def close(self) -> None:
        """Stop following what was started, and give the place back."""
        for process in self._started:
            await process.close()
        self._closed = True
        if self._placed:
            self._placed = False
            self._host.places.release()


def _plan_for_endpoint(program: Program, name: str) -> Pipeline:
    """Return the pipeline for an endpoint that allows commands only.

    The variables that each run is given (OPSJOBS_*) cannot be set there, and are left out. Raises
    UnsupportedProgram.
    """
    variables = [name for name in program.env if not name.startswith(OURS)]
    if program.command is None or program.secrets or variables or program.cwd:
        raise UnsupportedProgram(
            f"the endpoint {name} runs commands only, without a script, variables, a working "
            "directory or secrets"
        )
    return plan_commands(program.command, stdin=program.stdin or b"")


class EndedProcess:
    """A command that was not started, for a reason of its machine."""

    def __init__(self, end: RemoteExit) -> None:
        self._end = end

    async def __aiter__(self) -> AsyncIterator[RemoteExit]:
        yield self._end

    async def kill(self, grace_seconds: float) -> CancelProof:  # noqa: ARG002  nothing runs
        """Return that it has ended."""
        return CancelProof.ALREADY_FINISHED

    async def close(self) -> None:
        """Do nothing: there is no command."""


def explain_no_powershell(end: RemoteExit) -> RemoteExit:
    """Return the exit of a program whose helper script did not report its start.

    Raises RemoteFailure(LOST) if the report itself may be lost.
    """
    if end.signal is not None or end.cause is not None:
        return end
    if end.detail is not None:
        raise RemoteFailure(
            ErrorCode.LOST,
            f"The report of its start did not arrive ({end.detail}): it is unknown whether it ran.",
        )
    return RemoteExit(
        None,
        None,
        "interpreter",
        f"PowerShell 3 or newer did not start it: it ended with {end.code}",
    )
