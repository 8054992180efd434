"""The helper script `spool` of opsjobs, performed by the stand-in host.

The same operations, files and responses as in PowerShell; the beginning of its input was read
already. In place of WMI it starts the keeper as a process in a session of its own, and in place of
LastBootUpTime it has the boot time of Linux, or the one that the stand-in host gives it. It imports
nothing but the standard library and the other stand-ins.

Faults to play, as variables of the host: OPSJOBS_LAB_UNREADABLE names files of a run that cannot be
read, OPSJOBS_LAB_FORBIDDEN is set if no process may be looked at or ended, OPSJOBS_LAB_BOOT is the
boot time in ticks, and OPSJOBS_LAB_WITNESS names the process that each boot starts anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from opsjobs.standalone.lab.wsman.stand_in_command import make_command

_PLACE = re.compile(r"opsjobs-[0-9a-f]{32}")
_BOOT = re.compile(r"(\d+) (\d+) (\S+) *")
_WITNESS = "OPSJOBS_LAB_WITNESS"
CLEANED_SECONDS, UNOWNED_SECONDS = 60.0, 86_400.0
CLOCK_STEP_TICKS = 100_000_000
"""A boot time that has moved by more is another boot, if no process can tell: 10 s."""
BOOT_BYTES = 128
END_BYTES = 64
READ_TRIES = 5
GONE_SECONDS = 5.0
START_SECONDS = 120.0
"""A start whose keeper has not come in this time is voided: it never comes after a reboot."""

_left: dict[int, str] = {}
"""The processes that could not be ended: id and start time."""


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
    try:
        operations[given["op"]]()
    except OSError as error:  # what cannot be read is not taken for what is not there
        _write(2, f"{error}\n".encode())
        spool.say("U")


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

    def say(self, words: str) -> None:
        """Write a record."""
        _write(1, f"{self._given['nonce']} {words}\n".encode())

    # --- operations

    def hello(self) -> None:
        """Tell the identity of the spool; create it if needed."""
        home = self._root.parent
        if not home.is_absolute() or home.name == "Default":  # the user never logged on
            self.say("X profile")
            return
        try:
            self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
            _move_mark(self._root / "id", self._given["store"])
            boot = _boot(self._root)
        except OSError:
            self.say("X")
            return
        self.say(f"I {self._store()} {boot}")

    def start(self) -> None:
        """Start the run unless it was started before, and follow it."""
        data = _read_input(self._given["bytes"])
        if self._store() != self._given["store"] or _boot(self._root) != self._given["boot"]:
            self.say("I")
            return
        folder = self._folder
        self.say("H")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _new_mark(folder / "start", self._given["digest"]):
                self.say("S")
                return
        except OSError:
            self.say("F")
            return
        try:
            order = {name: value for name, value in self._given.items() if name != "nonce"}
            (folder / "order").write_text(json.dumps(order))
            (folder / "data").write_bytes(data)
            (folder / "ending").write_text(" " * END_BYTES)
        except OSError:
            _remove_inputs(folder)
            (folder / "ending").unlink(missing_ok=True)
            (folder / "start").unlink()
            self.say("F")
            return
        try:
            self._start_keeper(folder)
        except OSError:  # it may have been started all the same
            _new_mark(folder / "void", "")
            if self._awaited_state(folder) == "V":
                _remove_inputs(folder)
                self.say("F")
                return
        self._send_run(folder)

    def _start_keeper(self, folder: Path) -> None:
        subprocess.Popen(  # noqa: S603  this stand-in runs what it is sent
            make_command("spool_stand_in", str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def attach(self) -> None:
        """Follow a run that was started before."""
        if self._store() != self._given["store"]:
            self.say("I")
            return
        self._send_run(self._folder)

    def look(self) -> None:
        """Tell the state of a run."""
        state = self._settled(self._folder)
        if state in "DG" and any(map(_alive, self._marks_left(self._folder))):
            state = "L"
        self.say(f"K D {' '.join(self._end)}" if state == "D" else f"K {state} - -")

    def cancel(self) -> None:
        """End the run, or make sure that it never starts."""
        folder = self._folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _new_mark(folder / "void", "")
        state = self._awaited_state(folder)
        if state == "V":
            self.say("C never_started - -")
            return
        if state == "D" and not _is_there(folder / "left"):
            self.say(f"C already_finished {' '.join(self._end)}")
            return
        try:
            ended = self._end_run(folder, state) + self._end_left(folder)
        finally:
            _save_left(folder)
        if any(_alive([str(pid), started]) for pid, started in _left.items()):
            self.say("C unreachable - -")
            return
        state = self._life(folder)
        if state == "G" and ended:
            _set_end(folder, f"s9 {'cancel' if _is_there(folder / 'cause') else '-'}", tries=10)
            state = self._state(folder)
        if state == "D":
            proof = "killed" if ended or self._end[1] == "cancel" else "already_finished"
            self.say(f"C {proof} {' '.join(self._end)}")
        else:
            self.say(f"C {'already_finished' if state == 'G' else 'unreachable'} - -")

    def _end_run(self, folder: Path, state: str) -> int:
        """End what lives of it; return how many processes that were."""
        ended, turn = 0, 0
        if state == "L":
            keeper = _read_mark(folder / "keeper")
            with contextlib.suppress(OSError):  # on a full disk `void` says the same
                _new_mark(folder / "cause", "cancel")
            while state == "L" and turn < 50:
                ended += _end_program(folder)
                time.sleep(0.05)
                state, turn = self._state(folder), turn + 1
            if state == "L":
                ended += _end_tree(folder, keeper)
        return ended + (_end_program(folder) if state == "G" else 0)

    def _end_left(self, folder: Path) -> int:
        """End what earlier cancels could not end; return how many processes it ended."""
        return sum(_end_tree(folder, mark) for mark in self._marks_left(folder))

    def _marks_left(self, folder: Path) -> list[list[str]]:
        """Return the marks of this boot in `left`."""
        words = _read_left(folder)
        marks = [words[at : at + 3] for at in range(0, len(words), 3)]
        return [mark for mark in marks if mark[2] == _boot(self._root)]

    def clean(self) -> None:
        """Remove the files of runs that have ended, or only their output.

        Tells the places in the list of those whose files remain.
        """
        kept = []
        for at, key in enumerate(self._given["keys"]):
            done = False
            with contextlib.suppress(OSError):
                done = self._clear(self._runs / key)
            if not done:
                kept.append(str(at))
        with contextlib.suppress(OSError):
            _remove_leftovers()
        self.say(" ".join(["R", *kept]))

    def _clear(self, folder: Path) -> bool:
        """Return True if nothing is left to remove."""
        if not folder.is_dir():
            return True
        if self._settled(folder) in "LE":
            return False
        if self._given["what"] == "all":
            shutil.rmtree(folder, ignore_errors=True)
            return not folder.is_dir()
        _remove_inputs(folder)
        for name in "12":
            if (folder / name).exists():
                (folder / name).write_bytes(b"")
        return True

    # --- the state of a run

    def _store(self) -> str:
        return next(iter(_read_mark(self._root / "id")), "")

    def _state(self, folder: Path) -> str:
        for _ in range(2):
            self._end = _read_mark(folder / "end")
            if self._end:
                return "V" if self._end[0] == "n" else "D"
            void = _is_there(folder / "void")
            keeper = _read_mark(folder / "keeper")
            if not keeper:
                if void:
                    return "V"
                return "E" if _is_there(folder / "start") else "N"
            if keeper[2] == _boot(self._root) and _alive(keeper):
                return "L"
        return "G"

    def _life(self, folder: Path) -> str:
        """Return the state, and L without a keeper as long as the program lives."""
        state = self._state(folder)
        if state == "G":
            program = _read_mark(folder / "program")
            if program and program[2] == _boot(self._root) and _alive(program):
                return "L"
        return state

    def _settled(self, folder: Path) -> str:
        """Return the same; void a start whose keeper has not come in time."""
        state = self._life(folder)
        if state != "E" or abs(time.time() - (folder / "start").stat().st_mtime) <= START_SECONDS:
            return state
        _new_mark(folder / "void", "")
        return self._life(folder)

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
        """Send the state of the run, then its output from the offsets on, and its end."""
        state = self._awaited_state(folder)
        if state != "D" and _boot(self._root) != self._given["boot"]:
            state = "G"
        digest = next(iter(_read_mark(folder / "start")), "")
        if digest not in ("", self._given["digest"]):
            self.say("O")
            return
        self.say(f"A {state}")
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
                self.say(".")
                quiet = 0.0
        self.say(f"D {' '.join(self._end)}" if state == "D" else state)

    def _send_rest(self, folder: Path, files: dict[int, BinaryIO]) -> int:
        sent = 0
        for number in (1, 2):
            path = folder / str(number)
            if number not in files and _is_there(path):
                files[number] = path.open("rb")
                files[number].seek(self._given["offsets"][number - 1])
            if number in files and (data := files[number].read(4 << 20)):
                self.say(str(number))
                _write(1, data)
                sent += len(data)
        return sent


# --- files


def _new_mark(path: Path, text: str) -> bool:
    """Create a file with this text; return False if there is one.

    Raises OSError if it cannot be written; then it is not there.
    """
    try:
        file = path.open("xb", buffering=0)
    except FileExistsError:
        return False
    with file:
        try:
            file.write(text.encode())
        except OSError:
            path.unlink()
            raise
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
    """Return the words of a file; none if it is not there. Raises OSError if that is unknown."""
    for _ in range(READ_TRIES):
        try:
            _check_readable(path)
            return path.read_text().split()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            refused = error
        time.sleep(0.02)
    raise refused


def _is_there(path: Path) -> bool:
    """Return True if the file is there. Raises OSError if that cannot be known."""
    _check_readable(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _check_readable(path: Path) -> None:
    """Raise PermissionError if the file cannot be read: as if another process held it open."""
    if path.name in os.environ.get("OPSJOBS_LAB_UNREADABLE", "").split():
        raise PermissionError(f"{path} is used by another process")


def _remove_inputs(folder: Path) -> None:
    for name in ("order", "data", "input"):
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob("script*"):
        file.unlink(missing_ok=True)
    shutil.rmtree(folder / "secrets", ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the folders of programs that were not durable, and whose helper is gone."""
    folders = Path(tempfile.gettempdir()).glob("opsjobs-*")
    for folder in filter(lambda found: _PLACE.fullmatch(found.name), folders):
        with contextlib.suppress(OSError):
            owner = _read_mark(folder / "owner")
            age = time.time() - folder.stat().st_mtime
            gone = bool(owner) and not _alive(owner)
            if (gone and age > CLEANED_SECONDS) or (not owner and age > UNOWNED_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)


