"""Point 20: a guard rail, no sandbox: its known tricks, unknown values, and its limits.

It also lists what must not be stopped.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from opsjobs.model.safety_verdict import SafetyVerdict, worst
from opsjobs.safety import Context
from opsjobs.safety.check import check_text

ROOT = Path(__file__).resolve().parents[2]


def verdict(interpreter: str, text: str) -> SafetyVerdict:
    return worst(finding.severity for finding in check_text(interpreter, text))


@pytest.mark.parametrize(
    ("interpreter", "text"),
    [
        ("bash", "X=/; Y=rm; $Y -rf $X"),  # constants
        ("bash", "sudo -u root env A=b nice nohup timeout 5 rm -rf /"),
        ("bash", "echo / | xargs rm -rf"),
        ("bash", "find /etc -exec rm -rf {} +"),
        ("bash", "bash -c \"bash -c 'rm -rf /'\""),
        ("bash", "eval 'r''m -rf /'"),
        ("bash", "sh <<EOF\nrm -rf /\nEOF\n"),
        ("bash", "rm -rf //etc/./x/../"),  # paths have one spelling
        ("sh", "echo cm0gLXJmIC8= | base64 -d | sh"),
        ("powershell", "$p = 'C:' + '\\'; & ('Remove-' + 'Item') -Recurse $p"),
        ("powershell", "iex 'Remove-Item -Recurse C:\\'"),
    ],
)
def test_what_hides_a_command_is_looked_through(interpreter: str, text: str) -> None:
    assert verdict(interpreter, text) is SafetyVerdict.BLOCK


@pytest.mark.parametrize(
    ("interpreter", "text"),
    [
        ("bash", "if then"),
        ("bash", "x" * (64 << 10) + "x"),
        ("bash", "|" * (64 << 10)),
        ("bash", "base64 -d /srv/x | sh"),
        ("powershell", "if ("),
        ("python", "def f(:"),
    ],
)
def test_what_cannot_be_read_needs_an_approval(interpreter: str, text: str) -> None:
    assert verdict(interpreter, text) is SafetyVerdict.NEEDS_APPROVAL


@pytest.mark.parametrize(
    ("interpreter", "text"),
    [
        ("bash", "$CMD --now"),
        ("bash", "$(cat /tmp/x) --now"),
        ("powershell", "& $tool"),
        ("python", "exec(input())"),
        ("cmd", "%TOOL% /x"),
        ("/opt/strange", "x"),
    ],
)
def test_what_is_merely_unknown_warns_and_asks_in_production(interpreter: str, text: str) -> None:
    assert verdict(interpreter, text) is SafetyVerdict.WARN
    production = check_text(
        interpreter, text, context=Context(labels=frozenset({"env=production"}))
    )
    assert worst(finding.severity for finding in production) is SafetyVerdict.NEEDS_APPROVAL


@pytest.mark.parametrize(
    "text",
    [
        'echo "rm -rf /"',
        "# rm -rf /",
        "cat <<EOF\nrm -rf /\nEOF\n",
        "grep 'rm -rf' x",
        "printf 'rm -rf /\\n'",
    ],
)
def test_text_that_is_only_text_is_allowed(text: str) -> None:
    assert verdict("bash", text) is SafetyVerdict.ALLOW


def test_the_documents_say_that_it_is_no_sandbox() -> None:
    told = (ROOT / "docs/concepts/safety-check.md").read_text()
    assert "It is a guard rail, not a sandbox." in told
    assert "## What it cannot do" in told
