"""Approvals around the ledger: what a launch asks for, what would run where, and whether that is still what was asked about."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from opsjobs.engine.launching.safety_service import SafetyResult, in_words
from opsjobs.integrations.targets import Targets
from opsjobs.model.access import Principal, PrincipalKind
from opsjobs.model.approval import Approval, ApprovalTerms, Requester, fingerprint
from opsjobs.model.approvers import ApprovalPolicy
from opsjobs.model.errors import Conflict
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.model.target import Target, Transport
from opsjobs.model.units import parse_duration
from opsjobs.store.approvals import Approvals, AskedAbout
from opsjobs.store.ledger import Ledger, NewExecution, PendingApproval, Ruling
from opsjobs.store.parameters import masked
from opsjobs.store.vault import Vault

Standing = Callable[[str, PrincipalKind], Awaitable[Principal | None]]
SALT_BYTES = 16
MESSAGE_CHARACTERS = 2_000
TARGETS_SHOWN = 200


def terms_of(policy: ApprovalPolicy | None, judged: SafetyResult | None) -> ApprovalTerms | None:
    """What has to be approved: what the job's policy asks for, what the safety check does, or the stricter of both.

    Where both name who may approve, those of the safety policy do.
    """
    asked: list[ApprovalPolicy] = []
    words: list[str] = []
    if policy is not None:
        asked.append(policy)
        words.append(
            f"its job asks for {policy.approvers} to approve"
            if policy.approvers > 1
            else "its job asks for an approval"
        )
    if judged is not None and judged.judgement.verdict is SafetyVerdict.NEEDS_APPROVAL:
        # Before what the job says: its author does not choose who answers for what the installation's policy asks about.
        asked[:0] = judged.approvals or [ApprovalPolicy()]
        words.append(in_words(judged.judgement))
    if not asked:
        return None
    named = next((one for one in asked if one.roles or one.users), asked[0])
    needed, expires = max(one.approvers for one in asked), min(one.expires for one in asked)
    return ApprovalTerms(
        "; ".join(words)[:MESSAGE_CHARACTERS],
        needed,
        expires,
        tuple(named.roles),
        tuple(named.users),
    )


def asking(
    new: NewExecution, values: Mapping[str, Any], terms: ApprovalTerms | None
) -> NewExecution:
    """The launch with what has to be approved before it begins, where something has to, and nobody overrides it."""
    if terms is None or new.override is not None:
        return new
    salt = secrets.token_bytes(SALT_BYTES)
    hash_ = fingerprint(new.job_name, new.actions, values, new.policy, new.targets, salt=salt)
    return replace(new, approval=PendingApproval(terms, hash_, salt))


class ApprovalService:
    """Asks for actions, shows and decides. Every approval is bound to a hash of actions, values, policy and machines."""

    def __init__(
        self,
        approvals: Approvals,
        ledger: Ledger,
        targets: Targets,
        vault: Vault,
        *,
        standing: Standing | None = None,
    ) -> None:
        self._standing = standing
        self._one_asks = asyncio.Lock()
        self._approvals = approvals
        self._ledger = ledger
        self._targets = targets
        self._vault = vault

    async def ask(self, execution_id: int, action: Mapping[str, Any]) -> Approval:
        """The approval of this action of a running execution: asked with the first call, later as it stands."""
        known = await self._approvals.find_of_action(execution_id, action["key"])
        if known is not None:
            return known
        # Of ten thousand runs that come to it at once only one looks at all of its machines.
        async with self._one_asks:
            known = await self._approvals.find_of_action(execution_id, action["key"])
            return known if known is not None else await self._ask(execution_id, action)

    async def _ask(self, execution_id: int, action: Mapping[str, Any]) -> Approval:
        expires = action.get("expires_in")
        terms = ApprovalTerms(
            action.get("message") or "",
            action.get("approvers") or 1,
            None if expires is None else parse_duration(expires),
            tuple(action.get("roles") or ()),
            tuple(action.get("users") or ()),
        )
        salt = secrets.token_bytes(SALT_BYTES)
        about = await self._approvals.load_subject(execution_id)
        hash_ = await self._hash(about, salt)
        return await self._ledger.request_approval(
            execution_id, action["key"], terms, hash_=hash_, salt=salt
        )

    async def show(self, approval: Approval) -> dict[str, Any]:
        """The body of GET /approvals/{id}: the approval, and what would run where."""
        about = await self._approvals.load_subject(approval.execution_id)
        places = [
            {"id": run.id, "name": run.name, "host": run.host}
            for run in about.targets[:TARGETS_SHOWN]
        ]
        would_run = {
            "job_name": about.job_name,
            "actions": [
                {name: said for name, said in action.items() if name != "pins"}
                for action in about.actions
            ],
            "parameters": masked(about.parameters),
            "policy": dict(about.policy),
            "targets": places,
            "total_targets": len(about.targets),
            "authors": [
                author.data() for author in await self._approvals.authors(approval.execution_id)
            ],
            "verdict": about.judgement["verdict"] if about.judgement is not None else None,
            "findings": about.judgement["findings"] if about.judgement is not None else [],
        }
        return {**approval.data(), "would_run": would_run}

    async def decide(self, approval: Approval, ruling: Ruling) -> Approval:
        """Count what somebody says; with the last word that it takes, what waits goes on, begins or ends. Raises as `Ledger.decide`.

        Where something else would run by now than what was asked about, it is not approved, but expires: Conflict("approval_expired").
        """
        if not ruling.approve or not approval.status.pending:
            return await self._ledger.decide(approval.id, ruling)
        about = await self._approvals.load_subject(approval.execution_id)
        if not await self._unchanged(approval, about):
            await self._ledger.expire_changed(approval.id)
            words = "what would run has changed since it was asked (a target, perhaps): launch it again, and it is asked anew"
            raise Conflict("approval_expired", f"Approval {approval.id} has expired: {words}.")
        return await self._ledger.decide(
            approval.id, replace(ruling, requester=await self._requester(about))
        )

    async def _requester(self, about: AskedAbout) -> Requester | None:
        """Of what nobody asked for in a request, such as a firing: the person behind its owner. By name he is known anyway."""
        if about.requester is not None or self._standing is None:
            return None
        who = await self._standing(
            about.requested_by, cast("PrincipalKind", about.requested_by_kind)
        )
        return None if who is None else replace(Requester.from_principal(who), kind=None)

    async def _unchanged(self, approval: Approval, about: AskedAbout) -> bool:
        salt = await self._approvals.salt(approval.id)
        if salt is None:
            return True  # asked by a release that made no hash
        return await self._hash(about, salt) == approval.hash

    async def _hash(self, about: AskedAbout, salt: bytes) -> str:
        known = await self._targets.get_many([run.id for run in about.targets])
        # One that is gone stands as a retry would take it: by what its run says of it.
        targets = [
            known.get(run.id) or Target(run.id, run.name, run.host, 22, Transport.SSH)
            for run in about.targets
        ]
        values = self._vault.open_parameters(about.uuid, about.parameters)
        return fingerprint(about.job_name, about.actions, values, about.policy, targets, salt=salt)
