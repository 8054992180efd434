"""Schemas of the safety check."""

from __future__ import annotations

from opsjobs.api.schemas.base import AnswerModel, FindingOut
from opsjobs.model.safety_verdict import SafetyVerdict


class SafetyCheckOut(AnswerModel):
    """Findings of the safety check in a text."""

    verdict: SafetyVerdict
    findings: list[FindingOut]


class StricterOut(AnswerModel):
    """A condition under which a rule has a stricter severity."""

    when: str
    severity: SafetyVerdict


class SafetyRuleOut(AnswerModel):
    """A rule of the safety check."""

    name: str
    severity: SafetyVerdict
    unknown: bool
    stricter: list[StricterOut]
    reason: str
    example: str


class SafetyRulesOut(AnswerModel):
    """All rules of the safety check."""

    items: list[SafetyRuleOut]
