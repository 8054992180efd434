"""Secrets as common encoders write them: all are redacted, wherever the stream is cut."""

from __future__ import annotations

import ast
import base64
import csv
import html
import io
import json
import os
import shutil
import subprocess
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape, quoteattr

import pytest
from ruamel.yaml import YAML

from opsjobs.model.masking import SPAN_BYTES, Forms, Mask

SECRET = "s3c!a'b\"cd$e&f<g>h;i(j)k*l~m=n%o+p/q\\r`s#t,uö^v{w}z?|@:-9"
SIMPLE = "s3cr3t-pass/w+rd&x<y>'z"
PHRASE = "correct horse 'battery' staple is what we all use nowadays"
KEY = "\n".join(["-----BEGIN KEY-----", *("ab+/XYZ0" * 8 for _ in range(4)), "-----END KEY-----"])
FORMS = {secret: Forms([secret]) for secret in (SECRET, SIMPLE, PHRASE, KEY)}


def masked(secret: str, *pieces: bytes) -> bytes:
    stream = Mask([FORMS[secret]]).stream()
    assert stream is not None
    return b"".join([*(stream.add(piece) for piece in pieces), stream.finish()])


def run(*command: str, secret: str = SECRET, stdin: str = "", **environment: str) -> str:
    """Let an installed program print the secret, which it has as $S."""
    surroundings = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "S": secret, **environment}
    ended = subprocess.run(
        command, input=stdin.encode(), env=surroundings, capture_output=True, check=True
    )
    return (ended.stdout + ended.stderr).decode()


def unicode_in_json(text: str, escaped: str, digits: str) -> str:
    """Write JSON like encoders that make it safe within HTML."""
    return "".join(
        f"\\u{ord(sign):{digits}}"
        if sign in escaped
        else json.dumps(sign, ensure_ascii=False)[1:-1]
        for sign in text
    )


def marked(text: str, double: str, single: str) -> str:
    return html.escape(text, quote=False).replace('"', double).replace("'", single)


def yaml_of(value: object, **options: object) -> str:
    yaml, told = YAML(typ="rt"), io.StringIO()
    for name, option in options.items():
        setattr(yaml, name, option)
    yaml.dump(value, told)
    return told.getvalue()


def csv_of(text: str) -> str:
    told = io.StringIO()
    csv.writer(told).writerow([text, "x"])
    return told.getvalue()


GO = unicode_in_json(SECRET, "&<>", "04x")
SPELT = {
    "json of Go": GO,
    "json of Go, upper case": unicode_in_json(SECRET, "&<>", "04X"),
    "json of PowerShell": unicode_in_json(SECRET, "&<>'", "04x"),
    "json of Gson": unicode_in_json(SECRET, "&<>'=", "04x"),
    "json of .NET": unicode_in_json(SECRET, "&<>'\"+`ö", "04X"),
    "json of PHP": json.dumps(SECRET).replace("/", "\\/"),
    "json in json": json.dumps(json.dumps({"a": SECRET})),
    "json in utf-8 in json": json.dumps(json.dumps(SECRET, ensure_ascii=False), ensure_ascii=False),
    "json of Go in json": json.dumps(GO),
    "json of Go in json of Go": unicode_in_json(GO, "&<>", "04x"),
    "a shell's words in json": json.dumps("echo '" + SECRET.replace("'", "'\\''") + "'"),
    "printf %q of bash": run("bash", "-c", 'printf %q "$S"'),
    "printf %q of bash in the C locale": run("bash", "-c", 'printf %q "$S"', LC_ALL="C"),
    "declare -p of bash": run("bash", "-c", "declare -p S"),
    "@Q of bash": run("bash", "-c", 'echo "${S@Q}"'),
    "set -x of bash": run("bash", "-xc", ': "$S"'),
    "set -x of bash in the C locale": run("bash", "-xc", ': "$S"', LC_ALL="C"),
    "set -x of sh": run("sh", "-xc", ': "$S"'),
    "env": run("env"),
    "encodeURIComponent": quote(SECRET, safe="!'()*"),
    "encodeURI": quote(SECRET, safe="!'()*;/?:@&=+$,#"),
    "URLEncoder of Java": quote_plus(SECRET, safe="*").replace("~", "%7E"),
    "urlencode of PHP": quote_plus(SECRET).replace("~", "%7E"),
    "percent-encoded twice": quote(quote(SECRET, safe=""), safe=""),
    "text of XML": escape(SECRET),
    "attribute of XML": f"<a b={quoteattr(SECRET)}/>",
    "all entities of XML": marked(SECRET, double="&quot;", single="&apos;"),
    "html by names and numbers": marked(SECRET, double="&quot;", single="&#39;"),
    "html by numbers": marked(SECRET, double="&#34;", single="&#39;"),
    "html by PHP": marked(SECRET, double="&quot;", single="&#039;"),
    "html by Python": html.escape(SECRET),
    "html in ascii": html.escape(SECRET).encode("ascii", "xmlcharrefreplace").decode(),
    "SQL": "'" + SECRET.replace("'", "''") + "'",
    "MySQL": SECRET.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"'),
    "CSV": csv_of(SECRET),
    "Compose": SECRET.replace("$", "$$"),
    "PowerShell": SECRET.replace("`", "``").replace("$", "`$").replace('"', '`"'),
    "bytes of Python": repr(SECRET.encode()),
    "ascii of Python": ascii(SECRET),
    "yaml in double quotes": yaml_of({"a": SECRET + "\t"}, allow_unicode=False).replace("\\t", ""),
}  # fmt: skip
if shutil.which("node"):
    SPELT["node"] = run(
        "node",
        "-e",
        "const s = process.env.S; console.log([s], encodeURIComponent(s), `${new URLSearchParams({s})}`)",
    )
