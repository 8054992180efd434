"""Credentials: stored sealed, shown without their secrets, opened only for a session."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from pydantic import SecretStr

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.credential import CredentialDraft
from opsjobs.model.execution import moment
from opsjobs.model.secret import Credential, CredentialType, Secret
from opsjobs.store import circuits, idempotency, parameters
from opsjobs.store.envelope import KeyMissing, KeyRing, Place, Sealed, Tampered
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.keyfile import check_certificate, check_private_key, tidy
from opsjobs.store.paging import Column, Listing, Page, PageRequest
from opsjobs.store.reference import Reference, find, lock, unique_name
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.using import check_unused
from opsjobs.telemetry import log


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential as it may be shown: without its secrets."""

    id: int
    uuid: str
    name: str
    type: CredentialType
    username: str
    version: int
    created_at: datetime
    updated_at: datetime

    def data(self) -> dict[str, Any]:
        """The body of GET /credentials/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "type": self.type.value,
            "username": self.username,
            "version": self.version,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


_SHOWN = "id, uuid, name, type, username, version, created_at, updated_at"
_SEALED = """
select id, uuid, name, type, username, version, key_id, wrapped_key, sealed from credentials where id = any(%s::bigint[])"""

CREDENTIALS = Listing(
    f"select {_SHOWN} from credentials",
    {
        "id": Column("integer", sort=True),
        "uuid": Column("uuid"),
        "name": Column("text", sort=True),
        "type": Column("text"),
        "username": Column("text", sort=True),
        "created_at": Column("moment", sort=True),
        "updated_at": Column("moment", sort=True),
    },
    default_sort="name",
)

_INSERT = f"""
insert into credentials (uuid, name, type, username, key_id, wrapped_key, sealed)
values (%(uuid)s, %(name)s, %(type)s, %(username)s, %(key_id)s, %(wrapped_key)s, %(sealed)s) returning {_SHOWN}"""

_REPLACE = f"""
update credentials set name = %(name)s, type = %(type)s, username = %(username)s, version = version + 1, key_id = %(key_id)s,
  wrapped_key = %(wrapped_key)s, sealed = %(sealed)s, updated_at = opsjobs_now()
