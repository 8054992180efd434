"""A whole service with targets and logins of a Target Service: real processes, real SSH."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.backing_servers import memory, open_folder
from kit.opsjobs_processes import UpProcess, opsjobs_up
from kit.platform_services import V3, PlatformServices, platform_services
from kit.secret_canaries import Canary, find_canaries_in_files
from kit.sshd import Sshd, sshd

JOB = """
name: who-is-there
targets: {selector: env=prod}
actions: [{type: command, command: id -un}]
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Sshd]:
    with sshd(host_key_types=("ed25519",)) as running:
        yield running


@pytest.fixture(scope="module")
def platform(machine: Sshd) -> Iterator[PlatformServices]:
    with platform_services(V3) as services:
        services.add_target("42", "web-1", machine.host, machine.port, tags=["env=prod", "web"])
        services.credentials["42"] = {"username": machine.user, "private_key": machine.private_key}
        yield services


@pytest.fixture(scope="module")
def running(platform: PlatformServices) -> Iterator[UpProcess]:
    settings = {
        "TARGET_SERVICE_URL": platform.url("target"),
        "TARGET_SERVICE_PROFILE": V3,
        "OPSJOBS_TARGET_HOST_KEY_POLICY": "accept_new",
        # Every use sends a new request.
        "OPSJOBS_TARGET_CACHE": "0s",
        "OPSJOBS_SERVICE_TIMEOUT": "60s",
    }
    with open_folder(memory()) as found, opsjobs_up(found / "data", settings=settings) as service:
        yield service


def test_a_job_runs_on_a_target_that_only_the_service_knows(
    running: UpProcess, machine: Sshd, platform: PlatformServices, tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    assert running.run("jobs", "apply", "-f", str(file)).returncode == 0
    done = running.run("jobs", "run", "who-is-there")
    assert (done.returncode, done.stdout.strip()) == (0, machine.user), done.stderr
    (shown,) = json.loads(running.run("executions", "list", "-o", "json").stdout)
    assert (shown["status"], shown["total_targets"]) == ("completed", 1)
    (target,) = json.loads(running.run("targets", "list", "-o", "json").stdout)
    assert (target["id"], target["external_id"], target["name"]) == ("42", "42", "web-1")
    assert (target["labels"], target["groups"]) == ({"env": "prod"}, ["web"])
    assert len(target["host_keys"]) == 1, "the first key that it showed is pinned here"
    assert any(call.path.endswith("/42/credentials") for call in platform.asked("target"))


def test_a_login_of_the_service_is_nowhere_but_in_memory(running: UpProcess, machine: Sshd) -> None:
    assert running.run("run", "true", "-t", "web-1").returncode == 0
    secret = Canary("a line of the key", machine.private_key.splitlines()[2])
    files = [name for _, _, names in os.walk(running.data) for name in names]
    assert len(files) > 100, "the database is among them"
    assert find_canaries_in_files([running.data], [secret]) == set()


def test_a_target_is_tested_like_any_other_and_changed_only_in_the_service(
    running: UpProcess,
) -> None:
    tested = running.run("targets", "test", "web-1")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    refused = running.run("targets", "add", "web-2", "192.0.2.2")
    assert refused.returncode == 6
    assert "Targets are kept by the Target Service" in refused.stderr
    assert running.run("targets", "set", "web-1", "--slots", "3").returncode == 0
    refused = running.run("targets", "set", "web-1", "--host", "192.0.2.2")
    assert "change host of web-1 there" in refused.stderr


def test_while_the_service_is_down_nothing_is_launched_and_status_says_why(
    running: UpProcess, platform: PlatformServices
) -> None:
    platform.faults["target"] = "500"
    try:
        refused = running.run("run", "true", "-t", "web-1")
        assert refused.returncode == 1
        assert "The Target Service does not answer" in refused.stderr
        (shown,) = json.loads(running.run("status", "-o", "json").stdout)["integrations"]
        assert (shown["name"], shown["profile"]) == ("target", V3)
        assert shown["state"] in ("failing", "open")
        assert "it answers 500" in shown["last_error"]
    finally:
        platform.faults.clear()
    running.run_until_it_works("run", "true", "-t", "web-1")
