"""The vault: secrets are written once, and opened by workers for a session."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.credential import Binding, Credential, CredentialType, SshCaSource, binding_of
from opsjobs.model.credential_draft import BoundTo, CredentialDraft, RotationDraft, unfit
from opsjobs.model.errors import Conflict, FieldError, Invalid, Precondition
from opsjobs.model.secret import Secret
from opsjobs.store import audit, circuits, idempotency
from opsjobs.store.envelope import (
    KeyMissing,
    KeyRing,
    Sealed,
    SealPlace,
    Tampered,
    open_parameters,
    seal_parameters,
)
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import Page, PageRequest
from opsjobs.store.reference import Reference, check_basis, check_unused, find, lock, unique_name
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.vault.binding import check_users, outside, resolved
from opsjobs.store.vault.payload import check, closed, packed, parts_of, unpacked
from opsjobs.store.vault.rows import (
    CREDENTIALS,
    SHOWN,
    StoredCredential,
    Usage,
    Uses,
    check_rotatable,
    check_unnamed,
    check_unused_credential,
    find_usage,
    stored,
)
from opsjobs.telemetry.logs import log

_SEALED_COLUMNS = "key_id, wrapped_key, sealed, bound_targets, bound_jobs"
_COLUMNS = f"{SHOWN}, {_SEALED_COLUMNS}"
_SEALED = f"""
select id, uuid, name, type, username, version, bound_groups, {_SEALED_COLUMNS} from credentials
  where id = any(%s::bigint[])"""

_INSERT = f"""
insert into credentials (
  uuid, name, type, username, source, key_id, wrapped_key, sealed, bound_targets, bound_groups,
  bound_jobs)
values (%(uuid)s, %(name)s, %(type)s, %(username)s, %(source)s, %(key_id)s, %(wrapped_key)s,
  %(sealed)s,
  coalesce(%(targets)s::text[], '{{}}'), coalesce(%(groups)s::text[], '{{}}'),
  coalesce(%(jobs)s::bigint[], '{{}}'))
