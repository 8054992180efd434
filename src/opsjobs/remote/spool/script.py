"""Build requests from spool.sh: one command line for any login shell, and its input."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from opsjobs.model.program import Become, Program, RunKey, SpoolIdentity, StartOrder, check_variable
from opsjobs.remote.session import check_command
from opsjobs.remote.spool.become import BecomeRequest, quote
from opsjobs.remote.spool.program import SHORT_BYTES, Package, direct, durable, exports

_KEY = re.compile(r"[0-9a-f-]{36}\.[a-z0-9][a-z0-9_-]{0,63}\.[0-9]{1,9}")
_STORE = re.compile(r"([0-9a-f]{8,64})(?:@([0-9]{1,10}))?(?:~(.+))?")
_LINUX_BOOT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BOOT = re.compile(r"[0-9A-Za-z-]{1,128}")
# A line that ends like this continues in the next one; after any other end a line break becomes a
# semicolon.
_OPEN = (" {", " in", " do", " then", "else", ";;", "&", "|", "(")
_NOBODY = "-"
_PLAIN = (
    "watch",
    "watch_loop",
    "watch_leave",
    "watch_on",
    "watch_end",
    "begin",
    "say",
    "run",
    "ended",
    "refuse",
)
# The files of a program are removed before its end is recorded, whichever process records it.
_TIDY = (
    *(
        "tidy",
        "watch",
        "watch_loop",
        "watch_leave_tidy",
        "watch_on",
        "tidied",
        "watch_end",
        "begin",
        "say",
        "run",
        "tidied",
    ),
    *("ended", "refuse"),
)
_AWAITED = (
    *(
        "watch",
        "watch_awaited",
        "watch_loop",
        "watch_leave",
        "watch_on",
        "watch_end",
        "begin",
        "say_awaited",
        "run_awaited",
    ),
    *("ended", "refuse"),
)
AWAITED_BYTES = 1024
"""A longer command is not read twice: shells read byte by byte."""


@dataclass(frozen=True, slots=True)
class SpoolRequest:
    """The script and its arguments, the whole standard input, and the nonce of the responses.

    `become_request`: how it runs as another user. `hold`: its standard input stays open until its
    channel is closed or, if `awaited`, until its response is no longer awaited. `name`: the `$0` of
    its shell.
    """

    script: str
    arguments: tuple[str, ...]
    stdin: bytes
    nonce: str
    become_request: BecomeRequest | None = None
    hold: bool = False
    awaited: bool = False
    name: str = "opsjobs"

    def line(self, *, plain: bool = False) -> str:
        """Return the command line; no other function builds one.

        It is for any login shell; a `plain` one, which is a small POSIX shell itself, needs no
        second shell.
        """
        assert plain or not self.awaited, "what is awaited is for a plain login shell alone"
        words = " ".join(self.arguments)
        return (
            f"set -- {words}; {self.script}"
            if plain
            else self.alone(f"sh -c '{self.script}' {self.name} {words}")
        )

    def alone(self, line: str) -> str:
        """Replace the login shell if standard input is held, as the line outputs on both streams.

        A login shell that stays would report there that a process was killed. A restricted shell
        refuses the `exec`; then there is no follower, and the machine is polled instead.
        """
        return f"exec {line}" if self.hold else line


def hello(become: Become | None = None) -> SpoolRequest:
    """Request the identity of the spool; create it if there is none."""
    return _request(["names", "boot", "machine", "hello"], [secrets.token_hex(16)], become)


def start(order: StartOrder, expected: SpoolIdentity, *, awaited: bool = False) -> SpoolRequest:
    """Start the run under this identity, and follow it while it is short.

    `awaited`: use the cheapest way as long as a reader waits for it, if the order is a short
    command; only for a plain login shell that keeps here-documents in memory. Raises ValueError for
    a command or an environment that cannot be passed to a shell.
    """
    linux = _LINUX_BOOT.fullmatch(expected.boot) is not None
    ways = (
        ["boot_linux", "match", "born_linux"]
        if linux
        else ["boot", "match", "born", "born_elsewhere"]
    )
    store, folder = _place(expected)
    package = _package(order)
    long = not package.place and len(package.words) > SHORT_BYTES
    awaited = (
        awaited
        and not (package.place or order.become)
        and len(package.words.encode()) <= AWAITED_BYTES
    )
    reading = "command_long" if long else "command"
    arguments = [
        quote(_section((reading, "become", "hearing" if package.place else "deaf", "turn"))),
        _name(order.key),
        store,
        _boot(expected),
        order.digest,
        str(max(round(order.timeout_seconds * 100), 1)),
        str(_hundredths(order.grace_seconds)),
        str(order.limit_bytes),
        *folder,
    ]
    ahead = ["names", "payload"] if awaited else ["names"]
    end: tuple[str, ...] = _AWAITED if awaited else _PLAIN
    if package.place:
        end = _TIDY
    sections = [*ahead, "clock", "start", *ways, "judge", *end]
    request = _request(
        sections, arguments, order.become, _stdin(package.words, long=long) + package.behind
    )
    return replace(request, awaited=awaited)


def start_program(program: Program) -> SpoolRequest:
    """Start a program that ends with the channel. Raises ValueError as `start`."""
    request = _request(["names", "command", "direct"], [], None)
    package = direct(program, secrets.token_hex(16), request.nonce)
    # The request's shell becomes the program's own, whose error output is the program's.
    return replace(
        request, stdin=request.stdin + _stdin(package.words, long=False) + package.behind, name="sh"
    )


def attach(order: StartOrder, expected: SpoolIdentity, offsets: tuple[int, int]) -> SpoolRequest:
    """Follow the run from these offsets on."""
    store, folder = _place(expected)
    arguments = [
        _name(order.key),
        order.digest,
        store,
        _boot(expected),
        *map(str, offsets),
        *folder,
    ]
    return _request(
        ["names", "boot", "machine", "clock", "born", "look", "ground", "attach"],
        arguments,
        order.become,
    )


def follow(order: StartOrder, expected: SpoolIdentity, offsets: tuple[int, int]) -> SpoolRequest:
    """Send both output streams as they grow, until standard input ends."""
    _, folder = _place(expected)
    return _request(
        ["names", "follow"],
        [_name(order.key), *map(str, offsets), *folder],
        order.become,
        hold=True,
    )


def look(key: RunKey, become: Become | None = None) -> SpoolRequest:
    """Request the state of a run."""
    return _request(
        ["names", "boot", "born", "look", "hunt", "grounds", "tell"], [_name(key)], become
    )


def cancel(key: RunKey, grace_seconds: float, become: Become | None) -> SpoolRequest:
    """Void the run, or end it."""
    sections = ["names", "boot", "clock", "born", "look", "hunt", "tidy", "grounds", "cancel"]
    return _request(sections, [_name(key), str(_hundredths(grace_seconds))], become)


def clean(
    keys: Sequence[RunKey], become: Become | None = None, *, output_only: bool = False
) -> SpoolRequest:
    """Remove the files of these runs, or truncate their output."""
    what = "output" if output_only else "all"
    return _request(
        ["names", "boot", "born", "look", "hunt", "tidy", "clean"],
        [what, *map(_name, keys)],
        become,
    )


def identity(store: str, boot: str, become: Become | None) -> SpoolIdentity:
    """Return the identity of a spool; that of another user contains the user's name."""
    return SpoolIdentity(store if become is None else f"{store}~{become.user}", boot)


