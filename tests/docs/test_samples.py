"""Samples do what the pages describe; those that need a whole service are in test_how_tos."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from api.live import live_api
from docs.pages import ROOT, Sample, all_samples, pages, samples
from docs.shells import Bench, assigned, parse
from opsjobs.cli import yaml_documents
from opsjobs.integrations.services.profile import parse_profile
from opsjobs.model.calendar import CalendarDraft
from opsjobs.model.events import SOURCE, EventType, cloud_event
from opsjobs.model.job import JobDraft
from opsjobs.model.notification import NotificationDefaultDraft
from opsjobs.model.safety_verdict import worst
from opsjobs.safety import Context, policy
from opsjobs.safety.check import check_text
from opsjobs.settings import names
from opsjobs.store.transaction import Database

LANGUAGES = {"sh", "json", "mermaid", "python", "text", "yaml"}
# The variables of the samples themselves; they are no settings.
_PLAIN_VARIABLES = {
    *("URL", "TOKEN", "ARGS", "JOB", "EXECUTION", "FILE"),
    *("TRIGGER", "SECRET", "WEBHOOK_SECRET", "BODY", "SIGNATURE"),
}
_LAUNCHING = re.compile(
    r"/(?:jobs|executions|schedules|dead-letters)/[0-9]+/(?:execute|retry|trigger|revive|resume)|(?:retry|revive|trigger) [0-9]"
)
_OTHER_PAGES = [s for s in all_samples("sh") if s.page != "README.md"]
# The reference is first: it creates the jobs and targets that other pages use.
_REQUESTS = sorted(
    (s for s in all_samples("json") if s.note), key=lambda s: s.page != "docs/reference/api.md"
)
_DOCUMENTS = [s for s in all_samples("json") if not s.note]


def test_every_sample_has_a_language_that_is_tested() -> None:
    fences = re.compile(r"^```(\S*)", re.MULTILINE)
    for page in pages():
        opening = fences.findall(page.read_text())[::2]
        assert set(opening) <= LANGUAGES, page


def test_every_job_and_calendar_in_yaml_is_one(tmp_path: Path) -> None:
    for sample in all_samples("yaml"):
        file = tmp_path / "bodies.yaml"
        file.write_text(sample.text)
        if sample.note.startswith("policies"):
            assert policy.read(sample.text).policies
            continue
        if sample.note.startswith("profile"):
            assert parse_profile(sample.text, str(sample)).targets
            continue
        if sample.note.startswith("default.yaml"):
            (body,) = yaml_documents.bodies([str(file)])
            assert NotificationDefaultDraft.model_validate(body).notify
            continue
        draft = CalendarDraft if sample.note.startswith("calendars") else JobDraft
        for body in yaml_documents.bodies([str(file)]):
            assert draft.model_validate(body).name == body["name"], sample


@pytest.mark.parametrize("page", ["docs/concepts/waves.md", "docs/concepts/workflows.md"])
def test_a_job_in_yaml_is_the_one_in_json_beside_it(page: str, tmp_path: Path) -> None:
    (body,) = [json.loads(one.text) for one in samples(page, "json") if one.note == "POST /jobs"]
    file = tmp_path / "job.yaml"
    file.write_text("---\n".join(one.text for one in samples(page, "yaml")))
    (written,) = yaml_documents.bodies([str(file)])
    assert JobDraft.model_validate(written) == JobDraft.model_validate(body)


def test_the_policy_for_patching_in_waves_lets_the_example_restart_most_of_the_labelled_machines() -> (
    None
):
    (sample,) = [one for one in all_samples("yaml") if "patched in waves" in one.text]
    (job,) = yaml_documents.bodies([str(ROOT / "examples/patch-and-reboot.yaml")])
    (restart,) = [action["command"] for action in job["actions"] if action.get("key") == "restart"]
    labelled, bare = frozenset({"patch=waves"}), frozenset({"os=debian"})

    def verdict(text: str, share: float, targets: Sequence[frozenset[str]]) -> str:
        context = Context(frozenset().union(*targets), share, 46)
        found = policy.read(text).apply(
            check_text("bash", restart, context=context), context, targets
        )
        return worst(finding.severity for finding in found).value

    assert verdict("policies: []", 0.54, [labelled] * 46) == "block"
    assert verdict(sample.text, 0.54, [labelled] * 46) == "warn"
    assert verdict(sample.text, 0.54, [*([labelled] * 45), bare]) == "block"
    assert verdict(sample.text, 0.8, [labelled] * 46) == "block"


# --- shell


@pytest.mark.parametrize("sample", [*all_samples("sh"), *all_samples("python")], ids=str)
def test_what_a_sample_launches_it_has_read_from_an_answer(sample: Sample) -> None:
    assert _LAUNCHING.findall(sample.text) == []


@pytest.mark.parametrize("sample", _OTHER_PAGES, ids=str)
def test_commands_of_other_pages_are_understood(sample: Sample, tmp_path: Path) -> None:
    done = Bench(tmp_path, live=False).run(sample, sample.text, {"HOME": str(tmp_path)})
    assert done.code == 0, done.written
    for arguments in done.commands:
        parse(arguments)


def test_commands_of_the_console_are_understood() -> None:
    shown = [
        " ".join(text.split())
        for page in (ROOT / "console/src").rglob("*.tsx")
        for text in re.findall(r"<(?:code>|Command text=\")opsjobs ([^<\"]+)", page.read_text())
    ]
    assert len(shown) > 5
    for command in shown:
        words = shlex.split(command)
        if len(words) > 2:  # else it names the command, without its arguments
            parse(words)


@pytest.mark.parametrize("sample", all_samples("sh"), ids=str)
def test_variables_of_samples_are_settings(sample: Sample) -> None:
    assert assigned(sample.text) - _PLAIN_VARIABLES - names() == set()


# --- JSON and Python


async def test_bodies_are_taken_in_the_order_of_the_page(database: Database) -> None:
    latest: dict[str, str] = {}
    async with live_api(database) as api:
        for sample in _REQUESTS:
            method, _, path = sample.note.partition(" ")
            path = path.replace("{id}", latest.get(path.split("/")[1], ""))
            answer = await api.http.request(
                method,
                path,
                content=sample.text,
                headers={"Content-Type": "application/json"},
            )
            assert answer.is_success, f"{sample}: {answer.text}"
            made, number = answer.headers.get("location", path).split("/")[1:3]
            if number.isdigit():  # not a verb, as in /targets/import
                latest[made] = number


@pytest.mark.parametrize("sample", _DOCUMENTS, ids=str)
def test_documents_are_events_as_they_are_sent(sample: Sample) -> None:
    told = json.loads(sample.text)
    assert told.keys() == cloud_event("", "", "", "", {}).keys()
    assert told["source"] == SOURCE
    found = re.fullmatch(r"io\.opsconductor\.(.+)\.v1", told["type"])
    assert found is not None
    assert EventType(found[1])


def test_the_makefile_names_what_pages_tell_to_type() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {m for page in pages() for m in re.findall(r"`make ([\w-]+)", page.read_text())}
    assert told - targets == set()
