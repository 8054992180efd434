"""Folders for Unix sockets, whose paths the kernel limits to about 100 bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from opsjobs.model.errors import Refusal
from opsjobs.standalone.os_user import Owner

SOCKET_PATH_BYTES = 100  # sun_path has 104 bytes on macOS, 108 on Linux


def socket_folder(preferred: Path, socket_name: str, owner: Owner) -> Path:
    """Return `preferred`, or a short temporary folder if its socket paths would be too long.

    The short folder belongs to `owner`. Raises Refusal("socket_folder_taken") if another user has
    that name.
    """
    if len(os.fsencode(preferred / socket_name)) < SOCKET_PATH_BYTES:
        return preferred
    mark = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"opsjobs-{mark}"
    if len(os.fsencode(short / socket_name)) >= SOCKET_PATH_BYTES:
        short = Path("/tmp") / short.name  # noqa: S108  ownership and mode are checked below
    _make_private(short, owner)
    return short


def _make_private(folder: Path, owner: Owner) -> None:
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, owner.uid, owner.gid)
    except FileExistsError:
        found = folder.lstat()
        # The name is predictable and the parent is world-writable: the folder must belong to the
        # same user and be closed.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.uid or found.st_mode & 0o077:
            raise Refusal(
                "socket_folder_taken",
                f"{folder} is in the way: remove it, or use a data folder with a shorter path.",
            ) from None
