"""Point 28: someone with all rights to the database, but no key, cannot forge the audit log.

`verify` finds every change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from kit.backing_servers import AUDIT_KEY
from opsjobs.engine.background.housekeeping import AuditSealer, RetentionService
from opsjobs.engine.loop import Turn
from opsjobs.model.audit_chain import FIELDS, ChainBreak, ChainLink, Part, SigningKeys
from opsjobs.model.errors import Failure
from opsjobs.model.secret import Secret, decode_key, derive_key, key_id
from opsjobs.store import audit, audit_chain
from opsjobs.store.audit_chain import Seals, UnverifiedChain
from opsjobs.store.audit_log import AuditLog
from opsjobs.store.envelope import new_key
from opsjobs.store.retention import Retention, RetentionLimits
from opsjobs.store.transaction import Database
from opsjobs.store.vault.keys import KeyRotation
from opsjobs.store.workers import SingletonLock
from opsjobs.telemetry.metrics import Metrics

ROWS, KEYS, GUESSED = 6, [AUDIT_KEY], SigningKeys([Secret("A" * 43)])
KEEP = RetentionLimits(86_400, 86_400, 86_400, 9, 86_400, audit_seconds=86_400)
OURS = key_id(decode_key(AUDIT_KEY.reveal()))


async def written(database: Database, rows: int = 1) -> None:
    """Write so many more rows, unsealed."""
    async with database.transaction() as connection:
        for number in range(1, rows + 1):
            await audit.record(
                connection,
                "target.updated",
                "target",
                number,
                f"web-{number}",
                after={"port": number},
            )


async def filled(database: Database, keys: list[Secret] = KEYS) -> Seals:
    """Create a log of 6 sealed rows; return what sealed them."""
    await written(database, ROWS)
    seals = Seals(database, keys)
    assert await seals.seal() == ROWS
    return seals


async def broken(database: Database, keys: list[Secret] = KEYS) -> ChainBreak | None:
    """Return the break that a process finds that has not seen the log before."""
    return (await AuditLog(database, keys).verify()).broken


async def retained(database: Database) -> Seals:
    """Create a log whose 6 rows retention has deleted properly, and three more rows.

    The first of these is the row of the deletion itself.
    """
    seals = await filled(database)
    await database.fetch("update opsjobs_clock set shift = shift + interval '3 days' returning 1")
    assert await seals.retain(86_400) == ROWS
    await written(database, 2)
    assert await seals.seal() == 2
    assert await broken(database) is None
    return seals


@dataclass
class Forger:
    """An attacker with the rights of a database superuser, who knows all code, but no key."""

    url: str

    def does(self, *statements: str) -> None:
        """Run these statements, past every trigger."""
        with self._connected() as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]

    def chains(
        self,
        seal: int,
        sign: Callable[[ChainLink], tuple[str | None, str | None]],
        *,
        end: bool = True,
    ) -> None:
        """Rebuild the chain from this number on with forged signatures, by default with its end."""
        with self._connected() as connection:
            link = self._link(connection, seal - 1)
            rows = connection.execute(
                f"select {', '.join(FIELDS)} from audit_log where seal >= %s order by seal", [seal]
            )
            for row in rows.fetchall():
                link = link.next(row)
                signed = [bytes.fromhex(link.hash), *_bytes(*sign(link)), link.seal]
                connection.execute(
                    "update audit_log set hash = %s, key_id = %s, mac = %s where seal = %s", signed
                )
            if end:
                self._ends(connection, link, sign(link)[0])

    @staticmethod
    def _ends(connection: psycopg.Connection[DictRow], head: ChainLink, key: str | None) -> None:
        connection.execute(
            "update audit_chain set head_seal = %s, head_hash = decode(%s, 'hex')",
            [head.seal, head.hash],
        )
        if key is not None:
            row = connection.execute(f"select {audit_chain.COLUMNS} from audit_chain").fetchone()
            assert row is not None
            made = GUESSED.sign(Part.ENDS, audit_chain.parse_chain(row).ends.text)
            connection.execute(
                "update audit_chain set key_id = %s, mac = decode(%s, 'hex')", [key, made.mac]
            )

    @staticmethod
    def _link(connection: psycopg.Connection[DictRow], seal: int) -> ChainLink:
        row = connection.execute(
            "select encode(hash, 'hex') as hash from audit_log where seal = %s", [seal]
        ).fetchone()
        return ChainLink(seal, row["hash"]) if row is not None else ChainLink(seal)

    def _connected(self) -> psycopg.Connection[DictRow]:
        return psycopg.connect(
            self.url, row_factory=dict_row, options="-c session_replication_role=replica"
        )


def _bytes(key: str | None, mac: str | None) -> tuple[str | None, bytes | None]:
    return key, bytes.fromhex(mac) if mac is not None else None


def bare(_: ChainLink) -> tuple[None, None]:
    """Sign nothing: plain SHA-256, as it was before there were signatures."""
    return None, None


def guessed(link: ChainLink) -> tuple[str, str]:
    """Sign with the attacker's key, under our key's id."""
    return OURS, GUESSED.sign(Part.ROW, bytes.fromhex(link.hash)).mac


def strange(link: ChainLink) -> tuple[str, str]:
    """Sign with the attacker's key, under its own id."""
    made = GUESSED.sign(Part.ROW, bytes.fromhex(link.hash))
    return made.key_id, made.mac


