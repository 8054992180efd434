"""Point 30: opsjobs lists its dependencies; its command for advisories fails if it cannot ask."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from opsjobs.web.console import ConsoleFiles

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def bom() -> dict[str, Any]:
    """Return the software bill of materials of this environment."""
    told: dict[str, Any] = json.loads(
        subprocess.check_output([sys.executable, "scripts/sbom"], cwd=ROOT)
    )
    return told


def test_the_bill_of_materials_has_all_that_is_needed_as_it_is_installed(
    bom: dict[str, Any],
) -> None:
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"]: part for part in bom["components"]}
    wanted = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate():
            name = canonicalize_name(requirement.name)
            assert parts[name]["version"] == version(name)
            assert parts[name]["purl"] == f"pkg:pypi/{name}@{version(name)}"
    # Their own dependencies are included, and nothing that only the tests need.
    assert "vine" in parts
    of_tests = {
        canonicalize_name(Requirement(text).name) for text in PROJECT["dependency-groups"]["dev"]
    }
    assert not of_tests & set(parts)
    known = {*(part["bom-ref"] for part in bom["components"]), "opsconductor-jobs"}
    assert {
        name for edge in bom["dependencies"] for name in (edge["ref"], *edge["dependsOn"])
    } == known


def test_the_bill_of_materials_has_what_is_bundled_into_the_console(bom: dict[str, Any]) -> None:
    if ConsoleFiles().index() is None:
        pytest.skip("the console was not built: scripts/console build")
    lock = json.loads((ROOT / "console/package-lock.json").read_text())["packages"]
    bundled = [part for part in bom["components"] if part["bom-ref"].startswith("npm:")]
    assert {"preact", "@preact/signals"} <= {part["name"] for part in bundled}
    for part in bundled:
        assert part["version"] == lock[f"node_modules/{part['name']}"]["version"]
        assert part["purl"] == f"pkg:npm/{part['name'].replace('@', '%40')}@{part['version']}"


def test_an_audit_that_asked_nobody_is_no_success(tmp_path: Path) -> None:
    """Run the command with a stand-in for pip-audit that prints its arguments."""
    asked = tmp_path / "asked"
    for folder in ("scripts", ".venv/bin", ".venv-audit/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts" / "audit").write_text((ROOT / "scripts" / "audit").read_text())
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    stand_in = tmp_path / ".venv-audit/bin/pip-audit"
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" > {asked}\nfor last; do :; done\ncat "$last" >> {asked}\nexit 1\n'
    )
    for file in (stand_in, tmp_path / "scripts" / "audit"):
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([tmp_path / "scripts/audit"], env=environment, check=False).returncode == 1
    )
    words, *packages = asked.read_text().splitlines()
    # Without --strict pip-audit succeeds even if the service could not be asked about anything.
    assert "--strict" in words.split()
    assert f"asyncssh=={version('asyncssh')}" in packages
    assert not any(package.startswith("opsconductor") for package in packages)
