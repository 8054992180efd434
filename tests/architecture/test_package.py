"""The contents of the wheel, by the build's own settings."""

from __future__ import annotations

import subprocess
import tomllib

from architecture.tree import ROOT, SOURCE


def test_the_wheel_carries_the_migrations() -> None:
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    # hatchling packs every file below a package, unless a setting or .gitignore leaves it out.
    built = ["src/opsjobs/web/static/**"]  # ignored by git
    assert hatch["targets"]["wheel"] == {"packages": ["src/opsjobs"], "artifacts": built}
    assert hatch["hooks"] == {"custom": {}}
    assert set(hatch) == {"targets", "hooks"}
    statements = sorted((SOURCE / "store" / "migrations" / "versions").glob("[0-9]*.sql"))
    assert statements
    assert all(s.with_name(s.name.split(".")[0] + ".py").is_file() for s in statements)
    ignored = subprocess.run(
        ["git", "check-ignore", *statements], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ignored.stdout == ""


def test_the_wheel_carries_the_rules_of_the_safety_check() -> None:
    rules = sorted((SOURCE / "safety" / "rules").glob("*.yaml"))
    assert rules
    ignored = subprocess.run(
        ["git", "check-ignore", *rules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ignored.stdout == ""


def test_the_wheel_carries_the_statements_of_the_store() -> None:
    statements = sorted((SOURCE / "store").rglob("sql/*.sql"))
    assert statements
    ignored = subprocess.run(
        ["git", "check-ignore", *statements], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ignored.stdout == ""


def test_the_readme_and_the_licence_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (ROOT / project["readme"]).is_file()
    assert project["license"] == "Apache-2.0"
    assert all((ROOT / name).is_file() for name in project["license-files"])
