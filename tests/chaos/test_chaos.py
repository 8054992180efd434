"""The sharpest faults of `make chaos`, one round of each: nothing may come out wrong.

Not those that tests/e2e plays as well: what is killed (workers, the API, PostgreSQL, everything) and steps that are cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.catalogue import FAULTS, chosen
from chaos.runner import ChaosRunner
from kit.sshd import needs_sshd

pytestmark = pytest.mark.long  # make chaos plays all faults

SHARPEST = (
    "two owners",
    "start cut",
    "WinRM service killed",
)
# The same rounds each time: a check before a landing must not be random. `make chaos` is.
SEED = 4712


@pytest.fixture(scope="module")
def runner() -> Iterator[ChaosRunner]:
    """Yield a runner whose rounds share one cluster."""
    needs_sshd()
    with ChaosRunner(SEED, quick=True) as found:
        yield found


@pytest.mark.parametrize("name", SHARPEST)
def test_nothing_comes_out_wrong_of(runner: ChaosRunner, name: str) -> None:
    fault = next((fault for fault in chosen([name]) if fault.name == name), None)
    if fault is None:
        pytest.skip(
            "this machine cannot give machines disks and boot ids of their own: that needs root"
        )
    tally = runner.round(fault)
    assert tally.runs
    assert not tally.wrong, (
        f"make chaos ARGS=\"--seed {runner.seed} --only '{name}'\"\n" + "\n".join(tally.wrong)
    )


def test_every_fault_has_a_name_of_its_own_and_is_on_the_page_with_what_it_does() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/operations/reliability.md").read_text()
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert [fault.name for fault in FAULTS if f"| {fault.name} | {fault.says} |" not in page] == []
