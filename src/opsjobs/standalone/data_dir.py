"""The data folder of one `up`: who holds it, and where its keys, token, logs and servers lie."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from opsjobs.model.errors import Refusal
from opsjobs.standalone.key_file import KEYS_FILE, new_key, write_private

TOKEN_BYTES = 32
_NOT_OURS_TO_JUDGE = {"lost+found"}


class DataFolder:
    """`D`: held by one process at a time, from `hold()` until `release()` or the process's end."""

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

    def hold(self) -> None:
        """Make the folder where needed and take it. Raises Refusal where it is another's, or in use."""
        try:
            self._make()
            self._held = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as broken:
            raise Refusal(
                "data_folder_unusable",
                f"{self.path} cannot be used as a data folder ({broken.strerror}: {broken.filename}): "
                "choose another one with --data-dir or OPSJOBS_DATA_DIR.",
            ) from None
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._held, 32).decode(errors="replace").strip() or "unknown"
            self._close()
            raise Refusal(
                "already_running",
                f"opsjobs runs on {self.path} already (process {holder}). Use that one, stop it (kill {holder}), "
                "or choose another folder with --data-dir.",
            ) from None
        os.ftruncate(self._held, 0)
        os.pwrite(self._held, f"{os.getpid()}\n".encode(), 0)
        self.endpoint.unlink(missing_ok=True)  # of one that was killed
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def release(self) -> None:
        """Let the next one in."""
        with contextlib.suppress(FileNotFoundError):
            self.endpoint.unlink()
        self._close()

    def make_secrets(self, *, keys: bool) -> None:
        """Make, once, the admin token and (where `keys`: nobody gave any) the key that encrypts credentials; both 0600."""
        if keys and not self.keys.exists():
            write_private(self.keys, [new_key()[0]])
        if not self.admin_token.exists():
            write_private(self.admin_token, [f"opsc_{secrets.token_urlsafe(TOKEN_BYTES)}"])

    def tell_endpoint(self, url: str) -> None:
        """Let commands on this machine find us."""
        making = self.endpoint.with_suffix(".making")
        making.write_text(f"{url}\n")
        making.chmod(0o644)
        making.replace(self.endpoint)

    def note_worker(self, name: str) -> None:
        """Write down a worker that we have started; should we be killed, the next `up` knows whom to bury."""
        with self._workers.open("a") as file:
            file.write(f"{name}\n")

    def workers(self) -> list[str]:
        """The workers written down since `forget_workers`."""
        return self._workers.read_text().splitlines() if self._workers.exists() else []

    def forget_workers(self) -> None:
        """They are buried."""
        self._workers.unlink(missing_ok=True)

    def _make(self) -> None:
        existed = self.path.exists()
        for missing in [p for p in (*reversed(self.path.parents), self.path) if not p.exists()]:
            missing.mkdir()
            missing.chmod(0o755)  # whatever our umask: PostgreSQL's user must get through
        if existed and not self._lock.exists() and (strangers := _strangers(self.path)):
            raise Refusal(
                "folder_in_use",
                f"{self.path} holds other things ({', '.join(sorted(strangers)[:3])}) and no data of opsjobs: "
                "choose an empty or a new folder with --data-dir.",
            )
        # As root PostgreSQL runs as another user, who must get through to its own part, and needs to read nothing else.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        if self.path.stat().st_mode & 0o777 != mode:
            self.path.chmod(mode)

    def _close(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _strangers(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - _NOT_OURS_TO_JUDGE
