"""Find the service and the tokens for it: settings, a local `up`, or a stored login."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.model.secret import Secret
from opsjobs.settings import ClientSettings

ENDPOINT_FILE = "endpoint"  # the URL, one line; `up` writes it on start and removes it on stop
TOKEN_FILE = "admin-token"  # noqa: S105  a file's name
FILE_BYTES_MAX = 8_192


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """An address of the service, and the token to send there."""

    url: str
    token: Secret | None
    local: bool
    """True if it is the local `up` of `data_dir`."""
    data_dir: Path


def find_endpoint(client: ClientSettings, data_dir: Path) -> ServiceEndpoint:
    """Return the endpoint; OPSJOBS_URL and OPSJOBS_TOKEN take precedence.

    Raises CommandFailed if none is set and no `up` is running here.
    """
    local = _line(data_dir / ENDPOINT_FILE)
    url = client.url or local
    if url is None:
        raise CommandFailed(
            f"no running opsjobs found: {data_dir / ENDPOINT_FILE} does not exist.\n"
            "Start one with `opsjobs up`, or set the address of another: "
            "OPSJOBS_URL=https://jobs.example.org OPSJOBS_TOKEN=…\n"
            "(for an `up` with its own --data-dir, set OPSJOBS_DATA_DIR)"
        )
    is_local = local is not None and url.rstrip("/") == local.rstrip("/")
    return ServiceEndpoint(
        url.rstrip("/"),
        client.token or (_local_token(data_dir) if is_local else None),
        is_local,
        data_dir,
    )


def _local_token(data_dir: Path) -> Secret | None:
    token = _line(data_dir / TOKEN_FILE)
    return None if token is None else Secret(token)


def _line(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(FILE_BYTES_MAX).strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise CommandFailed(
            f"{path} belongs to another user: run the command as that user, or set OPSJOBS_URL "
            "and OPSJOBS_TOKEN.",
            ExitCode.NOT_ALLOWED,
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{path} cannot be read: {error}") from None


# --- stored logins


LOGINS_FILE = "logins.json"
LOCK_FILE = "logins.lock"
LOGINS_BYTES_MAX = 1 << 20
STALE_SECONDS = 30.0
"""The time before its expiry at which an access token is renewed."""


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """Tokens of one service."""

    user: str
    access_token: str
    refresh_token: str
    expires_at: float
    """The expiry of the access token, in Unix seconds."""

    @classmethod
    def of_answer(cls, user: str, tokens: dict[str, Any]) -> StoredLogin:
        """Return the login of a response to POST /auth/login or /auth/refresh."""
        return cls(
            user,
            tokens["access_token"],
            tokens["refresh_token"],
            time.time() + tokens["expires_in"],
        )

    @property
    def is_stale(self) -> bool:
        """True if the access token has expired, or is about to."""
        return time.time() >= self.expires_at - STALE_SECONDS

    def __repr__(self) -> str:
        return f"Login({self.user})"


class TokenStore:
    """The stored logins, by the URL of the service.

    `folder` None: $XDG_CONFIG_HOME/opsjobs, else ~/.config/opsjobs.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _default_folder()

    def get(self, url: str) -> StoredLogin | None:
        """Return the login at this service, or None."""
        kept = self._read().get(url)
        return None if kept is None else StoredLogin(**kept)

    def keep(self, url: str, login: StoredLogin) -> None:
        """Store a login in place of the previous one. Call it while holding `lock`."""
        self._write({**self._read(), url: asdict(login)})

    def forget(self, url: str) -> None:
        """Delete a login. Call it while holding `lock`."""
        self._write({stored: login for stored, login in self._read().items() if stored != url})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the store against other commands: a refresh token is valid once."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(
            self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self) -> dict[str, Any]:
        path = self.folder / LOGINS_FILE
        try:
            with path.open(encoding="utf-8") as file:
                stored = json.loads(file.read(LOGINS_BYTES_MAX))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise CommandFailed(
                f"{path} cannot be read ({error}): remove it, and `opsjobs login` again."
            ) from None
        return stored if isinstance(stored, dict) else {}

    def _write(self, logins: dict[str, Any]) -> None:
        # Write a new file, then rename it: a concurrent reader sees either version as a whole.
        path, beside = self.folder / LOGINS_FILE, self.folder / f"{LOGINS_FILE}.new"
        beside.unlink(missing_ok=True)
        handle = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(logins, file)
        beside.replace(path)


def _default_folder() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "opsjobs"
