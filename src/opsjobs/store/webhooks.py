"""Webhooks in PostgreSQL, with their secrets sealed."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Principal
from opsjobs.model.delivery import DeliveryReceiver, Message, NewDelivery
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.events import EventType, cloud_event
from opsjobs.model.execution import moment
from opsjobs.model.identity import Identity
from opsjobs.model.secret import Secret
from opsjobs.model.webhook import WebhookDraft, new_webhook_secret
from opsjobs.store import audit, idempotency
from opsjobs.store.deliveries import cancel_pending, queue_deliveries
from opsjobs.store.delivery_log import queue_again
from opsjobs.store.delivery_upkeep import NAMES_KEPT_DAYS
from opsjobs.store.envelope import KeyRing, Sealed, SealPlace
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.outbox import append_event
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import check_basis, find, lock, unique_name
from opsjobs.store.transaction import Connection, Database

DESTINATION = "webhook"
"""The name of the destination whose receivers are webhooks, by uuid."""
SOURCE = "webhooks"
PERMISSION = "webhooks:manage"
TEST_EVENT = "webhook.test"
PREVIOUS_SECRETS_MAX = 3
NAMES_PER_OWNER_MAX = 1_000
"""Names that the webhooks of one owner have, or had lately."""


@dataclass(frozen=True, slots=True)
class StoredWebhook:
    """A webhook as it may be shown: without its secret."""

    id: int
    uuid: str
    name: str
    url: str
    events: Sequence[str]
    selector: str | None
    enabled: bool
    disabled_reason: str | None
    owner: Identity
    previous_until: datetime | None
    failures: int
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def receiver(self) -> DeliveryReceiver:
        """The webhook as a receiver of deliveries."""
        return DeliveryReceiver(DESTINATION, self.uuid)

    def data(self) -> dict[str, Any]:
        """Return the body of GET /webhooks/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "url": self.url,
            "events": list(self.events),
            "selector": self.selector,
            "enabled": self.enabled,
            "disabled_reason": self.disabled_reason,
            "owner": self.owner.name,
            "owner_kind": self.owner.kind,
            "previous_secret_until": moment(self.previous_until),
            "failures": self.failures,
            "failing_since": moment(self.failing_since),
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


_SHOWN = f"""
select w.id, w.uuid, w.name, w.url, w.events, w.selector, w.enabled, w.disabled_reason, w.owner,
  w.owner_kind, w.previous_until, coalesce(r.failures, 0) as failures, r.failing_since,
  w.created_at, w.updated_at
from webhooks w left join delivery_receivers r
  on r.destination = '{DESTINATION}' and r.key = w.uuid::text"""
