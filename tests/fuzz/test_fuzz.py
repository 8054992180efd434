"""A bounded part of `make fuzz`: some valid and invalid requests to every operation.

They come from two users and without a token.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # make fuzz sends more

EXAMPLES = 2
SEED = 4712
SECONDS = 900


def test_nothing_that_the_description_makes_up_breaks_the_api_or_is_taken_though_it_is_wrong() -> (
    None
):
    # A process of its own: its library takes a second to load, in each test process.
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--examples", str(EXAMPLES), "--seed", str(SEED)],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr
    told = re.search(r"^(\d+) cases, .*answers: (\{.*\})$", done.stdout, re.MULTILINE)
    assert told is not None, done.stdout
    assert int(told[1]) > 300
    assert ast.literal_eval(told[2])[200] > 50, told[2]
