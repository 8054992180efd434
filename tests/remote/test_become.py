"""Durable runs as another user, by real sudo, su and doas."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from contract.conftest import Backend, collect
from contract.durable_machines import SAY, Machine, alive, first
from kit.backing_servers import open_folder
from kit.machines import endpoint_of, local_endpoint
from kit.os_accounts import account, configured, doas_rule, needs, needs_root
from kit.sshd import Sshd, sshd
from kit.tcp_proxy import proxy
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Become, Program, RunKey, SpoolIdentity, StartOrder
from opsjobs.model.secret import Secret
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import ContactLost, Durable, NotStarted, RemoteExit, SpoolChanged
from remote.conftest import pool

CANARY = f"canary-{os.getpid()}"
"""In no process of another test."""
PASSWORD = f"{CANARY} ö$`\\'\" !pass"
WRONG = f"{CANARY}-wrong"
_numbers = count(1)
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class BecomeMethod:
    """A login, and the user that it may become."""

    login: str
    become: Become


class OtherUserMachine(Machine):
    """A machine whose runs are those of another user."""

    become: Become

    def order(self, command: str, **limits: float) -> StartOrder:  # type: ignore[override]
        """Return a command that records its start, as that user."""
        return replace(super().order(command, **limits), become=self.become)

    async def cancel(self, order: StartOrder) -> CancelProof:
        """Cancel it; return the proof."""
        return (await self.durable.cancel(order.key, 0.2, self.become)).proof

    @asynccontextmanager
    async def elsewhere(self) -> AsyncIterator[OtherUserMachine]:
        """Yield the same machine over another connection."""
        async with pool() as sessions, sessions.session(self.backend.endpoint) as session:
            durable = session.durable()
            assert durable is not None
            yield _other(
                Backend(sessions, self.backend.endpoint, self.backend.folder),
                durable,
                self.identity,
                self.become,
            )

    async def tidy_up(self) -> None:
        """Remove everything."""
        for order in self._orders:
            await self.durable.cancel(order.key, 0.0, self.become)
        await self.durable.clean([order.key for order in self._orders], self.become)


def _other(backend: Backend, durable: object, identity: object, become: Become) -> OtherUserMachine:
    made = OtherUserMachine(backend, durable, identity)  # type: ignore[arg-type]
    made.become = become
    return made


@asynccontextmanager
async def machine(
    server: Sshd, method: BecomeMethod, port: int | None = None
) -> AsyncIterator[OtherUserMachine]:
    """Yield the machine with this login and become method."""
    with open_folder() as folder:
        folder.chmod(0o777)
        where = endpoint_of(server, user=method.login, port=port)
        async with pool() as sessions, sessions.session(where) as session:
            durable = session.durable()
            assert durable is not None
            identity = await durable.identity(method.become)
            web = _other(Backend(sessions, where, folder), durable, identity, method.become)
            try:
                yield web
            finally:
                await web.tidy_up()


@contextmanager
def login(server: Sshd, *, password: str | None = None, shell: str = "/bin/sh") -> Iterator[str]:
    """Create an account that can log in."""
    with account(shell=shell, password=password) as name:
        server.authorize(name, (server.folder / "login.pub").read_text().strip())
        yield name


@contextmanager
def sudoers(*lines: str) -> Iterator[None]:
    """Add rules of sudo."""
    needs("sudo")
    with configured(
        f"/etc/sudoers.d/opsjobs-{os.getpid()}-{next(_numbers)}", "\n".join(lines) + "\n", 0o440
    ):
        yield


# --- every way in


@contextmanager
def sudo(
    server: Sshd, *, user: str, rule: str, options: str = "use_pty", password: Secret | None = None
) -> Iterator[BecomeMethod]:
    needs("sudo")
    with (
        login(server, password=PASSWORD) as name,
        sudoers(f"Defaults:{name} {options}", f"{name} ALL=(ALL) {rule}"),
    ):
        yield BecomeMethod(name, Become(user, "sudo", password))


@contextmanager
def su(server: Sshd, *, user: str, password: Secret | None = None) -> Iterator[BecomeMethod]:
    with login(server) as name:
        yield BecomeMethod(name, Become(user, "su", password))


@contextmanager
def root_su(server: Sshd, *, user: str, password: Secret | None = None) -> Iterator[BecomeMethod]:
    needs_root("logs in as root")
    server.authorize("root", (server.folder / "login.pub").read_text().strip())
    yield BecomeMethod("root", Become(user, "su", password))


@contextmanager
def doas(server: Sshd, *, user: str) -> Iterator[BecomeMethod]:
    needs("doas")
    with login(server) as name, doas_rule(f"permit nopass {name}"):
        yield BecomeMethod(name, Become(user, "doas"))


GIVEN = Secret(PASSWORD)
BECOME_METHODS: dict[str, Callable[[Sshd, str], object]] = {
    "sudo": lambda server, user: sudo(server, user=user, rule="NOPASSWD: ALL"),
    "sudo without a pty": lambda server, user: sudo(
        server, user=user, rule="NOPASSWD: ALL", options="!use_pty"
    ),
    "sudo with a password": lambda server, user: sudo(
        server, user=user, rule="ALL", password=GIVEN
    ),
    "sudo with a password, without a pty": lambda server, user: sudo(
        server, user=user, rule="ALL", options="!use_pty", password=GIVEN
    ),
    "sudo with a password that nobody asks for": lambda server, user: sudo(
        server, user=user, rule="NOPASSWD: ALL", password=GIVEN
    ),
    "su with a password": lambda server, user: su(server, user=user, password=GIVEN),
    "su by root": lambda server, user: root_su(server, user=user),
    "su by root with a password that nobody asks for": lambda server, user: root_su(
        server, user=user, password=GIVEN
    ),
    "doas": lambda server, user: doas(server, user=user),
}


FEW = pytest.mark.parametrize(
    "become_method", ["sudo", "su with a password", "doas"], indirect=True
)
WITH_PASSWORD = pytest.mark.parametrize(
    "become_method", [name for name in BECOME_METHODS if "password" in name], indirect=True
)


@pytest.fixture(scope="module")
def ben() -> Iterator[str]:
    """The other user."""
    needs_root("makes accounts")
    with account(password=PASSWORD) as name:
        yield name


@pytest.fixture(scope="module", params=BECOME_METHODS)
def become_method(request: pytest.FixtureRequest, server: Sshd, ben: str) -> Iterator[BecomeMethod]:
    """Each way to become ben."""
    with BECOME_METHODS[request.param](server, ben) as opened:  # type: ignore[attr-defined]
        yield opened


async def test_a_command_runs_as_the_other_user_in_its_home_with_every_byte(
    server: Sshd, become_method: BecomeMethod
) -> None:
    async with machine(server, become_method) as web:
        order = web.order(f'{SAY}; printf "|%s|%s|%s" "$(id -un)" "$HOME" "$PWD"; exit 3')
        name, home = become_method.become.user, pwd.getpwnam(become_method.become.user).pw_dir
        assert await web.done(order) == (
            f"one\0\udcff|{name}|{home}|{home}".encode(errors="surrogateescape"),
            b"\xfetwo\n",
            RemoteExit(3),
        )
        assert web.starts(order) == 1


async def test_it_survives_its_channel_and_its_connection_and_is_found_again(
    server: Sshd, become_method: BecomeMethod
) -> None:
    async with (
        proxy(server.host, server.port) as way,
        machine(server, become_method, port=way.port) as web,
    ):
        latch = web.latch()
        order = web.order(f"echo one; {latch.wait}; echo two; exit 4")
        process = await web.begin(order)
        assert await first(process, 4) == b"one\n"
        await process.close()
        again = await web.attach(order, (4, 0))
        way.reset_all()
        with pytest.raises(ContactLost):
            await collect(again)
        async with machine(server, become_method) as elsewhere:
            process = await elsewhere.attach(order, (4, 0))
            latch.open()
            assert await collect(process) == (b"two\n", b"", RemoteExit(4))
            assert web.starts(order) == 1
            await elsewhere.durable.clean([order.key], become_method.become)


async def test_it_is_killed_with_proof(server: Sshd, become_method: BecomeMethod) -> None:
    async with machine(server, become_method) as web:
        order = web.order("sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait")
        process = await web.begin(order)
        child = int(await first(process, 2))
        assert alive(child)
        assert await web.durable.look(order.key, become_method.become) is None
        assert await web.cancel(order) is CancelProof.KILLED
        assert not alive(child)
        seen = await web.durable.look(order.key, become_method.become)
        assert seen is not None
        assert seen.exit is not None
        await process.close()


@FEW
async def test_what_is_cancelled_before_it_begins_never_begins(
    server: Sshd, become_method: BecomeMethod
) -> None:
    async with machine(server, become_method) as web:
        order = web.order("true")
        assert await web.cancel(order) is CancelProof.NEVER_STARTED
        with pytest.raises(NotStarted):
            await web.begin(order)
        assert web.starts(order) == 0


@FEW
async def test_the_watchdog_ends_it_in_time(server: Sshd, become_method: BecomeMethod) -> None:
    async with machine(server, become_method) as web:
        order = web.order("sleep 60", timeout_seconds=0.3, grace_seconds=0.2)
        _, _, exited = await web.done(order)
        assert exited.cause == "timeout"


@FEW
async def test_its_files_are_the_other_users_alone_and_go_with_the_cleaning(
    server: Sshd, become_method: BecomeMethod
) -> None:
    async with machine(server, become_method) as web:
        order = web.order("true")
        await web.done(order)
        runs = Path(pwd.getpwnam(become_method.become.user).pw_dir) / ".opsjobs" / "runs"
        files = [file for file in runs.iterdir() if str(order.key) in file.name]
        assert files
        assert {file.owner() for file in files} == {become_method.become.user}
        assert runs.stat().st_mode & 0o077 == 0
        await web.durable.clean([order.key], become_method.become)
        assert [file for file in runs.iterdir() if str(order.key) in file.name] == []


async def test_a_script_and_its_secrets_are_the_other_users_and_go_with_it(
    server: Sshd, become_method: BecomeMethod
) -> None:
    async with machine(server, become_method) as web:
        script = b'cat; stat -c %U:%a "$0" "$OPSJOBS_SECRETS" "$OPSJOBS_SECRETS"/s; cat "$OPSJOBS_SECRETS"/s; exit 200 # \xff\r'
        program = Program(
            script=script, stdin=b"\0in\xff\n", env={"A": "b"}, secrets={"s": Secret("it's\n!")}
        )
        order = StartOrder.for_program(
            RunKey(uuid4(), "step-1", 1), program, 60.0, become=become_method.become
        )
        name = become_method.become.user.encode()
        owned = b"".join(name + mode for mode in (b":600\n", b":700\n", b":600\n"))
        assert await web.done(order) == (b"\0in\xff\n" + owned + b"it's\n!", b"", RemoteExit(200))
        runs = Path(pwd.getpwnam(become_method.become.user).pw_dir) / ".opsjobs" / "runs"
        assert [*runs.glob(f"{order.key}.s"), *Path("/dev/shm").glob(f"*{order.key}*")] == []
        await web.durable.clean([order.key], become_method.become)


@WITH_PASSWORD
async def test_the_password_is_seen_nowhere_and_a_long_command_is_itself(
    server: Sshd, become_method: BecomeMethod
) -> None:
    async with machine(server, become_method) as web:
        filling = "\n".join(f": 'line {n}' \"!\" \\\\ $(:) # ünïcode" for n in range(2_000))
        order = web.order(
            f"{filling}\nenv; tr '\\0' '\\n' </proc/$$/environ; cat; sleep 0.3; echo end"
        )
        with watched_processes() as seen:
            out, err, exited = await web.done(order)
        assert (exited, err) == (RemoteExit(0), b"")
        assert out.endswith(b"end\n")
        files = [
            file
            for file in Path(pwd.getpwnam(become_method.become.user).pw_dir).rglob("*")
            if file.is_file()
        ]
        assert CANARY not in out.decode()
        assert [line for line in seen if CANARY in line] == []
        assert any("sh -c" in line for line in seen)
        assert [file for file in files if CANARY.encode() in file.read_bytes()] == []


@contextmanager
def watched_processes() -> Iterator[set[str]]:
    """Collect command lines and environments of all processes, as often as they can be read."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    for name in ("cmdline", "environ"):
                        try:
                            seen.add(
                                (folder / name)
                                .read_bytes()
                                .replace(b"\0", b" ")
                                .decode(errors="replace")
                            )
                        except OSError:
                            continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


