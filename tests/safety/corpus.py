"""The corpora next to this file, one snippet a line.

A line that begins with a tab continues the one before it, `#:` is a comment.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent


def snippets(path: Path) -> list[str]:
    """Return the snippets of one file, in order."""
    found: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("\t") and found:
            found[-1] += "\n" + line[1:]
        elif line and not line.startswith("#:"):
            found.append(line)
    return found


def corpus(name: str) -> list[tuple[str, str, str]]:
    """Yield `(expected, interpreter, snippet)` of every file `expected.interpreter` in a folder."""
    return [
        (path.name.partition(".")[0], path.name.partition(".")[2], snippet)
        for path in sorted((HERE / name).iterdir())
        for snippet in snippets(path)
    ]
