"""The check of a text has a limited cost, and no text makes it fail."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsjobs.model.safety_verdict import SafetyVerdict, worst
from opsjobs.safety import Context, check
from opsjobs.safety.budget import STEPS_MAX, TEXT_BYTES_MAX, Budget, Spent
from opsjobs.safety.check import FINDINGS_MAX, INTERPRETERS, check_text, traced
from opsjobs.safety.trace import Io, SourcePosition, Trace

# Each makes a parser or a reader go over it repeatedly.
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


NUMBERS = ("²", "٣", "9" * 5_000, "-", "--5", "0x" + "f" * 5_000)


@pytest.mark.parametrize("number", NUMBERS, ids=[n[:5] for n in NUMBERS])
def test_a_number_that_is_no_index_hides_nothing(number: str) -> None:
    texts = {
        "bash": "a=(x y); echo ${a[N]} ${a:N} ${a:0:N} ${N} $N $(printf %Nd 1) {1..N}; shift N",
        "powershell": "$a='abc'; $a[N]; 'abc'.Substring(N); 'abc'.Insert(N,'x'); "
        "'abc'.Remove(N,N); 1..N; [char]N; '{N}' -f 1",
        "python": "import os, sys\nos.system(chr('N') + 'x' * len('N') + sys.argv[len('N')])",
        "perl": 'system("echo $ARGV[N]");',
        "node": "exec(`echo ${process.argv[N]} ${process.argv.slice(2)[N]}`)",
        "cmd": "set a=b\r\necho %a:~N% %a:~0,N% %a:~N,N%",
    }
    for interpreter, text in texts.items():
        for piece in (text, *text.split("; ")):
            traced(interpreter, piece.replace("N", number))
    found = check_text("bash", f"rm -rf /\n{texts['bash'].replace('N', number)}")
    assert worst(f.severity for f in found) is SafetyVerdict.BLOCK


def test_a_mistake_of_a_reader_hides_nothing_that_was_found_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(trace: Trace, text: str, place: SourcePosition) -> None:
        trace.read("bash", text, place)
        raise IndexError(text)

    monkeypatch.setitem(check._READERS, "cmd", fails)  # type: ignore[index]
    found = {f.rule: f.severity for f in check_text("cmd", "rm -rf /")}
    assert worst(found.values()) is SafetyVerdict.BLOCK
    assert found["unreadable"] is SafetyVerdict.NEEDS_APPROVAL


def test_a_mistake_with_one_call_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> str:
        raise IndexError

    def read(trace: Trace, text: str, place: SourcePosition) -> None:
        trace.call(("kill", "-1"), place, io=Io(text=fails))
        trace.read("bash", text, place)

    monkeypatch.setitem(check._READERS, "cmd", read)  # type: ignore[index]
    found = {f.rule: f.severity for f in check_text("cmd", "rm -rf /")}
    assert worst(found.values()) is SafetyVerdict.BLOCK
    assert found["unreadable"] is SafetyVerdict.NEEDS_APPROVAL


def test_a_block_is_found_behind_any_number_of_milder_findings() -> None:
    milder = "".join(f"reboot {number}\n" for number in range(FINDINGS_MAX))
    found = check_text("bash", f"{milder}rm -rf /")
    assert (found[0].severity, len(found)) == (SafetyVerdict.BLOCK, FINDINGS_MAX)


def test_a_range_of_letters_has_no_surrogates() -> None:
    text = "echo j | tr a-j '\ud7fb-\uf900' | sh"
    traced("bash", text)
    found = check_text("bash", f"{text}\nrm -rf /")
    assert worst(f.severity for f in found) is SafetyVerdict.BLOCK


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
    traced(interpreter, text)  # check_text would turn an error of ours into an approval
    for finding in check_text(interpreter, text):
        assert finding.reason
        assert len(finding.excerpt) <= 200
