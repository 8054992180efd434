"""Local users: a name, a password that is stored as a hash, and grants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, uuid7
from opsjobs.model.errors import Conflict
from opsjobs.model.execution import moment
from opsjobs.store import audit, idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.identities.session_owner import Known
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import check_basis, check_name_reserved, find, lock, unique_name
from opsjobs.store.transaction import Connection, Database


@dataclass(frozen=True, slots=True)
class User:
    """A user as it is shown: without the hash of its password."""

    id: int
    uuid: str
    name: str
    grants: list[dict[str, Any]]
    disabled: bool
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None

    def data(self) -> dict[str, Any]:
        """Return the body of GET /users/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "grants": self.grants,
            "disabled": self.disabled,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
            "last_login_at": moment(self.last_login_at),
        }


_SHOWN = (
    "id, uuid, name, grants, disabled_at is not null as disabled, created_at, updated_at, "
    "last_login_at"
)
_SELECT = f"select {_SHOWN} from users"

USERS = Listing(
    _SELECT,
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "disabled": ListColumn("boolean"),
        "created_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)

_INSERT = f"""
insert into users (uuid, name, password_hash, grants, disabled_at)
values (%(uuid)s, %(name)s, %(hash)s, %(grants)s, case when %(disabled)s then opsjobs_now() end)
  returning {_SHOWN}"""

_CHANGE = f"""
update users set updated_at = opsjobs_now(), grants = coalesce(%(grants)s, grants),
password_hash = coalesce(%(hash)s, password_hash),
  disabled_at = case when %(disabled)s then coalesce(disabled_at, opsjobs_now()) end
where id = %(id)s returning {_SHOWN}"""

_ADMINS = """
select count(*) as n from users where disabled_at is null
and (grants @> '[{"role": "admin", "scope": ""}]'
  or grants @> '[{"permissions": ["*"], "scope": ""}]')"""

_FOR_LOGIN = (
    "select id, uuid, name, password_hash, disabled_at is not null as disabled from users "
    "where name = %s"
)
_END_SESSIONS = (
    "update sessions set ended_at = opsjobs_now(), because = %s where user_id = %s and "
    "ended_at is null"
)


class Users:
    """The users. Of the enabled administrators, if there are any, at least one always remains."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        name: str,
        password_hash: str,
        grants: Sequence[Mapping[str, Any]],
        *,
        disabled: bool = False,
        reuse_name: bool = False,
        idem: IdempotentRequest | None = None,
    ) -> User | Answer:
        """Store a user. Raises Conflict("name_taken"), ("name_reserved") unless `reuse_name`."""
        values = {
            "uuid": uuid7(self._clock.now()),
            "name": name,
            "hash": password_hash,
            "grants": Jsonb(list(grants)),
            "disabled": disabled,
        }

        async def insert_user(connection: Connection) -> User:
            with unique_name("user", name):
                row = await (await connection.execute(_INSERT, values)).fetchone()
            assert row is not None
            user = _user(row)
            over = await check_name_reserved(connection, "user", name, reuse_name=reuse_name)
            await audit.record(
                connection,
                "user.created",
                "user",
                user.id,
                user.name,
                after={**_describe(user), **over},
            )
            return user

        return await idempotency.once(
            self._database,
            idem,
            insert_user,
            idempotency.created_at("/users"),
        )

    async def change(
        self,
        ref: str,
        action: str,
        *,
        disabled: bool | None = None,
        grants: Sequence[Mapping[str, Any]] | None = None,
        password_hash: str | None = None,
        basis: datetime | None = None,
    ) -> User:
        """Change the given fields, under this `action` of the audit log.

        A new password, or disabling the user, ends all its logins. Raises NotFound,
        Conflict("last_admin").
        """
        async with self._database.transaction() as connection:
            await _one_at_a_time(connection)
            before = _user(await lock(connection, "user", ref, _SELECT))
            check_basis("user", ref, before.updated_at, basis)
            off = before.disabled if disabled is None else disabled
            values = {
                "id": before.id,
                "grants": None if grants is None else Jsonb(list(grants)),
                "hash": password_hash,
                "disabled": off,
            }
            async with _an_admin_stays(connection):
                row = await (await connection.execute(_CHANGE, values)).fetchone()
            assert row is not None
            after = _user(row)
            if off or password_hash is not None:
                await connection.execute(_END_SESSIONS, [action, before.id])
                await connection.execute("delete from login_codes where user_id = %s", [before.id])
            described = {
                **_describe(after),
                **({"password": "changed"} if password_hash is not None else {}),
            }
            await audit.record(
                connection,
                action,
                "user",
                after.id,
                after.name,
                before=_describe(before),
                after=described,
            )
        return after

    async def delete(self, ref: str) -> None:
        """Delete the user with its logins and API keys. Raises NotFound, Conflict("last_admin")."""
        async with self._database.transaction() as connection:
            await _one_at_a_time(connection)
            gone = _user(await lock(connection, "user", ref, _SELECT))
            keys = await (
                await connection.execute("select name from api_keys where user_id = %s", [gone.id])
            ).fetchall()
            async with _an_admin_stays(connection):
                await connection.execute("delete from users where id = %s", [gone.id])
            before = {**_describe(gone), "api_keys": [key["name"] for key in keys]}
            await audit.record(
                connection, "user.deleted", "user", gone.id, gone.name, before=before
            )

    async def get(self, ref: str) -> User:
        """Return one user. Raises NotFound."""
        return _user(await find(self._database, "user", ref, _SELECT))

    async def list(self, request: PageRequest) -> Page[User]:
        """Return a page of users."""
        return (await USERS.page(self._database, request)).map(_user)

    async def find_for_login(self, name: str) -> Known | None:
        """Return the user of this name, for a login; None if there is none."""
        row = await self._database.fetch_one(_FOR_LOGIN, [name])
        return None if row is None else Known(**row)


async def _one_at_a_time(connection: Connection) -> None:
    # Two administrators who disable each other concurrently would each see the other one remain.
    await connection.execute("select pg_advisory_xact_lock(hashtext('opsjobs users'))")


class _an_admin_stays:  # noqa: N801  reads as the `async with` that it is
    """Raise Conflict if a change of users removes the last enabled administrator."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = 0

    async def __aenter__(self) -> None:
        self._before = await self._count()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._before and not await self._count():
            detail = "This is the last user who is an administrator: make another one first."
            raise Conflict("last_admin", detail)

    async def _count(self) -> int:
        row = await (await self._connection.execute(_ADMINS)).fetchone()
        assert row is not None
        return int(row["n"])


def _describe(user: User) -> dict[str, Any]:
    return {"grants": user.grants, "disabled": user.disabled}


def _user(row: Mapping[str, Any]) -> User:
    return User(**{**row, "uuid": str(row["uuid"])})