_OWN = "(%(owner)s::text is null or (w.owner, w.owner_kind) = (%(owner)s, %(kind)s))"
WEBHOOKS = Listing(
    f"{_SHOWN} where {_OWN}",
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "owner": ListColumn("text"),
        "created_at": ListColumn("moment", sort=True),
        "updated_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)
_INSERT = """
insert into webhooks (uuid, name, url, events, selector, enabled, owner, owner_kind, key_id,
  wrapped_key, sealed)
values (%(uuid)s, %(name)s, %(url)s, %(events)s, %(selector)s, %(enabled)s, %(owner)s,
  %(owner_kind)s, %(key_id)s, %(wrapped_key)s, %(sealed)s) returning id"""
_REPLACE = """
update webhooks set name = %(name)s, url = %(url)s, events = %(events)s, selector = %(selector)s,
  enabled = %(enabled)s, disabled_reason = null, updated_at = opsjobs_now() where id = %(id)s"""
_CLAIM_NAME = """
insert into webhook_names as n (name, owner, owner_kind)
select name, owner, owner_kind from webhooks where id = %(id)s
on conflict (name) do update set owner = excluded.owner, owner_kind = excluded.owner_kind,
  released_at = null
  where %(any)s or (n.owner, n.owner_kind) = (excluded.owner, excluded.owner_kind)
returning 1"""
_RELEASE_NAME = "update webhook_names set released_at = opsjobs_now() where name = %s"
_COUNT_NAMES = """
select count(*) as n from webhook_names n join webhooks w
  on (w.owner, w.owner_kind) = (n.owner, n.owner_kind) where w.id = %s"""
_RESEAL = """
update webhooks set version = %(version)s, key_id = %(key_id)s, wrapped_key = %(wrapped_key)s,
  sealed = %(sealed)s, previous_until = %(previous_until)s, updated_at = opsjobs_now()
where id = %(id)s"""
_LOCKED = "select id, uuid, version, key_id, wrapped_key, sealed, updated_at from webhooks"
_DISABLE = """
update webhooks set enabled = false, disabled_reason = %s, updated_at = opsjobs_now()
where uuid = %s and enabled returning id"""
_RECOVER = """
update delivery_receivers set failures = 0, failing_since = null
where destination = %s and key = %s and failures > 0"""


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """A webhook as a message is sent to it."""

    url: str
    enabled: bool
    owner: Identity
    secrets: Sequence[Secret]
    """Those that sign a message now, current first."""


class Webhooks:
    """The webhooks. `keys` are key-encryption keys, current first.

    `owner`, in all verbs: None for a caller who may see all webhooks, else the caller, who gets its
    own only.
    """

    def __init__(
        self, database: Database, keys: Sequence[Secret], clock: Clock | None = None
    ) -> None:
        self._database = database
        self._ring = KeyRing(keys)
        self._clock = clock or SystemClock()

    async def create(
        self, draft: WebhookDraft, by: Principal, idem: IdempotentRequest | None = None
    ) -> tuple[StoredWebhook, Secret] | Answer:
        """Store a webhook that belongs to `by`, and return it with its secret.

        A repeated request gets all but the secret. Raises Conflict("name_taken"), also if the name
        belonged to a webhook of another owner and `by` does not manage all webhooks, and
        Conflict("too_many_webhooks").
        """
        secret, row = new_webhook_secret(), uuid7(self._clock.now())

        async def insert(connection: Connection) -> StoredWebhook:
            sealed = self._sealed(row, 1, [(secret, None)])
            with unique_name("webhook", draft.name):
                made = await connection.execute(
                    _INSERT, {**_values(draft, by), **sealed, "uuid": row}
                )
            inserted = await made.fetchone()
            assert inserted is not None
            await _claim_name(connection, inserted["id"], draft.name, by)
            stored = await _read(connection, inserted["id"])
            after = audit.describe(stored.data())
            await audit.record(
                connection, "webhook.created", "webhook", stored.id, stored.name, after=after
            )
            return stored

        done = await idempotency.once(
            self._database,
            idem,
            insert,
            lambda made: Answer(201, f"/webhooks/{made.id}", {**made.data(), "secret": None}),
        )
        return done if isinstance(done, Answer) else (done, secret)

    async def get(self, ref: str, owner: Principal | None = None) -> StoredWebhook:
        """Return one webhook. Raises NotFound."""
        stored = _stored(await find(self._database, "webhook", ref, _SHOWN, "w."))
        return _own(stored, ref, owner)

    async def list(
        self, request: PageRequest, owner: Principal | None = None
    ) -> Page[StoredWebhook]:
        """Return a page of webhooks, by name."""
        return (await WEBHOOKS.page(self._database, request, _only(owner))).map(_stored)

    async def replace(
        self, ref: str, draft: WebhookDraft, by: Principal, *, basis: datetime | None = None
    ) -> StoredWebhook:
        """Replace a webhook; its secret and its owner stay, so the owner's rights still count.

        Pending deliveries of one that is disabled are cancelled. Raises NotFound,
        Conflict("name_taken", "too_many_webhooks"), Precondition.
        """
        async with self._database.transaction() as connection:
            row = await lock(connection, "webhook", ref, _LOCKED)
            check_basis("webhook", ref, row["updated_at"], basis)
            before = await _read(connection, row["id"])
            with unique_name("webhook", draft.name):
                await connection.execute(_REPLACE, {**_values(draft, by), "id": row["id"]})
            if draft.name != before.name:
                await connection.execute(_RELEASE_NAME, [before.name])
                await _claim_name(connection, row["id"], draft.name, by)
            if not draft.enabled:
                await _cancel(connection, before, "the webhook was disabled")
            elif not before.enabled or before.url != draft.url:
                await connection.execute(_RECOVER, [DESTINATION, before.uuid])
            stored = await _read(connection, row["id"])
            changes = audit.changes(before.data(), stored.data())
            await audit.record(
                connection, "webhook.updated", "webhook", stored.id, stored.name, **changes
            )
            return stored

    async def delete(self, ref: str) -> None:
        """Delete a webhook with its deliveries. Raises NotFound."""
        async with self._database.transaction() as connection:
            row = await lock(connection, "webhook", ref, _LOCKED)
            gone = await _read(connection, row["id"])
            await connection.execute("delete from webhooks where id = %s", [gone.id])
            await connection.execute(_RELEASE_NAME, [gone.name])
            await _cancel(connection, gone, "the webhook was deleted")
            await connection.execute(
                "delete from delivery_receivers where destination = %s and key = %s",
                [DESTINATION, gone.uuid],
            )
            before = audit.describe(gone.data())
            await audit.record(
                connection, "webhook.deleted", "webhook", gone.id, gone.name, before=before
            )

    async def rotate(self, ref: str, overlap_seconds: float) -> tuple[StoredWebhook, Secret]:
        """Return a new secret; those before it sign, too, for so long. Raises NotFound."""
        secret = new_webhook_secret()
        async with self._database.transaction() as connection:
            row = await lock(connection, "webhook", ref, _LOCKED)
            until = self._clock.now() + timedelta(seconds=overlap_seconds)
            before = [
                (old, until if ends is None else min(until, ends)) for old, ends in self._valid(row)
            ]
            kept = [(secret, None), *before[:PREVIOUS_SECRETS_MAX]]
            version = row["version"] + 1
            sealed = self._sealed(row["uuid"], version, kept)
            await connection.execute(
                _RESEAL, {**sealed, "id": row["id"], "version": version, "previous_until": until}
            )
            stored = await _read(connection, row["id"])
            after = {"previous_secret_until": moment(until)}
            await audit.record(
                connection, "webhook.rotated", "webhook", stored.id, stored.name, after=after
            )
        return stored, secret

    async def disable(self, uuid: str, reason: str) -> bool:
        """Disable a webhook that cannot be reached, and cancel what is pending.

        Returns False if it is disabled or deleted already. An event and an audit row tell why.
        """
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_DISABLE, [reason, uuid])).fetchone()
            if row is None:
                return False
            stored = await _read(connection, row["id"])
            await _cancel(connection, stored, f"the webhook was disabled: {reason}")
            await append_event(
                connection,
                EventType.WEBHOOK_DISABLED,
                stored.uuid,
                stored.data(),
                shard=stored.id,
            )
            await audit.record(
                connection, "webhook.disabled", "webhook", stored.id, stored.name, reason=reason
            )
            return True

    async def send_test(self, webhook: StoredWebhook) -> int:
        """Queue a test message, and return the delivery's id."""
        now, mark = self._clock.now(), str(uuid7(self._clock.now()))
        event = cloud_event(
            f"{webhook.uuid}/{TEST_EVENT}/{mark}",
            TEST_EVENT,
            webhook.uuid,
            moment(now) or "",
            webhook.data(),
        )
        # A subject of its own: it does not wait behind deliveries that fail.
        message = Message(
            f"test-{mark}", TEST_EVENT, mark, {"event": event, "visibility": None}, now
        )
        async with self._database.transaction() as connection:
            (made,) = await queue_deliveries(
                connection, SOURCE, [NewDelivery(message, [webhook.receiver])]
            )
            after = {"delivery": made}
            await audit.record(
                connection, "webhook.tested", "webhook", webhook.id, webhook.name, after=after
            )
        return made

    async def redeliver(self, webhook: StoredWebhook, delivery: str) -> int:
        """Queue the message of a delivery again, and return the new delivery's id.

        Raises NotFound, Conflict("delivery_pending").
        """
        async with self._database.transaction() as connection:
            made = await queue_again(connection, webhook.receiver, delivery)
            after = {"delivery": delivery, "redelivery": made}
            await audit.record(
                connection, "webhook.redelivered", "webhook", webhook.id, webhook.name, after=after
            )
        return made

    async def uuids(self, names: Collection[str], owner: Principal | None = None) -> dict[str, str]:
        """Return the uuids of the webhooks of these names that exist, by name."""
        wanted = {"names": list(names), **_only(owner)}
        query = f"select w.name, w.uuid from webhooks w where w.name = any(%(names)s) and {_OWN}"
        rows = await self._database.fetch(query, wanted)
        return {row["name"]: str(row["uuid"]) for row in rows}

    async def enabled(self) -> Sequence[StoredWebhook]:
        """Return all webhooks that get events."""
        return [_stored(row) for row in await self._database.fetch(f"{_SHOWN} where w.enabled")]

    async def address(self, uuid: str) -> WebhookAddress | None:
        """Return how a message is sent to a webhook; None if it was deleted.

        Raises KeyMissing, Tampered.
        """
        row = await self._database.fetch_one(
            "select uuid, url, enabled, owner, owner_kind, version, key_id, wrapped_key, sealed "
            "from webhooks where uuid = %s",
            [uuid],
        )
        if row is None:
            return None
        return WebhookAddress(
            row["url"],
            row["enabled"],
            Identity(row["owner_kind"], row["owner"]),
            [secret for secret, _ in self._valid(row)],
        )

    def _sealed(
        self, uuid: UUID, version: int, kept: Sequence[tuple[Secret, datetime | None]]
    ) -> dict[str, Any]:
        content = [
            {"secret": secret.reveal(), "until": until.timestamp() if until else None}
            for secret, until in kept
        ]
        sealed = self._ring.seal(json.dumps(content).encode(), SealPlace("webhooks", uuid, version))
        return {
            "key_id": sealed.key_id,
            "wrapped_key": sealed.wrapped_key,
            "sealed": sealed.sealed,
        }

    def _valid(self, row: DictRow) -> Sequence[tuple[Secret, datetime | None]]:
        """Return the secrets that are still valid, current first, and the ends of older ones."""
        sealed = Sealed(row["key_id"], row["wrapped_key"], row["sealed"])
        content = self._ring.open(sealed, SealPlace("webhooks", row["uuid"], row["version"]))
        now = self._clock.now()
        kept = [(Secret(one["secret"]), _moment(one["until"])) for one in json.loads(content)]
        return [(secret, until) for secret, until in kept if until is None or until > now]


