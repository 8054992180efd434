"""Pinning: what was approved or judged of a machine at the launch is what is reached when its run has come up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.launching.safety_service import SafetyResult, SafetyService, refused_in_words
from opsjobs.integrations.targets import Targets, load_jump_hosts
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.errors import Conflict, FieldError, Invalid, Refusal
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.model.target import Endpoint, SelectionDraft, Target
from opsjobs.model.target_fingerprint import Hop, Pins, holds, pin, way_of
from opsjobs.store.vault import Vault

AGAIN = "Look at it, and launch it again."
# Between so many others get their turn: some 7 ms.
PINS_AT_A_TIME = 500


def asks_people(
    actions: Sequence[Mapping[str, Any]], terms: ApprovalTerms | None, judged: SafetyResult | None
) -> bool:
    """Whether somebody says of this launch that it may be: approves it, or a step of it, or has overridden what was said of it."""
    blocked = judged is not None and judged.judgement.verdict is SafetyVerdict.BLOCK
    return terms is not None or blocked or any(action["type"] == "approval" for action in actions)


async def pinned(
    targets: Sequence[Target],
    known: Targets,
    vault: Vault,
    *,
    people: bool,
    before: Mapping[str, bytes] | None,
) -> Pins:
    """What is kept of the machines of a launch; `people`: of each a digest, as somebody is asked about them.

    `before`: the digests of those that were approved with the execution that this one is a part of (None: nobody was asked).
    Raises Conflict("target_changed") where one of them is another one by now, or is none of those.
    """
    if not people and before is None:
        return Pins.from_targets(targets)
    digests = bytearray()
    async for target, way in _ways(targets, known, vault):
        if before is not None:
            if (approved := before.get(target.id)) is None:
                raise Conflict(
                    "target_changed",
                    f"{target.name} was not among the machines of this step that were asked about. {AGAIN}",
                )
            if not holds(approved, way):
                raise Conflict("target_changed", f"{_not_the_one(target)}. {AGAIN}")
        digests += pin(way)
    return Pins.from_targets(targets, bytes(digests))


async def with_steps_pinned(
    actions: Sequence[Mapping[str, Any]], known: Targets, vault: Vault, *, at_most: int
) -> list[Mapping[str, Any]]:
    """The frozen actions; those that run a job on targets of their own with the `pins` of these, in hexadecimal by id.

    Where such targets are not there, nothing is pinned: that step then runs nowhere. Raises Invalid where there are more than
    `at_most` in all.
    """
    found: list[Mapping[str, Any]] = []
    total = 0
    for position, action in enumerate(actions):
        if action["type"] != "job" or action.get("targets") is None:
            found.append(action)
            continue
        try:
            targets = await known.resolve(SelectionDraft.model_validate(action["targets"]))
        except Refusal:
            targets = []
        if (total := total + len(targets)) > at_most:
            words = f"Its steps run jobs on more than {at_most} targets (MAX_TARGETS_PER_JOB), too many to be asked about at once: split it."
            raise Invalid(
                "too_many_targets",
                words,
                errors=[FieldError(f"/actions/{position}/targets", words, "too_many_targets")],
            )
        pins = {target.id: pin(way).hex() async for target, way in _ways(targets, known, vault)}
        found.append({**action, "pins": pins})
    return found


def pins_of_step(action: Mapping[str, Any]) -> dict[str, bytes]:
    """What was pinned of the targets that this frozen action has of its own."""
    return {target: bytes.fromhex(digest) for target, digest in (action.get("pins") or {}).items()}


async def _ways(
    targets: Sequence[Target], known: Targets, vault: Vault
) -> AsyncIterator[tuple[Target, list[Hop]]]:
    """Each with the way to it."""
    jumps = (
        {jump.id: jump for jump in await load_jump_hosts(known, targets)}
        if any(t.jump for t in targets)
        else {}
    )
    used = {hop.credential for hop in (*targets, *jumps.values()) if hop.credential is not None}
    logins = await vault.usernames(used) if used else {}
    for nth, target in enumerate(targets, start=1):
        yield target, [Hop(hop, logins.get(hop.credential or "")) for hop in _way(target, jumps)]
        if nth % PINS_AT_A_TIME == 0:
            await asyncio.sleep(0)


def _way(target: Target, jumps: Mapping[str, Target]) -> list[Target]:
    """Itself, and the jump hosts before it, nearest to us first. A circle, over which nobody gets there, ends where it closes."""
    way: list[Target] = []
    ahead = target.jump
    while ahead is not None and (jump := jumps.get(ahead)) is not None and jump not in way:
        way.insert(0, jump)
        ahead = jump.jump
    return [target, *way]


class TargetPinning:
    """Asked once a claim, of the way to the machine that the run has in its hands: nothing can change between this and its use."""

    def __init__(self, judging: SafetyService | None = None) -> None:
        self._judging = judging

    async def refusal(self, course: CompiledSpec, position: int, endpoint: Endpoint) -> str | None:
        """Why nothing may be begun on this machine any more; None: all is as it was, or what has changed does not matter.

        Where people were asked: it is not the machine that they were asked about. Else: what the safety check says today of
        what will run there would have had to be approved. An address that has moved is followed then.
        """
        pins, target = course.spec.pins, endpoint.target
        version, digest = pins.version(position), pins.digest(position)
        # What else is in a digest, jump hosts and the name of the login, changes without the machine's version.
        alone = digest is None or not (endpoint.jumps or endpoint.credential)
        if version is None or (version == target.version and alone):
            return None
        if digest is not None:
            same = holds(digest, way_of(endpoint))
            return (
                None
                if same
                else f"{_not_the_one(target, version)}. Nothing was begun on it. {AGAIN}"
            )
        return await self._judged(course, target, version)

    async def _judged(self, course: CompiledSpec, target: Target, version: int) -> str | None:
        if self._judging is None:
            return None
        spec = course.spec
        judgement = await self._judging.again(
            spec.actions,
            course.parameters,
            target,
            job_name=spec.job_name,
            tags=spec.tags,
            targets=spec.total,
        )
        if (why := refused_in_words(judgement)) is None:
            return None
        changed = f"{target.name} was changed after the launch (version {version} then, {target.version} now)"
        return f"{changed}, and as it is now {why}. Nothing was begun on it. {AGAIN}"


def _not_the_one(target: Target, version: int | None = None) -> str:
    since = f" (version {version} then, {target.version} now)" if version is not None else ""
    what = "its address, port, login, host keys, labels or the way to it were changed"
    return f"{target.name} is not the machine any more that was asked about: {what} after the launch{since}"
