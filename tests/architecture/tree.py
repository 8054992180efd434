"""The project's files as a reader of its source sees them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "opsjobs"
# The files that are never committed, for a tree without git.
_MADE = {
    ".git",
    ".venv",
    ".venv-audit",
    ".venv-client",
    "__pycache__",
    "build",
    "dist",
    ".hypothesis",
    "node_modules",
    "static",
    "types.ts",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the source, by its path from the root."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in sorted(SOURCE.rglob("*.py"))
    }


def functions(tree: ast.Module) -> Iterator[Function]:
    """Return every function and method, including inner ones."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def lines(node: Function) -> int:
    """Return how many lines a function has, without its decorators."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@cache
def committed() -> list[Path]:
    """Return every file that is committed, or would be with `git add --all`."""
    try:
        asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        said = subprocess.run(asked, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return [
            p for p in ROOT.rglob("*") if p.is_file() and not _MADE & set(p.relative_to(ROOT).parts)
        ]
    return [path for name in said.split("\0") if name and (path := ROOT / name).is_file()]
