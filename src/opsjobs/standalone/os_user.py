"""Choose the OS user of the embedded servers: PostgreSQL refuses root.

Under root it runs as a user without privileges.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from opsjobs.model.errors import Refusal

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


def us() -> Owner:
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
        return us()
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
    if owner.is_us or _may_enter(folder, owner):
        return
    closed = next(
        (part for part in [*reversed(folder.parents), folder] if not _passable(part, owner)), folder
    )
    raise Refusal(
        "folder_closed",
        f"{closed} is closed to the user {owner.name}, as which PostgreSQL runs, "
        f"so it cannot keep its data in {folder}. Choose another data folder with --data-dir "
        f"(as root the default is /var/lib/opsjobs), or open the way: chmod o+x {closed}",
    )


def _may_enter(folder: Path, owner: Owner) -> bool:
    # Ask the kernel, because mode bits do not show access control lists.
    asked = subprocess.run(  # noqa: S603  our own arguments
        ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)],
        user=owner.uid, group=owner.gid, extra_groups=[], cwd="/", capture_output=True, check=False,
    )  # fmt: skip
    return asked.returncode == 0


def _passable(folder: Path, owner: Owner) -> bool:
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
