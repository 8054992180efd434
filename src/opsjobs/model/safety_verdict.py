"""What the safety check says of a program: a verdict, and the findings that it comes of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class SafetyVerdict(StrEnum):
    """From harmless to forbidden; of several the last one counts."""

    ALLOW = "allow"
    WARN = "warn"
    NEEDS_APPROVAL = "needs_approval"
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """0 to 3, the higher the worse."""
        return list(SafetyVerdict).index(self)


def worst(verdicts: Iterable[SafetyVerdict]) -> SafetyVerdict:
    """The one that counts; of none `allow`."""
    return max(verdicts, key=lambda verdict: verdict.rank, default=SafetyVerdict.ALLOW)


UNJUDGED = "unjudged"
"""The rule of a finding that says that a text could not be judged. No policy makes less of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a rule found. `pointer`: the JSON Pointer of the text in a job, `/actions/0/command`; "" outside of one.

    `excerpt` is of the text as written, 200 characters at most, with the values of secrets masked. `unknown`: nothing dangerous was
    found, but the text cannot be read as a whole.
    """

    rule: str
    severity: SafetyVerdict
    reason: str
    excerpt: str
    pointer: str = ""
    unknown: bool = False

    def data(self) -> dict[str, Any]:
        """An item of `findings` in the answer to POST /safety/check."""
        shown = {"rule": self.rule, "severity": self.severity.value, "reason": self.reason, "excerpt": self.excerpt}
        return {**shown, "pointer": self.pointer} if self.pointer else shown


@dataclass(frozen=True, slots=True)
class SafetyJudgement:
    """All that was found in what was asked about."""

    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> SafetyVerdict:
        """The worst of the findings'."""
        return worst(finding.severity for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """The answer to POST /safety/check."""
        return {"verdict": self.verdict.value, "findings": [finding.data() for finding in self.findings]}


@dataclass(frozen=True, slots=True)
class Vetted:
    """What was said of a job when it was stored (None: nobody was asked), and why that did not count (None: it did)."""

    judgement: SafetyJudgement | None = None
    override: str | None = None


UNASKED = Vetted()
