"""`make fuzz`: requests generated from the API's description, to a service of its own.

It runs as long as you like. --examples N: so many to each operation, valid ones and as many invalid
ones (200). --seed N: the same requests again. Exit code 1 if a response was a server error,
accepted something invalid, or contained something forbidden.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from api.test_server_process import served
from fuzz.place import tokens
from fuzz.play import Fuzz, furnished
from kit.backing_servers import databases


def main() -> int:
    """Send the requests, and report the findings."""
    asked = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    asked.add_argument("--examples", type=int, default=200)
    asked.add_argument("--seed", type=int, default=None)
    options = asked.parse_args()
    chance = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    _tell(f"fuzz: {options.examples} examples a mode, seed {chance}")
    with tempfile.TemporaryDirectory() as folder, databases() as found:
        log = Path(folder) / "api.log"
        with served(found.url_of(found.create()), log) as (_, http):
            admin, viewer = tokens(http)
            fuzz = Fuzz(
                str(http.base_url), admin, viewer, furnished(http), options.examples, chance
            )
            fuzz.play()
        bugs = [line for line in log.read_text().splitlines() if '"event": "bug"' in line]
    _tell("\n".join([*fuzz.wrong[:50], *bugs[:10]]))
    _tell(
        f"{fuzz.cases} cases, {sum(fuzz.statuses.values())} requests, {len(fuzz.wrong)} wrong; answers: {dict(sorted(fuzz.statuses.items()))}"
    )
    return 1 if fuzz.wrong or bugs else 0


def _tell(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
