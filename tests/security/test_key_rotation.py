"""Point 9: the key-encryption key is rotated online; swapped rows are detected.

Meanwhile runs read, and people write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from api.kit import api_client, problem
from engine.harness import Harness, InMemoryTargets, harness
from kit.backing_servers import AUDIT_KEY
from kit.fake_remote.script import Gate
from opsjobs.model.credential_draft import RotationDraft
from opsjobs.model.execution import ExecutionStatus, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import CommandAction, LaunchOrder, Policy
from opsjobs.model.run_views import Execution
from opsjobs.model.secret import Secret, decode_key, key_id
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import RemoteExit
from opsjobs.settings import load
from opsjobs.standalone.data_dir import add_key, read_keys, remove_key
from opsjobs.store.envelope import new_key
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.keys import KeyRotation
from opsjobs.store.vault.rows import StoredCredential
from store.drafts import password

# The chain of the audit log is signed under the old key, too.
OLD, NEW = AUDIT_KEY, new_key()
EXECUTIONS, LOGINS = 100, 20
SWAP = """
update credentials c set sealed = o.sealed, wrapped_key = o.wrapped_key, key_id = o.key_id
from credentials o where o.id <> c.id and c.id in (1, 2) and o.id in (1, 2) returning c.id"""


def named(key: Secret) -> str:
    return key_id(decode_key(key.reveal()))


class StoredLoginTargets(InMemoryTargets):
    """Targets that log in with stored credentials; `faults` are those that could not be opened."""

    def __init__(self, vault: Vault, credentials: Sequence[str]) -> None:
        super().__init__()
        self.vault = vault
        self.credentials = credentials
        self.faults: list[str] = []
        self.opened = 0

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return endpoints with opened credentials, as the inventory does."""
        held = {i: self.credentials[int(i) % len(self.credentials)] for i in target_ids}
        opened = await self.vault.open_many(sorted(set(held.values())))
        self.faults += [c.fault for c in opened.values() if c.fault is not None]
        self.opened += len(opened)
        return {i: Endpoint(self.targets[i], opened[login]) for i, login in held.items()}


async def launched(on: Harness, vault: Vault, number: int) -> Execution:
    """Launch on web-<number> with a secret parameter of its own, sealed by this vault."""
    on.launcher._vault = vault
    order = LaunchOrder(
        [CommandAction(key="first", command="true"), CommandAction(key="then", command="date")],
        SelectionDraft(ids=[f"web-{number}"]),
        Policy(durable="required"),
        "ad-hoc",
        parameters={"token": Secret(f"canary-{number}"), "plain": "x"},
    )
    new = await on.launcher.launch(
        order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
    )
    assert new.execution is not None
    return new.execution


