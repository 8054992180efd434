"""The build hook of the console: when it runs, what it needs, and its errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import hatch_build
import pytest

from architecture.tree import ROOT


class _App:
    """The terminal of hatchling."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display_info(self, line: str) -> None:
        self.lines.append(line)

    display_warning = display_info


def _hook(root: Path) -> tuple[hatch_build.ConsoleHook, _App]:
    app: Any = _App()
    hook = hatch_build.ConsoleHook(str(root), {}, None, None, str(root), "wheel", app)  # type: ignore[arg-type]  # it asks for neither
    return hook, app


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("node_modules")
    shutil.copytree(ROOT / "console", tmp_path / "console", ignore=ignore)
    return tmp_path


def _stamp(root: Path) -> None:
    static = root / "src/opsjobs/web/static"
    static.mkdir(parents=True)
    (static / ".stamp").write_text(hatch_build.digest(root / "console"))


def test_node_is_needed_only_if_there_is_something_to_build(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, _ = _hook(checkout)
    assert hook.dependencies() == [hatch_build.NODE]
    monkeypatch.setenv("OPSJOBS_CONSOLE", "off")
    assert hook.dependencies() == []
    monkeypatch.delenv("OPSJOBS_CONSOLE")
    _stamp(checkout)
    assert hook.dependencies() == []
    (checkout / "console/src/main.tsx").write_text("// changed")
    assert hook.dependencies() == [hatch_build.NODE]
    shutil.rmtree(checkout / "console")  # an sdist or a wheel: the built files are there
    assert hook.dependencies() == []


def test_tests_and_types_do_not_change_the_digest(checkout: Path) -> None:
    before = hatch_build.digest(checkout / "console")
    (checkout / "console/src/api/types.ts").write_text("export type A = string;")
    (checkout / "console/tests").mkdir(exist_ok=True)
    (checkout / "console/tests/more.test.ts").write_text("")
    assert hatch_build.digest(checkout / "console") == before
    (checkout / "console/src/new.ts").write_text("")
    assert hatch_build.digest(checkout / "console") != before


def test_without_the_registry_the_package_comes_without_the_console(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    hook, app = _hook(checkout)
    hook.initialize("standard", {})
    (line,) = app.lines
    assert line.startswith("console: not built, the package comes without it: npm-cli.js: ")
    assert not (checkout / "src/opsjobs/web/static").exists()
    monkeypatch.setenv("OPSJOBS_CONSOLE", "required")
    with pytest.raises(hatch_build.ConsoleNotBuiltError):
        hook.initialize("standard", {})


def test_without_node_the_package_comes_without_the_console(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    hook, app = _hook(checkout)
    hook.initialize("standard", {})
    assert app.lines == [
        (
            "console: not built, the package comes without it: "
            "there is no wheel of Node for this platform"
        )
    ]


def test_two_builds_give_the_same_bytes_and_leave_no_trace(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packages = ROOT / "console/node_modules"
    if not packages.is_dir():
        pytest.skip("the packages of the console are not there: scripts/console build")
    (checkout / "console/node_modules").symlink_to(packages)
    built = []
    for name in ("one", "two"):
        hatch_build.bundle(checkout, checkout / "console", tmp_path_factory.mktemp(name))
        static = checkout / "src/opsjobs/web/static"
        built.append({path.name: path.read_bytes() for path in static.iterdir()})
        assert hatch_build.is_built(checkout)
        shutil.rmtree(static)
    assert built[0] == built[1]
    scripts = [name for name in built[0] if name.endswith(".js")]
    assert all(_is_hashed(name) for name in scripts)


def _is_hashed(name: str) -> bool:
    """True if the name has a hash of the content."""
    return len(name.removesuffix(".js").rpartition("-")[2]) == 8
