"""The options of `targets add` and `targets set` for transport winrm."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import typer

from opsjobs.cli.client import Json
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.model.winrm import WinrmAuth

_PREFIX = "winrm_"


@dataclass(frozen=True, slots=True)
class WinrmFields:
    """Options that fill the field `winrm` of a target."""

    winrm_scheme: Annotated[
        Literal["https", "http"] | None,
        typer.Option("--winrm-scheme", help="WinRM over https, or encrypted messages over http."),
    ]
    winrm_auth: Annotated[
        WinrmAuth | None, typer.Option("--winrm-auth", help="The authentication of a WinRM login.")
    ]
    winrm_ca: Annotated[
        Path | None,
        typer.Option(
            "--winrm-ca",
            metavar="FILE",
            help="The CA certificates that sign the certificate of the WinRM host, in PEM form.",
        ),
    ]
    winrm_fingerprint: Annotated[
        str | None,
        typer.Option(
            "--winrm-fingerprint",
            metavar="SHA256",
            help="The SHA-256 of the only trusted certificate of the WinRM host.",
        ),
    ]
    winrm_verify: Annotated[
        bool | None,
        typer.Option(
            "--winrm-verify/--no-winrm-verify",
            help="Whether the certificate of the WinRM host is verified.",
        ),
    ]

    winrm_engine: Annotated[
        Literal["winrs", "psrp"] | None,
        typer.Option(
            "--winrm-engine",
            help="Run commands in a shell (winrs), or as pipelines of PowerShell (psrp).",
        ),
    ]
    winrm_configuration: Annotated[
        str | None,
        typer.Option(
            "--winrm-configuration",
            metavar="NAME",
            help="The session configuration of engine psrp, such as a JEA endpoint.",
        ),
    ]
    winrm_encoding: Annotated[
        str | None,
        typer.Option(
            "--winrm-encoding",
            metavar="ENCODING",
            help="Decode output to UTF-8: auto (from UTF-16), or a code page such as cp850.",
        ),
    ]

    def body(self) -> Json:
        """Return the given options as the field `winrm`. Raises CommandFailed."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {
            name.removeprefix(_PREFIX): value for name, value in values.items() if value is not None
        }
        if self.winrm_ca is not None:
            given["ca"] = _read(self.winrm_ca)
        return given


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise CommandFailed(
            f"--winrm-ca {file}: it cannot be read: {reason}.", ExitCode.USAGE
        ) from None
