"""Kinds of sealed rows, and how to reseal a batch of each online under the current key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.model.audit_chain import Part, Proof
from opsjobs.store import audit_chain, parameters
from opsjobs.store.envelope import KeyMissing, KeyRing, Sealed, SealPlace, Tampered
from opsjobs.store.transaction import Connection


@dataclass(frozen=True, slots=True)
class SealedKind:
    """One kind of sealed rows, with the statements that work on it.

    `count`: returns `key_id` and `n`. `find`: returns rows behind `%(after)s` with something under
    a key of `%(old)s`, by id, at most `%(limit)s`, locked; rows that others have locked are left to
    a later walk, so there are no deadlocks. `write`: accepts `%(id)s` and the values that
    `rewrapped` returns.
    """

    name: str
    count: str
    find: str
    write: str
    rewrapped: Callable[[KeyRing, DictRow], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """The result of one batch.

    `after`: where the next batch begins, None at the end. `broken`: rows that do not open, and why.
    """

    rewrapped: int
    broken: Sequence[Mapping[str, Any]]
    after: int | None


async def rewrap(
    connection: Connection, kind: SealedKind, ring: KeyRing, after: int, limit: int
) -> SealedBatch:
    """Seal at most `limit` rows under the current key, in the caller's transaction."""
    old = [key for key in ring.ids if key != ring.current]
    rows = await (
        await connection.execute(kind.find, {"after": after, "old": old, "limit": limit})
    ).fetchall()
    done: list[Mapping[str, Any]] = []
    broken: list[Mapping[str, Any]] = []
    for row in rows:
        try:
            done.append({"id": row["id"], **kind.rewrapped(ring, row)})
        except (KeyMissing, Tampered) as refused:
            broken.append({"kind": kind.name, "id": row["id"], "reason": str(refused)})
    if done:
        async with connection.cursor() as cursor:
            await cursor.executemany(kind.write, done)
    return SealedBatch(len(done), broken, rows[-1]["id"] if len(rows) == limit else None)


def _credential(ring: KeyRing, row: DictRow) -> Mapping[str, Any]:
    sealed = Sealed(row["key_id"], row["wrapped_key"], row["sealed"])
    made = ring.rewrapped(sealed, SealPlace("credentials", row["uuid"], row["version"]))
    return {"key_id": made.key_id, "wrapped_key": made.wrapped_key}


def _parameters(ring: KeyRing, row: DictRow) -> Mapping[str, Any]:
    return {"parameters": Jsonb(parameters.rewrapped(ring, row["uuid"], row["parameters"]))}


def _chain(ring: KeyRing, row: DictRow) -> Mapping[str, Any]:
    ends = audit_chain.parse_chain(row)
    if ends.proof(ring.signing) is not Proof.GOOD:
        raise Tampered(
            "the ends of the audit log are not as opsjobs signed them: `opsjobs audit verify` says more"
        )
    signature = ring.signing.sign(Part.ENDS, ends.ends.text)
    return {"key_id": signature.key_id, "mac": bytes.fromhex(signature.mac)}


# The predicate of the index execution_specs_sealed, to the letter.
_HAS_SEALED = "s.parameters @? '$.*.sealed'"
_VALUES = "jsonb_each(s.parameters) as v(name, value)"

KINDS = (
    SealedKind(
        "credentials",
        "select key_id, count(*) as n from credentials group by key_id",
        """select id, uuid, version, key_id, wrapped_key, sealed from credentials
           where id > %(after)s and key_id = any(%(old)s) order by id limit %(limit)s for no key update skip locked""",
        "update credentials set key_id = %(key_id)s, wrapped_key = %(wrapped_key)s where id = %(id)s",
        _credential,
    ),
    SealedKind(
        "parameters",
        f"""select v.value->'sealed'->>0 as key_id, count(distinct s.execution_id) as n from execution_specs s, {_VALUES}
            where {_HAS_SEALED} and v.value->'sealed'->>0 is not null group by 1""",
        f"""select s.execution_id as id, e.uuid, s.parameters from execution_specs s join job_executions e on e.id = s.execution_id
            where s.execution_id > %(after)s and {_HAS_SEALED}
              and exists (select from {_VALUES} where v.value->'sealed'->>0 = any(%(old)s))
            order by s.execution_id limit %(limit)s for no key update of s skip locked""",
        "update execution_specs set parameters = %(parameters)s where execution_id = %(id)s",
        _parameters,
    ),
    # Its rows keep their signatures: what is signed at the end covers all of them.
    SealedKind(
        "audit_chain",
        "select key_id, count(*) as n from audit_chain where key_id is not null group by key_id",
        f"""select 1 as id, {audit_chain.COLUMNS} from audit_chain
            where %(after)s < 1 and key_id = any(%(old)s) limit %(limit)s for update skip locked""",
        "update audit_chain set key_id = %(key_id)s, mac = %(mac)s where %(id)s = 1",
        _chain,
    ),
)
