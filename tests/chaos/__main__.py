"""`make chaos`: rounds of every fault for some minutes, and a table of their outcomes.

--seed N: the same choices again. --minutes M: how long (10). --only NAME: faults whose name
contains this; may be repeated. --rounds N: no more than so many. --logs FOLDER: keeps the logs of
rounds with wrong outcomes there. --list: the faults. Exit code 1 if any outcome was wrong.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType

from chaos.catalogue import chosen
from chaos.machines import IS_ROOT
from chaos.runner import ChaosRunner, table


def main() -> int:
    """Run the rounds, and print the verdicts."""
    options = _options()
    faults = chosen(options.only)
    if options.list:
        for fault in faults:
            _tell(f"{fault.name}: {fault.says}")
        return 0
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    signal.signal(signal.SIGTERM, _leave)
    _tell(f"chaos: {len(faults)} faults, seed {seed}, {options.minutes:g} minutes")
    if not IS_ROOT:
        _tell("Not root: the faults of disks, boot ids and power of machines are left out.")
    with ChaosRunner(seed, keep=options.logs, tell=_tell) as runner:
        for number, _ in enumerate(runner.rounds(faults, options.minutes), start=1):
            if number == options.rounds:
                break
    return _report(runner)


def _report(runner: ChaosRunner) -> int:
    _tell(f"\nseed {runner.seed}\n\n{table(runner.tallies)}")
    for complaint, count in runner.complaints.most_common(20):
        _tell(f"logged {count} times: {complaint}")
    wrong = {name: len(tally.wrong) for name, tally in runner.tallies.items() if tally.wrong}
    _tell(
        f"\n{sum(wrong.values())} wrong outcomes"
        + "".join(f"\n  {name}: {count}" for name, count in wrong.items())
    )
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _leave(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that everything that was started is ended


if __name__ == "__main__":
    sys.exit(main())
