"""The how-tos, the quickstart and the README are played from top to bottom against a whole service.

Each page is a script: its files (fences with a file's name after the language) are written first, then
its `sh` samples run in order. A sample marked `parsed` needs what a test has not (another machine, a
person at a prompt, a second service): its commands are only parsed, by test_samples.py.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import ROOT, Sample, all_samples, samples
from docs.shells import Bench, localise, parse
from kit.backing_servers import memory, open_folder
from kit.mail_server import PASSWORD, USER, MailServer, mail_server_thread
from kit.opsjobs_processes import UpProcess, opsjobs_up
from opsjobs.standalone.lab.folder import LabFolder

PAGES = [
    "docs/quickstart.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs/how-to").glob("*.md")),
]
PARSED = "parsed"
# The reader's machines, each a machine of the lab.
MACHINES = {
    "web-1": ("env=prod", "role=web"),
    "web-2": ("env=prod", "role=web"),
    "db-1": ("env=prod", "role=db"),
}


@pytest.fixture(scope="module")
def bare_service() -> Iterator[UpProcess]:
    """Start a whole service like `opsjobs up --lab 5`, with a mail server."""
    with (
        open_folder(memory()) as folder,
        mail_server_thread(folder) as mail,
        opsjobs_up(folder / "data", "--lab", "5", settings=mail_settings(mail)) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def service(bare_service: UpProcess) -> UpProcess:
    """Return the service, with the reader's machines in its inventory."""
    lab = LabFolder(bare_service.data / "lab")
    record = lab.read()
    assert record is not None
    key = bare_service.data.with_name("deploy")
    key.write_text(lab.client_key.read_text())
    _do(bare_service, "credentials", "add", "web-key", "-u", record.user, "--key", str(key))
    for (name, labels), machine in zip(MACHINES.items(), record.machines, strict=False):
        told = [word for label in labels for word in ("--label", label)]
        way = ["127.0.0.1", "--port", str(machine.port), "-c", "web-key"]
        _do(bare_service, "targets", "add", name, *way, *told, "-g", labels[1].partition("=")[2])
    _do(bare_service, "targets", "trust", "--yes", *MACHINES)
    return bare_service


def mail_settings(server: MailServer) -> dict[str, str]:
    """Return the settings of a service that sends e-mail through this server."""
    return {
        "OPSJOBS_SMTP_HOST": "localhost",
        "OPSJOBS_SMTP_PORT": str(server.port),
        "OPSJOBS_SMTP_FROM": "opsjobs@example.org",
        "OPSJOBS_SMTP_USERNAME": USER,
        "OPSJOBS_SMTP_PASSWORD": PASSWORD,
        "OPSJOBS_SMTP_CA_FILE": str(server.ca_file),
    }


def _do(service: UpProcess, *arguments: str) -> None:
    done = service.run(*arguments)
    assert done.returncode == 0, done.stderr


def files(page: str) -> Iterator[Sample]:
    """Yield the samples of a page that are files: the note is the file's name."""
    for language in ("yaml", "text"):
        for sample in samples(page, language):
            if "." in sample.note:
                yield sample


def test_the_readme_works_from_top_to_bottom(bare_service: UpProcess, tmp_path: Path) -> None:
    bench = Bench(tmp_path, live=True)
    asked: list[list[str]] = []
    for sample in samples("README.md", "sh"):
        done = bench.run(
            sample,
            localise(sample.text, bare_service, tmp_path),
            {**bare_service.environment, "HOME": str(tmp_path)},
        )
        assert done.code == 0, done.written
        asked += done.commands
    for arguments in asked:
        parse(arguments)
    assert ["up", "--lab", "20", "--lab-windows", "1"] in asked
    # The reader of a how-to has only added the machines of that page.
    _do(bare_service, "targets", "rm", "web-1")
    _do(bare_service, "credentials", "rm", "web-key")


def test_the_readme_launches_the_job_that_it_has_made_whatever_else_is_there(
    bare_service: UpProcess, tmp_path: Path
) -> None:
    (http,) = [sample for sample in samples("README.md", "sh") if "curl" in sample.text]
    job = tmp_path / "other.yaml"
    job.write_text(
        "name: other\ntargets: {ids: [lab-1]}\nactions: [{command: echo the wrong one}]\n"
    )
    assert bare_service.run("jobs", "apply", "-f", str(job)).returncode == 0
    text = (
        localise(http.text, bare_service, tmp_path)
        .replace('"disk"', '"disk of now"')
        .replace("readme", "readme-of-now")
    )
    done = Bench(tmp_path, live=True).run(
        http, text, {**bare_service.environment, "HOME": str(tmp_path)}
    )
    assert done.code == 0, done.written
    assert "Filesystem" in done.written
    assert "the wrong one" not in done.written
    listed = bare_service.run("executions", "list", "-o", "json").stdout
    assert [e["job_name"] for e in json.loads(listed)][:1] == ["disk of now"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_from_top_to_bottom(page: str, service: UpProcess, tmp_path: Path) -> None:
    for file in files(page):
        (tmp_path / file.note).write_text(file.text)
    bench = Bench(tmp_path, live=True)
    environment = {**service.environment, "HOME": str(tmp_path)}
    played = [sample for sample in samples(page, "sh") if sample.note != PARSED]
    for sample in played:
        done = bench.run(sample, localise(sample.text, service, tmp_path), environment)
        assert done.code == 0, done.written
        for arguments in done.commands:
            parse(arguments)
    assert played, "a page that cannot be played is no how-to: say it in a reference page"


@pytest.mark.parametrize("sample", all_samples("python"), ids=str)
def test_programs_run(sample: Sample, service: UpProcess, tmp_path: Path) -> None:
    program = tmp_path / "sample.py"
    program.write_text(sample.text)
    assert compileall.compile_file(program, quiet=1)
    assert service.run("run", "echo hello", "-t", "lab-1").returncode == 0
    place = {
        "OPSJOBS_URL": (service.data / "endpoint").read_text().strip(),
        "OPSJOBS_TOKEN": (service.data / "admin-token").read_text().strip(),
    }
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "counts" in done.stdout.splitlines()[-1]