async def test_this_machine_itself_has_other_users_too(ben: str) -> None:
    async with LocalSessions().session(local_endpoint()) as session:
        durable = session.durable()
        assert durable is not None
        for become in (Become(ben, "su"), Become(ben, "su", GIVEN)):
            identity = await durable.identity(become)
            order = StartOrder(
                RunKey(uuid4(), "step-1", 1), "id -un; sleep 0.2; exit 3", 60.0, become=become
            )
            assert await collect(await durable.begin(order, identity)) == (
                f"{ben}\n".encode(),
                b"",
                RemoteExit(3),
            )
            await durable.clean([order.key], become)


# --- whose store it is


async def test_each_user_has_a_store_of_its_own_and_what_began_in_one_is_not_looked_for_in_another(
    server: Sshd, ben: str
) -> None:
    with sudo(server, user=ben, rule="NOPASSWD: ALL") as method:
        async with machine(server, method) as web:
            own, root = await web.durable.identity(), await web.durable.identity(Become())
            assert len({own.store, root.store, web.identity.store}) == 3
            order = web.order("true")
            with pytest.raises(SpoolChanged) as met:
                await web.durable.begin(order, own)
            assert met.value.seen == web.identity
            with pytest.raises(NotStarted) as absent:
                await web.durable.attach(order, own, (0, 0))
            assert not absent.value.settled
            assert (await web.done(order))[2] == RemoteExit(0)
            with pytest.raises(NotStarted):
                await web.durable.attach(replace(order, become=None), web.identity, (0, 0))


