"""Stored parameters: declarations with a version, values with an execution, secrets sealed."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from opsjobs.model.secret import Secret
from opsjobs.store.envelope import (
    KeyRing,
    Tampered,
    mask_parameters,
    new_key,
    open_parameters,
    seal_parameters,
)
from opsjobs.store.jobs import Jobs, StoredJob
from opsjobs.store.transaction import Database
from store.drafts import job

VALUES = {
    "service": "nginx",
    "count": 3,
    "fast": True,
    "hosts": ["a", "b"],
    "none": None,
    "token": Secret("hush-hush"),
}
EXECUTION = UUID("0191d7a0-0000-7000-8000-000000000001")


def test_what_is_stored_opens_as_it_was_and_shows_no_secret() -> None:
    ring = KeyRing([new_key()])
    stored = seal_parameters(ring, EXECUTION, VALUES)
    assert "hush" not in repr(stored)
    assert open_parameters(ring, EXECUTION, stored) == VALUES
    assert mask_parameters(stored) == mask_parameters(VALUES) == {**VALUES, "token": "***"}


def test_a_secret_opens_only_in_its_execution_under_its_name() -> None:
    ring = KeyRing([new_key()])
    stored = seal_parameters(ring, EXECUTION, VALUES)
    with pytest.raises(Tampered):
        open_parameters(ring, uuid4(), stored)
    with pytest.raises(Tampered):
        open_parameters(ring, EXECUTION, {"other": stored["token"]})


async def test_a_version_keeps_its_declared_parameters(database: Database) -> None:
    jobs = Jobs(database)
    declared = [
        {"name": "service", "pattern": "[a-z]+", "default": "nginx"},
        {"name": "token", "type": "secret"},
    ]
    made = await jobs.create(job("restart", parameters=declared), "ada")
    assert isinstance(made, StoredJob)
    read = await jobs.get(str(made.job.id))
    assert read.job.definition == made.job.definition
    assert [parameter.name for parameter in read.job.definition.parameters] == ["service", "token"]
    same = await jobs.replace(str(made.job.id), job("restart", parameters=declared), "ada", None)
    assert same.job.version == 1
