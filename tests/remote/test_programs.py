"""Programs with every shell that `sh` may be: their files, and what remains of them."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from contract.durable_machines import alive
from kit.command_runs import read_to_end
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program, RunKey, StartOrder
from opsjobs.model.secret import Secret
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.spool.direct import start_directly
from opsjobs.remote.spool.program import direct
from remote.spool_machines import (
    HOUR,
    Account,
    Machine,
    account,
    first,
    kill,
    machine,
    marked,
    nothing_left_of,
    until,
)

MEMORY = Path("/dev/shm")
CANARY = 'canary\'\n"$x" ü'


def order(web: Machine, program: Program, **more: object) -> StartOrder:
    """Return a run of it, which is removed at the end of the test."""
    made = StartOrder.for_program(
        RunKey(uuid4(), "step-1", 1), program, **{"timeout_seconds": HOUR, **more}
    )  # type: ignore[arg-type]
    web.orders.append(made)
    return made


async def run_directly(web: Machine, program: Program) -> tuple[bytes, bytes, RemoteExit]:
    return await read_to_end(await start_directly(web.account.dressed(web.bare[0]), program))


def remaining_files(web: Machine, order: StartOrder) -> list[Path]:
    """Return the files that the program was given and that still exist."""
    found = [*web.account.runs.glob(f"{order.key}.[sp]*"), *MEMORY.glob(f"opsjobs.{order.key}*")]
    return [path for path in found if path.exists()]


def program_of(account: Account, name: str, text: str) -> None:
    """Create a program that this account finds by its name."""
    path = account.programs / name
    path.write_text(text)
    path.chmod(0o755)


# --- interpreters


@pytest.mark.parametrize(
    ("asked", "there", "heard"),
    [
        ("python", ["python3", "python"], "python3"),
        ("python", ["python"], "python"),
        ("node", ["nodejs"], "nodejs"),
        ("perl", ["perl"], "perl"),
        ("powershell", ["pwsh"], "pwsh -NoProfile -NonInteractive -File"),
        ("pwsh", ["pwsh"], "pwsh -NoProfile -NonInteractive -File"),
    ],
)
async def test_an_interpreter_is_found_by_the_names_that_it_goes_by(
    shell: str, asked: str, there: list[str], heard: str
) -> None:
    with account(shell) as plain:
        bare = plain.without()
        for name in there:
            program_of(bare, name, f'#!/bin/sh\necho {name} "$@"\n')
        async with machine(shell, account_=bare) as web:
            program = Program(script=b"x", interpreter=asked, args=("a", "-b"))
            out, err, end = await web.done(order(web, program))
            assert (err, end) == (b"", RemoteExit(0))
            said, _, rest = out.decode().partition(" /")
            assert said == heard
            assert rest.endswith(" a -b\n")
            assert (".ps1 " in rest) is ("pwsh" in heard)
            assert (await run_directly(web, program))[0].decode().partition(" /")[0] == heard


async def test_an_interpreter_is_looked_for_where_the_action_says(shell: str) -> None:
    with account(shell) as plain:
        place = plain.home / "tools"
        place.mkdir()
        program_of(Account(plain.home, place, plain.path), "python3", "#!/bin/sh\necho mine\n")
        async with machine(shell, account_=plain) as web:
            program = Program(
                script=b"x",
                interpreter="python",
                env={"PATH": str(place)},
                secrets={"a": Secret("x")},
            )
            assert await web.done(order(web, program)) == (b"mine\n", b"", RemoteExit(0))
            assert await run_directly(web, program) == (b"mine\n", b"", RemoteExit(0))


@pytest.mark.parametrize("how", ["not executable", "its own interpreter is missing", "a folder"])
async def test_an_interpreter_that_is_there_and_cannot_be_started_is_no_exit_status(
    shell: str, how: str
) -> None:
    async with machine(shell) as web:
        path = web.account.home / "odd interpreter"
        if how == "a folder":
            path.mkdir()
        else:
            path.write_text("#!/nowhere/interpreter\n")
            path.chmod(0o755 if "missing" in how else 0o644)
        program = Program(script=b"exit 3", interpreter=str(path))
        run = order(web, program)
        for out, _, end in (
            await web.done(run),
            await web.again(run),
            await run_directly(web, program),
        ):
            assert (out, end.code, end.cause) == (b"", None, "interpreter")
        assert remaining_files(web, run) == []


# --- what it is given, and what is seen of it


async def test_nothing_of_it_is_in_a_process_list_or_in_the_environment_of_anything_else(
    shell: str,
) -> None:
    async with machine(shell) as web:
        word = (
            f"canary-{os.getpid()}"  # in no process of another test, and not in what greps for it
        )
        count = f"tr '\\0' '\\n' </proc/$$/environ | grep -c '[c]{word[1:]}-value'"
        program = Program(
            script=f"{count}; sleep 0.2 # {word}-script".encode(),
            env={"OPSJOBS_PARAM_A": f"{word}-value"},
            stdin=f"{word}-input".encode(),
            secrets={"a": Secret(f"{word}-secret")},
        )
        with watched(word.encode()) as seen:
            assert await web.done(order(web, program)) == (b"1\n", b"", RemoteExit(0))
            assert await run_directly(web, program) == (b"1\n", b"", RemoteExit(0))
        assert [line for line in seen if line.startswith("cmdline")] == []
        # The program and what it starts: nothing of ours, and none of it has a secret, a script or an input in it.
        assert {line for line in seen if f"{word}-value" not in line} == set()
        assert {line for line in seen if "sh -c" in line} == set()


@contextmanager
def watched(word: bytes) -> Iterator[set[str]]:
    """Collect arguments and environments of all processes that contain this word."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for folder in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        said = (folder / name).read_bytes()
                    except OSError:
                        continue
                    if word in said and int(folder.name) != os.getpid():
                        seen.add(f"{name} {said.decode(errors='replace')}")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


