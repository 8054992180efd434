"""Approvals around the ledger: what a launch asks for, what would run where, and whether that is still what was asked about."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opsjobs.model.approval import Approval, Terms, fingerprint
from opsjobs.model.approvers import ApprovalPolicy
from opsjobs.model.failures import Conflict
from opsjobs.model.target import Target, Transport
from opsjobs.model.units import parse_duration
from opsjobs.peers.targets import Targets
from opsjobs.store.approvals import Approvals, AskedAbout
from opsjobs.store.ledger import Ledger, NewExecution, Question, Ruling
from opsjobs.store.parameters import masked
from opsjobs.store.vault import Vault

SALT_BYTES = 16
TARGETS_SHOWN = 200


def asking(new: NewExecution, values: Mapping[str, Any], policy: ApprovalPolicy | None) -> NewExecution:
    """The launch with what has to be approved before it begins, where its policy asks for that and nobody overrides it."""
    if policy is None or new.override is not None:
        return new
    words = f"its job asks for {policy.approvers} to approve" if policy.approvers > 1 else "its job asks for an approval"
    terms = Terms(words, policy.approvers, policy.expires, tuple(policy.roles), tuple(policy.users))
    salt = secrets.token_bytes(SALT_BYTES)
    hash_ = fingerprint(new.job_name, new.actions, values, new.policy, new.targets, salt=salt)
    return replace(new, question=Question(terms, hash_, salt))


class Approving:
    """Asks for actions, shows and decides. Every approval is bound to a hash of actions, values, policy and machines."""

    def __init__(self, approvals: Approvals, ledger: Ledger, targets: Targets, vault: Vault) -> None:
        self._approvals = approvals
        self._ledger = ledger
        self._targets = targets
        self._vault = vault

    async def ask(self, execution_id: int, action: Mapping[str, Any]) -> Approval:
        """The approval of this action of a running execution: asked with the first call, later as it stands."""
        known = await self._approvals.of_action(execution_id, action["key"])
        if known is not None:
            return known
        expires = action.get("expires_in")
        terms = Terms(
            action.get("message") or "",
            action.get("approvers") or 1,
            None if expires is None else parse_duration(expires),
            tuple(action.get("roles") or ()),
            tuple(action.get("users") or ()),
        )
        salt = secrets.token_bytes(SALT_BYTES)
        about = await self._approvals.asked_about(execution_id)
        hash_ = await self._hash(about, salt)
        return await self._ledger.ask_approval(execution_id, action["key"], terms, hash_=hash_, salt=salt)

    async def show(self, approval: Approval) -> dict[str, Any]:
        """The body of GET /approvals/{id}: the approval, and what would run where."""
        about = await self._approvals.asked_about(approval.execution_id)
        places = [{"id": run.id, "name": run.name, "host": run.host} for run in about.targets[:TARGETS_SHOWN]]
        would_run = {
            "job_name": about.job_name,
            "actions": list(about.actions),
            "parameters": masked(about.parameters),
            "policy": dict(about.policy),
            "targets": places,
            "total_targets": len(about.targets),
            "verdict": about.judgement["verdict"] if about.judgement is not None else None,
            "findings": about.judgement["findings"] if about.judgement is not None else [],
        }
        return {**approval.data(), "would_run": would_run}

    async def decide(self, approval: Approval, ruling: Ruling) -> Approval:
        """Count what somebody says; with the last word that it takes, what waits goes on, begins or ends. Raises as `Ledger.decide`.

        Where something else would run by now than what was asked about, it is not approved, but expires: Conflict("approval_expired").
        """
        if ruling.approve and approval.status.pending and not await self._unchanged(approval):
            await self._ledger.expire_changed(approval.id)
            words = "what would run has changed since it was asked (a target, perhaps): launch it again, and it is asked anew"
            raise Conflict("approval_expired", f"Approval {approval.id} has expired: {words}.")
        return await self._ledger.decide(approval.id, ruling)

    async def _unchanged(self, approval: Approval) -> bool:
        salt = await self._approvals.salt(approval.id)
        if salt is None:
            return True  # asked by a release that made no hash
        return await self._hash(await self._approvals.asked_about(approval.execution_id), salt) == approval.hash

    async def _hash(self, about: AskedAbout, salt: bytes) -> str:
        known = await self._targets.known([run.id for run in about.targets])
        # One that is gone stands as a retry would take it: by what its run says of it.
        targets = [known.get(run.id) or Target(run.id, run.name, run.host, 22, Transport.SSH) for run in about.targets]
        values = self._vault.open_parameters(about.uuid, about.parameters)
        return fingerprint(about.job_name, about.actions, values, about.policy, targets, salt=salt)
