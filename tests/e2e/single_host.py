"""A small service with one real machine, its accounts, and rules to become other users."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import Cluster, start_cluster
from e2e.processes import Json
from kit.os_accounts import account, configured, doas_rule, needs
from kit.secret_canaries import Canary
from kit.sshd import Sshd, keygen, needs_sshd, sshd

RULES = "/etc/sudoers.d/opsjobs-host"
ANY = "ALL"


@dataclass
class SingleHost:
    """Targets `by-key`, `by-password` (both log in as `ada`) and `homeless`, with a read-only home.

    ada may become ben by sudo with her password, by su with his, by doas without any. `secrets`:
    all secrets of this host.
    """

    cluster: Cluster
    server: Sshd
    ada: str
    ben: str
    homeless: str
    secrets: list[Canary]

    def as_ben(self, method: str) -> Json:
        """Return an action's `become`."""
        credential = {"sudo": {"credential": "ada"}, "su": {"credential": "ben"}}.get(method, {})
        return {"become": {"user": self.ben, "method": method, **credential}}

    def run(self, command: str, target: str = "by-key", **action: object) -> int:
        """Launch it, durably unless the policy differs; return the execution's id."""
        return self.cluster.run(
            command, [target], witnessed=False, **{"durable": "required", **action}
        )

    @property
    def homes(self) -> dict[str, Path]:
        """The ids of all three."""
        return {
            name: Path(pwd.getpwnam(name).pw_dir) for name in (self.ada, self.ben, self.homeless)
        }

    @property
    def stores(self) -> dict[str, Path]:
        """Return the folders of the runs of each user."""
        elsewhere = Path(f"/var/tmp/opsjobs-{pwd.getpwnam(self.homeless).pw_uid}")
        return {
            **{name: self.homes[name] / ".opsjobs" for name in (self.ada, self.ben)},
            self.homeless: elsewhere,
        }

    def left(self) -> dict[str, list[str]]:
        """Return the files in each of these."""
        return {
            name: sorted(
                str(file.relative_to(store)) for file in store.rglob("*") if not file.is_dir()
            )
            for name, store in self.stores.items()
        }


@contextmanager
def host() -> Iterator[SingleHost]:
    """Run the service and its machine until the block ends."""
    needs_sshd()
    needs("sudo")
    needs("doas")
    hers, his, phrase = (
        Canary("ada's password"),
        Canary("ben's password"),
        Canary("the key's passphrase"),
    )
    with ExitStack() as stack:
        server = stack.enter_context(
            sshd(host_key_types=("ed25519",), settings=("PasswordAuthentication yes",))
        )
        ada, ben = (stack.enter_context(account(password=canary.text)) for canary in (hers, his))
        homeless = stack.enter_context(account())
        stack.enter_context(configured(f"{RULES}-{os.getpid()}", f"{ada} ALL=({ben}) ALL\n", 0o440))
        stack.enter_context(doas_rule(f"permit nopass {ada} as {ben}"))
        _close_home(homeless)
        key, private = _key(server, phrase)
        for name in (ada, homeless):
            server.authorize(name, key)
        cluster = start_cluster(stack, [server])
        found = SingleHost(
            cluster, server, ada, ben, homeless, [hers, his, phrase, _line_of(private)]
        )
        _make_known(found, private)
        yield found


def _close_home(name: str) -> None:
    home = Path(pwd.getpwnam(name).pw_dir)
    os.chown(home, 0, 0)
    home.chmod(0o755)


def _key(server: Sshd, phrase: Canary) -> tuple[str, str]:
    """Return a key pair with a passphrase, which leaves the disk at once."""
    path = server.folder / "closed"
    public = keygen(path, "ed25519", "-N", phrase.text)
    private = path.read_text()
    path.unlink()
    return public, private


def _line_of(private: str) -> Canary:
    """Return a line of the private key that no other key has."""
    return Canary("the private key", private.splitlines()[-3])


def _make_known(on: SingleHost, private: str) -> None:
    hers, his, phrase, _ = on.secrets
    login = {"type": "ssh_key", "private_key": private, "passphrase": phrase.text}
    for body in (
        {"name": "key", "username": on.ada, **login},
        {"name": "homeless", "username": on.homeless, **login},
        {"name": "ada", "type": "password", "username": on.ada, "password": hers.text},
        {"name": "ben", "type": "password", "username": on.ben, "password": his.text},
    ):
        on.cluster.post("/credentials", body, 201)
    for target, credential in (("by-key", "key"), ("by-password", "ada"), ("homeless", "homeless")):
        on.cluster.add_target(
            target, on.server.host, on.server.port, on.server.host_keys, credential=credential
        )
