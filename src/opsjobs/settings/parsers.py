"""Parse the values of settings; each error says what to write."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsjobs.model.secret import Secret
from opsjobs.model.units import format_duration, format_size, parse_duration, parse_size

PREFIX = "OPSJOBS_"
HOW_TO_MAKE_ONE = "for example the output of `openssl rand -base64 32`"
ENCRYPTION_KEY_BYTES = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Parse = Callable[[str], Any]
"""Takes the text of a variable, or raises ValueError saying what to write."""


def text(pattern: str, write: str) -> Parse:
    """A text of this shape, else the advice `write`."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(write)
        return text

    return parse


def whole(low: int, high: int) -> Parse:
    """A whole number between two others, both allowed."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Parse:
    """A duration in seconds: "30s", "5m" or a bare number."""

    def parse(text: str) -> float:
        try:
            value = parse_duration(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high:
            span = f"from {format_duration(low)} to {format_duration(high)}"
            raise ValueError(
                f"write a duration {span}, such as 30s, 5m or 1h (bare numbers are seconds)"
            )
        return value

    return parse


def size(low: int, high: int) -> Parse:
    """A size in bytes: "10MiB" or a bare number."""

    def parse(text: str) -> int:
        try:
            value = parse_size(text)
        except ValueError:
            value = -1
        if not low <= value <= high:
            span = f"from {format_size(low)} to {format_size(high)}"
            raise ValueError(
                f"write a size {span}, such as 64KiB or 10MiB (bare numbers are bytes)"
            )
        return value

    return parse


def choice(*allowed: str, upper: bool = False) -> Parse:
    """One of a few words, in any case."""

    def parse(text: str) -> str:
        spelt = text.upper() if upper else text.lower()
        if spelt not in allowed:
            raise ValueError(f"write one of {', '.join(allowed)}")
        return spelt

    return parse


def yes_no(text: str) -> bool:
    """on or off, true or false, yes or no, 1 or 0."""
    known = {
        "on": True,
        "true": True,
        "yes": True,
        "1": True,
        "off": False,
        "false": False,
        "no": False,
        "0": False,
    }
    if text.lower() not in known:
        raise ValueError("write on or off")
    return known[text.lower()]


def address(schemes: str, example: str) -> Parse:
    """A URL with one of these schemes (blanks between)."""

    def parse(text: str) -> str:
        scheme, separator, rest = text.partition("://")
        if not separator or not rest or scheme not in schemes.split():
            raise ValueError(f"write an address such as {example}")
        return text

    return parse


def networks(text: str) -> tuple[Network, ...]:
    """CIDRs with commas between; a bare address is a network of one."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as wrong:
        raise ValueError(
            f"{wrong}: write networks separated by commas, such as 10.0.0.0/8,192.0.2.7/32"
        ) from None


def keys(text: str) -> tuple[Secret, ...]:
    """Different secrets, separated by commas or, as in files, by lines."""
    parts = [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
    if not parts or len(parts) != len(set(parts)):
        raise ValueError(
            f"write one or more different keys separated by commas, the current one first: {HOW_TO_MAKE_ONE}"
        )
    if any(not _is_key(part) for part in parts):
        raise ValueError(
            f"each key is 32 random bytes in base64url (43 characters): {HOW_TO_MAKE_ONE}"
        )
    return tuple(Secret(key) for key in parts)


def _is_key(text: str) -> bool:
    try:
        return (
            len(
                base64.b64decode(
                    text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4),
                    altchars=b"-_",
                    validate=True,
                )
            )
            == ENCRYPTION_KEY_BYTES
        )
    except ValueError:
        return False


def folder(text: str) -> Path:
    """An absolute path; ~ is the home folder."""
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise ValueError("write an absolute path, such as /var/lib/opsjobs")
    return path


def hidden(parse: Parse) -> Parse:
    """The same form, kept as a Secret."""
    return lambda text: Secret(parse(text))


@dataclass(frozen=True, slots=True)
class Variable:
    """Metadata of a field: `default` as text; `ours`: prefix only; `secret`: NAME_FILE too."""

    plain: str
    parse: Parse
    default: str | None
    description: str
    ours: bool
    secret: bool

    @property
    def name(self) -> str:
        """The name that it is documented under."""
        return PREFIX + self.plain if self.ours else self.plain

    @property
    def names(self) -> tuple[str, ...]:
        """The accepted names, the one that wins first."""
        return (PREFIX + self.plain,) if self.ours else (PREFIX + self.plain, self.plain)


def setting(
    name: str,
    parse: Parse,
    default: str | None,
    description: str,
    *,
    ours: bool = True,
    secret: bool = False,
    unset: Any = None,
) -> Any:
    """Return a field of a group; `unset` is its value if there is no default."""
    variable = Variable(name, parse, default, description, ours, secret)
    return field(
        default=unset if default is None else parse(default), metadata={"variable": variable}
    )