if shutil.which("jq"):
    SPELT["jq"] = run(
        "jq",
        "-rn",
        "env.S | @sh, @html, @uri, tojson, (tojson | tojson), ([.] | @csv), ([.] | @tsv)",
    )
if shutil.which("zsh"):
    SPELT["zsh"] = run(
        "zsh", "-c", 'print -r -- ${(q)S} ${(qq)S} ${(qqq)S} ${(qqqq)S}; set -x; : "$S"'
    )


def unmasked(secret: str, told: bytes) -> bytes:
    """Return the redacted text, with each secret as one run of stars, and the bytes around it."""
    found = masked(secret, told)
    assert len(found) == len(told)
    for size in (1, 7, 64):
        pieces = masked(secret, *(told[at : at + size] for at in range(0, len(told), size)))
        assert pieces == found or b"\n" in told, "a cut changes nothing within a line"
    return found


@pytest.mark.parametrize("spelling", SPELT)
def test_no_usual_encoder_leaves_a_part_of_a_secret_open(spelling: str) -> None:
    told = SPELT[spelling].encode()
    left = unmasked(SECRET, b"before <" + told + b"> after\n")
    assert left.startswith(b"before <")
    assert left.endswith(b"> after\n")
    assert left.count(b"*") >= len(SECRET.encode())
    for part in (b"s3c", b"cd", b"^v", b"u\\", b"z?", b":-9", b"%3A-9"):
        assert part not in left, left


def test_docker_and_kubectl_show_stars_and_nothing_else_of_it() -> None:
    said = '{"Env": ["PASSWORD=' + unicode_in_json(SIMPLE, "&<>", "04x") + '", "HOME=/root"]}\n'
    stars = "*" * len(unicode_in_json(SIMPLE, "&<>", "04x"))
    assert (
        unmasked(SIMPLE, said.encode()).decode()
        == '{"Env": ["PASSWORD=' + stars + '", "HOME=/root"]}\n'
    )


@pytest.mark.parametrize("width", [10, 40, 64, 76])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n    ", "\r\n\t", "\n" + " " * 24, "\\\n  "])
def test_wrapped_and_indented_base64_and_keys_are_found(width: int, ending: str) -> None:
    for secret in (KEY, SECRET, SIMPLE):
        spelt = base64.b64encode(b"xy" + secret.encode()).decode()
        text = (
            "  " + ending.join(spelt[at : at + width] for at in range(0, len(spelt), width)) + "\n"
        )
        found = masked(secret, text.encode())
        assert len(found) == len(text)
        assert len(found.translate(None, b"* \t\r\n\\")) <= 12, found
        assert found.count(b"\n") == text.count("\n")


