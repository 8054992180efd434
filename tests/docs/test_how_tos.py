"""The how-tos and the quickstart are played from top to bottom against a whole service.

Each page is a script: its files (fences with a file's name after the language) are written first, then
its `sh` samples run in order. A sample marked `parsed` needs what a test has not (another machine, a
person at a prompt, a second service): its commands are only parsed, by test_samples.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import ROOT, Sample, samples
from docs.shells import Bench, localise, parse
from kit.backing_servers import memory, open_folder
from kit.mail_server import PASSWORD, USER, MailServer, mail_server_thread
from kit.opsjobs_processes import Up, up
from opsjobs.standalone.lab.folder import LabFolder

PAGES = [
    "docs/quickstart.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs/how-to").glob("*.md")),
]
PARSED = "parsed"
# The reader's machines, each one of the lab.
MACHINES = {
    "web-1": ("env=prod", "role=web"),
    "web-2": ("env=prod", "role=web"),
    "db-1": ("env=prod", "role=db"),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Up]:
    """A whole service whose inventory has the reader's machines."""
    with (
        open_folder(memory()) as folder,
        mail_server_thread(folder) as mail,
        up(folder / "data", "--lab", "5", settings=mail_settings(mail)) as running,
    ):
        lab = LabFolder(running.data / "lab")
        record = lab.read()
        assert record is not None
        key = folder / "deploy"
        key.write_text(lab.client_key.read_text())
        _do(running, "credentials", "add", "web-key", "-u", record.user, "--key", str(key))
        for (name, labels), machine in zip(MACHINES.items(), record.machines, strict=False):
            told = [word for label in labels for word in ("--label", label)]
            way = ["127.0.0.1", "--port", str(machine.port), "-c", "web-key"]
            _do(running, "targets", "add", name, *way, *told, "-g", labels[1].partition("=")[2])
        _do(running, "targets", "trust", "--yes", *MACHINES)
        yield running


def mail_settings(server: MailServer) -> dict[str, str]:
    """The settings of a service that sends e-mail over this server."""
    return {
        "OPSJOBS_SMTP_HOST": "localhost",
        "OPSJOBS_SMTP_PORT": str(server.port),
        "OPSJOBS_SMTP_FROM": "opsjobs@example.org",
        "OPSJOBS_SMTP_USERNAME": USER,
        "OPSJOBS_SMTP_PASSWORD": PASSWORD,
        "OPSJOBS_SMTP_CA_FILE": str(server.ca_file),
    }


def _do(service: Up, *arguments: str) -> None:
    done = service.run(*arguments)
    assert done.returncode == 0, done.stderr


def files(page: str) -> Iterator[Sample]:
    """The samples of a page that are files: the note is a file's name."""
    for language in ("yaml", "text"):
        for sample in samples(page, language):
            if "." in sample.note:
                yield sample


@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_from_top_to_bottom(page: str, service: Up, tmp_path: Path) -> None:
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
