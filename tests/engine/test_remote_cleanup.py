"""Remote cleanup: files are removed after a day, and late outcomes are looked up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from engine.harness import Harness, InMemoryTargets, harness, until
from engine.test_durable_commands import half_done, launch, stored
from kit.fake_remote import FakeMachine, FakeSessions, Gate
from opsjobs.engine.background import remote_cleanup
from opsjobs.engine.background.remote_cleanup import RemoteCleanup
from opsjobs.engine.runs.run_state import RELEASE_BYTES
from opsjobs.model.credential import CredentialType
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import BecomeDraft, CommandAction, LaunchOrder
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.policy import Policy
from opsjobs.model.program import RunKey
from opsjobs.model.run_views import Execution
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output, RemoteExit, Session
from opsjobs.store.transaction import Database
from opsjobs.store.vault.rows import StoredCredential

DAY_SECONDS = 24 * 3600.0


def care(on: Harness) -> RemoteCleanup:
    return RemoteCleanup(
        on.ledger, on.targets, on.vault, on.sessions, on.clock, zone="default", grace_seconds=0.2
    )


async def is_run_known(on: Harness, execution: Execution) -> bool:
    """Return True if the machine still has the only run's only action, with its end."""
    row = await on.row(execution)
    async with on.sessions.session(
        (await on.targets.endpoints([row["target_id"]]))[row["target_id"]]
    ) as session:
        durable = session.durable()
        assert durable is not None
        found = await durable.look(RunKey(row["uuid"], "step-1", 1))
    return found is not None and found.exit is not None


