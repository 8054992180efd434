"""Workflows by the HTTP API on real machines: branches, conditions, waits, scripts and secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.processes import Json, wait_until
from e2e.workload import SECONDS, Workload, work
from kit.secret_canaries import Canary, find_canaries, find_canaries_in_tables


@pytest.fixture
def workload(cluster: Cluster) -> Iterator[Workload]:
    with work(cluster) as found:
        yield found


def job(cluster: Cluster, body: Json) -> int:
    """Store a job; return its id."""
    return int(cluster.post("/jobs", {"policy": {"durable": "off"}, **body}, 201)["id"])


def ends(workload: Workload, execution: int) -> dict[str, str]:
    """Return how each started action ended."""
    return {
        key: result["status"]
        for key, result in workload.results(execution).items()
        if result["started_at"]
    }


def approval(cluster: Cluster, execution: int) -> int:
    """Wait for an approval of an execution; return it."""

    def asked() -> list[Json]:
        items = cluster.get("/approvals", status="pending")["items"]
        return [item for item in items if item["execution_id"] == execution]

    wait_until(asked, "the question", SECONDS)
    return int(asked()[0]["id"])


def test_conditions_read_outputs_and_branches_meet_again(
    cluster: Cluster, workload: Workload
) -> None:
    look = workload.step("look", """echo '{"role": "db", "free": 7}'""", outputs="json_lines")
    actions = [
        look,
        workload.step(
            "db",
            "echo ${actions.look.outputs.free}",
            depends_on=["look"],
            when="actions.look.outputs.role == 'db'",
        ),
        workload.step(
            "web",
            depends_on=["look"],
            when="actions.look.outputs.role == 'web' or actions.look.outputs.free > 9",
        ),
        workload.step("both", depends_on=["db", "web"]),
    ]
    execution = workload.launch(actions, ["web-1"])
    assert workload.ended(execution)["status"] == "completed"
    assert ends(workload, execution) == dict.fromkeys(["look", "db", "both"], "succeeded")
    assert workload.results(execution)["db"]["stdout"] == "7\n"
    assert workload.began("web") == []
    assert workload.stamps("both", "start") > workload.stamps("db", "end")


def test_a_barrier_waits_for_all_targets(cluster: Cluster, workload: Workload) -> None:
    names = cluster.names(1, 3)
    # One of them is late.
    before = workload.step(
        "before", f"test $3 != {cluster.machines[0].addresses[0]} || {{ {workload.held}; }}"
    )
    execution = workload.launch([before, workload.step("after", scope="barrier")], names)
    for name in names[1:]:
        assert workload.waits(execution, name, "barrier")["awaits"] == "after"
    assert workload.began("after") == []
    workload.leave()
    assert workload.ended(execution)["status"] == "completed"
    assert min(workload.stamps("after", "start")) > max(workload.stamps("before", "end"))


@pytest.mark.parametrize(
    ("on_failure", "begun"),
    [
        ({"on_failure": "stop"}, ["bad"]),
        ({"on_failure": "rollback", "rollback": "undo"}, ["bad", "undo"]),
        ({"on_failure": "skip_remaining"}, ["bad", "else"]),
        ({"on_failure": "continue"}, ["bad", "else", "next"]),
    ],
)
def test_workflow_branches_after_a_failure(
    cluster: Cluster, workload: Workload, on_failure: Json, begun: list[str]
) -> None:
    # The other branch is only there if it surely runs: a stop may come before it begins, or after.
    other = [workload.step("else", depends_on=[])] if "else" in begun else []
    undo = [workload.step("undo")] if "undo" in begun else []
    actions = [workload.step("bad", "exit 3", **on_failure), workload.step("next"), *other, *undo]
    execution = workload.launch(actions, ["web-1"])
    ended = workload.ended(execution)
    assert (ended["status"], ended["counts"]) == ("failed", {"failed": 1})
    assert workload.runs(execution)["web-1"]["exit_code"] == 3
    assert sorted(key for key in ("bad", "next", "else", "undo") if workload.began(key)) == sorted(
        begun
    )


@pytest.mark.parametrize(("answer", "end"), [("approve", "succeeded"), ("reject", "cancelled")])
def test_an_approval_step_asks_once_and_follows_the_decision(
    cluster: Cluster, workload: Workload, answer: str, end: str
) -> None:
    names = cluster.names(1, 3)
    ask = {"key": "ask", "type": "approval", "message": "Go on?"}
    execution = workload.launch([workload.step("before"), ask, workload.step("after")], names)
    question = approval(cluster, execution)
    for name in names:
        workload.waits(execution, name, "approval")
    assert workload.began("after") == []
    alone = {"override_safety": True} if answer == "approve" else {}
    assert cluster.post(f"/approvals/{question}/{answer}", {"reason": "so be it", **alone})[
        "decided_by"
    ]
    assert workload.ended(execution)["counts"] == {end: 3}
    assert len(workload.began("after")) == (3 if answer == "approve" else 0)
    assert (
        cluster.http.post(f"/approvals/{question}/approve", json={}).json()["code"]
        == "approval_decided"
    )


@pytest.mark.parametrize("works", [True, False])
def test_a_job_step_runs_another_job_and_has_its_result(
    cluster: Cluster, workload: Workload, works: bool
) -> None:
    declared = [{"name": "code", "type": "integer", "required": True}]
    inner = workload.step("inner", "exit ${code}")
    child = job(
        cluster,
        {
            "name": f"child-{works}",
            "actions": [inner],
            "parameters": declared,
            "targets": {"ids": ["web-1", "web-2"]},
        },
    )
    call = {
        "key": "call",
        "type": "job",
        "job": f"child-{works}",
        "parameters": {"code": 0 if works else 4},
    }
    execution = workload.launch([workload.step("before"), call, workload.step("after")], ["web-2"])
    assert workload.ended(execution)["status"] == ("completed" if works else "failed")
    (launched,) = cluster.get(f"/jobs/{child}/executions")["items"]
    assert (launched["parent"], launched["triggered_by"]) == (execution, "workflow")
    assert launched["status"] == ("completed" if works else "failed")
    assert workload.began("inner") == workload.began("before")
    assert len(workload.began("after")) == (1 if works else 0)


def test_a_wait_step_lasts_at_least_its_duration(cluster: Cluster, workload: Workload) -> None:
    wait = {"key": "rest", "type": "wait", "duration": "2s"}
    execution = workload.launch([workload.step("before"), wait, workload.step("after")], ["web-1"])
    assert workload.ended(execution)["status"] == "completed"
    assert workload.stamps("after", "start")[0] - workload.stamps("before", "end")[0] >= 1.9
    assert ends(workload, execution) == dict.fromkeys(["before", "rest", "after"], "succeeded")


_SH = 'cat; printf "%s|" "$@" "$COLOUR" "$PWD"'
_PYTHON = "import os, sys\nprint(sys.stdin.read() + '|'.join([*sys.argv[1:], os.environ['COLOUR'], os.getcwd(), '']), end='')"


@pytest.mark.parametrize(
    ("interpreter", "script"), [("sh", _SH), ("bash", f"[[ 1 ]] && {_SH}"), ("python", _PYTHON)]
)
@pytest.mark.parametrize("durable", ["required", "off"])
def test_scripts_have_their_arguments_variables_folder_and_input(
    cluster: Cluster, workload: Workload, interpreter: str, script: str, durable: str
) -> None:
    action = {
        "key": "say",
        "type": "script",
        "interpreter": interpreter,
        "script": script,
        "args": ["it's", "", "two words", "$HOME;`x`"],
        "env": {"COLOUR": "deep 'blue'"},
        "cwd": "/usr",
        "stdin": "line 1\nline 2\n",
    }
    execution = workload.launch([action], ["web-1"], {"durable": durable})
    assert workload.ended(execution)["status"] == "completed"
    said = cluster.output(execution, "web-1").decode()
    assert said == "line 1\nline 2\nit's||two words|$HOME;`x`|deep 'blue'|/usr|"


def test_a_secret_reaches_only_its_command(cluster: Cluster, workload: Workload) -> None:
    secret = Canary("token")
    declared = [{"name": "token", "type": "secret", "required": True}]
    actions = [{"key": "use", "type": "command", "command": 'sha256sum <"$OPSJOBS_SECRETS/token"'}]
    made = job(
        cluster,
        {
            "name": "with-a-secret",
            "actions": actions,
            "parameters": declared,
            "targets": {"ids": ["web-1"]},
        },
    )
    execution = int(
        cluster.post(f"/jobs/{made}/execute", {"parameters": {"token": secret.text}}, 202)["id"]
    )
    assert workload.ended(execution)["status"] == "completed"
    assert (
        workload.results(execution)["use"]["stdout"].split()[0]
        == hashlib.sha256(secret.text.encode()).hexdigest()
    )
    shown = [
        cluster.http.get(f"/executions/{execution}{path}").content
        for path in ("", "/targets", "/results", "/log", "/timeline")
    ]
    assert not find_canaries(b"".join(shown), [secret])
    assert not find_canaries_in_tables(cluster.postgres.url, [secret])
    assert not [
        log for log in cluster.folder.glob("*.log") if find_canaries(log.read_bytes(), [secret])
    ]
