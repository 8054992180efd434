"""List the findings of the wording checker below some paths.

`PYTHONPATH=tests python -m architecture src/opsjobs/api`.
"""

from __future__ import annotations

import sys
from collections import Counter

from architecture.tree import ROOT, modules
from architecture.wording import check_class_names, check_source


def main(paths: list[str]) -> int:
    """Print the findings and their number by rule; return 1 if there are any."""
    wanted = tuple(path.rstrip("/") for path in paths) or ("src",)
    found = [
        finding
        for path in modules()
        if path.startswith(wanted)
        for finding in check_source(path, (ROOT / path).read_text())
    ]
    found += [
        finding for finding in check_class_names(modules()) if finding.path.startswith(wanted)
    ]
    for finding in sorted(found):
        print(finding)  # noqa: T201  a command prints
    for rule, count in Counter(finding.rule for finding in found).most_common():
        print(f"{count:5} {rule}")  # noqa: T201  a command prints
    return 1 if found else 0


sys.exit(main(sys.argv[1:]))
