"""The wheel and the sdist: built twice, without Node, and opened without Node and registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import hatch_build
import httpx2
import pytest

from architecture.tree import ROOT, committed
from kit.backing_servers import memory, open_folder
from kit.opsjobs_processes import opsjobs_up
from opsjobs.web.console import CONTENT_SECURITY_POLICY, STATIC

BUILD_SECONDS = 120
# No program at all, so no Node; no registry, no index.
BARE = {
    "PATH": "/nonexistent",
    "npm_config_registry": "http://127.0.0.1:9",
    "PIP_INDEX_URL": "http://127.0.0.1:9",
    "PIP_NO_INDEX": "1",
}
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the committed files, with the console that is built here."""
    if not hatch_build.is_built(ROOT):
        pytest.skip("the console was not built: scripts/console build")
    root = tmp_path_factory.mktemp("checkout") / "opsjobs"
    for path in committed():
        to = root / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, to)
    shutil.copytree(STATIC, root / STATIC.relative_to(ROOT))
    return root


def build(root: Path, kind: str, into: Path, **settings: str) -> Path:
    """Build a distribution with hatchling, as pip does without isolation.

    Nothing may be fetched.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(into)],
        cwd=root,
        env={**BARE, "HOME": str(into), **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (path for path in into.iterdir() if path.suffix in (".whl", ".gz"))
    return made


def static(wheel: Path) -> dict[str, bytes]:
    """Return the files of the console in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "/web/static/" in name]
        assert len(names) == len(set(names)), "files are doubled"
        return {name.rpartition("/")[2]: archive.read(name) for name in names}


def test_two_builds_of_the_wheel_have_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    first, second = (build(checkout, "wheel", tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    files = static(first)
    assert files == {path.name: path.read_bytes() for path in STATIC.iterdir()}
    assert not any(name.startswith("http") for name in files)


def test_the_sdist_carries_the_built_console_so_its_wheel_needs_no_node(
    checkout: Path, tmp_path: Path
) -> None:
    archive = build(checkout, "sdist", tmp_path / "sdist", OPSJOBS_CONSOLE="required")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (root,) = tmp_path.glob("opsconductor_jobs-*")
    assert hatch_build.is_built(root)
    wheel = build(root, "wheel", tmp_path / "wheel", OPSJOBS_CONSOLE="required")
    assert static(wheel) == {path.name: path.read_bytes() for path in STATIC.iterdir()}


def test_off_builds_a_wheel_without_the_console(checkout: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkout, bare, ignore=shutil.ignore_patterns("static"))
    assert not hatch_build.is_built(bare)
    assert static(build(bare, "wheel", tmp_path / "wheel", OPSJOBS_CONSOLE="off")) == {}


@pytest.mark.long
def test_the_installed_wheel_serves_its_pages_without_node_and_registry(
    checkout: Path, tmp_path: Path
) -> None:
    wheel = build(checkout, "wheel", tmp_path / "wheel")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, env=BARE, timeout=BUILD_SECONDS)
    # Not in the wheel: the installed package serves it, not the checkout.
    (site / "opsjobs/web/static/witness.txt").write_text("installed")
    path = os.pathsep.join([str(site), *(p for p in sys.path if not p.startswith(str(ROOT)))])
    settings = {**BARE, "PYTHONPATH": path}
    with open_folder(memory()) as folder, opsjobs_up(folder / "data", settings=settings) as service:
        url = (service.data / "endpoint").read_text().strip()
        with httpx2.Client(base_url=url) as http:
            page = http.get("/console/executions/7", headers=HTML)
            assert page.status_code == 200
            assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
            loaded = re.findall(r'(?:src|href)="(/console/[^"]+)"', page.text)
            assert len(loaded) > 2
            assert all(http.get(name).status_code == 200 for name in loaded)
            files = [name for name in static(wheel) if name.endswith((".js", ".css"))]
            assert all(http.get(f"/console/{name}").status_code == 200 for name in files)
            assert http.get("/console/witness.txt").text == "installed"