async def test_keys_rotate_while_100_executions_run_and_none_fails(
    database: Database,
) -> None:
    before, both, after = (Vault(database, keys) for keys in ([OLD], [NEW, OLD], [NEW]))
    keys = KeyRotation(database, [NEW, OLD])
    gate = Gate(asyncio.Event())
    async with harness(database) as on:
        stored = [await before.create(password(f"login-{n}")) for n in range(LOGINS)]
        logins = [str(c.id) for c in stored if isinstance(c, StoredCredential)]
        fleet = StoredLoginTargets(both, logins)
        on.targets, on.vault = fleet, both
        on.launcher._targets = fleet
        for n in range(EXECUTIONS):
            on.machine(f"web-{n}").reply([gate, RemoteExit(0)], to="true").reply([RemoteExit(0)])
        # Half of them run when the rotation begins; the others are launched during it, some still
        # under the old key.
        executions = [await launched(on, before, n) for n in range(EXECUTIONS // 2)]
        async with on.worker():
            for n in range(EXECUTIONS // 2):
                await on.running(on.sessions.machine(f"web-{n}"))

            async def rotate() -> int:
                return sum([(await keys.rotate(60.0, batch_rows=7)).rewrapped for _ in range(3)])

            async def write() -> None:
                for n in range(EXECUTIONS // 2, EXECUTIONS):
                    executions.append(await launched(on, (before, both)[n % 2], n))
                    rotation = RotationDraft.model_validate({"password": f"pw-{n}"})
                    await both.rotate(logins[n % LOGINS], rotation)

            moved, _ = await asyncio.gather(rotate(), write())
            gate.event.set()
            ended = [await on.ended(execution) for execution in executions]
        assert [e.status for e in ended] == [ExecutionStatus.COMPLETED] * EXECUTIONS
        programs = [on.sessions.machine(f"web-{n}").starts[-1].program for n in range(EXECUTIONS)]
        given = {program.secrets["token"].reveal() for program in programs if program is not None}
        assert given == {f"canary-{n}" for n in range(EXECUTIONS)}
        assert fleet.faults == []
        assert moved >= EXECUTIONS // 2
        last = await keys.rotate(60.0)
        assert (last.left, last.broken, last.data()["done"]) == (0, [], True)
        assert (await keys.rotate(60.0)).rewrapped == 0
        # Nothing needs the old key any more.
        assert [(k.id, k.rows, k.data()["removable"]) for k in last.keys[1:]] == [
            (named(OLD), 0, True)
        ]
        assert all(c.fault is None for c in (await after.open_many(logins)).values())
        for execution, n in zip(executions, range(EXECUTIONS), strict=True):
            spec = (await on.ledger.load_specs([execution.id]))[execution.id]
            assert after.open_parameters(spec.execution_uuid, spec.parameters)["token"] == Secret(
                f"canary-{n}"
            )


async def test_a_swap_of_two_rows_is_found_by_the_run_and_by_the_rotation(
    database: Database,
) -> None:
    vault = Vault(database, [OLD])
    for name in ("web", "db", "mail"):
        await vault.create(password(name))
    assert len(await database.fetch(SWAP)) == 2
    opened = await vault.open_many(["1", "2", "3"])
    assert [(c.password is None, "changed outside opsjobs" in (c.fault or "")) for c in opened.values()] == [
        (True, True), (True, True), (False, False)
    ]  # fmt: skip
    rotated = await KeyRotation(database, [NEW, OLD]).rotate(60.0, batch_rows=1)
    assert (rotated.rewrapped, rotated.left, [row["id"] for row in rotated.broken]) == (
        2,
        2,
        [1, 2],
    )
    assert rotated.data()["done"]
    assert not rotated.data()["keys"][1]["removable"]
    # Put back, they are as before: nothing was sealed over them.
    await database.fetch(SWAP)
    assert (await KeyRotation(database, [NEW, OLD]).rotate(60.0)).left == 0
    assert [
        c.fault for c in (await Vault(database, [NEW]).open_many(["1", "2", "3"])).values()
    ] == [None] * 3


async def test_sealed_parameters_do_not_open_in_another_execution(
    database: Database,
) -> None:
    vault = Vault(database, [OLD])
    async with harness(database) as on:
        machines = [on.machine(f"web-{n}").reply([RemoteExit(0)]) for n in (1, 2)]
        executions = [await launched(on, vault, n) for n in (1, 2)]
        await database.fetch(
            "update execution_specs s set parameters = o.parameters from execution_specs o where o.execution_id <> s.execution_id returning 1"
        )
        on.vault = vault
        async with on.worker():
            ended = [await on.ended(execution) for execution in executions]
        assert {e.status for e in ended} == {ExecutionStatus.FAILED}
        assert [m.starts for m in machines] == [[], []]
        assert "do not open" in str([await on.row(e) for e in executions])
        broken = (await KeyRotation(database, [NEW, OLD]).rotate(60.0)).broken
        assert [row["kind"] for row in broken] == ["parameters"] * 2


async def test_a_rotation_that_was_broken_off_goes_on_and_rows_in_use_are_left_for_later(
    database: Database,
) -> None:
    vault, keys = Vault(database, [OLD]), KeyRotation(database, [NEW, OLD])
    for n in range(5):
        await vault.create(password(f"login-{n}"))
    async with database.transaction() as other:
        await other.execute("select 1 from credentials where id = 3 for update")
        held = await keys.rotate(60.0, batch_rows=2)
        assert (held.rewrapped, held.left, held.data()["done"]) == (5, 1, False)
    assert (await keys.rotate(0.0)).data()[
        "done"
    ] is False  # no time at all: nothing is done, and the response says so
    assert (await keys.rotate(60.0)).left == 0


async def test_a_row_under_a_key_that_is_gone_is_counted_and_left_alone(
    database: Database,
) -> None:
    await Vault(database, [OLD]).create(password("lost"))
    states = await KeyRotation(database, [NEW]).states()
    assert [(s.id, s.known, s.rows) for s in states] == [
        (named(NEW), True, 0),
        (named(OLD), False, 2),
    ]
    assert (await KeyRotation(database, [NEW]).rotate(60.0)).data()["done"]


async def test_only_an_admin_rotates_keys_and_it_is_on_record(database: Database) -> None:
    async with api_client(database) as ada:
        key = named(OLD)
        await Vault(database, [OLD]).create(password("login"))
        ada.services.keys = KeyRotation(database, [NEW, OLD])
        assert (await ada.http.get("/keys")).json()["items"][1] == {
            "id": key, "current": False, "known": True, "sealed": {"credentials": 1, "parameters": 0, "triggers": 0,
                       "webhooks": 0, "audit_chain": 1},
            "removable": False,
        }  # fmt: skip
        for role in ("viewer", "manager"):
            headers = await ada.token_of(role)
            problem(await ada.http.post("/keys/rotate", headers=headers), 403, "forbidden")
            problem(await ada.http.get("/keys", headers=headers), 403, "forbidden")
        rewrapped, answer = 0, dict[str, Any]()
        while not answer.get("done"):  # a request continues for some seconds only
            answer = (await ada.http.post("/keys/rotate")).json()
            rewrapped += answer["rewrapped"]
        assert (rewrapped, answer["left"], answer["keys"][1]["removable"]) == (2, 0, True)
        told = await database.fetch_one(
            "select actor, thing_id, after from audit_log where action = 'key.rotated' order by id"
        )
        assert told == {
            "actor": "ada",
            "thing_id": named(NEW),
            "after": {"kind": "credentials", "rewrapped": 1},
        }
        assert OLD.reveal() not in str(answer)


def test_a_new_key_goes_before_the_old_ones_of_the_file_and_an_old_one_comes_out(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{OLD.reveal()}\n")
    made = add_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    known = load({"ENCRYPTION_KEYS_FILE": str(file)}).security.encryption_keys
    assert [named(key) for key in known] == [made, named(OLD)]
    assert not remove_key(file, made), "the current one stays"
    assert remove_key(file, named(OLD))
    assert [key_id(decode_key(text)) for text in read_keys(file)] == [made]


@pytest.mark.parametrize("text", ["", "short", "!" * 43])
def test_what_is_no_key_is_told_without_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="not 32 bytes") as refused:
        decode_key(text)
    assert text == "" or text not in str(refused.value)
