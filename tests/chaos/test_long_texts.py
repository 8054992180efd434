"""The long texts of the chaos suite have the maximum length of their fields.

Its long log and its outputs are those that its checker expects.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from chaos import long_text_work, long_texts
from chaos.long_text_work import LongTextWork, long_log
from chaos.verdicts import RIGHT, Launched, Seen, as_planned
from chaos.work import Work
from kit.start_witness import Testimony, Witness
from opsjobs.model.job import JobBody, RunDraft
from opsjobs.model.target import TargetDraft


def test_a_target_takes_names_labels_and_groups_as_they_are_and_none_that_is_longer() -> None:
    name = long_texts.name("web-1")
    target = TargetDraft(
        name=name, host="127.0.0.1", labels=long_text_work.labels(), groups=long_text_work.groups()
    )
    assert (target.name, target.labels, target.groups) == (
        name,
        long_text_work.labels(),
        long_text_work.groups(),
    )
    for longer in (
        {"name": f"{name}a"},
        {"name": "a", "labels": {"site": f"{long_text_work.SITE}a"}},
        {"name": "a", "groups": [f"{name}a"]},
    ):
        with pytest.raises(ValidationError):
            TargetDraft(host="127.0.0.1", **longer)


def test_a_job_takes_the_words_as_they_are(tmp_path: Path) -> None:
    work = LongTextWork(tmp_path, long_texts.name).work(0.0, 9)
    assert work.job is not None
    job = JobBody(
        name=long_texts.name("job"), actions=work.actions("mark", Witness(tmp_path)), **work.job
    )
    assert job.name == long_texts.name("job")
    assert len(job.description) == long_texts.DESCRIPTION_CHARACTERS
    assert {len(tag) for tag in job.tags} == {long_texts.TAG_CHARACTERS}
    assert len(work.parameters["long"]) == long_texts.PARAMETER_CHARACTERS
    assert len(f"{'k' * 49}{work.parameters['file']}".encode()) <= long_texts.FILE_NAME_BYTES


def test_a_long_log_is_what_its_script_says(tmp_path: Path) -> None:
    work, key = long_log(3, 0.0), "mark-1.127.0.0.1"
    RunDraft(actions=work.actions("mark", Witness(tmp_path)))
    said = subprocess.run(
        ["/bin/sh", "-c", f"k={key}; {work.steps[0].script}"], check=True, capture_output=True
    )
    assert (said.stdout, said.stderr) == (work.steps[0].stdout(key), work.steps[0].stderr(key))


def test_a_value_that_was_handed_on_otherwise_is_seen_by_the_checker() -> None:
    seen = _as_it_should_be(long_log(2, 0.0))
    assert as_planned(seen) == RIGHT
    seen.results["step-1"]["outputs"]["at_1"] = "another"
    assert as_planned(seen) == "step 1 handed on 4 values of 4, other ones in ['at_1'] (I3)"


def _as_it_should_be(work: Work) -> Seen:
    """Return a run of this work as database, log and witness show it without a fault."""
    launched, host = Launched(1, "mark", work, ["127.0.0.1"]), "127.0.0.1"
    seen = Seen(
        launched,
        {"host": host, "status": work.status, "exit_code": work.steps[-1].code},
        {},
        {},
        dropped=False,
    )
    keys = [launched.key(number, host) for number in range(1, len(work.steps) + 1)]
    steps = [*zip(work.steps, keys, strict=True)]
    seen.results = {
        f"step-{number}": {
            "status": step.status,
            "exit_code": step.code,
            "outputs": step.outputs(key) if step.outputs else None,
        }
        for number, (step, key) in enumerate(steps, start=1)
    }
    seen.said = {
        f"step-{number}": (step.stdout(key), step.stderr(key))
        for number, (step, key) in enumerate(steps, start=1)
    }
    seen.starts = [[Testimony(key, 1, 0.0)] for key in keys]
    seen.ends = [[Testimony(key, 1, 0.0, "end", code=step.code)] for step, key in steps]
    return seen
