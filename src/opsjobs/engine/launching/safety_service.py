"""Judging: what the safety check says of a job when it is stored, and again of what really runs when it is launched."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from opsjobs.clock import Clock
from opsjobs.integrations.targets import Targets
from opsjobs.model.approvers import ApprovalPolicy
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.job import JobDraft
from opsjobs.model.safety_verdict import UNJUDGED, Finding, SafetyJudgement, SafetyVerdict
from opsjobs.model.strategy import with_check
from opsjobs.model.target import Target
from opsjobs.safety import Context, SafetyQuestion
from opsjobs.safety.job_inputs import JobText, texts_of
from opsjobs.safety.policy import SafetyPolicies
from opsjobs.safety.program import UNKNOWN

KEPT = 10_000
FINDINGS_MAX = 100
COUNT_SECONDS = 10.0
SHARE_TARGETS_MIN = 5
"""Of fewer machines a share says nothing: one of one is all."""
TURN_SECONDS = 0.02
"""After so long the texts of a launch let others have their turn."""
_BLOCKED = "The safety check blocks it"
_WAY_OUT = "Change it; who holds safety:override passes with override_safety: true and a reason."


class JudgeText(Protocol):
    """`sandbox.pool.JudgePool.judge`."""

    async def __call__(self, asked: SafetyQuestion) -> tuple[Finding, ...]:
        """Return what the rules find in this text. Raises Unavailable if it cannot be asked now."""


@dataclass(frozen=True, slots=True)
class SafetyResult:
    """What was found, and what an approval takes where one is needed for it."""

    judgement: SafetyJudgement
    approvals: Sequence[ApprovalPolicy] = ()


class SafetyService:
    """Each different text is judged once, and remembered by its hash."""

    def __init__(
        self,
        judge: JudgeText,
        targets: Targets,
        clock: Clock,
        policies: SafetyPolicies | None = None,
    ) -> None:
        self._judge = judge
        self._targets = targets
        self._clock = clock
        self._policies = policies or SafetyPolicies()
        self._known: OrderedDict[bytes, tuple[Finding, ...]] = OrderedDict()
        self._count = 0
        self._counted_at = float("-inf")

    async def job(self, draft: JobDraft) -> SafetyJudgement:
        """What is said of a job as it is written: by its tags, and with values as far as they are known. Where it runs, a launch says."""
        actions = with_check(
            draft.policy, [action.model_dump(mode="json") for action in draft.actions]
        )
        values = {
            p.name: p.default for p in draft.parameters if p.default is not None and not p.secret
        }
        declared = [p.name for p in draft.parameters if not p.secret]
        texts = texts_of(actions, values, (), job_name=draft.name, declared=declared)
        return (await self._judged(texts, Context(labels=frozenset(draft.tags)))).judgement

    async def launch(
        self,
        actions: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        targets: Sequence[Target],
        *,
        job_name: str,
        tags: Iterable[str] = (),
    ) -> SafetyResult:
        """What is said of what will run: these frozen actions with these values, on these machines."""
        labels = frozenset(tags) | _labels(targets)
        context = Context(labels, await self._share(len(targets)), len(targets))
        return await self._judged(
            texts_of(actions, parameters, targets, job_name=job_name), context, frozenset(tags)
        )

    async def again(
        self,
        actions: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        target: Target,
        *,
        job_name: str,
        tags: Iterable[str] = (),
        targets: int = 1,
    ) -> SafetyJudgement:
        """What is said, as of a launch, of what runs on this one of its `targets` machines, which was changed since."""
        context = Context(frozenset(tags) | _labels([target]), await self._share(targets), targets)
        texts = texts_of(actions, parameters, [target], job_name=job_name)
        return (await self._judged(texts, context, frozenset(tags))).judgement

    async def _judged(
        self, texts: Iterable[JobText], context: Context, tags: frozenset[str] | None = None
    ) -> SafetyResult:
        found: dict[tuple[str, str, str], Finding] = {}
        become = False
        async for text in _in_turns(texts, self._clock):
            become = become or text.become
            # A text is judged by the machines that it runs on, and by how many the whole launch is for.
            labels = context.labels if tags is None else tags | _labels(text.targets)
            here = replace(context, labels=labels, become=text.become)
            each = list({_labels([target]) for target in text.targets})
            for finding in self._policies.apply(
                (*text.said, *await self._of(text, here)), here, each
            ):
                placed = replace(finding, pointer=text.pointer)
                before = found.get(key := (placed.pointer, placed.rule, placed.excerpt))
                if before is None or before.severity.rank < placed.severity.rank:
                    found[key] = placed
        whole = replace(context, become=become)
        findings = [*found.values(), *self._policies.floor(whole)]
        worst_first = sorted(findings, key=lambda finding: -finding.severity.rank)
        return SafetyResult(
            SafetyJudgement(tuple(worst_first[:FINDINGS_MAX])), self._policies.approval(whole)
        )

    async def _of(self, text: JobText, context: Context) -> tuple[Finding, ...]:
        asked = SafetyQuestion(
            text.interpreter, text.text, context, text.arguments, text.variables, UNKNOWN
        )
        key = asked.digest
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        found = await self._judge(asked)
        if any(finding.rule == UNJUDGED for finding in found):
            return found  # it is asked again, some time later
        self._known[key] = found
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found

    async def _share(self, targets: int) -> float:
        if targets < SHARE_TARGETS_MIN:
            return 0.0
        if self._clock.monotonic() - self._counted_at > COUNT_SECONDS:
            self._count, self._counted_at = await self._targets.count(), self._clock.monotonic()
        return min(targets / max(self._count, 1), 1.0)


async def _in_turns(texts: Iterable[JobText], clock: Clock) -> AsyncIterator[JobText]:
    """Pass the texts on, and let others have their turn: of many actions for many machines they take a while to be made."""
    began = clock.monotonic()
    for text in texts:
        yield text
        if clock.monotonic() - began > TURN_SECONDS:
            await asyncio.sleep(0)
            began = clock.monotonic()


def refuse_blocked(judgement: SafetyJudgement, *, before: str = "") -> None:
    """Raises Invalid("safety_blocked") with the findings that block. `before`: of the pointers, where it is a job among others."""
    blocked = [finding for finding in judgement.findings if finding.severity is SafetyVerdict.BLOCK]
    if not blocked:
        return
    errors = [FieldError(before + f.pointer, _words(f), f.rule) for f in blocked]
    raise Invalid("safety_blocked", f"{_BLOCKED}: {_words(blocked[0])}. {_WAY_OUT}", errors=errors)


def in_words(judgement: SafetyJudgement) -> str:
    """Why it needs an approval, in a sentence."""
    needs = [
        finding
        for finding in judgement.findings
        if finding.severity is SafetyVerdict.NEEDS_APPROVAL
    ]
    more = f" ({len(needs) - 1} more)" if len(needs) > 1 else ""
    return f"the safety check asks: {_words(needs[0])}{more}" if needs else ""


def refused_in_words(judgement: SafetyJudgement) -> str | None:
    """Why it may not run without somebody's word, in a sentence; None where it may."""
    blocked = [finding for finding in judgement.findings if finding.severity is SafetyVerdict.BLOCK]
    return (
        f"the safety check blocks it: {_words(blocked[0])}"
        if blocked
        else in_words(judgement) or None
    )


def unjudged_in_words(judgement: SafetyJudgement | None) -> str | None:
    """Why the safety check could not judge it, in a sentence; None if it could."""
    unjudged = (
        [finding for finding in judgement.findings if finding.rule == UNJUDGED]
        if judgement is not None
        else []
    )
    return f"the safety check cannot judge it: {_words(unjudged[0])}" if unjudged else None


def _words(finding: Finding) -> str:
    where = f" ({finding.excerpt})" if finding.excerpt else ""
    return f"{finding.rule}: {finding.reason.rstrip('.')}{where}"


def _labels(targets: Iterable[Target]) -> frozenset[str]:
    return frozenset(f"{key}={value}" for target in targets for key, value in target.labels.items())
