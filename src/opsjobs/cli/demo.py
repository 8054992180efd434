"""`opsjobs demo`: a temporary stack with a lab of targets, and a job on them, live."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table
from rich.text import Text

from opsjobs.cli.client import Client, Json
from opsjobs.cli.endpoint import ServiceEndpoint
from opsjobs.cli.errors import ExitCode, get_execution_exit_code
from opsjobs.cli.execution_output import render_result_group
from opsjobs.cli.launch import follow
from opsjobs.cli.live_view import Tally
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import console, seconds
from opsjobs.model.errors import Failure
from opsjobs.settings import names
from opsjobs.standalone.stack import Stack, StackOptions

SURVEY = 'echo "$(uname -sr), $(nproc) CPUs"'
WORK = """\
for step in 1 2 3; do
  echo "step $step of 3"
  sleep "0.$(( ($$ + step) % 3 + 1 ))"
done
echo 'the cache was cold: warmed it' >&2"""
JOB: Json = {
    "name": "demo",
    "description": "What `opsjobs demo` runs on its lab.",
    "targets": {"selector": "lab=true"},
    "actions": [
        {"key": "survey", "command": SURVEY},
        {"key": "work", "command": WORK, "timeout": "30s"},
    ],
}
# The stand-in knows these statements.
GREETING = """\
Write-Output "hello from $env:OPSJOBS_TARGET"
Write-Output "this script came over WinRM, in execution $env:OPSJOBS_EXECUTION"
"""
WINDOWS: Json = {
    "targets": {"selector": "os=windows-like"},
    "actions": [
        {"key": "greet", "type": "script", "interpreter": "powershell", "script": GREETING}
    ],
}
NEXT = """\
Next, with data that stays:

  {opsjobs} up --lab 12 --lab-windows 1         the same service, until Ctrl-C
  {opsjobs} run 'hostname; uptime' -l lab=true  in another terminal: a command on all machines
  {opsjobs} executions list                     what ran
  {opsjobs} targets add --help                  your own machines
  {opsjobs} console                             all of it in your browser
"""


def show(targets: int, windows: int) -> int:
    """Start the stack with `targets` lab machines and run the demo job; return the exit code.

    `windows`: the number of stand-ins of Windows hosts, on which a script runs after it.
    """
    began = time.monotonic()
    beside = f", and {pluralize(windows, 'stand-in')} of a Windows host" if windows else ""
    _say(
        f"Starting PostgreSQL, Valkey, API, worker, scheduler and {pluralize(targets, 'machine')} "
        f"with a real SSH server each{beside} …"
    )
    with _folder() as folder, _stack(folder, targets, windows) as stack:
        _say(
            f"ready after {time.monotonic() - began:.1f} s at {stack.url}, all on this computer, "
            f"in {folder}\n"
        )
        with Client(ServiceEndpoint(stack.url, stack.token, local=True, data_dir=folder)) as client:
            exit_code = _job(client)
            if windows:
                exit_code = max(exit_code, _script_over_winrm(client))
        _say("Stopping …")
    _say(
        f"Stopped and cleaned up, {time.monotonic() - began:.1f} s in all.\n\n"
        f"{NEXT.format(opsjobs=_command())}"
    )
    return exit_code


def _job(client: Client) -> ExitCode:
    job = client.post("/jobs", JOB)
    for action in job["actions"]:
        _say(
            f"{action['key']:>8}: "
            f"{action['command'].splitlines()[0]}{' …' * (chr(10) in action['command'])}"
        )
    execution = client.post(f"/jobs/{job['id']}/execute")
    _say(
        f"\njob {job['name']} runs as execution {execution['id']} on "
        f"{pluralize(execution['total_targets'], 'target')}:\n"
    )
    ended, tally = follow(client, execution)
    _summary(
        ended, tally, client.items(f"/executions/{ended['id']}/groups", limit=3, action="survey")[0]
    )
    return get_execution_exit_code(ended["status"])


def _script_over_winrm(client: Client) -> ExitCode:
    """Run a PowerShell script on the stand-ins of Windows hosts; say what they are."""
    _say(
        "\nNow a PowerShell script over WinRM, on a stand-in of a Windows host. It speaks the "
        "protocol, but is no\nWindows: it knows these statements and a few more. No real host was "
        "tried yet: docs/how-to/run-on-windows-hosts.md\n"
    )
    for line in GREETING.splitlines():
        _say(f"   greet: {line}")
    _say("")
    execution = client.post("/run", WINDOWS)
    ended, tally = follow(client, execution)
    headline, *_ = tally.summary(ended)
    _say(f"\n{headline}")
    return get_execution_exit_code(ended["status"])


def _summary(ended: Json, tally: Tally, groups: list[Json]) -> None:
    headline, *rest = tally.summary(ended)
    _say(f"\n{headline}")
    failures = [line for line in rest if line.startswith("  ")]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("SLOWEST TARGETS")
    table.add_column("TOOK", justify="right")
    for name, took_ms in tally.slowest():
        table.add_row(Text(plain(name)), seconds(took_ms))
    console(sys.stdout).print(table)
    _say("".join(f"{line}\n" for line in failures) + "\nTargets with the same survey output:")
    _say("".join(render_result_group(group) for group in groups))


def _command() -> str:
    """Return the command line of `opsjobs`: its path if it is not on the PATH."""
    if shutil.which("opsjobs"):
        return "opsjobs"
    script = Path(sys.executable).with_name("opsjobs")
    if not script.exists():
        return "python -m opsjobs"
    return os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)


def _stack(folder: Path, targets: int, windows: int) -> Stack:
    stack = Stack(_options(folder, targets, windows))
    for warning in stack.warnings:
        tell(f"WARNING: {warning}")
    return stack


def _options(folder: Path, targets: int, windows: int) -> StackOptions:
    """Return options of a stack that ignores settings in the environment."""
    return StackOptions(
        data_dir=folder,
        port=0,
        lab=targets,
        lab_windows=windows,
        environment=bare(os.environ),
    )


def bare(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without opsjobs settings."""
    ours = names()
    return {name: value for name, value in environ.items() if name not in ours}


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="opsjobs-demo-"))
    try:
        yield folder
    except Failure:
        tell(f"{folder} is kept; it holds the logs")
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _say(text: str) -> None:
    print(text, flush=True)