@pytest.fixture
def forger(database_url: str) -> Forger:
    return Forger(database_url)


CHANGE = "update audit_log set actor = 'ben' where seal = 3"
NO_SIGNATURE = "update audit_chain set key_id = null, mac = null"
TO_THREE = "base_seal = 3, base_hash = (select hash from audit_log where seal = 3)"
TO_FOUR = "head_seal = 4, head_hash = (select hash from audit_log where seal = 4)"
NOTHING = "base_seal = 0, base_hash = decode(repeat('00', 32), 'hex'), head_seal = 0, head_hash = decode(repeat('00', 32), 'hex')"
TAKEN = {
    "the first row": (["delete from audit_log where seal = 1"], 1, "gap"),
    "a row in the middle": (["delete from audit_log where seal = 3"], 3, "gap"),
    "the last two": (["delete from audit_log where seal > 4"], 5, "tail"),
    "the last two, and the head put back": (
        [f"update audit_chain set {TO_FOUR}", "delete from audit_log where seal > 4"],
        5,
        "tail",
    ),
    "the last two, and an unsigned head": (
        [f"update audit_chain set {TO_FOUR}", NO_SIGNATURE, "delete from audit_log where seal > 4"],
        5,
        "tail",
    ),
    "the first three, and the base moved": (
        [f"update audit_chain set {TO_THREE}", "delete from audit_log where seal <= 3"],
        1,
        "base",
    ),
    "the base moved behind all": (
        [
            "update audit_chain set base_seal = head_seal, base_hash = head_hash",
            "delete from audit_log",
        ],
        1,
        "base",
    ),
    "all, and the chain as on the first day": (
        [f"update audit_chain set {NOTHING}", "delete from audit_log"],
        1,
        "tail",
    ),
    "all, and a chain that nobody has signed": (
        [f"update audit_chain set {NOTHING}", NO_SIGNATURE, "delete from audit_log"],
        1,
        "tail",
    ),
    "the row of the chain": (["update audit_chain set head_seal = head_seal + 1"], 7, "tail"),
}


@pytest.mark.parametrize(("statements", "seal", "kind"), TAKEN.values(), ids=TAKEN)
async def test_what_is_taken_away_is_found(
    database: Database, forger: Forger, statements: list[str], seal: int, kind: str
) -> None:
    await filled(database)
    forger.does(*statements)
    found = await broken(database)
    assert found is not None
    assert (found.seal, found.kind) == (seal, kind)
    assert str(seal) in found.detail


MADE_ANEW = {
    "by plain SHA-256": (3, bare, "unsigned"),
    "by a guessed key": (3, guessed, "changed"),
    "by a key of his own": (3, strange, "key"),
    "the whole of it, by plain SHA-256": (1, bare, "tail"),
    "the whole of it, by a key of his own": (1, strange, "key"),
}


