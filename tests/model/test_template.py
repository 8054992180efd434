"""Templates: a value is one word at its place, and is refused if it could be more."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from kit.hostile_values import HOSTILE
from opsjobs.model.quoting import Shell, Unquotable, cmd, posix, powershell, quote_for
from opsjobs.model.secret import Secret
from opsjobs.model.template import Template, TemplateFault, TemplateNames, text_lookup

NAMES = TemplateNames({"v", "other-name", "token"}, {"token"}, {"stop"})


def fault(text: str, shell: Shell = "posix") -> str | None:
    try:
        Template.command(text, NAMES, shell)
    except TemplateFault as wrong:
        return wrong.code
    return None


def test_two_hundred_hostile_values_are_words_and_nothing_else(tmp_path: Path) -> None:
    assert len(set(HOSTILE)) == 200
    witness = tmp_path / "witness"
    template = Template.command(
        "x=${v}; printf '%s\\0' ${v} a${v}b \"$x\" $(printf %s ${v} | wc -c) # done", NAMES
    )
    for value in HOSTILE:
        command = template.render({"v": value}.get, posix)
        environment = {"WITNESS": str(witness), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            ["sh", "-c", command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            check=False,
            timeout=60,
        )
        raw = value.encode()
        assert done.stdout == b"".join(
            part + b"\0" for part in (raw, b"a" + raw + b"b", raw, b"%d" % len(raw))
        ), repr(value)
        assert done.stderr == b"", repr(value)
        assert not witness.exists(), repr(value)


def test_a_value_is_replaced_once_and_never_looked_into() -> None:
    template = Template.command("a ${v} ${other-name}", NAMES)
    assert (
        template.render({"v": "${other-name}", "other-name": "${v}"}.get, posix)
        == "a '${other-name}' '${v}'"
    )
    assert template.render({}.get, posix) == "a '' ''"


@pytest.mark.parametrize(
    "text",
    [
        "echo ${HOME}",
        "echo $v ${v:-x} ${#v} ${V}",
        "echo '${nobody}'",
        '"${x}"',
        "${other}",
        "${host.name}",
        "awk '{print $1}'",
        "$${v}",
    ],
)
def test_what_is_no_name_of_ours_is_left_to_the_shell(text: str) -> None:
    assert Template.command(text, NAMES).render({"v": "1"}.get, posix) == text


@pytest.mark.parametrize(
    "text",
    [
        "echo ${v}", "echo a${v}b", "x=${v}", "$(echo ${v})", "(echo ${v})", "echo 'a' ${v} \"b\"", "cat <<E\nx\nE\necho ${v}", "echo \\' ${v}",
        "cat <<< ${v}", "echo '#' ${v}", "echo a#${v}", "echo \"$(echo \"a\")\" ${v}", "echo $'\\'' ${v}", "[ ${v} = a ]", "[[ ${v} == a ]]",
        "echo # it's\necho ${v}", "echo `x` ${v}", "echo $((1+2)) ${v}", "case ${v} in a) ;; esac", "cat <<-'E F'\n\tE\n\tE F\necho ${v}",
        "echo ${x:-'}'} ${v}", "echo \"${x:-'}\" ${v}", "$$${v}", "a[1]=${v}", "echo ${v} > ${v}", "${target.labels.a.b-c} ${execution.id}",
        "echo ${actions.stop.outputs.a.b} ${actions.stop.exit_code}",
    ],
)  # fmt: skip
def test_outside_of_everything_a_value_may_stand(text: str) -> None:
    assert fault(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "echo '${v}'", 'echo "${v}"', "echo `echo ${v}`", "echo \"$(echo ${v})\"", "cat <<E\n${v}\nE", "cat <<'E'\n${v}\nE",
        "cat <<-E\n\t${v}\n\tE",
        "# ${v}", "echo a # ${v}", "echo \\${v}", "echo $'${v}'", 'echo $"${v}"', "echo $((${v}))", "((x=${v}))", "echo $[${v}]", "a[${v}]=1",
        "echo ${x:-${v}}", "echo \"${x:-'${v}'}\"", "[[ ${v} -eq 1 ]]", "[[ 1 -lt ${v} ]]", "echo it's ${v}", "cat <<A <<B\nA\n${v}\nB",
        "echo \"$(case a in a) echo \"${v}\" ;; esac)\"", "echo \"a\\\"${v}\"", "echo \"`echo \\\"${v}\\\"`\"", "cat <<E\nE \n${v}",
        "echo \"x\ny ${v}\"",
        "x=$(cat <<E\n${v}\nE\n)", "((echo \")\"; echo \"${v}\"))",
    ],
)  # fmt: skip
def test_where_a_value_would_be_read_again_it_is_refused(text: str) -> None:
    assert fault(text) == "quoted_parameter"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("echo ${token}", "secret_in_argv"), ("echo ${target.nothing}", "unknown_name"), ("echo ${actions.stop}", "unknown_name"),
        ("echo ${actions.later.stdout}", "unknown_action"), ("echo ${run.name}", "unknown_name"), ("echo ${target.labels}", "unknown_name"),
    ],
)  # fmt: skip
def test_a_name_that_would_be_a_mistake_is_refused(text: str, code: str) -> None:
    assert fault(text) == code
    with pytest.raises(TemplateFault) as refused:
        Template.plain(text, NAMES)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("text", "shell", "code"),
    [
        ("echo \\\"${v}\"", "powershell", "quoted_parameter"), ("echo `${v}", "powershell", "quoted_parameter"),
        ("echo <# ' #> ${v}", "powershell", None), ("echo <# ${v} #>", "powershell", "quoted_parameter"),
        ("echo \u201c${v}\u201d", "powershell", "quoted_parameter"), ("echo @'\n${v}\n'@", "powershell", "quoted_parameter"),
        ("echo 'it''s' ${v} # x", "powershell", None), ("echo ${env:PATH} ${v}", "powershell", None),
        ('echo "${v}"', "cmd", "quoted_parameter"), ("echo ^${v}", "cmd", "quoted_parameter"), ('echo "a" it\'s ${v}', "cmd", None),
    ],
)  # fmt: skip
def test_other_shells_have_other_quotes(text: str, shell: Shell, code: str | None) -> None:
    assert fault(text, shell) == code


def test_each_shell_is_given_a_value_its_own_way() -> None:
    assert posix("a'b\\c") == "'a'\\''b'\\\\'c'"
    assert powershell("it's \u2019x") == "'it''s \u2019\u2019x'"
    assert cmd('a "b" %PATH% c\\') == '^"a \\^"b\\^" ^%^PATH^%^ c\\\\^"'
    for shell in ("posix", "powershell", "cmd"):
        with pytest.raises(Unquotable):
            quote_for(shell)("a\0b")
    with pytest.raises(Unquotable):
        cmd("a\nb")


@given(some.text("ab'\\\" $`\n;", max_size=30))
def test_what_is_quoted_for_a_posix_shell_reads_back_as_it_was(value: str) -> None:
    # Read by the rules of POSIX 2.2: between single quotes every character is literal, outside of
    # them a backslash escapes one character.
    read, inside, position, word = [], False, 0, posix(value)
    while position < len(word):
        char = word[position]
        if char == "'":
            inside = not inside
        elif char == "\\" and not inside:
            position += 1
            read.append(word[position])
        else:
            assert inside, "nothing stands outside of the quotes but what is escaped"
            read.append(char)
        position += 1
    assert "".join(read) == value
    assert not inside


def test_values_are_looked_up_where_conditions_find_them() -> None:
    tree = {
        "parameters": {"v": True, "list": ["a", 1], "token": Secret("s"), "none": None},
        "target": {"name": "web-1", "labels": {"a.b": "x"}},
        "actions": {"stop": {"exit_code": 0, "outputs": {"a.b": {"k": 1}}}},
    }
    value = text_lookup(tree)
    names = [
        "v",
        "list",
        "none",
        "target.name",
        "target.labels.a.b",
        "actions.stop.exit_code",
        "actions.stop.outputs.a.b",
        "job.name",
    ]
    assert [value(name) for name in names] == ["true", "a,1", "", "web-1", "x", "0", '{"k": 1}', ""]