# --- refused


@asynccontextmanager
async def refused(
    web_server: Sshd, method: BecomeMethod
) -> AsyncIterator[tuple[Durable, StartOrder, SpoolIdentity]]:
    """Yield a machine that refuses to become another user, and an order for it.

    The block checks the refusals. At the end the order must not have run.
    """
    with open_folder() as folder:
        folder.chmod(0o777)
        where = endpoint_of(web_server, user=method.login)
        async with pool() as sessions, sessions.session(where) as session:
            durable = session.durable()
            assert durable is not None
            pretended = SpoolIdentity(f"{'0' * 32}~{method.become.user}", BOOT)
            web = _other(Backend(sessions, where, folder), durable, pretended, method.become)
            order = web.order("true")
            yield durable, order, pretended
            assert web.starts(order) == 0


async def refusal(web_server: Sshd, method: BecomeMethod) -> tuple[str, float]:
    """Return the message for a command that is refused, and its seconds."""
    async with refused(web_server, method) as (durable, order, pretended):
        started = time.monotonic()
        words = await told(durable.begin(order, pretended))
        return words, time.monotonic() - started


async def told(happening: Awaitable[object]) -> str:
    """Return the message of BECOME_FAILED; it never contains a password."""
    with pytest.raises(RemoteFailure) as failed:
        await happening
    assert failed.value.code is ErrorCode.BECOME_FAILED
    assert CANARY not in failed.value.message
    return failed.value.message


