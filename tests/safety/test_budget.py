"""A text may cost so much and no more, and nothing that is written makes the judge fail."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsjobs.model.safety_verdict import SafetyVerdict, worst
from opsjobs.safety import Context
from opsjobs.safety.budget import STEPS_MAX, TEXT_BYTES_MAX, Budget, Spent
from opsjobs.safety.check import INTERPRETERS, check_text, traced

# Each makes a parser or a reader go over it again and again.
BOMBS = [
    *(
        ("bash", piece)
        for piece in (
            "|",
            ">",
            "<<A\n",
            "for x in (",
            "$(",
            "${",
            "(",
            "{a,",
            "A=$A$A ",
            "$a",
            "[",
            "`",
            "if ",
            "eval ",
        )
    ),
    *(
        ("powershell", piece)
        for piece in ("${", '@"\n', "{a,", "<(", "[[ ", "f(){ ", "@{", "iex ", "|")
    ),
    *(("python", piece) for piece in ("(", "lambda:", "not ", "f(", "1+", "[")),
    *(("cmd", piece) for piece in ('"', "if ", "%x%", "for %%i in (x) do ", "^", "&")),
    *(("perl", piece) for piece in ("open ", "system ", "fork while ", "`")),
    *(("node", piece) for piece in ("exec(", "eval(", "/*", "`")),
]
PIECES = [
    *(
        "rm",
        "-rf",
        "/",
        "$X",
        "${X:-",
        "}",
        "$(",
        ")",
        "`",
        "'",
        '"',
        "\\",
        "|",
        "&&",
        ";",
        "\n",
        "<<EOF\n",
        "EOF\n",
        "{",
        "a,b",
        "<(",
        ">",
        " ",
    ),
    *(
        "eval ",
        "sh -c ",
        "sudo ",
        "xargs ",
        "find . -exec ",
        "base64 -d",
        "echo ",
        "for i in ",
        "; do ",
        "; done",
        "f() { ",
        "case x in ",
        "esac",
    ),
    *(
        "Remove-Item",
        "iex ",
        "[char]",
        "@{",
        "$env:",
        "-enc ",
        "%",
        "import os\n",
        "os.system(",
        "exec(",
        "lambda: ",
        "set ",
        "%X%",
        "^",
        "é",
        "\ue000",
        "\ud800",
    ),
]


@pytest.mark.parametrize(("interpreter", "piece"), BOMBS)
def test_a_bomb_is_not_allowed_and_ends(interpreter: str, piece: str) -> None:
    text = (piece * TEXT_BYTES_MAX)[:TEXT_BYTES_MAX] + (
        "\nx" if interpreter in ("perl", "node") else ""
    )
    said = worst(finding.severity for finding in check_text(interpreter, text))
    assert said.rank >= SafetyVerdict.NEEDS_APPROVAL.rank or piece in (
        "^",
        "&",
        "if ",
        '"',
        "%x%",
        "/*",
        "for %%i in (x) do ",
    )


def test_a_text_of_more_than_64_kib_needs_an_approval() -> None:
    (finding,) = check_text("bash", "#" * (TEXT_BYTES_MAX + 1))
    assert (finding.rule, finding.severity) == ("too-large", SafetyVerdict.NEEDS_APPROVAL)
    assert check_text("bash", "#" * TEXT_BYTES_MAX) == ()


def test_what_is_dangerous_before_the_budget_ends_is_found_though_it_ends() -> None:
    found = {
        finding.rule
        for finding in check_text("bash", "rm -rf /\n" + "sh -c 'nice sh -c ls'\n" * 900)
    }
    assert found == {"delete-everything", "too-large"}


def test_the_budget_is_spent_by_steps() -> None:
    budget = Budget()
    budget.spend(STEPS_MAX)
    with pytest.raises(Spent):
        budget.spend()


@pytest.mark.parametrize("interpreter", ["", "/", "/opt/x/weird", "tcl", "bash\n", "\ud800"])
def test_an_unknown_interpreter_is_warned_of_and_asks_in_production(interpreter: str) -> None:
    found = check_text(interpreter, "rm -rf /", context=Context())
    assert [(finding.rule, finding.severity) for finding in found] == [
        ("other-language", SafetyVerdict.WARN)
    ]
    found = check_text(interpreter, "rm -rf /", context=Context(frozenset({"env=prod"})))
    assert worst(finding.severity for finding in found).rank >= SafetyVerdict.NEEDS_APPROVAL.rank


@pytest.mark.parametrize("interpreter", ["PYTHON3.11", "C:\\x\\pwsh.exe"])
def test_an_interpreter_is_known_by_its_name(interpreter: str) -> None:
    found = check_text(interpreter, "rm -rf /", context=Context())
    assert worst(finding.severity for finding in found).rank >= SafetyVerdict.NEEDS_APPROVAL.rank


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
@given(
    st.sampled_from(INTERPRETERS),
    st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=25),
)
def test_nothing_that_is_written_makes_it_fail(interpreter: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    traced(interpreter, text)  # check_text would hide a mistake of ours behind an approval
    for finding in check_text(interpreter, text):
        assert finding.reason
        assert len(finding.excerpt) <= 200
