"""Targets of the platform's Target Service, read through the inventory.

The inventory is a mirror with a limited age: data is read again before use if it is older than
that. If the service does not answer, nothing older than the limits is used: a launch is refused,
and a run is not logged in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NoReturn

from opsjobs.clock import Clock
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.services.targets import TargetService
from opsjobs.model.access import Reach
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.credential import Credential, CredentialType, TargetServiceSource
from opsjobs.model.errors import Conflict, NotFound, Unavailable
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Endpoint, Target, TargetDraft
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.inventory import StoredTarget, TargetInventory
from opsjobs.store.paging import Page, PageRequest
from opsjobs.store.reference import Reference
from opsjobs.store.target_mirror import GONE_SECONDS, TargetMirror
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.telemetry.logs import log

COUNT_SECONDS = 300.0
"""The age of a full list in which targets are only counted."""
REMOTE_FIELDS = ("name", "host", "port", "transport", "platform", "labels", "groups")


@dataclass(frozen=True, slots=True)
class MirrorLimits:
    """The age of data that is used, in seconds."""

    fresh_seconds: float = 30.0
    """Younger data is used without asking the service."""
    stale_seconds: float = 0.0
    """For so long after that it is used while the service does not answer."""


class MirroredInventory(TargetInventory):
    """The inventory of an installation whose targets are kept by the Target Service."""

    remote = True

    def __init__(
        self,
        database: Database,
        vault: Vault,
        clock: Clock,
        *,
        mirror: TargetMirror,
        service: TargetService,
        limits: MirrorLimits,
    ) -> None:
        super().__init__(database, vault, clock)
        self._mirror = mirror
        self._service = service
        self._limits = limits
        self._syncing: asyncio.Task[None] | None = None

    async def resolve(self, selection: SelectionDraft, sight: Reach | None = None) -> list[Target]:
        """Return the selected targets as the service has them. Raises Unavailable, too."""
        try:
            if selection.groups or selection.selector is not None:
                await self._refresh_all(self._limits.fresh_seconds)
            elif selection.ids or selection.exclude:
                await self._refresh_named([*selection.ids, *selection.exclude])
        except ServiceUnavailable as away:
            await self._check_age(selection, away)
        return await super().resolve(selection, sight)

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return the endpoints of these targets; without a login of ours, with the service's.

        A target whose data is too old has a credential that cannot be used, with the reason.
        """
        # What was refreshed just now is young enough, however long that took; what is gone is not.
        away, allowed = None, GONE_SECONDS - 1
        try:
            await self._refresh(target_ids, self._limits.fresh_seconds)
        except ServiceUnavailable as failed:
            away = f"{failed}, and what is known of it is too old (OPSJOBS_TARGET_STALE)"
            allowed = self._allowed
        stale = {one.id: away for one in await self._mirror.find_stale(target_ids, allowed)}
        found = await super().endpoints(target_ids)
        hops = {hop.target.id for one in found.values() for hop in (one, *one.jumps)}
        external = await self._mirror.external_ids(hops)
        return {
            target_id: replace(
                self._login(endpoint, stale, external),
                jumps=tuple(self._login(hop, stale, external) for hop in endpoint.jumps),
            )
            for target_id, endpoint in found.items()
        }

    async def get_many(
        self, target_ids: Sequence[str], *, strict: bool = False
    ) -> dict[str, Target]:
        """Return these targets by id, refreshed if the service answers.

        Raises Unavailable if it does not, and `strict` data is too old to start work with.
        """
        try:
            await self._refresh(target_ids, self._limits.fresh_seconds)
        except ServiceUnavailable as away:
            if strict and await self._mirror.find_stale(target_ids, self._allowed):
                raise self._unavailable(away) from None
            log.warning("targets_not_refreshed", reason=str(away))
        return await super().get_many(target_ids)

    async def count(self) -> int:
        """Return the number of all targets, as of at most five minutes ago."""
        try:
            await self._refresh_all(COUNT_SECONDS)
        except ServiceUnavailable as away:
            if await self._mirror.age_seconds() is None:
                raise self._unavailable(away) from None
        return await super().count()

    async def get(self, ref: str) -> StoredTarget:
        """Return one target, read again if the service answers."""
        try:
            found = await super().get(ref)
        except NotFound:
            await self._try(self._refresh_named([ref]))
            return await super().get(ref)
        await self._try(self._refresh([found.target.id], self._limits.fresh_seconds))
        return await super().get(ref)

    async def list(
        self,
        request: PageRequest,
        selector: str | None = None,
        among: Sequence[int] | None = None,
        *,
        reach: Reach | None = None,
    ) -> Page[StoredTarget]:
        """Return a page of the targets, read again if the service answers."""
        await self._try(self._refresh_all(self._limits.fresh_seconds))
        return await super().list(request, selector, among, reach=reach)

    async def create(
        self,
        draft: TargetDraft,
        idem: IdempotentRequest | None = None,  # noqa: ARG002  as in the inventory
        *,
        bounds: Bounds = NO_BOUNDS,  # noqa: ARG002  as in the inventory
    ) -> StoredTarget | Answer:
        """Raise Conflict("targets_are_remote")."""
        self.check_writable(f"create {draft.name}")

    async def replace(
        self,
        ref: str,
        draft: TargetDraft,
        *,
        bounds: Bounds = NO_BOUNDS,
        basis: datetime | None = None,
    ) -> StoredTarget:
        """Replace the fields of a target that opsjobs keeps, such as host keys and slots.

        Raises Conflict("targets_are_remote") if a field of the service would change, too.
        """
        stored = await super().get(ref)
        for name in REMOTE_FIELDS:
            now = getattr(stored.target, name)
            if getattr(draft, name) != ([*now] if isinstance(now, tuple) else now):
                self.check_writable(f"change {name} of {stored.target.name}")
        return await super().replace(ref, draft, bounds=bounds, basis=basis)

    async def delete(self, ref: str) -> None:
        """Raise Conflict("targets_are_remote")."""
        self.check_writable(f"delete {(await super().get(ref)).target.name}")

    async def check_delete(self, stored: StoredTarget) -> None:
        """Raise Conflict("targets_are_remote"), as `delete` does."""
        self.check_writable(f"delete {stored.target.name}")

    def check_writable(self, what: str) -> NoReturn:
        """Raise Conflict("targets_are_remote"): such a change belongs to the service."""
        raise Conflict(
            "targets_are_remote",
            f"Targets are kept by the Target Service at {self._service.host}: {what} there.",
        )

    async def _refresh_named(self, entries: Sequence[str]) -> None:
        """Refresh the targets that these entries (ids, uuids, names) name.

        An unknown id is asked for; an unknown name may be that of any target, so all are read.
        """
        known = await self._mirror.find_ids(entries)
        await self._refresh([found for found in known.values() if found is not None], self._fresh)
        unknown = [entry for entry, found in known.items() if found is None]
        ids = [entry for entry in unknown if Reference.parse(entry) is not None]
        if ids:
            await self._fetch(ids)
        if len(ids) < len(unknown):
            await self._refresh_all(self._fresh)

    async def _refresh(self, target_ids: Collection[str], seconds: float) -> None:
        stale = await self._mirror.find_stale(target_ids, seconds)
        if stale:
            await self._fetch([one.external_id for one in stale])

    async def _fetch(self, external_ids: Sequence[str]) -> None:
        read_at = await self._mirror.moment()
        fetched = await self._service.fetch(external_ids)
        await self._mirror.write(fetched.found, read_at=read_at, gone=[*fetched.missing])

    async def _refresh_all(self, seconds: float) -> None:
        """Read all targets if that was longer ago; callers at the same time share one reading."""
        age = await self._mirror.age_seconds()
        if age is not None and age <= seconds:
            return
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
        await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        read_at = await self._mirror.moment()
        fetched = await self._service.fetch_all()
        written = await self._mirror.write(fetched.found, read_at=read_at, complete=True)
        if written.total():
            log.info("targets_synchronized", targets=len(fetched.found), **written)

    async def _check_age(self, selection: SelectionDraft, away: ServiceUnavailable) -> None:
        """Raise Unavailable unless all that this selection reads is young enough."""
        allowed = self._allowed
        age = await self._mirror.age_seconds()
        if selection.groups or selection.selector is not None:
            if age is None or age > allowed:
                raise self._unavailable(away) from None
            return
        known = await self._mirror.find_ids([*selection.ids, *selection.exclude])
        ids = [found for found in known.values() if found is not None]
        if len(ids) < len(known) and (age is None or age > allowed):
            raise self._unavailable(away) from None
        if await self._mirror.find_stale(ids, allowed):
            raise self._unavailable(away) from None

    def _login(
        self, hop: Endpoint, stale: Mapping[str, str | None], external: Mapping[str, str]
    ) -> Endpoint:
        """Return the hop with its login; `stale`: the reasons why too old data is not used."""
        id_ = hop.target.id
        if id_ not in external:
            return hop
        credential = hop.credential
        if credential is None and (self._service.has_credentials or id_ in stale):
            credential = _of_service(hop.target, external[id_])
        if credential is not None and id_ in stale:
            credential = _withhold(credential, external[id_], stale[id_])
        return replace(hop, credential=credential)

    async def _try(self, refresh: Awaitable[None]) -> None:
        try:
            await refresh
        except ServiceUnavailable as away:
            log.warning("targets_not_refreshed", reason=str(away))

    @property
    def _fresh(self) -> float:
        return self._limits.fresh_seconds

    @property
    def _allowed(self) -> float:
        """The age up to which data is used while the service does not answer."""
        return self._limits.fresh_seconds + self._limits.stale_seconds

    def _unavailable(self, away: ServiceUnavailable) -> Unavailable:
        return Unavailable(
            str(away),
            detail="The Target Service does not answer, so it is not known where the job would "
            "run: try again when it does. `opsjobs status` shows its state.",
        )


def _of_service(target: Target, external_id: str) -> Credential:
    """Return the login of a target that the service keeps; type and user are known with it."""
    return Credential(
        f"target-service/{external_id}",
        1,
        f"of {target.name} in the Target Service",
        CredentialType.PASSWORD,
        "",
        source=TargetServiceSource(target=external_id),
    )


def _withhold(credential: Credential, external_id: str, away: str | None) -> Credential:
    """Return a login without its secrets; `away` None: its target is gone for good.

    Else it is an older version of itself, so that a run that waits takes it once it is there.
    """
    if away is None:
        return credential.closed("the Target Service does not have it any more")
    source = TargetServiceSource(target=external_id, withheld=away)
    closed = credential.closed("")
    return replace(closed, version=credential.version - 1, fault=None, source=source)