returning {_COLUMNS}"""

_BIND = """bound_targets = coalesce(%(targets)s::text[], bound_targets),
bound_groups = coalesce(%(groups)s::text[], bound_groups),
  bound_jobs = coalesce(%(jobs)s::bigint[], bound_jobs), updated_at = (select opsjobs_now())"""
_REPLACE = f"""
update credentials set name = %(name)s, type = %(type)s, username = %(username)s,
source = %(source)s, version = version + 1,
  key_id = %(key_id)s, wrapped_key = %(wrapped_key)s, sealed = %(sealed)s, {_BIND}
    where uuid = %(uuid)s returning {_COLUMNS}"""
_REBIND = f"update credentials set {_BIND} where id = %(id)s returning {_COLUMNS}"

_BINDINGS = """
select id, name, bound_targets, bound_groups, bound_jobs from credentials
where id = any(%s::bigint[]) and (bound_targets <> '{}' or bound_groups <> '{}'
  or bound_jobs <> '{}')"""
_SIGNED_BY = """
select name, count(*) over () as n from credentials where source->>'authority' = %(name)s
  order by name limit %(limit)s"""

# Such a credential is usually rotated to get a new signature of the same key.
_SIGNED = (CredentialType.SSH_CERTIFICATE, CredentialType.CLIENT_CERTIFICATE)


class Vault:
    """The credentials. `keys` are key-encryption keys, current first."""

    def __init__(
        self, database: Database, keys: Sequence[Secret], clock: Clock | None = None
    ) -> None:
        self._database = database
        self._ring = KeyRing(keys)
        self._clock = clock or SystemClock()
        self._uses = Uses(database, self._clock)
        self._ring.self_test()

    async def create(
        self, draft: CredentialDraft, idem: IdempotentRequest | None = None
    ) -> StoredCredential | Answer:
        """Seal and store; return an Answer if this request was done before.

        Raises Conflict("name_taken"), Invalid.
        """
        parts = self._validate(draft.type, draft.login, draft.revealed())
        row = uuid7(self._clock.now())

        async def insert(connection: Connection) -> StoredCredential:
            await _check_authority(connection, draft)
            values = {**_name_columns(draft), **await _bound(connection, draft.bound_to)}
            made = await self._write(
                connection, _INSERT, values, parts, SealPlace("credentials", row, 1)
            )
            await audit.record(
                connection,
                "credential.created",
                "credential",
                made.id,
                made.name,
                after=made.data(),
            )
            return made

        answer = idempotency.created_at("/credentials")
        return await idempotency.once(self._database, idem, insert, answer)

    async def replace(
        self, ref: str, draft: CredentialDraft, *, basis: datetime | None = None
    ) -> StoredCredential:
        """Seal again under the next version. Raises NotFound, Conflict("name_taken"), Invalid."""
        parts = self._validate(draft.type, draft.login, draft.revealed())
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref)
            check_basis("credential", ref, old["updated_at"], basis)
            await _check_authority(connection, draft)
            if draft.name != old["name"] or draft.type is not CredentialType.SSH_KEY:
                what = f"The credential {old['name']!r} holds the key of the SSH CA of"
                await check_unused(
                    connection, "credential_in_use", what, _SIGNED_BY, {"name": old["name"]}
                )
            if draft.name != old["name"]:
                await check_unnamed(connection, old["name"])
            if (
                CredentialType.SECRET in (kinds := {draft.type.value, old["type"]})
                and len(kinds) > 1
            ):
                await check_unused_credential(connection, old["id"], old["name"])
            values = {**_name_columns(draft), **await _bound(connection, draft.bound_to, old)}
            return await self._next(connection, old, values, parts, "credential.updated")

    async def secrets(self, ref: str) -> dict[str, str]:
        """Return the plaintext secrets, for a change that keeps them; none if they are external.

        Raises NotFound, Conflict.
        """
        row = await find(self._database, "credential", ref, f"select {_COLUMNS} from credentials")
        return {} if row["source"] is not None else self._open_parts(row)

    async def bind(self, ref: str, bound_to: BoundTo) -> StoredCredential:
        """Bind the credential. Raises NotFound, Invalid, Conflict("credential_in_use").

        It is in use if a target or a job outside of the binding uses it.
        """
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref)
            values = {"id": old["id"], **await _bound(connection, bound_to, old)}
            row = await (await connection.execute(_REBIND, values)).fetchone()
            assert row is not None
            before, made = stored(old), stored(row)
            was, now = {"bound_to": before.bound_to}, {"bound_to": made.bound_to}
            await audit.record(
                connection,
                "credential.bound",
                "credential",
                made.id,
                made.name,
                before=was,
                after=now,
            )
        return made

    async def usage(self, ref: str) -> Usage:
        """Return the targets and jobs that name the credential. Raises NotFound."""
        row = await find(self._database, "credential", ref, "select id, name from credentials")
        async with self._database.connection() as connection:
            return await find_usage(connection, row["id"], row["name"])

    async def bindings(self, ids: Collection[str]) -> dict[str, tuple[str, Binding]]:
        """Return name and binding, by id, of these credentials; unbound ones are left out."""
        rows = await self._database.fetch(
            _BINDINGS, [[int(i) for i in ids if i.isdigit() and Reference.parse(i)]]
        )
        return {str(row["id"]): (row["name"], binding_of(row)) for row in rows}

    async def usernames(self, ids: Collection[str]) -> dict[str, str]:
        """Return the login names of these credentials, by id."""
        known = [int(i) for i in ids if i.isdigit() and Reference.parse(i)]
        rows = await self._database.fetch(
            "select id, username from credentials where id = any(%s::bigint[])", [known]
        )
        return {str(row["id"]): row["username"] for row in rows}

    async def outside(self, binding: Binding, target_ids: Collection[str]) -> set[str]:
        """Return the subset of these target ids outside of the binding, as groups are now."""
        if not binding.groups:
            return {i for i in target_ids if not binding.holds_target(i, ())}
        async with self._database.connection() as connection:
            return {
                str(i)
                for i in await outside(
                    connection, binding, [int(i) for i in target_ids if i.isdigit()]
                )
            }

    async def rotate(
        self,
        ref: str,
        draft: RotationDraft,
        if_match: Collection[int] | None = None,
        idem: IdempotentRequest | None = None,
    ) -> StoredCredential | Answer:
        """Store new secrets for the same login, under the next version, which no session uses yet.

        Returns an Answer if this was done before. `if_match`: the versions that may be replaced;
        None = any. Raises NotFound, Precondition(412), Invalid.
        """

        async def seal_again(connection: Connection) -> StoredCredential:
            row = await _locked(connection, ref)
            _check_version(row["version"], if_match, draft.version)
            named = {**{name: row[name] for name in ("name", "type", "username")}, **_AS_BOUND}
            parts = self._rotated(row, draft.revealed())
            return await self._next(connection, row, named, parts, "credential.rotated")

        return await idempotency.once(
            self._database, idem, seal_again, lambda made: Answer(200, None, made.data())
        )

    async def get(self, ref: str) -> StoredCredential:
        """Return one credential, without its secrets. Raises NotFound."""
        return stored(
            await find(self._database, "credential", ref, f"select {SHOWN} from credentials")
        )

    async def list(self, request: PageRequest) -> Page[StoredCredential]:
        """Return a page of credentials, without their secrets."""
        return (await CREDENTIALS.page(self._database, request)).map(stored)

    async def delete(self, ref: str) -> None:
        """Delete the credential. Raises NotFound, Conflict("credential_in_use").

        The conflict names targets that log in with it, and jobs whose actions name it.
        """
        async with self._database.transaction() as connection:
            row = await _locked(connection, ref)
            await check_unused_credential(connection, row["id"], row["name"])
            await connection.execute("delete from credentials where id = %s", [row["id"]])
            await circuits.forget(connection, "credential_id", row["id"])
            before = stored(row)
            await audit.record(
                connection,
                "credential.deleted",
                "credential",
                before.id,
                before.name,
                before=before.data(),
            )

    async def check_delete(self, credential: StoredCredential) -> None:
        """Raise as `delete` would now; change nothing, and lock nothing."""
        async with self._database.transaction() as connection:
            await check_unused_credential(connection, credential.id, credential.name)

    async def open_many(self, ids: Sequence[str]) -> dict[str, Credential]:
        """Return the credentials with their secrets, by id; unknown ones are left out.

        A credential whose secrets cannot be read has none; its `fault` is the reason.
        """
        known = [int(i) for i in ids if Reference.parse(i) and i.isdigit()]
        rows = await self._database.fetch(_SEALED, [known])
        opened = {str(row["id"]): self._open(row) for row in rows}
        await self._uses.note(
            [int(i) for i, credential in opened.items() if credential.fault is None]
        )
        return opened

    async def tested(self, credential: StoredCredential, result: Mapping[str, Any]) -> None:
        """Record that its secrets were tested, and whether they could be read."""
        async with self._database.transaction() as connection:
            outcome = {"ok": result["ok"]}
            await audit.record(
                connection,
                "credential.tested",
                "credential",
                credential.id,
                credential.name,
                after=outcome,
            )

    async def open_named(self, name: str) -> Credential | None:
        """Return the credential of this name with its secrets; None if there is none."""
        row = await self._database.fetch_one(
            f"select {_COLUMNS} from credentials where name = %s", [name]
        )
        return self._open(row) if row is not None else None

    def seal_parameters(self, execution: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as the execution's row stores them: each `Secret` sealed."""
        return seal_parameters(self._ring, execution, values)

    def open_parameters(self, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return an execution's parameters, secrets as `Secret`. Raises KeyMissing, Tampered."""
        return open_parameters(self._ring, execution, stored)

    def seal_secret(self, secret: Secret, place: SealPlace) -> Sealed:
        """Return a secret of another table as its row stores it."""
        return self._ring.seal(secret.reveal().encode(), place)

    def open_secret(self, sealed: Sealed, place: SealPlace) -> Secret:
        """Return a secret of another table. Raises KeyMissing, Tampered."""
        return Secret(self._ring.open(sealed, place).decode())

    def blinded(self, digest: bytes) -> bytes:
        """Return a keyed digest of a body that may contain a secret, for comparison only.

        The body cannot be guessed from it without the key.
        """
        return self._ring.blinded(digest)

    def _validate(self, type_: CredentialType, login: str, parts: dict[str, str]) -> dict[str, str]:
        check(type_, login, parts, self._clock.now())
        return parts

    def _rotated(self, row: DictRow, given: dict[str, str]) -> dict[str, str]:
        """Return the parts of the next version. Raises Invalid if they do not match its type."""
        type_ = CredentialType(row["type"])
        check_rotatable(row["name"], type_, row["source"])
        if type_ in _SIGNED and given.keys() == {"certificate"}:
            given = {**self._open_parts(row), **given}
        name = "principal" if type_ is CredentialType.KERBEROS else "username"
        named = set() if type_ is CredentialType.SECRET else {name}
        if (fault := unfit(type_, {*named, *given})) is not None:
            raise Invalid("invalid_credential", f"{row['name']!r} cannot be rotated so: {fault}.")
        return self._validate(type_, row["username"], given)

    def _open_parts(self, row: DictRow) -> dict[str, str]:
        try:
            return parts_of(self._content(row))
        except (KeyMissing, Tampered) as refused:
            raise Conflict("secret_undecryptable", f"{refused}. Give all of its secrets.") from None

    def _content(self, row: DictRow) -> bytes:
        return self._ring.open(_sealed(row), SealPlace("credentials", row["uuid"], row["version"]))

    def _open(self, row: DictRow) -> Credential:
        try:
            return unpacked(row, self._content(row))
        except (KeyMissing, Tampered) as refused:
            log.error("credential_undecryptable", credential=row["id"], reason=str(refused))
            return closed(row, str(refused))

    async def _next(
        self,
        connection: Connection,
        old: DictRow,
        named: Mapping[str, Any],
        parts: Mapping[str, str],
        told_as: str,
    ) -> StoredCredential:
        """Write the next version of a locked row; delete its circuits, as failures are outdated."""
        place = SealPlace("credentials", old["uuid"], old["version"] + 1)
        made = await self._write(connection, _REPLACE, named, parts, place)
        await circuits.forget(connection, "credential_id", made.id)
        before, after = stored(old).data(), made.data()
        await audit.record(
            connection, told_as, "credential", made.id, made.name, before=before, after=after
        )
        return made

    async def _write(
        self,
        connection: Connection,
        statement: str,
        named: Mapping[str, Any],
        parts: Mapping[str, str],
        place: SealPlace,
    ) -> StoredCredential:
        content = packed(parts)
        sealed = self._ring.seal(content, place)
        values = {
            **named,
            "source": Jsonb(json.loads(parts["source"])) if "source" in parts else None,
            "uuid": place.row,
            "key_id": sealed.key_id,
            "wrapped_key": sealed.wrapped_key,
            "sealed": sealed.sealed,
        }
        with unique_name("credential", named["name"]):
            row = await (await connection.execute(statement, values)).fetchone()
        assert row is not None
        self._ring.check(content, _sealed(row), place)
        return stored(row)


def _name_columns(draft: CredentialDraft) -> dict[str, str]:
    return {"name": draft.name, "type": draft.type.value, "username": draft.login}


async def _check_authority(connection: Connection, draft: CredentialDraft) -> None:
    """Raise Invalid if the signing key is not stored here; lock its row against deletion.

    The key stays, under its name, while this credential exists.
    """
    if not isinstance(draft.source, SshCaSource):
        return
    name = draft.source.authority
    row = await (
        await connection.execute("select type from credentials where name = %s for share", [name])
    ).fetchone()
    if row is None:
        detail = (
            f"There is no credential {name!r}: store the private key of the SSH CA first, as "
            f"one of type ssh_key."
        )
        raise Invalid(
            "unknown_credential",
            detail,
            errors=[FieldError("/source/authority", detail, "unknown_credential")],
        )
    if row["type"] != CredentialType.SSH_KEY:
        detail = (
            f"The credential {name!r} is of type {row['type']}: the key of an SSH CA is one "
            f"of type ssh_key."
        )
        raise Invalid(
            "invalid_credential",
            detail,
            errors=[FieldError("/source/authority", detail, "invalid_credential")],
        )


_AS_BOUND: Mapping[str, Any] = {"targets": None, "groups": None, "jobs": None}


async def _bound(
    connection: Connection, bound_to: BoundTo | None, old: DictRow | None = None
) -> Mapping[str, Any]:
    """Return the columns of a binding; all None if it does not change.

    Raises Invalid, and Conflict if `old` is used outside of it.
    """
    if bound_to is None:
        return _AS_BOUND
    binding = await resolved(connection, bound_to)
    if old is not None:
        await check_users(connection, old["id"], old["name"], binding)
    return {
        "targets": sorted(binding.targets),
        "groups": sorted(binding.groups),
        "jobs": sorted(binding.jobs),
    }


def _sealed(row: DictRow) -> Sealed:
    return Sealed(row["key_id"], row["wrapped_key"], row["sealed"])


def _check_version(version: int, if_match: Collection[int] | None, meant: int | None) -> None:
    if (if_match is not None and version not in if_match) or (
        meant is not None and version != meant
    ):
        detail = (
            f"The credential is at version {version} by now: look who rotated it, and say "
            f"that version if it is meant."
        )
        raise Precondition("stale_version", detail, status=412)


async def _locked(connection: Connection, ref: str) -> DictRow:
    return await lock(connection, "credential", ref, f"select {_COLUMNS} from credentials")
