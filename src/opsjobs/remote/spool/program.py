"""Convert a Program to shell code, followed by the bytes of its files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from opsjobs.model.program import Program, StartOrder

SHORT_BYTES = 8 * 1024
"""Longer code is sent as a file: shell builtins read byte by byte."""

_MEMORY = "/dev/shm"  # noqa: S108  opsjobs creates its own folder in it, or none
_FAIL = re.compile(r"@fail (interpreter|folder|storage)@")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "python": ("python3", "python"),
    "node": ("node", "nodejs"),
    "powershell": ("pwsh", "powershell"),
    "cmd": ("cmd", "cmd.exe"),
}
_BEFORE: Mapping[str, tuple[str, ...]] = {
    "pwsh": ("-NoProfile", "-NonInteractive", "-File"),
    "powershell": ("-NoProfile", "-NonInteractive", "-File"),
    "cmd": ("/d", "/c"),
}
_ENDINGS = {
    "bash": ".sh",
    "sh": ".sh",
    "python": ".py",
    "perl": ".pl",
    "node": ".js",
    "nodejs": ".js",
    "cmd": ".cmd",
} | {
    "pwsh": ".ps1",
    "powershell": ".ps1",
}


@dataclass(frozen=True, slots=True)
class Package:
    """Shell code, and the bytes that follow it.

    `place`: True if it needs its own folder on the machine.
    """

    words: str
    behind: bytes = b""
    place: bool = False


@dataclass(frozen=True, slots=True)
class _Manner:
    """The shell code with which a shell reports why it starts nothing.

    `fail` has the cause for %s; `cut` is for incomplete input.
    """

    fail: str
    cut: str

    def section(self, name: str) -> str:
        """Return one section of program.sh."""
        return self.fill(_section(name)).replace("@cut@", self.cut)

    def fill(self, words: str) -> str:
        """Replace failures in the built-in code only: an author's code may contain anything."""
        return _FAIL.sub(lambda found: self.fail.replace("%s", found[1]), words)


# A cause is recorded in the file in which a watchdog would write its own.
_DURABLY = _Manner(
    '{ { read -r OPSJOBS_TERM <&3; printf %s >&3; } 3<>"$OPSJOBS_SPOOL.x"; exit 1; }',
    '{ printf n. 1<>"$OPSJOBS_SPOOL.x"; exit; }',
)


def durable(order: StartOrder, program: Program) -> Package:
    """Return the code for the command's own shell in a durable run."""
    words = _shell_code(program, {**order.environment, **program.env}, _DURABLY)
    if program.script is None and not program.stdin and not program.secrets:
        return Package(words)
    places = ['"$OPSJOBS_SPOOL.s"']
    if program.secrets:
        places.insert(0, f'"{_MEMORY}/opsjobs.$OPSJOBS_RUN"')
    placed = _Placed(program, words, _DURABLY)
    return placed.package(
        [*placed.make_place(places), *placed.unpack(), *placed.run(), _DURABLY.section("leave")]
    )


def direct(program: Program, token: str, nonce: str) -> Package:
    """Return the code for a shell that ends with its channel.

    It reports its start on standard error, after the nonce.
    """
    manner = _Manner(f"{{ echo '{nonce} W %s' >&2; exit 1; }}", "exit 1")
    words, begun = _shell_code(program, program.env, manner), f"echo '{nonce} B' >&2"
    if program.script is None and not program.secrets and len(words) <= SHORT_BYTES:
        return Package(f"{begun}\n{words}", program.stdin or b"")
    roots = ["$HOME/.opsjobs/runs", "/var/tmp"]  # noqa: S108  as above
    if program.secrets:
        roots.insert(0, _MEMORY)
    placed = _Placed(program, words, manner)
    lines = [
        "exec 6<&0 </dev/null",
        *placed.make_place([f'"{root}/opsjobs-{token}.s"' for root in roots]),
        manner.section("guard"),
    ]
    lines += [
        *placed.unpack(),
        begun,
        *placed.run(),
        manner.section("tidy"),
        manner.section("leave"),
    ]
    return placed.package(lines)


def exports(environment: Mapping[str, str]) -> str:
    """Return the export of variables, for a POSIX shell."""
    return "export " + " ".join(
        f"{name}={shlex.quote(value)}" for name, value in environment.items()
    )


