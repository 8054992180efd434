"""Split a wrapper's own words from its command: `sudo -u x A=b nice -n 5 …`.

Also returns the changes that these words make to the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from opsjobs.safety.interpreters import Words
from opsjobs.safety.question import SAME, EnvironmentChange


@dataclass(frozen=True, slots=True)
class Prefix:
    """The options of a wrapper with a value, and the number of words before its command."""

    short: str = ""
    long: frozenset[str] = frozenset()
    skip: int = 0
    assigns: bool = False

    def rest(self, words: Words) -> tuple[str, ...]:
        """Return the words of the inner command."""
        at = 1
        while at < len(words):
            word = words[at]
            if word == "--":
                at += 1
                break
            if word.startswith("--"):
                at += 2 if word[2:] in self.long else 1
            elif word.startswith("-") and len(word) > 1:
                at += 2 if self._takes(word) else 1
            elif self.assigns and _ASSIGNMENT.match(word):
                at += 1
            else:
                break
        at += self.skip
        while self.assigns and at < len(words) and _ASSIGNMENT.match(words[at]):
            at += 1
        return tuple(words[at:])

    def _takes(self, word: str) -> bool:
        """Return True if the value of a cluster like `-nu` is the next word."""
        for n, letter in enumerate(word[1:], start=1):
            if letter in self.short:
                return n == len(word) - 1
        return False


_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
CLEARED = EnvironmentChange(cleared=True)
"""Run on another machine or as another user: nothing of this environment is inherited."""
_CLEARS = re.compile(r"-|--ignore-environment|-[0v]*i[0v]*|--reset-env")
_KEEPS = re.compile(r"-[^\WE]*+E\w*|--preserve-env.*")


def long(*names: str) -> frozenset[str]:
    """The long options that take a value, without their dashes."""
    return frozenset(names)


PREFIXES: dict[str, Prefix] = {
    "sudo": Prefix(
        "CDghpRrTtUu",
        long("user", "group", "host", "prompt", "chdir", "chroot", "role", "type"),
        assigns=True,
    ),
    "doas": Prefix("Cu"),
    "pkexec": Prefix("", long("user")),
    "env": Prefix("uC", long("unset", "chdir"), assigns=True),
    "nice": Prefix("n", long("adjustment")),
    "ionice": Prefix("cnpPu", long("class", "classdata")),
    "chrt": Prefix("", skip=1),
    "taskset": Prefix("", skip=1),
    "timeout": Prefix("ks", long("kill-after", "signal"), skip=1),
    "time": Prefix("fo", long("format", "output")),
    "stdbuf": Prefix("ioe", long("input", "output", "error")),
    "chroot": Prefix("", skip=1),
    "unshare": Prefix("SGR", long("root", "wd", "setuid", "setgid")),
    "nsenter": Prefix("tSG", long("target", "setuid", "setgid")),
    "strace": Prefix("eopsPaEIuObUX", long("output", "trace", "attach")),
    "ltrace": Prefix("eopsPanulFx"),
    "exec": Prefix("a"),
    "systemd-run": Prefix(
        "puMHEt",
        long(
            "unit",
            "property",
            "uid",
            "gid",
            "slice",
            "description",
            "setenv",
            "on-calendar",
            "on-active",
            "nice",
        ),
    ),
    "systemd-inhibit": Prefix("", long("what", "who", "why", "mode")),
    "cpulimit": Prefix("lpe", long("limit")),
    "setpriv": Prefix("", long("reuid", "regid", "groups")),
    "setarch": Prefix("", skip=1),
    "capsh": Prefix(""),
    "firejail": Prefix(""),
    "proot": Prefix("rbwq"),
    "faketime": Prefix("f", skip=1),
    **{
        name: Prefix("")
        for name in (
            *(
                "nohup",
                "setsid",
                "builtin",
                "busybox",
                "toybox",
                "coproc",
                "chronic",
                "fakeroot",
                "catchsegv",
                "unbuffer",
            ),
            *(
                "torsocks",
                "proxychains",
                "proxychains4",
                "caffeinate",
                "linux64",
                "linux32",
                "dbus-run-session",
                "rlwrap",
                "ts",
            ),
            *("noglob", "nocorrect", "eatmydata", "softlimit", "setlock", "else", "then", "do"),
        )
    },
}
_ENV_OPTIONS = frozenset({"-e", "--env", "--setenv"})
_ENV_ATTACHED = re.compile(r"(?:--(?:set)?env=|-[eE])(\w+=.*)", re.DOTALL)
_CHANGES = frozenset({"env", "sudo", "doas", "pkexec", "systemd-run"})


def changed(name: str, own: Words) -> EnvironmentChange:
    """Return the change that a wrapper makes to the environment: `env -i A=b`, `sudo A=b`."""
    if name not in _CHANGES:
        return SAME
    pairs = (word.partition("=") for word in own if _ASSIGNMENT.match(word))
    sets = tuple((key, value) for key, _, value in pairs)
    if name == "systemd-run":
        return EnvironmentChange(tuple(variables(own)), cleared=True)
    if name == "env":
        return EnvironmentChange(sets, cleared=any(_CLEARS.fullmatch(word) for word in own))
    return EnvironmentChange(sets, doubtful=not any(_KEEPS.fullmatch(word) for word in own))


def variables(own: Words) -> Iterator[tuple[str, str]]:
    """Return the variables set by `-e X=/`, `-eX=/`, `--env X=/`, `--env=X=/`."""
    for n, word in enumerate(own):
        attached = _ENV_ATTACHED.match(word)
        given = attached[1] if attached is not None else ""
        if word in _ENV_OPTIONS and n + 1 < len(own):
            given = own[n + 1]
        name, equals, value = given.partition("=")
        if equals and name.isidentifier():
            yield name, value
