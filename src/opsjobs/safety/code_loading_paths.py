"""Variables and files that decide what a program does.

The variables make other programs run something; the files are run or trusted by the system.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from opsjobs.model.safety_verdict import Finding, SafetyVerdict

_EXECUTES = re.compile(
    r"BASH_ENV|ENV|LD_PRELOAD|LD_LIBRARY_PATH|LD_AUDIT|DYLD_\w+|PERL5OPT|PERL5LIB"
    r"|RUBYOPT|NODE_OPTIONS|PYTHONSTARTUP|PYTHONPATH|PYTHONHOME"
    r"|PATH|IFS|PS4|PROMPT_COMMAND|SHELLOPTS|BASHOPTS|GIT_SSH\w*|BASH_FUNC_\w+"
)
_USUAL = re.compile(r"(/usr)?(/local)?/s?bin|/snap/bin|/opt/homebrew/s?bin")
_TRUSTED = re.compile(
    r"/(etc|root)?"
    r"|/etc/(sudoers|passwd|shadow|group|gshadow|master\.passwd|crontab|anacrontab|profile"
    r"|environment|rc\.local|inittab|ld\.so\.[^/]+)"
    r"|/etc/(sudoers\.d|cron[^/]*|pam\.d|systemd|init\.d|profile\.d|ld\.so\.conf\.d)(/.*)?"
    r"|/var/spool/(cron|at)(/.*)?"
    r"|((/usr)?(/local)?/lib|/run)/systemd(/.*)?"
    r"|(.*/)?\.config/systemd(/.*)?"
    r"|(.*/)?\.ssh(/authorized_keys2?)?"
)


def executes(name: str, value: str) -> bool:
    """Return True if the variable makes a program run what it names.

    A PATH of the usual folders does not.
    """
    if name == "PATH" and all(_USUAL.fullmatch(folder) for folder in value.split(":")):
        return False
    return _EXECUTES.fullmatch(name) is not None


def said_of_variables(variables: Iterable[tuple[str, str]]) -> tuple[Finding, ...]:
    """Return a finding for each of these variables that makes programs run something."""
    reason = "This variable makes shells and interpreters run code that is not in the text."
    return tuple(
        Finding("executing-variable", SafetyVerdict.NEEDS_APPROVAL, reason, name)
        for name, value in variables
        if executes(name, value)
    )


def place_of(destination: str) -> str:
    """Return the path in one spelling; one that leaves the home is taken from the root.

    >>> place_of("/etc//./cron.d/x"), place_of("../../etc/passwd"), place_of("~/.ssh/")
    ('/etc/cron.d/x', '/etc/passwd', '.ssh')
    """
    path = posixpath.normpath(destination.removeprefix("~/") or ".")
    if not path.startswith("../"):
        return "/" + path.lstrip("/") if path.startswith("/") else path
    while path.startswith("../"):
        path = path[3:]
    return "/" + path


def said_of_place(place: str, unknown: str) -> tuple[Finding, ...]:
    """Return the findings for a file uploaded to this path.

    `unknown` is the text that stands for a value that is not known yet.
    """
    if _TRUSTED.fullmatch(place):
        reason = "Files there decide who may log in or become root, or are run by the system."
    elif place.startswith(unknown):
        reason = "The destination of this file is not known yet."
    else:
        return ()
    return (Finding("upload-to-trusted-place", SafetyVerdict.NEEDS_APPROVAL, reason, place[:200]),)
