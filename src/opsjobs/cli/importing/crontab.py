"""Parse crontabs as cron does: settings, entries, and skipped lines with their reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic_core import PydanticCustomError

from opsjobs.cli.importing.inventory import Skipped
from opsjobs.model.program import check_variable
from opsjobs.model.schedule.cron import canonical
from opsjobs.model.template import Template, TemplateFault, TemplateNames

ENTRIES_MAX = 5_000
_SETTING = re.compile(r"(?:\"([^\"]*)\"|'([^']*)'|([^\s=\"']+))[ \t]*=[ \t]*(.*)")
_WORD = re.compile(r"(\S+)[ \t]+")
_FLAGS = re.compile(r"((?:-[nqs]+[ \t]+)+)(?=[^-\s])")
_ACCOUNT = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.@-]{0,127})([:/]\S+)?")
_FIELD = re.compile(r"[0-9A-Za-z*/,~-]+")
_RANDOM = re.compile(r"(\d*)~(\d*)")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMES = frozenset((*_DAYS, *_MONTHS))
_LOWEST_HIGHEST = ((0, 59), (0, 23), (1, 28), (1, 12), (0, 6))
_STEP = re.compile(r"([^,/]+)/(\d{1,9})(?=,|$)")
_LOWEST, _STEPS = (0, 0, 1, 1, 0), (59, 23, 31, 12, 7)
_BY_STAR = (2, 3, 4)
"""Fields in which a star matters: in a day field it decides whether both days count.

