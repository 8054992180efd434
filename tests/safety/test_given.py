"""Arguments and variables of a program are checked with it, in every language.

A value that is not known yet needs an approval.
"""

from __future__ import annotations

import pytest

from opsjobs.model.safety_verdict import SafetyVerdict, worst
from opsjobs.safety import inputs_from_texts
from opsjobs.safety.check import check_text

UNKNOWN = "opsjobs-unknown-value"
TREE = "import shutil, sys\nshutil.rmtree(sys.argv[1])"
PARSER = "import argparse, shutil\np = argparse.ArgumentParser()\np.add_argument('d')\na = p.parse_args()\nshutil.rmtree(a.d)"
FIRST = "const [d] = process.argv.slice(2); require('fs').rmSync(d, {recursive: true})"
PARAM = "param([string]$Path)\nRemove-Item $Path -Recurse -Force"
ITEM = "Remove-Item $args[0] -Recurse -Force"

BLOCKED = [
    ("python", TREE, ["/"], {}),
    ("python", PARSER, ["/etc"], {}),
    ("python", "import subprocess, sys\nsubprocess.run(sys.argv[1:])", ["rm", "-rf", "/"], {}),
    ("python", "import os, shutil\nshutil.rmtree(os.environ['X'])", [], {"X": "/etc"}),
    ("python", "import os, shutil\nshutil.rmtree(os.getenv('X', '/tmp/x'))", [], {"X": "/usr"}),
    ("python", "import subprocess\nsubprocess.run('rm -rf $X', shell=True)", [], {"X": "/"}),
    (
        "python",
        "import subprocess\nsubprocess.run('rm -rf $D', shell=True, env={'D': '/'})",
        [],
        {},
    ),
    ("powershell", PARAM, ["C:\\"], {}),
    ("powershell", PARAM, ["-Path", "C:\\"], {}),
    ("powershell", ITEM, ["C:\\Windows"], {}),
    ("powershell", "Remove-Item $env:X -Recurse", [], {"X": "C:\\"}),
    ("cmd", "rd /s /q %1", ["C:\\"], {}),
    ("cmd", "rd /s /q %X%", [], {"X": "C:\\Windows"}),
    ("perl", "use File::Path; my $d = shift; rmtree($d);", ["/etc"], {}),
    ("perl", 'my ($a, $b) = @ARGV; system("rm -rf $b");', ["x", "/etc"], {}),
    ("node", "require('fs').rmSync(process.argv[2], {recursive: true})", ["/etc"], {}),
    ("node", FIRST, ["/etc"], {}),
    ("bash", 'rm -rf "$1" "$X"', ["/srv/x"], {"X": "/"}),
    ("bash", "sh -c 'rm -rf \"$X\"'", [], {"X": "/"}),
]
UNKNOWN_ONES = [
    ("python", TREE),
    ("python", "import os, sys\nos.system(sys.argv[1])"),
    ("powershell", PARAM),
    ("powershell", ITEM),
    ("powershell", "& $args[0]"),
    ("cmd", "rd /s /q %1"),
    ("cmd", "%1 /x"),
    ("perl", "use File::Path; rmtree($ARGV[0]);"),
    ("node", FIRST),
]

# Nothing here deletes: the program that runs is not known, which causes a warning.
MERELY_UNKNOWN = [
    ("python", "import os, sys\nos.system(sys.argv[1])"),
    ("powershell", "& $args[0]"),
    ("cmd", "%1 /x"),
]


def verdict(
    interpreter: str, text: str, arguments: list[str] | None, variables: dict[str, str]
) -> SafetyVerdict:
    given = inputs_from_texts(arguments, variables, UNKNOWN)
    return worst(finding.severity for finding in check_text(interpreter, text, given=given))


@pytest.mark.parametrize(("interpreter", "text", "arguments", "variables"), BLOCKED)
def test_what_is_given_is_known_within(
    interpreter: str, text: str, arguments: list[str], variables: dict[str, str]
) -> None:
    assert verdict(interpreter, text, arguments, variables) is SafetyVerdict.BLOCK
    harmless = dict.fromkeys(variables, "/srv/app/x")
    if (
        interpreter in ("python", "bash")
        and "{'D'" not in text
        and "subprocess.run(sys" not in text
    ):
        assert (
            verdict(interpreter, text, ["/srv/app/y"] * len(arguments), harmless)
            is SafetyVerdict.ALLOW
        )


@pytest.mark.parametrize(("interpreter", "text"), UNKNOWN_ONES)
def test_what_nobody_knows_yet_needs_an_approval_where_it_is_dangerous(
    interpreter: str, text: str
) -> None:
    least = (
        SafetyVerdict.WARN
        if (interpreter, text) in MERELY_UNKNOWN
        else SafetyVerdict.NEEDS_APPROVAL
    )
    assert verdict(interpreter, text, [UNKNOWN], {}).rank >= least.rank
    assert verdict(interpreter, text, None, {}).rank >= least.rank
