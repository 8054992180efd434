"""Refusals of the service in the words of the command line."""

from __future__ import annotations

import pytest

from cli.desk import open_desk, problem
from opsjobs.cli.client import Refused


@pytest.mark.parametrize(
    ("service", "shown"),
    [
        ("It passes with override_safety: true and a reason.", "It passes with --override-safety REASON."),
        ("or say `takes_over`, as an administrator", "or say --takes-over, as an administrator"),
        ("It is approved, see GET /approvals/1.", "It is approved, see `opsjobs approvals show 1`."),
        ("see GET /dead-letters.", "see `opsjobs dead-letters list`."),
    ],
)
def test_a_refusal_names_options_and_commands(service: str, shown: str) -> None:
    with open_desk(lambda _: problem(409, "no", service)) as desk, desk.client() as client, pytest.raises(Refused) as refused:
        client.get("/jobs")
    assert str(refused.value) == shown
