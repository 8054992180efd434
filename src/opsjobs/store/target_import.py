"""Import many targets in one transaction; each entry succeeds or is refused independently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.errors import Refusal
from opsjobs.model.target import TargetDraft, Transport, check_local_transport
from opsjobs.model.target_import import ImportDraft, Imported, Outcome, differences, jumps_first
from opsjobs.model.validation_errors import plain_words
from opsjobs.store import idempotency, inventory
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.inventory import StoredTarget
from opsjobs.store.reference import name_taken
from opsjobs.store.scope_checks import check_target, check_target_name
from opsjobs.store.transaction import Connection, Database

NOT_THE_ROUTE = frozenset({"labels", "groups", "slots", "durable"})
"""Fields that can change without changing how a login, or a jump host's, is used."""


class Imports:
    """Imports targets by the hundred. `local`: whether `transport: local` is enabled."""

    def __init__(
        self, database: Database, clock: Clock | None = None, *, local: bool = False
    ) -> None:
        self._local = local
        self._database = database
        self._clock = clock or SystemClock()

    async def take_in(
        self,
        draft: ImportDraft,
        idem: IdempotentRequest | None = None,
        *,
        bounds: Bounds = NO_BOUNDS,
        uses_logins: Callable[[], None] | None = None,
    ) -> Imported | Answer:
        """Import the entries; return the outcome of each, in their order.

        With `dry_run` it returns the outcomes that would result, and stores nothing. An entry
        outside the caller's scope is refused like any other invalid one. `uses_logins` raises
        Forbidden if the caller may not use credentials (None: it may); it is called for each target
        that has a credential or a jump host, before its route changes.
        """

        async def write(connection: Connection) -> Imported:
            async with connection.transaction(force_rollback=draft.dry_run):
                outcomes = await self._all(connection, draft, bounds, uses_logins or _allow_all)
                shown = await _add_same_address(connection, outcomes, bounds)
            if draft.dry_run:  # an id of a dry run does not exist
                shown = [
                    replace(outcome, id=None) if outcome.outcome == "created" else outcome
                    for outcome in shown
                ]
            return Imported(shown, draft.dry_run)

        return await idempotency.once(
            self._database, idem, write, lambda imported: Answer(200, None, imported.data())
        )

    async def _all(
        self,
        connection: Connection,
        draft: ImportDraft,
        bounds: Bounds,
        uses_logins: Callable[[], None],
    ) -> list[Outcome]:
        entries = draft.entries
        known = await inventory.lock_by_name(
            connection, [e["name"] for e in entries if isinstance(e.get("name"), str)]
        )
        # With a scope, each entry is checked individually.
        outcomes = await self._new(connection, draft, known) if bounds.act.everywhere else {}
        seen: set[str] = set()
        for position in jumps_first(entries):
            name = str(entries[position].get("name") or "")
            if name in seen:
                outcomes[position] = _refuse(
                    position, name, "name_taken", f"{name!r} comes twice in this request."
                )
            elif position not in outcomes:
                outcomes[position] = await self._one(
                    connection,
                    position,
                    entries[position],
                    known.get(name),
                    draft,
                    bounds=bounds,
                    uses_logins=uses_logins,
                )
            seen.add(name)
        return [outcomes[position] for position in sorted(outcomes)]

    async def _new(
        self, connection: Connection, draft: ImportDraft, known: Mapping[str, StoredTarget]
    ) -> dict[int, Outcome]:
        """Create the entries that cannot fail, all at once; the others are handled one by one."""
        drafts: dict[int, TargetDraft] = {}
        names: set[str] = set(known)
        for position, entry in enumerate(draft.entries):
            with suppress(ValidationError):
                wanted = TargetDraft.model_validate(entry)
                if (
                    wanted.name not in names
                    and wanted.jump is None
                    and (self._local or wanted.transport is not Transport.LOCAL)
                ):
                    drafts[position] = wanted
                names.add(wanted.name)
        uuids = [uuid7(self._clock.now()) for _ in drafts]
        with suppress(Refusal):
            async with connection.transaction():
                ids = await inventory.insert_many(
                    connection, [*drafts.values()], uuids, kept=not draft.dry_run
                )
            return {
                position: Outcome(position, wanted.name, "created", str(made))
                for (position, wanted), made in zip(drafts.items(), ids, strict=True)
            }
        return {}

    async def _one(
        self,
        connection: Connection,
        position: int,
        entry: Mapping[str, Any],
        old: StoredTarget | None,
        draft: ImportDraft,
        *,
        bounds: Bounds,
        uses_logins: Callable[[], None],
    ) -> Outcome:
        name = str(entry.get("name") or "")
        if old is not None and not bounds.sight.holds(old.labels):
            taken = name_taken("target", name)
            return _refuse(position, name, taken.code, taken.detail)
        if old is not None and draft.existing == "skip":
            return Outcome(position, name, "skipped", old.target.id)
        before = _fields(old) if old is not None else {}
        try:
            wanted = TargetDraft.model_validate(
                draft.onto(before, entry) if old is not None else entry
            )
            was = TargetDraft.model_validate(before) if old is not None else None
            if old is not None and wanted == was:
                return Outcome(position, name, "unchanged", old.target.id)
            if _changes_login_use(wanted, was):
                uses_logins()
            was_transport = old.target.transport if old is not None else None
            check_local_transport(
                wanted.transport,
                was_transport,
                allowed=self._local,
                everywhere=bounds.act.everywhere,
            )
            await check_target(connection, wanted, bounds, old.target if old is not None else None)
            async with connection.transaction():
                return await self._write(
                    connection, position, wanted, old, bounds, kept=not draft.dry_run
                )
        except ValidationError as wrong:
            first = wrong.errors(include_url=False)[0]
            where = "".join(f"/{part}" for part in first["loc"])
            return _refuse(
                position,
                name,
                "invalid",
                f"{where}: {plain_words(first)}" if where else plain_words(first),
            )
        except Refusal as refusal:
            return _refuse(position, name, refusal.code, refusal.detail)

    async def _write(
        self,
        connection: Connection,
        position: int,
        draft: TargetDraft,
        old: StoredTarget | None,
        bounds: Bounds,
        *,
        kept: bool,
    ) -> Outcome:
        if old is not None:
            stored = await inventory.change(connection, int(old.target.id), draft)
            return Outcome(
                position,
                draft.name,
                "updated",
                old.target.id,
                changes=differences(_fields(old), _fields(stored)),
            )
        made = await inventory.insert(connection, draft, uuid7(self._clock.now()), kept=kept)
        await check_target_name(connection, draft.name, bounds)
        return Outcome(position, draft.name, "created", str(made))


