"""The words after `powershell`: a command, an encoded one, or a file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from opsjobs.safety.powershell.script import read
from opsjobs.safety.symbolic_words import cleared, is_known
from opsjobs.safety.trace import SourcePosition, Trace

_VALUED = (
    "-executionpolicy",
    "-ep",
    "-windowstyle",
    "-version",
    "-inputformat",
    "-outputformat",
    "-configurationname",
    "-workingdirectory",
    "-wd",
    "-psconsolefile",
    "-settingsfile",
    "-custompipename",
)
_ENCODED = ("-encodedcommand", "-ec")
_ARGUMENTS = ("-encodedarguments", "-ea")


def read_line(trace: Trace, text: str, place: SourcePosition) -> None:
    """Write what `powershell WORDS` would do into the trace; `text`: the words, one a line."""
    words = text.split("\n")
    while words and words[0][:1] in ("-", "/", "\u2013", "\u2014") and words[0] != "-":
        option = "-" + words.pop(0)[1:].lower()
        if _is(option, _ENCODED):
            _encoded(trace, words, place)
            return
        if option in ("-c", "-command") or (len(option) > 2 and "-command".startswith(option)):
            break
        if option in ("-f", "-file") or (len(option) > 2 and "-file".startswith(option)):
            return
        if _is(option, _VALUED) and words:
            words.pop(0)
    _command(trace, words, place)


def _is(option: str, names: Sequence[str]) -> bool:
    """PowerShell takes an option by its beginning: `-e`, `-enc`, `-ex`."""
    return any(name.startswith(option) for name in names) and option not in ("-", "-c", "-f")


def _encoded(trace: Trace, words: list[str], place: SourcePosition) -> None:
    try:
        text = (
            base64.b64decode(words[0], validate=False).decode("utf-16-le")
            if words and is_known(words[0])
            else None
        )
    except (binascii.Error, ValueError):
        text = None
    if text is None:
        trace.event("dynamic_program", place)
    else:
        read(trace, cleared(text), place)


def _command(trace: Trace, words: list[str], place: SourcePosition) -> None:
    text = " ".join(words).strip()
    if text == "-":
        trace.event("dynamic_program", place)
    elif text and not (len(words) >= 1 and words[0].lower().endswith(".ps1")):
        read(trace, text, place)
