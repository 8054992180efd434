"""Read files that other programs run: a crontab, a systemd unit, a makefile.

Their commands go to the reader of shells.
"""

from __future__ import annotations

import re

from opsjobs.safety.paths import may_be
from opsjobs.safety.trace import SourcePosition, Trace

# The system runs files there sooner or later.
_STARTED = {
    "system-crontab": ("/etc/crontab", "/etc/cron.d/*"),
    "crontab": ("/var/spool/cron/**",),
    "unit": (
        *(
            "/etc/systemd/system/**",
            "/usr/lib/systemd/system/**",
            "/lib/systemd/system/**",
            "/run/systemd/system/**",
        ),
        *("/etc/systemd/user/**", "~/.config/systemd/user/**", "/home/*/.config/systemd/user/**"),
    ),
    "start": (
        *(
            "/etc/cron.hourly/*",
            "/etc/cron.daily/*",
            "/etc/cron.weekly/*",
            "/etc/cron.monthly/*",
            "/etc/rc.local",
            "/etc/init.d/*",
        ),
        *(
            "/etc/profile",
            "/etc/profile.d/*",
            "/etc/bash.bashrc",
            "~/.bashrc",
            "~/.profile",
            "~/.bash_profile",
            "~/.zshrc",
        ),
        *("/root/.bashrc", "/root/.profile", "/home/*/.bashrc", "/home/*/.profile"),
    ),
}
# Folders that every user of the machine may write to.
_FOR_ALL = ("/tmp/", "/var/tmp/", "/dev/shm/")  # noqa: S108 they are looked for, not written to
_TIMES = re.compile(r"\s*(?:@\w+|(?:[\w*/,-]+\s+){4}[\w*/,-]+)\s+(?P<rest>.+)")
_USER = re.compile(r"[a-z_][a-z0-9_-]*\s+(?=[/\w(\[.])")
_EXEC = re.compile(r"\s*Exec\w+\s*=\s*[-@:+!|]*(?P<rest>.*)")
_RECIPE = re.compile(r"(?:\t|[^\s:#=][^:#=]*::?[^=;#]*;)[ \t]*[-@+]*(?P<rest>.*)")
_OF_MAKE = re.compile(r"\$\$|\$\([^()]*\)|\$\{[^{}]*\}|\$[@<^?*%+]")
_SHELL_OF_MAKE = re.compile(r"\$\(shell\s++((?:[^()]++|\([^()]*+\))*+)\)")


def language_at(path: str) -> str | None:
    """Return the language of a file that the system reads by itself; None for others."""
    return next((language for language, paths in _STARTED.items() if may_be(path, paths)), None)


def start(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of a script that the system runs by itself."""
    _read_commands(trace, [text], place)


def crontab(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of the lines of a user's crontab."""
    _lines(trace, text, place, user=False)


def system_crontab(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the lines of /etc/crontab or /etc/cron.d, which name a user before each command."""
    _lines(trace, text, place, user=True)


def _lines(trace: Trace, text: str, place: SourcePosition, *, user: bool) -> None:
    commands = []
    for line in text.splitlines():
        if not line.lstrip().startswith("#") and (found := _TIMES.match(line)) is not None:
            # A `%` that is not escaped starts the input of the command.
            command = re.split(r"(?<!\\)%", found["rest"])[0].replace("\\%", "%")
            commands.append(_USER.sub("", command, count=1) if user else command)
    _read_commands(trace, commands, place)


def unit(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the programs that a systemd unit would start."""
    lines = text.replace("\\\n", " ").splitlines()
    matches = [_EXEC.match(line) for line in lines]
    _read_commands(trace, [found["rest"] for found in matches if found is not None], place)


def makefile(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of all recipes of a makefile, regardless of the targets made."""
    commands = [match[1] for match in _SHELL_OF_MAKE.finditer(text)]
    for line in text.replace("\\\n", " ").splitlines():
        if (found := _RECIPE.match(line)) is not None:
            commands += [
                _OF_MAKE.sub(lambda of: "$" if of[0] == "$$" else "$OPSJOBS_UNSAID", found["rest"])
            ]
    trace.read("bash", "\n".join(commands), place)


def _read_commands(trace: Trace, commands: list[str], place: SourcePosition) -> None:
    if not commands:
        return
    begun = len(trace.ran)
    trace.read("bash", "\n".join(commands), place)
    if any(path.startswith(_FOR_ALL) for _, path, _ in trace.ran[begun:]):
        trace.event("for_all", place)
