"""API keys, stored by the hash of their token only."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg import errors
from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Principal, Role
from opsjobs.model.errors import Conflict, FieldError, Invalid, NotFound, Unavailable
from opsjobs.model.execution import moment
from opsjobs.model.grants import principal_of, within
from opsjobs.model.identity import Identity
from opsjobs.model.secret import digest
from opsjobs.store import audit, idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import Reference, check_name_reserved, lock, unique_name
from opsjobs.store.transaction import Connection, Database

TOKEN_PREFIX = "opsc_"  # noqa: S105  how a token begins, not one
TOKEN_BYTES = 32
TOKEN_CHARACTERS_MIN = 16
TOKEN_CHARACTERS_MAX = 8_192
USE_NOTED_EVERY_SECONDS = 60
OWN_KEYS_MAX = 50
"""API keys of one user."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it may be shown: without its token.

    `role`: the role if the key has exactly one role and no scope, else None.
    """

    id: int
    uuid: str
    name: str
    role: str | None
    grants: list[dict[str, Any]]
    person: str | None
    made_by: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None

    def data(self) -> dict[str, Any]:
        """Return the body of GET /api-keys/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "role": self.role,
            "grants": self.grants,
            "person": self.person,
            "made_by": self.made_by,
            "created_at": moment(self.created_at),
            "expires_at": moment(self.expires_at),
            "last_used_at": moment(self.last_used_at),
        }


def role_grant(role: str) -> dict[str, Any]:
    """Return a stored grant: one role, everywhere."""
    return {"role": role, "permissions": [], "scope": ""}


_SHOWN = "id, uuid, name, role, grants, person, made_by, created_at, expires_at, last_used_at"

