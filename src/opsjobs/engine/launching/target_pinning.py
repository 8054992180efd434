"""Pin the targets of a launch, and check them again before a run begins.

The machine that a run reaches at its start has to be the one that was approved or checked at
launch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from opsjobs.engine.launching.safety_service import (
    SafetyResult,
    SafetyService,
    describe_refusal,
)
from opsjobs.integrations.targets import Targets, load_jump_hosts
from opsjobs.model.action import FrozenApproval, FrozenJob, parse_frozen
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.errors import Conflict, FieldError, Invalid, Refusal
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.model.target import Endpoint, Target
from opsjobs.model.target_fingerprint import Hop, Pins, holds, pin, way_of
from opsjobs.store.ledger.claim import Spec
from opsjobs.store.vault.credentials import Vault

WHAT_TO_DO = "Check the target, and launch again."
PINS_AT_A_TIME = 500
"""Number of digests (about 7 ms) after which other tasks may run."""


def is_decided_by_people(
    actions: Sequence[Mapping[str, Any]], terms: ApprovalTerms | None, safety: SafetyResult | None
) -> bool:
    """Return True if people decide about this launch or a step of it.

    They have to approve it, or a person has overridden a block of the safety check.
    """
    blocked = safety is not None and safety.judgement.verdict is SafetyVerdict.BLOCK
    if terms is not None or blocked:
        return True
    return any(isinstance(parse_frozen(action), FrozenApproval) for action in actions)


async def pin_targets(
    targets: Sequence[Target],
    inventory: Targets,
    vault: Vault,
    *,
    digests: bool,
    approved: Mapping[str, bytes] | None,
) -> Pins:
    """Return the pins of the targets of a launch; `digests`: with a digest of each.

    `approved`: the digests of the targets that were approved with the parent execution (None: there
    was no such approval). Raises Conflict("target_changed") if a target has changed since then, or
    was not approved with them.
    """
    if not digests and approved is None:
        return Pins.from_targets(targets)
    packed = bytearray()
    async for target, route in _load_routes(targets, inventory, vault):
        if approved is not None:
            _check_approved(target, route, approved)
        packed += pin(route)
    return Pins.from_targets(targets, bytes(packed))


def _check_approved(target: Target, route: Sequence[Hop], approved: Mapping[str, bytes]) -> None:
    digest = approved.get(target.id)
    if digest is None:
        raise Conflict(
            "target_changed",
            f"{target.name} was not among the targets of this step when it was approved. "
            f"{WHAT_TO_DO}",
        )
    if not holds(digest, route):
        raise Conflict("target_changed", f"{_describe_change(target)}. {WHAT_TO_DO}")


async def pin_steps(
    actions: Sequence[Mapping[str, Any]], inventory: Targets, vault: Vault, *, max_targets: int
) -> list[Mapping[str, Any]]:
    """Return the frozen actions, with `pins` of job actions that have their own targets.

    The pins are digests in hexadecimal, by target id. If the targets cannot be resolved, none is
    pinned: that step then runs nowhere. Raises Invalid if there are more than `max_targets` in all.
    """
    pinned: list[Mapping[str, Any]] = []
    total = 0
    for position, stored in enumerate(actions):
        action = parse_frozen(stored)
        if not isinstance(action, FrozenJob) or action.targets is None:
            pinned.append(stored)
            continue
        try:
            targets = await inventory.resolve(action.targets)
        except Refusal:
            targets = []
        total += len(targets)
        if total > max_targets:
            detail = (
                f"Its steps run jobs on more than {max_targets} targets (MAX_TARGETS_PER_JOB), "
                "too many for one approval: split it."
            )
            pointer = f"/actions/{position}/targets"
            raise Invalid(
                "too_many_targets",
                detail,
                errors=[FieldError(pointer, detail, "too_many_targets")],
            )
        routes = _load_routes(targets, inventory, vault)
        pinned.append({**stored, "pins": {t.id: pin(route).hex() async for t, route in routes}})
    return pinned


def parse_step_pins(action: FrozenJob) -> dict[str, bytes]:
    """Return the digests that `pin_steps` stored with this frozen action, by target id."""
    return {target: bytes.fromhex(digest) for target, digest in (action.pins or {}).items()}


async def _load_routes(
    targets: Sequence[Target], inventory: Targets, vault: Vault
) -> AsyncIterator[tuple[Target, list[Hop]]]:
    """Yield each target with the machines and logins on the way to it."""
    jumps: dict[str, Target] = {}
    if any(target.jump for target in targets):
        jumps = {jump.id: jump for jump in await load_jump_hosts(inventory, targets)}
    used = {hop.credential for hop in (*targets, *jumps.values()) if hop.credential is not None}
    logins = await vault.usernames(used) if used else {}
    for nth, target in enumerate(targets, start=1):
        route = _route(target, jumps)
        yield target, [Hop(hop, logins.get(hop.credential or "")) for hop in route]
        if nth % PINS_AT_A_TIME == 0:
            await asyncio.sleep(0)


def _route(target: Target, jumps: Mapping[str, Target]) -> list[Target]:
    """Return the target, and the jump hosts on its route, the one nearest to opsjobs first.

    A cycle of jump hosts, which no connection can pass, ends with its last new host.
    """
    route: list[Target] = []
    ahead = target.jump
    while ahead is not None and (jump := jumps.get(ahead)) is not None and jump not in route:
        route.insert(0, jump)
        ahead = jump.jump
    return [target, *route]


class PinCheck:
    """Compare a target with its pins, once per claim.

    It checks the endpoint that the run holds: nothing can change between check and use.
    """

    def __init__(self, safety: SafetyService | None = None) -> None:
        self._safety = safety

    async def find_refusal(
        self, spec: Spec, parameters: Mapping[str, Any], position: int, endpoint: Endpoint
    ) -> str | None:
        """Return why the run at this position must not begin on this machine; None if it may.

        If people decided about the launch, the machine has to be the one that they decided about.
        Otherwise a changed machine, such as one with a new address, is accepted, unless the safety
        check would now require an approval of what will run there.
        """
        pins, target = spec.pins, endpoint.target
        version, digest = pins.version(position), pins.digest(position)
        if version is None:
            return None
        # The digest also covers jump hosts and the user name of the login, which change without the
        # target's version.
        is_covered = digest is None or not (endpoint.jumps or endpoint.credential)
        if version == target.version and is_covered:
            return None
        if digest is None:
            return await self._recheck(spec, parameters, target, version)
        if holds(digest, way_of(endpoint)):
            return None
        return f"{_describe_change(target, version)}. Nothing was started on it. {WHAT_TO_DO}"

    async def _recheck(
        self, spec: Spec, parameters: Mapping[str, Any], target: Target, version: int
    ) -> str | None:
        if self._safety is None:
            return None
        judgement = await self._safety.check_target(
            spec.actions,
            parameters,
            target,
            job_name=spec.job_name,
            tags=spec.tags,
            targets=spec.total,
        )
        refusal = describe_refusal(judgement)
        if refusal is None:
            return None
        return (
            f"{target.name} was changed after the launch {_versions(target, version)}, and now "
            f"{refusal}. Nothing was started on it. {WHAT_TO_DO}"
        )


def _describe_change(target: Target, version: int | None = None) -> str:
    since = f" {_versions(target, version)}" if version is not None else ""
    return (
        f"{target.name} is not the machine that was approved: its address, port, login, host keys, "
        f"labels or jump hosts were changed after the launch{since}"
    )


def _versions(target: Target, version: int) -> str:
    return f"(version {version} then, {target.version} now)"
