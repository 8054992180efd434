"""Secrets in output: every spelling, cut anywhere, with nothing else changed.

No text takes long.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from opsjobs.model.masking import SPAN_BYTES, Forms, Mask

SECRET = "s3cr+t/p'w \"ö$=%&"
KEY = "\n".join(
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        *(f"{n:02d}" + "ab+/XYZ0" * 8 + "cdef" for n in range(7)),
        "-----END OPENSSH PRIVATE KEY-----",
    ]
)


def masked(mask: Mask, *pieces: bytes) -> bytes:
    stream = mask.stream()
    assert stream is not None
    return b"".join([*(stream.add(piece) for piece in pieces), stream.finish()])


def mask_of(*secrets: str) -> Mask:
    return Mask([Forms(secrets)])


SPELT = {
    "plain": SECRET,
    "json": json.dumps({"a": SECRET}),
    "json in utf-8": json.dumps([SECRET], ensure_ascii=False),
    "python": repr(SECRET),
    "url": quote(SECRET, safe=""),
    "url with slashes": quote(SECRET),
    "url of a form": quote_plus(SECRET),
    "url in lower case": "".join(c if c.isascii() and c.isalnum() else "".join(f"%{b:02x}" for b in c.encode()) for c in SECRET),
    "shell": shlex.quote(SECRET),
    "shell by backslashes in quotes": "'" + SECRET.replace("'", "'\\''") + "'",
    "html": html.escape(SECRET),
    "hex": SECRET.encode().hex(),
    "upper hex": SECRET.encode().hex().upper(),
    **{f"base64 at {n}": base64.b64encode(b"\xff" * n + SECRET.encode()).decode() for n in range(4)},
    "base64 without its end": base64.b64encode(SECRET.encode()).decode().rstrip("="),
    "base64 in the middle": base64.b64encode(b"user:" + SECRET.encode() + b"@host").decode(),
    "base64 for urls": base64.urlsafe_b64encode(b"\xfb\xff" + SECRET.encode()).decode(),
    "base64 of echo": base64.b64encode(SECRET.encode() + b"\n").decode(),
}  # fmt: skip

LEFT = {"json": 9, "base64 in the middle": 17}
"""Bytes around these that stay unmasked; for the others, a quote or two and the ends of base64."""


@pytest.mark.parametrize("spelling", SPELT)
def test_every_spelling_is_found_and_no_more_than_its_ends_are_left(spelling: str) -> None:
    """Return the rest:

    quotes around it, characters of base64 shared with neighbours, the text around.
    """
    spelt = SPELT[spelling].encode()
    found = masked(mask_of(SECRET), b"before <" + spelt + b"> after\n")
    assert len(found) == len(spelt) + 16
    assert found.startswith(b"before <")
    assert found.endswith(b"> after\n")
    runs = [
        len(list(run))
        for star, run in itertools.groupby(found, lambda byte: byte == ord("*"))
        if star
    ]
    assert len(runs) == 1
    assert runs[0] >= len(SECRET.encode())
    assert len(spelt) - runs[0] <= LEFT.get(spelling, 4), "what stands around it, and no more"


@pytest.mark.parametrize("width", [1, 7, 8, 60, 64, 76])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_wrapped_lines_are_seen_through(width: int, ending: bytes) -> None:
    for text in (
        base64.b64encode(b"x" + KEY.encode()),
        base64.b64encode(b"xy" + SECRET.encode()),
        KEY.encode().hex().encode(),
    ):
        wrapped = ending.join(text[at : at + width] for at in range(0, len(text), width)) + ending
        found = masked(mask_of(KEY, SECRET), wrapped)
        assert len(found) == len(wrapped)
        assert (
            len(found.translate(None, b"*\r\n")) <= 12
        )  # the ends of base64, and characters shared with neighbours
        assert found.count(b"\n") == wrapped.count(b"\n"), "the lines stay lines"


def test_a_key_is_found_line_by_line_wherever_its_lines_stand() -> None:
    lines = KEY.splitlines()
    told = f'key: |\n  {lines[3]}\n  {lines[1]}\nand "{lines[5]}\\n{lines[6]}"\n{lines[0]}\n'
    found = masked(mask_of(KEY), told.encode()).decode()
    stars = "*" * len(lines[3])
    assert found == f'key: |\n  {stars}\n  {stars}\nand "{stars}**{stars}"\n{lines[0]}\n'
    assert len(masked(mask_of(KEY), KEY.encode()).translate(None, b"*\r\n")) <= len(
        lines[0] + lines[-1]
    )


def test_the_middle_of_a_long_one_in_base64_is_found() -> None:
    spelt = base64.b64encode(KEY[150:450].encode())
    found = masked(mask_of(KEY), spelt)
    assert found.count(b"*") >= len(spelt) - 2 * 127


def test_short_secrets() -> None:
    assert not mask_of("abc", " a ", "", "\n")
    assert (
        masked(mask_of("abcd"), b"abc abcd xabcdx ab\ncd YWJjZA== 61626364")
        == b"abc **** x****x ab\ncd YWJjZA== 61626364"
    )
    assert masked(mask_of("tööö"), "t tööö".encode()) == b"t *******"
    assert (
        masked(mask_of("abcdef"), b"ab\ncdef ab\ncd\nefgh YWJjZGVm 616263646566")
        == b"ab\ncdef ab\ncd\nefgh ******** ************"
    )


@pytest.mark.parametrize(
    "said",
    [
        b"ok\n",
        b"",
        b"\n\n",
        b"s3c is the beginning\n",
        b"it ends with s\n",
        "grüße\n".encode(),
        b"\xff\x00\n",
    ],
)
def test_what_is_no_secret_is_untouched_and_a_whole_line_is_never_delayed(said: bytes) -> None:
    stream = mask_of(SECRET, KEY, "hunter22").stream()
    assert stream is not None
    assert stream.add(said) == said
    assert stream.finish() == b""


def test_only_what_may_become_a_secret_is_held_back_and_the_end_gives_it_out() -> None:
    stream = mask_of("hunter22").stream()
    assert stream is not None
    assert stream.add(b"it is hunt") == b"it is "
    assert stream.add(b"ing") == b"hunting"
    assert stream.add(b" hunter2") == b" "
    assert stream.add(b"2!") == b"********!"
    assert stream.add(b"hunter2") == b""
    assert stream.finish() == b"hunter2"


def test_what_overlaps_is_covered_together() -> None:
    assert masked(mask_of("abcdefgh", "ghijklmn"), b"<abcdefghijklmn>") == b"<" + b"*" * 14 + b">"
    assert masked(mask_of("abcdabcd"), b"abcdabcdabcdab") == b"*" * 12 + b"ab"


def test_words_and_values_of_json() -> None:
    mask = mask_of("hunter22", "grüße123")
    assert mask.text("refused: hunter22 (grüße123)") == "refused: ******** (**********)"
    assert mask.text("nothing \ud800 here") == "nothing \ud800 here"
    assert mask.tree({"hunter22": ["a hunter22", 7, None, {"b": "hunter22"}]}) == {
        "********": ["a ********", 7, None, {"b": "********"}]
    }
    assert not Mask()
    assert Mask().stream() is None
    assert Mask().tree({"a": "hunter22"}) == {"a": "hunter22"}


_SECRETS = ["hunter22", "abababab", "abcd", "grüße/123", "correct horse battery", KEY]
_FORMS = Forms(_SECRETS)
_BITS = [
    b"hunter22", b"hunt", b"er22", b"ababab", b"ab", b"abcd", b"\n", b"\r\n", b" ", b"x", "grüße/123".encode(), b"gr\xc3",
    base64.encodebytes(KEY.encode()), base64.b64encode(b"-hunter22-"), KEY.encode()[:200], b"aHVu", b"dGVyMjI", b"\n" * 300,
    b"\n  ", b"\r\n\t", b"\\\n ", b"\\", b"\x1b[31m", b"\x1b[", b"m", b"correct", b"horse", b"battery",
]  # fmt: skip
_texts = some.lists(some.sampled_from(_BITS), max_size=12).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(text=_texts, cuts=some.lists(some.integers(0, 3000), max_size=12))
@example(text=b"hunter22", cuts=list(range(8)))
@example(text=base64.encodebytes(KEY.encode()), cuts=list(range(0, 700, 3)))
def test_cuts_change_nothing_but_a_few_characters_before_a_line_break(
    text: bytes, cuts: list[int]
) -> None:
    mask = Mask([_FORMS])
    whole = masked(mask, text)
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = masked(mask, *(text[a:b] for a, b in itertools.pairwise(borders)))
    assert len(whole) == len(pieces) == len(text)
    assert all(a in (b, ord("*")) for a, b in zip(whole, text, strict=True))
    for at, (one, other) in enumerate(zip(whole, pieces, strict=True)):
        if one != other:
            assert (one, other) == (ord("*"), text[at])
            assert b"\n" in text[at : at + 9], (
                "given out with its line, which the next piece has shown to go on"
            )


@settings(max_examples=100, deadline=None)
@given(text=_texts, stored=some.integers(0, 3000))
def test_who_begins_a_span_earlier_masks_what_the_one_before_would_have(
    text: bytes, stored: int
) -> None:
    """A successor starts one span before the end of the text that was given out.

    A span is as long as a piece may be. The rest is masked as the first worker would have.
    """
    mask = Mask([_FORMS])
    whole, first = masked(mask, text), mask.stream()
    assert first is not None
    given_out = len(first.add(text[:stored]))
    again = max(0, given_out - SPAN_BYTES)
    assert masked(mask, text[again:])[given_out - again :] == whole[given_out:]


@pytest.mark.parametrize(
    "text",
    [b"a" * 100_000, b"ab" * 50_000, b"\n" * 100_000, b"\r\n" * 50_000, b"a\n" * 50_000, KEY.encode() * 150, bytes(range(256)) * 400],
    ids=["one letter", "two letters", "breaks", "long breaks", "a letter a line", "the secret", "all bytes"],
)  # fmt: skip
def test_no_text_takes_longer_than_its_length(text: bytes) -> None:
    """It measures no time: a comparison of every place with every piece would not end here."""
    mask = Mask(
        [Forms(["a" * 5000 + "b", "ab" * 3000 + "c", KEY, *("a" * n + "c" for n in range(8, 60))])]
    )
    assert len(
        masked(mask, *(text[at : at + 32_768] for at in range(0, len(text), 32_768)))
    ) == len(text)