async def test_whatever_is_asked_it_is_refused_alike(server: Sshd) -> None:
    with sudo(server, user="root", rule="ALL") as method:
        async with refused(server, method) as (durable, order, pretended):
            said = {
                await told(durable.begin(order, pretended)),
                await told(durable.begin(order, None)),
                await told(durable.attach(order, pretended, (0, 0))),
                await told(durable.identity(method.become)),
                await told(durable.look(order.key, method.become)),
                await told(durable.clean([order.key], method.become)),
            }
            assert len(said) == 1
            assert (
                await durable.cancel(order.key, 0.1, method.become)
            ).proof is CancelProof.UNREACHABLE


async def test_a_wrong_password_is_tried_once_and_told_in_the_programs_words(server: Sshd) -> None:
    with sudo(server, user="root", rule="ALL", password=Secret(WRONG)) as method:
        words, seconds = await refusal(server, method)
    assert "sudo: 1 incorrect password attempt" in words
    assert seconds < 25


async def test_a_wrong_password_of_the_other_user_likewise(server: Sshd, ben: str) -> None:
    with su(server, user=ben, password=Secret(WRONG)) as method:
        words, seconds = await refusal(server, method)
    assert "su: Authentication failure" in words
    assert seconds < 25


async def test_a_password_that_is_asked_for_and_not_known_is_told_at_once(server: Sshd) -> None:
    with sudo(server, user="root", rule="ALL") as method:
        words, seconds = await refusal(server, method)
    assert "sudo: a password is required" in words
    assert seconds < 25


async def test_su_without_a_password_does_not_wait_for_one(server: Sshd, ben: str) -> None:
    with su(server, user=ben) as method:
        words, seconds = await refusal(server, method)
    assert "su: Authentication failure" in words
    assert seconds < 25


async def test_who_is_not_in_sudoers_is_told_so(server: Sshd) -> None:
    needs("sudo")
    with login(server, password=PASSWORD) as name:
        assert "a password is required" in (await refusal(server, BecomeMethod(name, Become())))[0]
        assert (
            "is not in the sudoers file"
            in (await refusal(server, BecomeMethod(name, Become(password=GIVEN))))[0]
        )


async def test_who_may_become_only_others_is_told_so(server: Sshd, ben: str) -> None:
    with login(server, password=PASSWORD) as name, sudoers(f"{name} ALL=({ben}) NOPASSWD: ALL"):
        assert "a password is required" in (await refusal(server, BecomeMethod(name, Become())))[0]
        assert (
            "not allowed to execute"
            in (await refusal(server, BecomeMethod(name, Become(password=GIVEN))))[0]
        )


