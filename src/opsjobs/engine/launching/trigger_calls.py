"""Calls of triggers: prove the sender, check conditions, launch in the owner's name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from opsjobs.clock import Clock
from opsjobs.engine.launching.launch import Launched, Launcher
from opsjobs.engine.launching.launch_authz import CurrentRights, PrincipalLookup
from opsjobs.model.access import Principal
from opsjobs.model.errors import Invalid, NotFound, Refusal, TooMany
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.job import LaunchOrder
from opsjobs.model.run_views import Execution
from opsjobs.model.trigger import (
    CallOutcome,
    CallVerification,
    delivery_of,
    find_signature_fault,
    new_trigger_secret,
)
from opsjobs.store import audit
from opsjobs.store.audit import Actor
from opsjobs.store.envelope import KeyMissing, Tampered
from opsjobs.store.idempotency import Answer, IdempotentRequest, find_answer
from opsjobs.store.jobs import Jobs
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.triggers import WINDOW_SECONDS, Hook, JobTriggers, StoredTrigger, TriggerCall
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

# Stands for all triggers that do not exist.
_UNKNOWN = UUID(int=0)
ROUTE = "POST /hooks/{id}"
"""The route under which answers to deliveries are stored."""
# Refusals whose message is for the sender, who can act on it. Others are for the owner only.
_FOR_SENDERS = frozenset(
    {"invalid_parameters", "too_many_requests", "too_many_executions", "idempotency_in_progress"}
)


@dataclass(frozen=True, slots=True)
class HookRequest:
    """A request to the URL of a trigger."""

    uuid: UUID
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes
    parse: Callable[[bytes], Any]
    """Parses the body. Raises Invalid."""
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class HookResult:
    """The outcome of a call that was not refused. `execution`: as it was launched."""

    outcome: CallOutcome
    execution: Mapping[str, Any] | None = None
    reason: str | None = None


class LaunchRefused(Refusal):
    """A refused launch, as its sender sees it: the reason is for the owner of the trigger."""

    def __init__(self, cause: Refusal) -> None:
        super().__init__(
            cause.code,
            "The job was not launched. The trigger's list of calls shows the reason: "
            "ask its owner.",
        )
        self.status = cause.status


class TriggerCalls:
    """Answer calls of triggers. Every call is recorded; floods of refused ones are summed up."""

    def __init__(
        self,
        *,
        database: Database,
        triggers: JobTriggers,
        jobs: Jobs,
        launcher: Launcher,
        current_principal: PrincipalLookup,
        blinded: Callable[[bytes], bytes],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`blinded`: the keyed digest of a body's digest, to compare repeated deliveries."""
        self._database = database
        self._triggers = triggers
        self._jobs = jobs
        self._launcher = launcher
        self._current_principal = current_principal
        self._blinded = blinded
        self._clock = clock
        self._metrics = metrics
        self._refusals = RefusalSummary(clock)
        # Used for triggers that do not exist, so that the work is the same.
        self._decoy = new_trigger_secret()

    async def call(
        self,
        request: HookRequest,
        *,
        body_sha256: bytes,
        check_open: Callable[[Principal], Awaitable[None]],
    ) -> HookResult:
        """Answer a call. `check_open`: checks the quota of open executions. Raises Refusal.

        A trigger that does not exist, is disabled or expired, and a wrong secret are one refusal,
        after the same work.
        """
        hook = await self._find(request.uuid)
        form = hook.trigger.draft.verify if hook is not None else CallVerification.BEARER
        secret = hook.secret if hook is not None else self._decoy
        now = self._clock.now().timestamp()
        fault = find_signature_fault(form, secret, request.headers, request.body, now)
        fault = _find_closed(hook) or fault
        if hook is None or fault is not None:
            missing = NotFound(
                "hook_not_found",
                "There is no such trigger, it is disabled or expired, or the request does not "
                "prove its secret.",
            )
            reason = fault or "there is no such trigger"
            await self._note_refused(request, hook, missing.code, reason)
            raise missing
        try:
            result = await self._answer(request, hook, body_sha256, check_open)
        except Refusal as refused:
            refusal = await self._count_refused(hook.trigger, refused)
            await self._note_refused(request, hook, refusal.code, str(refusal))
            if refusal.code in _FOR_SENDERS or isinstance(refusal, SenderRefusal):
                raise refusal from None
            raise LaunchRefused(refusal) from None
        self._metrics.trigger_calls.labels(result.outcome.value).inc()
        return result

    async def _count_refused(self, trigger: StoredTrigger, refused: Refusal) -> Refusal:
        """Count a refused call; return its refusal, or that it is one call too many.

        Other calls may have used up those of this minute since the trigger was read.
        """
        if isinstance(refused, TooMany) or await self._triggers.count(trigger):
            return refused
        return _too_fast(trigger, WINDOW_SECONDS)

    async def _find(self, uuid: UUID) -> Hook | None:
        try:
            return await self._triggers.hook(uuid)
        except (KeyMissing, Tampered) as unreadable:
            log.error("trigger_secret_undecryptable", uuid=str(uuid), reason=str(unreadable))
            return None

    async def _answer(
        self,
        request: HookRequest,
        hook: Hook,
        body_sha256: bytes,
        check_open: Callable[[Principal], Awaitable[None]],
    ) -> HookResult:
        trigger = hook.trigger
        delivery = _delivery(trigger, request.headers)
        body = _parse(request)
        if trigger.draft.verify is CallVerification.GITHUB and (
            request.headers.get("x-github-event") == "ping"
        ):
            return await self._pass(request, trigger, CallOutcome.PING, "GitHub's test", delivery)
        unmet = trigger.draft.find_unmet(body, request.headers)
        if unmet is not None:
            reason = f"not met: {unmet.words}"
            return await self._pass(request, trigger, CallOutcome.IGNORED, reason, delivery)
        idem = None
        if delivery is not None:
            who = f"trigger:{trigger.uuid}"
            blinded = self._blinded(body_sha256)
            idem = IdempotentRequest(who, ROUTE, delivery, blinded)
            before = await find_answer(self._database, idem)
            if before is not None:
                return await self._repeat(request, trigger, before, delivery)
        if hook.wait_seconds:
            raise _too_fast(trigger, hook.wait_seconds)
        return await self._launch(request, trigger, body, idem, check_open)

    async def _launch(
        self,
        request: HookRequest,
        trigger: StoredTrigger,
        body: object,
        idem: IdempotentRequest | None,
        check_open: Callable[[Principal], Awaitable[None]],
    ) -> HookResult:
        rights = CurrentRights(self._current_principal)
        stored = await self._jobs.get(str(trigger.job_id))
        job = stored.job.definition
        bounds = await rights.launching(trigger.owner, stored.labels, job.name)
        owner = await rights.find(trigger.owner)
        assert owner is not None, "its rights were found"
        await check_open(owner)
        order = LaunchOrder(
            job.actions,
            job.targets,
            job.policy,
            job.name,
            stored.job.id,
            stored.job.version,
            reason=f"trigger {trigger.draft.name}",
            parameters=trigger.draft.to_parameters(body, request.headers),
            declared=job.parameters,
            tags=job.tags,
            bounds=bounds,
        )
        delivery = idem.key if idem is not None else None
        actor = Actor.from_principal(owner, address=request.address, request_id=request.request_id)

        async def note(connection: Connection, execution: Execution) -> None:
            if not await self._triggers.count_launch(connection, trigger):
                raise _too_fast(trigger, WINDOW_SECONDS)
            call = TriggerCall(
                CallOutcome.LAUNCHED,
                delivery=delivery,
                address=request.address,
                execution_id=execution.id,
            )
            await self._triggers.note_launch(connection, trigger, call)

        with audit.acting(actor):
            new = await self._launcher.prepare(
                order,
                triggered_by=TriggeredBy.WEBHOOK,
                requested_by=owner.identity,
            )
            launched = await self._launcher.start(new, idem, also=note)
        return await self._result(request, trigger, launched, delivery)

    async def _result(
        self,
        request: HookRequest,
        trigger: StoredTrigger,
        launched: Launched,
        delivery: str | None,
    ) -> HookResult:
        if launched.replayed is not None:
            return await self._repeat(request, trigger, launched.replayed, delivery)
        assert launched.execution is not None
        return HookResult(CallOutcome.LAUNCHED, launched.execution.data())

    async def _repeat(
        self, request: HookRequest, trigger: StoredTrigger, before: Answer, delivery: str | None
    ) -> HookResult:
        call = TriggerCall(
            CallOutcome.REPEATED,
            delivery=delivery,
            address=request.address,
            execution_id=before.body["id"],
        )
        await self._triggers.note(trigger, call)
        return HookResult(CallOutcome.REPEATED, before.body)

    async def _pass(
        self,
        request: HookRequest,
        trigger: StoredTrigger,
        outcome: CallOutcome,
        reason: str,
        delivery: str | None,
    ) -> HookResult:
        call = TriggerCall(outcome, reason=reason, delivery=delivery, address=request.address)
        await self._triggers.note(trigger, call)
        return HookResult(outcome, reason=reason)

    async def _note_refused(
        self, request: HookRequest, hook: Hook | None, code: str, reason: str
    ) -> None:
        """Record a refused call: the first of its kind, then one row a minute with their number."""
        self._metrics.trigger_calls.labels(CallOutcome.REFUSED.value).inc()
        times = self._refusals.take((hook.trigger.uuid if hook is not None else _UNKNOWN, code))
        if not times:
            return
        call = TriggerCall(CallOutcome.REFUSED, code, reason, times, None, request.address)
        await self._triggers.note_refused(request.uuid, call, hook)


