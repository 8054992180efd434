"""The WS-Management service of the stand-in: shells and commands, quotas and faults."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4
from xml.etree.ElementTree import Element

from opsjobs.standalone.lab.wsman import envelopes
from opsjobs.standalone.lab.wsman.commands import IDLE_SECONDS, LabCommand, LabShell
from opsjobs.standalone.lab.wsman.envelopes import (
    SHELL,
    TRANSFER,
    LabRequest,
    WsmanRefusal,
    read_duration,
    tag,
)
from opsjobs.standalone.lab.wsman.pools import LabPipeline, LabPool, LabStream

CMD = f"{SHELL}/cmd"
POWERSHELL = "http://schemas.microsoft.com/powershell"
ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
CONFIG = "http://schemas.microsoft.com/wbem/wsman/1/config"
OVERHEAD_BYTES = 4096
"""The part of a response to Receive that is not output."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class LabQuotas:
    """The quotas of the host, as Windows has them by default."""

    shells: int = 30
    commands_per_shell: int = 25
    envelope_kib: int = 500
    operation_seconds_max: float = 60.0


def shell_not_found(shell_id: str | None) -> WsmanRefusal:
    """Return the fault for a shell that is not there."""
    return WsmanRefusal(
        2150858843,
        "The request for the Windows Remote Shell with ShellId "
        f"{shell_id} failed because the shell was not found on the server. Possible causes are: "
        "the specified ShellId is incorrect or the shell no longer exists on the server. Provide "
        "the correct ShellId or create a new shell and retry the operation.",
        "w:InvalidSelectors",
    )


def _find_stream(request: LabRequest, parent: str, name: str) -> Element | None:
    """Return the stream that a request for output, or with input, names."""
    found = request.body.find(tag(parent))
    return found.find(tag(name)) if found is not None else None


