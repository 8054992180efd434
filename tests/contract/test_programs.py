"""The contract of programs: started with exactly the given input, durably and directly."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from contract.conftest import NEVER, Backend, OpenBackend, collect
from contract.durable_machines import first, identity_of
from kit.fake_remote import Deed, Echo, Pause
from opsjobs.model.execution import CancelProof
from opsjobs.model.program import (
    SCRIPT_BYTES_MAX,
    Program,
    RunKey,
    SpoolIdentity,
    StartOrder,
)
from opsjobs.model.secret import Secret
from opsjobs.remote.session import Durable, Output, RemoteExit, RemoteProcess, Session

EVERY_BYTE = bytes(range(256))
ODD = [
    "",
    " ",
    "-rf",
    "--",
    "a b",
    "it's",
    '"$HOME"',
    "`id`",
    "\\n",
    "\n\n",
    "\t",
    "!x",
    "*",
    "ünïcode",
    "#",
    "a=b",
    "\x1e",
    "%s\r\n",
]
SECRETS = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class StartMethod:
    """One of the two ways to start a program on a machine."""

    backend: Backend
    session: Session
    durable: Durable | None
    identity: SpoolIdentity | None

    def scripted(
        self, program: Program, deeds: Sequence[Deed], *, ignores_term: bool = False
    ) -> Program:
        """Script a fake machine to do what a real one does by itself."""
        self.backend.script(program.text, deeds, ignores_term=ignores_term)
        return program

    async def start(self, program: Program) -> RemoteProcess:
        """Start the program."""
        if self.durable is None:
            return await self.session.start(program)
        order = StartOrder.for_program(
            RunKey(uuid4(), "step-1", 1), program, NEVER, grace_seconds=5.0
        )
        return await self.durable.begin(order, self.identity)

    async def run(self, program: Program, *deeds: Deed) -> tuple[bytes, bytes, RemoteExit]:
        """Start the program, and follow it to its end."""
        return await collect(await self.start(self.scripted(program, deeds)))


BACKENDS = ("fake", "local", "asyncssh", "openssh")
KINDS = ("durable", "direct")
EVERYWHERE = pytest.mark.parametrize(
    ("open_backend", "kind"), [*itertools.product(BACKENDS, KINDS)], indirect=["open_backend"]
)
# The asyncssh server here starts a command only after all of its input. It cannot be followed live,
# which takes its time.
ON_MOST = pytest.mark.parametrize(
    ("open_backend", "kind"),
    [*itertools.product(("fake", "local", "openssh"), KINDS), ("asyncssh", "direct")],
    indirect=["open_backend"],
)


@asynccontextmanager
async def way(open_backend: OpenBackend, kind: str) -> AsyncIterator[StartMethod]:
    """Yield a way to start programs on a machine of this backend."""
    async with open_backend() as backend, backend.sessions.session(backend.endpoint) as session:
        durable = session.durable() if kind == "durable" else None
        assert durable is not None or kind == "direct"
        if backend.fake is not None:
            machine = backend.fake.machine(backend.endpoint.target.name)
            machine.interpreters, machine.folders = (
                {"sh", "bash", "perl"},
                {"/", "/usr", ".", str(backend.folder)},
            )
        yield StartMethod(
            backend, session, durable, await identity_of(durable) if durable is not None else None
        )


def stdout(data: bytes) -> Output:
    return Output("stdout", data)


# --- scripts


TAILS = [b"", b"\r\n: done\r\n'\"`$(id)\\\n" + EVERY_BYTE * 3 + b"\n" * 5000, b"no final newline"]


@EVERYWHERE
@pytest.mark.parametrize("tail", TAILS, ids=["nothing", "anything", "open"])
async def test_a_script_arrives_byte_for_byte(
    open_backend: OpenBackend, kind: str, tail: bytes
) -> None:
    script = b'cat "$0"; exit 3\n' + tail
    async with way(open_backend, kind) as web:
        assert await web.run(Program(script=script), stdout(script), RemoteExit(3)) == (
            script,
            b"",
            RemoteExit(3),
        )


@ON_MOST
async def test_a_script_may_have_256_kib(open_backend: OpenBackend, kind: str) -> None:
    script = (b'cat "$0"; exit 0\n' + EVERY_BYTE * 1024)[:SCRIPT_BYTES_MAX]
    async with way(open_backend, kind) as web:
        assert await web.run(Program(script=script), stdout(script), RemoteExit(0)) == (
            script,
            b"",
            RemoteExit(0),
        )


@EVERYWHERE
async def test_arguments_arrive_whatever_they_are(open_backend: OpenBackend, kind: str) -> None:
    async with way(open_backend, kind) as web:
        for args in ([], ODD, ["x'" * 20_000, ""]):
            whole = "".join(f"{arg}\0" for arg in [str(len(args)), *args]).encode()
            program = Program(script=b"printf '%s\\0' $# \"$@\"", args=tuple(args))
            assert await web.run(program, stdout(whole), RemoteExit(0)) == (
                whole,
                b"",
                RemoteExit(0),
            )


@ON_MOST
@pytest.mark.parametrize(
    ("interpreter", "script", "out"),
    [
        ("sh", b"echo sh", b"sh\n"),
        ("bash", b'a=(1 2); echo "${a[1]}"', b"2\n"),
        ("perl", b"print <DATA>;\n__DATA__\nkept\n", b"kept\n"),
    ],
)
async def test_the_interpreter_is_the_one_that_was_asked_for(
    open_backend: OpenBackend, kind: str, interpreter: str, script: bytes, out: bytes
) -> None:
    async with way(open_backend, kind) as web:
        assert await web.run(Program(script=script, interpreter=interpreter), stdout(out)) == (
            out,
            b"",
            RemoteExit(0),
        )


@ON_MOST
@pytest.mark.parametrize("code", [0, 126, 127, 143, 200])
async def test_the_exit_status_of_a_script_is_its_own(
    open_backend: OpenBackend, kind: str, code: int
) -> None:
    async with way(open_backend, kind) as web:
        program = Program(script=f"exit {code};".encode(), interpreter="perl")
        assert await web.run(program, RemoteExit(code)) == (b"", b"", RemoteExit(code))


@EVERYWHERE
@pytest.mark.parametrize("interpreter", ["powershell", "/nowhere/python", r"C:\Windows\cmd.exe"])
async def test_an_interpreter_that_is_missing_is_told_apart_from_every_exit_status(
    open_backend: OpenBackend, kind: str, interpreter: str
) -> None:
    async with way(open_backend, kind) as web:
        out, err, end = await web.run(Program(script=b"exit 127", interpreter=interpreter))
        assert (out, err, end.code, end.cause, end.never_started) == (
            b"",
            b"",
            None,
            "interpreter",
            True,
        )
        assert end.detail is not None
        assert interpreter in end.detail


# --- what a program gets


@ON_MOST
async def test_variables_are_the_programs_and_exact(open_backend: OpenBackend, kind: str) -> None:
    env = {f"V{n}": value for n, value in enumerate(ODD)} | {
        "OPSJOBS_TARGET": "web-1",
        "OPSJOBS_PARAM_A": "1",
        "i": "mine",
    }
    whole = "".join(f"{value}\0" for value in env.values()).encode()
    names = " ".join(f'"${{{name}}}"' for name in env)
    async with way(open_backend, kind) as web:
        for program in (
            Program(script=f"printf '%s\\0' {names}".encode(), env=env),
            Program(command=f"printf '%s\\0' {names}", env=env),
            Program(command=f"printf '%s\\0' {names}", env=env, stdin=b"x"),
        ):
            assert await web.run(program, stdout(whole), RemoteExit(0)) == (
                whole,
                b"",
                RemoteExit(0),
            )


@ON_MOST
async def test_many_long_variables_and_a_long_command_arrive_as_well(
    open_backend: OpenBackend, kind: str
) -> None:
    env = {f"V{n}": "it's " * 2_000 for n in range(20)}
    command = "\n".join(
        [*(f": 'line {n}' \"!\"" for n in range(3_000)), 'echo "${#V0}${#V19}"; cat']
    )
    async with way(open_backend, kind) as web:
        for stdin in (None, b"in"):
            program = Program(command=command, env=env, stdin=stdin)
            out = b"1000010000\n" + (stdin or b"")
            assert await web.run(program, stdout(out), RemoteExit(0)) == (out, b"", RemoteExit(0))


@ON_MOST
@pytest.mark.parametrize(
    "data",
    [None, b"", b"one\n", b"\0\r\n\xff open", EVERY_BYTE * 1024],
    ids=["none", "empty", "line", "open", "256 KiB"],
)
async def test_standard_input_arrives_and_ends(
    open_backend: OpenBackend, kind: str, data: bytes | None
) -> None:
    async with way(open_backend, kind) as web:
        for program in (
            Program(command="cat", stdin=data),
            Program(script=b"cat", stdin=data),
            Program(command="cat", stdin=data, secrets={"a": Secret("x")}),
        ):
            assert await web.run(program, *([Echo()] if data else []), RemoteExit(0)) == (
                data or b"",
                b"",
                RemoteExit(0),
            )


@ON_MOST
async def test_it_starts_in_its_folder(open_backend: OpenBackend, kind: str) -> None:
    async with way(open_backend, kind) as web:
        for cwd in ("/usr", "/", str(web.backend.folder)):
            for program in (
                Program(command="pwd", cwd=cwd),
                Program(script=b"pwd", cwd=cwd, stdin=b"x"),
            ):
                assert await web.run(program, stdout(f"{cwd}\n".encode()), RemoteExit(0)) == (
                    f"{cwd}\n".encode(),
                    b"",
                    RemoteExit(0),
                )


@ON_MOST
@pytest.mark.parametrize("cwd", ["/nowhere", "-", "~", "/etc/passwd"])
async def test_a_folder_that_is_missing_is_told_apart_from_every_exit_status(
    open_backend: OpenBackend, kind: str, cwd: str
) -> None:
    async with way(open_backend, kind) as web:
        for program in (
            Program(command="exit 1", cwd=cwd),
            Program(script=b"exit 1", cwd=cwd, secrets={"a": Secret("x")}),
        ):
            out, err, end = await web.run(program)
            assert (out, err, end.code, end.cause) == (b"", b"", None, "folder")
            assert end.detail is not None
            assert cwd in end.detail


@ON_MOST
async def test_what_no_shell_can_read_starts_nothing_and_says_so(
    open_backend: OpenBackend, kind: str
) -> None:
    async with way(open_backend, kind) as web:
        for program in (
            Program(command="echo before; )", cwd="/"),
            Program(command="echo before; )", stdin=b"x"),
            Program(command="echo before; echo 'open", secrets={"a": Secret("x")}),
        ):
            out, err, end = await web.run(program, Output("stderr", b"syntax error"), RemoteExit(2))
            assert (out, end.code, end.cause) == (b"", 2, None)
            assert err


# --- secrets


@EVERYWHERE
@pytest.mark.parametrize("what", ["command", "script"])
async def test_secrets_are_files_for_nobody_else_and_go_with_the_program(
    open_backend: OpenBackend, kind: str, what: str
) -> None:
    secrets = {
        "db-password": Secret('it\'s\n"$x"\\ ü'),
        "empty": Secret(""),
        "z.b": Secret("x" * 5_000),
    }
    whole = "\0".join([value.reveal() for value in secrets.values()]).encode()
    text = "cd $OPSJOBS_SECRETS; cat db-password; printf '\\0'; cat empty; printf '\\0'; cat z.b; ls -l >&2; pwd >&2"
    program = (
        Program(command=text, secrets=secrets)
        if what == "command"
        else Program(script=text.encode(), secrets=secrets)
    )
    async with way(open_backend, kind) as web:
        out, err, end = await web.run(program, stdout(whole), RemoteExit(0))
        assert (out, end) == (whole, RemoteExit(0))
        if web.backend.fake is None:
            _, *files, place = err.decode().splitlines()
            assert [(line[:10], line.split()[-1]) for line in files] == [
                ("-rw-------", name) for name in secrets
            ]
            assert not Path(place).exists()
            assert not Path(place).parent.exists()


@ON_MOST
async def test_a_kill_gives_a_script_its_grace_and_leaves_no_secret(
    open_backend: OpenBackend, kind: str
) -> None:
    script = b"trap 'echo tidy; exit 7' TERM\necho $OPSJOBS_SECRETS\nwhile :; do sleep 0.05; done"
    async with way(open_backend, kind) as web:
        if web.backend.fake is not None:
            return  # A script of a fake has no trap.
        process = await web.start(Program(script=script, secrets={"a": Secret("x")}))
        place = Path((await first(process, 10)).decode().strip())
        assert (place / "a").read_text() == "x"
        killing = asyncio.create_task(process.kill(20.0))
        out, _, end = await collect(process)
        assert await killing is CancelProof.KILLED
        assert (out, end.code) == (b"tidy\n", 7)
        await until_removed(place)


@EVERYWHERE
async def test_a_kill_that_is_not_heeded_leaves_no_secret_either(
    open_backend: OpenBackend, kind: str
) -> None:
    script = b"trap '' TERM\necho $OPSJOBS_SECRETS\nwhile :; do sleep 0.05; done"
    async with way(open_backend, kind) as web:
        program = web.scripted(
            Program(script=script, secrets={"a": Secret("x")}),
            [stdout(b"/nowhere\n"), Pause(NEVER)],
            ignores_term=True,
        )
        process = await web.start(program)
        place = Path((await first(process, 9)).decode().strip())
        assert await process.kill(0.2) is CancelProof.KILLED
        assert (await collect(process))[2].signal == "KILL"
        await until_removed(place)


@ON_MOST
async def test_a_script_that_heeds_a_kill_ends_by_its_signal(
    open_backend: OpenBackend, kind: str
) -> None:
    async with way(open_backend, kind) as web:
        program = web.scripted(
            Program(script=b"echo up; sleep 60"), [stdout(b"up\n"), Pause(NEVER)]
        )
        process = await web.start(program)
        await first(process, 3)
        assert await process.kill(20.0) is CancelProof.KILLED
        assert (await collect(process))[2].signal == "TERM"


async def until_removed(place: Path) -> None:
    """Return once nothing is left of it.

    A killed supervisor's files are removed by others, within about a second.
    """
    async with asyncio.timeout(60):
        while place.exists() or (place.parent.name.startswith("opsjobs") and place.parent.exists()):
            await asyncio.sleep(0.02)
