"""Keep the log files of a folder bounded while processes write to them."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

LOG_BYTES_MAX = 16 << 20
LOOK_EVERY_SECONDS = 10.0


class LogKeeper:
    """Copy each `*.log` that has grown too large to `*.log.1`, and truncate it.

    Writers use O_APPEND, so they need not reopen the file. The few lines written between the copy
    and the truncation are lost.
    """

    def __init__(self, folder: Path, *, bytes_at_most: int = LOG_BYTES_MAX) -> None:
        self._folder = folder
        self._bytes_at_most = bytes_at_most
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keep-logs", daemon=True)

    def start(self) -> None:
        """Start checking periodically, on a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def run_once(self) -> int:
        """Check once; return the number of files that were too large."""
        large = [
            path for path in self._folder.glob("*.log") if path.stat().st_size > self._bytes_at_most
        ]
        for path in large:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            with path.open("r+b") as file:
                file.truncate(0)
        return len(large)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_SECONDS):
            self.run_once()


def last_line(path: Path) -> str:
    """Return the last line of a log that is not blank, or a note that the log is empty."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8_192))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1] if lines else "it said nothing"
