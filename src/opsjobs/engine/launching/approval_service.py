"""Approvals: the terms a launch needs, the plan it would run, and changes of that plan."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.engine.launching.safety_service import SafetyResult, describe_needed_approval
from opsjobs.integrations.targets import Targets
from opsjobs.model.access import ApprovalPolicy, Principal, Requester
from opsjobs.model.action import FrozenApproval
from opsjobs.model.approval import Approval, ApprovalTerms, fingerprint
from opsjobs.model.errors import Conflict, Refusal, Unavailable
from opsjobs.model.identity import Identity
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.model.target import Target, Transport
from opsjobs.store.approvals import Approvals, ApprovalSubject
from opsjobs.store.envelope import mask_parameters
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.approval_rows import PendingApproval
from opsjobs.store.ledger.approvals import Ruling
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.vault.credentials import Vault

SALT_BYTES = 16
MESSAGE_CHARACTERS = 2_000
TARGETS_SHOWN = 200


def combine_terms(
    policy: ApprovalPolicy | None, safety: SafetyResult | None
) -> ApprovalTerms | None:
    """Return the terms of the approval that a launch needs; None if it needs none.

    They are those of the job's policy, those of the safety check, or the stricter of both. If both
    name approvers, those of the safety policy count.
    """
    policies: list[ApprovalPolicy] = []
    reasons: list[str] = []
    if policy is not None:
        policies.append(policy)
        count = f"{policy.approvers} approvals" if policy.approvers > 1 else "an approval"
        reasons.append(f"its job asks for {count}")
    if safety is not None and safety.judgement.verdict is SafetyVerdict.NEEDS_APPROVAL:
        # First: the author of a job does not choose the approvers that the safety policy requires.
        policies[:0] = safety.approvals or [ApprovalPolicy()]
        reasons.append(describe_needed_approval(safety.judgement))
    if not policies:
        return None
    named = next((one for one in policies if one.roles or one.users), policies[0])
    return ApprovalTerms(
        "; ".join(reasons)[:MESSAGE_CHARACTERS],
        max(one.approvers for one in policies),
        min(one.expires for one in policies),
        tuple(named.roles),
        tuple(named.users),
    )


def add_approval(
    new: NewExecution, values: Mapping[str, Any], terms: ApprovalTerms | None
) -> NewExecution:
    """Return the execution, with the approval that it needs before it begins.

    It has none if the terms are None, or if an override replaces it.
    """
    if terms is None or new.override is not None:
        return new
    salt = secrets.token_bytes(SALT_BYTES)
    hash_ = fingerprint(new.job_name, new.actions, values, new.policy, new.targets, salt=salt)
    return replace(new, approval=PendingApproval(terms, hash_, salt))


class ApprovalService:
    """Request approvals of actions, show approvals, and decide them.

    Every approval is bound to a hash of actions, values, policy and targets.
    """

    def __init__(
        self,
        approvals: Approvals,
        ledger: Ledger,
        targets: Targets,
        vault: Vault,
        *,
        current_principal: PrincipalLookup | None = None,
    ) -> None:
        self._current_principal = current_principal
        self._requesting = asyncio.Lock()
        self._approvals = approvals
        self._ledger = ledger
        self._targets = targets
        self._vault = vault

    async def ask(self, execution_id: int, action: FrozenApproval) -> Approval:
        """Return the approval of this action of a running execution; the first call requests it."""
        found = await self._approvals.find_of_action(execution_id, action.key)
        if found is not None:
            return found
        # If ten thousand runs reach the action at once, only one of them reads all targets.
        async with self._requesting:
            found = await self._approvals.find_of_action(execution_id, action.key)
            return found if found is not None else await self._request(execution_id, action)

    async def _request(self, execution_id: int, action: FrozenApproval) -> Approval:
        terms = ApprovalTerms(
            action.message,
            action.approvers,
            action.expires_in,
            tuple(action.roles),
            tuple(action.users),
        )
        salt = secrets.token_bytes(SALT_BYTES)
        subject = await self._approvals.load_subject(execution_id)
        hash_ = await self._hash(subject, salt)
        return await self._ledger.request_approval(
            execution_id, action.key, terms, hash_=hash_, salt=salt
        )

    async def show(self, approval: Approval) -> dict[str, Any]:
        """Return the body of GET /approvals/{id}: the approval, and the plan with its targets."""
        subject = await self._approvals.load_subject(approval.execution_id)
        authors = await self._approvals.authors(approval.execution_id)
        judgement = subject.judgement or {"verdict": None, "findings": []}
        would_run = {
            "job_name": subject.job_name,
            "summary": subject.summary,
            "actions": [
                {field: value for field, value in action.items() if field != "pins"}
                for action in subject.actions
            ],
            "parameters": mask_parameters(subject.parameters),
            "policy": dict(subject.policy),
            "targets": [
                {"id": run.id, "name": run.name, "host": run.host}
                for run in subject.targets[:TARGETS_SHOWN]
            ],
            "total_targets": len(subject.targets),
            "authors": [author.data() for author in authors],
            "verdict": judgement["verdict"],
            "findings": judgement["findings"],
        }
        return {**approval.data(), "would_run": would_run}

    async def decide(self, approval: Approval, ruling: Ruling) -> Approval:
        """Count a decision; the last one that is needed lets the runs continue, or ends them.

        If the plan has changed since the request, the approval is not given, but expires:
        Conflict("approval_expired"). Raises as `Ledger.decide`.
        """
        if ruling.approve and approval.status.pending:
            try:
                ruling = await self._complete(approval, ruling)
            except Conflict as refused:
                if refused.code == "approval_expired":
                    await self._ledger.expire_changed(approval.id)
                raise
        return await self._ledger.decide(approval.id, ruling)

    async def find_refusals(self, approval: Approval, *rulings: Ruling) -> Sequence[Refusal | None]:
        """Return how each decision would be refused now; None if it would be counted.

        The plan is read and hashed once, for all that approve.
        """
        approving = next((one for one in rulings if one.approve), None)
        requester: Requester | None = None
        refusal: Refusal | None = None
        if approving is not None and approval.status.pending:
            try:
                requester = (await self._complete(approval, approving)).requester
            except Refusal as refused:
                refusal = refused
            except Unavailable as failed:
                refusal = Conflict(failed.code, failed.detail)
        return [
            (refusal if ruling.approve else None)
            or await self._find_refusal(
                approval, replace(ruling, requester=requester) if ruling.approve else ruling
            )
            for ruling in rulings
        ]

    async def find_approvable(self, principal: Principal) -> list[int]:
        """Return the pending approvals, by id, that the principal may approve, newest first.

        A plan that has changed since the request is found only by `find_refusals` and `decide`.
        """
        return await self._ledger.find_approvable(principal, self._find_requester)

    async def _find_refusal(self, approval: Approval, ruling: Ruling) -> Refusal | None:
        try:
            await self._ledger.check_decision(approval.id, ruling)
        except Refusal as refused:
            return refused
        return None

    async def _complete(self, approval: Approval, ruling: Ruling) -> Ruling:
        """Return the ruling with the requester. Raises Conflict if the plan has changed."""
        subject = await self._approvals.load_subject(approval.execution_id)
        if not await self._is_unchanged(approval, subject):
            raise Conflict(
                "approval_expired",
                f"Approval {approval.id} has expired: what would run has changed since it was "
                "requested (a target, perhaps). Launch it again to request a new approval.",
            )
        if subject.requester is not None:
            return ruling
        requester = await self._find_requester(subject.requested_by)
        return replace(ruling, requester=requester)

    async def _find_requester(self, identity: Identity) -> Requester | None:
        """Return the requester of an execution without a request, such as a firing.

        It is the person behind the owner; the ledger already has the owner's name.
        """
        if self._current_principal is None:
            return None
        principal = await self._current_principal(identity)
        return (
            None if principal is None else replace(Requester.from_principal(principal), kind=None)
        )

    async def _is_unchanged(self, approval: Approval, subject: ApprovalSubject) -> bool:
        salt = await self._approvals.salt(approval.id)
        if salt is None:
            return True  # requested by a release that computed no hash
        return await self._hash(subject, salt) == approval.hash

    async def _hash(self, subject: ApprovalSubject, salt: bytes) -> str:
        inventory = await self._targets.get_many([run.id for run in subject.targets])
        # A target that was removed is taken from its run, as for a retry.
        targets = [
            inventory.get(run.id) or Target(run.id, run.name, run.host, 22, Transport.SSH)
            for run in subject.targets
        ]
        values = self._vault.open_parameters(subject.uuid, subject.parameters)
        return fingerprint(
            subject.job_name, subject.actions, values, subject.policy, targets, salt=salt
        )
