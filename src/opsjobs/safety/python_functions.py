"""Compute the results of plain Python functions and methods on texts."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence

from opsjobs.safety.budget import filled_in, replaced
from opsjobs.safety.constant_folding import decoded
from opsjobs.safety.symbolic_words import HOME, MAYBE_EMPTY, cleared, is_known, parse_number

_CHARACTERS = 0x110000
SYSTEM = {
    "sys.executable": "python3",
    "os.sep": "/",
    "os.path.sep": "/",
    "os.devnull": "/dev/null",
    "os.curdir": ".",
    "os.pardir": "..",
    "signal.SIGKILL": "9",
    "signal.SIGTERM": "15",
    "signal.SIGHUP": "1",
}
"""The values of names of the standard library."""
METHODS: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(
        ("decode", "encode", "resolve", "absolute", "as_posix", "expanduser"),
        lambda text: text.replace("~", HOME, 1) if text[:1] == "~" else text,
    ),
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
}
"""Methods of a text without arguments."""
ARGUMENTS = frozenset({"replace", "format", "joinpath", "rstrip", "removesuffix", "removeprefix"})
"""Methods of a text with arguments."""


def call_method(method: str, text: str, arguments: Sequence[str]) -> str:
    """Return the result of such a method; MAYBE_EMPTY if it cannot be computed."""
    if method == "format":
        return filled_in(text, "{}", arguments)
    if method == "joinpath":
        return "/".join((text.rstrip("/"), *arguments))
    if not is_known(text) or not all(is_known(word) for word in arguments):
        return MAYBE_EMPTY
    if method == "replace":
        return replaced(text, arguments[0], arguments[1]) if len(arguments) > 1 else MAYBE_EMPTY
    return {
        "rstrip": text.rstrip,
        "removesuffix": text.removesuffix,
        "removeprefix": text.removeprefix,
    }[method](arguments[0])


def _hex(words: list[str]) -> str:
    try:
        return cleared(bytes.fromhex(words[0]).decode())
    except ValueError:
        return MAYBE_EMPTY


def _base64(words: list[str]) -> str:
    return decoded(words[0]) or MAYBE_EMPTY


def _chr(words: list[str]) -> str:
    number = parse_number(words[0])
    known = number is not None and 0 <= number < _CHARACTERS
    return cleared(chr(number)) if number is not None and known else MAYBE_EMPTY


def _codec(words: list[str]) -> str:
    return codecs.decode(words[0], "rot13") if len(words) > 1 and "rot" in words[1] else MAYBE_EMPTY


FUNCTIONS: Mapping[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(
        (
            f"base64.{n}"
            for n in ("b64decode", "standard_b64decode", "decodebytes", "urlsafe_b64decode")
        ),
        _base64,
    ),
    **dict.fromkeys(("bytes.fromhex", "binascii.unhexlify", "bytearray.fromhex"), _hex),
    "chr": _chr,
    "codecs.decode": _codec,
}
"""Functions by their full names, with imports resolved."""
