"""Profiles: the built-in ones, custom ones, and the errors of invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pages import samples
from opsjobs.integrations.services.profile import (
    BUILT_IN,
    FILE_BYTES_MAX,
    ProfileError,
    fill,
    first_field,
    load_profile,
    parse_profile,
)

OWN = """
name: ours
targets:
  get: {path: "/hosts/{id}"}
  list: {path: /hosts, items: hosts}
audit:
  path: /log
  body: {what: "{event_type:upper} of {resource_type}", more: ["{details}"], fixed: 3}
"""


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_profile_is_valid_and_carries_its_name(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.targets is not None
    assert profile.notifications is not None


def test_the_generations_offer_what_they_have() -> None:
    v3, ms, ng = (load_profile(name) for name in BUILT_IN)
    assert v3.targets is not None
    assert v3.targets.batch is not None
    assert ms.targets is not None
    assert ms.targets.batch is None
    assert ms.targets.credentials is None
    assert (ng.users, ng.auth, ng.audit) == (None, None, None)
    assert ng.headers.correlation == "X-Request-ID"


def test_a_users_own_file_has_the_same_form(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(OWN)
    profile = load_profile(str(file))
    assert profile.targets is not None
    assert profile.targets.get.url("a/b") == "/hosts/a%2Fb"
    assert profile.audit is not None
    values = {"event_type": "job.started", "resource_type": "job", "details": {"a": 1}}
    assert fill(profile.audit.body, values) == {
        "what": "JOB.STARTED of job",
        "more": [{"a": 1}],
        "fixed": 3,
    }


def test_the_profile_of_the_reference_is_a_valid_one() -> None:
    (sample,) = (
        s for s in samples("docs/reference/profiles.md", "yaml") if s.note == "profile.yaml"
    )
    profile = parse_profile(sample.text, "profile.yaml")
    assert None not in (profile.targets, profile.users, profile.auth)
    assert None not in (profile.notifications, profile.audit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ntargets: {get: {path: /x}, list: {path: /l}}", "targets.get.path: write a path"),
        ("name: x\ntarget: {}", "target: there is no such field here; did you mean 'targets'?"),
        ("name: x\nauth: {path: api}", "auth.path: write a path that begins with /"),
        ("name: x\naudit: {path: /a, body: {u: '{userid}'}}", "there is no value {userid} here"),
        ("name: x\naudit: {path: /a}", "audit.body: it is required"),
        ("name: [x", "is not valid YAML"),
        ("", "name: it is required"),
        ("- a", "its top: it must be an object"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_place_and_the_correction(
    text: str, message: str
) -> None:
    with pytest.raises(ProfileError, match=r"^the profile ours\.yaml ") as caught:
        parse_profile(text, "ours.yaml")
    assert message in str(caught.value)


def test_a_profile_that_is_not_there_or_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(str(tmp_path / "none.yaml"))
    (tmp_path / "long.yaml").write_text("#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ProfileError, match="more than 64KiB"):
        load_profile(str(tmp_path / "long.yaml"))


def test_the_first_place_with_a_value_counts() -> None:
    answer = {"a": {"b": None, "c": 0}, "d": "x"}
    assert first_field(answer, ["a.b", "a.c", "d"]) == 0
    assert first_field(answer, [""]) == answer
    assert first_field(answer, ["a.b.c", "x"]) is None
