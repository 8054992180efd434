"""Find the service: OPSJOBS_URL and OPSJOBS_TOKEN, or the local `opsjobs up`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.model.secret import Secret
from opsjobs.settings import ClientSettings

ENDPOINT_FILE = "endpoint"  # the URL, one line; `up` writes it on start and removes it on stop
TOKEN_FILE = "admin-token"  # noqa: S105  a file's name
FILE_BYTES_MAX = 8_192


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """An address, the token to show there, and whether it is the local `up` of `data_dir`."""

    url: str
    token: Secret | None
    local: bool
    data_dir: Path


def find(client: ClientSettings, data_dir: Path) -> ServiceEndpoint:
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
    except (OSError, UnicodeDecodeError) as broken:
        raise CommandFailed(f"{path} cannot be read: {broken}") from None
