"""The data folder of one `up`: its lock, keys, token, logs and sockets."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from opsjobs.model.errors import Refusal
from opsjobs.model.secret import KEY_BYTES, decode_key, encode_key, key_id
from opsjobs.standalone.spawn import Owner

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
        self.restoring = self.path / "restoring"
        self._workers = self.path / "workers"
        self._lock = self.path / "lock"
        self._held: int | None = None

    def acquire(self) -> None:
        """Create the folder if needed and lock it.

        Raises Refusal if the folder has other contents, is unusable, or is locked by another
        process.
        """
        try:
            self._make()
            self._held = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Refusal(
                "data_folder_unusable",
                f"{self.path} cannot be used as a data folder "
                f"({error.strerror}: {error.filename}): "
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

    @property
    def holdings(self) -> list[Path]:
        """The database and the secrets that are in the folder, for a restore to move aside."""
        return [path for path in (self.path / "pg", self.keys, self.admin_token) if path.exists()]

    def refuse_half_restored(self) -> None:
        """Raise Refusal if a restore was killed before its database was in place.

        Otherwise a new, empty database would be made.
        """
        if self.restoring.exists() and not (self.path / "pg").exists():
            raise Refusal(
                "restore_not_finished",
                f"{self.path}: a restore into it was not finished. Run `opsjobs restore` again, or "
                f"remove {self.restoring} to begin with an empty database.",
            )

    def make_secrets(self, *, keys: bool) -> None:
        """Create the admin token and, if `keys`, the encryption key of credentials, once.

        `keys` is true if the caller configured no key. Both files have mode 0600.
        """
        if keys and not self.keys.exists():
            write_private(self.keys, [new_key()[0]])
        if not self.admin_token.exists():
            write_private(self.admin_token, [f"opsc_{secrets.token_urlsafe(TOKEN_BYTES)}"])

    def publish_endpoint(self, url: str) -> None:
        """Write the URL into the endpoint file, so that commands on this host find the API."""
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
            # Regardless of the umask: PostgreSQL's user must be able to traverse it.
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


# --- keys: one per line, the current one first


KEYS_FILE = "keys"


def new_key() -> tuple[str, str]:
    """Return the text and the id of a new key."""
    raw = secrets.token_bytes(KEY_BYTES)
    return encode_key(raw), key_id(raw)


def add_key(path: Path) -> str:
    """Put a new key first, to be the current one from the next start on; return its id.

    The older keys stay in the file and still decrypt.
    """
    text, made = new_key()
    write_private(path, [text, *read_keys(path)])
    return made


def remove_key(path: Path, unwanted: str) -> bool:
    """Remove an older key by its id; return False if no key after the first has this id.

    The first key is the current one and is never removed.
    """
    first, *older = read_keys(path)
    kept = [text for text in older if key_id(decode_key(text)) != unwanted]
    if len(kept) == len(older):
        return False
    write_private(path, [first, *kept])
    return True


def read_keys(path: Path) -> list[str]:
    """Return the texts of the keys, the current one first."""
    return [
        line.strip() for line in path.read_text().replace(",", "\n").splitlines() if line.strip()
    ]


def write_private(path: Path, lines: list[str]) -> None:
    """Replace the file atomically, with mode 0600 and fsync: a lost key cannot be recreated."""
    making = path.with_name(path.name + ".making")
    making.unlink(missing_ok=True)
    with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    _keep_owner(making, path)
    making.replace(path)


def _keep_owner(making: Path, path: Path) -> None:
    """Keep the previous owner if root rewrites a file of another user."""
    if os.geteuid() == 0 and path.exists():
        before = path.stat()
        os.chown(making, before.st_uid, before.st_gid)


# --- sockets


SOCKET_PATH_BYTES = 100  # the kernel limits paths: 104 bytes on macOS, 108 on Linux


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
        # same user and be closed to others.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.uid or found.st_mode & 0o077:
            raise Refusal(
                "socket_folder_taken",
                f"{folder} is in the way: remove it, or use a data folder with a shorter path.",
            ) from None
