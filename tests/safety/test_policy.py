"""Additions of an installation to the safety check, from its file."""

from __future__ import annotations

import pytest

from opsjobs.model.safety_verdict import UNJUDGED, Finding, SafetyVerdict
from opsjobs.safety import Context
from opsjobs.safety.policy import read

WARN = Finding("stop-service", SafetyVerdict.WARN, "A service stops", "systemctl stop x")
TEXT = """
policies:
  - name: careful in production
    labels: [env=prod, env=production]
    at_least: {warn: needs_approval}
    approval: {approvers: 2, expires: 2h}
  - name: this one is usual here
    labels: [team=web]
    rules: {stop-service: allow}
  - name: many at once
    targets: 100
    verdict: needs_approval
  - name: as root
    become: true
    rules: {stop-service: block}
"""


@pytest.mark.parametrize(
    ("context", "severity"),
    [
        (Context(), SafetyVerdict.WARN),
        (Context(labels=frozenset({"env=prod"})), SafetyVerdict.NEEDS_APPROVAL),
        (Context(labels=frozenset({"env=prod", "team=web"})), None),
        (Context(become=True), SafetyVerdict.BLOCK),
    ],
)
def test_a_finding_has_the_severity_of_the_place(
    context: Context, severity: SafetyVerdict | None
) -> None:
    found = read(TEXT).apply([WARN], context, [context.labels])
    assert [f.severity for f in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("targets", "severity"),
    [
        ([{"team=web"}, {"team=web", "env=lab"}], None),
        ([{"team=web"}, {"team=db"}], SafetyVerdict.WARN),
        ([], SafetyVerdict.WARN),
    ],
)
def test_a_policy_makes_less_of_a_finding_only_by_labels_of_each_target_and_never_by_tags(
    targets: list[set[str]], severity: SafetyVerdict | None
) -> None:
    found = read(TEXT).apply([WARN], Context(labels=frozenset({"team=web"})), targets)
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_a_policy_may_ask_for_whatever_runs_there_and_say_who_approves() -> None:
    policies = read(TEXT)
    assert [f.severity for f in policies.floor(Context(targets=100))] == [
        SafetyVerdict.NEEDS_APPROVAL
    ]
    assert policies.floor(Context(targets=99)) == ()
    assert [p.approvers for p in policies.approval(Context(labels=frozenset({"env=prod"})))] == [2]


def test_a_label_without_a_value_is_any_of_it() -> None:
    policies = read("policies: [{name: a, labels: [pci], verdict: block}]")
    assert policies.floor(Context(labels=frozenset({"pci=1"}))) != ()
    assert policies.floor(Context(labels=frozenset({"pcix=1"}))) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("policies: [", "not valid YAML"),
        ("policies: [{labels: [a]}]", "policies.0.name"),
        ("policies: [{name: a, verdict: perhaps}]", "policies.0.verdict"),
        ("policies: [{name: a, nonsense: 1}]", "policies.0.nonsense"),
        ("- a", "its top"),
        ("x" * 300_000, "256KiB"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(text)
    assert read("").policies == []


def test_no_policy_makes_less_of_a_text_that_could_not_be_judged() -> None:
    unjudged = Finding(UNJUDGED, SafetyVerdict.NEEDS_APPROVAL, "It takes too long.", "x")
    for verdict, severity in (
        ("allow", SafetyVerdict.NEEDS_APPROVAL),
        ("block", SafetyVerdict.BLOCK),
    ):
        policies = read(f"policies: [{{name: all, rules: {{unjudged: {verdict}}}}}]")
        assert [f.severity for f in policies.apply([unjudged], Context(), [set()])] == [severity]
