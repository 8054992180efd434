"""Unwrap commands that run other commands, layer by layer.

`sudo -u x env A=b nice sh -c '…'` is an example.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from opsjobs.safety.budget import Spent, replaced
from opsjobs.safety.interpreters import (
    LANGUAGES,
    Argv,
    File,
    Inner,
    InnerText,
    Standard,
    Words,
    interpreted,
    language_of,
)
from opsjobs.safety.prefixes import CLEARED, PREFIXES, Prefix, changed, long, variables
from opsjobs.safety.question import SAME, EnvironmentChange
from opsjobs.safety.symbolic_words import MAYBE_EMPTY, SOMETHING, is_known

_XARGS = Prefix(
    "adEILnPsl",
    long("arg-file", "delimiter", "max-args", "max-procs", "max-lines", "max-chars", "replace"),
)
_FLOCK = Prefix("wEn".replace("n", ""), long("timeout", "wait", "conflict-exit-code"), skip=1)
_WATCH = Prefix("n", long("interval"))
_SSH = Prefix("BbcDEeFIiJLlmOopQRSWw", skip=1)
_COMMANDS_MAX = 128
"""The most commands of one `find`."""
# Each string as a whole, so that each letter is read once.
_RUN_BY_AWK = re.compile(
    r'(?P<before>system\s*+\(\s*+|\|\s*+)?"(?P<text>(?:[^"\\]|\\.)*+)'
    r'(?:"|\Z)(?P<after>\s*+\|\s*+getline)?',
    re.DOTALL,
)
_CONTAINERS = {
    ("docker", "exec"): Prefix("euw", long("env", "user", "workdir", "env-file", "detach-keys")),
    ("docker", "run"): Prefix(
        "aceuvwhlpm",
        long(
            "name",
            "network",
            "volume",
            "env",
            "user",
            "workdir",
            "entrypoint",
            "mount",
            "publish",
            "hostname",
            "label",
            "memory",
        ),
    ),
    ("kubectl", "exec"): Prefix("cnf", long("container", "namespace", "context")),
}


def inner(words: Words) -> list[Inner]:
    """Return the programs that these words run; nothing if they are not a wrapper."""
    name = words[0]
    if (prefix := PREFIXES.get(name)) is not None:
        return _prefixed(name, prefix, words)
    if (special := _SPECIAL.get(name)) is not None:
        return special(words)
    language = language_of(name)
    return interpreted(language, words) if language is not None else []


def _argv(words: Words, change: EnvironmentChange = SAME) -> list[Inner]:
    return [Argv(tuple(words), change=change)] if words else []


def _prefixed(name: str, prefix: Prefix, words: Words) -> list[Inner]:
    if name == "env":
        split = _env_split(words)
        if split:
            return _prefixed(name, prefix, (name, *split))
    rest = prefix.rest(words)
    if name == "sudo" and not rest and any(w in ("-s", "-i", "--shell", "--login") for w in words):
        return [Standard("bash")]
    return _argv(rest, changed(name, words[: len(words) - len(rest)]))


def _env_split(words: Words) -> tuple[str, ...] | None:
    """Return the words of `env -S 'rm -rf' /`: the first text is split, the others stay."""
    for n, word in enumerate(words):
        attached = re.match(r"--split-string=(.*)|-[iv]*S(.+)", word, re.DOTALL)
        if attached is not None:
            return (*(attached[1] or attached[2]).split(), *words[n + 1 :])
        if re.fullmatch(r"-[iv]*S|--split-string", word):
            return (*(words[n + 1].split() if n + 1 < len(words) else ()), *words[n + 2 :])
    return None


def _xargs(words: Words) -> list[Inner]:
    rest = _XARGS.rest(words) or ("echo",)
    mark = _replaced(words)
    if mark:
        return [Argv(tuple(replaced(w, mark, SOMETHING) for w in rest), fed=False)]
    whole = any(
        re.match(r"-\w*[0d]|--null|--delimiter", word) for word in words[1:] if word.startswith("-")
    )
    return [Argv((*rest, SOMETHING), fed=False, whole=whole)]


def _replaced(words: Words) -> str | None:
    for n, word in enumerate(words):
        if word in ("-I", "--replace", "-i"):
            return words[n + 1] if word == "-I" and n + 1 < len(words) else "{}"
        if word.startswith("-I") and len(word) > 2:
            return word[2:]
    return None


def _parallel(words: Words) -> list[Inner]:
    rest = Prefix(
        "jSPNan",
        long("jobs", "sshlogin", "max-args", "arg-file", "colsep", "delay", "timeout", "joblog"),
    ).rest(words)
    own = (
        [w for w in rest if w not in (":::", "::::", ":::+")]
        if not rest or rest[0].startswith(":::")
        else None
    )
    if own is not None:
        return [InnerText("bash", word) for word in own] or [Standard("bash")]
    cut = next((n for n, w in enumerate(rest) if w.startswith(":::")), len(rest))
    given = [w for w in rest[cut:] if not w.startswith(":::")] or [SOMETHING]
    text = " ".join(rest[:cut])
    return [
        InnerText("bash", replaced(text, "{}", word) if "{}" in text else f"{text} {word}")
        for word in given[:16]
    ]


def _find(words: Words) -> list[Inner]:
    roots = []
    for word in words[1:]:
        if word.startswith("-") or word in ("(", "!"):
            break
        roots.append(word)
    found: list[Inner] = []
    for n, word in enumerate(words):
        if word in ("-exec", "-execdir", "-ok", "-okdir"):
            command: list[str] = []
            for one in words[n + 1 :]:
                if one == ";" or (one == "+" and command and command[-1] == "{}"):
                    break
                command.append(one)
            whole = not any(
                w
                in (
                    "-name",
                    "-iname",
                    "-path",
                    "-regex",
                    "-mtime",
                    "-mmin",
                    "-size",
                    "-type",
                    "-empty",
                )
                for w in words
            )
            where = (
                [*roots, SOMETHING]
                if whole
                else [f"{root}/{SOMETHING}" for root in roots] or [SOMETHING]
            )
            found += [
                Argv(tuple(replaced(w, "{}", place) for w in command)) for place in where[:16]
            ]
            if len(found) > _COMMANDS_MAX:
                raise Spent
    return [one for one in found if isinstance(one, Argv) and one.words]


def _ssh(words: Words) -> list[Inner]:
    rest = _SSH.rest(words)
    return (
        [InnerText("bash", " ".join(rest), (), change=CLEARED)] if rest else [Standard("bash", ())]
    )


def _su(words: Words) -> list[Inner]:
    change = CLEARED if not {"-", "-l", "--login", "-lc"}.isdisjoint(words) else SAME
    for n, word in enumerate(words):
        if word in ("-c", "--command", "--session-command", "-lc") and n + 1 < len(words):
            return [InnerText("bash", words[n + 1], change=change)]
        if word.startswith("--command="):
            return [InnerText("bash", word.partition("=")[2], change=change)]
    if words[0] == "runuser" and "-u" in words:
        return _argv(Prefix("ugGw", long("user", "group")).rest(words))
    return [Standard("bash")]


def _joined_source(prefix: Prefix) -> Callable[[Words], list[Inner]]:
    def source(words: Words) -> list[Inner]:
        rest = prefix.rest(words)
        return [InnerText("bash", " ".join(rest))] if rest else []

    return source


def _option_c(words: Words, prefix: Prefix) -> list[Inner]:
    for n, word in enumerate(words):
        if re.fullmatch(r"-[a-zA-Z]*c|--command", word) and n + 1 < len(words):
            return [InnerText("bash", words[n + 1])]
    return _argv(prefix.rest(words))


def _flock(words: Words) -> list[Inner]:
    found = _option_c(words, _FLOCK)
    rest = found[0].words if found and isinstance(found[0], Argv) else ()
    return [InnerText("bash", rest[1])] if len(rest) > 1 and rest[0] == "-c" else found


def _container(words: Words) -> list[Inner]:
    verb = next((n for n, w in enumerate(words) if w in ("exec", "run")), None)
    if verb is None:
        return []
    prefix = _CONTAINERS.get(
        (words[0].replace("podman", "docker").replace("nerdctl", "docker"), words[verb])
    )
    if words[0] == "kubectl" and "--" in words:
        return _argv(words[words.index("--") + 1 :], CLEARED)
    rest = prefix.rest(words[verb:]) if prefix is not None else ()
    change = EnvironmentChange(tuple(variables(words[verb : len(words) - len(rest)])), cleared=True)
    return _argv(rest[2:] if rest[1:2] == ("--",) else rest[1:], change)


def _trap(words: Words) -> list[Inner]:
    rest = [w for w in words[1:] if w != "--"]
    return (
        [InnerText("bash", rest[0], evaluated=True)]
        if len(rest) > 1 and rest[0] not in ("-", "-l", "-p", "")
        else []
    )


def _eval(words: Words) -> list[Inner]:
    rest = words[2:] if len(words) > 1 and words[1] == "--" else words[1:]
    return [InnerText("bash", " ".join(rest), evaluated=True)] if rest else []


def _source(words: Words) -> list[Inner]:
    rest = [w for w in words[1:] if w != "--"]
    if not rest:
        return []
    return (
        [Standard("bash")]
        if rest[0] in ("/dev/stdin", "-") or rest[0].startswith("/dev/fd/")
        else [File("bash", rest[0])]
    )


def _command(words: Words) -> list[Inner]:
    return [] if len(words) > 1 and words[1] in ("-v", "-V") else _argv(Prefix("").rest(words))


def _standard(_: Words) -> list[Inner]:
    return [Standard("bash")]


def _crontab(words: Words) -> list[Inner]:
    rest = Prefix("u").rest(words)
    if rest[:1] == ("-",) or (len(words) == 1 and not rest):
        return [Standard("crontab")]
    return [File("crontab", rest[0])] if rest and not {"-l", "-r", "-e"} & set(words) else []


def _make(words: Words) -> list[Inner]:
    # The grammar loses a `-` directly before a heredoc.
    named = [
        (*words, "-")[n + 1]
        for n, word in enumerate(words)
        if word in ("-f", "--file", "--makefile")
    ]
    folder = next(
        (f"{words[n + 1]}/" for n, word in enumerate(words[:-1]) if word in ("-C", "--directory")),
        "",
    )
    return [
        Standard("make") if file in ("-", "/dev/stdin") else File("make", folder + file)
        for file in named or ("GNUmakefile", "makefile", "Makefile")
    ]


def _awk(words: Words) -> list[Inner]:
    text = "\n".join(words[1:])
    found: list[Inner] = [
        InnerText("bash", match["text"])
        for match in _RUN_BY_AWK.finditer(text)
        if match["before"] is not None or match["after"] is not None
    ]
    if not found and re.search(r"system\s*\(", text):
        found.append(InnerText("bash", MAYBE_EMPTY))
    return found


def _shell_outs(pattern: str) -> Callable[[Words], list[Inner]]:
    def outs(words: Words) -> list[Inner]:
        return [
            InnerText("bash", found[1])
            for word in words[1:]
            for found in re.finditer(pattern, word)
        ]

    return outs


def _multiplexer(words: Words) -> list[Inner]:
    """Return the command of `tmux new-session -d TEXT`, `screen -dmS name COMMAND`."""
    if words[0] == "screen":
        return _argv(Prefix("SthTpcs").rest(words))
    rest = [w for w in words[1:] if not w.startswith("-")]
    return [InnerText("bash", word) for word in rest[1:] if " " in word or not is_known(word)]


def _after(option: str) -> Callable[[Words], list[Inner]]:
    """Return the word after an option, which is a line for a shell."""

    def after(words: Words) -> list[Inner]:
        return [
            InnerText("bash", words[n + 1]) for n, word in enumerate(words[:-1]) if word == option
        ]

    return after


def _many_hosts(words: Words) -> list[Inner]:
    """Return the line of `pssh -h hosts LINE`, `clush -a LINE`, `salt '*' cmd.run LINE`."""
    if "cmd.run" in words:
        return [InnerText("bash", " ".join(words[words.index("cmd.run") + 1 :]))]
    rest = Prefix("hHlpoetOwgfux", long("hosts", "host", "user", "timeout", "outdir")).rest(words)
    return [InnerText("bash", " ".join(rest), change=CLEARED)] if rest else []


_SPECIAL: dict[str, Callable[[Words], list[Inner]]] = {
    "xargs": _xargs,
    "parallel": _parallel,
    "find": _find,
    "fd": lambda words: _argv(
        words[
            next((n + 1 for n, w in enumerate(words) if w in ("-x", "-X", "--exec")), len(words)) :
        ]
    ),
    "ssh": _ssh,
    "sshpass": lambda words: _argv(Prefix("pfdP").rest(words)),
    "mosh": _ssh,
    "su": _su,
    "runuser": _su,
    "watch": _joined_source(_WATCH),
    "flock": _flock,
    "script": lambda words: _option_c(words, Prefix("cEIOoTB", skip=1)),
    "docker": _container,
    "podman": _container,
    "nerdctl": _container,
    "kubectl": _container,
    "trap": _trap,
    "eval": _eval,
    "source": _source,
    ".": _source,
    "command": _command,
    "at": _standard,
    "batch": _standard,
    "crontab": _crontab,
    **dict.fromkeys(("make", "gmake"), _make),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), _awk),
    **dict.fromkeys(("vim", "vi", "ex", "nvim", "ed"), _shell_outs(r":?!\s*(.+)")),
    "tar": _shell_outs(r"(?:checkpoint-action=exec=|to-command=|use-compress-program=)(.+)"),
    "rsync": _shell_outs(r"rsync-path=(.+)"),
    **dict.fromkeys(
        ("lxc", "incus", "lxc-attach", "machinectl"),
        lambda words: _argv(words[words.index("--") + 1 :] if "--" in words else ()),
    ),
    **dict.fromkeys(
        ("pssh", "parallel-ssh", "clush", "pdsh", "salt", "salt-ssh", "dsh"), _many_hosts
    ),
    **dict.fromkeys(("ansible",), _after("-a")),
    "vagrant": _after("-c"),
    "man": _after("-P"),
    "sed": _shell_outs(r"(?:^|[;}])\s*\d*e\s+(.+)"),
    **dict.fromkeys(("mysql", "mariadb"), _shell_outs(r"(?:\bsystem|\\!)\s+(.+)")),
    "psql": _shell_outs(r"\\!\s*(.+)"),
    "sqlite3": _shell_outs(r"\.(?:shell|system)\s+(.+)"),
    "git": _shell_outs(r"(?:core\.(?:pager|editor|sshCommand|fsmonitor)|alias\.\w+)=!?(.+)"),
    "zip": _after("-TT"),
    "gdb": _shell_outs(r"(?:shell|!)\s+(.+)"),
    "tmux": _multiplexer,
    "screen": _multiplexer,
}
NAMES = frozenset((*PREFIXES, *_SPECIAL, *LANGUAGES))
"""The names of all wrappers: a glob may match one."""
