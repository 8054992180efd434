"""Folders for Unix sockets, whose paths the kernel limits to some 100 bytes."""

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
    """`preferred`, or where a socket's path there would be too long, a folder of `owner` under the temporary directory.

    Raises Refusal("socket_folder_taken") where that name is someone else's.
    """
    if len(os.fsencode(preferred / socket_name)) < SOCKET_PATH_BYTES:
        return preferred
    mark = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"opsjobs-{mark}"
    if len(os.fsencode(short / socket_name)) >= SOCKET_PATH_BYTES:
        short = Path("/tmp") / short.name  # checked below to be ours alone  # noqa: S108  checked below to be ours alone
    _make_private(short, owner)
    return short


def _make_private(folder: Path, owner: Owner) -> None:
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, owner.uid, owner.gid)
    except FileExistsError:
        found = folder.lstat()
        # The name can be guessed and the parent is open to all: what is there must be the same user's, and closed.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.uid or found.st_mode & 0o077:
            raise Refusal(
                "socket_folder_taken", f"{folder} is in the way: remove it, or use a data folder with a shorter path."
            ) from None
