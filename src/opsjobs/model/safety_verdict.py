"""The result of the safety check of a program: a verdict, and the findings behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class SafetyVerdict(StrEnum):
    """The verdicts from harmless to forbidden; of several the last one counts."""

    ALLOW = "allow"
    WARN = "warn"
    NEEDS_APPROVAL = "needs_approval"
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """The rank from 0 to 3; higher is worse."""
        return list(SafetyVerdict).index(self)


def worst(verdicts: Iterable[SafetyVerdict]) -> SafetyVerdict:
    """Return the worst verdict; `allow` if there are none."""
    return max(verdicts, key=lambda verdict: verdict.rank, default=SafetyVerdict.ALLOW)


UNJUDGED = "unjudged"
"""The rule of the finding that a text could not be checked. No policy can lower it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a rule."""

    rule: str
    severity: SafetyVerdict
    reason: str
    excerpt: str
    """Up to 200 characters of the text as written, with the values of secrets redacted."""
    pointer: str = ""
    """The JSON Pointer of the text in a job, `/actions/0/command`; "" outside of one."""
    unknown: bool = False
    """True if nothing dangerous was found, but the text cannot be analysed completely."""

    def data(self) -> dict[str, Any]:
        """Return an item of `findings` in the response to POST /safety/check."""
        shown = {
            "rule": self.rule,
            "severity": self.severity.value,
            "reason": self.reason,
            "excerpt": self.excerpt,
        }
        return {**shown, "pointer": self.pointer} if self.pointer else shown


@dataclass(frozen=True, slots=True)
class SafetyJudgement:
    """All findings of a check."""

    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> SafetyVerdict:
        """The worst severity of the findings."""
        return worst(finding.severity for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """Return the body of the response to POST /safety/check."""
        return {
            "verdict": self.verdict.value,
            "findings": [finding.data() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Vetted:
    """The result of the check of a stored job, and an override's reason."""

    judgement: SafetyJudgement | None = None
    """The result; None: unchecked."""
    override: str | None = None
    """The reason for which the result did not count; None: it counted."""


UNASKED = Vetted()
