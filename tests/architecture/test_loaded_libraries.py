"""What `up` loads: a library that it does not use takes MiB of memory for as long as it runs."""

from __future__ import annotations

import subprocess
import sys

UNUSED = {
    *("asyncio", "asyncssh", "celery", "cryptography", "fastapi", "psycopg", "pygments", "redis"),
    *("rich", "ruamel", "spnego", "sqlalchemy", "ssl"),
}
_PROGRAM = """
import sys
import opsjobs.__main__, opsjobs.cli.server_commands, opsjobs.standalone.up
print(sorted(sys.modules.keys() & {unused!r}))
"""


def test_up_loads_no_library_that_it_does_not_use() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(unused=UNUSED)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
