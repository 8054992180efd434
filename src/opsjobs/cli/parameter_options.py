"""Parameter values of a job: from options, files, standard input, or a prompt."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from opsjobs.cli import options
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import tell
from opsjobs.cli.secret_input import ask, read_value


def values_of(
    job: Mapping[str, Any], given: list[str] | None, files: list[str] | None
) -> dict[str, str]:
    """Return the parameter values for a launch of this job. Raises CommandFailed.

    Prompts for missing required secrets, if stdin is a terminal. Warns of secrets among the
    arguments, where the process list and the shell's history show them.
    """
    values, from_files = options.pairs("--param", given), options.pairs("--param-file", files)
    if both := sorted(values.keys() & from_files.keys()):
        raise CommandFailed(
            f"{both[0]}: given by --param and by --param-file. Use one of them.", ExitCode.USAGE
        )
    if sum(path == "-" for path in from_files.values()) > 1:
        raise CommandFailed(
            "--param-file: standard input holds one value. Use a file for the others.",
            ExitCode.USAGE,
        )
    declared: Sequence[Mapping[str, Any]] = job.get("parameters") or ()
    for parameter in declared:
        if parameter.get("secret") and parameter["name"] in values:
            name = parameter["name"]
            tell(
                f"warning: -p {name}=… shows a secret in the process list "
                "and in the shell's history. "
                f"Use --param-file {name}=FILE, or leave it out to be asked."
            )
    values |= {name: read_value(path) for name, path in from_files.items()}
    return values | {name: ask(name, otherwise="") for name in _missing(declared, values)}


def _missing(declared: Sequence[Mapping[str, Any]], values: Mapping[str, str]) -> list[str]:
    """Return the names of required secrets without a value.

    Returns none if stdin is not a terminal: the service then reports what is missing.
    """
    if not sys.stdin.isatty():
        return []
    required = [
        p
        for p in declared
        if p.get("secret") and p.get("required") and not p.get("from_credential")
    ]
    return [str(parameter["name"]) for parameter in required if parameter["name"] not in values]
