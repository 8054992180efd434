"""Roles and their permissions."""

from __future__ import annotations

import pytest

from opsjobs.model.access import (
    PERMISSIONS,
    Grant,
    Principal,
    Role,
    Scope,
    labels_of,
    normalised,
    permissions_of,
)


def test_each_role_holds_all_of_the_one_before_and_more() -> None:
    for lower, higher in zip(list(Role)[:-1], list(Role)[1:-1], strict=False):
        assert permissions_of(lower) < permissions_of(higher)
        assert permissions_of(higher) <= PERMISSIONS


@pytest.mark.parametrize(
    ("role", "permission", "held"),
    [
        ("viewer", "jobs:read", True),
        ("viewer", "jobs:execute", False),
        ("viewer", "commands:run", False),
        ("operator", "commands:run", True),
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
    assert Principal.of_role("ada", role, "api_key").has_permission(permission) is held


@pytest.mark.parametrize(
    "spelling", ["jobs:read", "jobs.read", "read_jobs", "job:read", "JOB.READ", "read_job"]
)
def test_other_spellings_of_a_permission_mean_the_same(spelling: str) -> None:
    assert normalised(spelling) == "jobs:read"


def test_the_permission_for_commands_has_the_usual_spellings() -> None:
    for spelling in ("commands.run", "run_commands", "command:run", "run_command"):
        assert normalised(spelling) == "commands:run"


def test_a_permission_of_two_words_keeps_them() -> None:
    assert (
        normalised("dead_letters:manage")
        == normalised("dead-letter.manage")
        == normalised("manage_dead_letters")
    )


def test_a_permission_reaches_what_the_scopes_of_its_grants_hold() -> None:
    staging, web = Scope.parse("env=staging"), Scope.parse("team in (web, shop)")
    ada = Principal(
        "ada", "user", (Grant.of_role("operator", staging), Grant.of_role("viewer", web))
    )
    assert ada.reach("jobs:execute").holds({"env": "staging"})
    assert not ada.reach("jobs:execute").holds({"team": "web"})
    assert ada.reach("jobs:read").holds({"team": "shop"})
    assert not ada.reach("jobs:read").holds({})
    assert not ada.reach("jobs:read").everywhere
    assert not ada.reach("system:admin").scopes


def test_a_role_without_a_scope_reaches_everything() -> None:
    assert Principal.of_role("ada", "viewer", "user").reach("jobs:read").everywhere


@pytest.mark.parametrize(
    "text",
    ["env!=prod", "!canary", "env notin (prod)", "env=staging,!canary", "env=staging,", "a b"],
)
def test_a_scope_says_what_labels_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"scope|selector"):
        Scope.parse(text)


def test_a_key_and_its_maker_are_one_person() -> None:
    ada = Principal.of_role("ada", "manager", "user", person="ada")
    key = Principal.of_role("ci", "operator", "api_key", person="ada")
    assert key.is_same_person(ada)
    assert not key.is_same_person(Principal.of_role("ben", "manager", "user", person="ben"))
    assert not Principal.of_role("ci", "viewer", "service").is_same_person(key)


def test_the_tags_of_a_job_are_its_labels() -> None:
    assert labels_of(["env=staging", "web", "note=a=b"]) == {
        "env": "staging",
        "web": "",
        "note": "a=b",
    }
