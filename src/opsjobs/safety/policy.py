"""What an installation adds to the safety check: stricter words for some labels, many machines or become, read from a YAML file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.approvers import ApprovalPolicy
from opsjobs.model.safety_verdict import UNJUDGED, Finding, SafetyVerdict, worst
from opsjobs.model.validation_messages import plain_words
from opsjobs.safety import Context

POLICIES_MAX = 100
TEXT_BYTES_MAX = 256 << 10
RULE = "policy"

Label = Annotated[str, Field(pattern=text_patterns.LABEL)]
RuleName = Annotated[str, Field(pattern=text_patterns.RULE)]


class SafetyPolicy(ApiModel):
    """Applies where every condition that it names holds: a label of the job or of any of its targets, a number, become.

    What it makes less severe it makes so only where each of the targets has such a label: tags are the author's own word.
    `verdict`: at least this for whatever runs there. `at_least`: what findings of a severity become. `unknown`: what findings become at least
    of what cannot be read, but is not known to be dangerous. `rules`: what those of a rule
    become, stricter or not. `approval`: what an approval by verdict takes there.
    """

    name: str = Field(min_length=1, max_length=200)
    labels: list[Label] = Field(default_factory=list, max_length=100)
    targets: int | None = Field(default=None, ge=1)
    share_of_targets: float | None = Field(default=None, gt=0, le=1)
    become: bool | None = None
    verdict: SafetyVerdict | None = None
    at_least: dict[SafetyVerdict, SafetyVerdict] = Field(default_factory=dict)
    unknown: SafetyVerdict | None = None
    rules: dict[RuleName, SafetyVerdict] = Field(default_factory=dict, max_length=1_000)
    approval: ApprovalPolicy | None = None

    def holds(self, context: Context) -> bool:
        """Whether it applies there."""
        return (
            (not self.labels or any(_has(label, context.labels) for label in self.labels))
            and (self.targets is None or context.targets >= self.targets)
            and (self.share_of_targets is None or context.share_of_targets >= self.share_of_targets)
            and (self.become is None or context.become is self.become)
        )

    def judged(self, finding: Finding) -> Finding:
        """The finding with the severity that it has here."""
        if finding.rule in self.rules:
            return replace(finding, severity=self.rules[finding.rule])
        raised = self.at_least.get(finding.severity, finding.severity)
        least = self.unknown if finding.unknown and self.unknown is not None else SafetyVerdict.ALLOW
        return replace(finding, severity=worst((raised, finding.severity, least)))


class SafetyPolicies(ApiModel):
    """The whole file."""

    policies: list[SafetyPolicy] = Field(default_factory=list, max_length=POLICIES_MAX)

    def judged(self, found: Iterable[Finding], context: Context, targets: Sequence[Collection[str]] = ()) -> tuple[Finding, ...]:
        """The findings as they count there: one policy after the other, the last word is the last one's.

        `targets`: the labels of each target that it runs on; a policy that makes less of a finding has to hold for each by itself.
        """
        each = [replace(context, labels=frozenset(labels)) for labels in targets] or [replace(context, labels=frozenset())]
        findings = list(found)
        for policy in self._holding(context):
            lowers = all(policy.holds(here) for here in each)
            changed = [(finding, policy.judged(finding)) for finding in findings]
            findings = [
                new if (lowers and old.rule != UNJUDGED) or new.severity.rank > old.severity.rank else old for old, new in changed
            ]
        return tuple(finding for finding in findings if finding.severity is not SafetyVerdict.ALLOW)

    def floor(self, context: Context) -> tuple[Finding, ...]:
        """What the policies say of whatever runs there."""
        held = [policy for policy in self._holding(context) if policy.verdict not in (None, SafetyVerdict.ALLOW)]
        return tuple(
            Finding(RULE, p.verdict or SafetyVerdict.ALLOW, f"The policy {p.name!r} says so of what runs here.", "") for p in held
        )

    def approval(self, context: Context) -> Sequence[ApprovalPolicy]:
        """What approvals by verdict take there."""
        return [policy.approval for policy in self._holding(context) if policy.approval is not None]

    def _holding(self, context: Context) -> list[SafetyPolicy]:
        return [policy for policy in self.policies if policy.holds(context)]


def _has(label: str, labels: Collection[str]) -> bool:
    return label in labels or ("=" not in label and any(held.partition("=")[0] == label for held in labels))


def read(text: str) -> SafetyPolicies:
    """From YAML. Raises ValueError that names the fault."""
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise ValueError(f"the safety policy has more than {TEXT_BYTES_MAX} bytes")
    try:
        body: Any = YAML(typ="safe", pure=True).load(text)
    except YAMLError as wrong:
        raise ValueError(f"the safety policy is no YAML: {wrong}") from None
    try:
        return SafetyPolicies.model_validate({} if body is None else body)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"the safety policy is wrong at {place or 'its top'}: {plain_words(first)}") from None
