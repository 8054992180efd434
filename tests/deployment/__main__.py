"""`make compose-test`: the compose file as a user runs it.

A worker is killed while a job runs, a backup is restored, and an upgrade goes in while a job runs.

--keep: leave the stack and the images as they are at the end.
COMPOSE_TEST_BUILD: more arguments for the build, such as --network host or --secret id=pip,src=FILE.
Ends with 77 if there is no container engine: then nothing was tested.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from deployment.engine import BuildFailed, Engine, NoEngine, find_engine
from kit.ports import free_port
from opsjobs.web.console import HEADERS, IMMUTABLE

ROOT = Path(__file__).parents[2]
PROJECT = "opsjobs-test"
# Versions that no release has: the images are removed at the end.
OLD, NEW = "0.0.1", "0.0.2"
WAIT_SECONDS = 300.0
SKIPPED = 77
# The sources of the image, besides its folders.
SOURCES = (
    *("Dockerfile", ".dockerignore", "pyproject.toml", "hatch_build.py"),
    *("README.md", "LICENSE"),
)
# The first step lasts while this file exists: until its worker was replaced, however slow that is.
HOLD = "/tmp/hold"
HOLD_SECONDS_MAX = 1_800
TARGETS = ("web-1", "web-2")
PROCESSES = ("job-api", "job-worker", "job-scheduler")
JOB = f"""\
name: roll-out
targets: {{selector: env=test}}
actions:
  - key: work
    command: >-
      echo "begins $OPSJOBS_TARGET"; n=0;
      while [ -e {HOLD} ]; do [ $n -lt {HOLD_SECONDS_MAX} ] || exit 1; n=$((n + 1)); sleep 1; done;
      echo "ends $OPSJOBS_TARGET"
  - key: check
    type: script
    interpreter: sh
    script: |
      echo "checked by $(whoami)"
"""
OVERRIDE = """\
services:
  web-1: &machine
    image: opsjobs-test-target
    environment: {AUTHORIZED_KEY: "${AUTHORIZED_KEY}"}
    networks: [outside]
  web-2: *machine
"""


def main() -> int:
    """Build, start, run, kill, back up, restore, upgrade, take down."""
    parser = argparse.ArgumentParser(
        prog="make compose-test",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="opsjobs-compose-") as folder,
            find_engine(Path(folder)) as engine,
        ):
            stack = Stack(Path(folder), engine)
            try:
                play(stack)
            finally:
                if not options.keep:
                    stack.remove()
    except NoEngine as missing:
        tell(f"SKIPPED: {missing} Nothing was tested.")
        return SKIPPED
    except (Failed, BuildFailed) as failed:
        tell(f"FAILED: {failed}")
        return 1
    tell("passed")
    return 0


def play(stack: Stack) -> None:
    """Run through the life of an installation."""
    stack.build(OLD)
    stack.build_target()
    stack.up(OLD)
    expect(stack.status()["version"] == OLD, f"the service says that it is {OLD}")
    look_at_the_console(stack)
    stack.compose("exec", "-T", "job-worker", "python", "-c", "import gssapi, krb5")
    tell("ok: the image has the libraries of Kerberos")
    stack.add_machines()
    execution = kill_a_worker(stack)
    back_up_and_restore(stack, execution)
    upgrade(stack)
    stack.compose("down", "--volumes", "--timeout", "60")
    left = stack.compose("ps", "--all", "--quiet").split()
    expect(not left, "the stack is gone")
    kept = stack.engine.volumes(f"{PROJECT}_")
    expect(kept == [f"{PROJECT}_job-backups"], "the database is gone, the backups stay")
    stack.compose("--profile", "backup", "down", "--volumes")
    expect(not stack.engine.volumes(f"{PROJECT}_"), "the backups are gone, too")


def look_at_the_console(stack: Stack) -> None:
    """Load the console's page and its script: the image has them, with their protective headers."""
    page = httpx2.get(f"{stack.url}/console/", headers={"Accept": "text/html"})
    expect(page.status_code == 200, f"/console/ answers {page.status_code}")
    for name, value in HEADERS.items():
        expect(page.headers.get(name) == value, f"/console/ has its {name}")
    scripts = re.findall(r'<script[^>]* src="([^"]+)"', page.text)
    expect(scripts, f"the page names {len(scripts)} scripts")
    for script in scripts:
        answer = httpx2.get(str(page.url.join(script)))
        kept = answer.headers.get("cache-control") == IMMUTABLE
        expect(answer.status_code == 200 and kept, f"{script}: {len(answer.content)} bytes")


def kill_a_worker(stack: Stack) -> str:
    """Kill the worker in the middle of a job.

    The engine replaces it, and the job succeeds. Returns the execution's id.
    """
    execution = stack.launch()
    before = stack.wait_for_output(execution, "begins")
    killed = stack.containers("job-worker")
    for container in killed:
        try:
            os.kill(int(stack.engine.inspect(container, "{{.State.Pid}}")), signal.SIGKILL)
        except (PermissionError, ProcessLookupError) as refused:
            raise Failed("a worker can be killed by root on the engine's host only") from refused
    tell(f"worker killed with -9 while {before} machines were at work")
    stack.wait_for_workers([False, True])
    tell("ok: one worker is on record as dead, one lives")
    stack.let_go(execution)
    stack.wait_for_end(execution)
    stack.expect_output(execution)
    return execution


