"""Record a command, its name as the kernel finds it, and all it runs, layer by layer.

Command lines that list all processes, not a choice of them, are recognized: `kill $(ps …)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from opsjobs.safety.budget import replaced
from opsjobs.safety.constant_folding import compute_output
from opsjobs.safety.interpreters import Argv, File, Inner, InnerText, Standard
from opsjobs.safety.paths import compile_glob, is_unknown, normal
from opsjobs.safety.question import ProgramInputs
from opsjobs.safety.symbolic_words import (
    ANY,
    SOMETHING,
    STAR,
    as_source,
    has_glob,
    is_known,
    render_word,
)
from opsjobs.safety.system_files import language_at
from opsjobs.safety.trace import NOTHING, Call, Io, SourcePosition, Trace, excerpt_of
from opsjobs.safety.wrappers import NAMES, inner

DOWNLOADERS = frozenset(
    {
        "curl",
        "wget",
        "fetch",
        "aria2c",
        "http",
        "https",
        "lynx",
        "links",
        "w3m",
        "ftp",
        "tftp",
        "nc",
        "ncat",
        "socat",
    }
)
UNNAMED = "?"
"""The name of a call whose name is unknown, for rules about its arguments."""
_DECODERS = frozenset(
    {
        *(
            "base64",
            "base32",
            "basenc",
            "uudecode",
            "openssl",
            "gpg",
            "gpg2",
            "age",
            "xxd",
            "gunzip",
            "zcat",
            "gzip",
            "bunzip2",
        ),
        *("bzcat", "xzcat", "unxz", "zstdcat", "unzstd", "uncompress", "ccrypt", "shc", "rev"),
    }
)
"""Their output cannot be read from the text that runs it."""
_PRINTERS = frozenset({"cat", "echo", "printf", "tee"})
_CALL_STEPS = 8
"""The cost of matching a call against the rules, in addition to reading it."""
_GLOB_STEPS = 40
"""The cost of matching a glob against all names of commands."""
_LAYERS_MAX = 24
_MATCHES_MAX = 64
# Their output is intended to be evaluated, and trusted like the programs themselves.
_TRUSTED = re.compile(
    r"(ssh-agent|dircolors|brew|pyenv|rbenv|nodenv|direnv|starship"
    r"|resize|lesspipe|keychain|conda)\Z"
)


def run(
    trace: Trace, words: Sequence[str], place: SourcePosition, io: Io = NOTHING, *, layer: int = 0
) -> None:
    """Record this call and everything that it runs.

    `words`: as the shell passes them, name first.
    """
    if layer > _LAYERS_MAX:
        trace.event("too_deep", place)
        return
    for name in _names(trace, words[0] if words else ""):
        called = (name, *words[1:])
        trace.call(called, place, io=io)
        trace.budget.spend(_CALL_STEPS)
        if name == UNNAMED:
            trace.event(
                "dynamic_command" if DOWNLOADERS.isdisjoint(io.sources) else "download_to_shell",
                place,
            )
            continue
        if "/" in words[0]:
            trace.ran.append(
                (
                    "bash",
                    normal(words[0], place.cwd),
                    place.with_given(place.given.with_arguments(words[1:])),
                )
            )
        _keep(trace, called, place, io)
        if name in _PRINTERS:
            _write(trace, called, place, io)
        if name == "kill" and lists_all_processes(io.feeders):
            trace.call(KILL_ALL, place)
        if name == "trap" and trace.is_beginning:
            continue
        for one in inner(called):
            _within(trace, one, place, io, layer)


def _names(trace: Trace, word: str) -> list[str]:
    """Return the possible names without their folder; UNNAMED if the name is unknown."""
    name = normal(word).rpartition("/")[2] if "/" in word else word
    if not name.strip(STAR + ANY) or not is_known(name):
        return [UNNAMED]  # a glob of marks only may match every command
    if not has_glob(name):
        return [name]
    trace.budget.spend(_GLOB_STEPS)
    pattern = compile_glob(name)
    found = (
        sorted(n for n in NAMES | trace.names if pattern.fullmatch(n))
        if pattern is not None
        else []
    )
    return found[:_MATCHES_MAX] or [UNNAMED]


def _within(trace: Trace, one: Inner, place: SourcePosition, io: Io, layer: int) -> None:
    match one:
        case Argv(words, fed, whole, change):
            there = place.with_given(place.given.with_changes(change))
            for argv in [words] if fed else _fed_words(words, io, whole=whole):
                run(trace, argv, there, io if fed else Io(feeders=io.feeders), layer=layer + 1)
        case InnerText(language, text):
            _text(trace, language, text, place.with_given(_inputs_of(one, place.given)), io)
        case File(language, path) if is_unknown(path) and not io.sources:
            trace.event("dynamic_program", place)
        case File(language, path, arguments) if not is_unknown(path):
            trace.ran.append(
                (
                    language,
                    normal(path, place.cwd),
                    place.with_given(place.given.with_arguments(arguments)),
                )
            )
        case File(language, _, arguments) | Standard(language, arguments):
            _standard(trace, language, place.with_given(place.given.with_arguments(arguments)), io)


def _inputs_of(one: InnerText, around: ProgramInputs) -> ProgramInputs:
    return (
        around.for_eval()
        if one.evaluated
        else around.with_changes(one.change).with_arguments(one.arguments, one.zero)
    )


def _fed_words(words: tuple[str, ...], io: Io, *, whole: bool) -> Iterator[tuple[str, ...]]:
    """Return the commands of `xargs`: its input becomes words of the command."""
    text = io.fed()
    if text is None or not is_known(text):
        yield words
    else:
        given = (
            [piece for piece in text.split("\0") if piece]
            if whole
            else text.replace("\0", " ").split()
        )
        all_ = " ".join(given)
        yield tuple(
            w
            for word in words
            for w in (given if word == SOMETHING else [replaced(word, SOMETHING, all_)])
        )


def _text(trace: Trace, language: str, text: str, place: SourcePosition, io: Io) -> None:
    if is_unknown(text.strip()):
        if not any(_TRUSTED.match(source) for source in io.sources):
            trace.event(_unread(io), place)
    else:
        trace.read(language, as_source(text, language), place)


def _unread(io: Io) -> str:
    """Return the event for an unknown program, by its source."""
    if not DOWNLOADERS.isdisjoint(io.sources):
        return "download_to_shell"
    return "decoded_program" if not _DECODERS.isdisjoint(io.sources) else "dynamic_program"


def _standard(trace: Trace, language: str, place: SourcePosition, io: Io) -> None:
    text = io.fed()
    if text is not None:
        _text(trace, language, text, place, io)
    elif io.sources:
        trace.event(_unread(io), place)
    for path in io.reads:
        trace.ran.append((language, normal(path, place.cwd), place))


def _keep(trace: Trace, words: Sequence[str], place: SourcePosition, io: Io) -> None:
    """Record which files hold data that was received over the network."""
    name = words[0]
    if name in DOWNLOADERS:
        trace.downloaded.update(normal(path, place.cwd) for path in _saved(words))
    if name in DOWNLOADERS or not DOWNLOADERS.isdisjoint(io.sources):
        paths = [path for _, path in io.writes] + (
            [w for w in words[1:] if not w.startswith("-")] if name == "tee" else []
        )
        trace.downloaded.update(normal(path, place.cwd) for path in paths)


def _write(trace: Trace, words: Sequence[str], place: SourcePosition, io: Io) -> None:
    """Record the contents of the files that the text itself writes."""
    paths = [path for _, path in io.writes] + (
        [w for w in words[1:] if not w.startswith("-")] if words[0] == "tee" else []
    )
    text = compute_output(words, io.fed()) if paths else None
    for path in paths if text is not None else ():
        key = normal(path, place.cwd)
        trace.written[key] = trace.written.get(key, "") + (text or "")


def _saved(words: Sequence[str]) -> Iterator[str]:
    """Return the paths that a download is saved to.

    They come from `-o X` and `-OX`; by default it is the last segment of the URL.
    """
    for n, word in enumerate(words[1:], start=1):
        if word.startswith("--output"):
            yield word.partition("=")[2] or (words[n + 1] if n + 1 < len(words) else "")
        elif re.match(r"-[a-zA-Z]*[oO]\Z", word) and n + 1 < len(words):
            yield words[n + 1]
        elif re.match(r"-[oO].", word):
            yield word[2:]
        elif "://" in word:
            yield word.partition("?")[0].rstrip("/").rpartition("/")[2]


def settle(trace: Trace) -> None:
    """Read the files that the text wrote, and report the downloads that it ran.

    Called at the end, when all written, downloaded and run files are known.
    """
    done: set[tuple[str, str, tuple[str, ...] | None]] = set()
    for language, path, place in trace.ran:
        if path in trace.downloaded:
            trace.event("download_to_shell", place)
        elif path in trace.written and (key := (language, path, place.given.arguments)) not in done:
            done.add(key)
            trace.read(language, as_source(trace.written[path], language), place)
    for path, text in list(trace.written.items()):
        if (reader := language_at(path)) is not None:
            trace.read(reader, as_source(text), SourcePosition(excerpt_of(text)))
    for path in trace.downloaded:
        if language_at(path) is not None:
            trace.event("download_to_shell", SourcePosition(path))


KILL_ALL = ("kill", "-9", "-1")
"""The call that is equivalent to ending every listed process."""
_ALL_OF_PS = re.compile(r"-?(?=\w*[eA]|\w*a\w*x|\w*x\w*a)[aAdefhHjloOuvwxX]+\Z")
_COLUMNS = re.compile(r"[\w,=%]+\Z")
_EVERY_NAME = re.compile(r"\^?\.?[*+]?\$?\Z")
# Programs that only cut columns or lines out of a list, regardless of its items.
_CUTS = frozenset({"cat", "cut", "sort", "tac", "tail", "tr", "uniq", "xargs"})
_PRINTS = re.compile(r"\s*(?:NR\s*(?:>=?|!=)\s*\d+\s*)?\{\s*print\s*\$\d+;?\s*\}\s*\Z")
_DIGITS = re.compile(r"\^?(?:\[0-9\]|\\d|\[\[:digit:\]\])[*+]?\$?\Z")
_NO_HEADING = re.compile(r"1d\Z")


def lists_all_processes(calls: Sequence[Call]) -> bool:
    """Return True if the first call lists all processes, and no later one chooses among them."""
    return bool(calls) and _lists_all(calls[0]) and all(_keeps_all(call) for call in calls[1:])


def _lists_all(call: Call) -> bool:
    words = [render_word(word) for word in call.words[1:]]
    match call.name:
        case "ps":
            return any(_ALL_OF_PS.match(word) for word in words) and all(
                _ALL_OF_PS.match(word) or _COLUMNS.match(word) or word in ("-o", "--no-headers")
                for word in words
            )
        case "pgrep":
            names = [word for word in words if not word.startswith("-")]
            return all(_EVERY_NAME.match(name) for name in names) and set(words) <= {*names, "-f"}
        case "ls":
            return "/proc" in (word.rstrip("/") for word in words)
    return False


def _keeps_all(call: Call) -> bool:
    words = [render_word(word) for word in call.words[1:]]
    match call.name:
        case "awk" | "gawk" | "mawk":
            return len(words) == 1 and _PRINTS.match(words[0]) is not None
        case "sed":
            return len(words) == 1 and _NO_HEADING.match(words[0]) is not None
        case "grep" | "egrep":
            named = [word for word in words if not word.startswith("-")]
            return "-v" in words or (len(named) == 1 and _DIGITS.match(named[0]) is not None)
    return call.name in _CUTS
