"""Point 28: the audit log only grows; a numbered chain of its rows shows every change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from psycopg import errors
from structlog.testing import capture_logs

from api.kit import ApiClient, api_client
from cli.fake_api import ApiRequest, ApiResponse, serve_api
from kit.backing_servers import AUDIT_KEY
from opsjobs.cli.app import run
from opsjobs.composition.scheduler import HostedScheduler
from opsjobs.composition.worker import HostedWorker
from opsjobs.engine.background.housekeeping import AuditSealer
from opsjobs.model.audit_chain import ChainLink, ChainWalk, canonical
from opsjobs.settings import load
from opsjobs.store import audit, audit_chain, audit_log
from opsjobs.store.audit_chain import Seals
from opsjobs.store.audit_log import AuditLog
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.envelope import new_key
from opsjobs.store.feeds import AUDIT_SERVICE
from opsjobs.store.transaction import Connection, Database

ROWS = 6
KEYS = [AUDIT_KEY]


async def note(connection: Connection, number: int) -> None:
    """Write a row about the target with this id."""
    change = {"port": number, "share": 0.5, "labels": {"env": "prodü", "2": None}}
    await audit.record(
        connection, "target.updated", "target", number, f"web-{number}", before=change, after={}
    )


async def filled(database: Database, rows: int = ROWS) -> ChainLink:
    """Create a log with so many sealed rows; return its head."""
    async with database.transaction() as connection:
        for number in range(1, rows + 1):
            await note(connection, number)
    await Seals(database, KEYS).seal()
    return (await AuditLog(database, KEYS).verify()).ends.head


async def unguarded(database: Database, statement: str) -> None:
    """Change the database as a superuser can, in spite of every trigger."""
    async with database.transaction() as connection:
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(statement)


async def test_rows_are_numbered_without_a_gap_as_they_become_visible(database: Database) -> None:
    seals = Seals(database, KEYS)
    async with database.transaction() as late:
        await note(late, 1)
        async with database.transaction() as connection:
            await note(connection, 2)
        assert await seals.seal() == 1
    assert await seals.seal() == 1
    rows = await database.fetch("select thing_id, seal from audit_log order by seal")
    assert [(row["thing_id"], row["seal"]) for row in rows] == [("2", 1), ("1", 2)]
    found = await AuditLog(database, KEYS).verify()
    assert (found.broken, found.checked, found.at, found.ends.head.seal) == (
        None,
        2,
        found.ends.head,
        2,
    )
    assert await seals.seal() == 0


async def test_one_seals_at_a_time_and_goes_on_where_the_last_one_stopped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_chain, "SEALED_AT_ONCE", 2)
    async with database.transaction() as connection:
        for number in range(1, ROWS + 1):
            await note(connection, number)
    async with database.transaction() as other:
        await other.execute("select pg_advisory_xact_lock(%s)", [audit_chain._LOCK])
        assert await Seals(database, KEYS).seal() == 0
    monkeypatch.setattr("opsjobs.engine.background.housekeeping.SEALED_AT_ONCE", 2)
    assert await AuditSealer(Seals(database, KEYS)).run_once() == {"sealed": ROWS}
    assert (await AuditLog(database, KEYS).verify()).at.seal == ROWS


async def test_a_worker_seals_only_what_nobody_else_has(database: Database) -> None:
    await filled(database)
    async with database.transaction() as connection:
        await note(connection, 7)
    stand_in = AuditSealer(Seals(database, KEYS), behind_seconds=60.0)
    assert await stand_in.run_once() == {"sealed": 0}
    await database.fetch("update opsjobs_clock set shift = interval '61 seconds' returning 1")
    assert (await AuditLog(database, KEYS).verify()).unsealed == 1
    assert await stand_in.run_once() == {"sealed": 1}
    assert (await AuditLog(database, KEYS).verify()).unsealed == 0


REFUSED = (
    "update audit_log set actor = 'ben' where seal = 3",
    "update audit_log set hash = decode(repeat('ab', 32), 'hex') where seal = 3",
    "update audit_log set seal = 9, hash = decode(repeat('ab', 32), 'hex'), actor = 'ben' where seal is null",
    "delete from audit_log where seal = 3",
    "delete from audit_log where seal is null",
    "truncate audit_log",
    """insert into audit_log (actor, actor_kind, action, thing, seal, hash)
    values ('ben', 'user', 'job.created', 'job', 7, decode(repeat('ab', 32), 'hex'))""",
    "update audit_chain set head_seal = 2",
    "delete from audit_chain",
    "truncate audit_chain",
)


async def test_the_tables_refuse_everything_but_growth(database: Database) -> None:
    await filled(database)
    async with database.transaction() as connection:
        await note(connection, 7)
    for statement in REFUSED:
        with pytest.raises(errors.InsufficientPrivilege, match=r"only grows|append only"):
            await database.fetch(statement)
    assert (await AuditLog(database, KEYS).verify()).broken is None


TAMPERED = {
    "a field is changed": (
        "update audit_log set after = '{\"port\": 23}' where seal = 3",
        3,
        "changed",
    ),
    "the time is changed": (
        "update audit_log set at = at + interval '1 microsecond' where seal = 3",
        3,
        "changed",
    ),
    "a row is deleted": ("delete from audit_log where seal = 3", 3, "gap"),
    "two rows are swapped": (
        """update audit_log a set actor = b.actor, thing_id = b.thing_id, thing_name = b.thing_name, before = b.before
        from audit_log b where (a.seal, b.seal) in ((2, 5), (5, 2))""",
        2,
        "changed",
    ),
    "a row is deleted and the rest renumbered": (
        "with gone as (delete from audit_log where seal = 3) update audit_log set seal = seal - 1 where seal > 3",
        3,
        "changed",
    ),
    "the newest rows are deleted": ("delete from audit_log where seal > 4", 5, "tail"),
    "all rows are deleted": ("delete from audit_log", 1, "tail"),
}


@pytest.mark.parametrize(("statement", "seal", "kind"), TAMPERED.values(), ids=TAMPERED)
async def test_what_a_superuser_changes_is_found(
    database: Database, statement: str, seal: int, kind: str
) -> None:
    await filled(database)
    if "renumbered" in statement or "seal - 1" in statement:
        await unguarded(database, "alter table audit_log drop constraint audit_log_seal_key")
    await unguarded(database, statement)
    broken = (await AuditLog(database, KEYS).verify()).broken
    assert broken is not None
    assert (broken.seal, broken.kind) == (seal, kind)


async def test_retention_goes_from_the_beginning_and_says_so(database: Database) -> None:
    head = await filled(database)
    seals, log = Seals(database, KEYS), AuditLog(database, KEYS)
    assert await seals.retain(86_400) == 0
    await database.fetch("update opsjobs_clock set shift = interval '3 days' returning 1")
    async with database.transaction() as connection:
        await note(connection, 7)
    assert await seals.retain(86_400) == ROWS
    await seals.seal()
    found = await log.verify(noted=head.hash)
    assert (found.broken, found.ends.base, found.at.seal, found.noted_at) == (
        None,
        head,
        ROWS + 2,
        ROWS,
    )
    row = await database.fetch_one(
        "select action, actor, after from audit_log order by id desc limit 1"
    )
    assert row == {
        "action": "audit.retained",
        "actor": "opsjobs",
        "after": {"rows": ROWS, "base": str(head)},
    }


async def test_retention_waits_a_week_for_the_audit_service_and_then_names_what_it_misses(
    database: Database,
) -> None:
    await filled(database)
    await Deliveries(database).start_source(AUDIT_SERVICE, 2)
    seals = Seals(database, KEYS)
    await database.fetch("update opsjobs_clock set shift = interval '3 days' returning 1")
    assert await seals.retain(86_400) == 2
    assert await seals.retain(86_400) == 0
    await database.fetch("update opsjobs_clock set shift = interval '10 days' returning 1")
    with capture_logs() as lines:
        assert await seals.retain(86_400) >= ROWS - 2
    (line,) = [line for line in lines if line["event"] == "audit_deleted_unsent"]
    assert line["first"] == 3
    assert (await AuditLog(database, KEYS).verify()).broken is None


async def test_what_lies_before_an_anchor_goes_in_parts_and_only_as_it_grows_old(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_chain, "RETAINED_AT_ONCE", 2)
    head = await filled(database)
    seals, log = Seals(database, KEYS), AuditLog(database, KEYS)
    assert await seals.anchor("a lost key") == head
    assert await seals.retain(86_400) == 0, "what is young stays, though nothing proves it any more"
    await database.fetch("update opsjobs_clock set shift = interval '3 days' returning 1")
    parts = []
    while gone := await seals.retain(86_400):
        left = await database.fetch("select seal from audit_log where seal <= %s", [head.seal])
        parts.append((gone, len(left)))
    # All of them are deleted before the chain's own beginning, the anchor, is.
    assert parts == [(2, 4), (2, 2), (2, 0), (1, 0)]
    found = await log.verify()
    assert (found.broken, found.ends.base.seal) == (None, head.seal + 1)


async def test_an_idle_pass_is_one_query_that_reads_next_to_nothing(database: Database) -> None:
    await filled(database, 300)
    async with database.connection() as connection:
        await connection.execute("analyze audit_log")
    plan = await database.fetch(
        "explain (analyze, buffers, format json) " + audit_chain._ANY.replace("%s", "0")
    )
    assert "audit_log_unsealed" in json.dumps(plan)


# --- over HTTP and by command


async def audited(desk_: ApiClient, path: str = "/audit", **query: Any) -> Any:
    """Return the body of a GET that succeeds."""
    answer = await desk_.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_list_is_filtered_and_the_chain_walked_in_stretches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "STRETCH_ROWS", 4)
    monkeypatch.setattr(audit_log, "_STRETCH", audit_log._STRETCH.replace("limit 2000", "limit 4"))
    async with api_client(database) as ada:
        await filled(database)
        page = await audited(ada, thing="target", thing_id="2")
        assert [(row["thing_name"], row["action"], row["actor"]) for row in page["items"]] == [
            ("web-2", "target.updated", "opsjobs")
        ]
        assert (await audited(ada, at_before="2020-01-01T00:00:00Z"))["items"] == []
        first = await audited(ada, "/audit/verify")
        assert (first["whole"], first["checked"], first["next"]) == (True, 4, 4)
        rest = await audited(
            ada, "/audit/verify", after=first["next"], head=first["head"].partition(":")[2]
        )
        assert (rest["next"], rest["at"], f"{rest['noted_at']}") == (
            None,
            rest["head"],
            rest["head"].partition(":")[0],
        )
        await unguarded(database, "update audit_log set reason = 'x' where seal = 6")
        assert (await audited(ada, "/audit/verify", after=4))["broken"]["seal"] == 6
        viewer = await ada.http.get("/audit", headers=await ada.token_of("viewer"))
        assert viewer.status_code == 403


async def exported(database: Database) -> list[dict[str, Any]]:
    """Return the rows of an export as its lines contain them."""
    async with api_client(database) as ada:
        await filled(database)
        answer = await ada.http.get("/audit/export")
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        return [json.loads(line) for line in answer.text.splitlines()]


async def test_an_export_is_verified_without_the_service(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = await exported(database)
    capsys.readouterr()
    head = f"{rows[-1]['seal']}:{rows[-1]['hash']}"

    def verified(lines: list[dict[str, Any]], *more: str) -> int:
        file = tmp_path / "audit.ndjson"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run(["audit", "verify", "--file", str(file), *more])

    assert verified(rows) == 0
    assert capsys.readouterr().out == f"{head}\n"
    assert verified(rows[2:], "--head", head) == 0
    assert verified([*rows[:2], {**rows[2], "actor": "ben"}, *rows[3:]]) == 1
    assert verified([*rows[:2], *rows[3:]]) == 1
    assert "Row 3 is missing" in capsys.readouterr().err
    assert verified(rows[:-1]) == 0
    assert verified(rows[:-1], "--head", head) == 1
    assert "recorded head" in capsys.readouterr().err
    keys = tmp_path / "keys"
    keys.write_text(f"{new_key().reveal()}\n{AUDIT_KEY.reveal()}\n")
    assert verified(rows, "--keys", str(keys)) == 0
    assert (
        verified([*rows[:2], {**rows[2], "mac": rows[3]["mac"]}, *rows[3:]], "--keys", str(keys))
        == 1
    )
    assert (
        verified(
            [*rows[:2], {**rows[2], "mac": None, "key_id": None}, *rows[3:]], "--keys", str(keys)
        )
        == 1
    )
    assert "signed by no key" in capsys.readouterr().err
    keys.write_text(new_key().reveal())
    assert verified(rows, "--keys", str(keys)) == 1
    assert "cannot be verified" in capsys.readouterr().err
    keys.write_text("short")
    assert verified(rows, "--keys", str(keys)) == 2
    assert run(["audit", "verify", "--keys", str(keys)]) == 2
    assert verified([{"seal": 1}]) == 1
    assert "line 1: not a row" in capsys.readouterr().err


def test_the_command_lists_by_filters_and_walks_to_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = f"9:{'ab' * 32}"
    broken = {"seal": 7, "kind": "changed", "detail": "Row 7 is not what was sealed."}
    answer = {
        "checked": 4,
        "at": head,
        "base": f"3:{'cd' * 32}",
        "head": head,
        "keys_missing": ["0ld0ld00"],
        "next": None,
        "broken": None,
        "unsealed": 2,
        "noted_at": None,
    }
    row = dict.fromkeys(
        ("seal", "person", "address", "before", "reason", "request_id", "actor_kind", "thing_id")
    )
    row |= {
        "id": 1,
        "at": "2026-01-01T00:00:00Z",
        "actor": "ada",
        "action": "job.created",
        "thing_name": "restart-web",
    }

    def service(asked: ApiRequest) -> ApiResponse:
        if asked.path == "/audit":
            return ApiResponse(200, {"items": [{**row, "after": {"version": 1}}], "next": None})
        if asked.path == "/audit/anchor":
            return ApiResponse(200, {"base": head})
        if asked.path == "/audit/export":
            return ApiResponse(
                200, portions=[b'{"seal": 4}\n'] if asked.query["after"] == ["0"] else [b""]
            )
        return ApiResponse(
            200,
            {**answer, "next": 4}
            if "after" not in asked.query
            else {**answer, "broken": told["broken"]},
        )

    told: dict[str, Any] = {"broken": None}
    with serve_api(service) as there:
        monkeypatch.setenv("OPSJOBS_URL", there.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert (
            run(
                [
                    "audit",
                    "list",
                    "--thing",
                    "job/7",
                    "--since",
                    "24h",
                    "--actor",
                    "ada",
                    "-o",
                    "wide",
                ]
            )
            == 0
        )
        query = there.requests[-1].query
        assert (query["thing"], query["thing_id"], query["actor"]) == (["job"], ["7"], ["ada"])
        assert "at_after" in query
        assert '{"version": 1}' in capsys.readouterr().out
        assert run(["audit", "verify"]) == 0
        found = capsys.readouterr()
        assert found.out == f"{head}\n"
        assert "8 rows checked, starting after number 3" in found.err
        assert "0ld0ld00" in found.err
        assert "2 rows not sealed" in found.err
        assert run(["audit", "verify", "--head", head]) == 1
        told["broken"] = broken
        assert run(["audit", "verify"]) == 1
        assert "Row 7 is not what was sealed" in capsys.readouterr().err
        assert run(["audit", "anchor", "--reason", "INC-7"]) == 0
        assert there.requests[-1].body == {"reason": "INC-7"}
        assert run(["audit", "export"]) == 0
        found = capsys.readouterr()
        assert found.out == '{"seal": 4}\n'
        assert "1 row exported, up to number 4" in found.err


def test_one_spelling_is_hashed_whatever_the_order_of_keys() -> None:
    row: Mapping[str, Any] = {
        **dict.fromkeys(
            ("person", "address", "request_id", "thing_id", "thing_name", "after", "reason")
        ),
        "id": 1,
        "seal": 1,
        "at": "2026-01-01T00:00:00.000001Z",
        "actor": "ä",
        "actor_kind": "user",
        "action": "a.b",
        "thing": "job",
        "before": {"b": 1, "a": [1.5, None]},
    }
    text = canonical(row)
    assert text == canonical(
        dict(reversed([*{**row, "before": {"a": [1.5, None], "b": 1}}.items()]))
    )
    assert b'"before":{"a":[1.5,null],"b":1}' in text
    link = ChainLink().next(row)
    walk = ChainWalk(ChainLink())
    assert walk.step(row, link.hash)
    assert str(walk.at) == f"1:{link.hash}"


@pytest.mark.parametrize("process", [HostedScheduler, HostedWorker])
async def test_the_scheduler_seals_and_a_worker_where_there_is_none(
    database: Database, database_url: str, process: type[HostedScheduler | HostedWorker]
) -> None:
    environ = {
        "DATABASE_URL": database_url,
        "REDIS_URL": "unix:///nowhere/valkey.sock",
        "ENCRYPTION_KEYS": AUDIT_KEY.reveal(),
    }
    hosted = process(load(environ))
    await hosted.start()
    try:
        async with database.transaction() as connection:
            await note(connection, 1)
        async with asyncio.timeout(60):
            while (await AuditLog(database, KEYS).verify()).ends.head.seal == 0:
                await asyncio.sleep(0.05)
    finally:
        await hosted.stop()
