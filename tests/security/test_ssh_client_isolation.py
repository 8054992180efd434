"""Point 16: no agent or X11 forwarding, no client configuration, no ProxyCommand from data."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kit.command_runs import run
from kit.machines import endpoint_of
from kit.sshd import Sshd, sshd
from opsjobs.model.target import TargetDraft
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool


@pytest.fixture
def willing() -> Iterator[Sshd]:
    """Run a server that would forward whatever is requested."""
    settings = ["AllowAgentForwarding yes", "X11Forwarding yes", "XAuthLocation /bin/true"]
    with sshd(host_key_types=("ed25519",), settings=settings) as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs ssh-agent: install openssh-client")
    told = subprocess.run(
        ["ssh-agent", "-a", str(tmp_path / "agent.sock")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    process_id = re.search(r"SSH_AGENT_PID=(\d+)", told)
    assert process_id is not None
    yield str(tmp_path / "agent.sock")
    subprocess.run(["kill", process_id[1]], check=True)


async def test_a_target_gets_neither_our_agent_nor_our_display_nor_our_configuration(
    willing: Sshd, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "proxy-was-here"
    home = tmp_path / "home" / ".ssh"
    home.mkdir(parents=True)
    lines = [
        "Host *",
        "ForwardAgent yes",
        "ForwardX11 yes",
        f"ProxyCommand touch {witness}",
        "Port 1",
        "SendEnv CANARY",
    ]
    (home / "config").write_text("\n".join(lines) + "\n")
    for name, value in {
        "HOME": str(home.parent),
        "SSH_AUTH_SOCK": agent,
        "DISPLAY": ":99",
        "CANARY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    pool = SshPool(Connector())
    try:
        out, _, _ = await run(
            pool, endpoint_of(willing), 'echo "[$SSH_AUTH_SOCK][$DISPLAY][$CANARY]"'
        )
    finally:
        await pool.close()
    assert out == b"[][][]\n"
    assert not witness.exists()
    assert "forwarding" not in willing.log.lower()


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "-oProxyCommand=touch /tmp/x"},
        {"host": "web-1;touch /tmp/x"},
        {"host": "`id`"},
        {"host": "a b"},
        {"host": "%h"},
        {"proxy_command": "touch /tmp/x"},
        {"proxyCommand": "touch /tmp/x"},
        {"options": {"ProxyCommand": "touch /tmp/x"}},
        {"ssh_args": "-o ProxyCommand=x"},
    ],
    ids=str,
)
def test_no_field_of_a_target_is_a_command_or_an_option(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TargetDraft.model_validate({"name": "web-1", "host": "10.0.0.5", **fields})
