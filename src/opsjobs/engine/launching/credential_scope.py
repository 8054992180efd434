"""Whether credentials may be used where and for what they are about to be: asked at launch, and again just before a session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opsjobs.integrations.targets import Targets
from opsjobs.model.credential_binding import ANYWHERE, not_for_that, not_there
from opsjobs.model.secret import Credential
from opsjobs.model.target import Endpoint, Target
from opsjobs.store.vault import Vault
from opsjobs.store.vault.binding import refusal

JUMPS_MAX = 4


async def check(
    vault: Vault,
    known: Targets,
    targets: Sequence[Target],
    actions: Sequence[Mapping[str, Any]],
    *,
    job_id: int | None,
    job: str,
) -> None:
    """Raises Invalid("credential_bound") where a login, of a jump host too, or a password to become another by is bound elsewhere."""
    logins: Sequence[Target] = targets
    if any(t.jump for t in targets):
        logins = [
            *{target.id: target for target in (*targets, *await jumps_of(known, targets))}.values()
        ]
    uses = [("/targets", t.credential, t) for t in logins if t.credential is not None and t.bound]
    uses += [(f"/actions/{n}/become/credential", i, t) for n, i, t in _becoming(actions, targets)]
    if not uses:
        return
    bound = await vault.bindings({credential for _, credential, _ in uses})
    for credential, (name, binding) in bound.items():
        here = {
            target.id: (pointer, target) for pointer, used, target in uses if used == credential
        }
        for outside in await vault.outside(binding, here):
            pointer, target = here[outside]
            raise refusal(not_there(name, target.name), pointer)
        if not binding.holds_job(job_id):
            raise refusal(
                not_for_that(name, job if job_id is not None else None),
                next(iter(here.values()))[0],
            )


async def jumps_of(known: Targets, targets: Sequence[Target]) -> list[Target]:
    """All jump hosts on the ways to these targets; asks only where there are some."""
    found: dict[str, Target] = {}
    ahead = {t.jump for t in targets if t.jump is not None}
    while ahead and len(found) <= JUMPS_MAX * len(targets):
        hosts = await known.get_many(sorted(ahead))
        found |= hosts
        ahead = {host.jump for host in hosts.values() if host.jump is not None} - found.keys()
    return list(found.values())


def _becoming(
    actions: Sequence[Mapping[str, Any]], targets: Sequence[Target]
) -> Iterable[tuple[int, str, Target]]:
    for position, action in enumerate(actions):
        if (credential := (action.get("become") or {}).get("credential_id")) is not None:
            only = None if action.get("target_ids") is None else frozenset(action["target_ids"])
            yield from (
                (position, str(credential), t) for t in targets if only is None or t.id in only
            )


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a credential is used for: a job, or (no `job_id`) commands without one."""

    job_id: int | None
    job: str


@dataclass(frozen=True, slots=True)
class ScopedCredentials:
    """What was opened for some runs, and which of it may not be used where: (credential, target)."""

    outside: frozenset[tuple[str, str]]

    @classmethod
    async def of(
        cls, vault: Vault, endpoints: Iterable[Endpoint], opened: Mapping[str, Credential]
    ) -> ScopedCredentials:
        """Asks only where something is bound: of logins on their machines, of passwords on all of these."""
        hops = [hop for endpoint in endpoints for hop in (endpoint, *endpoint.jumps)]
        uses: dict[str, tuple[Credential, set[str]]] = {}
        for hop in hops:
            for credential in (
                *([hop.credential] if hop.credential is not None else ()),
                *opened.values(),
            ):
                if credential.bound != ANYWHERE:
                    uses.setdefault(credential.id, (credential, set()))[1].add(hop.target.id)
        found = {
            (i, t)
            for i, (credential, at) in uses.items()
            for t in await vault.outside(credential.bound, at)
        }
        return cls(frozenset(found))

    def endpoint(self, endpoint: Endpoint, purpose: Purpose | None) -> Endpoint:
        """The way to a machine with those credentials closed that may not be used on it, or not for this; None: for a try."""
        if all(
            hop.credential is None or hop.credential.bound == ANYWHERE
            for hop in (endpoint, *endpoint.jumps)
        ):
            return endpoint
        return replace(
            self._hop(endpoint, purpose),
            jumps=tuple(self._hop(jump, purpose) for jump in endpoint.jumps),
        )

    def opened(
        self, opened: Mapping[str, Credential], target: Target, purpose: Purpose
    ) -> Mapping[str, Credential]:
        """The credentials to become others by on this machine."""
        if all(credential.bound == ANYWHERE for credential in opened.values()):
            return opened
        return {i: self._judged(credential, target, purpose) for i, credential in opened.items()}

    def _hop(self, hop: Endpoint, purpose: Purpose | None) -> Endpoint:
        return replace(
            hop, credential=hop.credential and self._judged(hop.credential, hop.target, purpose)
        )

    def _judged(
        self, credential: Credential, target: Target, purpose: Purpose | None
    ) -> Credential:
        if (credential.id, target.id) in self.outside:
            return credential.closed(not_there(credential.name, target.name))
        if purpose is not None and not credential.bound.holds_job(purpose.job_id):
            return credential.closed(
                not_for_that(credential.name, purpose.job if purpose.job_id is not None else None)
            )
        return credential
