"""Places in a command where values may be used.

The result is the same as by looking back from each place, in one pass, even for hostile texts.
"""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from opsjobs.model.quoting import Shell, posix
from opsjobs.model.shell_context import NamePosition, places
from opsjobs.model.template import Template, TemplateFault, TemplateNames

CHARACTERS_MAX = 65_536
HOSTILE: dict[str, tuple[Shell, str]] = {
    "indexes": ("posix", "a[" * 20_000 + "${x}" * 6_000),
    "a long word": ("posix", "a" * 40_000 + "${x}" * 6_000),
    "tests": ("posix", "[[ ${x} " * 8_000),
    "tests that compare": ("posix", "[[ 1 -eq " * 5_000 + "${x}" * 5_000),
    "substitutions in quotes": ("posix", '"' + "$(" * 32_000),
    "cases in substitutions": ("posix", '"' + "$(" * 30_000 + " esac"),
    "open brackets": ("posix", "(" * 30_000 + "${x}" * 8_000),
    "arithmetic": ("posix", "((" * 16_000 + "${x}" * 8_000),
    "here-documents": ("posix", "<<A " * 12_000 + "\n" + "A\n" * 8_000),
    "here-documents without end": ("posix", "<<A " * 12_000 + "\n" + "b\n" * 8_000),
    "declarations": ("posix", "then declare " * 4_500 + "${x}" * 1_500),
    "names": ("posix", "test " + "${x}" * 16_000),
    "indexes of assignments": ("posix", "(a[" * 16_000 + "${x}" * 4_000),
    "PowerShell": ("powershell", "a" * 30_000 + "${x}" * 8_000),
}


def find(text: str, at: int) -> re.Match[str] | None:
    return re.compile(r"\$\{(x)\}").match(text, at)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_text_of_the_largest_size_is_read_to_its_end(name: str) -> None:
    shell, text = HOSTILE[name]
    assert len(text) <= CHARACTERS_MAX
    found = places(text, find, shell)
    assert len(found) == text.count("${x}")


def faults_by_looking_back(text: str, found: list[NamePosition]) -> list[bool]:
    """Return whether a subscript or a comparison is open before each place, by the definition."""
    answers = []
    for place in found:
        before = text[: place.start]
        test = before.rfind("[[")
        inside = test >= 0 and "]]" not in before[test:]
        compares = inside and re.search(r"\s-(eq|ne|lt|le|gt|ge)\s", text[test:].partition("]]")[0])
        answers.append(bool(re.search(r"[A-Za-z0-9_]\[[^\]\s]*\Z", before) or compares))
    return answers


@pytest.mark.parametrize("seed", range(300))
def test_what_is_open_is_found_as_by_looking_back(seed: int) -> None:
    choose = random.Random(seed)
    words = ["a[", "[", "]", "[[", "]]", " ", " -eq ", " -ne", "\n", "x", "_[", "${x}", "1"]
    text = "".join(choose.choice(words) for _ in range(choose.randrange(4, 40)))
    found = places(text, find, "posix")
    missed = [
        place.start
        for place, fault in zip(found, faults_by_looking_back(text, found), strict=True)
        if fault and not place.fault
    ]
    assert missed == []


def test_a_case_behind_a_substitution_in_quotes_makes_it_murky() -> None:
    names = TemplateNames(["x"])
    Template.command('echo "$(ls)" ${x}', names)
    Template.command('case a in b) ;; esac; echo "$(ls)" ${x}', names)
    with pytest.raises(ValueError, match="cannot be analysed"):
        Template.command('echo "$(case a in b) ls;; esac)" ${x}', names)


EVALUATED = [
    "let ${x}",
    "true; let 'n = 1' ${x}",
    "if let ${x}; then :; fi",
    "declare -i n; declare -i n=${x}",
    "typeset -ri n=${x}",
    "declare ${x}=1",
    "f() { local ${x}=1; }; f",
    "b=(1); unset ${x}",
    "read -r ${x} <<< 1",
    "printf -v ${x} %s 1",
    "[ -v ${x} ]",
    "[[ -v ${x} ]]",
    "test -v ${x}",
    "a[ ${x} ]=1",
    "a[\n${x}]=1",
    "a[b[1] + ${x}]=1",
    "a=([${x}]=1)",
]
PLAIN = [
    "echo ${x}",
    "export NAME=${x}",
    "f() { local n=${x}; }; f",
    "declare -r n=${x}",
    "read -p ${x} answer < /dev/null",
    "read -t ${x} answer < /dev/null",
    "printf %s ${x}",
    "[ -f ${x} ]",
    "[ ${x} -eq 1 ]",
    "test -n ${x}",
    "grep -v ${x} /etc/hosts",
    "echo let ${x}",
    "systemctl restart nginx; curl ${x}",
    "ls /srv/[a-z]* ${x}",
    "n=${x}",
]


def rendered(command: str, value: str) -> str:
    return Template.command(command, TemplateNames(["x"])).render({"x": value}.get, posix)


@pytest.mark.parametrize("command", EVALUATED)
def test_no_value_stands_where_bash_would_run_what_is_in_it(command: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    value = posix(f"b[$(touch {ran})]")
    subprocess.run(
        ["/bin/bash", "-c", command.replace("${x}", value)], capture_output=True, check=False
    )
    assert ran.exists()
    with pytest.raises(TemplateFault, match="stands where"):
        rendered(command, "1")


@pytest.mark.parametrize("command", PLAIN)
def test_where_bash_runs_nothing_a_value_may_stand(command: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    subprocess.run(
        ["/bin/bash", "-c", rendered(command, f"b[$(touch {ran})]")],
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert not ran.exists()