class SenderRefusal(Invalid):
    """A fault of the request itself, which its sender gets in full."""


class RefusalSummary:
    """Decides which refused calls are recorded, so that a flood of them fills no table.

    Of each kind (trigger and code) the first call is recorded, then one a minute with the number of
    all since the last one. All kinds together have a limit of rows a minute. Calls of triggers that
    do not exist are one kind, so that made-up ids hide no calls of real ones.
    """

    ROWS_A_MINUTE = 60
    KINDS_MAX = 1_000

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._minute = float("-inf")
        self._rows = 0
        # Of each kind: when it was recorded last, and the calls since then.
        self._kinds: OrderedDict[tuple[UUID, str], tuple[float, int]] = OrderedDict()

    def take(self, kind: tuple[UUID, str]) -> int:
        """Count a refused call; return the number for a row that is written now, 0: none."""
        now = self._clock.monotonic()
        if now >= self._minute + WINDOW_SECONDS:
            self._minute, self._rows = now, 0
        recorded, unseen = self._kinds.pop(kind, (float("-inf"), 0))
        due = now >= recorded + WINDOW_SECONDS and self._rows < self.ROWS_A_MINUTE
        self._rows += due
        self._kinds[kind] = (now, 0) if due else (recorded, unseen + 1)
        if len(self._kinds) > self.KINDS_MAX:
            self._kinds.popitem(last=False)
        return unseen + 1 if due else 0


def _find_closed(hook: Hook | None) -> str | None:
    if hook is None:
        return None
    if not hook.trigger.enabled:
        return "the trigger is disabled"
    return "the trigger is expired" if hook.expired else None


def _parse(request: HookRequest) -> object:
    try:
        return request.parse(request.body) if request.body else None
    except Invalid as wrong:
        raise SenderRefusal(wrong.code, wrong.detail, errors=wrong.errors) from None


def _delivery(trigger: StoredTrigger, headers: Mapping[str, str]) -> str | None:
    delivery = delivery_of(trigger.draft.verify, headers)
    if delivery is not None and not (
        len(delivery) <= 255 and delivery.isascii() and delivery.isprintable()
    ):
        raise SenderRefusal(
            "invalid_header",
            "The id of a delivery is at most 255 printable ASCII characters, such as a UUID.",
        )
    return delivery


def _too_fast(trigger: StoredTrigger, seconds: int) -> TooMany:
    detail = (
        f"The trigger takes {trigger.draft.max_calls_per_minute} calls a minute "
        "(`max_calls_per_minute`). Send fewer, or have its limit raised."
    )
    return TooMany("too_many_requests", detail, retry_after_seconds=seconds)
