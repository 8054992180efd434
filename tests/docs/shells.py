"""Runs shell samples with only the commands that a sample may use, and records each `opsjobs`."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from docs.pages import ROOT, Sample
from kit.command_server import client, command_server
from kit.opsjobs_processes import UpProcess
from opsjobs.cli.app import app
from opsjobs.standalone.lab.folder import LabFolder

SECONDS = 180
# These would serve, or take long: what stands after them is parsed, and they are not run.
SERVING = ("up", "demo", "api", "worker", "scheduler", "db")
_NOTE = (
    """for word in "$@"; do printf '%s\\037' "$word" >>"$SAID"; done; printf '\\036' >>"$SAID"\n"""
)
_NOT_SERVED = f"""case "$1" in {"|".join(SERVING)}) exit 0;; esac\n"""
# The id of the object that would have been created or launched: samples read ids from responses.
_PRETENDED = "echo 7\n"
_JQ = f"""exec '{sys.executable}' '{Path(__file__).with_name("jq.py")}' "$@"\n"""
# Signatures are real; the key that a sample creates does not matter here.
_OPENSSL = (
    f"""case "$1" in dgst) exec '{shutil.which("openssl") or "openssl"}' "$@";; esac\nexit 0\n"""
)
# A stand-in where curl is missing: -X, -H, -d, and one URL. Other options do not matter here.
_CURL = f"""exec '{sys.executable}' '{Path(__file__).with_name("curl.py")}' "$@"\n"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a sample: exit code, output, and the arguments of each `opsjobs` in it."""

    code: int
    written: str
    commands: list[list[str]]


class Bench:
    """A folder of commands; `live`: `opsjobs` is really run, unless it would serve."""

    def __init__(self, folder: Path, *, live: bool) -> None:
        self._folder = folder
        self._bin = folder / "bin"
        self._said = folder / "said"
        self._bin.mkdir()
        run = _NOT_SERVED + client(command_server()) if live else _PRETENDED
        self._command("opsjobs", _NOTE + run)
        self._command("make", f"exec '{shutil.which('make')}' -n -C '{ROOT}' \"$@\"\n")
        self._command("openssl", _OPENSSL)
        for elsewhere in ("docker", "kubectl", "python3", "systemctl"):
            self._command(elsewhere, "exit 0\n")
        for harmless in ("cat", "sed", "tail"):
            self._command(harmless, f"exec '{shutil.which(harmless)}' \"$@\"\n")
        if live:
            curl = shutil.which("curl")
            jq = shutil.which("jq")
            self._command("jq", f"exec '{jq}' \"$@\"\n" if jq else _JQ)
            self._command("curl", f"exec '{curl}' --fail-with-body \"$@\"\n" if curl else _CURL)
        else:
            self._command("jq", _PRETENDED)
            self._command("curl", _PRETENDED)

    def run(self, sample: Sample, text: str, environment: Mapping[str, str]) -> Outcome:
        """Run the text of a sample; prompts are answered with yes."""
        self._said.write_bytes(b"")
        with _yes() as terminal:
            done = subprocess.run(
                [str(shutil.which("sh")), "-eu", "-c", text],
                env={**environment, "PATH": str(self._bin), "SAID": str(self._said)},
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._folder,  # the files that a sample writes do not belong in the checkout
                text=True,
                timeout=SECONDS,
                check=False,
            )
        return Outcome(done.returncode, f"{sample}:\n{done.stdout}", self._commands())

    def _commands(self) -> list[list[str]]:
        return [said.split("\x1f")[:-1] for said in self._said.read_text().split("\x1e")[:-1]]

    def _command(self, name: str, script: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)


def parse(arguments: Sequence[str]) -> None:
    """Raise an error if `opsjobs` would not accept these arguments; nothing is run."""
    found: Any = typer.main.get_command(app)
    words = list(arguments)
    while hasattr(found, "get_command"):
        assert words, f"opsjobs {' '.join(arguments)} names no command"
        word = words.pop(0)
        if word == "--version":
            return
        # the root has no `commands`: it loads each one when it is needed
        found = found.get_command(None, word)
        assert found is not None, f"there is no command {word} in: opsjobs {' '.join(arguments)}"
    found.make_context("opsjobs", words)


def localise(text: str, service: UpProcess, home: Path) -> str:
    """Return a sample for this service: its URL, and a target, a key and a folder of its own."""
    lab = LabFolder(service.data / "lab")
    record = lab.read()
    assert record is not None
    key = home / ".ssh" / "id_ed25519"
    key.parent.mkdir(exist_ok=True)
    key.write_text(lab.client_key.read_text())
    for written, meant in {
        "http://127.0.0.1:8003": (service.data / "endpoint").read_text().strip(),
        "10.0.0.5 ": f"127.0.0.1 --port {record.machines[-1].port} ",
        "-u deploy ": f"-u {record.user} ",
        "/var/lib/opsjobs-tried": str(service.data.with_name("tried")),
    }.items():
        text = text.replace(written, meant)
    return text


def assigned(text: str) -> set[str]:
    """Return the variables that a sample sets."""
    return set(re.findall(r"(?:^|\s)(?:export )?([A-Z][A-Z0-9_]*)=", text))


@contextmanager
def _yes() -> Iterator[int]:
    master, terminal = pty.openpty()
    os.write(master, b"y\n")
    try:
        yield terminal
    finally:
        os.close(terminal)
        os.close(master)
