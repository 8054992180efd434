"""Speaks for `opsjobs` in a shell: hands a command and its files to the server of commands, and ends as the command does.

Run by path, without the site's packages, so that its start costs next to nothing.
"""

from __future__ import annotations

import os
import socket
import sys


def main(place: str, arguments: list[str]) -> int:
    """Return the command's exit code."""
    folder = os.getcwdb()  # noqa: PTH109  pathlib takes long to load
    words = [folder, b"%d" % len(arguments), *map(os.fsencode, arguments)]
    words += [name + b"=" + value for name, value in os.environb.items()]
    data = b"\0".join(words)
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(place)
        socket.send_fds(asked, [len(data).to_bytes(8)], [0, 1, 2])
        asked.sendall(data)
        _, code = asked.makefile("rb").read().split()
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
