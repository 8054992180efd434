"""The capabilities of a target: by platform at a launch, and as its session reports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from opsjobs.model.quoting import Shell

Platform = Literal["linux", "macos", "bsd", "network", "windows"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a target. The defaults are those of a POSIX machine over SSH."""

    quoting: Shell = "posix"
    """The shell for which values are quoted in command lines."""
    posix_shell: bool = True
    """A POSIX shell starts programs: commands with variables, a folder, input or secrets."""
    programs: bool = True
    """Programs can be started, by a POSIX shell or otherwise."""
    environment: bool = True
    """Commands have environment variables; a device without them is sent the bare line."""
    durable: bool = True
    """Commands can survive a lost connection in a spool."""
    become: bool = True
    """Commands can run as a user other than the login."""
    process_groups: bool = True
    """A command leads a process group, by which it is ended with its children."""
    files: bool = True
    """Files are expected, so a connection test tries them. A transfer is tried in any case."""
    exit_status: bool = True
    """A command ends with an exit status; without one, a closed channel is its normal end."""


POSIX = Capabilities()

_BY_PLATFORM: Mapping[str, Capabilities] = {
    "linux": POSIX,
    "macos": POSIX,
    "bsd": POSIX,
    "network": Capabilities(
        posix_shell=False,
        programs=False,
        environment=False,
        durable=False,
        become=False,
        process_groups=False,
        files=False,
        exit_status=False,
    ),
    "windows": Capabilities(
        quoting="cmd",
        posix_shell=False,
        programs=False,
        durable=False,
        become=False,
        process_groups=False,
        files=False,
    ),
}


WINRM = Capabilities(
    quoting="cmd",
    posix_shell=False,
    become=False,
    process_groups=False,
)
"""A Windows host over WinRM: variables and a folder belong to the shell of a command."""


PSRP = replace(WINRM, quoting="powershell", durable=False)
"""A Windows host over WinRM, whose commands are pipelines of PowerShell."""


def capabilities_of(platform: str) -> Capabilities:
    """Return the capabilities of this platform; an unknown platform is a POSIX machine."""
    return _BY_PLATFORM.get(platform, POSIX)