@pytest.mark.parametrize(("seal", "sign", "kind"), MADE_ANEW.values(), ids=MADE_ANEW)
async def test_a_chain_that_is_made_anew_is_found(
    database: Database,
    forger: Forger,
    seal: int,
    sign: Callable[[ChainLink], tuple[str | None, str | None]],
    kind: str,
) -> None:
    await filled(database)
    forger.does(
        CHANGE,
        NO_SIGNATURE,
        "update audit_chain set anchor_seal = 6, anchor_id = 99" if seal == 1 else CHANGE,
    )
    forger.chains(seal, sign)
    found = await broken(database)
    assert found is not None
    assert (found.seal, found.kind) == (seal, kind)
    assert str(seal) in found.detail
    if kind == "key":
        assert GUESSED.current in found.detail


async def test_rows_made_anew_under_an_unknown_key_are_found_by_the_signed_head(
    database: Database, forger: Forger
) -> None:
    await filled(database)
    forger.does(CHANGE)
    forger.chains(3, strange, end=False)
    found = await broken(database)
    assert found is not None
    assert (found.seal, found.kind) == (3, "tail")


async def test_two_rows_that_change_places_are_found(database: Database, forger: Forger) -> None:
    await filled(database)
    numbers = "seal = case seal when 2 then -5 else -2 end"
    forger.does(
        "alter table audit_log drop constraint audit_log_sealed",
        f"update audit_log set {numbers} where seal in (2, 5)",
    )
    forger.does("update audit_log set seal = -seal where seal < 0")
    found = await broken(database)
    assert found is not None
    assert (found.seal, found.kind) == (2, "changed")


async def test_a_row_of_retention_that_somebody_wrote_by_hand_is_found(
    database: Database, forger: Forger
) -> None:
    seals = await filled(database)
    says = """jsonb_build_object('rows', 3, 'base', (select seal || ':' || encode(hash, 'hex') from audit_log where seal = 3))"""
    forger.does(
        f"""insert into audit_log (actor, actor_kind, action, thing, after)
        values ('opsjobs', 'system', 'audit.retained', 'audit_log', {says})"""
    )
    assert await seals.seal() == 1
    found = await broken(database)
    assert found is not None
    assert (found.seal, found.kind) == (7, "forged")
    # it does not help the attacker either
    forger.does(f"update audit_chain set {TO_THREE}", "delete from audit_log where seal <= 3")
    found = await broken(database)
    assert found is not None
    assert (found.seal, found.kind) == (1, "base")


async def test_a_base_that_is_moved_on_behind_honest_retention_is_found(
    database: Database, forger: Forger
) -> None:
    await retained(database)
    forger.does(
        "update audit_chain set base_seal = 8, base_hash = (select hash from audit_log where seal = 8)",
        "delete from audit_log where seal <= 8",
    )
    found = await broken(database)
    assert found is not None
    assert (found.kind, found.seal) == ("base", 1)


async def test_a_base_that_is_moved_a_little_leaves_the_honest_one_on_record(
    database: Database, forger: Forger
) -> None:
    seals = await retained(database)
    await database.fetch("update opsjobs_clock set shift = shift + interval '3 days' returning 1")
    assert await seals.retain(86_400) == 3
    forger.does("update audit_chain set base_seal = 0, base_hash = decode(repeat('00', 32), 'hex')")
    found = await broken(database)
    assert found is not None
    assert (found.kind, found.seal) == ("gap", 1)


async def test_nobody_goes_on_with_ends_that_somebody_else_wrote(
    database: Database, forger: Forger
) -> None:
    seals = await filled(database)
    forger.does(f"update audit_chain set {TO_FOUR}", "delete from audit_log where seal > 4")
    await written(database)
    with pytest.raises(UnverifiedChain, match="to end at 4"):
        await seals.seal()
    assert await AuditSealer(seals).run_once() == {"sealed": 0}
    with pytest.raises(UnverifiedChain, match="to end at 4"):
        await seals.retain(0)
    turn = Turn("retention", SingletonLock(database), Metrics())
    keeper = RetentionService(turn, Retention(database), KEEP, seals)
    assert (await keeper.run_once())["audit_rows_deleted"] == 0
    rotated = await KeyRotation(database, [new_key(), AUDIT_KEY]).rotate(60)
    assert [row["kind"] for row in rotated.broken] == ["audit_chain"]


