"""The vault: who writes credentials gives their secrets once, and a worker opens them for a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.credential import CredentialDraft
from opsjobs.model.secret import Credential, Secret
from opsjobs.store import circuits, idempotency, parameters
from opsjobs.store.envelope import KeyMissing, KeyRing, Place, Sealed, Tampered
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import Page, PageRequest
from opsjobs.store.reference import Reference, find, lock, unique_name
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.using import check_unused
from opsjobs.store.vault.contents import check, closed, packed, unpacked
from opsjobs.store.vault.rows import CREDENTIALS, SHOWN, StoredCredential, stored
from opsjobs.telemetry import log

_SEALED = """
select id, uuid, name, type, username, version, key_id, wrapped_key, sealed from credentials where id = any(%s::bigint[])"""

_INSERT = f"""
insert into credentials (uuid, name, type, username, key_id, wrapped_key, sealed)
values (%(uuid)s, %(name)s, %(type)s, %(username)s, %(key_id)s, %(wrapped_key)s, %(sealed)s) returning {SHOWN}"""

_REPLACE = f"""
update credentials set name = %(name)s, type = %(type)s, username = %(username)s, version = version + 1, key_id = %(key_id)s,
  wrapped_key = %(wrapped_key)s, sealed = %(sealed)s, updated_at = opsjobs_now()
where uuid = %(uuid)s returning {SHOWN}"""

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
        check(draft)
        row = uuid7(self._clock.now())
        async with self._database.transaction() as connection:
            if idem is not None and (answer := await idempotency.begin(connection, idem)):
                return answer
            made = await self._write(connection, _INSERT, draft, Place("credentials", row, 1))
            if idem is not None:
                await idempotency.record(connection, idem, 201, f"/credentials/{made.id}", made.data())
        return made

    async def replace(self, ref: str, draft: CredentialDraft) -> StoredCredential:
        """Seal anew under the next version. Raises NotFound, Conflict("name_taken"), Invalid."""
        check(draft)
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref)
            return await self._write(connection, _REPLACE, draft, Place("credentials", old["uuid"], old["version"] + 1))

    async def get(self, ref: str) -> StoredCredential:
        """One credential, without its secrets. Raises NotFound."""
        return stored(await find(self._database, "credential", ref, f"select {SHOWN} from credentials"))

    async def list(self, request: PageRequest) -> Page[StoredCredential]:
        """A page of them, without their secrets."""
        return (await CREDENTIALS.page(self._database, request)).map(stored)

    async def delete(self, ref: str) -> None:
        """Raises NotFound, Conflict("credential_in_use") naming targets that log in with it."""
        async with self._database.transaction() as connection:
            row = await _locked(connection, ref)
            what = f"The credential {row['name']!r} is used by"
            await check_unused(connection, "credential_in_use", what, _USERS, {"id": row["id"]})
            await connection.execute("delete from credentials where id = %s", [row["id"]])
            await circuits.forget(connection, "credential_id", row["id"])

    async def open_many(self, ids: Sequence[str]) -> dict[str, Credential]:
        """The credentials with their secrets, by id; one that is unknown is left out.

        One whose secrets cannot be had has none, and says in words why (`fault`).
        """
        known = [int(i) for i in ids if Reference.parse(i) and i.isdigit()]
        rows = await self._database.fetch(_SEALED, [known])
        return {str(row["id"]): self._open(row) for row in rows}

    def seal_parameters(self, execution: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as the execution's row keeps them: each `Secret` sealed."""
        return parameters.sealed(self._ring, execution, values)

    def open_parameters(self, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of an execution, secrets as `Secret`. Raises KeyMissing, Tampered."""
        return parameters.opened(self._ring, execution, stored)

    def _open(self, row: DictRow) -> Credential:
        sealed = Sealed(row["key_id"], row["wrapped_key"], row["sealed"])
        try:
            content = self._ring.open(sealed, Place("credentials", row["uuid"], row["version"]))
        except (KeyMissing, Tampered) as refused:
            log.error("credential_does_not_open", credential=row["id"], reason=str(refused))
            return closed(row, str(refused))
        return unpacked(row, content)

    async def _write(self, connection: Connection, statement: str, draft: CredentialDraft, place: Place) -> StoredCredential:
        sealed = self._ring.seal(packed(draft), place)
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
        return stored(row)


async def _locked(connection: Connection, ref: str) -> DictRow:
    return await lock(connection, "credential", ref, f"select {SHOWN} from credentials")
