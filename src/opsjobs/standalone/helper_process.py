"""Run short-lived helper processes, so that `up` loads no database driver and stays small."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from opsjobs.model.errors import Unavailable

WITH_LAB = "--lab"
OWN_DATABASE = "--own-database"


def run_errand(name: str, *arguments: str, environment: Mapping[str, str], log: Path) -> None:
    """Run `opsjobs.standalone.<name>` to completion.

    Raises Unavailable with the last line of its stderr if it fails; the whole stderr goes to `log`.
    """
    done = subprocess.run(  # noqa: S603  our own module
        [sys.executable, "-m", f"opsjobs.standalone.{name}", *arguments],
        env=dict(environment),
        cwd="/",
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        log.write_text(done.stderr)
        said = done.stderr.strip().splitlines()
        raise Unavailable(
            f"{said[-1] if said else f'{name} ended with {done.returncode}'} (all of it in {log})"
        )
