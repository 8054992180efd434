"""Bindings of credentials to targets, groups and jobs, and checks of their uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from opsjobs.model.credential import (
    ANYWHERE,
    Binding,
    CredentialType,
    binding_of,
    not_for_that,
    not_there,
)
from opsjobs.model.credential_draft import BoundTo
from opsjobs.model.errors import Conflict, FieldError, Invalid
from opsjobs.model.target import login_types
from opsjobs.model.winrm import WinrmAuth
from opsjobs.store import target_selection
from opsjobs.store.reference import Reference
from opsjobs.store.transaction import Connection
from opsjobs.store.vault.uses import JOBS, USERS

# Resolves a name, an id or a uuid; the name first, so that a number as a name is found.
_RESOLVE = """
select e.position, (select t.id from {table} t where (t.name = e.entry or t.id = e.id
  or t.uuid = e.uuid){living}
  order by t.name = e.entry desc limit 1) as id
from unnest(%(entries)s::text[], %(ids)s::bigint[], %(uuids)s::uuid[]) with ordinality as e(entry,
  id, uuid, position)
order by e.position"""
_TARGETS = _RESOLVE.format(table="targets", living="")
_JOBS = _RESOLVE.format(table="jobs", living=" and t.state <> 'archived'")
_GROUPS = "select name from target_groups where name = any(%s)"

_OF_TARGETS = """
select t.id, t.name as target, t.transport, t.winrm->>'auth' as auth, c.name, c.type,
  c.bound_targets, c.bound_groups, c.bound_jobs
