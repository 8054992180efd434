r"""Compute the output of commands that only transform text, and undo quotes of a shell.

`echo cm0gLXJmIC8= | base64 -d` prints `rm -rf /`; `$'\x72m'` and the escapes of printf and
`echo -e` are undone.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
import zlib
from collections.abc import Callable, Sequence
from itertools import takewhile

from opsjobs.safety.budget import check_size, replaced
from opsjobs.safety.symbolic_words import STAR, cleared, has_glob, is_known

_ESCAPE = re.compile(
    r"\\(x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{1,4}|U[0-9A-Fa-f]{1,8}|0?[0-7]{1,3}|c.|.)", re.DOTALL
)
_NAMED = {
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}
_IN_DOUBLE = re.compile(r'\\([\\"$`]|\n)')
UNICODE_MAX = 0x10FFFF


def ansi_c(text: str) -> str:
    """Return the text inside `$'…'` with its escapes undone."""
    return _ESCAPE.sub(_character, text)


def double(text: str) -> str:
    """Return the text inside double quotes; a backslash escapes only special characters."""
    if "\\" not in text:
        return text
    return _IN_DOUBLE.sub(lambda found: "" if found[1] == "\n" else found[1], text)


def _character(match: re.Match[str]) -> str:
    escape = match[1]
    if escape[0] in "xuU" and len(escape) > 1:
        return _character_at(int(escape[1:], 16))
    if escape[0] in "01234567":
        return _character_at(int(escape, 8) & 0xFF)
    if escape[0] == "c" and len(escape) > 1:
        return _character_at(ord(escape[1]) & 0x1F)
    return _NAMED.get(escape, escape)


def _character_at(number: int) -> str:
    return chr(number) if number <= UNICODE_MAX and not 0xD800 <= number <= 0xF8FF else "\ufffd"


OUTPUT_CHARACTERS_MAX = 64 << 10
_FORMAT = re.compile(r"%(%|[-+ #0]*+\d*+(?:\.\d++)?[sbdiqcxX])")
_RANGE = re.compile(r"(.)-(.)", re.DOTALL)
_FINDS_ALL = frozenset({"-print", "-print0", "-xdev", "-mount", "-depth"})
_CLASSES = {"[:upper:]": "A-Z", "[:lower:]": "a-z", "[:digit:]": "0-9", "[:space:]": " \t\n\r\v\f"}
_RANGE_MAX = 256

Printed = Callable[[Sequence[str], str | None], str | None]


def compute_output(words: Sequence[str], fed: str | None) -> str | None:
    """Return the output of this command, marks included, if words and input determine it.

    None if they do not.
    """
    made = _PRINTERS.get(words[0]) if words else None
    text = made(words, fed) if made is not None else None
    return text if text is not None and len(text) <= OUTPUT_CHARACTERS_MAX else None


def decoded(text: str) -> str | None:
    """Decode Base64, with or without padding; None if it is not Base64, or not text."""
    packed = re.sub(r"\s", "", text)
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return _text(data)


def _text(data: bytes) -> str | None:
    if data[:2] == b"\x1f\x8b":
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, OUTPUT_CHARACTERS_MAX)
        except zlib.error:
            return None
    try:
        return cleared(data.decode())
    except UnicodeDecodeError:
        return None


def _echo(words: Sequence[str], _: str | None) -> str | None:
    at, escapes, end = 1, False, "\n"
    while at < len(words) and re.fullmatch(r"-[neE]+", words[at]):
        escapes = escapes or "e" in words[at]
        end = "" if "n" in words[at] else end
        at += 1
    output = " ".join(words[at:])
    return (ansi_c(output) if escapes or "\\" in output else output) + end


def _printf(words: Sequence[str], _: str | None) -> str | None:
    rest = list(words[1:])
    if rest[:1] == ["--"]:
        rest.pop(0)
    if not rest or rest[0].startswith("-v"):
        return None
    form, values = rest[0], rest[:0:-1]
    check_size(len(form) + sum(map(len, values)))
    if not _FORMAT.search(form):
        return ansi_c(form)
    plain, out, size = ansi_c(form), list[str](), 0
    while True:
        out.append(
            _FORMAT.sub(lambda found: "%" if found[1] == "%" else _value(found[1], values), plain)
        )
        check_size(size := size + len(out[-1]))
        if not values or len(out) > 64:
            return "".join(out)


def _value(form: str, values: list[str]) -> str:
    value = values.pop() if values else ""
    return ansi_c(value) if form.endswith("b") else value


def _base64(words: Sequence[str], fed: str | None) -> str | None:
    if fed is None or not is_known(fed):
        return None
    undo = any(re.fullmatch(r"-[a-zA-Z]*[dD]|--decode", w) for w in words[1:])
    return decoded(fed) if undo else None


def _openssl(words: Sequence[str], fed: str | None) -> str | None:
    undoes = (
        fed is not None
        and is_known(fed)
        and {"base64", "-base64", "-a"} & set(words)
        and "-d" in words
    )
    return decoded(fed or "") if undoes else None


def _hex(words: Sequence[str], fed: str | None) -> str | None:
    if fed is None or "r" not in "".join(w for w in words[1:] if w.startswith("-")):
        return None
    try:
        return _text(bytes.fromhex(re.sub(r"\s|\\x|0x", "", fed)))
    except ValueError:
        return None


def _rev(_: Sequence[str], fed: str | None) -> str | None:
    return "\n".join(line[::-1] for line in fed.split("\n")) if fed is not None else None


def _cat(words: Sequence[str], fed: str | None) -> str | None:
    return fed if all(w == "-" or (w.startswith("-") and len(w) > 1) for w in words[1:]) else None


def _tr(words: Sequence[str], fed: str | None) -> str | None:
    options = [w for w in words[1:] if w.startswith("-") and len(w) > 1]
    sets = [_expand_ranges(w) for w in words[1:] if not w.startswith("-") or w == "-"]
    if fed is None or not sets or any(set(o) & set("cC") for o in options):
        return None
    if any("d" in o for o in options):
        return fed.translate({ord(c): None for c in sets[0]})
    if len(sets) < 2 or not sets[1]:
        return None
    to = sets[1].ljust(len(sets[0]), sets[1][-1])
    return fed.translate({ord(a): b for a, b in zip(sets[0], to, strict=False)})


def _expand_ranges(letters: str) -> str:
    for name, range_ in _CLASSES.items():
        letters = letters.replace(name, range_)
    return _RANGE.sub(
        lambda r: "".join(
            map(_character_at, range(ord(r[1]), min(ord(r[2]), ord(r[1]) + _RANGE_MAX) + 1))
        ),
        ansi_c(letters),
    )


def _sed(words: Sequence[str], fed: str | None) -> str | None:
    """Return the input after `s/plain/plain/`, with the flag g or none; None for others."""
    rest = [w for w in words[1:] if w not in ("-e", "-E", "-r")]
    found = (
        re.fullmatch(
            r"s(?P<c>[/|#,])([^\\[\].*^$+?(){}|/#,]+)(?P=c)([^\\&/|#,]*)(?P=c)(g?)", rest[0]
        )
        if len(rest) == 1
        else None
    )
    if found is None or fed is None:
        return None
    return replaced(fed, found[2], found[3], -1 if found[4] else 1)


def _crontab(words: Sequence[str], _: str | None) -> str | None:
    """Return an empty text for `crontab -l`: the existing crontab adds nothing new."""
    return "" if "-l" in words else None


def _grep(words: Sequence[str], fed: str | None) -> str | None:
    """Return all input for `grep -v`: keeping the lines that it drops does no harm."""
    options = [w for w in words[1:] if w[:1] == "-"]
    return (
        fed
        if any(w == "--invert-match" or (w[1:2] != "-" and "v" in w) for w in options)
        and len(words) - len(options) == 2
        else None
    )


def _ls(words: Sequence[str], _: str | None) -> str | None:
    """Return the listed names; names of files are a glob that matches any name."""
    options = [w for w in words[1:] if w[:1] == "-"]
    if any(w[1:2] == "-" or not set(w[1:]) <= set("1aAtrUd") for w in options):
        return None
    rest = [w for w in words[1:] if w[:1] != "-"]
    listed = any("d" in w for w in options)
    return "".join(f"{w if listed or has_glob(w) else STAR}\n" for w in rest or [STAR])


def _which(words: Sequence[str], _: str | None) -> str | None:
    rest = [w for w in words[1:] if not w.startswith("-")]
    return rest[0] if len(rest) == 1 else None


def _dirname(words: Sequence[str], _: str | None) -> str | None:
    rest = words[2:] if words[1:2] == ["--"] else words[1:]
    if not rest or any(w.startswith("-") or not is_known(w) for w in rest):
        return None
    return "".join(f"{posixpath.dirname(w.rstrip('/') or w) or '.'}\n" for w in rest)


def _basename(words: Sequence[str], _: str | None) -> str | None:
    if len(words) != 2 or words[1].startswith("-") or not is_known(words[1]):
        return None
    return f"{posixpath.basename(words[1].rstrip('/')) or '/'}\n"


def _realpath(words: Sequence[str], _: str | None) -> str | None:
    """Return the path itself: links are not known, and most paths are their own target."""
    rest = [w for w in words[1:] if w not in ("-f", "-m", "-e", "-s", "--")]
    return (
        f"{posixpath.normpath(rest[0])}\n"
        if len(rest) == 1 and rest[0].startswith("/") and is_known(rest[0])
        else None
    )


def _find(words: Sequence[str], _: str | None) -> str | None:
    """Return all paths below the folders, if no test narrows the search.

    Only the folders matter to the rules.
    """
    roots = list(takewhile(lambda w: w[:1] not in ("-", "(", "!"), words[1:]))
    rest = [w for w in words[1 + len(roots) :] if w not in _FINDS_ALL]
    if not roots or (rest and rest != ["-type", "f"]):
        return None
    end = "\0" if "-print0" in words else "\n"
    below = f"/{STAR}" if rest else ""
    return "".join(f"{root.rstrip('/') if below else root}{below}{end}" for root in roots)


def _command(words: Sequence[str], _: str | None) -> str | None:
    return _which(words, None) if len(words) == 3 and words[1] in ("-v", "-V") else None


_PRINTERS: dict[str, Printed] = {
    "echo": _echo,
    "printf": _printf,
    "base64": _base64,
    "openssl": _openssl,
    "xxd": _hex,
    "rev": _rev,
    "cat": _cat,
    "tac": _cat,
    "tee": lambda _, fed: fed,
    # Decoding Base64 has unpacked it already, because bytes are not text.
    **dict.fromkeys(("gunzip", "zcat"), lambda _, fed: fed),
    "gzip": lambda words, fed: fed if any("d" in w for w in words[1:]) else None,
    "tr": _tr,
    "sed": _sed,
    "which": _which,
    "dirname": _dirname,
    "basename": _basename,
    "realpath": _realpath,
    "readlink": lambda words, fed: (
        _realpath(words, fed) if words[1:2] and words[1] in ("-f", "-m", "-e") else None
    ),
    "find": _find,
    "type": _which,
    "command": _command,
    "crontab": _crontab,
    "grep": _grep,
    "ls": _ls,
    "dir": _ls,
    **dict.fromkeys(
        ("sort", "uniq"), lambda words, fed: fed if all(w[:1] == "-" for w in words[1:]) else None
    ),
}