def back_up_and_restore(stack: Stack, execution: str) -> None:
    """Make a backup while everything runs, then restore it into an empty database."""
    backup = stack.back_up()
    tell(f"ok: {backup} is made")
    stack.compose("stop", *PROCESSES)
    stack.psql(
        "alter database opsjobs rename to opsjobs_before",
        "create database opsjobs owner opsjobs template template0 encoding 'UTF8'",
    )
    stack.compose("run", "--rm", "-T", "job-backup", "restore", backup)
    stack.up(OLD)
    expect(len(stack.jobs()) == 1, "the job of before the backup is there")
    stack.expect_output(execution)
    stack.opsjobs("targets", "test", *TARGETS)
    tell("ok: the restored credential opens the machines")


def upgrade(stack: Stack) -> None:
    """Install another version while a job runs, one service after another."""
    stack.build(NEW)
    execution = stack.launch()
    stack.wait_for_output(execution, "begins")
    before = stack.containers("job-worker")
    stack.up(NEW, "job-scheduler")
    stack.up(NEW, "job-worker")
    stack.up(NEW)
    expect(stack.status()["version"] == NEW, f"the service says that it is {NEW}")
    replaced = stack.containers("job-worker")
    expect(replaced and set(replaced).isdisjoint(before), "the worker was replaced")
    stack.let_go(execution)
    stack.wait_for_end(execution)
    stack.expect_output(execution)
    expect(len(stack.jobs()) == 1, "the job of before the upgrade is there")


class Failed(Exception):
    """A failed check."""


def expect(holds: object, what: str) -> None:
    """Report it, or fail with it."""
    if not holds:
        raise Failed(what)
    tell(f"ok: {what}")