async def test_doas_says_no_in_its_own_words(server: Sshd, ben: str) -> None:
    with doas(server, user=ben) as method, doas_rule(f"permit {method.login}"):
        assert "doas: " in (await refusal(server, method))[0]


async def test_an_unknown_user_is_told_by_name(server: Sshd) -> None:
    with sudo(server, user="nobody-at-all", rule="NOPASSWD: ALL") as method:
        assert "unknown user nobody-at-all" in (await refusal(server, method))[0]


@pytest.mark.parametrize(
    ("method", "password"),
    [("sudo", None), ("sudo", GIVEN), ("su", None), ("su", GIVEN), ("doas", None)],
)
async def test_a_missing_program_is_told(method: str, password: Secret | None) -> None:
    needs_root("makes an account")
    with open_folder() as folder:
        folder.chmod(0o755)
        (folder / "sh").symlink_to(str(shutil.which("sh")))
        with sshd(settings=[f"SetEnv PATH={folder}"]) as bare, login(bare) as name:
            words, _ = await refusal(bare, BecomeMethod(name, Become("root", method, password)))  # type: ignore[arg-type]
    assert f"{method}: not found" in words


@pytest.mark.parametrize("password", [None, GIVEN])
async def test_a_program_that_never_answers_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, password: Secret | None
) -> None:
    needs_root("makes an account")
    monkeypatch.setattr("opsjobs.remote.spool.become.BECOME_SECONDS", 8.0)
    monkeypatch.setattr("opsjobs.remote.spool.durable.ANSWER_SECONDS", 60.0 if password else 3.0)
    with open_folder() as folder:
        folder.chmod(0o755)
        _program(folder / "sudo", "echo 'asking the far-away directory' >&2\nexec sleep 100")
        with sshd(settings=[f"SetEnv PATH={folder}:/usr/bin:/bin"]) as slow, login(slow) as name:
            async with (
                pool() as sessions,
                sessions.session(endpoint_of(slow, user=name)) as session,
            ):
                durable = session.durable()
                assert durable is not None
                async with asyncio.timeout(60):
                    with pytest.raises(RemoteFailure) as failed:
                        await durable.identity(Become(password=password))
    if password is not None:
        assert failed.value.code is ErrorCode.BECOME_FAILED
        assert "asking the far-away directory" in failed.value.message
    else:
        assert failed.value.code is ErrorCode.CONNECTION_LOST


async def test_contact_that_breaks_before_the_other_users_shell_answers_has_started_nothing() -> (
    None
):
    needs_root("makes an account")
    with open_folder() as folder:
        folder.chmod(0o777)
        _program(folder / "sudo", f"echo asked >'{folder}/asked'\nexec sleep 20")
        with sshd(settings=[f"SetEnv PATH={folder}:/usr/bin:/bin"]) as slow, login(slow) as name:
            async with (
                proxy(slow.host, slow.port) as way,
                pool() as sessions,
                sessions.session(endpoint_of(slow, user=name, port=way.port)) as session,
            ):
                durable = session.durable()
                assert durable is not None
                asking = asyncio.create_task(durable.identity(Become(password=GIVEN)))
                await _appears(folder / "asked")
                way.reset_all()
                with pytest.raises(RemoteFailure) as broken:
                    await asking
    assert broken.value.code is ErrorCode.CONNECTION_LOST


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def _appears(path: Path) -> None:
    async with asyncio.timeout(60):
        while not path.exists():
            await asyncio.sleep(0.01)


# --- other shells on the way


@pytest.mark.parametrize("shell", ["tcsh", "fish", "rbash"])
@pytest.mark.parametrize("method", ["sudo", "su"])
@pytest.mark.parametrize("password", [None, GIVEN])
async def test_odd_shells_of_both_users_do_not_matter(
    server: Sshd, shell: str, method: str, password: Secret | None
) -> None:
    path = needs(shell)
    with ExitStack() as stack:
        odd = stack.enter_context(account(shell=path, password=PASSWORD))
        name = stack.enter_context(login(server, password=PASSWORD, shell=path))
        if method == "sudo":
            stack.enter_context(sudoers(f"{name} ALL=(ALL) {'' if password else 'NOPASSWD: '}ALL"))
        elif password is None:
            server.authorize("root", (server.folder / "login.pub").read_text().strip())
            name = "root"
        async with machine(server, BecomeMethod(name, Become(odd, method, password))) as web:  # type: ignore[arg-type]
            latch = web.latch()
            order = web.order(f'id -un; {latch.wait}; echo "it\'s $0"')
            process = await web.begin(order)
            assert await first(process, 3) == f"{odd}\n".encode()
            latch.open()
            assert await collect(process) == (b"it's sh\n", b"", RemoteExit(0))
