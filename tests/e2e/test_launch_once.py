"""One request makes one execution, even if it is repeated or processes die before the response."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psycopg
import pytest

from e2e.cluster import Cluster
from e2e.processes import SECONDS, Json, wait_until


@pytest.fixture
def job(cluster: Cluster) -> int:
    """Store a job on web-1; return its id."""
    body = {
        "name": f"greet-{uuid.uuid4()}",
        "actions": [{"type": "command", "command": "echo hello"}],
        "targets": {"ids": ["web-1"]},
    }
    return int(cluster.post("/jobs", body, 201)["id"])


def executions(cluster: Cluster, job: int) -> list[int]:
    """Return the ids of a job's executions."""
    return [item["id"] for item in cluster.get(f"/jobs/{job}/executions")["items"]]


def execute_until_answered(cluster: Cluster, job: int, key: str) -> Json:
    """Send the same request with the same key until it is answered, like a good client."""
    answers: list[httpx2.Response] = []

    def answered() -> bool:
        try:
            answers.append(
                cluster.http.post(f"/jobs/{job}/execute", json={}, headers={"idempotency-key": key})
            )
        except httpx2.TransportError:
            return False
        return answers[-1].status_code not in (409, 503)

    wait_until(answered, "an answer")
    assert answers[-1].status_code == 202, answers[-1].text
    return dict(answers[-1].json())


def test_concurrent_requests_with_one_idempotency_key_make_one_execution(
    cluster: Cluster, job: int
) -> None:
    key = str(uuid.uuid4())

    def order(_: int) -> httpx2.Response:
        with cluster.client() as http:
            return http.post(f"/jobs/{job}/execute", json={}, headers={"idempotency-key": key})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(order, range(16)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {
        "idempotency_in_progress"
    }
    told = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert len(told) == 1
    assert {execute_until_answered(cluster, job, key)["id"]} == told == {*executions(cluster, job)}
    other = cluster.http.post(
        f"/jobs/{job}/execute", json={"reason": "another"}, headers={"idempotency-key": key}
    )
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_an_api_killed_before_the_commit_did_nothing_and_the_retry_launches(
    cluster: Cluster, job: int
) -> None:
    key = str(uuid.uuid4())
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(cluster.postgres.url) as blocker:
            blocker.execute("lock table job_executions in exclusive mode")
            first = pool.submit(
                cluster.http.post, f"/jobs/{job}/execute", json={}, headers={"idempotency-key": key}
            )
            waiting = "select 1 from pg_locks where not granted"
            wait_until(
                lambda: cluster.rows(waiting), "the launch stands in the middle of its transaction"
            )
            cluster.running["api"].kill()
        with pytest.raises(httpx2.TransportError):
            first.result(SECONDS)
    assert not cluster.rows("select 1 from job_executions where job_id = %s", job)
    cluster.start("api")
    launched = execute_until_answered(cluster, job, key)
    assert executions(cluster, job) == [launched["id"]]


def test_an_api_killed_after_the_commit_gives_the_same_answer_to_the_retry(
    cluster: Cluster, job: int
) -> None:
    key = str(uuid.uuid4())
    committed = "select id from job_executions where job_id = %s"
    with ThreadPoolExecutor(1) as pool:
        # The response is held back: it waits for the end of an execution that has to wait for its
        # workers.
        for worker in cluster.workers:
            worker.freeze()
        headers = {"idempotency-key": key, "prefer": "wait=30"}
        first = pool.submit(cluster.http.post, f"/jobs/{job}/execute", json={}, headers=headers)
        wait_until(lambda: cluster.rows(committed, job), "the launch is committed")
        cluster.running["api"].kill()
        for worker in cluster.workers:
            worker.thaw()
        with pytest.raises(httpx2.TransportError):
            first.result(SECONDS)
    cluster.start("api")
    again = execute_until_answered(cluster, job, key)
    assert [row["id"] for row in cluster.rows(committed, job)] == [again["id"]]
    assert cluster.ended(again["id"])["status"] == "completed"
    assert execute_until_answered(cluster, job, key)["id"] == again["id"]
