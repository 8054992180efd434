"""The container engine of this machine: Docker, or podman with docker-compose."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BUILD_SECONDS_MAX = 1800
SOCKET_SECONDS_MAX = 30.0


class NoEngine(Exception):
    """No engine could be used."""


class BuildFailed(Exception):
    """An image could not be built."""


@dataclass(frozen=True)
class Engine:
    """The commands to build, start and inspect containers here."""

    program: str
    compose: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def build(self, context: Path, tag: str, *arguments: str) -> None:
        """Build an image; the engine's output only if it fails."""
        # podman's own format has no health checks.
        form = ("--format", "docker") if self.program == "podman" else ()
        name = f"docker.io/library/{tag}" if self.program == "podman" else tag
        done = self._run("build", *form, *arguments, "--tag", name, str(context))
        if done.returncode:
            raise BuildFailed(f"{tag}: {done.stderr[-3000:]}")

    def inspect(self, container: str, form: str) -> str:
        """Return one property of a container."""
        return self._run("inspect", "--format", form, container).stdout.strip()

    def volumes(self, prefix: str) -> list[str]:
        """List the volumes with names that begin like this."""
        names = self._run("volume", "ls", "--quiet").stdout.split()
        return sorted(name for name in names if name.startswith(prefix))

    def remove_images(self, *tags: str) -> None:
        """Remove these images; layers that they share with others stay."""
        self._run("rmi", "--force", *tags)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS_MAX,
        )


@contextmanager
def find_engine(folder: Path) -> Iterator[Engine]:
    """The engine, usable within the block. Raises NoEngine."""
    if _works("docker", "info") and _works("docker", "compose", "version"):
        yield Engine("docker", ("docker", "compose"))
    elif _works("podman", "info") and _works("docker-compose", "version"):
        with _podman(folder) as engine:
            yield engine
    else:
        raise NoEngine(
            "no container engine is here: install Docker with its compose plugin, "
            "or podman and docker-compose."
        )


def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


@contextmanager
def _podman(folder: Path) -> Iterator[Engine]:
    """Run podman behind Docker's API, and its health checks where no systemd does so."""
    path = folder / "podman.sock"
    service = subprocess.Popen(
        ["podman", "system", "service", "--time=0", f"unix://{path}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    over = threading.Event()
    checks = threading.Thread(target=_check_health, args=[over], daemon=True)
    try:
        ends = time.monotonic() + SOCKET_SECONDS_MAX
        while not path.exists():
            if time.monotonic() > ends or service.poll() is not None:
                raise NoEngine("podman is here, but its service does not start.")
            time.sleep(0.1)
        if not Path("/run/systemd/system").exists():
            checks.start()
        yield Engine("podman", ("docker-compose",), {"DOCKER_HOST": f"unix://{path}"})
    finally:
        over.set()
        if checks.ident is not None:
            checks.join()
        service.terminate()
        service.wait(60)


def _check_health(over: threading.Event) -> None:
    """Run all health checks repeatedly: podman leaves this to timers of systemd."""
    while not over.wait(1.0):
        listed = subprocess.run(
            ["podman", "ps", "--quiet"], capture_output=True, text=True, check=False
        )
        for container in listed.stdout.split():
            subprocess.run(
                ["podman", "healthcheck", "run", container], capture_output=True, check=False
            )