async def _read(connection: Connection, webhook_id: int) -> StoredWebhook:
    row = await (await connection.execute(f"{_SHOWN} where w.id = %s", [webhook_id])).fetchone()
    assert row is not None
    return _stored(row)


async def _claim_name(connection: Connection, webhook_id: int, name: str, by: Principal) -> None:
    """Bind the name to the webhook's owner: rules that name it mean a webhook of that owner."""
    manages_all = by.reach(PERMISSION).everywhere
    claimed = await connection.execute(_CLAIM_NAME, {"id": webhook_id, "any": manages_all})
    if await claimed.fetchone() is None:
        raise Conflict(
            "name_taken",
            f"The name {name!r} belonged to a webhook of another owner, and rules of notifications "
            "may still use it. Choose another name, or ask a caller who holds webhooks:manage "
            "everywhere to create it.",
        )
    counted = await (await connection.execute(_COUNT_NAMES, [webhook_id])).fetchone()
    if counted is not None and counted["n"] > NAMES_PER_OWNER_MAX:
        raise Conflict(
            "too_many_webhooks",
            f"The owner has {NAMES_PER_OWNER_MAX} names of webhooks, which is the limit; those of "
            f"deleted webhooks count for {NAMES_KEPT_DAYS} days. Delete webhooks that are not "
            "needed, or use a name again.",
        )


async def _cancel(connection: Connection, webhook: StoredWebhook, reason: str) -> None:
    await cancel_pending(connection, webhook.receiver, reason)


def _only(owner: Principal | None) -> dict[str, str | None]:
    """Return the parameters of `_OWN`."""
    if owner is None:
        return {"owner": None, "kind": None}
    return {"owner": owner.name, "kind": owner.kind}


def _own(stored: StoredWebhook, ref: str, owner: Principal | None) -> StoredWebhook:
    if owner is not None and stored.owner != owner.identity:
        raise NotFound.for_ref("webhook", ref)
    return stored


def _values(draft: WebhookDraft, by: Principal) -> dict[str, Any]:
    return {
        "name": draft.name,
        "url": draft.url,
        "events": list(dict.fromkeys(draft.events)),
        "selector": draft.selector,
        "enabled": draft.enabled,
        "owner": by.name,
        "owner_kind": by.kind,
    }


def _stored(row: DictRow) -> StoredWebhook:
    owner = Identity(row.pop("owner_kind"), row.pop("owner"))
    return StoredWebhook(**{**row, "uuid": str(row["uuid"])}, owner=owner)


def _moment(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