where uuid = %(uuid)s returning {_SHOWN}"""

_USERS = "select name, count(*) over () as n from targets where credential_id = %(id)s order by name limit %(limit)s"


class Vault:
    """The credentials. `keys` are key-encryption keys, current first."""

    def __init__(self, database: Database, keys: Sequence[Secret], clock: Clock | None = None) -> None:
        self._database = database
        self._ring = KeyRing(keys)
        self._clock = clock or SystemClock()
        self._ring.self_test()

    async def create(self, draft: CredentialDraft, idem: IdempotentRequest | None = None) -> StoredCredential | Answer:
        """Seal and store; an Answer where this request was done before. Raises Conflict("name_taken"), Invalid."""
        _check(draft)
        row = uuid7(self._clock.now())
        async with self._database.transaction() as connection:
            if idem is not None and (answer := await idempotency.begin(connection, idem)):
                return answer
            stored = await self._write(connection, _INSERT, draft, Place("credentials", row, 1))
            if idem is not None:
                await idempotency.record(connection, idem, 201, f"/credentials/{stored.id}", stored.data())
        return stored

    async def replace(self, ref: str, draft: CredentialDraft) -> StoredCredential:
        """Seal anew under the next version. Raises NotFound, Conflict("name_taken"), Invalid."""
        _check(draft)
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref)
            return await self._write(connection, _REPLACE, draft, Place("credentials", old["uuid"], old["version"] + 1))

    async def get(self, ref: str) -> StoredCredential:
        """One credential, without its secrets. Raises NotFound."""
        return _stored(await find(self._database, "credential", ref, f"select {_SHOWN} from credentials"))

    async def list(self, request: PageRequest) -> Page[StoredCredential]:
        """A page of them, without their secrets."""
        return (await CREDENTIALS.page(self._database, request)).map(_stored)

    async def delete(self, ref: str) -> None:
        """Raises NotFound, Conflict("credential_in_use") naming targets that log in with it."""
        async with self._database.transaction() as connection:
            row = await _locked(connection, ref)
            what = f"The credential {row['name']!r} is used by"
            await check_unused(connection, "credential_in_use", what, _USERS, {"id": row["id"]})
            await connection.execute("delete from credentials where id = %s", [row["id"]])
            await circuits.forget(connection, "credential_id", row["id"])

    async def open_many(self, ids: Sequence[str]) -> dict[str, Credential]:
        """The credentials with their secrets, by id; one that is unknown or does not open is left out, and logged."""
        known = [int(i) for i in ids if Reference.parse(i) and i.isdigit()]
        rows = await self._database.fetch(_SEALED, [known])
        opened = ((str(row["id"]), self._open(row)) for row in rows)
        return {row_id: credential for row_id, credential in opened if credential is not None}

    def seal_parameters(self, execution: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as the execution's row keeps them: each `Secret` sealed."""
        return parameters.sealed(self._ring, execution, values)

    def open_parameters(self, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of an execution, secrets as `Secret`. Raises KeyMissing, Tampered."""
        return parameters.opened(self._ring, execution, stored)

    def _open(self, row: DictRow) -> Credential | None:
        sealed = Sealed(row["key_id"], row["wrapped_key"], row["sealed"])
        try:
            content = self._ring.open(sealed, Place("credentials", row["uuid"], row["version"]))
        except (KeyMissing, Tampered) as refused:
            log.error("credential_does_not_open", credential=row["id"], reason=str(refused))
            return None
        return _credential(row, json.loads(content))

    async def _write(self, connection: Connection, statement: str, draft: CredentialDraft, place: Place) -> StoredCredential:
        sealed = self._ring.seal(json.dumps(_secrets(draft)).encode(), place)
        values = {
            "uuid": place.row,
            "name": draft.name,
            "type": draft.type.value,
            "username": draft.username,
            "key_id": sealed.key_id,
            "wrapped_key": sealed.wrapped_key,
            "sealed": sealed.sealed,
        }
        with unique_name("credential", draft.name):
            row = await (await connection.execute(statement, values)).fetchone()
        assert row is not None
        return _stored(row)


async def _locked(connection: Connection, ref: str) -> DictRow:
    return await lock(connection, "credential", ref, f"select {_SHOWN} from credentials")


def _check(draft: CredentialDraft) -> None:
    if draft.private_key is None:
        return
    key, passphrase = draft.private_key.get_secret_value(), _revealed(draft.passphrase)
    if draft.certificate is None:
        check_private_key(key, passphrase)
    else:
        check_certificate(draft.certificate, key, passphrase)


def _secrets(draft: CredentialDraft) -> dict[str, str]:
    key = _revealed(draft.private_key)
    parts = {
        "password": _revealed(draft.password),
        "private_key": tidy(key) if key is not None else None,
        "passphrase": _revealed(draft.passphrase),
        "certificate": tidy(draft.certificate) if draft.certificate is not None else None,
    }
    return {name: value for name, value in parts.items() if value is not None}


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _credential(row: DictRow, parts: Mapping[str, str]) -> Credential:
    hidden = {name: Secret(parts[name]) for name in ("password", "private_key", "passphrase") if name in parts}
    return Credential(
        id=str(row["id"]),
        version=row["version"],
        name=row["name"],
        type=CredentialType(row["type"]),
        username=row["username"],
        certificate=parts.get("certificate"),
        **hidden,
    )


def _stored(row: Mapping[str, Any]) -> StoredCredential:
    uuid: UUID = row["uuid"]
    return StoredCredential(**{**row, "uuid": str(uuid), "type": CredentialType(row["type"])})
