"""Who may speak to us: API keys, known only by the hash of their token."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import errors

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Principal, Role
from opsjobs.model.execution import moment
from opsjobs.model.failures import FieldError, Invalid, NotFound, Unavailable
from opsjobs.store import idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import Column, Listing, Page, PageRequest
from opsjobs.store.reference import Reference, unique_name
from opsjobs.store.transaction import Connection, Database

TOKEN_PREFIX = "opsc_"  # noqa: S105  how a token begins, not one
TOKEN_BYTES = 32
TOKEN_CHARACTERS_MIN = 16
TOKEN_CHARACTERS_MAX = 8_192
USE_NOTED_EVERY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it may be shown: without its token."""

    id: int
    uuid: str
    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None

    def data(self) -> dict[str, Any]:
        """The body of GET /api-keys/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "role": self.role,
            "created_at": moment(self.created_at),
            "expires_at": moment(self.expires_at),
            "last_used_at": moment(self.last_used_at),
        }


_SHOWN = "id, uuid, name, role, created_at, expires_at, last_used_at"

API_KEYS = Listing(
    f"select {_SHOWN} from api_keys",
    {
        "id": Column("integer", sort=True),
        "uuid": Column("uuid"),
        "name": Column("text", sort=True),
        "role": Column("text"),
        "created_at": Column("moment", sort=True),
    },
    default_sort="name",
)

_INSERT = f"""
insert into api_keys (uuid, name, token_sha256, role, expires_at) values (%s, %s, %s, %s, %s) returning {_SHOWN}"""

_ENSURE = """
insert into api_keys (uuid, name, token_sha256, role) values (%s, %s, %s, %s)
on conflict (name) do update set token_sha256 = excluded.token_sha256, role = excluded.role, expires_at = null
where (api_keys.token_sha256, api_keys.role) is distinct from (excluded.token_sha256, excluded.role)"""

_RAISE = "update api_keys set role = %s, expires_at = null where token_sha256 = %s returning id"

_WHO = """
select id, name, role, last_used_at is null or last_used_at < opsjobs_now() - make_interval(secs => %s) as unnoted
from api_keys where token_sha256 = %s and (expires_at is null or expires_at > opsjobs_now())"""


class People:
    """The API keys; users and their passwords come with the console."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def create_key(self, name: str, role: str, token: str | None = None, expires_at: datetime | None = None) -> str:
        """Store a key and give back its token, which is shown this once. Raises Conflict("name_taken"), Invalid."""
        token = token or new_token()
        async with self._database.transaction() as connection:
            await self._insert(connection, name, role, token, expires_at)
        return token

    async def issue_key(
        self, name: str, role: str, expires_at: datetime | None, idem: IdempotentRequest | None
    ) -> tuple[ApiKey, str] | Answer:
        """As `create_key`, once for an idempotency key; a repeated request is told all but the token, which is kept nowhere."""
        token = new_token()
        async with self._database.transaction() as connection:
            if idem is not None and (answer := await idempotency.begin(connection, idem)):
                return answer
            key = await self._insert(connection, name, role, token, expires_at)
            if idem is not None:
                await idempotency.record(connection, idem, 201, f"/api-keys/{key.id}", {**key.data(), "token": None})
        return key, token

    async def ensure_key(self, name: str, role: str, token: str) -> None:
        """Make this token good for this role, for the admin token of `up`; a key of this name gets it, unless another has it.

        Idempotent. Raises Unavailable, also before the first migration, and Invalid.
        """
        _check(role, token)
        values = [uuid7(self._clock.now()), name, _digest(token), role]
        try:
            async with self._database.connection() as connection:
                await connection.execute(_ENSURE, values)
        except errors.UniqueViolation:
            await self._database.fetch(_RAISE, [role, _digest(token)])
        except errors.UndefinedTable:
            raise Unavailable("The database has no tables yet: run `opsjobs db upgrade`.") from None

    async def by_token(self, token: str) -> Principal | None:
        """Who this token is, or None where it is unknown or has expired."""
        if not token or len(token) > TOKEN_CHARACTERS_MAX:
            return None
        row = await self._database.fetch_one(_WHO, [USE_NOTED_EVERY_SECONDS, _digest(token)])
        if row is None:
            return None
        if row["unnoted"]:
            # One write a minute and key, not one a request.
            await self._database.fetch("update api_keys set last_used_at = opsjobs_now() where id = %s returning id", [row["id"]])
        return Principal.of_role(row["name"], row["role"], "api_key")

    async def get_key(self, ref: str) -> ApiKey:
        """One key, without its token. Raises NotFound."""
        reference = Reference.of("api key", ref)
        query = f"select {_SHOWN} from api_keys where id = %s or uuid = %s"
        row = await self._database.fetch_one(query, [reference.id, reference.uuid])
        if row is None:
            raise NotFound.of("api key", ref)
        return _key(row)

    async def list_keys(self, request: PageRequest) -> Page[ApiKey]:
        """A page of them, without their tokens."""
        return (await API_KEYS.page(self._database, request)).map(_key)

    async def delete_key(self, ref: str) -> None:
        """From now on its token is refused. Raises NotFound."""
        reference = Reference.of("api key", ref)
        gone = await self._database.fetch_one(
            "delete from api_keys where id = %s or uuid = %s returning id", [reference.id, reference.uuid]
        )
        if gone is None:
            raise NotFound.of("api key", ref)

    async def _insert(self, connection: Connection, name: str, role: str, token: str, expires_at: datetime | None) -> ApiKey:
        _check(role, token)
        with unique_name("api key", name):
            values = [uuid7(self._clock.now()), name, _digest(token), role, expires_at]
            row = await (await connection.execute(_INSERT, values)).fetchone()
        assert row is not None
        return _key(row)


def new_token() -> str:
    """A new token: `opsc_` and 32 random bytes in base64url."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def _digest(token: str) -> bytes:
    # A plain hash is enough: a token is 256 random bits, not a word that someone chose.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _check(role: str, token: str) -> None:
    if role not in set(Role):
        detail = f"There is no role {role!r}: there are {', '.join(Role)}."
        raise Invalid("unknown_role", detail, errors=[FieldError("/role", detail, "unknown_role")])
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX:
        raise Invalid("weak_token", f"A token has at least {TOKEN_CHARACTERS_MIN} characters: leave it out to get a random one.")


def _key(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(**{**row, "uuid": str(row["uuid"])})
