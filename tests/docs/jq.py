"""A stand-in for jq: `-r .field` of one JSON object on standard input."""

from __future__ import annotations

import json
import sys

if __name__ == "__main__":
    option, path = sys.argv[1:]
    assert option == "-r"
    assert path.startswith(".")
    value = json.load(sys.stdin)[path[1:]]
    sys.stdout.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
