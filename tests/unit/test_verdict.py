"""Verdicts: of several the worst counts."""

from __future__ import annotations

from opsjobs.model.safety_verdict import Finding, Judgement, Verdict, worst


def test_the_worst_verdict_counts() -> None:
    assert worst([Verdict.WARN, Verdict.BLOCK, Verdict.ALLOW]) is Verdict.BLOCK
    assert worst([]) is Verdict.ALLOW


def test_a_judgement_is_as_bad_as_its_findings() -> None:
    findings = Finding("a", Verdict.WARN, "why", "x"), Finding("b", Verdict.NEEDS_APPROVAL, "why", "y", "/actions/0/command")
    assert Judgement(findings).verdict is Verdict.NEEDS_APPROVAL
    assert Judgement(findings).data()["findings"][1]["pointer"] == "/actions/0/command"
    assert Judgement().data() == {"verdict": "allow", "findings": []}
