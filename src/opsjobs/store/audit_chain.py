"""Read, verify and sign the row that holds the audit log's beginning and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg.rows import DictRow, dict_row

from opsjobs.model.audit_chain import ChainLink, Ends, Part, Proof, Signature, SigningKeys
from opsjobs.model.errors import Failure
from opsjobs.model.secret import Secret
from opsjobs.store.transaction import Connection

COLUMNS = """
base_seal, encode(base_hash, 'hex') as base_hash, head_seal, encode(head_hash, 'hex') as head_hash, anchor_seal, anchor_id,
key_id, encode(mac, 'hex') as mac"""
_READ = f"select {COLUMNS} from audit_chain"
_WRITE = """
update audit_chain set base_seal = %s, base_hash = decode(%s, 'hex'), head_seal = %s, head_hash = decode(%s, 'hex'),
  anchor_seal = %s, anchor_id = %s, key_id = %s, mac = decode(%s, 'hex')"""
# Rows that retention of the previous release wrote and that are not sealed yet: usually none.
_IDS = "select coalesce(max(id), 0) as id from audit_log where seal is null and action = 'audit.retained'"


class UnverifiedChain(Failure):
    """The chain's ends are not as opsjobs signed them, or the key is missing.

    Nothing is added to such a chain.
    """


@dataclass(frozen=True, slots=True)
class Chain:
    """The row as it is stored: its content and its signature."""

    ends: Ends
    signature: Signature | None

    def proof(self, keys: SigningKeys) -> Proof:
        """Return whether opsjobs signed it."""
        return keys.proof(Part.ENDS, self.ends.text, self.signature)

    def trusted(self, keys: SigningKeys) -> Ends:
        """Return the ends. Raises UnverifiedChain: adding to unsigned ends would sign them."""
        proof = self.proof(keys)
        if proof is Proof.UNKNOWN and self.signature is not None:
            raise UnverifiedChain(
                key_missing(
                    self.signature.key_id,
                    f"the end of the audit log (number {self.ends.head.seal})",
                )
            )
        if proof is not Proof.GOOD:
            raise UnverifiedChain(
                f"the audit log is said to begin behind number {self.ends.base.seal} and to end at "
                f"{self.ends.head.seal}, but opsjobs did not sign that: it was changed in the database. "
                "Nothing more is sealed: `opsjobs audit verify` shows what is wrong, and "
                "`opsjobs audit anchor` begins anew behind it."
            )
        return self.ends


async def read(connection: Connection, *, lock: bool = False) -> Chain:
    """Return the stored row; `lock` it to write it."""
    row = await (await connection.execute(_READ + (" for update" if lock else ""))).fetchone()
    assert row is not None
    return parse_chain(row)


async def write(connection: Connection, ends: Ends, keys: SigningKeys) -> None:
    """Sign and store the chain's new ends."""
    await connection.execute(_WRITE, _signed(ends, keys))


def anchor(driver: psycopg.Connection, keys: Sequence[Secret]) -> None:
    """Sign the chain in the migration that adds signatures. Raises Failure without keys."""
    if not keys:
        raise Failure(
            "ENCRYPTION_KEYS is not set: with this release the audit log is signed. Give the keys that the API has."
        )
    cursor = driver.cursor(row_factory=dict_row)
    row, ids = cursor.execute(_READ).fetchone(), cursor.execute(_IDS).fetchone()
    assert row is not None
    assert ids is not None
    ends = replace(parse_chain(row).ends, anchor=row["head_seal"], anchor_id=ids["id"])
    driver.execute(_WRITE, _signed(ends, SigningKeys(keys)))


def _signed(ends: Ends, keys: SigningKeys) -> list[int | str]:
    signature, base, head = keys.sign(Part.ENDS, ends.text), ends.base, ends.head
    return [
        base.seal,
        base.hash,
        head.seal,
        head.hash,
        ends.anchor,
        ends.anchor_id,
        signature.key_id,
        signature.mac,
    ]


def parse_chain(row: DictRow) -> Chain:
    """Return the chain of a row with COLUMNS."""
    base, head = (
        ChainLink(row["base_seal"], row["base_hash"]),
        ChainLink(row["head_seal"], row["head_hash"]),
    )
    return Chain(
        Ends(base, head, row["anchor_seal"], row["anchor_id"]),
        Signature.from_columns(row["key_id"], row["mac"]),
    )


def key_missing(key: str, what: str) -> str:
    """Return a message: which key signed what, and what to do."""
    return (
        f"{what} is signed by key {key}, which is not in ENCRYPTION_KEYS: put it back behind the "
        "current one. If it is lost, `opsjobs audit anchor` begins anew; if there never was such a "
        "key, the signature is forged."
    )
