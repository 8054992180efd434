"""Patterns for texts in bodies and queries, each with a description for errors."""

from __future__ import annotations

import re

WORDS: dict[str, str] = {}
"""The continuation of "it must", by pattern."""


def _pattern(pattern: str, words: str) -> str:
    WORDS[pattern] = words
    return pattern


ACCOUNT = _pattern(
    r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}$",
    "be the name of an account: 1 to 128 letters, digits or any of _ . @ -, beginning with a "
    "letter, a digit or _",
)
ACTION_KEY = _pattern(
    r"^[a-z0-9][a-z0-9_-]{0,63}$",
    "be 1 to 64 lower-case letters, digits, _ or -, and begin with a letter or digit",
)
FILE_MODE = _pattern(
    r"^[0-7]{3,4}$",
    "be 3 or 4 octal digits in quotes, such as '0644'",
)
FILE_NAME = _pattern(
    r"^[^/\x00-\x1f\x7f]+$",
    "be the name of a file: one line, without a slash",
)
HEADER_NAME = _pattern(
    r"^[A-Za-z0-9-]+$",
    "be the name of a header: letters, digits and -",
)
INTERPRETER = _pattern(
    r"^(bash|sh|python|powershell|pwsh|cmd|node|perl"
    r"|/[^\x00-\x1f]{1,1000}|[A-Za-z]:[\\/][^\x00-\x1f]{1,1000})$",
    "be bash, sh, python, powershell, pwsh, cmd, node, perl, or the full path of a program",
)
JSON_POINTER = _pattern(
    r"^(/([^/~]|~[01])*)*$",
    "be a JSON Pointer, such as /ref or /commits/0/id, in which ~ is written ~0 and / ~1",
)
KERBEROS_PRINCIPAL = _pattern(
    r"^[A-Za-z0-9_.$][A-Za-z0-9_.$/-]*@[A-Za-z0-9][A-Za-z0-9.-]*$",
    "be a Kerberos principal with its realm, such as deploy@EXAMPLE.ORG",
)
LABEL = _pattern(
    r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}(=[^\s,=]{0,200})?$",
    "be a label: KEY or KEY=VALUE, without blanks and commas",
)
LABEL_KEY = _pattern(
    r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$",
    "be 1 to 63 letters, digits or any of _ . / -, and begin with a letter or digit",
)
LINE = _pattern(
    r"^[^\x00-\x1f]+$",
    "be one line of text, without control characters",
)
LINE_OR_NOTHING = _pattern(
    r"^[^\x00-\x1f]*$",
    "be one line of text, without control characters",
)
NAME = _pattern(
    r"^[^\s,/\x00-\x1f][^,/\x00-\x1f]*$",
    "have no comma, no slash and no control characters, and not begin with a blank",
)
ORDER = _pattern(
    r"^(inventory|name|reverse|random|label:[A-Za-z0-9][A-Za-z0-9_./-]{0,62})$",
    "be inventory, name, reverse, random or label:KEY",
)
PARAMETER_NAME = _pattern(
    r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$",
    "be 1 to 64 letters, digits, _ or -, and begin with a letter or _",
)
ROLE = _pattern(
    r"^[a-z][a-z0-9_-]{0,63}$",
    "be 1 to 64 lower-case letters, digits, _ or -, and begin with a letter",
)
RULE = _pattern(
    r"^[a-z][a-z0-9-]{0,63}$",
    "be the name of a rule: lower-case letters, digits and -",
)
SESSION_CONFIGURATION = _pattern(
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    "be the name of a session configuration: letters, digits or any of . _ -, beginning with a "
    "letter or a digit",
)
SHA256 = _pattern(
    r"^[0-9a-f]{64}$",
    "be a SHA-256: 64 lower-case hexadecimal digits",
)
SHARE = _pattern(
    r"^\d{1,3}(\.\d{1,3})?%$",
    "be a percentage such as 25%",
)
SSH_PRINCIPAL = _pattern(
    r"^[A-Za-z0-9_.@$+][A-Za-z0-9_.@$+-]{0,127}$",
    "be 1 to 128 letters, digits or any of _ . @ $ + -, and not begin with -",
)
TITLE = _pattern(
    r"^[^\s\x00-\x1f][^\x00-\x1f]*$",
    "be one line of text that does not begin with a blank",
)
USERNAME = _pattern(
    r"^[^\s\-\x00-\x1f][^\s\x00-\x1f]*$",
    "have no blanks, and not begin with -",
)
VARIABLE_NAME = _pattern(
    r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
    "be the name of a variable: 1 to 128 letters, digits or _, not beginning with a digit",
)
VAULT_ROLE = _pattern(
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,126}$",
    "be 1 to 127 letters, digits or any of _ . -, and begin with a letter, a digit or _",
)
ZONE = _pattern(
    r"^[a-z0-9][a-z0-9_-]{0,62}$",
    "be 1 to 63 lower-case letters, digits, _ or -, and begin with a letter or digit",
)

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""A uuid with its hyphens, in either case: the only notation that references accept."""

EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
"""An e-mail address without quotes, comments or letters outside of ASCII."""