API_KEYS = Listing(
    f"select {_SHOWN} from api_keys",
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "role": ListColumn("text"),
        "person": ListColumn("text"),
        "made_by": ListColumn("text"),
        "created_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)

# A key belongs to the user who created it, directly or with another key, or depends on the service
# or the external person that created it. Its rights are limited to those of its creator, and it is
# valid only as long as its creator is.
_INSERT = f"""
insert into api_keys (uuid, name, token_sha256, role, grants, expires_at, person, made_by,
  made_by_kind, makers, user_id, answers_to,
  answers_to_kind)
values (%(uuid)s, %(name)s, %(digest)s, %(role)s, %(grants)s, %(expires_at)s, %(person)s,
  %(made_by)s, %(made_by_kind)s, %(makers)s::text[],
  case %(made_by_kind)s when 'user' then (select id from users where name = %(made_by)s)
    when 'api_key' then (select user_id from api_keys where name = %(made_by)s) end,
  case when %(made_by_kind)s in ('external', 'service') then %(made_by)s
    when %(made_by_kind)s = 'api_key' then (select answers_to from api_keys
      where name = %(made_by)s) end,
  case when %(made_by_kind)s in ('external', 'service') then %(made_by_kind)s
    when %(made_by_kind)s = 'api_key' then (select answers_to_kind from api_keys
      where name = %(made_by)s) end)
returning {_SHOWN}"""

_OWN_OF = "from api_keys where user_id = (select id from users where name = %s)"
_OWN = f"select {_SHOWN} {_OWN_OF} order by name"
_COUNT_OWN = f"select count(*) as n {_OWN_OF}"
_BELONGS = """
select from api_keys k join users u on u.id = k.user_id where k.id = %s and u.name = %s"""

_ENSURE = """
insert into api_keys (uuid, name, token_sha256, role) values (%s, %s, %s, %s)
on conflict (name) do update set token_sha256 = excluded.token_sha256, role = excluded.role,
  expires_at = null, grants = null,
  user_id = null, answers_to = null, answers_to_kind = null
where (api_keys.token_sha256, api_keys.role) is distinct from (excluded.token_sha256, excluded.role)
returning id, name"""

_RAISE = """
update api_keys set role = %s, expires_at = null, grants = null, user_id = null, answers_to = null,
answers_to_kind = null
where token_sha256 = %s and (role is distinct from %s or expires_at is not null
  or user_id is not null or answers_to is not null)
returning id, name"""

_STANDS = """
select k.id, k.name, k.role, k.grants, k.person, k.made_by, k.made_by_kind, k.makers, k.answers_to,
  k.answers_to_kind,
  u.name as user_name, u.grants as user_grants,
  k.last_used_at is null or k.last_used_at < opsjobs_now() - make_interval(secs => %s) as unnoted
from api_keys k left join users u on u.id = k.user_id
where (k.expires_at is null or k.expires_at > (select opsjobs_now()))
  and (k.user_id is null or u.disabled_at is null)"""
_WHO = f"{_STANDS} and k.token_sha256 = %s"
_NAMED = f"{_STANDS} and k.name = %s"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A requested key.

    `grants`: in their stored form (model.grants). `person`: None for the person that creates the
    key. `reuse_name`: inherit the objects that a deleted key of this name owned.
    """

    name: str
    grants: Sequence[Mapping[str, Any]]
    expires_at: datetime | None = None
    person: str | None = None
    reuse_name: bool = False

    @property
    def role(self) -> str | None:
        """The key's role if that is its only grant, and without a scope."""
        only = self.grants[0] if len(self.grants) == 1 else {}
        return only.get("role") if not only.get("scope") else None


class ApiKeys(ABC):
    """The API keys, by their tokens and by their names."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def create_key(
        self, name: str, role: str, token: str | None = None, expires_at: datetime | None = None
    ) -> str:
        """Store a key with a role; return its token, which is shown only once.

        Raises Conflict as `issue_key`, Invalid.
        """
        token = token or new_token()
        _check(role, token)
        async with self._database.transaction() as connection:
            await self._insert(
                connection, NewKey(name, [role_grant(role)], expires_at), token, None
            )
            await check_name_reserved(connection, "api_key", name, reuse_name=False)
        return token

    async def issue_key(
        self, new: NewKey, idem: IdempotentRequest | None, by: Principal
    ) -> tuple[ApiKey, str] | Answer:
        """Store a key created by `by`; return it with its token, or the first request's response.

        A repeated request gets all but the token, which is not stored. Raises
        Conflict("name_taken"), and ("name_reserved") unless it reuses the name of a deleted key.
        """
        token = new_token()

        async def insert_key(connection: Connection) -> ApiKey:
            key = await self._insert(connection, new, token, by)
            over = await check_name_reserved(
                connection, "api_key", new.name, reuse_name=new.reuse_name
            )
            after = {
                "grants": key.grants,
                "expires_at": moment(key.expires_at),
                "person": key.person,
                **over,
            }
            await audit.record(
                connection, "api_key.created", "api_key", key.id, key.name, after=after
            )
            return key

        done = await idempotency.once(
            self._database,
            idem,
            insert_key,
            lambda key: Answer(201, f"/api-keys/{key.id}", {**key.data(), "token": None}),
        )
        return done if isinstance(done, Answer) else (done, token)

    async def issue_own_key(self, new: NewKey, by: Principal) -> tuple[ApiKey, str]:
        """Store a key created by a user for itself; return it with its token.

        Raises Conflict as `issue_key`, and ("too_many_keys").
        """
        async with self._database.transaction() as connection:
            # Keys of one user are counted one after the other.
            await connection.execute("select from users where name = %s for update", [by.name])
            row = await (await connection.execute(_COUNT_OWN, [by.name])).fetchone()
            if row is not None and row["n"] >= OWN_KEYS_MAX:
                detail = (
                    f"{by.name} has {OWN_KEYS_MAX} API keys, which is the limit. Delete one first."
                )
                raise Conflict("too_many_keys", detail)
            token = new_token()
            key = await self._insert(connection, new, token, by)
            await check_name_reserved(connection, "api_key", new.name, reuse_name=False)
            after = {"grants": key.grants, "expires_at": moment(key.expires_at)}
            await audit.record(
                connection, "api_key.created", "api_key", key.id, key.name, after=after
            )
        return key, token

    async def list_own_keys(self, user: str) -> Sequence[ApiKey]:
        """Return the keys that belong to a user, by name."""
        return [_key(row) for row in await self._database.fetch(_OWN, [user])]

    async def ensure_key(self, name: str, role: str, token: str) -> None:
        """Make this token valid for this role, for the admin token of `up`.

        A key of this name gets it, unless another key has it. Idempotent. Raises Unavailable
        (including before the first migration) and Invalid.
        """
        _check(role, token)
        values = [uuid7(self._clock.now()), name, digest(token), role]
        try:
            await self._ensure(_ENSURE, values, role)
        except errors.UniqueViolation:
            await self._ensure(_RAISE, [role, digest(token), role], role)
        except (errors.UndefinedTable, errors.UndefinedColumn):
            raise Unavailable(
                "The database has no tables yet, or older ones: run `opsjobs db upgrade`."
            ) from None

    async def _ensure(self, statement: str, values: Sequence[Any], role: str) -> None:
        async with self._database.transaction() as connection:
            row = await (await connection.execute(statement, values)).fetchone()
            if row is not None:
                after = {"grants": [role_grant(role)]}
                await audit.record(
                    connection, "api_key.ensured", "api_key", row["id"], row["name"], after=after
                )

    async def by_token(self, token: str) -> Principal | None:
        """Return the principal of a token; None if unknown or expired, or its user disabled."""
        if not token or len(token) > TOKEN_CHARACTERS_MAX:
            return None
        return await self.by_hash(digest(token))

    async def by_hash(self, token_sha256: bytes) -> Principal | None:
        """Return the principal of the token with this hash, as `by_token`."""
        row = await self._database.fetch_one(_WHO, [USE_NOTED_EVERY_SECONDS, token_sha256])
        if row is None:
            return None
        if row["unnoted"]:
            # One write per minute and key, not per request.
            await self._database.fetch(
                "update api_keys set last_used_at = opsjobs_now() where id = %s returning id",
                [row["id"]],
            )
        return await self._bounded(row)

    async def by_key_name(self, name: str) -> Principal | None:
        """Return the principal of the key of this name; None if there is no valid one."""
        row = await self._database.fetch_one(_NAMED, [USE_NOTED_EVERY_SECONDS, name])
        return None if row is None else await self._bounded(row)

    @abstractmethod
    async def current_principal(self, identity: Identity) -> Principal | None:
        """Return an identity with its current rights; None if they have ended, as its keys then."""

    async def _bounded(self, row: Mapping[str, Any]) -> Principal | None:
        key = principal_of(row["name"], "api_key", _grants(row), row["person"])
        key = replace(key, makers=tuple(row["makers"]))
        if row["user_grants"] is not None:
            return within(
                key, principal_of(row["user_name"], "user", row["user_grants"], row["user_name"])
            )
        if row["answers_to"] is None:
            return key
        maker = await self.current_principal(Identity(row["answers_to_kind"], row["answers_to"]))
        return None if maker is None else within(key, maker)

    async def get_key(self, ref: str) -> ApiKey:
        """Return one key, without its token. Raises NotFound."""
        reference = Reference.require("API key", ref)
        query = f"select {_SHOWN} from api_keys where id = %s or uuid = %s"
        row = await self._database.fetch_one(query, [reference.id, reference.uuid])
        if row is None:
            raise NotFound.for_ref("API key", ref)
        return _key(row)

    async def list_keys(self, request: PageRequest) -> Page[ApiKey]:
        """Return a page of keys, without their tokens."""
        return (await API_KEYS.page(self._database, request)).map(_key)

    async def delete_key(self, ref: str, *, owner: str | None = None) -> None:
        """Delete the key; its token is refused from now on.

        Raises NotFound, also for a key that does not belong to the user `owner`, if it is given.
        """
        async with self._database.transaction() as connection:
            gone = _key(await lock(connection, "API key", ref, f"select {_SHOWN} from api_keys"))
            if owner is not None:
                row = await (await connection.execute(_BELONGS, [gone.id, owner])).fetchone()
                if row is None:
                    raise NotFound.for_ref("API key", ref)
            await connection.execute("delete from api_keys where id = %s", [gone.id])
            before = {"grants": gone.grants, "person": gone.person}
            await audit.record(
                connection, "api_key.deleted", "api_key", gone.id, gone.name, before=before
            )

    async def _insert(
        self, connection: Connection, new: NewKey, token: str, by: Principal | None
    ) -> ApiKey:
        values = {
            "uuid": uuid7(self._clock.now()),
            "name": new.name,
            "digest": digest(token),
            "role": new.role,
            "grants": None if new.role is not None else Jsonb(list(new.grants)),
            "expires_at": new.expires_at,
            "person": new.person or (by and by.person),
            "made_by": by and by.name,
            "made_by_kind": by and by.kind,
            "makers": [] if by is None else list(by.makes),
        }
        with unique_name("API key", new.name):
            row = await (await connection.execute(_INSERT, values)).fetchone()
        assert row is not None
        return _key(row)


def new_token() -> str:
    """Return a new token: `opsc_` and 32 random bytes in base64url."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def _check(role: str, token: str) -> None:
    if role not in set(Role):
        detail = f"There is no role {role!r}: there are {', '.join(Role)}."
        raise Invalid("unknown_role", detail, errors=[FieldError("/role", detail, "unknown_role")])
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX:
        raise Invalid(
            "weak_token",
            f"A token has at least {TOKEN_CHARACTERS_MIN} characters: leave it out to get a random "
            f"one.",
        )


def _key(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(**{**row, "uuid": str(row["uuid"]), "grants": _grants(row)})


def _grants(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return row["grants"] or [role_grant(row["role"])]