def test_base64_by_the_program_and_indented_by_sed_is_found() -> None:
    told = run("sh", "-c", "printf %s \"$S\" | base64 -w76 | sed 's/^/        /'", secret=KEY)
    found = masked(KEY, told.encode())
    assert len(found.split()) == len(told.split()) > 4
    assert len(found.translate(None, b"* \n")) <= 4


def test_a_match_that_grep_has_coloured_is_found_and_its_colours_stay() -> None:
    for wanted in ("hor", "correct", "nowadays", "battery' st", "e"):
        told = run(
            "grep", "--color=always", "-e", wanted, secret=PHRASE, stdin=f"it is {PHRASE}!\n"
        ).encode()
        assert b"\x1b" in told
        found = unmasked(PHRASE, told)
        assert found.count(b"*") == len(PHRASE)
        assert found.count(b"\x1b") == told.count(b"\x1b"), "what sets a colour and what ends it"
        for cut in range(len(told)):
            assert masked(PHRASE, told[:cut], told[cut:]) == found, "also where a sequence is cut"


@pytest.mark.parametrize("style", [None, "'", '"'])
@pytest.mark.parametrize("width", [12, 20, 30, 40])
def test_a_phrase_that_yaml_folds_is_found(width: int, style: str | None) -> None:
    told = yaml_of({"a": {"b": [PHRASE]}}, width=width, default_style=style)
    assert told.count("\n") > 3
    left = masked(PHRASE, told.encode()).decode()
    assert len(left) == len(told)
    assert not any(word in left for word in PHRASE.replace("'", " ").split() if len(word) > 1), left


def test_a_phrase_in_a_folded_block_is_found_and_its_neighbours_are_not_masked() -> None:
    said = (
        "a: >-\n  so correct horse\n  'battery' staple is what\n  we all use nowadays, said\n  he\n"
    )
    left = masked(PHRASE, said.encode()).decode()
    assert (
        left
        == "a: >-\n  so *************\n  ************************\n  *******************, said\n  he\n"
    )


def test_what_looks_alike_is_not_masked() -> None:
    """A missing blank is not a fold, and short secrets are not searched across line breaks."""
    mask = Mask([Forms(["pass word", "ab cd"])])
    said = "password pass  word abcd ab\n  cd \x1b[31mpass\x1b[0m \\u0026 &amp; '' \"\" %20"
    assert mask.text(said) == said
    assert mask.text("pass\n  word") == "****\n  ****"


def test_the_longest_gaps_within_the_span_are_seen_through_wherever_the_stream_is_cut() -> None:
    spelt = base64.b64encode(SIMPLE.encode())
    told = (b"\n" + b" " * 90).join(spelt[at : at + 3] for at in range(0, len(spelt), 3))
    assert SPAN_BYTES * 3 // 4 < len(told) < SPAN_BYTES
    found = masked(SIMPLE, told)
    assert len(found.translate(None, b"* \n")) <= 1
    assert masked(SIMPLE, told[:600], told[600:]) == found


def test_texts_of_gaps_only_end_in_time_and_are_untouched() -> None:
    for text in (
        b"\x1b[" * 50_000,
        b"\x1b[1;" + b"1" * 100_000,
        b"\\\n" * 50_000,
        b"\n " * 50_000,
        b"\x1b" * 100_000,
        b"\\" * 100_000,
    ):
        assert (
            masked(PHRASE, *(text[at : at + 32_768] for at in range(0, len(text), 32_768))) == text
        )


def test_the_literals_of_python_read_back_as_the_secret() -> None:
    """The spellings of this file are read as the secret by their readers."""
    assert json.loads(f'"{GO}"') == SECRET
    assert json.loads(json.loads(SPELT["json in json"])) == {"a": SECRET}
    assert ast.literal_eval(SPELT["ascii of Python"]) == SECRET
    assert html.unescape(SPELT["all entities of XML"]) == SECRET
    assert next(csv.reader([SPELT["CSV"]]))[0] == SECRET