class Stack:
    """One installation: a copy of deploy/ with an .env of its own."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.engine = engine
        self._folder = folder
        self._deploy = folder / "deploy"
        shutil.copytree(
            ROOT / "deploy", self._deploy, ignore=shutil.ignore_patterns(".env*", "settings.env")
        )
        (folder / "scripts").mkdir()
        shutil.copy2(ROOT / "scripts" / "deploy-env", folder / "scripts")
        run([str(folder / "scripts" / "deploy-env")])
        (self._deploy / "test.yaml").write_text(OVERRIDE)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")])
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        secrets = dict(
            line.split("=", 1)
            for line in (self._deploy / ".env").read_text().splitlines()
            if "=" in line and line[0] != "#"
        )
        self._environment = {
            **engine.environment,
            "OPSJOBS_PORT": str(port),
            "AUTHORIZED_KEY": (folder / "key.pub").read_text().strip(),
        }
        self._command = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPSJOBS_DATA_DIR": str(folder / "data"),
            "OPSJOBS_URL": self.url,
            "OPSJOBS_TOKEN": secrets["OPSJOBS_ADMIN_TOKEN"],
        }

    def build(self, version: str) -> None:
        """Build the image of this version, from the checkout."""
        context = self._folder / f"context-{version}"
        context.mkdir()
        for name in SOURCES:
            shutil.copy2(ROOT / name, context)
        for name in ("console", "src"):
            left_out = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(ROOT / name, context / name, ignore=left_out)
        init = context / "src" / "opsjobs" / "__init__.py"
        init.write_text(re.sub(r'"[\d.]+"', f'"{version}"', init.read_text(), count=1))
        self._build(context, f"opsjobs:{version}", "--build-arg", f"VERSION={version}")

    def build_target(self) -> None:
        """Build the machine on which jobs run."""
        self._build(Path(__file__).with_name("target"), "opsjobs-test-target")

    def _build(self, context: Path, tag: str, *arguments: str) -> None:
        began = time.monotonic()
        more = os.environ.get("COMPOSE_TEST_BUILD", "").split()
        self.engine.build(context, tag, *more, *arguments)
        tell(f"built {tag} in {time.monotonic() - began:.0f} s")

    def up(self, version: str, *services: str) -> None:
        """Start or replace these services, and wait until they work."""
        began = time.monotonic()
        self._environment["OPSJOBS_VERSION"] = version
        try:
            self.compose("up", "--detach", "--no-build", "--wait", *services)
        except Failed as failed:
            raise Failed(f"{failed}\n{self.compose('logs', '--tail', '20')}") from None
        names = ", ".join(services) or "everything"
        tell(f"{names} of {version} works after {time.monotonic() - began:.0f} s")

    def compose(self, *arguments: str) -> str:
        """Run a command of compose; return its output."""
        files = ("-f", str(self._deploy / "compose.yaml"), "-f", str(self._deploy / "test.yaml"))
        return run(
            [*self.engine.compose, "-p", PROJECT, *files, *arguments], environment=self._environment
        )

    def back_up(self) -> str:
        """Create a backup; return its folder, as the containers of job-backup see it."""
        return self.compose("run", "--rm", "-T", "job-backup").split()[-1]

    def psql(self, *commands: str) -> None:
        """Run these commands as the superuser of the database, one after the other."""
        words = [word for command in commands for word in ("-c", command)]
        self.compose("exec", "-T", "job-db", "psql", "-U", "postgres", *words)

    def containers(self, service: str) -> list[str]:
        """Return the ids of the containers of a service."""
        return self.compose("ps", "--quiet", service).split()

    def remove(self) -> None:
        """Remove everything that the test has created."""
        self.compose("--profile", "backup", "down", "--volumes", "--remove-orphans")
        self.engine.remove_images(f"opsjobs:{OLD}", f"opsjobs:{NEW}", "opsjobs-test-target")

    def opsjobs(self, *arguments: str) -> str:
        """Run a command of opsjobs against the stack; return its output."""
        return run([sys.executable, "-m", "opsjobs", *arguments], environment=self._command)

    def status(self) -> dict[str, Any]:
        """Return the state of the service."""
        found: dict[str, Any] = json.loads(self.opsjobs("status", "-o", "json"))
        return found

    def jobs(self) -> list[Any]:
        """Return all jobs."""
        found: list[Any] = json.loads(self.opsjobs("jobs", "list", "-o", "json"))
        return found

    def add_machines(self) -> None:
        """Add the machines and the job."""
        self.opsjobs(
            "credentials", "add", "key", "-u", "deploy", "--key", str(self._folder / "key")
        )
        for name in TARGETS:
            self.opsjobs("targets", "add", name, name, "-c", "key", "--label", "env=test")
        self.opsjobs("targets", "trust", *TARGETS, "--yes")
        self.opsjobs("targets", "test", *TARGETS)
        job = self._folder / "job.yaml"
        job.write_text(JOB)
        self.opsjobs("jobs", "apply", "-f", str(job))
        tell(f"ok: {len(TARGETS)} machines are trusted, and their logins work")

    def launch(self) -> str:
        """Launch the job, whose first step waits for `let_go`; return the execution's id."""
        for name in TARGETS:
            self.compose("exec", "-T", name, "touch", HOLD)
        return self.opsjobs("jobs", "run", "roll-out", "--detach").split()[-1]

    def let_go(self, execution: str) -> None:
        """Let the first step end; it must have run until now, on every machine."""
        shown = self.show(execution)
        at_work = shown["status"] == "running" and "ends" not in self.output(execution)
        expect(at_work, f"execution {execution} was at work all the time")
        for name in TARGETS:
            self.compose("exec", "-T", name, "rm", HOLD)

    def show(self, execution: str) -> dict[str, Any]:
        """Return the execution with its targets."""
        found: dict[str, Any] = json.loads(
            self.opsjobs("executions", "show", execution, "-o", "json")
        )
        return found

    def wait_for_workers(self, alive: list[bool]) -> None:
        """Wait until so many workers are recorded as dead, and so many as alive."""

        def stands() -> bool:
            return sorted(worker["alive"] for worker in self.status()["workers"]) == alive

        self._wait(stands, f"workers alive: {alive}")

    def output(self, execution: str) -> str:
        """Return the output of the job up to now."""
        return self.opsjobs("executions", "logs", execution)

    def wait_for_output(self, execution: str, words: str) -> int:
        """Wait until every machine has printed these words; return their number."""
        self._wait(lambda: self.output(execution).count(words) == len(TARGETS), words)
        return len(TARGETS)

    def wait_for_end(self, execution: str) -> None:
        """Wait until the execution has completed."""
        began = time.monotonic()

        def ended() -> bool:
            shown = self.show(execution)
            if shown["status"] in ("failed", "partial", "cancelled", "timeout"):
                raise Failed(f"execution {execution} ended {shown['status']}: {shown}")
            return bool(shown["status"] == "completed")

        self._wait(ended, f"the end of execution {execution}")
        tell(f"ok: execution {execution} completed {time.monotonic() - began:.0f} s later")
        alive = {worker["name"] for worker in self.status()["workers"] if worker["alive"]}
        ended_by = {run["worker"] for run in self.show(execution)["targets"]}
        expect(ended_by <= alive, "the worker that came later has ended it")

    def expect_output(self, execution: str) -> None:
        """Check that each machine began once and ended once, and that no line is missing."""
        printed = self.output(execution)
        for name in TARGETS:
            for words in (f"begins {name}", f"ends {name}"):
                expect(printed.count(words) == 1, f"one {words!r} in the log of {execution}")
        expect(printed.count("checked by deploy") == len(TARGETS), "both did the second step")

    def _wait(self, condition: Any, what: str) -> None:
        ends = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > ends:
                raise Failed(f"not within {WAIT_SECONDS:.0f} s: {what}")
            time.sleep(1)


def run(command: list[str], *, environment: Mapping[str, str] | None = None) -> str:
    """Run it; return its output. Raises Failed with its last words."""
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode:
        shown = (done.stderr or done.stdout).strip()[-2000:]
        raise Failed(f"{' '.join(command[:8])} … ended with {done.returncode}: {shown}")
    return done.stdout


def tell(words: str) -> None:
    """Print one line at once, with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} compose-test: {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