def _shell_code(program: Program, environment: Mapping[str, str], manner: _Manner) -> str:
    """Return variables, folder, and the command or the interpreter with its arguments."""
    lines = []
    if environment:
        lines.append(exports(environment))
    if program.cwd is not None:
        folder = program.cwd if program.cwd.startswith("/") else f"./{program.cwd}"
        lines.append(
            f"cd -- {shlex.quote(folder)} >/dev/null 2>&1 || {manner.fill('@fail folder@')}; "
            "unset OLDPWD"
        )
    if program.command is None:
        return "\n".join([*lines, *_interpreted(program, manner)])
    # On one line: if the shell cannot parse it, nothing starts.
    return "; ".join([*lines, program.command])


def _interpreted(program: Program, manner: _Manner) -> Iterator[str]:
    name, missing = program.interpreter, manner.fill("@fail interpreter@")
    if "/" in name or "\\" in name:
        yield f"[ -f {shlex.quote(name)} ] && [ -x {shlex.quote(name)} ] || {missing}"
        yield f"set -- {shlex.quote(name)}"
    else:
        yield "set --"
        for known in map(shlex.quote, _NAMES.get(name, (name,))):
            yield f"[ $# = 0 ] && command -v {known} >/dev/null 2>&1 && set -- {known}"
        yield f"[ $# = 0 ] && {missing}"
    before = " ".join(_BEFORE.get(_kind(name), ()))
    file = f'"$OPSJOBS_PLACE/{_file(program)}"'
    yield f'set -- "$1" {before} {file} {shlex.join(program.args)}'
    yield manner.section("launch")


class _Placed:
    """A program with files: its shell unpacks them, waits for the program and cleans up."""

    def __init__(self, program: Program, words: str, manner: _Manner) -> None:
        self._program = program
        self._manner = manner
        self._parts = _parts(program)
        if len(words) > SHORT_BYTES:
            self._parts["words"] = words.encode() + b"\n"
            words = '. "$OPSJOBS_PLACE/words"'
        elif program.command is not None:
            # The rest of the built-in code must not be read as part of an unfinished command.
            words = f"eval {shlex.quote(words)}"
        self._words = words

    def make_place(self, places: list[str]) -> list[str]:
        """Return the code that creates the folder, in the first of these places that exists."""
        return [f"set -- {' '.join(places)}", self._manner.section("place")]

    def unpack(self) -> list[str]:
        """Return the code that unpacks the files."""
        sizes = " ".join(f"{name} {len(data)}" for name, data in self._parts.items())
        return [f"set -- {len(self._behind)} {sizes}", self._manner.section("unpack"), "set --"]

    def run(self) -> list[str]:
        """Return the code that runs the program."""
        lines = ['export OPSJOBS_SECRETS="$OPSJOBS_PLACE/secrets"'] if self._program.secrets else []
        lines.append(self._manner.section("open"))
        lines += ['exec <"$OPSJOBS_PLACE/stdin"'] if self._program.stdin else []
        return [*lines, self._words, self._manner.section("close")]

    def package(self, lines: list[str]) -> Package:
        """Return the whole package."""
        return Package("\n".join(lines), self._behind, place=True)

    @property
    def _behind(self) -> bytes:
        return b"".join(self._parts.values())


def _parts(program: Program) -> dict[str, bytes]:
    parts = {
        f"secrets/{name}": secret.reveal().encode() for name, secret in program.secrets.items()
    }
    if program.script is not None:
        parts[_file(program)] = program.script
    if program.stdin:
        parts["stdin"] = program.stdin
    return parts


def _file(program: Program) -> str:
    return "script" + _ENDINGS.get(_kind(program.interpreter), "")


def _kind(interpreter: str) -> str:
    """Return the kind of an interpreter by its name: /usr/bin/python3.12 is a python."""
    found = re.match(r"[a-z]+", re.split(r"[/\\]", interpreter.lower())[-1])
    return found[0] if found else ""


@cache
def _section(name: str) -> str:
    """Return one section of program.sh, without its comments."""
    text = files(__package__).joinpath("program.sh").read_text()
    body = text.partition(f"\n#: {name}\n")[2].partition("\n#: ")[0]
    return "\n".join(
        line for line in body.splitlines() if line.strip() and not line.lstrip().startswith("#")
    )
