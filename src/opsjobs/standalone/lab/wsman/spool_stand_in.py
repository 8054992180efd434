"""The helper script `spool` of opsjobs, performed by the stand-in host.

The same operations, files and responses as in PowerShell; the beginning of its input was read
already. In place of WMI it starts the keeper as a process in a session of its own, and in place of
LastBootUpTime it has the boot id of Linux, or the one that the stand-in host gives it. It imports
nothing but the standard library.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

_PLACE = re.compile(r"opsjobs-[0-9a-f]{32}")
CLEANED_SECONDS, UNOWNED_SECONDS = 60.0, 86_400.0


def perform(given: dict[str, Any]) -> None:
    """Perform one operation."""
    spool = LabSpool(given)
    operations: dict[str, Callable[[], None]] = {
        "hello": spool.hello,
        "start": spool.start,
        "attach": spool.attach,
        "look": spool.look,
        "cancel": spool.cancel,
        "clean": spool.clean,
    }
    operations[given["op"]]()


class LabSpool:
    """The operations of the helper."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._root = Path(os.environ["HOME"], ".opsjobs")
        self._runs = self._root / "runs"
        self._end: list[str] = []

    @property
    def _folder(self) -> Path:
        return self._runs / str(self._given["key"])

    def _say(self, words: str) -> None:
        _write(1, f"{self._given['nonce']} {words}\n".encode())

    # --- operations

    def hello(self) -> None:
        """Tell the identity of the spool; create it if needed."""
        try:
            self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
            _move_mark(self._root / "id", self._given["store"])
        except OSError:
            self._say("X")
            return
        self._say(f"I {self._store()} {_boot()}")

    def start(self) -> None:
        """Start the run unless it was started before, and follow it."""
        if self._store() != self._given["store"] or _boot() != self._given["boot"]:
            self._say("I")
            return
        folder = self._folder
        self._say("H")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _new_mark(folder / "start", self._given["digest"]):
                self._say("S")
                return
        except OSError:
            self._say("F")
            return
        try:
            order = {name: value for name, value in self._given.items() if name != "nonce"}
            (folder / "order").write_text(json.dumps(order))
        except OSError:
            _remove_inputs(folder)
            (folder / "start").unlink()
            self._say("F")
            return
        try:
            self._start_keeper(folder)
        except OSError:  # it may have been started all the same
            _new_mark(folder / "void", "")
            if self._awaited_state(folder) == "V":
                _remove_inputs(folder)
                self._say("F")
                return
        self._send_run(folder)

    def _start_keeper(self, folder: Path) -> None:
        subprocess.Popen(  # noqa: S603  this stand-in runs what it is sent
            [sys.executable, "-I", "-S", __file__, "keep", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def attach(self) -> None:
        """Follow a run that was started before."""
        if self._store() != self._given["store"]:
            self._say("I")
            return
        self._send_run(self._folder)

    def look(self) -> None:
        """Tell the state of a run."""
        state = self._state(self._folder)
        if state == "G":
            found = _read_mark(self._folder / "program")
            state = "L" if found and _started(int(found[0])) == found[1] else "G"
        self._say(f"K D {' '.join(self._end)}" if state == "D" else f"K {state} - -")

    def cancel(self) -> None:
        """End the run, or make sure that it never starts."""
        folder = self._folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _new_mark(folder / "void", "")
        state = self._awaited_state(folder)
        if state == "V":
            self._say("C never_started - -")
            return
        if state == "D":
            self._say(f"C already_finished {' '.join(self._end)}")
            return
        ended = self._end_run(folder, state)
        if self._state(folder) == "G" and ended:
            cause = "cancel" if (folder / "cause").exists() else "-"
            _move_mark(folder / "end", f"s9 {cause}")
            _remove_inputs(folder)
        if self._state(folder) == "D":
            proof = "killed" if ended or self._end[1] == "cancel" else "already_finished"
            self._say(f"C {proof} {' '.join(self._end)}")
        else:
            self._say("C already_finished - -")

    def _end_run(self, folder: Path, state: str) -> int:
        """End what lives of it; return how many processes that were."""
        ended, turn = 0, 0
        if state == "L":
            keeper = _read_mark(folder / "keeper")
            _new_mark(folder / "cause", "cancel")
            while state == "L" and turn < 50:
                ended += _end_program(folder)
                time.sleep(0.05)
                state, turn = self._state(folder), turn + 1
            if state == "L":
                ended += _end_tree(int(keeper[0]), keeper[1])
        return ended + (_end_program(folder) if state == "G" else 0)

    def clean(self) -> None:
        """Remove the files of runs that have ended, or only their output."""
        for key in self._given["keys"]:
            folder = self._runs / key
            if not folder.is_dir() or self._state(folder) in "LE":
                continue
            if self._given["what"] == "all":
                shutil.rmtree(folder, ignore_errors=True)
                continue
            _remove_inputs(folder)
            for name in "12":
                if (folder / name).exists():
                    (folder / name).write_bytes(b"")
        _remove_leftovers()
        self._say("R")

    # --- the state of a run

    def _store(self) -> str:
        return next(iter(_read_mark(self._root / "id")), "")

    def _state(self, folder: Path) -> str:
        for _ in range(2):
            self._end = _read_mark(folder / "end")
            if self._end:
                return "V" if self._end[0] == "n" else "D"
            void = (folder / "void").exists()
            keeper = _read_mark(folder / "keeper")
            if not keeper:
                if void:
                    return "V"
                return "E" if (folder / "start").exists() else "N"
            if keeper[2] == _boot() and _started(int(keeper[0])) == keeper[1]:
                return "L"
        return "G"

    def _awaited_state(self, folder: Path) -> str:
        state = self._state(folder)
        for turn in range(600):
            if state != "E":
                break
            if turn == 300:
                _new_mark(folder / "void", "")
            time.sleep(0.01 if turn < 100 else 0.1)
            state = self._state(folder)
        return state

    def _send_run(self, folder: Path) -> None:
        """Tell how the run stands, then send its output from the offsets on, and its end."""
        state = self._awaited_state(folder)
        if state != "D" and _boot() != self._given["boot"]:
            state = "G"
        digest = next(iter(_read_mark(folder / "start")), "")
        if digest not in ("", self._given["digest"]):
            self._say("O")
            return
        self._say(f"A {state}")
        if state not in "LD":
            return
        files: dict[int, BinaryIO] = {}
        pause, quiet = 0.01, 0.0
        while True:
            state = self._state(folder)  # read before the files: the last bytes are never missed
            if self._send_rest(folder, files):
                pause, quiet = 0.01, 0.0
                continue
            if state != "L":
                break
            time.sleep(pause)
            pause, quiet = min(pause * 2, 0.2), quiet + pause
            if quiet >= 5:
                self._say(".")
                quiet = 0.0
        self._say(f"D {' '.join(self._end)}" if state == "D" else state)

    def _send_rest(self, folder: Path, files: dict[int, BinaryIO]) -> int:
        sent = 0
        for number in (1, 2):
            path = folder / str(number)
            if number not in files and path.exists():
                files[number] = path.open("rb")
                files[number].seek(self._given["offsets"][number - 1])
            if number in files and (data := files[number].read(4 << 20)):
                self._say(str(number))
                _write(1, data)
                sent += len(data)
        return sent


# --- files


def _new_mark(path: Path, text: str) -> bool:
    """Create a file with this text; return False if there is one."""
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _move_mark(path: Path, text: str) -> bool:
    """Create a file that is never seen without its text; return False if there is one."""
    other = path.with_name(f"{path.name}.{uuid4().hex}")
    other.write_text(text)
    try:
        path.hardlink_to(other)
    except FileExistsError:
        return False
    finally:
        other.unlink()
    return True


def _read_mark(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _remove_inputs(folder: Path) -> None:
    for name in ("order", "input"):
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob("script*"):
        file.unlink(missing_ok=True)
    shutil.rmtree(folder / "secrets", ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the folders of programs that were not durable, and whose helper is gone."""
    folders = Path(tempfile.gettempdir()).glob("opsjobs-*")
    for folder in filter(lambda found: _PLACE.fullmatch(found.name), folders):
        owner = _read_mark(folder / "owner")
        with contextlib.suppress(OSError):
            age = time.time() - folder.stat().st_mtime
            gone = bool(owner) and _started(int(owner[0])) != owner[1]
            if (gone and age > CLEANED_SECONDS) or (not owner and age > UNOWNED_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# --- processes


def _boot() -> str:
    given = os.environ.get("OPSJOBS_LAB_BOOT")
    return given or Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str]:
    """Return the fields of a process after its name: state, parent …; none if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def _started(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def _end_program(folder: Path) -> int:
    found = _read_mark(folder / "program")
    return _end_tree(int(found[0]), found[1]) if found else 0


def _end_tree(pid: int, started: str) -> int:
    """End a process and its descendants; return how many it ended.

    Parents first, so that none reports the end of a child. A process that was started by a
    descendant that has ended is not found.
    """
    if _started(pid) != started:
        return 0
    tree: list[int] = []
    while (found := [pid, *_descendants(pid)]) != tree:  # stopped, they start no further ones
        tree = found
        _signal(tree, signal.SIGSTOP)
    _signal(tree, signal.SIGKILL)
    return len(tree)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        if _stat(child):
            yield child
        yield from _descendants(child)


# --- the keeper


def keep(folder: Path) -> None:
    """Start the program, wait for its end, and record that."""
    me = os.getpid()
    if not _move_mark(folder / "keeper", f"{me} {_started(me)} {_boot()}"):
        return
    if (folder / "void").exists():
        _set_end(folder, "n -")
        return
    order = json.loads((folder / "order").read_text())
    try:
        environment = _expand(folder, order)
    except OSError:
        _set_end(folder, "0 storage")
        return
    working = Path(os.environ["HOME"], order["folder"] or ".")
    if not working.is_dir():
        _set_end(folder, "0 folder")
        return
    if order["argv"] is None:
        _set_end(folder, "0 interpreter")
        return
    with (
        (folder / "input").open("rb") as stdin,
        (folder / "1").open("wb") as out,
        (folder / "2").open("wb") as err,
    ):
        process = subprocess.Popen(  # noqa: S603  this stand-in runs what it is sent
            order["argv"],
            stdin=stdin,
            stdout=out,
            stderr=err,
            cwd=working,
            env=environment,
        )
    _move_mark(folder / "program", f"{process.pid} {_started(process.pid)}")
    _await_end(folder, order, process)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    cause = _read_mark(folder / "cause")
    stopped = cause and process.returncode == -signal.SIGKILL
    _set_end(folder, f"s9 {cause[0]}" if stopped else f"{code} -")


def _expand(folder: Path, order: dict[str, Any]) -> dict[str, str]:
    """Write the files of the program; return its environment."""
    (folder / "input").write_bytes(base64.b64decode(order["stdin"]))
    if order.get("script") is not None:
        (folder / order["file"]).write_bytes(base64.b64decode(order["script"]))
    given = {one["name"]: one["value"] for one in order["environment"]}
    environment = {**os.environ, **given, "OPSJOBS_RUN": order["key"]}
    if order["secrets"]:
        (folder / "secrets").mkdir(mode=0o700)
        for secret in order["secrets"]:
            value = base64.b64decode(secret["value"])
            (folder / "secrets" / secret["name"]).write_bytes(value)
        environment["OPSJOBS_SECRETS"] = str(folder / "secrets")
    (folder / "order").unlink()
    return environment


def _await_end(folder: Path, order: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
    """Wait for the end; end the program if it takes too long or writes too much."""
    until = time.monotonic() + order["timeout"]
    pause = 0.005
    while True:
        try:
            process.wait(pause)
        except subprocess.TimeoutExpired:
            pause = min(pause * 2, 0.2)
        else:
            return
        large = any((folder / name).stat().st_size > order["limit"] for name in "12")
        if large or time.monotonic() >= until:
            _new_mark(folder / "cause", "output_limit" if large else "timeout")
            _end_program(folder)


def _set_end(folder: Path, words: str) -> None:
    _remove_inputs(folder)
    _move_mark(folder / "end", words)


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        keep(Path(sys.argv[2]))
    else:
        with os.fdopen(int(sys.argv[2])) as parameters:
            parameters.seek(0)
            perform(json.load(parameters))
