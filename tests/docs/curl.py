"""A stand-in for curl: -X, -H, -d and one URL; exit code 22 for an HTTP error."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

SECONDS = 180


def main(words: Sequence[str]) -> int:
    """Send the request and print the response as it arrives."""
    method, headers, data, address = None, {}, None, ""
    rest = iter(words)
    for word in rest:
        match word:
            case "-X":
                method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            case "-d":
                data = next(rest).encode()
            case _ if not word.startswith("-"):
                address = word
    request = urllib.request.Request(address, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            for line in answer:
                sys.stdout.buffer.write(line)
    except urllib.error.HTTPError as refused:
        sys.stdout.buffer.write(refused.read())
        return 22
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
