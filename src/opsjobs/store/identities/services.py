"""Services that act on their own behalf: each has a client id, a public key and grants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, uuid7
from opsjobs.model.access import Principal
from opsjobs.model.execution import moment
from opsjobs.model.identity import Identity, IdentityKind
from opsjobs.store import audit, idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import check_basis, check_name_reserved, find, lock, unique_name
from opsjobs.store.transaction import Connection, Database


@dataclass(frozen=True, slots=True)
class Service:
    """A service as it is shown; `name` is its client id."""

    id: int
    uuid: str
    name: str
    public_key: str
    grants: list[dict[str, Any]]
    disabled: bool
    made_by: str | None
    created_at: datetime
    updated_at: datetime

    def data(self) -> dict[str, Any]:
        """Return the body of GET /services/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "public_key": self.public_key,
            "grants": self.grants,
            "disabled": self.disabled,
            "made_by": self.made_by,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


_SHOWN = (
    "id, uuid, name, public_key, grants, disabled_at is not null as disabled, made_by, "
    "created_at, updated_at"
)
_SELECT = f"select {_SHOWN} from service_clients"

SERVICES = Listing(
    _SELECT,
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "disabled": ListColumn("boolean"),
        "made_by": ListColumn("text"),
        "created_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)

# The identity whose rights limit a service: the user, the service or the external person that wrote
# it, or that owns the API key that wrote it. A service that changes another one leaves this
# unchanged, because two services could otherwise limit each other.
_BEHIND = """
case %(by_kind)s when 'api_key' then (select coalesce(u.name, k.answers_to) from api_keys k left
  join users u on u.id = k.user_id
  where k.name = %(by)s) else %(by)s end"""
_BEHIND_KIND = """
case %(by_kind)s when 'api_key' then (select case
  when k.user_id is null then k.answers_to_kind else 'user' end from api_keys k
  where k.name = %(by)s) else %(by_kind)s end"""

_INSERT = f"""
insert into service_clients (uuid, name, public_key, grants, disabled_at, made_by, made_by_kind,
  makers, answers_to, answers_to_kind)
values (%(uuid)s, %(name)s, %(public_key)s, %(grants)s, case
  when %(disabled)s then opsjobs_now() end, %(by)s::text, %(by_kind)s::text,
  %(makers)s::text[], {_BEHIND}, {_BEHIND_KIND}) returning {_SHOWN}"""

_REPLACE = """
update service_clients set public_key = %(public_key)s, grants = %(grants)s,
updated_at = opsjobs_now(),
  disabled_at = case when %(disabled)s then coalesce(disabled_at, opsjobs_now()) end{owner}
where id = %(id)s returning {shown}"""
_HANDED_OVER = f""", makers = %(makers)s::text[],
  made_by = %(by)s::text, made_by_kind = %(by_kind)s::text, answers_to = {_BEHIND},
  answers_to_kind = {_BEHIND_KIND}"""

_SHARED = ", makers = array(select distinct unnest(makers || %(makers)s::text[]))"


class ServiceIdentities:
    """The registered services."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        name: str,
        public_key: str,
        grants: list[dict[str, Any]],
        *,
        disabled: bool = False,
        reuse_name: bool = False,
        idem: IdempotentRequest | None = None,
        by: Principal | None = None,
    ) -> Service | Answer:
        """Register a service, whose rights never exceed the current rights of `by`.

        Raises Conflict("name_taken"), and ("name_reserved") unless `reuse_name` is set, to inherit
        the objects of the deleted one.
        """
        values = {
            "uuid": uuid7(self._clock.now()),
            "name": name,
            "public_key": public_key,
            "grants": Jsonb(grants),
            "disabled": disabled,
            **_maker(by),
        }

        async def insert_service(connection: Connection) -> Service:
            with unique_name("service", name):
                row = await (await connection.execute(_INSERT, values)).fetchone()
            assert row is not None
            service = _service(row)
            over = await check_name_reserved(connection, "service", name, reuse_name=reuse_name)
            await audit.record(
                connection,
                "service.created",
                "service",
                service.id,
                name,
                after={**_describe(service), **over},
            )
            return service

        return await idempotency.once(
            self._database,
            idem,
            insert_service,
            idempotency.created_at("/services"),
        )

    async def replace(
        self,
        ref: str,
        public_key: str,
        grants: list[dict[str, Any]],
        *,
        disabled: bool,
        basis: datetime | None = None,
        by: Principal | None = None,
    ) -> Service:
        """Replace key and grants. Raises NotFound.

        The name stays, because the objects that the service owns refer to it. From now on its
        rights are limited to those of `by`, unless that is a service itself.
        """
        async with self._database.transaction() as connection:
            before = _service(await lock(connection, "service", ref, _SELECT))
            check_basis("service", ref, before.updated_at, basis)
            values = {
                "id": before.id,
                "public_key": public_key,
                "grants": Jsonb(grants),
                "disabled": disabled,
                **_maker(by),
            }
            # A service does not become the owner, although it may have the private key.
            owner = _SHARED if by is None or by.kind == "service" else _HANDED_OVER
            row = await (
                await connection.execute(_REPLACE.format(owner=owner, shown=_SHOWN), values)
            ).fetchone()
            assert row is not None
            after = _service(row)
            await audit.record(
                connection,
                "service.updated",
                "service",
                after.id,
                after.name,
                before=_describe(before),
                after=_describe(after),
            )
        return after

    async def delete(self, ref: str) -> None:
        """Delete the service; its tokens are refused from now on. Raises NotFound."""
        async with self._database.transaction() as connection:
            gone = _service(await lock(connection, "service", ref, _SELECT))
            await connection.execute("delete from service_clients where id = %s", [gone.id])
            await audit.record(
                connection, "service.deleted", "service", gone.id, gone.name, before=_describe(gone)
            )

    async def get(self, ref: str) -> Service:
        """Return one service. Raises NotFound."""
        return _service(await find(self._database, "service", ref, _SELECT))

    async def list(self, request: PageRequest) -> Page[Service]:
        """Return a page of services."""
        return (await SERVICES.page(self._database, request)).map(_service)

    async def public_key(self, name: str) -> str | None:
        """Return the key that verifies its tokens; None if it is unknown or disabled."""
        query = "select public_key from service_clients where name = %s and disabled_at is null"
        row = await self._database.fetch_one(query, [name])
        return None if row is None else str(row["public_key"])


def on_behalf(service: str, kind: Literal["user", "external"], user: str) -> str:
    """Return the name of a service that acts on behalf of an identity.

    A service's own name has no slash.

    >>> on_behalf("portal", "user", "ada")
    'portal/user/ada'
    >>> split_name("portal/user/ada")
    ('portal', Identity(kind='user', name='ada'))
    """
    return f"{service}/{kind}/{user}"


def split_name(name: str) -> tuple[str, Identity | None]:
    """Split a name into the service, and the identity that it acts for (None without one)."""
    service, _, rest = name.partition("/")
    kind, _, user = rest.partition("/")
    return service, Identity(cast(IdentityKind, kind), user) if rest else None


def _maker(by: Principal | None) -> dict[str, Any]:
    return (
        {"by": None, "by_kind": None, "makers": []}
        if by is None
        else {"by": by.name, "by_kind": by.kind, "makers": list(by.makes)}
    )


def _describe(service: Service) -> dict[str, Any]:
    body = {
        "grants": service.grants,
        "disabled": service.disabled,
        "public_key": service.public_key,
    }
    return {**body, "made_by": service.made_by}


def _service(row: Mapping[str, Any]) -> Service:
    return Service(**{**row, "uuid": str(row["uuid"])})
