"""Durable runs over real SSH: contact may break anywhere, and every byte arrives once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kit.command_runs import read_to_end
from kit.machines import endpoint_of
from kit.sshd import Sshd, sshd
from kit.tcp_proxy import Cut, Proxy, proxy
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import StartOrder
from opsjobs.remote.session import ContactLost, NotStarted, Output, RemoteExit, Stream
from opsjobs.remote.spool import live_follow
from opsjobs.remote.spool import process as spool_process
from opsjobs.remote.ssh.pool import PoolLimits, SshPool
from remote.conftest import pool
from remote.spool_machines import (
    Account,
    Machine,
    account,
    alive,
    first,
    open_machine,
    ours,
    until,
    within,
)

MIB = 1 << 20


@asynccontextmanager
async def machine(server: Sshd, **more: object) -> AsyncIterator[Machine]:
    """Create an account of this sshd."""
    with account("dash", owner=server.user) as made:
        async with pool() as sessions, open_machine(sessions, endpoint_of(server), made) as web:
            yield web


async def test_the_first_start_tells_of_the_login_shell_and_the_next_ones_need_no_other(
    server: Sshd,
) -> None:
    async with machine(server) as web:
        lines: list[str] = []
        start, talk = web.spool._start, web.spool._talk

        async def noted(line: str, stdin: bytes) -> object:
            lines.append(line)
            return await (start if len(lines) == 1 else talk)(line, stdin)

        web.spool._start = web.spool._talk = noted  # type: ignore[assignment]
        assert await web.done("echo one") == (b"one\n", b"", RemoteExit(0))
        assert await web.done("echo two") == (b"two\n", b"", RemoteExit(0))
        assert [line[:6] for line in lines] == ["sh -c ", "set --"]


async def test_a_login_shell_that_is_not_what_it_says_is_taken_as_any_other(server: Sshd) -> None:
    async with machine(server) as web:
        web.spool._login.plain = True
        start = web.spool._start

        async def odd(line: str, stdin: bytes) -> object:
            return await start(
                "echo what is this; exit 3" if line.startswith("set") else line, stdin
            )

        web.spool._start = odd  # type: ignore[assignment]
        assert await web.done("echo out") == (b"out\n", b"", RemoteExit(0))


async def test_words_of_a_login_script_are_not_output(server: Sshd) -> None:
    async with machine(server) as web:
        start, beside = web.spool._start, web.spool._beside
        noise = "echo Welcome to web-1; echo do not disturb >&2; "
        web.spool._start = lambda line, stdin: start(noise + line, stdin)
        web.spool._beside = lambda line, stdin: beside(noise + line, stdin)
        for command in ("echo out; echo err >&2", "sleep 0.3; echo out; echo err >&2"):
            order = web.order(command)
            assert await web.done(order) == (b"out\n", b"err\n", RemoteExit(0))
            assert await web.again(order) == (b"out\n", b"err\n", RemoteExit(0))


async def test_output_is_seen_while_the_command_runs(server: Sshd) -> None:
    async with machine(server) as web:
        gate = web.account.home / "gate"
        order = web.order(
            "n=0; while [ $n -lt 20 ]; do echo $n; until [ -e gate$n ]; do sleep 0.02; done; n=$((n+1)); done"
        )
        process = await web.begin(order)
        for n in range(20):
            assert await within(60, first(process, 2)) == b"%d\n" % n
            Path(f"{gate}{n}").touch()
        assert await read_to_end(process) == (b"", b"", RemoteExit(0))
        # No process of ours continues, although the session is still open.
        await until(lambda: ours(order.key) == {})


async def test_no_tail_outlives_its_channel(server: Sshd) -> None:
    async with pool() as sessions, proxy(server.host, server.port) as way:
        with account("dash", owner=server.user) as made:
            async with open_machine(sessions, endpoint_of(server, port=way.port), made) as web:
                order = web.order("echo up; sleep 60")
                process = await web.begin(order)
                await first(process)
                await until(lambda: any(b"tail" in said for said in ours(order.key).values()))
                way.reset_all()
                with pytest.raises(ContactLost):
                    await read_to_end(process)
                await until(lambda: not any(b"tail" in said for said in ours(order.key).values()))
                assert alive(web.keeper(order))


async def test_where_no_second_channel_can_be_had_output_is_still_seen_as_it_comes(
    server: Sshd,
) -> None:
    limits = PoolLimits(connections_per_key=1, channels_per_connection=2)
    with account("dash", owner=server.user) as made:
        where = endpoint_of(server)
        async with (
            pool(limits=limits) as sessions,
            open_machine(sessions, where, made) as web,
            open_machine(sessions, where, made) as other,
        ):
            order = web.order("echo up; until [ -e gate ]; do sleep 0.05; done; echo down")
            process = await web.begin(order)
            assert await within(live_follow.FOLLOW_SECONDS + 60, first(process)) == b"up\n"
            assert await other.done("echo ok") == (b"ok\n", b"", RemoteExit(0))
            (made.home / "gate").touch()
            assert await read_to_end(process) == (b"down\n", b"", RemoteExit(0))


async def test_a_server_with_one_session_a_connection_runs_follows_and_cancels() -> None:
    with sshd(max_sessions=1) as narrow:
        async with machine(narrow) as web:
            assert await web.done("sleep 0.2; echo out") == (b"out\n", b"", RemoteExit(0))
            process = await web.begin("echo up; sleep 60")
            await first(process)
            assert await process.kill(1.0) is CancelProof.KILLED


async def test_a_process_of_another_user_that_we_may_not_signal_is_unreachable(
    server: Sshd, becomes_root: Path
) -> None:
    async with machine(server) as web:
        order = web.order(
            f"{becomes_root} --reuid 0 sh -c 'trap \"\" TERM; echo $$; sleep 60; sleep 60'; true"
        )
        stubborn = int(await first(await web.begin(order), 2))
        try:
            settlement = await within(60, web.spool.cancel(order.key, 0.2))
            assert settlement.proof is CancelProof.UNREACHABLE
            assert alive(stubborn)
        finally:
            os.killpg(os.getpgid(stubborn), 9)


@pytest.fixture
def becomes_root() -> Iterator[Path]:
    """Yield a set-user-id `setpriv`, which acts like sudo."""
    found = shutil.which("setpriv")
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root and setpriv: makes a set-user-id program")
    folder = Path("/var/tmp") / f"opsjobs-spool-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    program = folder / "setpriv"
    shutil.copy(found, program)
    program.chmod(0o4755)
    yield program
    shutil.rmtree(folder)


async def test_a_cancel_without_contact_is_unreachable(server: Sshd) -> None:
    async with pool() as sessions, proxy(server.host, server.port) as way:
        with account("dash", owner=server.user) as made:
            async with open_machine(sessions, endpoint_of(server, port=way.port), made) as web:
                order = web.order("echo up; sleep 60")
                process = await web.begin(order)
                await first(process)
                way.faults.refuse = True
                way.reset_all()
                assert await process.kill(0.2) is CancelProof.UNREACHABLE
                way.faults.refuse = False
                assert (await web.spool.cancel(order.key, 1.0)).proof is CancelProof.KILLED


async def test_an_attach_that_hears_nothing_any_more_has_lost_contact(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_process, "SILENCE_SECONDS", 6.0)
    async with pool() as sessions, proxy(server.host, server.port) as way:
        with account("dash", owner=server.user) as made:
            async with open_machine(sessions, endpoint_of(server), made) as web:
                order = web.order("echo up; sleep 60")
                await first(await web.begin(order))
                async with sessions.session(endpoint_of(server, port=way.port)) as session:
                    far = Machine.over(session, made)
                    far.identity = web.identity
                    process = await far.attach(order)
                    assert await first(process) == b"up\n"
                    way.faults.black_hole = True
                    with pytest.raises(ContactLost):
                        await within(60, read_to_end(process))
                assert await web.spool.look(order.key) is None


# --- cuts


class Follower:
    """Follows one run through all faults, as the engine does, and keeps each byte that it gets."""

    def __init__(self, sessions: SshPool, way: Proxy, server: Sshd, account: Account) -> None:
        self._sessions = sessions
        self._where = endpoint_of(server, port=way.port)
        self._account = account
        self.given: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.losses = 0
        self.perhaps_begun = False

    async def follow(self, web: Machine, order: StartOrder) -> RemoteExit:
        """Follow the run until its end."""
        while True:
            try:
                async with self._sessions.session(self._where) as session:
                    here = Machine.over(session, self._account)
                    here.identity = web.identity
                    return await self._once(here, order)
            except ContactLost:
                self.losses += 1
            except NotStarted as absent:
                if absent.settled:
                    raise
                self.perhaps_begun = False
            except RemoteFailure as failure:
                if failure.code is ErrorCode.LOST:
                    raise
                self.losses += 1

    async def _once(self, web: Machine, order: StartOrder) -> RemoteExit:
        if self.perhaps_begun:
            process = await web.attach(
                order, (len(self.given["stdout"]), len(self.given["stderr"]))
            )
        else:
            try:
                process = await web.begin(order)
            except ContactLost:
                self.perhaps_begun = True
                raise
            self.perhaps_begun = True
        async for piece in process:
            if isinstance(piece, Output):
                self.given[piece.stream] += piece.data
            else:
                return piece
        raise AssertionError("no end")


SPEAKS = """echo ran >>witness
n=0; while [ $n -lt 30 ]; do
  head -c 3000 noise; echo $n; echo err $n >&2; case $n in *5) sleep 0.05;; esac; n=$((n+1))
