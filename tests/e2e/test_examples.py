"""The examples, each executed on a lab of real SSH targets with scripted programs.

The programs print scripted output, and their calls are recorded. `/srv` there is a folder of the
test; a wait lasts a moment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from e2e.cluster import Cluster, start_cluster
from e2e.processes import Json, wait_until
from kit.backing_servers import open_folder
from kit.sshd import needs_sshd, sshd

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ACTORS = (
    "apt-get",
    "needrestart",
    "shutdown",
    "systemctl",
    "nginx",
    "curl",
    "pg_dump",
    "lbctl",
    "df",
    "getent",
)
MACHINES = 100
FEW = 4
# Which machine and program it is, and its arguments; then the script of the test for it.
_ACTOR = """#!/bin/sh
name=${0##*/} here=${SSH_CONNECTION% *} here=${here##* }
echo "$here $name $*" >>FOLDER/calls
[ -e FOLDER/says/$name.$here ] && . FOLDER/says/$name.$here
[ -e FOLDER/says/$name ] && . FOLDER/says/$name
exit 0
"""


@dataclass
class Lab:
    """Targets web-1 … at 127.x.y.1 …; `folder` has the scripts, the calls, and /srv."""

    cluster: Cluster
    folder: Path
    network: str

    @property
    def srv(self) -> Path:
        """The folder that is /srv for the examples."""
        return self.folder / "srv"

    def job(self, example: str, **policy: Any) -> Json:
        """Return the example as the body of POST /jobs, with changes of its policy."""
        text = (EXAMPLES / f"{example}.yaml").read_text().replace("/srv/", f"{self.srv}/")
        body: Json = YAML(typ="safe").load(text)
        for action in body["actions"]:
            if action.get("type") == "wait":
                action["duration"] = "1s"
        return {**body, "policy": {**body.get("policy", {}), **policy}}

    def execute(self, body: Json, targets: int) -> Json:
        """Run a job on the first machines; return the ended execution."""
        return self.cluster.ended(self.launch(body, targets))

    def job_id(self, example: str) -> int:
        """Run the example as it is, stored once."""
        return self._stored(self.job(example))

    def _stored(self, body: Json) -> int:
        known = self.cluster.get("/jobs", name=body["name"])["items"]
        return int(known[0]["id"] if known else self.cluster.post("/jobs", body, 201)["id"])

    def launch(self, body: Json, targets: int) -> int:
        """Return its id."""
        job = self._stored(body)
        chosen = {"targets": {"ids": self.cluster.names(1, targets)}}
        return int(self.cluster.post(f"/jobs/{job}/execute", chosen, 202)["id"])

    def says(self, actor: str, script: str, machine: int | None = None) -> None:
        """Script a program from now on, on all machines or one."""
        where = "" if machine is None else f".{self.address(machine)}"
        (self.folder / "says" / f"{actor}{where}").write_text(f"{script}\n")

    def address(self, machine: int) -> str:
        """Return the address of web-<machine>."""
        return f"{self.network}.{machine}"

    def calls(self, *words: str) -> list[tuple[int, str]]:
        """Return the calls in order, each with its machine; those that begin with these words."""
        lines = (line.split(" ", 1) for line in (self.folder / "calls").read_text().splitlines())
        return [
            (int(where.rpartition(".")[2]), call)
            for where, call in lines
            if call.startswith(" ".join(words))
        ]

    def upload(self, body: bytes) -> str:
        """Return a file's id."""
        answer = self.cluster.http.post(
            "/files", content=body, headers={"content-type": "application/octet-stream"}
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def clear(self) -> None:
        """Remove all scripts and all recorded calls."""
        (self.folder / "calls").write_text("")
        for script in (self.folder / "says").iterdir():
            script.unlink()


@pytest.fixture(scope="module")
def _lab() -> Iterator[Lab]:
    needs_sshd()
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        _furnish(folder)
        settings = (f"SetEnv PATH={folder}/actors:/usr/local/bin:/usr/bin:/bin",)
        server = stack.enter_context(
            sshd(addresses=("0.0.0.0",), host_key_types=("ed25519",), settings=settings)
        )
        cluster = start_cluster(stack, [server])
        network = f"127.{20 + os.getpid() % 80}.7"
        login = {"type": "ssh_key", "username": server.user, "private_key": server.private_key}
        cluster.post("/credentials", {"name": "fleet", **login}, 201)
        for n in range(1, MACHINES + 1):
            labels = {"os": "debian", "role": "db" if n > FEW else "web"}
            cluster.add_target(
                f"web-{n}", f"{network}.{n}", server.port, server.host_keys, labels=labels
            )
        yield Lab(cluster, folder, network)


def _furnish(folder: Path) -> None:
    for name in (
        "actors",
        "says",
        "srv",
        "srv/tls",
        "srv/log",
        "srv/app",
        "srv/app/old",
        "srv/backup",
    ):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    for name in ACTORS:
        actor = folder / "actors" / name
        actor.write_text(_ACTOR.replace("FOLDER", str(folder)))
        actor.chmod(0o755)
    (folder / "calls").touch()
    (folder / "calls").chmod(0o666)


@pytest.fixture
def lab(_lab: Lab) -> Iterator[Lab]:
    """Yield the lab in its initial state; then check that all has ended and is consistent."""
    _lab.clear()
    yield _lab
    _lab.cluster.settle()
    _lab.cluster.invariants.check()
    assert _lab.cluster.complaints() == []


def test_each_example_is_a_valid_job_and_in_the_readme(lab: Lab) -> None:
    readme = (EXAMPLES / "README.md").read_text()
    examples = sorted(EXAMPLES.glob("*.yaml"))
    assert len(examples) == 10
    assert [example.name for example in examples if f"]({example.name})" not in readme] == []


def test_patch_and_reboot_restarts_those_that_must(lab: Lab) -> None:
    lab.says("needrestart", "exit 2", machine=2)
    lab.says("systemctl", "echo degraded; exit 1")
    assert lab.execute(lab.job("patch-and-reboot"), FEW)["counts"] == {"succeeded": FEW}
    assert lab.calls("shutdown") == [(2, "shutdown -r +1")]
    assert {machine for machine, _ in lab.calls("systemctl is-system-running")} == {1, 2, 3, 4}


def test_patch_and_reboot_stops_at_a_sick_canary(lab: Lab) -> None:
    lab.says("apt-get", "exit 100", machine=1)
    ended = lab.execute(lab.job("patch-and-reboot"), FEW)
    assert ended["counts"] == {"failed": 1, "skipped": FEW - 1}
    assert {machine for machine, _ in lab.calls()} == {1}


def test_patch_and_reboot_stops_at_a_canary_that_does_not_come_up(lab: Lab) -> None:
    lab.says("systemctl", "exit 1", machine=1)
    assert lab.execute(lab.job("patch-and-reboot"), FEW)["counts"] == {
        "failed": 1,
        "skipped": FEW - 1,
    }
    assert {machine for machine, _ in lab.calls("apt-get")} == {1}


def test_rotate_certificate_installs_the_new_one_or_rolls_back(lab: Lab) -> None:
    certificate = lab.srv / "tls" / "site.pem"
    certificate.write_text("old")
    certificate.chmod(0o666)
    job = lab.job("rotate-certificate", max_parallel=1)  # all machines share a disk here
    job["actions"][0]["source"] = lab.upload(b"new")
    lab.says("nginx", "exit 1", machine=1)
    assert lab.execute(job, FEW)["counts"] == {"failed": 1, "skipped": FEW - 1}
    assert certificate.read_text() == "old"
    lab.clear()
    assert lab.execute(job, FEW)["counts"] == {"succeeded": FEW}
    assert certificate.read_text() == "new"
    assert len(lab.calls("systemctl reload nginx")) == FEW


def test_collect_logs_brings_a_file_of_each(lab: Lab) -> None:
    (lab.srv / "log" / "app.log").write_text("one\ntwo\n")
    ended = lab.execute(lab.job("collect-logs", max_parallel=1), 2)
    assert ended["counts"] == {"succeeded": 2}
    artifacts = lab.cluster.get(f"/executions/{ended['id']}/artifacts")["items"]
    assert len(artifacts) == 2
    bodies = {
        lab.cluster.http.get(f"/artifacts/{artifact['id']}").content for artifact in artifacts
    }
    assert bodies == {b"one\ntwo\n"}


def test_rolling_restart_restarts_one_target_at_a_time(lab: Lab) -> None:
    assert lab.execute(lab.job("rolling-restart"), FEW)["counts"] == {"succeeded": FEW}
    calls = lab.calls()
    assert calls == [
        (machine, call)
        for machine, _ in calls[::4]
        for call in (
            "lbctl disable web",
            "systemctl restart web",
            "curl -fsS http://localhost/health",
            "lbctl enable web",
        )
    ]


def test_rolling_restart_rolls_back_and_stops(lab: Lab) -> None:
    lab.says("curl", "exit 22", machine=1)
    # All tries are used up: it needs the attention of a person (dead letters).
    assert lab.execute(lab.job("rolling-restart"), FEW)["counts"] == {"dead": 1, "skipped": FEW - 1}
    assert len(lab.calls("curl")) == 3
    assert [call for _, call in lab.calls()][-2:] == ["systemctl restart web", "lbctl enable web"]
    assert {machine for machine, _ in lab.calls()} == {1}
    assert (lab.srv / "app" / "current").readlink() == lab.srv / "app" / "old"


def test_database_backup_dumps_only_after_all_stopped_writing(lab: Lab) -> None:
    lab.says("pg_dump", "exit 1", machine=6)
    chosen = {"targets": {"ids": lab.cluster.names(5, 8)}}
    job = lab.cluster.post("/jobs", lab.job("database-backup"), 201)["id"]
    ended = lab.cluster.ended(lab.cluster.post(f"/jobs/{job}/execute", chosen, 202)["id"])
    assert ended["counts"] == {"failed": 1, "succeeded": 3}
    order = [call.split(" shard")[0].split()[0:2] for _, call in lab.calls()]
    assert order[:4] == [["systemctl", "stop"]] * 4
    assert sorted(lab.calls("systemctl start writer")) == [
        (machine, "systemctl start writer") for machine in (5, 6, 7, 8)
    ]


def test_user_audit_fails_if_another_user_is_root(lab: Lab) -> None:
    lab.says(
        "getent", "printf 'root:x:0:0::/root:/bin/sh\\neve:x:0:0::/:/bin/sh\\n'; exit", machine=2
    )
    lab.says("getent", "printf 'root:x:0:0::/root:/bin/sh\\n'; exit")
    ended = lab.execute(lab.job("user-audit"), FEW)
    assert ended["counts"] == {"failed": 1, "succeeded": FEW - 1}
    assert (
        lab.cluster.output(ended["id"], "web-2") == b"second root: eve\nroot /bin/sh\neve /bin/sh\n"
    )


def test_disk_cleanup_cleans_only_nearly_full_disks(lab: Lab) -> None:
    for machine in range(1, FEW + 1):
        lab.says("df", f"printf 'Use%%%%\\n {95 if machine == 3 else 40}%%%%\\n'", machine=machine)
    assert lab.execute(lab.job("disk-cleanup"), FEW)["counts"] == {"succeeded": FEW}
    assert lab.calls("apt-get") == [(3, "apt-get -q clean")]


@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_deploy_switches_only_after_approval(lab: Lab, verdict: str) -> None:
    job = lab.job("deploy-with-approval", max_parallel=1)
    job["name"] = f"deploy-{verdict}"
    job["actions"][0]["source"] = lab.upload(_empty_tar())
    execution = lab.launch(job, 2)
    asked: list[Json] = []

    def all_wait() -> bool:
        asked[:] = lab.cluster.get("/approvals", status="pending")["items"]
        waiting = [run["waiting_for"] for run in lab.cluster.runs(execution)]
        return bool(asked) and waiting == ["approval"] * 2

    wait_until(all_wait, "all machines wait for the answer")
    assert lab.calls() == []
    alone = {"override_safety": True, "reason": "nobody else here"} if verdict == "approve" else {}
    lab.cluster.post(f"/approvals/{asked[0]['id']}/{verdict}", alone)
    expected = {"approve": {"succeeded": 2}, "reject": {"cancelled": 2}}[verdict]
    assert lab.cluster.ended(execution)["counts"] == expected
    assert len(lab.calls("systemctl restart web")) == expected.get("succeeded", 0)


def _empty_tar() -> bytes:
    return bytes(10_240)


def test_release_night_runs_the_other_job_and_continues_on_success(
    lab: Lab,
) -> None:
    lab.job_id("rolling-restart")
    job = lab.job_id("release-night")
    lab.says("curl", "exit 22", machine=2)
    asked = {"targets": {"ids": lab.cluster.names(1, 2)}, "parameters": {"ticket": "OPS-7"}}
    execution = lab.cluster.post(f"/jobs/{job}/execute", asked, 202)["id"]
    assert lab.cluster.ended(execution)["counts"] == {"succeeded": 1, "failed": 1}
    assert (lab.srv / "backup" / "app.OPS-7.tar").exists()
    assert lab.calls("systemctl is-active") == [(1, "systemctl is-active web")]
    children = lab.cluster.get("/executions", triggered_by="workflow")["items"]
    assert sorted((child["parent"], child["status"]) for child in children) == [
        (execution, "completed"),
        (execution, "failed"),
    ]


@pytest.mark.long
def test_a_file_is_uploaded_to_100_targets(lab: Lab) -> None:
    job = lab.job("file-to-100-machines")
    job["actions"][0]["source"] = lab.upload(b"welcome\n")
    assert lab.execute(job, MACHINES)["counts"] == {"succeeded": MACHINES}
    assert (lab.srv / "motd").read_text() == "welcome\n"


def test_no_example_names_a_path_outside_of_srv(lab: Lab) -> None:
    for example in EXAMPLES.glob("*.yaml"):
        destinations = re.findall(r"destination: (\S+?)[,}]", example.read_text())
        assert [place for place in destinations if not place.startswith("/srv/")] == []
