"""The command that starts a stand-in as a process of its own.

It imports the stand-in, because Python keeps the bytecode of what is imported. A file that is run
by its path is compiled at each start, which takes longer than all the rest of the start.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The folder of the package `opsjobs`: the only place that is searched beside the standard library.
IMPORT_FOLDER = str(Path(__file__).parents[4])


def make_command(module: str, *arguments: str) -> list[str]:
    """Return the command that calls `main` of a module of this package, with these arguments."""
    code = (
        f"import sys; sys.path.append({IMPORT_FOLDER!r}); "
        f"from opsjobs.standalone.lab.wsman.{module} import main; sys.exit(main())"
    )
    return [sys.executable, "-I", "-S", "-c", code, *arguments]
