"""Render a program as the safety check reads it: its inputs first, then its text.

The inputs are part of the text as far as its language can express them. Some variables and files
decide what a program does: the variables make other programs run something, the files are run or
trusted by the system.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.model.action_base import ProgramSource
from opsjobs.model.parameter import text_of
from opsjobs.model.quoting import Shell, posix, quote_for
from opsjobs.model.safety_verdict import Finding, SafetyVerdict
from opsjobs.model.secret import is_secret
from opsjobs.model.template import Template, TemplateFault, TemplateNames
from opsjobs.safety.interpreters import SHELLS

UNKNOWN = "opsjobs-unknown-value"
"""A placeholder for a value that is unknown as yet, until the text is complete.

Then a variable with an unknown value replaces it.
"""
_AS_VARIABLE: Mapping[Shell, str] = {
    "posix": '"$OPSJOBS_UNKNOWN"',
    "cmd": '"%OPSJOBS_UNKNOWN%"',
    "powershell": '"$env:OPSJOBS_UNKNOWN"',
}


@dataclass(frozen=True, slots=True)
class ProgramReading:
    """A text as the safety check reads it.

    `arguments` (None: unknown) and `variables` are inputs that are not part of the text.
    """

    text: str
    arguments: tuple[str, ...] | None = None
    variables: tuple[tuple[str, str], ...] = ()


class SafetyProgram:
    """The command line or the script of an action.

    Arguments and variables are assigned before it if a POSIX shell reads it; otherwise they
    accompany it.
    """

    def __init__(
        self, source: ProgramSource, text: str, names: TemplateNames, shell: Shell
    ) -> None:
        self._shell = shell
        self._is_script = source.interpreter is not None
        if source.interpreter is None:
            self._body = _command(text, names, shell)
            self.reads = shell == "posix"
        else:
            self._body = Template((text,), ())
            self.reads = source.interpreter.rpartition("/")[2] in SHELLS
        given = f"{text}\n{source.stdin or ''}"
        # Variables that execute something have findings of their own; the reader would add others.
        self._variables = {
            name: _plain(value, names)
            for name, value in source.env.items()
            if name in given and not executes(name, value)
        }
        self._arguments = [_plain(argument, names) for argument in source.args]
        self._ours = "OPSJOBS_" in given

    @property
    def names(self) -> frozenset[str]:
        """The names of all values that the text depends on."""
        parts = (self._body, *self._variables.values(), *self._arguments)
        return frozenset(name for part in parts for name in part.names)

    def render(
        self, value: Callable[[str], str | None], known: Mapping[str, Any]
    ) -> ProgramReading:
        """Return the text and its inputs. `known`: parameters by name. Raises Unquotable."""
        quote = quote_for(self._shell)
        body = self._body.render(value, quote).replace(quote(UNKNOWN), _AS_VARIABLE[self._shell])
        variables = {name: template.render(value) for name, template in self._variables.items()}
        if self._ours:
            ours = {
                f"OPSJOBS_PARAM_{n.upper().replace('-', '_')}": v
                for n, v in known.items()
                if not is_secret(v)
            }
            variables |= {name: text_of(v) or "" for name, v in ours.items()}
        arguments = tuple(part.render(value) for part in self._arguments)
        if not self.reads:
            return ProgramReading(
                body, arguments if self._is_script else None, tuple(variables.items())
            )
        lines = [f"export {name}={_word(text)}\n" for name, text in variables.items()]
        if arguments:
            lines.append("set -- " + " ".join(map(_word, arguments)) + "\n")
        return ProgramReading("".join(lines) + body)


def fed(text: str, stdin: str) -> str:
    """Return the text with its input as a heredoc, so that a reader can follow the input."""
    end = "OPSJOBS_STDIN"
    while end in stdin or end in text:
        end += "_"
    return f"{{\n{text}\n}} <<'{end}'\n{stdin}\n{end}\n"


def _word(value: str) -> str:
    # A text with NUL is refused when it would run.
    return posix(value.replace("\0", "")).replace(UNKNOWN, f"'{_AS_VARIABLE['posix']}'")


def _command(text: str, names: TemplateNames, shell: Shell) -> Template:
    try:
        return Template.command(text, names, shell)
    except TemplateFault:
        # The launch refuses it. Check the text as it is, with unknown variables.
        return Template((text,), ())


def _plain(text: str, names: TemplateNames) -> Template:
    try:
        return Template.plain(text, names)
    except TemplateFault:
        return Template((UNKNOWN,), ())


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
    """Return True if the variable makes a program run the code or command that it names.

    A PATH of the usual folders does not.
    """
    if name == "PATH" and all(_USUAL.fullmatch(folder) for folder in value.split(":")):
        return False
    return _EXECUTES.fullmatch(name) is not None


def variable_findings(variables: Iterable[tuple[str, str]]) -> tuple[Finding, ...]:
    """Return a finding for each of these variables that makes programs run something."""
    reason = "This variable makes shells and interpreters run code that is not in the text."
    return tuple(
        Finding("executing-variable", SafetyVerdict.NEEDS_APPROVAL, reason, name)
        for name, value in variables
        if executes(name, value)
    )


def place_of(destination: str) -> str:
    """Return the path in one spelling; one that leaves the home is read from the root.

    >>> place_of("/etc//./cron.d/x"), place_of("../../etc/passwd"), place_of("~/.ssh/")
    ('/etc/cron.d/x', '/etc/passwd', '.ssh')
    """
    path = posixpath.normpath(destination.removeprefix("~/") or ".")
    if not path.startswith("../"):
        return "/" + path.lstrip("/") if path.startswith("/") else path
    while path.startswith("../"):
        path = path[3:]
    return "/" + path


def place_findings(place: str, unknown: str) -> tuple[Finding, ...]:
    """Return the findings for a file uploaded to this path.

    `unknown` is the placeholder of a value that is unknown as yet.
    """
    if _TRUSTED.fullmatch(place):
        reason = "Files there decide who may log in or become root, or are run by the system."
    elif place.startswith(unknown):
        reason = "The destination of this file is not known yet."
    else:
        return ()
    return (Finding("upload-to-trusted-place", SafetyVerdict.NEEDS_APPROVAL, reason, place[:200]),)
