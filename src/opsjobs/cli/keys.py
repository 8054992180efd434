"""`opsjobs keys`: list, add, rotate and remove encryption keys."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import tell
from opsjobs.cli.render import Column, Form, show_list
from opsjobs.model.secret import decode_key, key_id
from opsjobs.settings import load_client
from opsjobs.standalone.data_dir import KEYS_FILE, add_key, new_key, remove_key

app = typer.Typer(
    help="Encryption keys: list, add, rotate and remove the keys of ENCRYPTION_KEYS.",
    no_args_is_help=True,
)

PATIENCE_SECONDS = 60.0
"""The time limit for a rotation without progress, while rows are locked by others."""

PAUSE_SECONDS = 0.5
COLUMNS = (
    Column("id", lambda k: k["id"]),
    Column("current", lambda k: "yes" if k["current"] else "no"),
    Column("known", lambda k: "yes" if k["known"] else "NO"),
    Column("credentials", lambda k: k["sealed"]["credentials"]),
    Column("executions", lambda k: k["sealed"]["parameters"]),
    Column("triggers", lambda k: k["sealed"]["triggers"]),
    Column("webhooks", lambda k: k["sealed"].get("webhooks", 0)),
    Column("audit", lambda k: "yes" if k["sealed"]["audit_chain"] else "no"),
    Column("removable", lambda k: "yes" if k["removable"] else "no"),
)


@app.command("list")
def list_keys(output: options.Output = Form.TABLE) -> None:
    """List the keys by their ids, with what each of them encrypts."""
    with connect() as client:
        found = client.get("/keys")["items"]
    show_list(found, COLUMNS, output)


@app.command()
def add(
    printed: Annotated[
        bool, typer.Option("--print", help="Print a key for ENCRYPTION_KEYS instead.")
    ] = False,
) -> None:
    """Add a new current key to `opsjobs up` on this machine.

    It takes effect at the next start. Restart `opsjobs up`, then re-encrypt everything with
    `opsjobs keys rotate`.
    """
    if printed:
        text, made = new_key()
        print(text)
        tell(
            f"this is key {made}: add it to ENCRYPTION_KEYS of all processes, after the current "
            "key; see docs/concepts/secrets.md"
        )
        return
    path = _file()
    made = add_key(path)
    print(made)
    tell(
        f"key {made} is the first key of {path} now. Restart `opsjobs up`, then: "
        "opsjobs keys rotate"
    )


@app.command()
def rotate() -> None:
    """Re-encrypt with the current key everything that older keys encrypt.

    Works while the service runs; can be interrupted and repeated.
    """
    with connect() as client:
        answer = _until_done(client)
        waiting = _find_waiting_key(answer["keys"][0]["id"]) if client.endpoint.local else None
    broken, keys = answer["broken"], answer["keys"]
    for row in broken:
        tell(f"{row['kind']} {row['id']} cannot be decrypted and stays unchanged: {row['reason']}")
    for key in keys:
        if key["removable"]:
            tell(
                f"key {key['id']} is not used any more. Remove it with: opsjobs keys rm {key['id']}"
            )
    if broken:
        raise CommandFailed(
            f"{answer['left']} rows are still encrypted with older keys: they cannot be decrypted."
        )
    tell(f"everything is encrypted with key {keys[0]['id']}")
    if waiting is not None:
        raise CommandFailed(
            f"key {waiting} was added, and is not in use yet. "
            "Restart `opsjobs up`, then repeat the command."
        )


@app.command("rm")
def remove(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Its id, as `opsjobs keys list` shows it.")
    ],
) -> None:
    """Remove an old key from `opsjobs up` on this machine, once nothing is encrypted with it."""
    with connect() as client:
        found = next((k for k in client.get("/keys")["items"] if k["id"] == key), None)
    if found is None or not found["known"]:
        raise CommandFailed(
            f"there is no key {key} in use: `opsjobs keys list` shows them.", ExitCode.NOT_FOUND
        )
    if not found["removable"]:
        why = (
            "it is the current one"
            if found["current"]
            else "rows are encrypted with it; run `opsjobs keys rotate` first"
        )
        raise CommandFailed(f"key {key} cannot be removed: {why}.", ExitCode.CONFLICT)
    path = _file()
    if not remove_key(path, key):
        raise CommandFailed(
            f"{path} does not hold key {key} after its first key. "
            "Remove it from ENCRYPTION_KEYS instead.",
            ExitCode.NOT_FOUND,
        )
    tell(f"key {key} is removed from {path}. Restart `opsjobs up`, so that its processes drop it")


def _until_done(client: Client) -> Json:
    """Repeat the rotation until nothing is left; return the last response.

    Raises CommandFailed if it makes no progress.
    """
    done, moved = 0, time.monotonic()
    while True:
        answer: Json = client.post("/keys/rotate")
        done += answer["rewrapped"]
        if answer["done"]:
            return answer
        tell(f"{done} rows re-encrypted, {answer['left']} left")
        if answer["rewrapped"]:
            moved = time.monotonic()
        elif time.monotonic() - moved > PATIENCE_SECONDS:
            raise CommandFailed(
                f"{answer['left']} rows are locked by others, or cannot be decrypted. "
                "See the log of the API, then repeat the command."
            )
        else:
            time.sleep(PAUSE_SECONDS)


def _find_waiting_key(current: str) -> str | None:
    """Return the id of the key file's first key, if the service does not encrypt with it yet."""
    path = load_client()[1] / KEYS_FILE
    listed = path.read_text().split() if path.exists() else []
    first = key_id(decode_key(listed[0])) if listed else current
    return None if first == current else first


def _file() -> Path:
    """Return the key file of this data folder. Raises CommandFailed if it has none."""
    path = load_client()[1] / KEYS_FILE
    if not path.exists():
        raise CommandFailed(
            f"{path} does not exist: the keys come from ENCRYPTION_KEYS. "
            "Print one with `opsjobs keys add --print`, then change the setting."
        )
    return path
