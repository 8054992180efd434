"""Run the safety check: when a job is stored, and at launch on the texts that will run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from opsjobs.clock import Clock
from opsjobs.integrations.targets import Targets
from opsjobs.model.access import ApprovalPolicy
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.job import JobDraft
from opsjobs.model.policy import with_check
from opsjobs.model.safety_verdict import UNJUDGED, Finding, SafetyJudgement, SafetyVerdict
from opsjobs.model.target import Target
from opsjobs.safety import Context, SafetyQuestion
from opsjobs.safety.job_inputs import UNKNOWN, JobText, texts_of
from opsjobs.safety.policy import SafetyPolicies

CACHED_MAX = 10_000
FINDINGS_MAX = 100
COUNT_SECONDS = 10.0
"""Time for which the number of all targets is cached."""
SHARE_TARGETS_MIN = 5
"""Number of targets below which their share of all targets is ignored: one of one is all."""
TURN_SECONDS = 0.02
"""Time after which preparing the texts of one launch yields to other tasks."""
_BLOCKED = "The safety check blocks it"
_WHAT_TO_DO = "Change it, or pass override_safety: true and a reason, which takes safety:override."


class CheckText(Protocol):
    """The interface of `sandbox.pool.SafetyCheckPool.check`."""

    async def __call__(self, question: SafetyQuestion) -> tuple[Finding, ...]:
        """Return the findings of the rules in this text.

        Raises Unavailable if the check is unavailable now.
        """


@dataclass(frozen=True, slots=True)
class SafetyResult:
    """The findings, and the requirements of the approval that they need."""

    judgement: SafetyJudgement
    approvals: Sequence[ApprovalPolicy] = ()


class SafetyService:
    """Run the safety check for jobs and launches.

    Each different text is checked once; the findings are cached by the digest of the question.
    """

    def __init__(
        self,
        check_text: CheckText,
        targets: Targets,
        clock: Clock,
        policies: SafetyPolicies | None = None,
    ) -> None:
        self._check_text = check_text
        self._targets = targets
        self._clock = clock
        self._policies = policies or SafetyPolicies()
        self._cached: OrderedDict[bytes, tuple[Finding, ...]] = OrderedDict()
        self._target_count = 0
        self._counted_at = float("-inf")

    async def check_job(self, draft: JobDraft) -> SafetyJudgement:
        """Return the findings of a job as it is written.

        They use its tags, and the default values of its parameters. Its targets count only at
        launch.
        """
        actions = with_check(
            draft.policy, [action.model_dump(mode="json") for action in draft.actions]
        )
        values = {
            p.name: p.default for p in draft.parameters if p.default is not None and not p.secret
        }
        declared = [p.name for p in draft.parameters if not p.secret]
        texts = texts_of(actions, values, (), job_name=draft.name, declared=declared)
        return (await self._check(texts, Context(labels=frozenset(draft.tags)))).judgement

    async def check_launch(
        self,
        actions: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        targets: Sequence[Target],
        *,
        job_name: str,
        tags: Iterable[str] = (),
    ) -> SafetyResult:
        """Return the findings of these frozen actions with these values on these targets."""
        labels = frozenset(tags) | _labels(targets)
        context = Context(labels, await self._share(len(targets)), len(targets))
        texts = texts_of(actions, parameters, targets, job_name=job_name)
        return await self._check(texts, context, frozenset(tags))

    async def check_target(
        self,
        actions: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        target: Target,
        *,
        job_name: str,
        tags: Iterable[str] = (),
        targets: int = 1,
    ) -> SafetyJudgement:
        """Return the findings for one of the `targets` of a launch, changed since the launch."""
        context = Context(frozenset(tags) | _labels([target]), await self._share(targets), targets)
        texts = texts_of(actions, parameters, [target], job_name=job_name)
        return (await self._check(texts, context, frozenset(tags))).judgement

    async def _check(
        self, texts: Iterable[JobText], context: Context, tags: frozenset[str] | None = None
    ) -> SafetyResult:
        """Check these texts; `tags`: the job's, if the texts have targets (None: they do not)."""
        found: dict[tuple[str, str, str], Finding] = {}
        become = False
        async for text in _yielding(texts, self._clock):
            become = become or text.become
            # The labels are those of the targets that the text runs on; the number of targets and
            # their share are those of the whole launch.
            labels = context.labels if tags is None else tags | _labels(text.targets)
            here = replace(context, labels=labels, become=text.become)
            each = list({_labels([target]) for target in text.targets})
            findings = (*text.findings, *await self._check_job_text(text, here))
            for finding in self._policies.apply(findings, here, each):
                placed = replace(finding, pointer=text.pointer)
                key = (placed.pointer, placed.rule, placed.excerpt)
                before = found.get(key)
                if before is None or before.severity.rank < placed.severity.rank:
                    found[key] = placed
        whole = replace(context, become=become)
        worst_first = sorted(
            [*found.values(), *self._policies.floor(whole)],
            key=lambda finding: -finding.severity.rank,
        )
        return SafetyResult(
            SafetyJudgement(tuple(worst_first[:FINDINGS_MAX])), self._policies.approval(whole)
        )

    async def _check_job_text(self, text: JobText, context: Context) -> tuple[Finding, ...]:
        question = SafetyQuestion(
            text.interpreter, text.text, context, text.arguments, text.variables, UNKNOWN
        )
        key = question.digest
        if key in self._cached:
            self._cached.move_to_end(key)
            return self._cached[key]
        found = await self._check_text(question)
        if any(finding.rule == UNJUDGED for finding in found):
            return found  # not cached: the next launch tries again
        self._cached[key] = found
        if len(self._cached) > CACHED_MAX:
            self._cached.popitem(last=False)
        return found

    async def _share(self, targets: int) -> float:
        """Return this number of targets as a share of all targets; 0 for a few."""
        if targets < SHARE_TARGETS_MIN:
            return 0.0
        if self._clock.monotonic() - self._counted_at > COUNT_SECONDS:
            self._target_count = await self._targets.count()
            self._counted_at = self._clock.monotonic()
        return min(targets / max(self._target_count, 1), 1.0)