async def test_retention_does_not_let_go_of_what_was_made_to_look_old(
    database: Database, forger: Forger
) -> None:
    seals = await filled(database)
    forger.does("update audit_log set at = at - interval '9 days' where seal <= 3")
    with pytest.raises(UnverifiedChain, match="Row 1 "):
        await seals.retain(86_400)
    assert (await database.fetch("select count(*) as n from audit_log where seal is not null"))[0][
        "n"
    ] == ROWS


async def test_an_older_copy_put_back_is_seen_by_who_was_there_and_by_a_noted_head(
    database: Database, forger: Forger
) -> None:
    seals = await filled(database)
    log = AuditLog(database, KEYS)
    forger.does("create table aside as select * from audit_chain")
    await written(database, 2)
    await seals.seal()
    noted = (await log.verify()).ends.head
    forger.does(
        "delete from audit_log where seal > 6",
        "delete from audit_chain",
        "insert into audit_chain select * from aside",
    )
    found = (await log.verify()).broken
    assert found is not None
    assert (found.seal, found.kind) == (7, "tail")
    await written(database)
    with pytest.raises(UnverifiedChain, match="has seen it end at 8"):
        await seals.seal()
    # A process that was not there cannot know: docs/operations/audit.md says so, and names a
    # remedy.
    await Seals(database, KEYS).seal()
    later = await AuditLog(database, KEYS).verify(noted=noted.hash)
    assert (later.broken, later.noted_at) == (None, None)


@pytest.mark.parametrize("keys", [KEYS, [new_key()]], ids=["broken", "the key is lost"])
async def test_an_administrator_begins_anew_and_that_cannot_be_written_by_hand(
    database: Database, forger: Forger, keys: list[Secret]
) -> None:
    await filled(database)
    forger.does(
        "delete from audit_log where seal = 3",
        f"update audit_chain set {TO_FOUR}",
        "delete from audit_log where seal > 5",
    )
    await written(database)
    assert str(await Seals(database, keys).anchor("a lost key")).startswith("5:")
    await Seals(database, keys).seal()
    found = await AuditLog(database, keys).verify()
    assert (found.broken, found.checked, found.ends.base.seal, found.ends.head.seal) == (
        None,
        2,
        5,
        7,
    )
    row = await database.fetch_one(
        "select action, seal, reason, after->'broken'->>'head' as head from audit_log where id = 8"
    )
    assert row is not None
    assert (row["action"], row["seal"], row["reason"], row["head"][:2]) == (
        "audit.anchored",
        6,
        "a lost key",
        "4:",
    )
    # The attacker's row, with everything that can be copied.
    forger.does(
        """insert into audit_log (actor, actor_kind, action, thing, after, reason)
        select actor, actor_kind, action, thing, jsonb_set(after, '{base}', to_jsonb('7:' || repeat('0', 64))), reason
        from audit_log where seal = 6"""
    )
    await Seals(database, keys).seal()
    forged = await broken(database, keys)
    assert forged is not None
    assert (forged.seal, forged.kind) == (8, "forged")


# --- keys that change, and what was before there were any


