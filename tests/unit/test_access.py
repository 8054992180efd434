"""Roles and what they hold."""

from __future__ import annotations

import pytest

from opsjobs.model.access import PERMISSIONS, Principal, Role, normalised, permissions_of


def test_each_role_holds_all_of_the_one_before_and_more() -> None:
    for lower, higher in zip(list(Role)[:-1], list(Role)[1:-1], strict=False):
        assert permissions_of(lower) < permissions_of(higher)
        assert permissions_of(higher) <= PERMISSIONS


@pytest.mark.parametrize(
    ("role", "permission", "held"),
    [
        ("viewer", "jobs:read", True),
        ("viewer", "jobs:execute", False),
        ("operator", "executions:cancel", True),
        ("operator", "jobs:create", False),
        ("developer", "credentials:use", True),
        ("developer", "jobs:delete", False),
        ("manager", "targets:manage", True),
        ("manager", "credentials:manage", False),
        ("manager", "system:admin", False),
        ("admin", "system:admin", True),
        ("emperor", "jobs:read", False),
        ("", "jobs:read", False),
    ],
)
def test_a_role_may_what_the_contract_says(role: str, permission: str, held: bool) -> None:
    assert Principal("ada", role, "api_key").may(permission) is held


@pytest.mark.parametrize("spelling", ["jobs:read", "jobs.read", "read_jobs", "job:read", "JOB.READ", "read_job"])
def test_other_spellings_of_a_permission_mean_the_same(spelling: str) -> None:
    assert normalised(spelling) == "jobs:read"


def test_a_permission_of_two_words_keeps_them() -> None:
    assert normalised("dead_letters:manage") == normalised("dead-letter.manage") == normalised("manage_dead_letters")
