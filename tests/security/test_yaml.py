"""Point 21: a file of jobs is data: no custom types, no alias bomb, bounded depth."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsjobs.cli.errors import CommandFailed
from opsjobs.cli.yaml_documents import bodies

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{this}: &{this} [{','.join(['*' + before] * 10)}]"
    for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD = {
    "a billion laughs": LAUGHS,
    "an object": '!!python/object/apply:os.system ["touch {folder}/made"]',
    "a module": "name: !!python/module:os",
    "depth": "a: " + "[" * 10_000 + "]" * 10_000,
    "an alias of itself": "a: &a [*a]",
    "a key twice": "name: a\nname: b",
}


@pytest.mark.parametrize("what", BAD)
def test_yaml_is_data_within_limits(tmp_path: Path, what: str) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text(BAD[what].replace("{folder}", str(tmp_path)))
    with pytest.raises(CommandFailed) as refused:
        bodies([str(file)])
    assert str(file) in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.yaml"]
