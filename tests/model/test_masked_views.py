"""Views of a text: the parts that are removed, and positions of a view's bytes in the text."""

from __future__ import annotations

import itertools
import re

from hypothesis import example, given
from hypothesis import strategies as some

from opsjobs.model.masking import Forms, Mask, View, views

SECRET = "correct horse battery staple"
_BREAKS = re.compile(rb"[\r\n]+[ \t]*")
_NO_COLOUR = re.compile(rb"\x1b(?:\[[0-9;:]*(?:[A-Za-z]|\Z)|\Z)")


def test_breaks_and_indentation_are_removed_in_every_short_text() -> None:
    texts = (
        bytes(text) for size in range(7) for text in itertools.product(b"a \n\r\t", repeat=size)
    )
    for text in texts:
        bare = [view.bare for view in views(text, folds=True)]
        assert bare[0] == text.replace(b"\n", b"").replace(b"\r", b"")
        if b"\n" in text or b"\r" in text:
            assert bare[-1] == re.sub(rb"[ \t]?[\r\n]+[ \t]*", b" ", text)
        if b"\n " in text or b"\r\t" in text:
            assert bare[1] == _BREAKS.sub(b"", text)


@given(
    some.lists(
        some.sampled_from(
            [b"a", b" ", b"\n", b"\r", b"\t", b"\\", b"\x1b", b"\x1b[", b"0;1", b"m", b"\x1b[K"]
        )
    )
)
@example([b"\n", b"\x1b[", b"m", b" ", b"a"])
def test_each_byte_of_a_view_stands_in_the_text_where_the_view_says(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    for view in views(text, folds=True):
        places = [view.place(at) for at in range(len(view.bare))]
        assert places == sorted(set(places))
        for at, place in enumerate(places):
            assert view.bare[at] == text[place] or (
                view.folded and view.bare[at : at + 1] == b" " and _is_blank(text, place)
            )


def _is_blank(text: bytes, place: int) -> bool:
    return text[place : place + 1] in (b" ", b"\t", b"\r", b"\n")


def test_a_colour_between_a_break_and_its_indentation_hides_nothing() -> None:
    said = SECRET.replace(" horse", "\n\x1b[0m    horse").encode()
    masking = Mask([Forms([SECRET])]).stream()
    assert masking is not None
    masked = masking.add(said) + masking.finish()
    assert b"horse" not in masked
    assert _NO_COLOUR.sub(b"", masked).translate(None, b"* \n") == b""


def test_only_views_that_differ_are_searched() -> None:
    def bare(text: bytes) -> list[bytes]:
        return [view.bare for view in views(text, folds=False)]

    assert bare(b"plain") == [b"plain"]
    assert bare(b"\x1b[1mplain\x1b[0m") == [b"plain"]
    assert bare(b"a\n b") == [b"a b", b"ab"]
    assert isinstance(next(views(b"", folds=True)), View)