def _fields(stored: StoredTarget) -> dict[str, Any]:
    """Return the fields of a target that a caller may write."""
    return {
        name: value for name, value in stored.data().items() if name in TargetDraft.model_fields
    }


def _changes_login_use(draft: TargetDraft, was: TargetDraft | None) -> bool:
    """Return True if a login, its own or its jump host's, would be used on another route.

    A stored login stays even if the entry does not name it.
    """
    if draft.credential is None and draft.jump is None:
        return False
    return was is None or draft.model_dump(exclude=set(NOT_THE_ROUTE)) != was.model_dump(
        exclude=set(NOT_THE_ROUTE)
    )


async def _add_same_address(
    connection: Connection, outcomes: Sequence[Outcome], bounds: Bounds
) -> list[Outcome]:
    """Add to each created or moved target the other visible ones with its host and port."""
    written = [
        o.id
        for o in outcomes
        if o.id and (o.outcome == "created" or o.changes.keys() & {"host", "port"})
    ]
    twins = await inventory.of_same_address(connection, written, bounds.sight)
    return [replace(o, same_address=twins.get(o.id or "", ())) for o in outcomes]


def _allow_all() -> None:
    """Allow the use of all credentials."""


def _refuse(position: int, name: str, code: str, message: str) -> Outcome:
    return Outcome(position, name[:200], "refused", None, {"code": code, "message": message})