done
exit 6"""


async def test_contact_cut_at_random_places_loses_and_repeats_no_byte(server: Sshd) -> None:
    chance = random.Random(7)
    async with pool() as sessions, proxy(server.host, server.port) as way:
        with account("dash", owner=server.user) as made:
            (made.home / "noise").write_bytes(chance.randbytes(3000))
            (made.home / "noise").chmod(0o644)
            async with open_machine(sessions, endpoint_of(server), made) as web:
                expected = await web.done(SPEAKS)
                losses = 0
                for _ in range(12):
                    (made.home / "witness").unlink(missing_ok=True)
                    order, follower = web.order(SPEAKS), Follower(sessions, way, server, made)
                    cutter = asyncio.create_task(cut_again_and_again(way, chance))
                    end = await within(90, follower.follow(web, order))
                    cutter.cancel()
                    way.faults.cut = None
                    assert (
                        bytes(follower.given["stdout"]),
                        bytes(follower.given["stderr"]),
                        end,
                    ) == expected
                    assert (made.home / "witness").read_text() == "ran\n"
                    losses += follower.losses
                assert losses > 10


async def cut_again_and_again(way: Proxy, chance: random.Random) -> None:
    """Break the connection repeatedly after a few bytes more, counted on either side."""
    for _ in range(6):
        way.faults.cut = Cut(chance.randrange(60_000), answers=chance.random() < 0.7)
        while way.faults.cut is not None:
            await asyncio.sleep(0.01)


async def test_a_start_that_is_cut_at_any_byte_begins_once_or_not_at_all(server: Sshd) -> None:
    async with pool() as sessions, proxy(server.host, server.port) as way:
        with account("dash", owner=server.user) as made:
            async with open_machine(sessions, endpoint_of(server), made) as web:
                for left in range(0, 4800, 163):
                    (made.home / "witness").unlink(missing_ok=True)
                    order, follower = (
                        web.order("echo ran >>witness; echo out; exit 2"),
                        Follower(sessions, way, server, made),
                    )
                    async with sessions.session(endpoint_of(server, port=way.port)) as session:
                        await read_to_end(await session.start("true"))
                    way.faults.cut = Cut(left)
                    end = await within(90, follow_to_an_end(follower, web, order))
                    way.faults.cut = None
                    if end is not None:
                        assert (bytes(follower.given["stdout"]), end) == (b"out\n", RemoteExit(2))
                        assert (made.home / "witness").read_text() == "ran\n"
                    else:
                        assert not (made.home / "witness").exists()


async def follow_to_an_end(
    follower: Follower, web: Machine, order: StartOrder
) -> RemoteExit | None:
    """Return the exit; None if the cut was within the payload.

    Then it is settled that this start never begins.
    """
    try:
        return await follower.follow(web, order)
    except NotStarted:
        return None


# --- amounts


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("how", ["at once", "live", "attached"])
async def test_200_mb_are_exact_and_cost_no_memory(server: Sshd, how: str) -> None:
    size = 200_000_000
    async with machine(server) as web:
        (web.account.home / "much").write_bytes(b"")
        os.truncate(web.account.home / "much", size)
        (web.account.home / "much").chmod(0o644)
        order = web.order({"live": "sleep 0.3; cat much"}.get(how, "cat much"))
        process = await web.begin(order)
        if how == "attached":
            await process.close()
            process = await web.attach(order)
        before, most, count, pieces = rss_bytes(), 0, 0, 0
        async for piece in process:
            if isinstance(piece, Output):
                count += len(piece.data)
                pieces += 1
                if pieces % 200 == 0:
                    most = max(most, rss_bytes())
        assert count == size
        assert most - before < 24 * MIB
        await web.spool.clean([order.key])


async def test_a_reader_that_waits_makes_nobody_wait_but_itself(server: Sshd) -> None:
    async with machine(server) as web:
        order = web.order("sleep 0.2; head -c 20000000 /dev/zero; echo done >>witness")
        process = await web.begin(order)
        assert await first(process)
        before = rss_bytes()
        await until((web.account.home / "witness").exists)
        assert await web.done("echo ok") == (b"ok\n", b"", RemoteExit(0))
        assert rss_bytes() - before < 8 * MIB
        seen, count = hashlib.sha256(), 0
        async for piece in process:
            if isinstance(piece, Output):
                seen.update(piece.data)
                count += len(piece.data)
        assert count < 20_000_000
        assert (await web.again(order))[0] == b"\0" * 20_000_000
