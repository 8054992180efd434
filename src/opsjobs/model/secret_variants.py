"""The forms of a secret in output: plain, quoted for shells, JSON and URLs, hex, base64.

Every form is bytes without line breaks; the search skips the breaks in the text (wrapped base64, a
key).

The encodings of a text are JSON, XML, URLs, shells, YAML, SQL and others, and JSON of these. Many
encoders agree on most texts, so the sets are much smaller than the lists of rules."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from urllib.parse import quote, quote_plus

SECRET_BYTES_MIN = 4
"""Shorter secrets are not redacted.

They would match in every other word, and the stars would reveal them."""
ENCODED_BYTES_MIN = 6
"""Shorter secrets are not searched in hex and base64: four characters match by chance."""
LINE_BYTES_MIN = 8
"""A line of a longer secret is searched on its own from this length on.

Shorter ones are searched only together with their neighbours."""
ENCODED_BYTES_MAX = 64 << 10
"""The total size of secrets, shortest first, that are searched in other forms than plain."""
RARE_BYTES_MAX = 8 << 10
"""The total size of secrets, shortest first, that are searched in all forms.

Beyond it only the usual forms are searched."""
WHOLE_BYTES_MAX = 256
"""The size up to which a secret of several lines is searched as a whole in all forms."""

_ARMOUR = re.compile(r"-----[A-Z0-9 ]+-----")
_BREAKS = re.compile(r"[\r\n]+")


def spellings(secrets: Iterable[str]) -> set[bytes]:
    """Return all forms of these secrets, without surrounding spaces and line breaks."""
    found: set[bytes] = set()
    size_of_all = 0
    for secret in sorted({secret.strip() for secret in secrets}, key=len):
        size = len(_bytes(secret))
        if size < SECRET_BYTES_MIN:
            continue
        size_of_all += size
        found.update(
            _forms_of(
                secret,
                size,
                plainly=size_of_all > ENCODED_BYTES_MAX,
                rarely=size_of_all <= RARE_BYTES_MAX,
            )
        )
    return found


def has_blanks(secrets: Iterable[str]) -> bool:
    """Return True if a line of a secret has blanks at which YAML may fold it."""
    lines = (line.strip() for secret in secrets for line in _BREAKS.split(secret))
    return any(" " in line and not _ARMOUR.fullmatch(line) for line in lines)


def _forms_of(secret: str, size: int, *, plainly: bool, rarely: bool) -> Iterator[bytes]:
    lines = [line.strip() for line in _BREAKS.split(secret)]
    yield _bytes(_BREAKS.sub("", secret))
    yield _bytes("".join(lines))
    for line in lines:
        if len(lines) > 1 and len(_bytes(line)) >= LINE_BYTES_MIN and not _ARMOUR.fullmatch(line):
            yield from [_bytes(line)] if plainly else _source_forms(line, rarely=rarely)
    if plainly:
        return
    # Each line of a long secret with many lines is found in every form.
    yield from _source_forms(secret, rarely=rarely and (len(lines) == 1 or size <= WHOLE_BYTES_MAX))
    if size >= ENCODED_BYTES_MIN:
        yield from _encoded(_bytes(secret))


def _source_forms(text: str, *, rarely: bool) -> set[bytes]:
    """Return the forms of a text in source code, configuration and URLs."""
    written = all_of(text) if rarely else usual(text)
    return {_bytes(_BREAKS.sub("", form)) for form in written | in_urls(text)}


def _encoded(raw: bytes) -> Iterator[bytes]:
    for whole in (raw, raw + b"\n"):
        yield whole.hex().encode()
        yield whole.hex().upper().encode()
        for before in range(3):
            spelt = base64.b64encode(b"\0" * before + whole)
            start = (before * 8 + 5) // 6
            # The characters that do not depend on the next one; and all, if it is the last.
            for form in (spelt[start : (before + len(whole)) * 8 // 6], spelt[start:].rstrip(b"=")):
                yield form.translate(_URL_SAFE)
                yield from (escaped.encode() for escaped in around_base64(form.decode()))


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_HEX_OF_URL = re.compile(r"%[0-9A-F]{2}")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]*")
_PLAIN = re.compile(r"[A-Za-z0-9]*")

# Characters that JSON encoders write as \uXXXX although JSON does not demand it, with upper and
# lower case digits.
_UNICODE_ESCAPED = (
    "&<>",  # Go (docker inspect, kubectl, terraform), Rails, PowerShell 7
    "&<>'",  # PowerShell 5, Jinja, Newtonsoft
    "&<>'=",  # Gson
    "&<>'\"",  # PHP with its JSON_HEX flags
    "&<>'\"+`",  # System.Text.Json
    "&<>'\"+`=-;\\",  # Django's escapejs
)
_URL_SAFE_SETS = (
    "",  # Python, PHP, OAuth
    "/",  # paths
    "!'()*",  # encodeURIComponent
    "!'()*;/?:@&=+$,#",  # encodeURI
    "$&+:=@",  # a path by Go
    "$&+,;=",  # a login in a URL by Go
)
_BACKSLASHES = (
    r'(["$`\\])',  # double quotes in a shell
    r'(["$`\\!])',  # the same with history
    r"([^\w@%+=:,./-])",  # a word of a shell, with cautious escapes
    r"([\s'\"\\|&;()<>!{}*\[\]?^$`,]|^[~#])",  # printf %q of bash
    r"([\s'\"\\|&;()<>{}*\[\]?^$`#]|^[=~])",  # ${(q)} of zsh
    r"([\s'\"\\|&;()<>!{}*\[\]?^$`#]|^[=~])",  # the same with history
    r"(\W)",  # quotemeta of Perl
    r"([\\'])",  # single quotes of C, fish, PHP, JavaScript
    r"([\\'\"])",  # MySQL
    r'([\\"])',  # double quotes of C, systemd
    r"([\\:=#!])",  # properties of Java
    r"([\\'!])",  # $'' of zsh
    r"(\\)",  # tab-separated values, repr that needs no quotes escaped
)
_JSON_SIGNS = {
    coded: (re.compile(f'[\\\\"\\x00-\\x1f{re.escape(coded)}]'), coded)
    for coded in _UNICODE_ESCAPED
}
_JSON_SIGNS_IN_ASCII = {
    coded: (re.compile(f'[\\\\"\\x00-\\x1f{re.escape(coded)}]|[^\\x00-\\x7f]'), coded)
    for coded in _UNICODE_ESCAPED
}
_BACKSLASH_RULES = tuple(re.compile(rule, re.ASCII) for rule in _BACKSLASHES)
_DOUBLED = (
    ("'", "''"),  # SQL, YAML, PowerShell
    ('"', '""'),  # CSV, PowerShell
    ("$", "$$"),  # Compose, make
    ("%", "%%"),  # systemd, ConfigParser, printf
    ("%", r"\%"),  # crontab
    ("'", "'\\''"),  # single quotes of a shell
    ("'", "'\"'\"'"),  # the same by Python and dash
    ("${", "$${"),  # Terraform
    ("#{", "\\#{"),  # Ruby
)
# The forms of " and ' in text whose &, < (and mostly >) are entities.
_QUOTE_ENTITIES = (
    ('"', "'"),  # text of XML
    ("&quot;", "'"),  # attributes
    ("&quot;", "&apos;"),
    ("&quot;", "&#x27;"),
    ("&quot;", "&#39;"),
    ("&quot;", "&#039;"),
    ("&#34;", "&#39;"),
    ("&#x22;", "&#x27;"),
    ('"', "&apos;"),
    ('"', "&#39;"),
)
_QUOTES, _MORE_SIGNS = re.compile("[\"']"), re.compile("[+/`=]")
_MORE_ENTITIES: tuple[dict[str, str], ...] = (
    {},
    {"+": "&#43;"},  # templates of Go
    {"/": "&#x2F;", "`": "&#x60;", "=": "&#x3D;"},  # Mustache
    {"`": "&#x60;", "=": "&#x3D;"},  # Handlebars
)


def usual(text: str) -> set[str]:
    """Return the text as the most common encoders write it."""
    if _PLAIN.fullmatch(text):
        return {text}
    return {
        text,
        *_in_json(text),
        repr(text)[1:-1],
        html.escape(text),
        html.escape(text, quote=False),
        *(text.replace(old, new) for old, new in _DOUBLED),
        *(rule.sub(r"\\\1", text) for rule in _BACKSLASH_RULES[:4]),
    }


def all_of(text: str) -> set[str]:
    """Return the text as any known encoder writes it, and each of these forms in JSON."""
    if _PLAIN.fullmatch(text):
        return {text}
    if _BASE64.fullmatch(text):
        return around_base64(text) | {rule.sub(r"\\\1", text) for rule in _BACKSLASH_RULES}
    once = usual(text) | {*_in_json_of_others(text), *_with_backslashes(text), *_in_markup(text)}
    return once | {form for one in once for form in _in_json(one)}


def in_urls(text: str) -> set[str]:
    """Return the text as it is in URLs and forms, percent-encoded once or twice."""
    if _PLAIN.fullmatch(text):
        return {text}
    raw = _bytes(text)
    spaces_as_plus = {quote_plus(raw), quote_plus(raw, safe="*")}
    found = {quote(raw, safe=safe) for safe in _URL_SAFE_SETS} | spaces_as_plus
    found |= {form.replace("~", "%7E") for form in found}
    found |= {_HEX_OF_URL.sub(lambda at: at[0].lower(), form) for form in found}
    return found | {form.replace("%", "%25") for form in found}


def around_base64(spelt: str) -> set[str]:
    """Return base64 as it is in JSON and URLs whose encoders escape its special characters."""
    return {
        spelt,
        spelt.replace("/", "\\/"),
        spelt.replace("/", "\\\\\\/"),  # encoded in JSON twice
        spelt.replace("/", "&#x2F;").replace("=", "&#x3D;"),
        spelt.replace("+", "\\u002B"),
        spelt.replace("=", "\\u003d"),
        spelt.replace("+", "&#43;"),
        spelt.replace("+", "\\u002b"),
        spelt.replace("+", "%2B").replace("/", "%2F"),
        spelt.replace("+", "%2b").replace("/", "%2f"),
    }


def _in_json(text: str) -> set[str]:
    in_ascii, in_utf8 = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    go = in_utf8.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return {in_ascii, in_utf8, go, in_ascii.replace("/", "\\/"), in_utf8.replace("/", "\\/")}


def _in_json_of_others(text: str) -> Iterator[str]:
    for escaped in _UNICODE_ESCAPED:
        for sign, coded in (_JSON_SIGNS[escaped], _JSON_SIGNS_IN_ASCII[escaped]):
            for digits in ("04x", "04X"):
                form = sign.sub(partial(_json_sign, coded, digits), text)
                yield from (form, form.replace("/", "\\/"))


def _json_sign(coded: str, digits: str, match: re.Match[str]) -> str:
    char = match[0]
    if char in coded or not char.isascii():
        units = char.encode("utf-16-be", "surrogatepass")
        return "".join(
            f"\\u{int.from_bytes(units[at : at + 2], 'big'):{digits}}"
            for at in range(0, len(units), 2)
        )
    return json.dumps(char)[1:-1]


def _with_backslashes(text: str) -> set[str]:
    found = {rule.sub(r"\\\1", text) for rule in _BACKSLASH_RULES}
    found |= {_CONTROL.sub(_ansi, form) for form in found}
    # Other locales, C and YAML write letters that are not ASCII in octal and hex.
    found |= {
        _NOT_ASCII.sub(letter, form) for letter in (_octal, _hex, _yaml, _python) for form in found
    }
    return found | {repr(_bytes(text))[2:-1], re.escape(text), re.sub(r'(["$`])', r"`\1", text)}


def _octal(match: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in _bytes(match[0]))


def _hex(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in _bytes(match[0]))


def _ansi(match: re.Match[str]) -> str:
    known = {
        "\n": "\\n",
        "\t": "\\t",
        "\r": "\\r",
        "\x1b": "\\E",
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\v": "\\v",
    }
    return known.get(match[0], f"\\{ord(match[0]):03o}")


def _yaml(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _python(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


def _in_markup(text: str) -> set[str]:
    plain = text.replace("&", "&amp;").replace("<", "&lt;")
    found = {plain, plain.replace(">", "&gt;")}
    signs = [{'"': double, "'": single} for double, single in _QUOTE_ENTITIES]
    for choices, sign in ((signs, _QUOTES), (_MORE_ENTITIES, _MORE_SIGNS)):
        found = {
            sign.sub(partial(_entity, entities), form) for form in found for entities in choices
        }
    found |= {_NOT_ASCII.sub(lambda at: f"&#{ord(at[0])};", form) for form in found}
    return found | {_NOT_ASCII.sub(lambda at: f"&#x{ord(at[0]):X};", form) for form in found}


def _entity(entities: dict[str, str], match: re.Match[str]) -> str:
    return entities.get(match[0], match[0])
