"""A bounded part of `make fuzz`: some requests to every operation, right ones and wrong ones, from two users and from nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.test_server_process import served
from fuzz.place import tokens
from fuzz.play import Fuzz, furnished

pytestmark = pytest.mark.long  # make fuzz asks more

EXAMPLES = 2
SEED = 4712


def test_nothing_that_the_description_makes_up_breaks_the_api_or_is_taken_though_it_is_wrong(
    database_url: str, tmp_path: Path
) -> None:
    with served(database_url, tmp_path / "log") as (process, http):
        admin, viewer = tokens(http)
        fuzz = Fuzz(str(http.base_url), admin, viewer, furnished(http), EXAMPLES, SEED)
        fuzz.play()
        assert process.poll() is None
    assert fuzz.cases > 300
    assert fuzz.statuses[200] > 50, fuzz.statuses
    assert not fuzz.wrong, f"{len(fuzz.wrong)} of {fuzz.cases} cases:\n" + "\n".join(
        fuzz.wrong[:20]
    )
    assert '"event": "bug"' not in (tmp_path / "log").read_text()
