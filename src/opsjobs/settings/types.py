"""Types of settings: they parse the text of a variable, or report the accepted values.

Each is a validator for `Annotated`. It accepts text from the environment; a value that is not text
(set in code) passes unchanged, and pydantic checks its type. Errors follow `NAME is VALUE: `.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from opsjobs.model.secret import Secret
from opsjobs.model.units import format_duration, format_size, parse_duration, parse_size

HOW_TO_MAKE_A_KEY = "for example the output of `openssl rand -base64 32`"
ENCRYPTION_KEY_BYTES = 32
_SWITCHES = {
    **dict.fromkeys(("on", "true", "yes", "1"), True),
    **dict.fromkeys(("off", "false", "no", "0"), False),
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def from_text(parse: Callable[[str], Any]) -> BeforeValidator:
    """Parse a value if it is text."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def hidden(parse: Callable[[str], str]) -> BeforeValidator:
    """Check a text, and keep it as a Secret."""
    return from_text(lambda text: Secret(parse(text)))


def matching(pattern: str, write: str) -> Callable[[str], str]:
    """Return a parser for texts that match `pattern` as a whole; its error is `write`."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(write)
        return text

    return parse


def text(pattern: str, write: str) -> BeforeValidator:
    """Check that a text matches `pattern` as a whole; the error is `write`."""
    return from_text(matching(pattern, write))


def _between(parse: Callable[[str], float], low: float, high: float, write: str) -> BeforeValidator:
    """Parse a value from `low` to `high`, both allowed; the error is `write`."""

    def check(text: str) -> float:
        try:
            value = parse(text)
        except ValueError:
            raise ValueError(write) from None
        if not low <= value <= high:
            raise ValueError(write)
        return value

    return from_text(check)


def whole(low: int, high: int) -> BeforeValidator:
    """Parse a whole number from `low` to `high`, both allowed."""
    write = f"write a whole number from {low} to {high}"
    digits = matching(r"\d{1,12}", write)
    return _between(lambda text: int(digits(text)), low, high, write)


def seconds(low: float, high: float) -> BeforeValidator:
    """Parse a duration into seconds: "30s", "5m" or a bare number."""
    span = f"from {format_duration(low)} to {format_duration(high)}"
    write = f"write a duration {span}, such as 30s, 5m or 1h (bare numbers are seconds)"
    return _between(parse_duration, low, high, write)


def size(low: int, high: int) -> BeforeValidator:
    """Parse a size into bytes: "10MiB" or a bare number."""
    span = f"from {format_size(low)} to {format_size(high)}"
    write = f"write a size {span}, such as 64KiB or 10MiB (bare numbers are bytes)"
    return _between(parse_size, low, high, write)


def choice(*allowed: str) -> BeforeValidator:
    """Parse one of a few words, in any letter case; the result is spelt as in `allowed`."""
    spellings = {word.lower(): word for word in allowed}

    def parse(text: str) -> str:
        if text.lower() not in spellings:
            raise ValueError(f"write one of {', '.join(allowed)}")
        return spellings[text.lower()]

    return from_text(parse)


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise ValueError("write on or off")
    return _SWITCHES[text.lower()]


SWITCH = from_text(_switch)
"""A switch: on or off, true or false, yes or no, 1 or 0."""


def address(schemes: tuple[str, ...], example: str) -> BeforeValidator:
    """Check that a text is a URL with one of `schemes`."""

    def parse(text: str) -> str:
        scheme, separator, rest = text.partition("://")
        if not separator or not rest or scheme not in schemes:
            raise ValueError(f"write an address such as {example}")
        return text

    return from_text(parse)


def https_or_local(example: str) -> BeforeValidator:
    """Check that a URL is https, or http to this machine: tokens are never sent unencrypted."""

    def parse(text: str) -> str:
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError(f"write an address such as {example}") from None
        extra = parts.username or parts.query or parts.fragment or parts.path.strip("/")
        if not parts.hostname or extra or port == 0 or parts.scheme not in ("http", "https"):
            raise ValueError(
                f"write an address such as {example}, without a path, a user or a question mark"
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(
                f"write an address with https, such as {example}: "
                "http is for an agent on this machine alone"
            )
        return text.rstrip("/")

    return from_text(parse)


def is_loopback(host: str) -> bool:
    """Return True for a host of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as wrong:
        raise ValueError(
            f"{wrong}: write networks separated by commas, such as 10.0.0.0/8,192.0.2.7/32"
        ) from None


NETWORKS = from_text(_networks)
"""CIDRs separated by commas; a bare address is a network of one."""


def _keys(text: str) -> tuple[Secret, ...]:
    parts = [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
    if not parts or len(parts) != len(set(parts)):
        raise ValueError(
            "write one or more different keys separated by commas, "
            f"the current one first: {HOW_TO_MAKE_A_KEY}"
        )
    if any(len(key_bytes(part)) != ENCRYPTION_KEY_BYTES for part in parts):
        raise ValueError(
            f"each key is 32 random bytes in base64url (43 characters): {HOW_TO_MAKE_A_KEY}"
        )
    return tuple(Secret(key) for key in parts)


KEYS = from_text(_keys)
"""Different encryption keys, separated by commas or, as in files, by lines."""


def key_bytes(key: str) -> bytes:
    """Decode a key in base64 or base64url, padded or not; empty if it is neither."""
    padded = key.replace("+", "-").replace("/", "_") + "=" * (-len(key) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        return b""


def _folder(text: str) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("there is no such user on this machine: write an absolute path") from None
    if not path.is_absolute():
        raise ValueError("write an absolute path, such as /var/lib/opsjobs")
    return path


ABSOLUTE_PATH = from_text(_folder)
"""An absolute path; ~ is the home directory."""
