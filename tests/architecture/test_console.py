"""The console's source: its units, sizes; a lock without hosts. `make check` compiles it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from architecture.tree import ROOT, committed

CONSOLE = ROOT / "console"
LINES_MAX = 400
PACKAGES_MAX = 12


def _console(verb: str) -> subprocess.CompletedProcess[str]:
    if not (CONSOLE / "node_modules").is_dir():
        pytest.skip("the packages of the console are not there: scripts/console build")
    command = [sys.executable, "scripts/console", verb]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_parts_of_the_console_do_what_they_should() -> None:
    done = _console("test")
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_of_the_console_stay_small() -> None:
    sources = [
        path
        for path in CONSOLE.rglob("*.ts*")
        if "node_modules" not in path.parts and path.name != "types.ts"
    ]
    assert sources
    large = {str(p): n for p in sources if (n := p.read_text().count("\n")) > LINES_MAX}
    assert large == {}


def test_the_console_has_nothing_but_source() -> None:
    kinds = {".ts", ".tsx", ".css", ".svg", ".json", ".mjs"}
    files = [path for path in committed() if path.is_relative_to(CONSOLE)]
    assert files
    assert [p.name for p in files if p.suffix not in kinds and p.name != ".npmrc"] == []


def test_the_lock_names_each_package_exactly_and_no_registry() -> None:
    lock = json.loads((CONSOLE / "package-lock.json").read_text())["packages"]
    packages = {name: found for name, found in lock.items() if name}
    assert all(p["integrity"].startswith("sha512-") for p in packages.values())
    assert [name for name, found in packages.items() if "resolved" in found] == []
    wanted = json.loads((CONSOLE / "package.json").read_text())
    pinned = {**wanted["dependencies"], **wanted["devDependencies"]}
    assert all(version[0].isdigit() for version in pinned.values())
    built = [n for n, p in packages.items() if not p.get("dev") and not p.get("optional")]
    assert len(built) <= PACKAGES_MAX, built
