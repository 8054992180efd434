"""A schedule of a job with a secret from a credential: fired, run, rotated, and never shown."""

from __future__ import annotations

import hashlib

from e2e.cluster import Cluster
from e2e.processes import wait_until
from kit.secret_canaries import Canary, find_canaries, find_canaries_in_tables


def fired(cluster: Cluster, job: int, name: str) -> int:
    """Create a schedule that fires once, soon; return its execution."""
    body = {"name": name, "type": "cron", "cron": "* * * * * *", "max_firings": 1}
    firings = f"/schedules/{cluster.post(f'/jobs/{job}/schedules', body, 201)['id']}/firings"
    wait_until(lambda: cluster.get(firings, status="triggered")["items"], "a moment is launched")
    return int(cluster.get(firings, status="triggered")["items"][0]["execution_id"])


def test_a_scheduled_job_has_a_secret_that_is_rotated_and_never_shown(cluster: Cluster) -> None:
    first, second = Canary("first"), Canary("second")
    stored = cluster.post(
        "/credentials", {"name": "backup-pw", "type": "secret", "value": first.text}, 201
    )
    command = 'cat "$OPSJOBS_SECRETS/password"; echo; sha256sum <"$OPSJOBS_SECRETS/password"'
    declared = [{"name": "password", "type": "secret", "from_credential": "backup-pw"}]
    body = {
        "name": "backup",
        "targets": {"ids": ["web-1"]},
        "parameters": declared,
        "actions": [{"command": command}],
    }
    job = int(cluster.post("/jobs", body, 201)["id"])
    executions = []
    for canary in (first, second):
        executions.append(fired(cluster, job, canary.text[:8]))
        assert cluster.ended(executions[-1])["status"] == "completed"
        said = cluster.output(executions[-1], "web-1").decode().splitlines()
        assert said == [
            "*" * len(canary.text),
            f"{hashlib.sha256(canary.text.encode()).hexdigest()}  -",
        ]
        cluster.post(f"/credentials/{stored['id']}/rotate", {"value": second.text}, 200)
    used = cluster.get("/audit", action="credential.used")["items"]
    assert [row["after"]["execution"] for row in used] == executions[::-1]
    shown = [
        cluster.http.get(f"/executions/{n}{p}").content
        for n in executions
        for p in ("", "/targets", "/results", "/log")
    ]
    assert not find_canaries(b"".join(shown), [first, second])
    assert not find_canaries_in_tables(cluster.postgres.url, [first, second])
    assert not [
        log
        for log in cluster.folder.glob("*.log")
        if find_canaries(log.read_bytes(), [first, second])
    ]
    assert cluster.http.delete(f"/jobs/{job}", headers={"if-match": "*"}).status_code == 204