async def _yielding(texts: Iterable[JobText], clock: Clock) -> AsyncIterator[JobText]:
    """Pass the texts on, and yield to other tasks now and then.

    Making the texts of many actions for many targets takes a while.
    """
    began = clock.monotonic()
    for text in texts:
        yield text
        if clock.monotonic() - began > TURN_SECONDS:
            await asyncio.sleep(0)
            began = clock.monotonic()


def refuse_blocked(judgement: SafetyJudgement, *, prefix: str = "") -> None:
    """Raise Invalid("safety_blocked") if findings block the job or launch.

    `prefix`: the pointer of the job, if it is one of many in the request.
    """
    blocked = [finding for finding in judgement.findings if finding.severity is SafetyVerdict.BLOCK]
    if not blocked:
        return
    errors = [FieldError(prefix + f.pointer, _describe(f), f.rule) for f in blocked]
    detail = f"{_BLOCKED}: {_describe(blocked[0])}. {_WHAT_TO_DO}"
    raise Invalid("safety_blocked", detail, errors=errors)


def describe_needed_approval(judgement: SafetyJudgement) -> str:
    """Return why an approval is needed; empty if none is."""
    needs = [
        finding
        for finding in judgement.findings
        if finding.severity is SafetyVerdict.NEEDS_APPROVAL
    ]
    if not needs:
        return ""
    more = f" ({len(needs) - 1} more)" if len(needs) > 1 else ""
    return f"the safety check asks for an approval: {_describe(needs[0])}{more}"


def describe_refusal(judgement: SafetyJudgement) -> str | None:
    """Return why the texts may not run without an approval or an override; None if they may."""
    blocked = [finding for finding in judgement.findings if finding.severity is SafetyVerdict.BLOCK]
    if blocked:
        return f"the safety check blocks it: {_describe(blocked[0])}"
    return describe_needed_approval(judgement) or None


def describe_unjudged(judgement: SafetyJudgement | None) -> str | None:
    """Return why the safety check could not decide; None if it could."""
    findings = judgement.findings if judgement is not None else ()
    unjudged = [finding for finding in findings if finding.rule == UNJUDGED]
    return f"the safety check has no result for it: {_describe(unjudged[0])}" if unjudged else None


def _describe(finding: Finding) -> str:
    excerpt = f" ({finding.excerpt})" if finding.excerpt else ""
    return f"{finding.rule}: {finding.reason.rstrip('.')}{excerpt}"


def _labels(targets: Iterable[Target]) -> frozenset[str]:
    return frozenset(f"{key}={value}" for target in targets for key, value in target.labels.items())
