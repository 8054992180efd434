"""Escape remote bytes for a terminal: text and colours pass, all other controls are shown.

So no remote host can control the terminal.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

_RESET = "\x1b[0m"
_SGR = re.compile(r"\x1b\[([0-9;:]*)m")
# Controls of both sets, changes of writing direction, and characters that end a line for some
# terminals.
_SHOWN = re.compile(
    r"\x1b\[[0-9;:]*m|\r?\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
# Possibly the start of a sequence or of a line end; no accepted colour is longer.
_CUT = re.compile(r"(?:\x1b(?:\[[0-9;:]{0,64})?|\r)\Z")
# Only attribute 8 hides text. 38, 48 and 58 consume the following numbers as a colour.
_HIDES = 8
_TAKES = {"5": 1, "2": 3}


class EscapedOutput:
    """Incremental escaping of one stream; a sequence may be cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""
        self._coloured = False

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        """Return the output that can be shown so far; at the end, all of it."""
        text = self._held + self._decoder.decode(data, final)
        cut = None if final else _CUT.search(text)
        self._held = text[cut.start() :] if cut is not None else ""
        shown = _SHOWN.sub(self._show, text[: len(text) - len(self._held)])
        if final and self._coloured:
            self._coloured = False
            shown += _RESET
        return shown.encode()

    def _show(self, match: re.Match[str]) -> str:
        control = match[0]
        if control.endswith("\n"):
            # Colours end with the line: the next line may be another target's.
            reset = _RESET if self._coloured else ""
            self._coloured = False
            return f"{reset}\n"
        if (colour := _SGR.fullmatch(control)) is not None and not _hides(colour[1]):
            self._coloured = True
            return control
        return "".join(_mark(character) for character in control)


def escape_output(data: bytes) -> bytes:
    r"""Return a whole stream with all escapes that a terminal needs.

    >>> shown(b"ok\rall gone\x1b[K \x1b[31mred")
    b'ok^Mall gone^[[K \x1b[31mred\x1b[0m'
    """
    return EscapedOutput().feed(data, final=True)


def escape_json(text: str) -> str:
    """Return JSON with C1 controls and bidirectional characters escaped.

    The JSON writer leaves those as they are.
    """
    return _SHOWN.sub(
        lambda found: found[0] if found[0] in "\r\n" else f"\\u{ord(found[0]):04x}", text
    )


def _mark(character: str) -> str:
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"^{chr(code ^ 0x40)}"
    if character.isprintable():
        return character
    return f"<{code:02x}>" if code <= 0xFF else f"<U+{code:04X}>"


def _hides(parameters: str) -> bool:
    numbers = iter(re.split(r"[;:]", parameters))
    return any(_attribute(number, numbers) == _HIDES for number in numbers)


def _attribute(number: str, behind: Iterator[str]) -> int:
    if number in ("38", "48", "58"):
        for _ in range(_TAKES.get(next(behind, ""), 0)):
            next(behind, "")
    return int(number or 0)
