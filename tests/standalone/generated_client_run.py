"""A client that is generated from our own OpenAPI document runs a job.

`make client` runs it, with the generator in an environment of its own: it needs an older typer than
ours.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import ROOT
from kit.backing_servers import memory, open_folder
from kit.opsjobs_processes import UpProcess, opsjobs_up

GENERATOR = shutil.which("openapi-python-client")
PROGRAM = Path(__file__).with_name("generated_client.py")


@pytest.fixture
def service() -> Iterator[UpProcess]:
    with open_folder(memory()) as found, opsjobs_up(found / "data", "--lab", "1") as running:
        yield running


def test_a_generated_client_runs_a_job_and_reads_its_results(
    service: UpProcess, tmp_path: Path
) -> None:
    assert GENERATOR is not None, "openapi-python-client is not in the PATH: use make client"
    url = next(m[0] for line in service.output if (m := re.search(r"http://[\d.:]+", line)))
    config = tmp_path / "client.yaml"
    page = (ROOT / "docs/reference/api.md").read_text()
    config.write_text(re.search(r"`client.yaml` is `([^`]+)`", page)[1])
    done = subprocess.run(
        [GENERATOR, "generate", "--url", f"{url}/openapi.json", "--config", config, "--output-path", tmp_path / "client"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "WARNING" not in done.stdout + done.stderr
    ran = subprocess.run(
        [Path(GENERATOR).with_name("python"), PROGRAM, f"{url}/api/v1", (service.data / "admin-token").read_text().strip()],
        env={"PYTHONPATH": str(tmp_path / "client")}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "completed lab-1 0 hello\n", "")
