"""Verdicts: the worst of several counts."""

from __future__ import annotations

from opsjobs.model.safety_verdict import Finding, SafetyJudgement, SafetyVerdict, worst


def test_the_worst_verdict_counts() -> None:
    assert (
        worst([SafetyVerdict.WARN, SafetyVerdict.BLOCK, SafetyVerdict.ALLOW]) is SafetyVerdict.BLOCK
    )
    assert worst([]) is SafetyVerdict.ALLOW


def test_a_judgement_is_as_bad_as_its_findings() -> None:
    findings = (
        Finding("a", SafetyVerdict.WARN, "why", "x"),
        Finding("b", SafetyVerdict.NEEDS_APPROVAL, "why", "y", "/actions/0/command"),
    )
    assert SafetyJudgement(findings).verdict is SafetyVerdict.NEEDS_APPROVAL
    assert SafetyJudgement(findings).data()["findings"][1]["pointer"] == "/actions/0/command"
    assert SafetyJudgement().data() == {"verdict": "allow", "findings": []}