def _read_input(size: int) -> bytes:
    """Return the bytes that follow the parameters."""
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(97)
        data += piece
    return data


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# --- processes


def _boot(root: Path) -> str:
    """Return the name of this boot, which stays when the clock is set."""
    now = int(os.environ.get("OPSJOBS_LAB_BOOT") or _boot_ticks())
    with os.fdopen(os.open(root / "boot", os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        known = _BOOT.fullmatch(file.read())
        name, seen, witness = (known[1], int(known[2]), known[3]) if known else (str(now), now, "")
        moved = abs(now - seen)
        if not witness or moved > CLOCK_STEP_TICKS / 10:
            here = os.environ.get(_WITNESS, _boot_id())
            has_witness = "-" not in (here, witness) and witness
            if here != witness if has_witness else moved > CLOCK_STEP_TICKS:
                name = str(now)
            witness = here
        file.seek(0)
        file.write(f"{name} {now} {witness}".ljust(BOOT_BYTES))
    return name


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _boot_ticks() -> int:
    found = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert found is not None, "Linux tells its boot time"
    return int(found[1]) * 10_000_000


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


def _alive(mark: list[str]) -> bool:
    """Return True if the process of a mark lives. Raises OSError if that cannot be known."""
    if os.environ.get("OPSJOBS_LAB_FORBIDDEN"):
        raise PermissionError(f"process {mark[0]} may not be looked at")
    return _started(int(mark[0])) == mark[1]


def _name(pid: int, root: Path) -> str:
    return f"{pid} {_started(pid) or '-'} {_boot(root)}"


def _end_program(folder: Path) -> int:
    """End the program, unless it was started before a reboot."""
    program = _read_mark(folder / "program")
    if not program or program[2] != _boot(folder.parents[1]):
        return 0
    return _end_tree(folder, program)


def _end_tree(folder: Path, mark: list[str]) -> int:
    """End a process and its descendants; return how many it ended.

    Parents first, so that none reports the end of a child. What it could not end is in `_left`;
    what it may not end is in the file of the run before the first is ended. A process that was
    started by a descendant that has ended is not found.
    """
    if not _alive(mark):
        return 0
    pid = int(mark[0])
    tree: list[int] = []
    while (found := [pid, *_descendants(pid)]) != tree:  # stopped, they start no further ones
        tree = found
        _signal(filter(_may_end, tree), signal.SIGSTOP)
    ended = [one for one in tree if _may_end(one)]
    _keep_living(one for one in tree if one not in ended)
    with contextlib.suppress(OSError):
        _save_left(folder)
    _signal(ended, signal.SIGKILL)
    until = time.monotonic() + GONE_SECONDS
    while any(map(_stat, ended)) and time.monotonic() < until:
        time.sleep(0.005)
    _keep_living(ended)
    return len(ended)


def _may_end(pid: int) -> bool:
    """Return False for a process of another user."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def _keep_living(pids: Iterable[int]) -> None:
    """Add those that live to `_left`."""
    started = {pid: _started(pid) for pid in pids}
    _left.update({pid: moment for pid, moment in started.items() if moment})


def _save_left(folder: Path) -> None:
    """Add what could not be ended to a file of the run, for the next cancel."""
    if not _left:
        return
    known = f" {' '.join(_read_left(folder))} "
    boot = _boot(folder.parents[1])
    marks = [f"{pid} {started} {boot} " for pid, started in _left.items()]
    if new := "".join(mark for mark in marks if f" {mark}" not in known):
        with (folder / "left").open("a") as file:
            file.write(new)


def _read_left(folder: Path) -> list[str]:
    """Return the words of `left`; none if it is not there.

    Raises OSError if it is empty or torn: something may live that it does not name.
    """
    words = _read_mark(folder / "left")
    if len(words) % 3 or (not words and _is_there(folder / "left")):
        raise OSError("the list of what could not be ended is not whole")
    return words


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
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
    root = folder.parents[1]
    if not _move_mark(folder / "keeper", _name(os.getpid(), root)):
        return
    if _is_void(folder):
        _set_end(folder, "n -")
        return
    try:
        begun = _begin(folder)
    except ProcessLookupError:  # it had ended before it was looked up: it counts as lost
        _remove_inputs(folder)
        return
    if isinstance(begun, str):
        _set_end(folder, f"0 {begun}")
        return
    process, order = begun
    why = _await_end(folder, order, process, _name(process.pid, root))
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    cause = _read_cause(folder, why) if process.returncode == -signal.SIGKILL else ""
    if cause:
        _set_end(folder, f"s9 {cause}")
        return
    full = _is_doubtful(folder, code) and not _has_room(folder)
    _set_end(folder, f"{code} {'disk_full' if full else '-'}")


def _begin(folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, Any]] | str:
    """Start the program; return it and its order, or why it did not start.

    Raises ProcessLookupError if it has started and ended.
    """
    try:
        order = json.loads((folder / "order").read_text())
        environment = _expand(folder, order)
    except OSError:
        return "storage"
    working = Path(os.environ["HOME"], order["folder"] or ".")
    if not working.is_dir():
        return "folder"
    if order["argv"] is None:
        return "interpreter"
    try:
        return _start_program(folder, order["argv"], working, environment), order
    except ProcessLookupError:
        raise
    except OSError:
        return "interpreter"


def _start_program(
    folder: Path, argv: list[str], working: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start the program. Raises OSError if it does not start."""
    with (
        (folder / "input").open("rb") as stdin,
        (folder / "1").open("wb") as out,
        (folder / "2").open("wb") as err,
    ):
        return subprocess.Popen(  # noqa: S603  this stand-in runs what it is sent
            argv, stdin=stdin, stdout=out, stderr=err, cwd=working, env=environment
        )


def _read_cause(folder: Path, why: str) -> str:
    """Return why the program was ended; on a full disk the file may be empty."""
    found = _read_mark(folder / "cause")
    if found or why:
        return found[0] if found else why
    return "cancel" if _is_there(folder / "void") else ""


def _is_void(folder: Path) -> bool:
    """Return True if the run may not begin, or if that cannot be known."""
    try:
        return _is_there(folder / "void")
    except OSError:
        return True


def _is_doubtful(folder: Path, code: int) -> bool:
    """Return True if it failed, or if its output ends with a whole block."""
    sizes = [(folder / name).stat().st_size for name in "12"]
    return code != 0 or any(size and size % 512 == 0 for size in sizes)


def _has_room(folder: Path) -> bool:
    """Return False if the disk does not take a block."""
    room = folder / "room"
    try:
        room.write_bytes(bytes(4096))
    except OSError:
        return False
    finally:
        room.unlink(missing_ok=True)
    return True


def _expand(folder: Path, order: dict[str, Any]) -> dict[str, str]:
    """Write the files of the program; return its environment."""
    data = BytesIO((folder / "data").read_bytes())
    if order.get("script") is not None:
        (folder / order["file"]).write_bytes(data.read(order["script"]))
    given = {one["name"]: one["value"] for one in order["environment"]}
    environment = {**os.environ, **given, "OPSJOBS_RUN": order["key"]}
    if order["secrets"]:
        (folder / "secrets").mkdir(mode=0o700)
        for secret in order["secrets"]:
            (folder / "secrets" / secret["name"]).write_bytes(data.read(secret["size"]))
        environment["OPSJOBS_SECRETS"] = str(folder / "secrets")
    (folder / "input").write_bytes(data.read(order["stdin"]))
    for name in ("order", "data"):
        (folder / name).unlink()
    return environment


def _await_end(
    folder: Path, order: dict[str, Any], process: subprocess.Popen[bytes], name: str
) -> str:
    """Wait for the end; end the program if it takes too long or writes too much, and say so."""
    why = ""
    until = time.monotonic() + order["timeout"]
    pause = 0.005
    noted = False
    while True:
        if not noted:  # on a full disk later; until then a cancel ends the keeper as well
            with contextlib.suppress(OSError):
                _move_mark(folder / "program", name)
                noted = True
        try:
            process.wait(pause)
        except subprocess.TimeoutExpired:
            pause = min(pause * 2, 0.2)
        else:
            return why
        large = any((folder / name).stat().st_size > order["limit"] for name in "12")
        if large or time.monotonic() >= until:
            why = why or ("output_limit" if large else "timeout")
            with contextlib.suppress(OSError):
                _new_mark(folder / "cause", why)
            with contextlib.suppress(OSError):
                _end_tree(folder, name.split())


def _set_end(folder: Path, words: str, *, tries: int = 600) -> None:
    """Overwrite what was reserved for the end, and move it into its place."""
    _remove_inputs(folder)
    ending = folder / "ending"
    for left in reversed(range(tries)):
        try:
            with os.fdopen(os.open(ending, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
                file.write(words.ljust(END_BYTES))
            (folder / "end").hardlink_to(ending)
        except FileExistsError:
            pass
        except OSError:
            if not left:
                raise
            time.sleep(0.5)
            continue
        ending.unlink()
        return


def main() -> None:
    """Keep the run whose folder is the argument."""
    keep(Path(sys.argv[1]))