async def test_a_rotated_key_leaves_the_log_whole_and_may_be_dropped(
    database: Database, forger: Forger
) -> None:
    new = new_key()
    named = key_id(decode_key(new.reveal()))
    await filled(database)
    both = Seals(database, [new, AUDIT_KEY])
    await written(database, 2)
    await both.seal()
    assert (await AuditLog(database, [new, AUDIT_KEY]).verify()).keys_missing == []
    rows = await database.fetch(
        "select key_id, count(*)::int as n from audit_log group by 1 order by min(seal)"
    )
    assert [(row["key_id"], row["n"]) for row in rows] == [(OURS, ROWS), (named, 2)]
    # A process that does not know the new key yet names it, and calls nothing forged; and it seals
    # nothing over it.
    older = await broken(database)
    assert older is not None
    assert (older.seal, older.kind) == (7, "key")
    assert named in older.detail
    await written(database)
    with pytest.raises(UnverifiedChain, match=named):
        await Seals(database, KEYS).seal()
    rotated = await KeyRotation(database, [new, AUDIT_KEY]).rotate(60)
    assert [(key.id, key.data()["removable"]) for key in rotated.keys] == [
        (named, False),
        (OURS, True),
    ]
    await Seals(database, [new]).seal()
    found = await AuditLog(database, [new]).verify()
    assert (found.broken, found.keys_missing) == (None, [OURS])
    forger.does("delete from audit_log where seal = 3")
    gone = await broken(database, [new])
    assert gone is not None
    assert (gone.seal, gone.kind) == (3, "gap")


async def test_rotation_signs_the_chain_under_the_current_key_though_nothing_is_written(
    database: Database,
) -> None:
    new = new_key()
    await filled(database)
    keys = KeyRotation(database, [new, AUDIT_KEY])
    assert (await keys.rotate(60)).rewrapped == 1
    assert (await keys.rotate(60)).data()["done"]
    assert await broken(database, [new]) is None


async def test_what_was_sealed_before_there_were_signatures_is_covered_by_the_first(
    database: Database, database_url: str, forger: Forger
) -> None:
    await filled(database)
    forger.chains(1, bare)
    forger.does(NO_SIGNATURE)
    async with database.transaction() as connection:  # as the retention of that release leaves it
        await audit.record(
            connection,
            "audit.retained",
            "audit_log",
            None,
            after={"rows": 0, "base": str(ChainLink())},
        )
    assert await broken(database) is not None
    with psycopg.connect(database_url) as connection:
        with pytest.raises(Failure, match="ENCRYPTION_KEYS is not set"):
            audit_chain.anchor(connection, [])
        audit_chain.anchor(connection, KEYS)
    log = AuditLog(database, KEYS)
    found = await log.verify()
    assert (found.broken, found.ends.anchor) == (None, ROWS)
    assert await Seals(database, KEYS).seal() == 1
    assert (await log.verify()).broken is None
    forger.does(
        "insert into audit_log (actor, actor_kind, action, thing) values ('ben', 'user', 'audit.retained', 'audit_log')"
    )
    assert await Seals(database, KEYS).seal() == 1
    found = await log.verify()
    assert found.broken is not None
    assert (found.broken.seal, found.broken.kind) == (8, "forged")
    forger.does(CHANGE)
    forger.chains(3, bare, end=False)
    found = await log.verify()
    assert found.broken is not None
    assert (found.broken.seal, found.broken.kind) == (7, "unsigned")


UNSIGNED_SEALS = """
update audit_log set seal = 7, hash = decode(repeat('ab', 32), 'hex') where seal is null;
update audit_chain set head_seal = 7, head_hash = decode(repeat('ab', 32), 'hex')"""


async def test_seals_without_a_signature_are_not_written_and_leave_the_rows_to_us(
    database: Database,
) -> None:
    seals = await filled(database)
    await written(database)
    async with database.connection() as connection:
        for statement in UNSIGNED_SEALS.split(";"):
            await connection.execute(statement)
    assert await broken(database) is None
    assert await seals.seal() == 1
    found = await AuditLog(database, KEYS).verify()
    assert (found.broken, found.checked) == (None, ROWS + 1)


async def test_many_seal_side_by_side_and_the_chain_is_one(database: Database) -> None:
    await written(database, 20)
    await asyncio.gather(*[Seals(database, KEYS).seal() for _ in range(3)])
    found = await AuditLog(database, KEYS).verify()
    assert (found.broken, found.checked) == (None, 20)


def test_keys_are_derived_by_hkdf() -> None:
    # RFC 5869, test case 3, has a secret of 22 bytes and no salt and info; its first 32 bytes.
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert derive_key(bytes.fromhex("0b" * 22), b"").hex() == okm
    ours = SigningKeys([AUDIT_KEY])
    macs = {ours.sign(part, b"x").mac for part in Part}
    assert len(macs) == len(Part)
