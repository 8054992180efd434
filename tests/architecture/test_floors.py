"""The floors and homes of ARCHITECTURE.md hold, and no import is hidden from their check."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

from architecture.tree import ROOT, SOURCE, functions, modules


def test_imports_go_down_only_and_each_technology_has_one_home() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_import_is_hidden_in_a_function() -> None:
    hidden = {
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for function in functions(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert hidden == set()


def test_no_import_is_behind_type_checking() -> None:
    assert [name for name, tree in modules().items() if _names(tree) & {"TYPE_CHECKING"}] == []


def test_only_commands_traces_and_late_transports_are_loaded_by_name() -> None:
    late = {
        name for name, tree in modules().items() if _names(tree) & {"import_module", "__import__"}
    }
    assert late == {
        "src/opsjobs/cli/lazy_commands.py",
        "src/opsjobs/composition/late_sessions.py",
        "src/opsjobs/telemetry/tracing.py",
    }


def _names(tree: ast.Module) -> set[str]:
    """Every name that a module uses or imports."""
    return {
        getattr(node, field)
        for node in ast.walk(tree)
        for kind, field in ((ast.Name, "id"), (ast.Attribute, "attr"), (ast.alias, "name"))
        if isinstance(node, kind)
    }
