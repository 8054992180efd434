"""The folder of the lab: its keys, and the record of its machines and ports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the lab: its name as a target, and its port on 127.0.0.1."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class LabRecord:
    """The running lab: process id, user, host key (one OpenSSH line) and machines."""

    pid: int
    user: str
    host_key: str
    machines: tuple[Machine, ...]


class LabFolder:
    """The folder `D/lab`, mode 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.host_key = path / "host-key"
        self.client_key = path / "client-key"
        self.password = path / "password"
        """The password of stand-in Windows hosts, whose folder is `windows` below this one."""
        self._record = path / "machines.json"

    @property
    def windows(self) -> LabFolder:
        """The folder of the stand-in Windows hosts."""
        return LabFolder(self.path / "windows")

    def home(self, name: str) -> Path:
        """Return the home folder of one machine; create it if needed."""
        home = self.path / "homes" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def write(self, record: LabRecord) -> None:
        """Publish that all machines are listening now."""
        making = self._record.with_suffix(".making")
        making.write_text(json.dumps(asdict(record), indent=1))
        making.replace(self._record)

    def read(self) -> LabRecord | None:
        """Return the last record, even of an earlier process; None before the first start."""
        try:
            found = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        return LabRecord(
            found["pid"],
            found["user"],
            found["host_key"],
            tuple(Machine(**m) for m in found["machines"]),
        )

    def ports(self) -> dict[str, int]:
        """Return the last port of each machine."""
        record = self.read()
        return {m.name: m.port for m in record.machines} if record else {}


def machine_names(count: int, prefix: str = "lab") -> list[str]:
    """Return lab-1, lab-2 and so on."""
    return [f"{prefix}-{n}" for n in range(1, count + 1)]