class LabService:
    """The shells of one host, for all of its connections."""

    def __init__(self, url: str, folder: Path, programs: Path, quotas: LabQuotas) -> None:
        self.url = url
        self.quotas = quotas
        self.shells: dict[str, LabShell] = {}
        self.now: Callable[[], float] = time.monotonic
        self.repeats_output = True
        """False: output whose response did not arrive is not sent again."""
        self.takes_names = True
        """False: a shell with a name is refused, as by Server 2008 R2."""
        self.largest_request_bytes = 0
        self.variables: dict[str, str] = {}
        """More variables of commands: faults to play, which spool_stand_in.py names."""
        self.answers: dict[str, tuple[bytes, int]] = {}
        """Lines that no process runs, with their output and exit code: to measure clients."""
        self.configurations = {f"{POWERSHELL}/Microsoft.PowerShell"}
        """The resources of the session configurations that it has."""
        self._folder = folder
        self._programs = programs
        self._actions: dict[str, Callable[[LabRequest, str], Awaitable[str]]] = {
            f"{TRANSFER}/Create": self._create,
            f"{TRANSFER}/Delete": self._delete,
            f"{TRANSFER}/Get": self._get,
            f"{SHELL}/Command": self._command,
            f"{SHELL}/Send": self._send,
            f"{SHELL}/Signal": self._signal,
            f"{SHELL}/Disconnect": self._disconnect,
            f"{SHELL}/Reconnect": self._reconnect,
            f"{SHELL}/Connect": self._connect,
            f"{ENUMERATION}/Enumerate": self._enumerate,
        }

    def check_size(self, size: int) -> None:
        """Refuse a request that is larger than the envelopes of this host. Raises WsmanRefusal."""
        self.largest_request_bytes = max(self.largest_request_bytes, size)
        if size > self.quotas.envelope_kib << 10:
            raise WsmanRefusal(
                2150858842,
                f"The request has {size} bytes, and MaxEnvelopeSizekb is "
                f"{self.quotas.envelope_kib}.",
                "w:EncodingLimit",
            )

    async def perform(
        self, request: LabRequest, user: str, is_gone: Callable[[], bool]
    ) -> bytes | None:
        """Return the response; None if the client is gone.

        `is_gone`: whether it has closed the connection. Raises WsmanRefusal.
        """
        await self._drop_idle_shells()
        shell = self.shells.get(request.shell_id or "")
        if shell is None:
            return await self._perform(request, user, is_gone)
        shell.requests += 1
        try:
            return await self._perform(request, user, is_gone)
        finally:
            shell.requests -= 1
            shell.asked_at = self.now()

    async def _drop_idle_shells(self) -> None:
        """Delete the shells that nothing has asked for, as a Windows host does by itself."""
        for shell in [*self.shells.values()]:
            if not shell.requests and self.now() - shell.asked_at > shell.idle_seconds:
                del self.shells[shell.id]
                await shell.close()

    async def _perform(
        self, request: LabRequest, user: str, is_gone: Callable[[], bool]
    ) -> bytes | None:
        if request.action == f"{SHELL}/Receive":
            return await self._receive(request, is_gone)
        action = self._actions.get(request.action)
        if action is None:
            raise WsmanRefusal(
                2150858778, f"The action {request.action} is not supported.", "a:ActionNotSupported"
            )
        return envelopes.respond(request, await action(request, user))

    async def _create(self, request: LabRequest, user: str) -> str:
        if request.resource != CMD and request.resource not in self.configurations:
            raise WsmanRefusal(
                2150859008,
                f"There is no shell of type {request.resource} on this stand-in.",
                "a:DestinationUnreachable",
            )
        if len(self.shells) >= self.quotas.shells:
            raise WsmanRefusal(
                2150859173,
                "The WS-Management service cannot process the request. The maximum number of "
                "concurrent shells for this user has been exceeded. Close existing shells or "
                "raise the quota for this user.",
                "w:QuotaLimit",
            )
        asked = request.body.find(tag("rsp:Shell"))
        if asked is None:
            raise WsmanRefusal(2150858752, "The body has no Shell.", "w:SchemaError")
        if asked.get("Name") and not self.takes_names:
            raise WsmanRefusal(
                2150858817,
                "The WS-Management service cannot process the request because the XML is invalid.",
                "w:SchemaValidationError",
            )
        shell_id = asked.get("ShellId") or str(uuid4()).upper()
        if shell_id in self.shells:
            raise WsmanRefusal(2150858837, f"The shell {shell_id} exists.", "w:AlreadyExists")
        variables = {
            found.get("Name", ""): found.text or ""
            for environment in asked.findall(tag("rsp:Environment"))
            for found in environment.findall(tag("rsp:Variable"))
        }
        wanted = asked.findtext(tag("rsp:WorkingDirectory"))
        folder = self._folder / wanted if wanted else self._folder
        if not folder.is_dir():
            raise WsmanRefusal(2147942667, "The directory name is invalid.")
        if request.resource != CMD:
            return self._create_pool(request, asked, shell_id, user)
        self.shells[shell_id] = LabShell(
            shell_id,
            asked.get("Name") or asked.findtext(tag("rsp:Name"), "") or "",
            {**self._environment(user), **variables},
            folder,
            user,
        )
        idle = asked.findtext(tag("rsp:IdleTimeOut"), "")
        self.shells[shell_id].idle_seconds = read_duration(idle, IDLE_SECONDS)
        self.shells[shell_id].asked_at = self.now()
        return envelopes.creation(
            shell_id, user, request.resource, self.url, self.shells[shell_id].name
        )

    def _create_pool(self, request: LabRequest, asked: Element, shell_id: str, user: str) -> str:
        opening = asked.findtext(f"{{{POWERSHELL}}}creationXml")
        if not opening:
            raise WsmanRefusal(2150858752, "The Shell has no creationXml.", "w:SchemaError")
        pool = LabPool(
            request.resource,
            shell_id,
            asked.get("Name") or asked.findtext(tag("rsp:Name"), "") or "",
            self._environment(user),
            self._folder,
            user,
        )
        pool.asked_at = self.now()
        pool.feed(base64.b64decode(opening))
        self.shells[shell_id] = pool
        return envelopes.creation(
            shell_id, user, request.resource, self.url, self.shells[shell_id].name
        )

    def _pool(self, request: LabRequest) -> LabPool:
        shell = self._shell(request)
        if not isinstance(shell, LabPool):
            raise shell_not_found(request.shell_id)
        return shell

    async def _disconnect(self, request: LabRequest, _user: str) -> str:
        self._pool(request).disconnected = True
        return "<rsp:DisconnectResponse/>"

    async def _reconnect(self, request: LabRequest, _user: str) -> str:
        self._pool(request).disconnected = False
        return "<rsp:ReconnectResponse/>"

    async def _connect(self, request: LabRequest, _user: str) -> str:
        pool = self._pool(request)
        asked = request.body.find(tag("rsp:Connect"))
        if asked is not None and asked.get("CommandId"):
            self._find(request, asked.get("CommandId"))
            return "<rsp:ConnectResponse/>"
        data = asked.findtext(f"{{{POWERSHELL}}}connectXml", "") if asked is not None else ""
        answer = base64.b64encode(pool.connect(base64.b64decode(data))).decode()
        return (
            f'<rsp:ConnectResponse><connectResponseXml xmlns="{POWERSHELL}">{answer}'
            "</connectResponseXml></rsp:ConnectResponse>"
        )

    async def _enumerate(self, request: LabRequest, _user: str) -> str:
        if request.resource == f"{SHELL}/Command":
            selector = request.body.find(f".//{tag('w:Selector')}")
            shell = self.shells.get((selector.text or "") if selector is not None else "")
            found = "".join(
                f"<rsp:Command><rsp:CommandId>{name}</rsp:CommandId></rsp:Command>"
                for name, command in (shell.commands if shell is not None else {}).items()
                if not command.done
            )
        else:
            found = "".join(
                envelopes.shell_body(shell.id, shell.owner, shell.resource, shell.name)
                for shell in self.shells.values()
            )
        return (
            f'<n:EnumerateResponse xmlns:n="{ENUMERATION}"><n:EnumerationContext/>'
            f"<w:Items>{found}</w:Items><w:EndOfSequence/></n:EnumerateResponse>"
        )

    def _environment(self, user: str) -> dict[str, str]:
        name = user.rpartition("\\")[2]
        kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TZ") if key in os.environ}
        return {
            **kept,
            "PATH": f"{self._programs}:{_PATH}",
            "HOME": str(self._folder),
            "USERNAME": name,
            "COMPUTERNAME": "LAB",
            "OS": "Windows_NT",
        }

    async def _command(self, request: LabRequest, _user: str) -> str:
        shell = self._shell(request)
        asked = request.body.find(tag("rsp:CommandLine"))
        if asked is None:
            raise WsmanRefusal(2150858752, "The body has no CommandLine.", "w:SchemaError")
        if len(shell.commands) >= self.quotas.commands_per_shell:
            raise WsmanRefusal(
                2150859174,
                "The WS-Management service cannot process the request. The maximum number of "
                "concurrent operations for this user has been exceeded.",
                "w:QuotaLimit",
            )
        words = [
            found.text or ""
            for found in asked
            if found.tag.rpartition("}")[2] in ("Command", "Arguments")
        ]
        command_id = asked.get("CommandId") or str(uuid4()).upper()
        if command_id in shell.commands:
            raise WsmanRefusal(2150858837, f"The command {command_id} exists.", "w:AlreadyExists")
        if isinstance(shell, LabPool):
            found = asked.findtext(tag("rsp:Arguments"), "")
            shell.add(command_id, base64.b64decode(found))
            return (
                f"<rsp:CommandResponse><rsp:CommandId>{command_id}</rsp:CommandId>"
                "</rsp:CommandResponse>"
            )
        command = shell.commands[command_id] = LabCommand(command_id)
        line = " ".join(words)
        if line in self.answers:
            command.answer(*self.answers[line])
        else:
            await self._start(command, line, shell)
        return (
            f"<rsp:CommandResponse><rsp:CommandId>{command_id}</rsp:CommandId>"
            "</rsp:CommandResponse>"
        )

    async def _start(self, command: LabCommand, line: str, shell: LabShell) -> None:
        """Start the line in a process. Raises WsmanRefusal."""
        try:
            environment = {**shell.environment, **self.variables}
            await command.start(line, environment, shell.folder)
        except OSError as error:
            del shell.commands[command.id]
            raise WsmanRefusal(2147942402, f"{error.strerror}.") from None

    async def _receive(self, request: LabRequest, is_gone: Callable[[], bool]) -> bytes | None:
        stream = _find_stream(request, "rsp:Receive", "rsp:DesiredStream")
        command_id = stream.get("CommandId") if stream is not None else None
        command = self._find(request, command_id)
        last = command.last
        if self.repeats_output and last is not None and last[0] == request.message_id:
            return last[1]
        await self._wait_for_output(
            command, min(request.seconds, self.quotas.operation_seconds_max)
        )
        if is_gone():  # then the output waits for another request
            return None
        if command.aborted:
            raise WsmanRefusal(
                995,
                "The I/O operation has been aborted because of either a thread exit or an "
                "application request.",
            )
        room = min(request.envelope_bytes, self.quotas.envelope_kib << 10) - OVERHEAD_BYTES
        pieces = command.take(room * 3 // 4)
        if isinstance(command, LabStream):
            body = envelopes.received_objects(command.id, pieces, done=command.done)
        else:
            code = command.exit_code if command.done else None
            body = envelopes.received(command.id, pieces, code)
        response = envelopes.respond(request, body)
        command.last = (request.message_id, response)
        return response

    async def _wait_for_output(self, command: LabCommand | LabStream, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not command.ready:
                    command.changed.clear()
                    await command.changed.wait()
        except TimeoutError:
            raise WsmanRefusal(
                2150858793,
                "The WS-Management service cannot complete the operation within the time "
                "specified in OperationTimeout.",
                "w:TimedOut",
            ) from None

    async def _send(self, request: LabRequest, _user: str) -> str:
        stream = _find_stream(request, "rsp:Send", "rsp:Stream")
        if stream is None:
            raise WsmanRefusal(2150858752, "The body has no Stream.", "w:SchemaError")
        shell = self._shell(request)
        if isinstance(shell, LabPool):
            shell.feed(base64.b64decode(stream.text or ""))
            return "<rsp:SendResponse/>"
        command = self._find(request, stream.get("CommandId"))
        assert isinstance(command, LabCommand), "a cmd shell has no pipelines"
        end = stream.get("End", "").lower() in ("true", "1")
        try:
            await command.write(base64.b64decode(stream.text or ""), end=end)
        except (BrokenPipeError, ConnectionResetError):
            raise WsmanRefusal(109, "The pipe has been ended.") from None
        return "<rsp:SendResponse/>"

    async def _signal(self, request: LabRequest, _user: str) -> str:
        asked = request.body.find(tag("rsp:Signal"))
        if asked is None:
            raise WsmanRefusal(2150858752, "The body has no Signal.", "w:SchemaError")
        command = self._find(request, asked.get("CommandId"))
        code = asked.findtext(tag("rsp:Code"), "").rpartition("/")[2].lower()
        if isinstance(command, LabStream):
            if isinstance(command, LabPipeline):
                command.stop()
        elif code == "terminate":
            ended = command.done
            command.terminate()
            if ended:
                del self._shell(request).commands[command.id]
        else:
            command.signal(signal.SIGTERM)  # CTRL+C ends what does not handle it, as this does
        return "<rsp:SignalResponse/>"

    async def _delete(self, request: LabRequest, _user: str) -> str:
        shell = self._shell(request)
        del self.shells[shell.id]
        await shell.close()
        return ""

    async def _get(self, request: LabRequest, _user: str) -> str:
        if request.resource == CONFIG:
            kib = self.quotas.envelope_kib
            return (
                f'<cfg:Config xmlns:cfg="{CONFIG}"><cfg:MaxEnvelopeSizekb>{kib}'
                "</cfg:MaxEnvelopeSizekb><cfg:MaxTimeoutms>60000</cfg:MaxTimeoutms></cfg:Config>"
            )
        shell = self._shell(request)
        return envelopes.shell_body(shell.id, shell.owner, CMD, shell.name)

    def _shell(self, request: LabRequest) -> LabShell:
        shell = self.shells.get(request.shell_id or "")
        if shell is None:
            raise shell_not_found(request.shell_id)
        return shell

    def _find(self, request: LabRequest, command_id: str | None) -> LabCommand | LabStream:
        shell = self._shell(request)
        if isinstance(shell, LabPool) and not command_id:
            return shell.stream
        command: LabCommand | LabStream | None = shell.commands.get(command_id or "")
        if command is None:
            raise shell_not_found(request.shell_id)
        return command

    async def close(self) -> None:
        """End all shells."""
        shells, self.shells = [*self.shells.values()], {}
        for shell in shells:
            await shell.close()
