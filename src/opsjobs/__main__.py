"""Entry point of the command `opsjobs` and of `python -m opsjobs`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from opsjobs.cli.app import run


def main() -> None:
    """Run the command line and exit with its code."""
    if os.getpid() == 1:
        # In a container: the kernel drops signals to process 1 that it has no handler for.
        signal.signal(signal.SIGTERM, _end)
    sys.exit(run(sys.argv[1:]))


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