def matches_user(expected: SpoolIdentity, become: Become | None) -> bool:
    """Return True if this identity is of a spool of the request's user.

    If not, nothing was ever started there under it.
    """
    found = _STORE.fullmatch(expected.store)
    return found is None or found[3] == (None if become is None else become.user)


def _request(
    sections: Sequence[str],
    arguments: Sequence[str],
    become: Become | None,
    more: bytes = b"",
    *,
    hold: bool = False,
) -> SpoolRequest:
    # The first byte is rare in output: a reader of the response searches for it.
    nonce = "\x1e" + secrets.token_hex(8)
    become_request = BecomeRequest(become) if become is not None else None
    return SpoolRequest(
        _section(tuple(sections)),
        tuple(arguments),
        nonce.encode() + b"\n" + more,
        nonce,
        become_request,
        hold,
    )


def _package(order: StartOrder) -> Package:
    """Return the command as its shell reads it, or the program. Raises ValueError."""
    for name, value in order.environment.items():
        check_variable(name)
        if "\0" in value:
            raise ValueError(f"no environment can hold {name}: its value has a NUL")
    if order.program is not None:
        return durable(order, order.program)
    check_command(order.command)
    return Package(
        f"{exports(order.environment)}; {order.command}" if order.environment else order.command
    )


def _stdin(payload: str, *, long: bool) -> bytes:
    """Return input that is complete only with its last line, which repeats the first one.

    A long one has its size at the front instead.
    """
    end = secrets.token_hex(8)
    if not long:
        return f"{end}\n{payload}\n{end}\n".encode()
    text = f'rm -f "$OPSJOBS_SPOOL.p"; unset OLDPWD; {payload}\n'.encode()
    return f"{end}\n{len(text)}\n".encode() + text


def _place(identity: SpoolIdentity) -> tuple[str, list[str]]:
    """Return the token of the spool, and its folder if that is not in the home.

    Such a spool is named `<token>@<user id>`.
    """
    found = _STORE.fullmatch(identity.store)
    if found is None:
        return _NOBODY, []
    if not found[2]:
        return found[1], []
    return found[1], [f"/var/tmp/opsjobs-{found[2]}/runs"]  # noqa: S108  owner and mode are checked


def _boot(identity: SpoolIdentity) -> str:
    return identity.boot if _BOOT.fullmatch(identity.boot) else _NOBODY


def _name(key: RunKey) -> str:
    """Return the name of the files of a run.

    Raises ValueError for an invalid key, which would name other files.
    """
    name = str(key)
    if not _KEY.fullmatch(name):
        raise ValueError(f"{name!r} is not the key of a run")
    return name


def _hundredths(seconds: float) -> int:
    return max(round(seconds * 100), 0)


@cache
def _section(names: tuple[str, ...]) -> str:
    """Return sections of spool.sh, in one line."""
    sections = _sections()
    line = ""
    for text in (text for name in names for text in sections[name]):
        line += (" " if line.endswith(_OPEN) or not line else "; ") + text
    return line.strip()


@cache
def _sections() -> dict[str, list[str]]:
    return dict(_parsed(files(__package__).joinpath("spool.sh").read_text()))


def _parsed(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections by name: their lines, without comments and indentation."""
    for part in text.split("\n#: ")[1:]:
        name, _, body = part.partition("\n")
        lines = [line.strip() for line in body.splitlines()]
        yield name, [line for line in lines if line and not line.startswith("#")]
