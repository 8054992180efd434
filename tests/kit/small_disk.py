"""File systems of a few blocks that a test can fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kit.backing_servers import open_folder


@contextmanager
def small_disk(kib: int) -> Iterator[Path]:
    """Create and mount a file system until the block ends."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a file system")
    with open_folder() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=700", "tmpfs", str(folder)],
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip("this machine cannot mount a tmpfs")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Fill this file system to the last block."""
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
