"""`opsjobs files`: sources of file transfers. A folder is uploaded as a tar."""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import tell
from opsjobs.cli.render import Column, Form, ago, show_list, show_one, size

app = typer.Typer(
    help="Files: upload and download the sources of file transfers.", no_args_is_help=True
)

File = Annotated[str, typer.Argument(metavar="FILE", help="Id or uuid.")]
PIECE_BYTES = 256 << 10
COLUMNS = (
    Column("id", lambda f: f["id"]),
    Column("name", lambda f: f["name"]),
    Column("size", lambda f: size(f["size"])),
    Column("sha256", lambda f: f["sha256"], wide=True),
    Column("by", lambda f: f["created_by"]),
    Column("uploaded", lambda f: ago(f["created_at"])),
    Column("uuid", lambda f: f["uuid"], wide=True),
)


@app.command()
def upload(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A file, or a folder. A folder is uploaded as a tar; use it with `unpack: true`.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="The name at the service (default: the local name).")
    ] = None,
) -> None:
    """Upload a file or a folder.

    Prints its id, which is the `source` of a file_transfer action.
    """
    called = path.resolve().name
    if path.is_dir():
        with tempfile.TemporaryFile() as packed:
            _pack(path, packed)
            packed.seek(0)
            _send(packed, name or f"{called}.tar")
        return
    if not path.is_file():
        raise CommandFailed(f"{path}: no such file or folder.", ExitCode.USAGE)
    with path.open("rb") as file:
        _send(file, name or called)


def _send(file: IO[bytes], name: str) -> None:
    with connect() as client:
        stored = client.send("/files", _pieces(file), name=name)
    print(stored["id"])
    tell(f"file {stored['name']} is uploaded: {size(stored['size'])}, sha256 {stored['sha256']}")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _pack(folder: Path, into: IO[bytes]) -> None:
    """Write the folder as a tar; symbolic links are followed."""
    with tarfile.open(
        fileobj=into, mode="w", dereference=True, format=tarfile.PAX_FORMAT
    ) as archive:
        for path in sorted(folder.rglob("*")):
            if not (path.is_file() or path.is_dir()):
                raise CommandFailed(
                    f"{path} is neither a file nor a folder: it cannot be uploaded."
                )
            archive.add(path, str(path.relative_to(folder)), recursive=False)


@app.command("list")
def list_files(output: options.Output = Form.TABLE, limit: options.Limit = 50) -> None:
    """List files, the newest first."""
    with connect() as client:
        found, more = client.items("/files", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def show(file: File, output: options.Output = Form.TABLE) -> None:
    """Show one file."""
    with connect() as client:
        show_one(client.get(path_of("file", file)), output)


@app.command()
def download(
    file: File,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="PATH", help="The path to write to; - is standard output."),
    ] = None,
) -> None:
    """Download a file to its own name, or to --to PATH. An existing file is not overwritten."""
    with connect() as client:
        stored = client.get(path_of("file", file))
        pieces = client.raw(f"{path_of('file', file)}/content")
        if str(to) == "-":
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        place = to or Path(stored["name"])
        try:
            _write_new(place, pieces)
        except FileExistsError:
            raise CommandFailed(
                f"{place} exists already. Use --to PATH.", ExitCode.CONFLICT
            ) from None
        except OSError as error:
            raise CommandFailed(f"{place} cannot be written: {error.strerror}.") from None
    tell(f"{place}: {size(stored['size'])}")


def _write_new(place: Path, pieces: Iterable[bytes]) -> None:
    """Write a new file, and remove it if it does not become whole. Raises OSError."""
    with place.open("xb") as made:
        try:
            made.writelines(pieces)
        except BaseException:
            place.unlink()
            raise


@app.command()
def rm(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Ids or uuids.")],
) -> None:
    """Remove files. Copies on targets stay."""
    with connect() as client:
        for ref in files:
            client.delete(path_of("file", ref))
            tell(f"file {ref} is removed")
