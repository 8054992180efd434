"""The SHA-256 of a file that is being written to a machine, counted there while the bytes come."""

from __future__ import annotations

import re
from collections.abc import Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.process import SshProcess

# The unit in which dd counts, and how many of them are worth a process of their own: 4 MiB.
UNIT_BYTES = 64 << 10
UNITS_AT_ONCE = 64
# The path comes over standard input, and after it how many more units are there, as often as there are some.
LINE = (
    'sh -c \'IFS= read -r f && exec 3<"$f" || exit 1; '
    "while read -r n; do dd bs=65536 count=$n <&3 2>/dev/null || exit 1; done | "
    "if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi' opsjobs"
)
_SAID = re.compile(rb"(?:^|\n)([0-9a-f]{64})\b")
_SAID_BYTES_MAX = 64 << 10


class SshCounting:
    """A program on the machine that reads the file behind us: as far as it is told, so it never sees what is not there yet.

    It is a help and no more: where it cannot be had, or ends before its time, there is no digest. `let_go` is called at the end.
    """

    def __init__(self, process: SshProcess, let_go: Callable[[], None]) -> None:
        self._process = process
        self._let_go = let_go
        self._told_units = 0

    def reached(self, size_bytes: int) -> None:
        """The first so many bytes of the file are there."""
        units = size_bytes // UNIT_BYTES - self._told_units
        if units >= UNITS_AT_ONCE:
            self._say(units)

    async def digest(self, size_bytes: int) -> bytes | None:
        """Of the whole file, which has so many bytes; None where the machine did not count it."""
        units = -(-size_bytes // UNIT_BYTES) - self._told_units
        if units:
            self._say(units)
        self._process.say(b"", end=True)
        heard, end = bytearray(), RemoteExit(None)
        try:
            async for piece in self._process:
                if isinstance(piece, RemoteExit):
                    end = piece
                elif piece.stream == "stdout" and len(heard) < _SAID_BYTES_MAX:
                    heard += piece.data
        except RemoteFailure:
            return None  # whether contact is gone shows with the next request for the file
        said = _SAID.search(heard)
        return bytes.fromhex(said[1].decode()) if said and end == RemoteExit(0) else None

    async def close(self) -> None:
        """Let go, whatever it is at."""
        await self._process.close()
        self._let_go()

    def _say(self, units: int) -> None:
        self._told_units += units
        self._process.say(b"%d\n" % units, end=False)