from targets t join credentials c on c.id = coalesce(t.credential_id, t.label_credential_id)
where t.id = any(%s::bigint[])
  and (c.bound_targets <> '{}' or c.bound_groups <> '{}'
    or (t.transport = 'ssh' and c.type = any(%s)) or t.transport = 'winrm'
    or c.type = 'secret')"""
_NOT_OF_SSH = [CredentialType.KERBEROS.value, CredentialType.CLIENT_CERTIFICATE.value]

# Locked, so that none of them is rebound or deleted before the rows that name them are visible.
_NAMED = """
select name, type, bound_targets, bound_groups, bound_jobs from credentials where name = any(%s)
  order by id for share"""


async def resolved(connection: Connection, wanted: BoundTo) -> Binding:
    """Resolve the names of a binding. Raises Invalid with a pointer to each unknown name."""
    targets = await _ids(connection, _TARGETS, wanted.targets)
    jobs = await _ids(connection, _JOBS, wanted.jobs)
    found = {
        row["name"] for row in await (await connection.execute(_GROUPS, [wanted.groups])).fetchall()
    }
    groups = [name if name in found else None for name in wanted.groups]
    sides = (
        ("targets", "target", wanted.targets, targets),
        ("groups", "group", wanted.groups, groups),
    )
    faults = [
        _unknown(side, noun, position, entry)
        for side, noun, entries, known in (*sides, ("jobs", "job", wanted.jobs, jobs))
        for position, (entry, is_known) in enumerate(zip(entries, known, strict=True))
        if is_known is None
    ]
    if faults:
        raise Invalid("unknown_binding", faults[0].detail, errors=faults)
    return Binding(
        frozenset(str(i) for i in targets),
        frozenset(wanted.groups),
        frozenset(i for i in jobs if i is not None),
    )


async def outside(
    connection: Connection, binding: Binding, target_ids: Collection[int]
) -> set[int]:
    """Return the subset of these targets on which the binding does not allow the credential."""
    if not binding.has_places:
        return set()
    members = (
        await target_selection.members(connection, sorted(binding.groups), target_ids)
        if binding.groups
        else set()
    )
    return {i for i in target_ids if not binding.holds_target(str(i), ()) and i not in members}


async def check_targets(connection: Connection, target_ids: Sequence[int]) -> None:
    """Raise Invalid if a target that was just written has a login that it may not use.

    The credential is bound to other targets, is a job secret, or is not valid for the transport.
    """
    for row in await (
        await connection.execute(_OF_TARGETS, [list(target_ids), _NOT_OF_SSH])
    ).fetchall():
        if row["type"] == CredentialType.SECRET:
            detail = (
                f"The credential {row['name']!r} is a secret of jobs, and no login: name "
                f"another one."
            )
            raise Invalid(
                "wrong_credential_type",
                detail,
                errors=[FieldError("/credential", detail, "wrong_credential_type")],
            )
        if row["transport"] == "ssh" and row["type"] in _NOT_OF_SSH:
            detail = (
                f"The credential {row['name']!r} is of type {row['type']}, which SSH does not "
                f"log in with: name another one."
            )
            raise Invalid(
                "wrong_credential_type",
                detail,
                errors=[FieldError("/credential", detail, "wrong_credential_type")],
            )
        wanted = login_types(WinrmAuth(row["auth"])) if row["transport"] == "winrm" else ()
        if wanted and row["type"] not in wanted:
            detail = (
                f"The credential {row['name']!r} is of type {row['type']}, and WinRM with auth "
                f"{row['auth']} logs in with one of type {' or '.join(wanted)}."
            )
            raise Invalid(
                "wrong_credential_type",
                detail,
                errors=[FieldError("/credential", detail, "wrong_credential_type")],
            )
        if await outside(connection, binding_of(row), [row["id"]]):
            raise refusal(not_there(row["name"], row["target"]), "/credential")


async def check_job(
    connection: Connection,
    job_id: int,
    job: str,
    credentials: Mapping[str, str],
    secrets: Mapping[str, str],
) -> None:
    """Raise Invalid if a job names a credential bound to other jobs, or a login as a secret.

    `credentials`, `secrets`: by name, the pointer to an action or a parameter that names it.
    """
    named = {**credentials, **secrets}
    if not named:
        return
    for row in await (await connection.execute(_NAMED, [sorted(named)])).fetchall():
        if row["name"] in secrets:
            check_is_secret(row["name"], row["type"], secrets[row["name"]])
        if not binding_of(row).holds_job(job_id):
            raise refusal(not_for_that(row["name"], job), named[row["name"]])


def check_is_secret(name: str, type_: str, pointer: str) -> None:
    """Raise Invalid if a parameter takes its value from a login."""
    if type_ != CredentialType.SECRET:
        detail = (
            f"The credential {name!r} is of type {type_}, a login: a parameter takes its "
            f"value from one of type secret."
        )
        raise Invalid("not_a_secret", detail, errors=[FieldError(pointer, detail, "not_a_secret")])


async def check_users(
    connection: Connection, credential_id: int, name: str, binding: Binding
) -> None:
    """Raise Conflict if a target or a job uses the credential outside of the binding already."""
    if binding == ANYWHERE:
        return
    targets = {
        row["id"]: row["name"]
        for row in await (await connection.execute(USERS, [credential_id])).fetchall()
    }
    users = [f"target {targets[i]}" for i in await outside(connection, binding, targets)]
    jobs = await (await connection.execute(JOBS, [name])).fetchall()
    users += [f"job {row['name']}" for row in jobs if not binding.holds_job(row["id"])]
    if users:
        shown = ", ".join(sorted(users)[:5]) + (
            f" and {len(users) - 5} more" if len(users) > 5 else ""
        )
        raise Conflict(
            "credential_in_use",
            f"The credential {name!r} is used outside of that, by {shown}: change those first.",
        )


def refusal(words: str, pointer: str) -> Invalid:
    """Return the error for a credential that may not be used there."""
    detail = f"{words[0].upper()}{words[1:]}."
    return Invalid(
        "credential_bound", detail, errors=[FieldError(pointer, detail, "credential_bound")]
    )


async def _ids(connection: Connection, query: str, entries: Sequence[str]) -> list[int | None]:
    references = [Reference.parse(entry) for entry in entries]
    values = {
        "entries": list(entries),
        "ids": [r.id if r else None for r in references],
        "uuids": [r.uuid if r else None for r in references],
    }
    return [row["id"] for row in await (await connection.execute(query, values)).fetchall()]


def _unknown(side: str, noun: str, position: int, entry: str) -> FieldError:
    return FieldError(
        f"/bound_to/{side}/{position}", f"There is no {noun} {entry!r}.", "unknown_binding"
    )
