"""The program of a checking process: reads questions from stdin, writes answers to stdout.

It has no secrets, no descriptors but its pipes, and limits for memory, time and files, so that a
text can crash or exhaust nothing but this process. It exits at the end of its input, so
it outlives the process that started it by one text at most.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from opsjobs.model.safety_verdict import Finding
from opsjobs.safety.check import check_text, too_large
from opsjobs.sandbox import protocol

CPU_SECONDS_MAX = 2.0
"""CPU time for one text.

The step budget stops it after some 50 ms; this limit is for work that the budget does not count.
"""
MEMORY_BYTES_MAX = 512 << 20
"""Address space of the process."""
RESIDENT_BYTES_MAX = 192 << 20
"""A process that has grown to this is replaced after its answer."""
DESCRIPTORS_MAX = 16


def main() -> int:
    """Answer until the input ends."""
    requests, answers = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    check_text("sh", "true")  # loads the rules
    _limit()
    gc.collect()
    gc.freeze()
    answers.write(protocol.framed(protocol.READY))
    answers.flush()
    while len(header := requests.read(protocol.HEADER.size)) == protocol.HEADER.size:
        body = requests.read(protocol.length_of(header))
        if not _answer(body, answers):
            return 0
    return 0


def _answer(body: bytes, answers: BinaryIO) -> bool:
    """Write the answer; return False if the process has to exit after it."""
    # The signal has its default action: it ends the process at any point, even inside C code.
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS_MAX)
    try:
        stays = not _is_large()
        answer = protocol.encode_answer(_findings(body), leaves=not stays)
    except MemoryError:
        stays, answer = False, protocol.encode_failure("memory")
    signal.setitimer(signal.ITIMER_PROF, 0)
    answers.write(protocol.framed(answer))
    answers.flush()
    return stays


def _findings(body: bytes) -> tuple[Finding, ...]:
    asked, is_too_large = protocol.decode_question(body)
    if is_too_large:
        return too_large(asked.interpreter, asked.text, asked.context, asked.given)
    return check_text(asked.interpreter, asked.text, context=asked.context, given=asked.given)


def _is_large() -> bool:
    return _resident_bytes() > RESIDENT_BYTES_MAX


def _resident_bytes() -> int:
    # On Linux, ru_maxrss includes the size of the parent that forked this process, which may be
    # large.
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024)
    return pages * resource.getpagesize()


def _limit() -> None:
    """Lower the resource limits to what the check needs; skip limits that the system lacks."""
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, DESCRIPTORS_MAX),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


if __name__ == "__main__":
    # Ctrl-C goes to the whole process group: the asking process decides when this one exits.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main())
