"""The texts of a job that are checked, and the values in them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from opsjobs.model.target import Target, TargetDraft, Transport
from opsjobs.safety.check import check_text
from opsjobs.safety.job_inputs import TEXTS_MAX, JobText, texts_of


def web(n: int, platform: str = "linux", **labels: str) -> Target:
    return Target(
        str(n), f"web-{n}", f"10.0.0.{n}", 22, Transport.SSH, platform=platform, labels=labels
    )


def texts(
    action: dict[str, Any], targets: list[Target] | None = None, **values: Any
) -> list[JobText]:
    return list(texts_of([{"key": "one", "type": "command", **action}], values, targets or []))


def test_a_command_without_values_is_one_text_for_all_its_targets() -> None:
    (found,) = texts({"command": "uptime", "become": {"user": "root"}}, [web(1), web(2)])
    assert (found.interpreter, found.text, found.pointer, found.become) == (
        "sh",
        "uptime",
        "/actions/0/command",
        True,
    )
    assert len(found.targets) == 2


def test_values_stand_in_a_command_as_they_will() -> None:
    assert [t.text for t in texts({"command": "rm -rf ${path}"}, [web(1)], path="/")] == [
        "rm -rf '/'"
    ]
    found = texts(
        {"command": "ping ${target.labels.peer}"},
        [web(1, peer="a"), web(2, peer="b"), web(3, peer="a")],
    )
    assert [(t.text, [target.name for target in t.targets]) for t in found] == [
        ("ping 'a'", ["web-1", "web-3"]),
        ("ping 'b'", ["web-2"]),
    ]


@pytest.mark.parametrize("name", ["actions.zero.stdout", "target.name"])
def test_what_nobody_knows_yet_is_a_variable_that_nobody_knows(name: str) -> None:
    actions = [
        {"key": "zero", "type": "command", "command": "id"},
        {"key": "one", "type": "command", "command": f"rm /srv/${{{name}}}"},
    ]
    *_, found = texts_of(actions, {}, [])
    assert found.text == 'rm /srv/"$OPSJOBS_UNKNOWN"'


def test_a_declared_parameter_without_a_value_is_unknown_and_a_number_of_ours_is_a_number() -> None:
    action = {"key": "one", "type": "command", "command": "kill ${pid} ${execution.id}"}
    (found,) = texts_of([action], {}, [], declared=["pid"])
    assert found.text == "kill \"$OPSJOBS_UNKNOWN\" '1'"


def test_each_shell_gets_its_own_text() -> None:
    found = texts({"command": "echo ${x}"}, [web(1), web(2, "windows")], x="a b")
    assert [(t.interpreter, t.text) for t in found] == [
        ("sh", "echo 'a b'"),
        ("cmd", 'echo ^"a b^"'),
    ]


def test_so_many_texts_and_no_more_are_judged_and_the_rest_with_unknown_values() -> None:
    found = texts({"command": "echo ${target.name}"}, [web(n) for n in range(1, TEXTS_MAX + 50)])
    assert len(found) == TEXTS_MAX + 1
    assert (found[-1].text, [f.rule for f in found[-1].findings]) == (
        'echo "$OPSJOBS_UNKNOWN"',
        ["too-many-texts"],
    )


def test_actions_that_name_no_values_of_targets_take_no_part_of_what_may_be_judged() -> None:
    actions = [{"key": f"k{n}", "type": "command", "command": "true"} for n in range(99)]
    wipe = {"key": "wipe", "type": "command", "command": "rm -rf ${target.labels.dir}"}
    targets = [web(n, dir=f"/tmp/{n}" if n < 9 else "/") for n in range(1, 10)]
    found = list(texts_of([wipe, *actions], {}, targets))
    assert "rm -rf '/'" in [t.text for t in found]
    assert not any(t.findings for t in found)


@pytest.mark.parametrize(("platform", "odd"), [("windows", "a\nb"), ("linux", "a\0b")])
def test_a_label_that_no_shell_can_be_given_is_unknown_and_hides_no_other(
    platform: str, odd: str
) -> None:
    found = texts(
        {"command": "wipe ${target.labels.x}"}, [web(1, platform, x=odd), web(2, platform, x="ok")]
    )
    assert ["UNKNOWN" in t.text for t in found] == [True, False]
    assert [[target.name for target in t.targets] for t in found] == [["web-1"], ["web-2"]]
    (text,) = texts({"command": "wipe ${target.labels.x} ${y}"}, [web(1, platform, x=odd)], y=odd)
    assert text.text.count("UNKNOWN") == 2
    with pytest.raises(ValueError, match="control character"):
        TargetDraft(name="w", host="h", labels={"x": odd})


def test_an_action_for_some_targets_is_judged_for_those() -> None:
    (found,) = texts({"command": "uptime", "target_ids": ["2"]}, [web(1), web(2)])
    assert [target.name for target in found.targets] == ["web-2"]


def test_scripts_are_judged_as_they_are_and_bytes_that_are_no_text_are_told() -> None:
    (plain,) = texts({"type": "script", "interpreter": "python", "script": "print(1)"})
    assert (plain.interpreter, plain.text, plain.pointer, plain.findings) == (
        "python",
        "print(1)",
        "/actions/0/script",
        (),
    )
    (raw,) = texts(
        {
            "type": "script",
            "interpreter": "bash",
            "script_base64": base64.b64encode(b"\xff\xfe").decode(),
        }
    )
    assert ([f.rule for f in raw.findings], raw.pointer) == (
        ["unreadable"],
        "/actions/0/script_base64",
    )


def test_what_a_shell_is_fed_with_is_a_program() -> None:
    found = texts({"command": "sudo bash -s", "stdin": "rm -rf /"})
    assert [(t.interpreter, t.text, t.pointer) for t in found[2:]] == [
        ("bash", "rm -rf /", "/actions/0/stdin")
    ]
    assert {t.interpreter for t in texts({"command": "cat > /etc/motd", "stdin": "rm -rf /"})} == {
        "sh"
    }


def test_the_check_of_a_gate_is_told_by_its_place() -> None:
    (found,) = texts_of([{"key": "gate-check", "type": "command", "command": "true"}], {}, [])
    assert found.pointer == "/policy/gate/check/command"


BASH = {"type": "script", "interpreter": "bash"}
PYTHON = {
    "type": "script",
    "interpreter": "python",
    "script": "import shutil, sys\nshutil.rmtree(sys.argv[1])",
}


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        ({**BASH, "script": "bash", "stdin": "rm -rf /"}, "delete-everything"),
        ({**BASH, "script": "f() { bash; }; f", "stdin": "rm -rf /"}, "delete-everything"),
        ({"command": "sudo -i", "stdin": "rm -rf /"}, "delete-everything"),
        ({"command": "b''ash", "stdin": "rm -rf /"}, "delete-everything"),
        ({"command": "xargs rm -rf", "stdin": "/"}, "delete-everything"),
        (
            {"command": "python3.11", "stdin": "import shutil; shutil.rmtree('/')"},
            "delete-everything",
        ),
        (
            {
                **BASH,
                "interpreter": "python",
                "script": "import os; os.execlp('sh', 'sh')",
                "stdin": "rm -rf /",
            },
            "delete-everything",
        ),
        ({**BASH, "script": 'rm -rf "$1"', "args": ["/"]}, "delete-everything"),
        (
            {**BASH, "script": 'shift; rm -rf "$1"', "args": ["/tmp/x", "${dir}"]},
            "delete-everything",
        ),
        (
            {**BASH, "interpreter": "/bin/dash", "script": 'rm -rf "$X"', "env": {"X": "/"}},
            "delete-everything",
        ),
        ({"command": "rm -rf $X", "env": {"X": "${target.labels.dir}"}}, "delete-everything"),
        ({**BASH, "script": 'rm -rf "$OPSJOBS_PARAM_DIR"'}, "delete-everything"),
        ({**BASH, "script": "sh -c 'rm -rf \"$X\"'", "env": {"X": "/"}}, "delete-everything"),
        ({**BASH, "script": "sh -c 'rm -rf \"$OPSJOBS_PARAM_DIR\"'"}, "delete-everything"),
        (
            {"command": "python3 -c 'import os; os.system(\"rm -rf $X\")'", "env": {"X": "/"}},
            "delete-everything",
        ),
        ({**PYTHON, "args": ["${dir}"]}, "delete-everything"),
        ({**PYTHON, "args": ["${target.labels.dir}"]}, "delete-everything"),
        ({**PYTHON, "args": ["${actions.zero.stdout}"]}, "delete-what-is-given"),
        (
            {**BASH, "script": 'rm -rf "$1"', "args": ["${actions.zero.stdout}"]},
            "delete-what-is-given",
        ),
        (
            {
                **PYTHON,
                "script": "import os, shutil\nshutil.rmtree(os.environ['OPSJOBS_PARAM_DIR'])",
            },
            "delete-everything",
        ),
        (
            {
                **PYTHON,
                "script": "import os, shutil\nshutil.rmtree(os.environ['X'])",
                "env": {"X": "${dir}"},
            },
            "delete-everything",
        ),
        (
            {
                **BASH,
                "interpreter": "powershell",
                "script": "Remove-Item $args[0] -Recurse",
                "args": ["C:\\"],
            },
            "windows-delete-system",
        ),
        ({**BASH, "script": 'rm -rf "$X"', "env": {"X": "/\0"}}, "delete-everything"),
        ({**BASH, "script": "true", "env": {"BASH_ENV": "$(rm -rf /)"}}, "executing-variable"),
        ({"command": "true", "env": {"PATH": "/tmp/x:/usr/bin"}}, "executing-variable"),
    ],
)
def test_what_a_program_is_given_is_judged_with_it(action: dict[str, Any], rule: str) -> None:
    assert rule in rules(action)


@pytest.mark.parametrize(
    ("destination", "rule"),
    [
        ("/etc/sudoers.d/x", "overwrite-accounts"),
        ("//etc/./passwd", "overwrite-accounts"),
        ("../../etc/cron.d/x", "upload-to-trusted-place"),
        (".ssh/authorized_keys", "change-login-keys"),
        ("/etc/ld.so.preload", "upload-to-trusted-place"),
        ("/usr/lib/systemd/system/x.service", "upload-to-trusted-place"),
        ("/etc/", "upload-to-trusted-place"),
        ("${dir}etc/shadow", "overwrite-accounts"),
        ("${actions.zero.stdout}", "upload-to-trusted-place"),
    ],
)
def test_a_file_that_comes_to_where_the_system_trusts_it_is_judged(
    destination: str, rule: str
) -> None:
    assert rule in rules(
        {"type": "file_transfer", "direction": "upload", "source": "1", "destination": destination}
    )


@pytest.mark.parametrize(
    "action",
    [
        {**BASH, "script": 'rm -rf "/tmp/$1" "$X"', "args": ["a"], "env": {"X": "/tmp/y"}},
        {
            "command": "cat > /srv/x",
            "stdin": "it's\nOPSJOBS_STDIN\nrm -rf /\n",
            "env": {"PATH": "/usr/local/bin:/usr/bin"},
        },
        {
            "type": "file_transfer",
            "direction": "upload",
            "source": "1",
            "destination": "/etc/app.conf",
            "mode": "0644",
        },
        {
            "type": "file_transfer",
            "direction": "download",
            "source": "/etc/passwd",
            "destination": None,
        },
    ],
)
def test_the_usual_is_still_usual(action: dict[str, Any]) -> None:
    assert rules(action) == set()


def rules(action: dict[str, Any]) -> set[str]:
    """Return the rules with findings in the action: those of the text and those of its context."""
    actions = [
        {"key": "zero", "type": "command", "command": "true"},
        {"key": "one", "type": "command", **action},
    ]
    found = texts_of(actions, {"dir": "/"}, [web(1, dir="/")])
    return {
        f.rule
        for t in found
        for f in (*t.findings, *check_text(t.interpreter, t.text, given=t.given))
    }


class Walked(list[str]):
    """Ids that can only be iterated, never searched one by one."""

    def __contains__(self, _: object) -> bool:
        raise AssertionError("each look at a list takes as long as the list is")


def test_blank_lines_and_many_targets_are_looked_at_once() -> None:
    action = {
        **BASH,
        "key": "one",
        "script": "\n" * 200_000,
        "stdin": "x",
        "target_ids": Walked(["1"]),
    }
    found = list(texts_of([action], {}, [web(1), web(2)]))
    assert [text.targets for text in found] == [[web(1)]] * len(found)
