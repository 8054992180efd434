"""Accounts of this machine until a test ends: login shell, home files and password."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

_numbers = count(1)


def needs_root(what: str) -> None:
    """Skip the calling test, with one clear line, if it may not change accounts."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip(f"needs root and useradd: {what}")


def needs(program: str) -> str:
    """Return the path of a program; skip the calling test if this machine has none."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"needs {program}: install it (scripts/test-needs)")
    return found


@contextmanager
def account(
    *, shell: str = "/bin/sh", files: Mapping[str, str] | None = None, password: str | None = None
) -> Iterator[str]:
    """Create an account and yield its name; then end its processes, and remove it with its home."""
    needs_root("makes an account")
    name = f"opsjobs-{os.getpid()}-{next(_numbers)}"
    # with `*`, only a login by key is possible
    _do("useradd", "--create-home", "--shell", shell, "--password", "*", name)
    try:
        if password is not None:
            _do("chpasswd", said=f"{name}:{password}\n")
        _write(pwd.getpwnam(name), files or {})
        yield name
    finally:
        _end_all(pwd.getpwnam(name).pw_uid)
        shutil.rmtree(f"/var/tmp/opsjobs-{pwd.getpwnam(name).pw_uid}", ignore_errors=True)
        _do("userdel", "--force", "--remove", name)


@contextmanager
def configured(path: str, text: str, mode: int) -> Iterator[None]:
    """Replace a file of the system until the block ends; then restore it."""
    needs_root(f"writes {path}")
    file = Path(path)
    before = file.read_bytes() if file.exists() else None
    _place(file, text.encode(), mode)
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            _place(file, before, mode)


@contextmanager
def doas_rule(line: str) -> Iterator[None]:
    """Add a rule of doas after all others until the block ends.

    Those of tests that run at the same time stay.
    """
    needs_root("writes /etc/doas.conf")
    _change_doas(lambda lines: [*lines, line])
    try:
        yield
    finally:
        _change_doas(lambda lines: [other for other in lines if other != line])


def _change_doas(change: Callable[[list[str]], list[str]]) -> None:
    file = Path("/etc/doas.conf")
    with Path(tempfile.gettempdir(), "opsjobs-test-doas.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = change(file.read_text().splitlines() if file.exists() else [])
        if lines:
            _place(file, "".join(f"{line}\n" for line in lines).encode(), 0o400)
        else:
            file.unlink(missing_ok=True)


def _place(file: Path, data: bytes, mode: int) -> None:
    # In one step: sudo may read its folder at any time, for tests that run at the same time, too.
    # It ignores names with a dot.
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.touch(mode)
    new.chmod(mode)
    new.write_bytes(data)
    new.rename(file)


def _write(owner: pwd.struct_passwd, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = Path(owner.pw_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for made in (path, *path.parents):
            if made == Path(owner.pw_dir):
                break
            os.chown(made, owner.pw_uid, owner.pw_gid)


def _end_all(uid: int) -> None:
    """Since the account belongs to this test, so do its processes."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == uid:
                    os.kill(int(folder.name), signal.SIGKILL)


def _do(*command: str, said: str | None = None) -> None:
    subprocess.run(command, input=said, text=True, check=True, capture_output=True)
