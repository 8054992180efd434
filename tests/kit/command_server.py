"""Run commands of opsjobs without the start of Python: a loaded process forks for each one.

Loading takes a quarter of a second of CPU, and most commands need a tenth of that for their work. A
command here is `opsjobs.cli.app.run` in a process of its own, with its own arguments, environment,
folder and files. Tests of the start of the process itself run `python -m opsjobs`.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from opsjobs.cli import launch  # loads what nearly all commands need
from opsjobs.cli.app import run

__all__ = ["launch"]
CLIENT = Path(__file__).with_name("command_client.py")
SECONDS = 120


@cache
def command_server() -> str:
    """Return the socket of this test process's command server, which ends with the process."""
    folder = Path(tempfile.mkdtemp(prefix="opsjobs-commands-"))
    path = folder / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    with listener:
        server = subprocess.Popen(
            [sys.executable, "-c", f"from kit.command_server import serve; serve({listener.fileno()})"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        path.unlink()
        folder.rmdir()

    atexit.register(end)
    return str(path)


def client(place: str) -> str:
    """Return shell code that runs a command there, and replaces the command itself.

    The command has the arguments, environment, folder and files of the shell.
    """
    return f"exec '{sys.executable}' -I -S '{CLIENT}' '{place}' \"$@\"\n"


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], *, seconds: float = SECONDS
) -> subprocess.CompletedProcess[bytes]:
    """Return the command's exit code and output. Raises TimeoutExpired."""
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        open(os.devnull) as nothing,  # noqa: PTH123
        socket.socket(socket.AF_UNIX) as asked,
    ):
        asked.settimeout(seconds)
        asked.connect(command_server())
        words = [str(Path.cwd()), str(len(arguments)), *arguments]
        words += [f"{name}={value}" for name, value in environment.items()]
        data = "\0".join(words).encode(errors="surrogateescape")
        socket.send_fds(
            asked, [len(data).to_bytes(8)], [nothing.fileno(), out.fileno(), err.fileno()]
        )
        asked.sendall(data)
        with asked.makefile("rb") as answer:
            pid = int(answer.readline())
            try:
                said = answer.readline()
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([*arguments], seconds) from None
        assert said, f"it was killed: {arguments}"
        written = []
        for file in (out, err):
            file.seek(0)
            written.append(file.read())
    return subprocess.CompletedProcess(["opsjobs", *arguments], int(said), *written)


def serve(listener: int) -> None:
    """Run commands until the test process ends."""
    gc.freeze()
    with socket.socket(fileno=listener) as door:
        while True:
            ready, _, _ = select.select([door, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            asked, _ = door.accept()
            if os.fork() == 0:
                door.close()
                _perform(asked)
            asked.close()
            while _reaped():
                pass


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _perform(asked: socket.socket) -> None:
    """Become the requested command, and end as it ends."""
    head, files, _, _ = socket.recv_fds(asked, 8, 3)
    data = asked.makefile("rb").read(int.from_bytes(head))
    folder, count, *words = data.decode(errors="surrogateescape").split("\0")
    asked.sendall(b"%d\n" % os.getpid())
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(word.partition("=")[::2] for word in words[int(count) :])
    time.tzset()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115  # fmt: skip
    asked.sendall(b"%d\n" % _run(words[: int(count)]))
    os._exit(0)


def _run(arguments: list[str]) -> int:
    sys.argv = ["opsjobs", *arguments]
    try:
        code = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    return code
