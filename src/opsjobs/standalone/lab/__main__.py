"""The lab's process: `python -m opsjobs.standalone.lab FOLDER COUNT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from opsjobs.standalone.lab.machines import serve, watch_children_by_descriptor

if __name__ == "__main__":
    watch_children_by_descriptor()
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
