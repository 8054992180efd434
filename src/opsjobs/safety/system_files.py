"""Files that others run by: a crontab, a unit of systemd, a makefile. Their commands are told to the shell's reader."""

from __future__ import annotations

import re

from opsjobs.safety.paths import may_be
from opsjobs.safety.trace import SourcePosition, Trace

# What is written there is run by others, sooner or later.
_STARTED = {
    "system-crontab": ("/etc/crontab", "/etc/cron.d/*"),
    "crontab": ("/var/spool/cron/**",),
    "unit": (
        *("/etc/systemd/system/**", "/usr/lib/systemd/system/**", "/lib/systemd/system/**", "/run/systemd/system/**"),
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
        *("/etc/profile", "/etc/profile.d/*", "/etc/bash.bashrc", "~/.bashrc", "~/.profile", "~/.bash_profile", "~/.zshrc"),
        *("/root/.bashrc", "/root/.profile", "/home/*/.bashrc", "/home/*/.profile"),
    ),
}
# Whoever is on the machine may put a program there.
_FOR_ALL = ("/tmp/", "/var/tmp/", "/dev/shm/")  # noqa: S108 they are looked for, not written to
_TIMES = re.compile(r"\s*(?:@\w+|(?:[\w*/,-]+\s+){4}[\w*/,-]+)\s+(?P<rest>.+)")
_USER = re.compile(r"[a-z_][a-z0-9_-]*\s+(?=[/\w(\[.])")
_EXEC = re.compile(r"\s*Exec\w+\s*=\s*[-@:+!|]*(?P<rest>.*)")
_RECIPE = re.compile(r"(?:\t|[^\s:#=][^:#=]*::?[^=;#]*;)[ \t]*[-@+]*(?P<rest>.*)")
_OF_MAKE = re.compile(r"\$\$|\$\([^()]*\)|\$\{[^{}]*\}|\$[@<^?*%+]")
_SHELL_OF_MAKE = re.compile(r"\$\(shell\s++((?:[^()]++|\([^()]*+\))*+)\)")


def language_at(path: str) -> str | None:
    """What reads a file at this path of its own accord; None where nobody does."""
    return next((language for language, paths in _STARTED.items() if may_be(path, paths)), None)


def start(trace: Trace, text: str, place: SourcePosition) -> None:
    """Write what a script that the system runs by itself would do into the trace."""
    _told(trace, [text], place)


def crontab(trace: Trace, text: str, place: SourcePosition) -> None:
    """Write what the lines of a user's crontab would do into the trace."""
    _lines(trace, text, place, user=False)


def system_crontab(trace: Trace, text: str, place: SourcePosition) -> None:
    """As crontab, where a user is named before each command: /etc/crontab, /etc/cron.d."""
    _lines(trace, text, place, user=True)


def _lines(trace: Trace, text: str, place: SourcePosition, *, user: bool) -> None:
    commands = []
    for line in text.splitlines():
        if not line.lstrip().startswith("#") and (found := _TIMES.match(line)) is not None:
            # Another `%` than an escaped one begins what the command is fed.
            command = re.split(r"(?<!\\)%", found["rest"])[0].replace("\\%", "%")
            commands.append(_USER.sub("", command, count=1) if user else command)
    _told(trace, commands, place)


def unit(trace: Trace, text: str, place: SourcePosition) -> None:
    """Write what a unit of systemd would start into the trace."""
    lines = text.replace("\\\n", " ").splitlines()
    _told(trace, [found["rest"] for line in lines if (found := _EXEC.match(line)) is not None], place)


def makefile(trace: Trace, text: str, place: SourcePosition) -> None:
    """Write what the recipes of a makefile would do into the trace, whichever of them are made."""
    commands = [said[1] for said in _SHELL_OF_MAKE.finditer(text)]
    for line in text.replace("\\\n", " ").splitlines():
        if (found := _RECIPE.match(line)) is not None:
            commands += [_OF_MAKE.sub(lambda of: "$" if of[0] == "$$" else "$OPSJOBS_UNSAID", found["rest"])]
    trace.read("bash", "\n".join(commands), place)


def _told(trace: Trace, commands: list[str], place: SourcePosition) -> None:
    if not commands:
        return
    begun = len(trace.ran)
    trace.read("bash", "\n".join(commands), place)
    if any(path.startswith(_FOR_ALL) for _, path, _ in trace.ran[begun:]):
        trace.event("for_all", place)
