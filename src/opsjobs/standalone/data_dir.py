"""The data folder of one `up`: its lock, keys, token, logs and servers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from opsjobs.model.errors import Refusal
from opsjobs.standalone.key_file import KEYS_FILE, new_key, write_private

TOKEN_BYTES = 32
_IGNORED_ENTRIES = {"lost+found"}


class DataFolder:
    """The data folder, locked by one process from `acquire()` until `release()` or its exit."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.keys = self.path / KEYS_FILE
        self.admin_token = self.path / "admin-token"
        self.endpoint = self.path / "endpoint"
        self.lab = self.path / "lab"
        self._workers = self.path / "workers"
        self._lock = self.path / "lock"
        self._held: int | None = None

    def acquire(self) -> None:
        """Create the folder if needed and lock it.

        Raises Refusal if the folder holds something else, is unusable, or is locked by another
        process.
        """
        try:
            self._make()
            self._held = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as broken:
            raise Refusal(
                "data_folder_unusable",
                f"{self.path} cannot be used as a data folder "
                f"({broken.strerror}: {broken.filename}): "
                "choose another one with --data-dir or OPSJOBS_DATA_DIR.",
            ) from None
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._held, 32).decode(errors="replace").strip() or "unknown"
            self._close()
            raise Refusal(
                "already_running",
                f"opsjobs runs on {self.path} already (process {holder}). "
                f"Use that one, stop it (kill {holder}), or choose another folder with --data-dir.",
            ) from None
        os.ftruncate(self._held, 0)
        os.pwrite(self._held, f"{os.getpid()}\n".encode(), 0)
        self.endpoint.unlink(missing_ok=True)  # left behind by an `up` that was killed
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def release(self) -> None:
        """Remove the endpoint file and release the lock."""
        with contextlib.suppress(FileNotFoundError):
            self.endpoint.unlink()
        self._close()

    def make_secrets(self, *, keys: bool) -> None:
        """Create the admin token and, if `keys`, the encryption key of credentials, once.

        `keys` is true if the caller configured no key. Both files have mode 0600.
        """
        if keys and not self.keys.exists():
            write_private(self.keys, [new_key()[0]])
        if not self.admin_token.exists():
            write_private(self.admin_token, [f"opsc_{secrets.token_urlsafe(TOKEN_BYTES)}"])

    def publish_endpoint(self, url: str) -> None:
        """Write the URL into the endpoint file, so that commands on this machine find the API."""
        making = self.endpoint.with_suffix(".making")
        making.write_text(f"{url}\n")
        making.chmod(0o644)
        making.replace(self.endpoint)

    def record_worker(self, name: str) -> None:
        """Record a worker that was started.

        If this process is killed, the next `up` reads the record and reaps these workers.
        """
        with self._workers.open("a") as file:
            file.write(f"{name}\n")

    def workers(self) -> list[str]:
        """Return the workers recorded since `forget_workers`."""
        return self._workers.read_text().splitlines() if self._workers.exists() else []

    def forget_workers(self) -> None:
        """Delete the record of workers, after they have been reaped."""
        self._workers.unlink(missing_ok=True)

    def _make(self) -> None:
        existed = self.path.exists()
        for missing in [p for p in (*reversed(self.path.parents), self.path) if not p.exists()]:
            missing.mkdir()
            # Regardless of our umask: PostgreSQL's user must be able to traverse it.
            missing.chmod(0o755)
        if existed and not self._lock.exists() and (foreign := _foreign_entries(self.path)):
            raise Refusal(
                "folder_in_use",
                f"{self.path} holds other things ({', '.join(sorted(foreign)[:3])}) "
                "and no data of opsjobs: choose an empty or a new folder with --data-dir.",
            )
        # Under root, PostgreSQL runs as another user, which must traverse this folder to its own
        # part and needs to read nothing else.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        if self.path.stat().st_mode & 0o777 != mode:
            self.path.chmod(mode)

    def _close(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _foreign_entries(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - _IGNORED_ENTRIES
