"""Private key files: detect encryption and prompt for the passphrase."""

from __future__ import annotations

import base64
import binascii
import re
import sys

from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.secret_input import ask

_OPENSSH = re.compile(
    r"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END OPENSSH PRIVATE KEY-----", re.DOTALL
)
_MAGIC = b"openssh-key-v1\x00"
_UNENCRYPTED = b"none"


def is_encrypted(text: str) -> bool:
    """Return True if a passphrase protects this key.

    An OpenSSH key names a cipher; PEM says ENCRYPTED.
    """
    found = _OPENSSH.search(text)
    if found is None:
        return "ENCRYPTED" in text
    try:
        content = base64.b64decode("".join(found[1].split()), validate=True)
    except binascii.Error:
        return False
    if not content.startswith(_MAGIC):
        return False
    start = len(_MAGIC) + 4
    length = int.from_bytes(content[len(_MAGIC) : start])
    return content[start : start + length] != _UNENCRYPTED


def ask_passphrase(key: str, *, otherwise: str) -> str:
    """Prompt for the passphrase of this key file.

    Raises CommandFailed if there is no terminal.
    """
    if not sys.stdin.isatty():
        raise CommandFailed(f"{key}: the key has a passphrase. {otherwise}", ExitCode.USAGE)
    return ask(f"Passphrase of {key}", otherwise=otherwise)
