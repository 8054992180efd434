"""Refusals of the service in the words of the command line."""

from __future__ import annotations

import pytest

from cli.desk import open_desk, problem
from opsjobs.cli.client import RequestRefused


@pytest.mark.parametrize(
    ("service", "shown"),
    [
        ("It passes with override_safety: true and a reason.", "It passes with --override-safety REASON."),
        ("or set `reuse_name`, as an administrator", "or set --reuse-name, as an administrator"),
        ("It is approved, see GET /approvals/1.", "It is approved, see `opsjobs approvals show 1`."),
        ("see GET /dead-letters.", "see `opsjobs dead-letters list`."),
    ],
)
def test_a_refusal_names_options_and_commands(service: str, shown: str) -> None:
    with (
        open_desk(lambda _: problem(409, "no", service)) as desk,
        desk.client() as client,
        pytest.raises(RequestRefused) as refused,
    ):
        client.get("/jobs")
    assert str(refused.value) == shown


@pytest.mark.parametrize(
    ("path", "service", "shown"),
    [
        ("/jobs/5/schedules", "/type: it is required.", "--cron, --at or --every: it is required."),
        ("/schedules/3", "/local_time: it is in the past.", "--at: it is in the past."),
        ("/schedules/preview", "/schedule/weekdays/0: it is no day.", "--on: it is no day."),
        ("/jobs", "/type: it is required.", "/type: it is required."),
    ],
)
def test_a_refused_schedule_names_its_options(path: str, service: str, shown: str) -> None:
    with (
        open_desk(lambda _: problem(422, "no", service)) as desk,
        desk.client() as client,
        pytest.raises(RequestRefused) as refused,
    ):
        client.post(path, {})
    assert str(refused.value) == shown
