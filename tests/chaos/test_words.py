"""The long words of the chaos suite are as long as fields allow, and its long log is what its script says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from chaos import telling, words
from chaos.telling import Words, long_log
from kit.witness import Witness
from opsjobs.model.job import JobBody, RunDraft
from opsjobs.model.target import TargetDraft


def test_a_target_takes_names_labels_and_groups_as_they_are_and_none_that_is_longer() -> None:
    name = words.name("web-1")
    target = TargetDraft(name=name, host="127.0.0.1", labels=telling.labels(), groups=telling.groups())
    assert (target.name, target.labels, target.groups) == (name, telling.labels(), telling.groups())
    for longer in (
        {"name": f"{name}a"},
        {"name": "a", "labels": {"site": f"{telling.SITE}a"}},
        {"name": "a", "groups": [f"{name}a"]},
    ):
        with pytest.raises(ValidationError):
            TargetDraft(host="127.0.0.1", **longer)


def test_a_job_takes_the_words_as_they_are(tmp_path: Path) -> None:
    work = Words(tmp_path, words.name).work(0.0, 9)
    assert work.job is not None
    job = JobBody(name=words.name("job"), actions=work.actions("mark", Witness(tmp_path)), **work.job)
    assert job.name == words.name("job")
    assert len(job.description) == words.DESCRIPTION_CHARACTERS
    assert {len(tag) for tag in job.tags} == {words.TAG_CHARACTERS}
    assert len(work.parameters["long"]) == words.PARAMETER_CHARACTERS
    assert len(f"{'k' * 49}{work.parameters['file']}".encode()) <= words.FILE_NAME_BYTES


def test_a_long_log_is_what_its_script_says(tmp_path: Path) -> None:
    work, key = long_log(3, 0.0), "mark-1.127.0.0.1"
    RunDraft(actions=work.actions("mark", Witness(tmp_path)))
    said = subprocess.run(["/bin/sh", "-c", f"k={key}; {work.steps[0].script}"], check=True, capture_output=True)
    assert (said.stdout, said.stderr) == (work.steps[0].stdout(key), work.steps[0].stderr(key))
