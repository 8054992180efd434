"""Checks of jobs that are to be stored or launched: references, limits, safety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import Request

from opsjobs.api.authorization import bounds, check_permission, is_caller
from opsjobs.api.request import principal_of
from opsjobs.composition.services import Limits, services_of
from opsjobs.engine.launching.safety_service import refuse_blocked
from opsjobs.model.access import Principal
from opsjobs.model.action import ApprovalAction, WaitAction
from opsjobs.model.action_base import RunningAction
from opsjobs.model.api_model import Overriding
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.job import JobDraft, RunDraft
from opsjobs.model.notification import NotificationChannel, NotificationRule
from opsjobs.model.safety_verdict import Vetted
from opsjobs.model.units import describe_size, format_duration
from opsjobs.store.webhooks import PERMISSION as WEBHOOKS_PERMISSION


def check_actions(request: Request, draft: JobDraft | RunDraft) -> None:
    """Check the credentials and the number of actions of a draft.

    Raises Forbidden if the draft names a credential and the caller may use none, Invalid if it has
    too many actions.
    """
    named = any(
        action.become is not None and action.become.credential is not None
        for action in _running(draft)
    )
    if named or (
        isinstance(draft, JobDraft) and any(p.from_credential is not None for p in draft.parameters)
    ):
        check_permission(request, "credentials:use")
    check_limits(request, draft)


async def vet(request: Request, draft: JobDraft, overriding: Overriding, *, at: str = "") -> Vetted:
    """Return the result of the safety check of a job that is to be stored.

    Raises Invalid("safety_blocked") if findings block it, unless that is overridden. `at`: the
    pointer to the job in the body.
    """
    safety = services_of(request).safety_service
    judgement = None if safety is None else await safety.check_job(draft)
    if judgement is not None and overriding.override is None:
        refuse_blocked(judgement, prefix=at)
    return Vetted(judgement, overriding.override)


async def check_written(
    request: Request,
    draft: JobDraft | RunDraft,
    permission: str,
    *,
    job_permission: str | None = None,
    at: str = "",
) -> None:
    """Check a draft as `check_actions` does, and its references against the caller's scope.

    Also raises Forbidden or Invalid if the draft names an object outside the scope in which the
    caller holds this permission, or a channel of notifications that does not exist.
    `job_permission`: the one for the jobs that its actions run (default: `permission`). `at`: the
    pointer to the draft in the body.
    """
    check_actions(request, draft)
    await services_of(request).job_authorization.check(
        draft,
        bounds(request, permission),
        lambda file: is_caller(request, file.created_by),
        job_bounds=bounds(request, job_permission or permission),
        sees_files=principal_of(request).reach("jobs:read").everywhere,
    )
    await check_notify(request, draft.policy.notify, f"{at}/policy/notify")


async def check_notify(
    request: Request, rules: Sequence[NotificationRule] | None, pointer: str
) -> None:
    """Check what the rules of notifications name. `pointer`: their place in the body.

    Raises Invalid for unknown names, webhooks of others (unless the caller manages all) and
    channels that cannot be used, Forbidden if they name a credential and the caller may use none.
    """
    await check_rules(
        request, {f"{pointer}/{position}": rule for position, rule in enumerate(rules or ())}
    )


async def check_rules(request: Request, rules: Mapping[str, NotificationRule]) -> None:
    """Check the names in rules of notifications, given by their pointers in the body."""
    if any(rule.channel is NotificationChannel.APPRISE for rule in rules.values()):
        check_permission(request, "credentials:use")
    await services_of(request).notification_channels.check(
        rules, webhook_owner=own_webhooks_only(request)
    )


def own_webhooks_only(request: Request) -> Principal | None:
    """Return the caller if its rules may name its own webhooks only, else None."""
    caller = principal_of(request)
    return None if caller.reach(WEBHOOKS_PERMISSION).everywhere else caller


def _running(draft: JobDraft | RunDraft) -> list[RunningAction]:
    gate = draft.policy.gate
    return [
        action
        for action in (*draft.actions, gate and gate.check)
        if isinstance(action, RunningAction)
    ]


def check_limits(request: Request, draft: JobDraft | RunDraft) -> None:
    """Raise Invalid for too many actions or attempts, too much output, or too long waits."""
    _check_sizes(services_of(request).limits, draft)
    limit = services_of(request).limits.max_actions
    if len(draft.actions) > limit:
        detail = (
            f"{len(draft.actions)} actions are more than the limit of {limit} "
            "(MAX_ACTIONS_PER_JOB). Make two jobs, or have the limit raised."
        )
        raise Invalid(
            "too_many_actions", detail, errors=[FieldError("/actions", detail, "too_many_actions")]
        )
    most = services_of(request).limits.max_attempts
    asked = {
        f"/actions/{position}/retry": action.retry for position, action in enumerate(draft.actions)
    }
    for pointer, retry in {"/policy/retry": draft.policy.retry, **asked}.items():
        if retry is not None and retry.max_attempts > most:
            detail = (
                f"{retry.max_attempts} attempts are more than the limit of {most} (MAX_RETRIES). "
                "Ask for fewer, or have the limit raised."
            )
            raise Invalid(
                "too_many_attempts",
                detail,
                errors=[FieldError(f"{pointer}/max_attempts", detail, "too_many_attempts")],
            )


def _check_sizes(limits: Limits, draft: JobDraft | RunDraft) -> None:
    gate = draft.policy.gate
    checked = [(f"/actions/{position}", action) for position, action in enumerate(draft.actions)]
    for pointer, action in [*checked, ("/policy/gate/check", gate and gate.check)]:
        if isinstance(action, RunningAction) and (action.output_limit or 0) > limits.output_bytes:
            detail = (
                f"An output_limit of {describe_size(action.output_limit or 0)} is more than the "
                f"limit of {describe_size(limits.output_bytes)} (OPSJOBS_OUTPUT_LIMIT_BYTES). "
                "Ask for less, or write the output to a file and download that."
            )
            raise Invalid(
                "output_limit",
                detail,
                errors=[FieldError(f"{pointer}/output_limit", detail, "output_limit")],
            )
    waits = [
        (f"/actions/{n}/duration", a.duration)
        for n, a in enumerate(draft.actions)
        if isinstance(a, WaitAction)
    ]
    waits += [
        (f"/actions/{n}/expires_in", a.expires_in)
        for n, a in enumerate(draft.actions)
        if isinstance(a, ApprovalAction)
    ]
    for pointer, seconds in [*waits, ("/policy/hold_offline", draft.policy.hold_offline)]:
        if seconds > limits.wait_seconds:
            detail = (
                f"{format_duration(seconds)} is more than the limit of "
                f"{format_duration(limits.wait_seconds)} (OPSJOBS_WAIT_LIMIT). "
                "Wait for less, or schedule a second job."
            )
            raise Invalid(
                "wait_too_long", detail, errors=[FieldError(pointer, detail, "wait_too_long")]
            )
