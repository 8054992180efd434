"""The SHA-256 of a file being written to a machine, computed there at the same time."""

from __future__ import annotations

import re
from collections.abc import Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.process import SshProcess

# The block size of dd, and how many blocks are worth a process: 4 MiB.
UNIT_BYTES = 64 << 10
UNITS_AT_ONCE = 64
# Standard input carries the path first, then repeatedly the number of further blocks.
LINE = (
    'sh -c \'IFS= read -r f && exec 3<"$f" || exit 1; '
    "while read -r n; do dd bs=65536 count=$n <&3 2>/dev/null || exit 1; done | "
    "if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi' opsjobs"
)
_DIGEST_LINE = re.compile(rb"(?:^|\n)([0-9a-f]{64})\b")
_OUTPUT_BYTES_MAX = 64 << 10


class SshCounting:
    """A program on the machine that reads the file behind the writer.

    It reads only as far as it is told, so it never reads what is not there yet. It is optional: if
    it cannot be started, or ends early, there is no digest. `let_go` is called at the end.
    """

    def __init__(self, process: SshProcess, let_go: Callable[[], None]) -> None:
        self._process = process
        self._let_go = let_go
        self._announced_units = 0

    def reached(self, size_bytes: int) -> None:
        """Report that the first `size_bytes` of the file are written."""
        units = size_bytes // UNIT_BYTES - self._announced_units
        if units >= UNITS_AT_ONCE:
            self._say(units)

    async def digest(self, size_bytes: int) -> bytes | None:
        """Return the digest of the whole file of `size_bytes`, or None if there is none."""
        units = -(-size_bytes // UNIT_BYTES) - self._announced_units
        if units:
            self._say(units)
        self._process.say(b"", end=True)
        output, end = bytearray(), RemoteExit(None)
        try:
            async for piece in self._process:
                if isinstance(piece, RemoteExit):
                    end = piece
                elif piece.stream == "stdout" and len(output) < _OUTPUT_BYTES_MAX:
                    output += piece.data
        except RemoteFailure:
            return None  # the next request for the file shows whether contact is lost
        match = _DIGEST_LINE.search(output)
        return bytes.fromhex(match[1].decode()) if match and end == RemoteExit(0) else None

    async def close(self) -> None:
        """Close the process, whatever it is doing."""
        await self._process.close()
        self._let_go()

    def _say(self, units: int) -> None:
        self._announced_units += units
        self._process.say(b"%d\n" % units, end=False)
