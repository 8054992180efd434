"""A real OpenSSH server on loopback, with host keys, accounts and configuration of its own."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kit.ports import free_port

TARGET_USER = "opsjobs-target"
START_SECONDS = 60
BINARY = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def needs_sshd() -> None:
    """Skip the calling test, with one clear line, if this machine has no OpenSSH server."""
    if BINARY is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs a real OpenSSH server: install openssh-server")


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server: its addresses, its users, and its keys."""

    addresses: Sequence[str]
    port: int
    user: str
    private_key: str
    """An OpenSSH private key with which the user may log in."""
    host_keys: Sequence[str]
    """Public host keys, one `type base64` line each."""
    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def host(self) -> str:
        """The first address."""
        return "127.0.0.1" if self.addresses[0] == "0.0.0.0" else self.addresses[0]

    @property
    def log(self) -> str:
        """The output of the server so far."""
        return (self.folder / "sshd.log").read_text(errors="replace")

    def authorize(self, user: str, line: str) -> None:
        """Replace the keys that may log in as `user` (an authorized_keys line)."""
        _write(self.folder / "authorized" / user, line + "\n", 0o644)

    def stop(self) -> None:
        """End the listener; sessions continue, as they do when sshd is restarted."""
        self.process.terminate()
        self.process.wait(timeout=START_SECONDS)


@contextmanager
def sshd(
    *,
    addresses: Sequence[str] = ("127.0.0.1",),
    host_key_types: Sequence[str] = ("ed25519", "ecdsa", "rsa"),
    max_startups: str = "1000",
    max_sessions: int = 1000,
    user: str | None = None,
    settings: Sequence[str] = (),
) -> Iterator[Sshd]:
    """Run a server until the block ends; ("0.0.0.0",) accepts all of 127.0.0.0/8, too.

    As root, the account is `opsjobs-target` (created if missing, with a plain /bin/sh), else the
    current user.
    """
    needs_sshd()
    user = user or account()
    folder = Path(tempfile.mkdtemp(prefix="opsjobs-sshd-"))
    folder.chmod(0o755)
    server: Sshd | None = None
    try:
        lines = _configuration(
            folder, addresses, host_key_types, max_startups, max_sessions, settings
        )
        server = _start(folder, lines, addresses, host_key_types, user)
        yield server
    finally:
        if server is not None and server.process.poll() is None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def account() -> str:
    """Return the name of the account that tests log in as."""
    if os.geteuid() != 0:
        return getpass.getuser()
    try:
        pwd.getpwnam(TARGET_USER)
    except KeyError:
        # another test process may do the same at the same time
        made = subprocess.run(
            ["useradd", "-m", "-s", "/bin/sh", "-p", "*", TARGET_USER],
            check=False,
            capture_output=True,
        )
        if made.returncode != 0:
            pwd.getpwnam(TARGET_USER)
    _at_home(pwd.getpwnam(TARGET_USER))
    return TARGET_USER


def _at_home(user: pwd.struct_passwd) -> None:
    """Give the account a home of its own.

    It may be left from another account of this name. With the home of another user, all tests would
    share a folder that those of accounts without a home remove.
    """
    home = Path(user.pw_dir)
    home.mkdir(mode=0o755, exist_ok=True)
    if home.stat().st_uid != user.pw_uid:
        os.chown(home, user.pw_uid, user.pw_gid)


def keygen(path: Path, kind: str = "ed25519", *options: str) -> str:
    """Create a key pair at `path`; return the public line.

    It has no passphrase unless `-N` is among the options.
    """
    passphrase = () if "-N" in options else ("-N", "")
    bits = ("-b", "2048") if kind == "rsa" else ()
    command = [
        "ssh-keygen",
        "-q",
        "-t",
        kind,
        *bits,
        *passphrase,
        "-C",
        "",
        "-f",
        str(path),
        *options,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return path.with_suffix(".pub").read_text().strip()


def _configuration(
    folder: Path,
    addresses: Sequence[str],
    kinds: Sequence[str],
    max_startups: str,
    max_sessions: int,
    settings: Sequence[str],
) -> list[str]:
    return [
        *(f"ListenAddress {address}" for address in addresses),
        *(f"HostKey {folder}/host_{kind}" for kind in kinds),
        *settings,
        f"PidFile {folder}/sshd.pid",
        f"AuthorizedKeysFile {folder}/authorized/%u",
        # the temporary folder is world-writable further up, which StrictModes refuses
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "LogLevel VERBOSE",
        "UseDNS no",
        "PrintMotd no",
        "Subsystem sftp internal-sftp",
        f"MaxStartups {max_startups}",
        f"MaxSessions {max_sessions}",
        *(["PerSourcePenalties no"] if _version() >= (9, 8) else []),
    ]


def _start(
    folder: Path, lines: list[str], addresses: Sequence[str], kinds: Sequence[str], user: str
) -> Sshd:
    (folder / "authorized").mkdir(mode=0o755)
    public = keygen(folder / "login")
    hosts = [" ".join(keygen(folder / f"host_{kind}", kind).split()[:2]) for kind in kinds]
    _write(folder / "authorized" / user, public + "\n", 0o644)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port(addresses[0])
    _write(folder / "sshd_config", "\n".join([f"Port {port}", *lines]) + "\n", 0o600)
    command = [str(BINARY), "-D", "-f", f"{folder}/sshd_config", "-E", f"{folder}/sshd.log"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    private = (folder / "login").read_text()
    server = Sshd(addresses, port, user, private, tuple(hosts), folder, process)
    _wait_until_listening(server)
    return server


def _wait_until_listening(server: Sshd) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((server.host, server.port), timeout=1).close()
            return
        except OSError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd did not start: {server.log}") from None
            time.sleep(0.02)


def _version() -> tuple[int, int]:
    found = subprocess.run([str(BINARY), "-V"], capture_output=True, text=True, check=False).stderr
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", found)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)
