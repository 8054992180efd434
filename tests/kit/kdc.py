"""A real KDC (MIT Kerberos, as Debian ships it) on loopback, with its database in a folder."""

from __future__ import annotations

import base64
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kit.ports import free_port
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.secret import Secret

REALM = "OPSJOBS.TEST"
USER, PASSWORD = f"ada@{REALM}", "correct horse"
HOST = "localhost"
"""The name of the host that has a service in the realm."""
START_SECONDS = 60.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local")


def missing() -> str | None:
    """Return what this machine lacks for these tests; None if it lacks nothing."""
    without = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if without:
        return (
            f"no {', '.join(without)}: install krb5-kdc and krb5-admin-server (scripts/test-needs)"
        )
    if not all(importlib.util.find_spec(name) for name in ("gssapi", "krb5")):
        return "the extra kerberos is not installed: install gcc and libkrb5-dev, then scripts/environment dev"
    return None


def write_config(folder: Path, port: int, *, keytab: Path | None = None) -> Path:
    """Write a krb5.conf whose KDC listens on this port; it uses neither DNS nor other files."""
    file = folder / "krb5.conf"
    file.write_text(
        f"""[libdefaults]
  default_realm = ELSEWHERE.TEST
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  default_ccache_name = FILE:{folder}/nobody-uses-this
  default_keytab_name = FILE:{keytab or folder / "no-keytab"}
  default_rcache_name = none:
[realms]
  {REALM} = {{
    kdc = 127.0.0.1:{port}
  }}
[domain_realm]
  {HOST} = {REALM}
"""
    )
    return file


@dataclass(slots=True)
class Kdc:
    """A running KDC; `config` is the krb5.conf of its clients and hosts."""

    folder: Path
    config: Path
    port: int
    environment: dict[str, str]

    def administer(self, *commands: str) -> None:
        """Run commands of kadmin."""
        for command in commands:
            done = subprocess.run(
                ["kadmin.local", "-r", REALM, "-q", command],
                env=self.environment,
                capture_output=True,
                text=True,
                check=True,
            )
            assert "while" not in done.stderr, done.stderr

    @property
    def log(self) -> str:
        """The log of the KDC."""
        return (self.folder / "kdc.log").read_text()

    def requests(self, ending: str) -> int:
        """Return how many requests for a first ticket ended like this, such as PREAUTH_FAILED."""
        lines = self.log.splitlines()
        return sum("AS_REQ" in line and f": {ending}" in line for line in lines)

    def keytab(self, principal: str) -> str:
        """Return the keytab of a principal, in base64; its password remains valid."""
        file = self.folder / f"{principal.partition('@')[0].replace('/', '-')}.keytab"
        if not file.exists():
            self.administer(f"ktadd -norandkey -k {file} {principal}")
        return base64.b64encode(file.read_bytes()).decode()


@contextmanager
def running_kdc(folder: Path) -> Iterator[Kdc]:
    """A KDC with the user `ada` and the service of this host, for the length of the block."""
    port = free_port()
    config = write_config(folder, port, keytab=folder / "host.keytab")
    profile = folder / "kdc.conf"
    profile.write_text(
        f"""[kdcdefaults]
  kdc_listen = 127.0.0.1:{port}
  kdc_tcp_listen = 127.0.0.1:{port}
[realms]
  {REALM} = {{
    database_name = {folder}/principal
    key_stash_file = {folder}/stash
    acl_file = {folder}/acl
    default_principal_flags = +preauth
    max_life = 10h
  }}
[logging]
  kdc = FILE:{folder}/kdc.log
"""
    )
    environment = {
        "PATH": _PATH,
        "KRB5_CONFIG": str(config),
        "KRB5_KDC_PROFILE": str(profile),
        "KRB5RCACHENAME": "none:",
    }
    kdc = Kdc(folder, config, port, environment)
    subprocess.run(
        ["kdb5_util", "create", "-s", "-r", REALM, "-P", "master"],
        env=environment,
        capture_output=True,
        check=True,
    )
    kdc.administer(
        f'addprinc -pw "{PASSWORD}" {USER}',
        f"addprinc -randkey host/{HOST}@{REALM}",
        f"ktadd -k {folder}/host.keytab host/{HOST}@{REALM}",
    )
    server = subprocess.Popen(
        ["krb5kdc", "-n", "-r", REALM],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, server)
        yield kdc
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert server.poll() is None, "krb5kdc has ended"
            assert time.monotonic() < deadline, "krb5kdc does not listen"
            time.sleep(0.02)
        else:
            return


def kerberos_credential(
    who: str = USER, *, password: str | None = None, keytab: str | None = None, version: int = 1
) -> Credential:
    """Return a login of type kerberos."""
    return Credential(
        f"kerberos-{who}",
        version,
        "domain",
        CredentialType.KERBEROS,
        who,
        password=Secret(password) if password is not None else None,
        keytab=Secret(keytab) if keytab is not None else None,
    )