async def test_without_a_place_in_memory_secrets_lie_in_the_run_s_folder(shell: str) -> None:
    async with machine(shell) as web:
        run = order(
            web, Program(command='cd "$OPSJOBS_SECRETS"; cat a; pwd', secrets={"a": Secret(CANARY)})
        )
        taken = MEMORY / f"opsjobs.{run.key}"
        taken.symlink_to("/nowhere")  # as another user could, who knows the key
        try:
            out, _, end = await web.done(run)
        finally:
            taken.unlink(missing_ok=True)
        assert (out, end) == (
            f"{CANARY}{web.account.runs}/{run.key}.s/secrets\n".encode(),
            RemoteExit(0),
        )
        assert remaining_files(web, run) == []


async def test_a_disk_that_takes_no_file_is_no_exit_status(shell: str) -> None:
    async with machine(shell) as web:
        run = order(web, Program(script=b"exit 3"))
        (web.account.runs / f"{run.key}.s").touch()
        _, _, end = await web.done(run)
        assert (end.code, end.cause) == (None, "storage")
        _, _, end = await web.again(run)
        assert (end.code, end.cause) == (None, "storage")


# --- whatever ends it, nothing is left

WAITS = b"echo $OPSJOBS_SECRETS\nwhile :; do sleep 0.05; done"


async def at_work(web: Machine, script: bytes = WAITS, **more: object) -> tuple[StartOrder, Path]:
    """Start a script that runs until it is ended; return it and the folder of its secrets."""
    run = order(web, Program(script=script, secrets={"a": Secret(CANARY)}), **more)
    process = await web.begin(run)
    place = Path((await first(process, 9)).decode().splitlines()[0])
    await process.close()
    assert (place / "a").read_text() == CANARY
    assert {path.stat().st_mode & 0o777 for path in (place, place.parent)} == {0o700}
    return run, place