Their largest step selects only the first value.
"""
_NICKNAMES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
# Comments that do not describe the entry below: a header, a disabled entry, a ruler, an editor's
# mode line.
_NO_NOTE = re.compile(r"\bd(om|ow)\b|^[\d*/,-]+\s+[\d*/,-]+\s|^@|^[^A-Za-z]*$|^-\*-")

_NO_MAIL = "no mail is sent: output is stored with the execution, and failures are events"
_NO_COUNTERPART = {
    "MAILFROM": _NO_MAIL,
    "CONTENT_TYPE": _NO_MAIL,
    "CONTENT_TRANSFER_ENCODING": _NO_MAIL,
    "LOGNAME": "cron ignores it in a crontab: it follows from the user",
    "USER": "cron ignores it in a crontab: it follows from the user",
    "START_HOURS_RANGE": "it is a setting of anacron",
}


@dataclass(frozen=True, slots=True)
class CrontabSettings:
    """Settings above an entry."""

    shell: str | None = None
    home: str | None = None
    """The directory in which commands start."""
    zone: str | None = None
    """The time zone, from CRON_TZ."""
    delay_minutes: int = 0
    """The longest random delay."""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CrontabEntry:
    """One entry of a crontab."""

    place: str
    when: str
    command: str
    stdin: str | None
    user: str | None
    settings: CrontabSettings
    single: bool = False
    note: str = ""


@dataclass
class Crontab:
    """The entries of a crontab, and the skipped lines."""

    entries: list[CrontabEntry] = field(default_factory=list)
    left: list[Skipped] = field(default_factory=list)


class _Unreadable(ValueError):
    """A line that cannot be imported; the message is the reason."""


def read(name: str, text: str, *, system: bool) -> Crontab:
    """Return the crontab in this text. Raises ValueError for too many entries.

    `system`: each entry names its user, as in /etc/crontab.
    """
    found = Crontab()
    reader = _CrontabReader(found, name, system=system)
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        reader.take(number, line)
        if len(found.entries) > ENTRIES_MAX:
            raise ValueError(f"it has more than {ENTRIES_MAX} entries")
    return found


class _CrontabReader:
    """Line by line reader: a setting applies to the entries below it."""

    def __init__(self, found: Crontab, name: str, *, system: bool) -> None:
        self._found = found
        self._name = name
        self._system = system
        self._settings = CrontabSettings()
        self._note = ""
        self._place = name
        self._carriage_told = False

    def take(self, number: int, line: str) -> None:
        """Process one line."""
        self._place = f"{self._name} line {number}"
        if line.endswith("\r"):
            line = line.rstrip("\r")
            if not self._carriage_told:
                self._leave(
                    "this and other lines end in a carriage return, which cron would pass to the "
                    "command: it is removed"
                )
            self._carriage_told = True
        written = line.lstrip(" \t")
        if not written.strip() or written.startswith("#"):
            comment = written.lstrip("#").strip()
            self._note = comment if written.startswith("#") and not _NO_NOTE.search(comment) else ""
            return
        try:
            self._take(written)
        except _Unreadable as why:
            self._leave(str(why), whole=True)
        self._note = ""

    def _take(self, written: str) -> None:
        if "\0" in written:
            raise _Unreadable("it holds a NUL character")
        if (setting := _SETTING.fullmatch(written)) is not None:
            self._set(
                next(name for name in setting.groups()[:3] if name is not None),
                _unquoted(setting[4]),
            )
        else:
            self._found.entries.append(self._entry(written))

    def _leave(self, reason: str, *, whole: bool = False) -> None:
        self._found.left.append(Skipped(self._place, reason, target=whole))

    # --- settings

    def _set(self, name: str, value: str) -> None:
        match name:
            case "MAILTO":
                if value:
                    self._leave(f"MAILTO: {_NO_MAIL}")
            case "SHELL":
                self._settings = replace(self._settings, shell=_path(name, value))
            case "HOME":
                self._settings = replace(self._settings, home=_path(name, value))
            case "CRON_TZ":
                self._settings = replace(self._settings, zone=value)
            case "RANDOM_DELAY":
                self._delay(value)
            case _ if name in _NO_COUNTERPART:
                self._leave(f"{name}: {_NO_COUNTERPART[name]}")
            case _:
                self._variable(name, value)

    def _delay(self, value: str) -> None:
        if not value.isascii() or not value.isdigit() or int(value) > 1440:
            raise _Unreadable(f"RANDOM_DELAY: {value[:40]!r} is not a number of minutes up to 1440")
        self._settings = replace(self._settings, delay_minutes=int(value))
        self._leave(f"RANDOM_DELAY={value} has become jitter: each firing has its own, fixed delay")

    def _variable(self, name: str, value: str) -> None:
        try:
            check_variable(name)
        except ValueError as error:
            raise _Unreadable(f"the setting is not imported: {error}") from None
        if name.startswith("OPSJOBS_"):
            raise _Unreadable(
                f"the setting is not imported: {name} is a variable of opsjobs itself"
            )
        if is_template(value):
            raise _Unreadable(
                f"the setting is not imported: opsjobs would expand {value[:40]!r} as a template"
            )
        self._settings = replace(self._settings, env={**self._settings.env, name: value})

    # --- entries

    def _entry(self, written: str) -> CrontabEntry:
        # A dash means "do not log this one". opsjobs has no counterpart, so it can be dropped.
        written = written.removeprefix("-")
        when, rest = self._nickname(written) if written.startswith("@") else self._fields(written)
        user = None
        if self._system:
            user, rest = self._user(rest)
        flags = _FLAGS.match(rest)
        command, stdin = split_percent(rest[flags.end() :] if flags else rest)
        if not command.strip():
            raise _Unreadable("it has no command")
        try:
            when = canonical(when)
        except PydanticCustomError as error:
            raise _Unreadable(str((error.context or {}).get("detail", error))) from None
        single = flags is not None and "s" in flags[1]
        return CrontabEntry(
            self._place, when, command, stdin, user, self._settings, single, self._note
        )

    def _nickname(self, written: str) -> tuple[str, str]:
        word = written.split(maxsplit=1)[0]
        name, rest = word.lower(), written[len(word) :].lstrip(" \t")
        if name == "@reboot":
            raise _Unreadable("@reboot is not supported: make it a service of the machine")
        if name == "@every_minute":
            return "* * * * *", rest
        if re.fullmatch(r"@\d+", name):
            raise _Unreadable(
                f"{name} counts from the end of the previous run; add a schedule with --every"
            )
        if name not in _NICKNAMES:
            raise _Unreadable(
                f"{word[:40]!r} is not a crontab nickname: use one of {', '.join(_NICKNAMES)}"
            )
        return name, rest

    def _fields(self, written: str) -> tuple[str, str]:
        fields: list[str] = []
        rest = written
        while len(fields) < 5:
            match = _WORD.match(rest)
            if match is None:
                raise _Unreadable("it is neither NAME=VALUE nor five fields and a command")
            fields.append(match[1])
            rest = rest[match.end() :]
        return " ".join(self._field(position, text) for position, text in enumerate(fields)), rest

    def _field(self, position: int, text: str) -> str:
        if not _FIELD.fullmatch(text) or any(
            word.lower() not in _NAMES for word in re.findall("[A-Za-z]+", text)
        ):
            place = ("minute", "hour", "day of the month", "month", "day of the week")[position]
            raise _Unreadable(f"{text[:40]!r} is not valid as {place}")
        text = _STEP.sub(lambda m: self._step(position, m), text)
        if "~" not in text:
            return text
        low, high = _LOWEST_HIGHEST[position]
        self._leave(f"the random {text} has become H: one fixed value, from the schedule's id")
        return _RANDOM.sub(lambda m: f"H({m[1] or low}-{m[2] or high})", text)

    def _step(self, position: int, item: re.Match[str]) -> str:
        """Return an item with an excessive step as cron reads it: only the first value."""
        base, step, most = item[1], item[2], _STEPS[position]
        if int(step) <= most:
            return item[0]
        # A field that starts with `*` must still do so if that matters to cron.
        first = base.split("-")[0]
        if base == "*":
            first = f"*/{most}" if position in _BY_STAR else str(_LOWEST[position])
        self._leave(
            f"the step of {item[0]} is over {most}: as in cron, only the first value counts; "
            f"it has become {first}"
        )
        return first

    def _user(self, rest: str) -> tuple[str, str]:
        word = _WORD.match(rest)
        account = _ACCOUNT.fullmatch(word[1]) if word else None
        if word is None or account is None:
            raise _Unreadable(
                "there is no user before the command. "
                "If it is the crontab of a user, use --user NAME"
            )
        if account[2]:
            self._leave(f"{account[2]} of the user {account[1]} is not imported: only the user is")
        return account[1], rest[word.end() :]


def split_percent(text: str) -> tuple[str, str | None]:
    r"""Split a command line at its first `%` into the command and its standard input.

    Further percent signs become line ends; an escaped one (`\%`) is literal.
    """
    parts = ["".join(piece) for piece in _pieces(text)]
    command, lines = parts[0], parts[1:]
    if not lines or lines == [""]:
        return command, None
    stdin = "\n".join(lines)
    return command, stdin if stdin.endswith("\n") else f"{stdin}\n"


def _pieces(text: str) -> Iterator[list[str]]:
    """Yield the text cut at each `%` that is not escaped by a backslash."""
    piece: list[str] = []
    escaped = False
    for letter in text:
        if letter == "%" and escaped:
            piece[-1] = "%"
        elif letter == "%":
            yield piece
            piece = []
        else:
            piece.append(letter)
        escaped = letter == "\\" and not escaped
    yield piece


def is_template(text: str) -> bool:
    """Return True if opsjobs would expand or refuse placeholders in this text."""
    try:
        return Template.plain(text, TemplateNames()).names != ()
    except TemplateFault:
        return True


def _unquoted(value: str) -> str:
    value = value.rstrip(" \t")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _path(name: str, value: str) -> str:
    if not value.startswith("/") or any(ord(letter) < 32 for letter in value) or len(value) > 1_000:
        raise _Unreadable(f"{name}: {value[:40]!r} is not an absolute path")
    return value
