"""The helper processes of `up` are modules that exist."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from opsjobs.standalone import stack


def test_each_helper_that_the_stack_starts_is_a_module() -> None:
    tree = ast.parse(Path(stack.__file__).read_text())
    names = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "_run_helper"
        if isinstance(call.args[0], ast.Constant)
    }
    assert names == {"prepare", "reap_worker"}
    assert [
        name for name in names if importlib.util.find_spec(f"opsjobs.standalone.{name}") is None
    ] == []
