"""Long texts of all scripts, up to the limits of their fields; the same ones each time."""

from __future__ import annotations

import unicodedata

NAME_CHARACTERS = 200
TAG_CHARACTERS = 64
REASON_CHARACTERS = 2_000
DESCRIPTION_CHARACTERS = 10_000
PARAMETER_CHARACTERS = 32_768
FILE_NAME_BYTES = 255

# Characters of names: letters of several directions and sizes, marks without a composed form,
# characters of four bytes.
_IN_NAMES = (
    "Größenmaß",
    "служба-базы",
    "קצה-הרשת",
    "خادم-الويب",
    "データベース",
    "서버",
    "n\u0308x\u0323\u0302",
    "हिन्दी",
    "🚀🔥",
    "𝄞𐍈",
    "Zoe\u0308",
)
# Additional characters of free text: marks that change the direction, join emoji, are invisible, or
# stand for several letters.
_IN_TEXTS = (
    *_IN_NAMES,
    "\u202eright to left\u202c",
    "👩\u200d👩\u200d👧\u200d👦",
    "🇺🇳",
    "❤\ufe0f",
    "z\u0351\u036b\u0343\u036a\u0302a\u035d\u0322l\u0334\u030cg\u0338o\u0321",
    "ﷺ",
    "\u00a0\u2003\u3000",
    "a\u2028b",
    "\ufeff",
    'it\'s 100% `not` "quoted" $HOME ${x} \\ & ; | < > * ? # !',
)


def name(first: str, *, characters: int = NAME_CHARACTERS) -> str:
    """Return a name of exactly so many characters that begins with `first`, in its stored form."""
    text = first
    while len(text) < characters:
        text = unicodedata.normalize("NFC", f"{text} {' '.join(_IN_NAMES)}")
    cut = text[: characters - 1].rstrip()
    return cut + "🚀" * (characters - len(cut))


def text(characters: int) -> str:
    """Return a text of exactly so many characters, without a line break or a NUL."""
    whole = " ".join(_IN_TEXTS)
    return (whole * (characters // len(whole) + 1))[: characters - 1] + "."


def file_name(*, size_bytes: int) -> str:
    """Return the name of a file, as long as possible within so many bytes."""
    whole = "".join(f"{word} " for word in _IN_TEXTS if "/" not in word) * 9
    return whole.encode()[: size_bytes - 1].decode(errors="ignore") + "."


def plain(characters: int) -> str:
    """Return a text for lines of shell and JSON: it has no special character of either."""
    whole = " ".join(word for word in _IN_TEXTS if not set(word) & set("'\"\\$`\u2028"))
    return (whole * (characters // len(whole) + 1))[: characters - 1] + "."
