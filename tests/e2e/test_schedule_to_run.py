"""The usual path of a schedule: created over HTTP, fired, run by a worker, and explained."""

from __future__ import annotations

from e2e.cluster import Cluster
from e2e.processes import wait_until


def test_a_schedule_launches_its_job_and_explains_the_firing(cluster: Cluster) -> None:
    job = cluster.post(
        "/jobs",
        {
            "name": "by-the-clock",
            "targets": {"ids": ["web-1"]},
            "actions": [{"command": "echo tick"}],
        },
        201,
    )
    # Every second, so that its due time comes soon however slow this machine is; only one is
    # launched.
    body = {"name": "soon", "type": "cron", "cron": "* * * * * *", "max_firings": 1}
    schedule = cluster.post(f"/jobs/{job['id']}/schedules", body, 201)
    firings = f"/schedules/{schedule['id']}/firings"
    wait_until(lambda: cluster.get(firings, status="triggered")["items"], "a moment is launched")
    [firing] = cluster.get(firings, status="triggered")["items"]
    execution = cluster.ended(firing["execution_id"])
    assert (execution["status"], execution["triggered_by"], execution["job_id"]) == (
        "completed",
        "schedule",
        job["id"],
    )
    assert execution["requested_by"] == schedule["owner"]
    [firing] = cluster.get(firings, status="triggered")["items"]
    assert firing["explained"].endswith(f"; execution {execution['id']} ended completed")
    assert cluster.output(execution["id"], "web-1") == b"tick\n"
    shown = cluster.get(f"/schedules/{schedule['id']}")
    assert (shown["firings"], shown["words"]) == (1, schedule["words"])
    assert cluster.http.delete(f"/jobs/{job['id']}", headers={"if-match": "*"}).status_code == 204
    assert cluster.http.get(f"/schedules/{schedule['id']}").status_code == 404
