"""`opsjobs keys`: the keys that encrypt all stored secrets, how a new one gets in, and how an old one gets out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.render import Column, Form, show_list, tell
from opsjobs.settings import load_client
from opsjobs.standalone.key_file import KEYS_FILE, drop, new_key, put_first

app = typer.Typer(help="Encryption keys: list, make, rotate and drop the keys of ENCRYPTION_KEYS.", no_args_is_help=True)

PATIENCE_SECONDS = 60.0
"""How long a rotation is repeated that brings nothing forward: what is left is locked by others, and comes free."""

PAUSE_SECONDS = 0.5
COLUMNS = (
    Column("id", lambda k: k["id"]),
    Column("current", lambda k: "yes" if k["current"] else "no"),
    Column("known", lambda k: "yes" if k["known"] else "NO"),
    Column("credentials", lambda k: k["sealed"]["credentials"]),
    Column("executions", lambda k: k["sealed"]["parameters"]),
    Column("audit", lambda k: "yes" if k["sealed"]["audit_chain"] else "no"),
    Column("removable", lambda k: "yes" if k["removable"] else "no"),
)


@app.command("list")
def list_keys(output: options.Output = Form.TABLE) -> None:
    """List the keys by their ids, with what is encrypted under each."""
    with connect() as client:
        found = client.get("/keys")["items"]
    show_list(found, COLUMNS, output)


@app.command()
def new(
    printed: Annotated[bool, typer.Option("--print", help="Print a key for ENCRYPTION_KEYS instead.")] = False,
) -> None:
    """Put a new key before those of `opsjobs up` on this machine; it is used from its next start on.

    Restart `opsjobs up`, then encrypt everything anew with `opsjobs keys rotate`.
    """
    if printed:
        text, made = new_key()
        print(text)
        tell(
            f"this is key {made}: put it into ENCRYPTION_KEYS of all processes, behind the current one; docs/credentials.md says how"
        )
        return
    path = _file()
    made = put_first(path)
    print(made)
    tell(f"{path} begins with key {made} now. Restart `opsjobs up`, then: opsjobs keys rotate")


@app.command()
def rotate() -> None:
    """Encrypt under the current key what is under older ones.

    While everything runs; may be broken off and called again.
    """
    with connect() as client:
        answer = _until_done(client)
    broken, keys = answer["broken"], answer["keys"]
    for row in broken:
        tell(f"{row['kind']} {row['id']} does not open, and stays as it is: {row['reason']}")
    for key in keys:
        if key["removable"]:
            tell(f"nothing needs key {key['id']} any more: opsjobs keys drop {key['id']}")
    if broken:
        raise CommandFailed(f"{answer['left']} rows are still under older keys, for they do not open.")
    tell(f"everything is encrypted under key {keys[0]['id']}")


@app.command("drop")
def drop_key(key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `opsjobs keys list` shows it.")]) -> None:
    """Take an old key away from `opsjobs up` on this machine, once nothing is encrypted under it."""
    with connect() as client:
        found = next((k for k in client.get("/keys")["items"] if k["id"] == key), None)
    if found is None or not found["known"]:
        raise CommandFailed(f"there is no key {key} in use: `opsjobs keys list` shows them.", ExitCode.NOT_FOUND)
    if not found["removable"]:
        why = "it is the current one" if found["current"] else "rows are encrypted under it: first `opsjobs keys rotate`"
        raise CommandFailed(f"key {key} cannot be dropped: {why}.", ExitCode.CONFLICT)
    path = _file()
    if not drop(path, key):
        raise CommandFailed(
            f"{path} does not hold key {key} behind its first one: take it out of ENCRYPTION_KEYS.", ExitCode.NOT_FOUND
        )
    tell(f"key {key} is gone from {path}; restart `opsjobs up`, so that its processes forget it")


def _until_done(client: Client) -> Json:
    """The last answer: of the rotation that finds nothing more to do. Raises CommandFailed where it gets no further."""
    done, moved = 0, time.monotonic()
    while True:
        answer: Json = client.post("/keys/rotate")
        done += answer["rewrapped"]
        if answer["done"]:
            return answer
        tell(f"{done} rows encrypted anew, {answer['left']} left")
        if answer["rewrapped"]:
            moved = time.monotonic()
        elif time.monotonic() - moved > PATIENCE_SECONDS:
            raise CommandFailed(
                f"{answer['left']} rows are locked by others, or do not open: see the log of the API, and call it again."
            )
        else:
            time.sleep(PAUSE_SECONDS)


def _file() -> Path:
    """The keys of the `up` of this data folder. Raises CommandFailed where it makes none of its own."""
    path = load_client()[1] / KEYS_FILE
    if not path.exists():
        raise CommandFailed(
            f"there is no {path}: the keys come from ENCRYPTION_KEYS. `opsjobs keys new --print` makes one; change the setting itself."
        )
    return path