async def test_a_script_is_found_again_from_any_byte_on(shell: str) -> None:
    async with machine(shell) as web:
        run, place = await at_work(
            web, b"echo $OPSJOBS_SECRETS\nuntil [ -e go ]; do sleep 0.05; done\necho rest\nexit 5"
        )
        size = len(f"{place}\n")
        process = await web.attach(run, (size, 0))
        (web.account.home / "go").touch()
        assert await read_to_end(process) == (b"rest\n", b"", RemoteExit(5))
        assert remaining_files(web, run) == []
        assert (await web.again(run))[0] == f"{place}\nrest\n".encode()
        other = StartOrder.for_program(run.key, Program(script=WAITS), HOUR)
        with pytest.raises(RemoteFailure) as failed:
            await web.attach(other)
        assert failed.value.code is ErrorCode.LOST


@pytest.mark.parametrize(
    ("cause", "script", "limits"),
    [
        ("timeout", b"trap '' TERM\n" + WAITS, {"timeout_seconds": 1.0}),
        (
            "output_limit",
            WAITS.replace(b"sleep", b"echo 0123456789 && sleep"),
            {"limit_bytes": 200},
        ),
    ],
    ids=["timeout", "output limit"],
)
async def test_a_watchdog_takes_the_secrets_along(
    shell: str, cause: str, script: bytes, limits: dict[str, float]
) -> None:
    async with machine(shell) as web:
        run = order(
            web, Program(script=script, secrets={"a": Secret(CANARY)}), grace_seconds=0.3, **limits
        )
        _, _, end = await web.done(run)
        assert end.cause == cause
        assert remaining_files(web, run) == []


@pytest.mark.parametrize("heeds", [True, False])
async def test_a_cancel_takes_its_secrets_along(shell: str, heeds: bool) -> None:
    async with machine(shell) as web:
        run, _ = await at_work(web, WAITS if heeds else b"trap '' TERM\n" + WAITS)
        settled = await web.spool.cancel(run.key, 0.3)
        assert settled.proof is CancelProof.KILLED
        assert remaining_files(web, run) == []


async def test_where_the_keeper_is_killed_somebody_else_takes_the_secrets_along(shell: str) -> None:
    async with machine(shell) as web:
        run, _ = await at_work(web)
        kill([web.keeper(run)])
        kill(marked(run.key))
        await until(lambda: remaining_files(web, run) == [], 60)
        await nothing_left_of(run.key)


@pytest.mark.parametrize("by", ["cancel", "clean"])
async def test_where_all_are_killed_at_once_the_next_visit_takes_them_along(
    shell: str, by: str
) -> None:
    async with machine(shell) as web:
        run, place = await at_work(web)
        keeper = web.keeper(run)
        beside = [
            int(pid) for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        ]
        kill([keeper, *beside, *marked(run.key)])
        await nothing_left_of(run.key)
        assert place.exists()
        if by == "cancel":
            await web.spool.cancel(run.key, 0.1)
        else:
            await web.spool.clean([run.key])
        assert remaining_files(web, run) == []


async def test_a_direct_program_whose_shell_is_killed_leaves_nothing_either(shell: str) -> None:
    async with machine(shell) as web:
        program = Program(
            script=b"echo $PPID $$ $OPSJOBS_SECRETS\nexec sleep 60", secrets={"a": Secret(CANARY)}
        )
        process = await start_directly(web.account.dressed(web.bare[0]), program)
        shell_pid, script_pid, place = (await first(process, 12)).decode().split(maxsplit=2)
        assert (Path(place.strip()) / "a").exists()
        kill([int(shell_pid), int(script_pid)])
        await until(lambda: not Path(place.strip()).parent.exists(), 60)
        assert not alive(int(script_pid))
        await process.close()


def test_the_words_of_an_author_are_never_taken_for_ours() -> None:
    command = "echo '@fail folder@' '@cut@' @fail storage@"
    assert command in direct(Program(command=command, cwd="/"), "token", "nonce").words
    placed = direct(Program(command=command, secrets={"a": Secret("x")}), "token", "nonce").words
    assert f"eval {shlex.quote(command)}" in placed