async def test_folders_are_cleaned_up_a_day_after_the_end(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([RemoteExit(0)])
        execution = await on.ended(await launch(on))
        assert await care(on).run_once() == {"settled_late": 0, "cleaned": 0}
        assert await is_run_known(on, execution)
        await on.turn(DAY_SECONDS + 1)
        assert (await care(on).run_once())["cleaned"] == 1
        assert not await is_run_known(on, execution)
        assert (await care(on).run_once())["cleaned"] == 0


async def test_a_run_whose_files_the_machine_keeps_stays_due(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        web.reply([RemoteExit(0)])
        execution = await on.ended(await launch(on))
        row = await on.row(execution)
        web.kept.add(RunKey(row["uuid"], "step-1", 1))
        await on.turn(DAY_SECONDS + 1)
        assert (await care(on).run_once())["cleaned"] == 0
        web.kept.clear()
        await on.turn(DAY_SECONDS + 1)
        assert (await care(on).run_once())["cleaned"] == 1
        assert not await is_run_known(on, execution)


async def read_again(on: Harness, execution: Execution) -> tuple[bytes, RemoteExit]:
    """Return the output and exit of the only run's only action from its machine."""
    row = await on.row(execution)
    web = on.sessions.machine("web-1")
    run = web.runs[RunKey(row["uuid"], "step-1", 1)]
    assert run.exit is not None
    return b"".join(piece.data for piece in run.record if isinstance(piece, Output)), run.exit


@pytest.mark.parametrize(("size", "left"), [(RELEASE_BYTES + 1, 0), (100, 100)])
async def test_large_output_is_removed_at_once_and_the_record_after_a_day(
    database: Database, size: int, left: int
) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([Output("stdout", bytes(size)), RemoteExit(3)])
        execution = await on.ended(await launch(on))
        await on.turn(11)
        await care(on).run_once()
        data, end = await read_again(on, execution)
        assert (len(data), end) == (left, RemoteExit(3))
        assert await is_run_known(on, execution)
        await on.turn(DAY_SECONDS + 1)
        assert (await care(on).run_once())["cleaned"] == 1
        assert not await is_run_known(on, execution)


async def test_output_of_a_run_with_secrets_is_removed_at_once(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([Output("stdout", b"out"), RemoteExit(0)])
        declared = [ParameterDraft(name="password", type="secret")]
        order = LaunchOrder(
            [CommandAction(command="dump", key="step-1")],
            SelectionDraft(ids=["web-1"]),
            Policy(durable="auto"),  # type: ignore[arg-type]
            "dump",
            declared=declared,
            parameters={"password": "canary"},
        )
        launched = await on.launcher.launch(
            order, triggered_by=TriggeredBy.API, requested_by=Identity("api_key", "ada")
        )
        assert launched.execution is not None
        execution = await on.ended(launched.execution)
        await on.turn(11)
        await care(on).run_once()
        assert await read_again(on, execution) == (b"", RemoteExit(0))


async def test_an_unreachable_machine_is_cleaned_up_once_it_is_back(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        execution = await on.ended(await launch(on))
        await on.turn(DAY_SECONDS + 1)
        web.cut()
        assert (await care(on).run_once())["cleaned"] == 0
        web.mend()
        assert (await care(on).run_once())["cleaned"] == 0, "not again at once"
        await on.turn(3601)
        assert (await care(on).run_once())["cleaned"] == 1
        assert not await is_run_known(on, execution)


class UnreadableTarget(InMemoryTargets):
    """An inventory with a target that cannot be read."""

    spoilt = False

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return the usual endpoints, except for web-1."""
        if self.spoilt and "1" in target_ids:
            raise ValueError("'web-1' cannot be read (as scripted)")
        return await super().endpoints(target_ids)


async def test_an_unreadable_target_is_cleaned_up_later_and_blocks_no_other(
    database: Database,
) -> None:
    async with harness(database) as on:
        inventory = UnreadableTarget(on.targets.targets)
        on.targets = inventory
        for name in ("web-1", "web-2"):
            on.machine(name).reply([RemoteExit(0)])
        async with on.worker():
            await on.ended(await on.launch("true", 2, durable="auto"))
        await on.turn(DAY_SECONDS + 1)
        inventory.spoilt = True
        assert (await care(on).run_once())["cleaned"] == 1
        inventory.spoilt = False
        await on.turn(3_601)
        assert (await care(on).run_once())["cleaned"] == 1, (
            "it was not taken for one that is out of the inventory"
        )


async def test_cleanup_of_a_removed_target_ends(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([RemoteExit(0)])
        await on.ended(await launch(on))
        await on.turn(DAY_SECONDS + 1)
        on.targets.targets.clear()
        assert (await care(on).run_once())["cleaned"] == 1
        assert (await care(on).run_once())["cleaned"] == 0


@asynccontextmanager
async def lost(
    database: Database, monkeypatch: pytest.MonkeyPatch, *, cancel: bool
) -> AsyncIterator[tuple[Harness, FakeMachine, Gate, Execution]]:
    """Yield a run that ended `lost` because its machine was cut off while the command ran."""
    monkeypatch.setattr("opsjobs.engine.runs.commands.KILL_SECONDS", 0.2)
    async with harness(database) as on, on.worker(lease_seconds=3.0) as worker:
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        web.cut()
        if cancel:
            await on.cancel(execution)
        else:
            monkeypatch.setattr("opsjobs.engine.runs.commands.DurableCommand._note_loss", _over)
        ended = await on.ended(execution)
        assert ended.counts == {"lost": 1}
        await until(lambda: worker.session is not None and not worker.session.runs)
        yield on, web, gate, execution
        gate.event.set()


def _over(_: object, failure: Exception) -> None:
    raise failure


async def test_a_late_lookup_kills_a_cancelled_command_once_its_machine_is_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lost(database, monkeypatch, cancel=True) as (on, web, _, execution):
        await on.turn(61)
        assert (await care(on).run_once())["settled_late"] == 0, "still away"
        web.mend()
        await on.turn(3601)
        assert (await care(on).run_once())["settled_late"] == 1
        row = await on.row(execution)
        assert row["status"] == "lost", "a terminal state never changes"
        assert row["late_result"]["status"] == "cancelled"
        await on.turn(7 * DAY_SECONDS)
        assert (await care(on).run_once())["settled_late"] == 0


async def test_a_late_lookup_reports_a_lost_run_that_ended_well(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lost(database, monkeypatch, cancel=False) as (on, web, gate, execution):
        web.mend()
        await on.turn(61)
        assert (await care(on).run_once())["settled_late"] == 0, (
            "it runs still, and nobody asked to end it"
        )
        gate.event.set()
        await asyncio.sleep(0)
        await on.turn(3601)

        async def told() -> bool:
            await care(on).run_once()
            await on.turn(3601)
            return (await on.row(execution))["late_result"] is not None

        await until(told)
        row = await on.row(execution)
    assert (row["status"], row["late_result"]["status"], row["late_result"]["exit_code"]) == (
        "lost",
        "succeeded",
        0,
    )


async def test_files_of_a_user_we_cannot_become_stay_and_block_no_other_cleanup(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([RemoteExit(0)])
        secret = CredentialDraft(
            name="sudo-pw", type=CredentialType.PASSWORD, username="deploy", password="canary"
        )  # type: ignore[arg-type]
        known = await on.vault.create(secret)
        assert isinstance(known, StoredCredential)
        theirs = await launch(
            on, [CommandAction(command="work", become=BecomeDraft(credential="sudo-pw"))]
        )
        for execution in (theirs, ours := await launch(on)):
            await on.ended(execution)
        await on.turn(DAY_SECONDS + 1)
        await on.vault.delete(str(known.id))
        assert (await care(on).run_once())["cleaned"] == 1
        assert (await is_run_known(on, theirs), await is_run_known(on, ours)) == (True, False)


async def test_a_machine_that_hangs_blocks_no_other_cleanup(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More runs are due than are prefetched, and the first machine never responds."""
    monkeypatch.setattr(remote_cleanup, "FOLDERS_AHEAD", 4)
    async with harness(database) as on:
        for n in range(1, 21):
            on.machine(f"web-{n}").reply([RemoteExit(0)])
        async with on.worker():
            execution = await on.ended(await on.launch("true", 20, durable="auto"))
        await on.turn(DAY_SECONDS + 1)
        sessions = HangingSessions(on)
        caring = RemoteCleanup(
            on.ledger, on.targets, on.vault, sessions, on.clock, zone="default", grace_seconds=0.2
        )
        cleaning = asyncio.create_task(caring.clean_once())

        async def all_others_are_clean() -> bool:
            rows = await on.rows(execution)
            return [row["target_name"] for row in rows if row["spool_due"] is not None] == ["web-1"]

        await until(all_others_are_clean)
        assert not cleaning.done()
        cleaning.cancel()
        await asyncio.gather(cleaning, return_exceptions=True)


class HangingSessions(FakeSessions):
    """The first machine accepts a connection, and does not respond."""

    def __init__(self, on: Harness) -> None:
        super().__init__(on.clock)
        self.machines = on.sessions.machines

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Open a session, except for that machine."""
        if endpoint.target.name == "web-1":
            await asyncio.Event().wait()
        async with super().session(endpoint) as session:
            yield session
