"""The safety policy of an installation: stricter rules for labels, many targets or become.

It is read from a YAML file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from opsjobs.model import text_patterns
from opsjobs.model.access import ApprovalPolicy
from opsjobs.model.api_model import ApiModel
from opsjobs.model.safety_verdict import UNJUDGED, Finding, SafetyVerdict, worst
from opsjobs.model.units import describe_size
from opsjobs.model.validation_errors import plain_words
from opsjobs.safety.question import Context

POLICIES_MAX = 100
TEXT_BYTES_MAX = 256 << 10
RULE = "policy"

Label = Annotated[str, Field(pattern=text_patterns.LABEL)]
RuleName = Annotated[str, Field(pattern=text_patterns.RULE)]


class SafetyPolicy(ApiModel):
    """A policy, applied if all its conditions hold: labels, numbers of targets, become.

    A label is one of the job or of any of its targets. The policy lowers a severity only if each of
    the targets has such a label: tags are the author's own claim.
    """

    name: str = Field(min_length=1, max_length=200)
    labels: list[Label] = Field(default_factory=list, max_length=100)
    targets: int | None = Field(default=None, ge=1)
    share_of_targets: float | None = Field(default=None, gt=0, le=1)
    become: bool | None = None
    verdict: SafetyVerdict | None = None
    """The least verdict for everything that runs there."""
    at_least: dict[SafetyVerdict, SafetyVerdict] = Field(default_factory=dict)
    """The least severity of findings, by their own severity."""
    unknown: SafetyVerdict | None = None
    """The least severity of what cannot be read, but is not known to be dangerous."""
    rules: dict[RuleName, SafetyVerdict] = Field(default_factory=dict, max_length=1_000)
    """The severity of the findings of a rule, stricter or not."""
    approval: ApprovalPolicy | None = None
    """The approvals that a verdict requires there."""

    def holds(self, context: Context) -> bool:
        """Return True if the policy applies in this context."""
        return (
            (not self.labels or any(_has(label, context.labels) for label in self.labels))
            and (self.targets is None or context.targets >= self.targets)
            and (self.share_of_targets is None or context.share_of_targets >= self.share_of_targets)
            and (self.become is None or context.become is self.become)
        )

    def apply(self, finding: Finding) -> Finding:
        """Return the finding with its severity under this policy."""
        if finding.rule in self.rules:
            return replace(finding, severity=self.rules[finding.rule])
        raised = self.at_least.get(finding.severity, finding.severity)
        least = (
            self.unknown if finding.unknown and self.unknown is not None else SafetyVerdict.ALLOW
        )
        return replace(finding, severity=worst((raised, finding.severity, least)))


class SafetyPolicies(ApiModel):
    """The policies of a file, in order."""

    policies: list[SafetyPolicy] = Field(default_factory=list, max_length=POLICIES_MAX)

    def apply(
        self, found: Iterable[Finding], context: Context, targets: Sequence[Collection[str]] = ()
    ) -> tuple[Finding, ...]:
        """Return the findings with the severities of all policies applied in their order.

        A later policy overrides an earlier one. `targets`: the labels of each target of the run; a
        policy that lowers a severity must hold for each of them on its own.
        """
        each = [replace(context, labels=frozenset(labels)) for labels in targets] or [
            replace(context, labels=frozenset())
        ]
        findings = list(found)
        for policy in self._holding(context):
            lowers = all(policy.holds(here) for here in each)
            changed = [(finding, policy.apply(finding)) for finding in findings]
            findings = [
                new
                if (lowers and old.rule != UNJUDGED) or new.severity.rank > old.severity.rank
                else old
                for old, new in changed
            ]
        return tuple(finding for finding in findings if finding.severity is not SafetyVerdict.ALLOW)

    def floor(self, context: Context) -> tuple[Finding, ...]:
        """Return a finding for each policy that demands a least verdict here."""
        held = [
            policy
            for policy in self._holding(context)
            if policy.verdict not in (None, SafetyVerdict.ALLOW)
        ]
        return tuple(
            Finding(
                RULE,
                p.verdict or SafetyVerdict.ALLOW,
                f"The policy {p.name!r} requires this verdict here.",
                "",
            )
            for p in held
        )

    def approval(self, context: Context) -> Sequence[ApprovalPolicy]:
        """Return the approval policies that apply here."""
        return [policy.approval for policy in self._holding(context) if policy.approval is not None]

    def _holding(self, context: Context) -> list[SafetyPolicy]:
        return [policy for policy in self.policies if policy.holds(context)]


def _has(label: str, labels: Collection[str]) -> bool:
    return label in labels or (
        "=" not in label and any(held.partition("=")[0] == label for held in labels)
    )


def read(text: str) -> SafetyPolicies:
    """Parse a policy file (YAML). Raises ValueError that names the fault."""
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise ValueError(f"the safety policy has more than {describe_size(TEXT_BYTES_MAX)}")
    try:
        body: Any = YAML(typ="safe", pure=True).load(text)
    except YAMLError as wrong:
        raise ValueError(f"the safety policy is not valid YAML: {wrong}") from None
    try:
        return SafetyPolicies.model_validate({} if body is None else body)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ValueError(
            f"the safety policy is wrong at {place or 'its top'}: {plain_words(first)}"
        ) from None
