"""Start processes: the servers, the processes of the service, and short-lived helpers.

A process has its own session and is killed when the thread that started it ends. Helpers keep
database drivers out of `up`, so that it stays small. The servers run as a user without privileges
if `up` runs as root, because PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.standalone.process_logs import ProcessLog

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


def bare_environment() -> dict[str, str]:
    """Return the variables that a third-party server needs: no setting, no secret."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"}


def spawn(
    command: Sequence[str],
    *,
    log: Path | ProcessLog,
    environment: Mapping[str, str],
    owner: Owner | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `command` (an absolute path first) and send its output to `log`.

    The process gets `death_signal` when the calling thread ends, for any reason (Linux).
    `owner` is the user that it runs as: only root may name another user. Output to a path is
    appended as it is.
    """
    user = (str(owner.uid), str(owner.gid)) if owner and not owner.is_us else ("-", "-")
    with log.open("ab") if isinstance(log, Path) else log.open() as output:
        return subprocess.Popen(  # noqa: S603  our own arguments
            [
                sys.executable,
                "-I",
                "-S",
                _LAUNCHER,
                str(os.getpid()),
                str(int(death_signal)),
                *user,
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal must reach only this process
        )


# --- helpers


Write = Callable[[str], None]
"""Writes text to a log, line by line."""
WITH_LAB = "--lab"
WITH_WINDOWS_LAB = "--lab-windows"
OWN_DATABASE = "--own-database"


def run_helper(
    name: str, *arguments: str, environment: Mapping[str, str], log: Path, write: Write
) -> None:
    """Run `opsjobs.standalone.<name>` to completion.

    Raises Unavailable with the last line of its stderr if it fails; `write` gets the whole stderr,
    for the file `log`.
    """
    done = subprocess.run(  # noqa: S603  our own module
        [sys.executable, "-m", f"opsjobs.standalone.{name}", *arguments],
        env=dict(environment),
        cwd="/",
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        write(done.stderr)
        lines = done.stderr.strip().splitlines()
        raise Unavailable(
            f"{lines[-1] if lines else f'{name} ended with {done.returncode}'} (all of it in {log})"
        )


# --- users


_CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Owner:
    """A user of this machine."""

    name: str
    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        """Return True if this process already runs as this user."""
        return self.uid == os.geteuid()


def current_user() -> Owner:
    """Return the user of this process. Raises Refusal if the machine has no name for it."""
    owner = _by_uid(os.geteuid())
    if owner is None:
        raise Refusal(
            "user_without_name",
            f"User {os.geteuid()} has no entry in /etc/passwd, and PostgreSQL does not run "
            "as such a user. Run opsjobs as a user with a name, or set DATABASE_URL "
            "to a PostgreSQL of your own.",
        )
    return owner


def server_owner(existing: Path) -> Owner:
    """Return the user that PostgreSQL runs as.

    That is the current user; for root it is the owner of the `existing` folder, else the first
    of `_CANDIDATES` that exists.
    """
    if os.geteuid() != 0:
        return current_user()
    if existing.exists() and (kept := _by_uid(existing.stat().st_uid)) and kept.uid != 0:
        return kept
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(name, entry.pw_uid, entry.pw_gid)
    raise Refusal(
        "no_server_user",
        f"PostgreSQL does not run as root, and none of the users {', '.join(_CANDIDATES)} exists. "
        "Run opsjobs as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own.",
    )


def refuse_closed_parent(folder: Path, owner: Owner) -> None:
    """Raise Refusal("folder_closed") if `owner` cannot reach `folder`.

    The error names the first folder on the path that `owner` cannot traverse.
    """
    if owner.is_us or _can_enter(folder, owner):
        return
    closed = next(
        (part for part in [*reversed(folder.parents), folder] if not _can_traverse(part, owner)),
        folder,
    )
    raise Refusal(
        "folder_closed",
        f"{closed} is closed to the user {owner.name}, as which PostgreSQL runs, "
        f"so it cannot keep its data in {folder}. Choose another data folder with --data-dir "
        f"(as root the default is /var/lib/opsjobs), or open the way: chmod o+x {closed}",
    )


def _can_enter(folder: Path, owner: Owner) -> bool:
    # Ask the kernel, because mode bits do not show access control lists.
    asked = subprocess.run(  # noqa: S603  our own arguments
        ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)],
        user=owner.uid, group=owner.gid, extra_groups=[], cwd="/", capture_output=True, check=False,
    )  # fmt: skip
    return asked.returncode == 0


def _can_traverse(folder: Path, owner: Owner) -> bool:
    found = folder.stat()
    if found.st_uid == owner.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == owner.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _by_uid(uid: int) -> Owner | None:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid)
