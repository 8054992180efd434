"""Secrets that must not appear anywhere: their forms, and the searches for them."""

from __future__ import annotations

import base64
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
import redis

from opsjobs.standalone.valkey import Valkey

LOOK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Canary:
    """A text that appears nowhere else. `name` is reported if it is found."""

    name: str
    text: str = field(default_factory=lambda: f"canary{secrets.token_hex(12)}")

    @property
    def spellings(self) -> list[bytes]:
        """The text as it is, in hex, and in base64 at any position of a longer text."""
        raw = self.text.encode()
        return [
            raw,
            raw.hex().encode(),
            raw.hex().upper().encode(),
            *(_in_base64(raw, before) for before in range(3)),
        ]


def _in_base64(raw: bytes, before: int) -> bytes:
    """Return the characters of base64 that do not depend on the neighbours.

    `before`: the number of bytes before it, modulo 3.
    """
    spelt = base64.b64encode(b"\0" * before + raw)
    return spelt[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]


def find_canaries(data: bytes, canaries: Iterable[Canary]) -> set[str]:
    """Return the names of the canaries that the data contains in any form."""
    return {
        canary.name for canary in canaries if any(spelling in data for spelling in canary.spellings)
    }


class Sampler(threading.Thread):
    """Reads the command lines and environments of all processes of this machine repeatedly."""

    def __init__(self, canaries: Sequence[Canary]) -> None:
        super().__init__(name="sampler", daemon=True)
        self.seen: set[tuple[str, str]] = set()
        """Name of the canary, and the place: cmdline or environ."""
        self.rounds = 0
        self._canaries = canaries
        self._over = threading.Event()

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Search until the block ends."""
        while not self._over.wait(LOOK_SECONDS):
            for folder in Path("/proc").glob("[0-9]*"):
                for what in ("cmdline", "environ"):
                    with suppress(OSError):
                        found = find_canaries((folder / what).read_bytes(), self._canaries)
                        self.seen |= {(name, what) for name in found}
            self.rounds += 1


def find_canaries_in_files(
    places: Iterable[Path], canaries: Sequence[Canary]
) -> set[tuple[str, str]]:
    """Return the canaries that were found, each with its file."""
    return {
        (name, str(file))
        for file in _files(places)
        for name in find_canaries(_read(file), canaries)
    }


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for folder, _, names in os.walk(place):  # it skips files that disappear meanwhile
            yield from (
                file
                for name in names
                if (file := Path(folder, name)).is_file() and not file.is_symlink()
            )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def find_canaries_in_tables(url: str, canaries: Sequence[Canary]) -> set[tuple[str, str]]:
    """Return the canaries that were found, each with its table of the database."""
    tables = "select c.oid::regclass::text from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace"
    found = set()
    with psycopg.connect(url, autocommit=True) as connection:
        for (table,) in connection.execute(tables).fetchall():
            rows = connection.execute(f"select t::text from {table} t".encode()).fetchall()
            text = "\n".join(row[0] for row in rows).encode()
            found |= {(name, table) for name in find_canaries(text, canaries)}
    return found


@contextmanager
def overheard(valkey: Valkey) -> Iterator[list[bytes]]:
    """Collect every command to Valkey during the block; at its end, add the values of all keys."""
    heard: list[bytes] = []
    client: Any = redis.Redis.from_url(valkey.url)
    with redis.Redis.from_url(valkey.url).monitor() as monitor:
        over, thread = (
            f"over-{secrets.token_hex(8)}",
            threading.Thread(target=lambda: _listen(monitor, heard, over)),
        )
        thread.start()
        try:
            yield heard
        finally:
            client.echo(over)
            thread.join()
    heard += [client.dump(key) or b"" for key in client.scan_iter()]
    client.close()


def _listen(monitor: Any, heard: list[bytes], over: str) -> None:
    while over.encode() not in (order := bytes(monitor.connection.read_response())):
        heard.append(order)
