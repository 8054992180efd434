"""A command as process 1, as it is in a container."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from opsjobs.standalone.spawn import bare_environment

SECONDS = 60.0


def test_sigterm_ends_a_command_that_is_process_1() -> None:
    """Without a handler the kernel drops it:

    the container would be killed after its time to stop.
    """
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("this machine cannot make a namespace of processes: that needs root")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(SECONDS)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/livez"
        started = subprocess.Popen(
            [unshare, "--pid", "--fork", "--kill-child", sys.executable, "-m", "opsjobs", "healthcheck", url],
            env={**bare_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        connection, _ = silent.accept()
        with connection:
            (child,) = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGTERM)
            _, said = started.communicate(timeout=SECONDS)
    assert (started.returncode, said) == (128 + signal.SIGTERM, "")
