"""Machines on loopback: addresses of 127.0.1.0/24 behind real OpenSSH servers, and nothing beyond loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kit.sshd import BINARY, sshd

# OpenSSH takes at most 16 ListenAddress lines, and a wildcard would listen on all addresses: so 13 servers of 16 addresses.
ADDRESSES_A_SERVER = 16
MACHINES_MAX = 254


@dataclass(frozen=True, slots=True)
class Machine:
    """One target: an address of its own, and its host key."""

    name: str
    host: str
    port: int
    host_key: str


@dataclass(frozen=True, slots=True)
class Machines:
    """All measured machines, a spare one to warm up on, and the account and key for all of them."""

    all: tuple[Machine, ...]
    spare: Machine
    user: str
    private_key: str
    key_file: Path
    known_hosts: Path


@contextmanager
def machines(count: int, folder: Path) -> Iterator[Machines]:
    """Serve them for the length of the block; write the key and a known_hosts file to `folder`."""
    if BINARY is None:
        raise SystemExit("bench needs a real OpenSSH server: install openssh-server")
    assert count < MACHINES_MAX
    addresses = [f"127.0.1.{n}" for n in range(1, count + 2)]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                sshd(
                    addresses=addresses[at : at + ADDRESSES_A_SERVER],
                    host_key_types=("ed25519",),
                    settings=["LogLevel ERROR"],
                )
            )
            for at in range(0, count, ADDRESSES_A_SERVER)
        ]
        first = servers[0]
        public = (first.folder / "login.pub").read_text().strip()
        for server in servers:
            server.authorize(first.user, public)
        found = tuple(
            Machine(
                f"bench-{address.rpartition('.')[2]}", address, server.port, server.host_keys[0]
            )
            for server in servers
            for address in server.addresses
        )
        key_file, known_hosts = folder / "login", folder / "known_hosts"
        key_file.write_text(first.private_key)
        key_file.chmod(0o600)
        known_hosts.write_text("".join(f"[{m.host}]:{m.port} {m.host_key}\n" for m in found))
        yield Machines(
            found[:count], found[count], first.user, first.private_key, key_file, known_hosts
        )
