"""Read Python programs: record their effects as shell commands, and the programs they run."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice, product

from opsjobs.safety.command_dispatch import KILL_ALL, run
from opsjobs.safety.paths import is_unknown
from opsjobs.safety.python_names import PythonNames
from opsjobs.safety.python_values import PythonValues
from opsjobs.safety.question import EnvironmentChange, ProgramInputs
from opsjobs.safety.symbolic_words import MAYBE_EMPTY, MEANINGS_MAX, as_source, is_known
from opsjobs.safety.trace import Io, SourcePosition, Trace

_SHELL = frozenset(
    {
        *(
            "os.system",
            "os.popen",
            "subprocess.getoutput",
            "subprocess.getstatusoutput",
            "commands.getoutput",
            "pty.spawn",
            "pexpect.run",
        ),
        *(
            "asyncio.create_subprocess_shell",
            "platform.popen",
            "os.popen2",
            "os.popen3",
            "posix.system",
            "nt.system",
            "pexpect.spawn",
        ),
    }
)
_SPAWN = frozenset(
    f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output", "Popen")
)
_EXEC = frozenset(
    {
        *(
            "os.execl",
            "os.execlp",
            "os.execle",
            "os.execv",
            "os.execve",
            "os.execvp",
            "os.execvpe",
            "os.posix_spawn",
            "os.posix_spawnp",
        ),
        *("asyncio.create_subprocess_exec",),
    }
)
_SPAWNED = frozenset(f"os.spawn{end}" for end in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe"))
_CODE = frozenset(
    {
        "exec",
        "eval",
        "compile",
        "builtins.exec",
        "builtins.eval",
        "builtins.compile",
        "execfile",
        "__builtins__.exec",
        "__builtins__.eval",
    }
)
_OPAQUE = frozenset(
    {
        "pickle.loads",
        "pickle.load",
        "marshal.loads",
        "marshal.load",
        "ctypes.CDLL",
        "ctypes.cdll.LoadLibrary",
        "runpy.run_path",
        "types.FunctionType",
    }
)
_FETCHES = ("urlopen", "requests", "httpx", "urllib", "urlretrieve", "socket")
_DECODES = frozenset(
    {
        *(
            "b64decode",
            "standard_b64decode",
            "urlsafe_b64decode",
            "b32decode",
            "b85decode",
            "a85decode",
            "decodebytes",
            "fromhex",
        ),
        *(
            "unhexlify",
            "decompress",
            "decrypt",
            "loads",
            "codecs",
            "zlib",
            "lzma",
            "bz2",
            "marshal",
            "Fernet",
        ),
    }
)
# The shell command equivalent to a function; its arguments follow.
_AS_SHELL: dict[str, tuple[str, ...]] = {
    "shutil.rmtree": ("rm", "-rf"),
    "os.remove": ("rm",),
    "os.unlink": ("rm",),
    "os.removedirs": ("rm", "-r"),
    "os.rmdir": ("rmdir",),
    "shutil.move": ("mv",),
    "os.rename": ("mv",),
    "os.replace": ("mv",),
    "shutil.copy": ("cp",),
    "shutil.copyfile": ("cp",),
    "shutil.copytree": ("cp", "-r"),
    "os.truncate": ("truncate",),
    "os.symlink": ("ln", "-s"),
    "os.chown": ("chown",),
    "shutil.chown": ("chown",),
    "os.reboot": ("reboot",),
    "crypt.crypt": ("true",),
}
_METHODS: dict[str, tuple[str, ...]] = {
    "unlink": ("rm",),
    "rmdir": ("rmdir",),
    "rename": ("mv",),
    "replace": ("mv",),
    "chmod": ("chmod",),
}
_WRITING = frozenset({"write_text", "write_bytes", "touch"})
_READING = frozenset({"read_text", "read_bytes"})
_OF_PATHS_ALONE = frozenset({"unlink", "rmdir", "chmod", "write_text", "write_bytes"})
_OPENS_TO_WRITE = frozenset({"O_WRONLY", "O_RDWR", "O_TRUNC", "O_CREAT", "O_APPEND"})
_CONTAINERS = frozenset({"globals()", "locals()", "vars()", "__builtins__", "sys.modules"})
_LINES_MAX = 20
"""Lines of an excerpt."""
_PROCESSES = frozenset({"range", "psutil.pids", "psutil.process_iter"})
_LISTINGS = frozenset({"os.listdir", "os.scandir", "glob.glob", "glob.iglob"})
_quiet = threading.Lock()


def read(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of this program in the trace."""
    try:
        with _quiet, warnings.catch_warnings():
            # Warnings of the parser about a text do not belong in the log.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        trace.event("unreadable", place.within(text))
        return
    _PythonReading(trace, tree, text, place).whole()


class _PythonReading:
    def __init__(self, trace: Trace, tree: ast.Module, text: str, place: SourcePosition) -> None:
        self._trace = trace
        self._tree = tree
        self._lines = text.splitlines()
        self._outer = place
        self._names = PythonNames(tree, trace.budget)
        self._values = PythonValues(self._names, trace.budget, place.given)
        self._used: set[str] = set()

    def whole(self) -> None:
        for node in self._names.nodes:
            if isinstance(node, ast.Call):
                self._call(node)
            elif isinstance(node, ast.For | ast.AsyncFor) and self._kills_all(node):
                self._trace.call(KILL_ALL, self._place(node))
            elif isinstance(node, ast.While) and any(self._is_fork(n) for n in self._below(node)):
                self._trace.event("fork_bomb", self._place(node))
        if "socket.socket" in self._used and self._used & {"os.dup2", "pty.spawn"}:
            self._trace.event("reverse_shell", self._place(self._tree.body[0]))

    def _below(self, node: ast.AST) -> Iterator[ast.AST]:
        for one in ast.walk(node):
            self._trace.budget.spend()
            yield one

    def _kills_all(self, loop: ast.For | ast.AsyncFor) -> bool:
        """Return True for a loop over all processes that ends each without choosing.

        An `if` may only test whether a name in /proc is a number.
        """
        sources = [
            self._values.dotted(node.func)
            for node in self._below(loop.iter)
            if isinstance(node, ast.Call) and self._lists_processes(node)
        ]
        source = sources[0] if sources else None
        return source is not None and any(
            isinstance(node, ast.Call) and self._ends(node, source)
            for statement in _unconditional(loop.body)
            for node in self._below(statement)
        )

    def _lists_processes(self, node: ast.Call) -> bool:
        name = self._values.dotted(node.func)
        return name in _PROCESSES or (name in _LISTINGS and _is_proc(node))

    def _ends(self, node: ast.Call, source: str) -> bool:
        name = self._values.dotted(node.func) or ""
        if name in ("os.kill", "os.killpg"):
            signal = self._values.text(node.args[1]) if len(node.args) > 1 else ""
            return signal != "0" and not isinstance(node.args[0], ast.Constant)
        return (
            source == "psutil.process_iter"
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("kill", "terminate")
        )

    def _is_fork(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and self._values.dotted(node.func) == "os.fork"

    def _place(self, node: ast.stmt | ast.expr) -> SourcePosition:
        lines = self._lines[
            node.lineno - 1 : min(node.end_lineno or node.lineno, node.lineno + _LINES_MAX)
        ]
        return self._outer.within(" ".join(lines))

    def _call(self, node: ast.Call) -> None:
        name = self._values.dotted(node.func)
        place = self._place(node)
        if name is None:
            self._nameless(node.func, place)
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.BinOp):
                self._of_path(node.func, node, place)
            return
        self._used.add(name)
        arguments = node.args
        place = place.with_given(self._environment(node, place.given))
        shell = next(
            (
                self._values.text(k.value)
                for k in node.keywords
                if k.arg == "shell" and not _is_false(k.value)
            ),
            None,
        )
        if name == "pty.spawn" and arguments and self._values.argvs(arguments[0]) is not None:
            self._spawn(arguments[:1], place)
        elif name in _SHELL:
            self._shell(arguments[:1], place)
        elif name in _SPAWN:
            first = arguments[:1] or [k.value for k in node.keywords if k.arg == "args"]
            (self._shell if shell is not None else self._spawn)(first, place)
        elif name in _EXEC or name in _SPAWNED:
            self._argv(arguments[1:] if name in _SPAWNED else arguments, place)
        elif name in _CODE:
            self._code(arguments[:1], place)
        elif name in _OPAQUE:
            self._trace.event("decoded_program", place)
        elif name == "open" and arguments:
            self._opened(node, place)
        else:
            self._as_shell(name, node, place)

    def _environment(self, node: ast.Call, given: ProgramInputs) -> ProgramInputs:
        """Return the inputs of a program started with `env={…}`, `env=dict(os.environ, …)`."""
        env = next((k.value for k in node.keywords if k.arg == "env"), None)
        match env:
            case ast.Dict(keys, values):
                pairs = [
                    (self._values.text(key), value)
                    for key, value in zip(keys, values, strict=True)
                    if key is not None
                ]
                cleared = None not in keys  # `**os.environ` has none
            case ast.Call(ast.Name("dict")):
                pairs, cleared = [(k.arg, k.value) for k in env.keywords if k.arg], not env.args
            case _:
                return given
        return given.with_changes(
            EnvironmentChange(
                tuple((name, text) for name, value in pairs for text in self._values.texts(value)),
                cleared,
            )
        )

    def _nameless(self, function: ast.expr, place: SourcePosition) -> None:
        match function:
            case (
                ast.Call(ast.Name("getattr"), _)
                | ast.Call(ast.Attribute(_, "import_module"), _)
                | ast.Call(ast.Name("__import__"), _)
            ):
                self._trace.event("dynamic_command", place)
            case ast.Attribute(value, _):
                self._nameless(value, place)
            case ast.Subscript(value, _) if self._values.dotted(
                value
            ) in _CONTAINERS or _is_namespace(value):
                self._trace.event("dynamic_command", place)

    def _shell(self, arguments: Sequence[ast.expr], place: SourcePosition) -> None:
        for argument in arguments:
            argvs = self._values.argvs(argument)
            for text in (
                [" ".join(argv) for argv in argvs]
                if argvs is not None
                else self._values.texts(argument)
            ):
                if is_unknown(text):
                    self._trace.event(self._unread(argument), place)
                else:
                    self._trace.read("bash", as_source(text), place)

    def _spawn(self, arguments: Sequence[ast.expr], place: SourcePosition) -> None:
        for argument in arguments:
            argvs = self._values.argvs(argument)
            for argv in (
                argvs if argvs is not None else [[text] for text in self._values.texts(argument)]
            ):
                run(self._trace, argv or [MAYBE_EMPTY], place)

    def _argv(self, arguments: Sequence[ast.expr], place: SourcePosition) -> None:
        if not arguments:
            return
        words = [
            w for a in arguments[1:] for w in (self._values.argvs(a) or [self._values.texts(a)])[0]
        ]
        run(self._trace, [self._values.text(arguments[0]), *words[1:]], place)

    def _code(self, arguments: Sequence[ast.expr], place: SourcePosition) -> None:
        for argument in arguments:
            if isinstance(argument, ast.Call) and self._values.dotted(argument.func) in _CODE:
                continue  # exec(compile(…)): checked where compile is called
            for text in self._values.texts(argument):
                if is_known(text):
                    self._trace.read("python", text, place)
                else:
                    self._trace.event(self._unread(argument), place)

    def _unread(self, node: ast.expr) -> str:
        """Return the event for an unknown program, by the names in its expression."""
        names = {
            n.id if isinstance(n, ast.Name) else n.attr
            for n in self._below(node)
            if isinstance(n, ast.Name | ast.Attribute)
        }
        if not names.isdisjoint(_FETCHES):
            return "download_to_shell"
        return "dynamic_program" if names.isdisjoint(_DECODES) else "decoded_program"

    def _opened(self, node: ast.Call, place: SourcePosition) -> None:
        modes = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
        if self._is_writing(modes):
            how = "append" if "a" in self._values.text(modes[0]) else "write"
            self._writes(self._values.texts(node.args[0]), how, place)
        else:
            self._reads(self._values.texts(node.args[0]), place)

    def _opened_low(self, node: ast.Call, place: SourcePosition) -> None:
        flags = {
            n.attr if isinstance(n, ast.Attribute) else n.id
            for n in self._below(node.args[1])
            if isinstance(n, ast.Attribute | ast.Name)
        }
        paths = self._values.texts(node.args[0])
        if flags.isdisjoint(_OPENS_TO_WRITE):
            self._reads(paths, place)
        else:
            self._writes(paths, "append" if "O_APPEND" in flags else "write", place)

    def _is_path(self, function: ast.Attribute) -> bool:
        """Return True if a method that only paths have is called on an absolute path.

        Such a path is also the name of a loop over one.
        """
        if function.attr not in _OF_PATHS_ALONE:
            return False
        return any(text.startswith(("/", "~")) for text in self._values.texts(function.value))

    def _reads(self, paths: Sequence[str], place: SourcePosition) -> None:
        self._trace.call((":",), place, io=Io(reads=tuple(paths)))

    def _writes(self, paths: Sequence[str], how: str, place: SourcePosition) -> None:
        self._trace.call((":",), place, io=Io(writes=tuple((how, path) for path in paths)))

    def _as_shell(self, name: str, node: ast.Call, place: SourcePosition) -> None:
        if name in _AS_SHELL:
            for argv in islice(product(*(self._values.texts(a) for a in node.args)), MEANINGS_MAX):
                run(self._trace, [*_AS_SHELL[name], *argv], place)
        elif name in ("os.kill", "os.killpg") and len(node.args) > 1:
            run(
                self._trace,
                [
                    "kill",
                    f"-{self._values.text(node.args[1])}",
                    "--",
                    self._values.text(node.args[0]),
                ],
                place,
            )
        elif name == "os.chmod" and len(node.args) > 1:
            run(
                self._trace,
                ["chmod", _mode(node.args[1]), *self._values.texts(node.args[0])],
                place,
            )
        elif name == "os.open" and len(node.args) > 1:
            self._opened_low(node, place)
        elif isinstance(node.func, ast.Attribute) and ("Path" in name or self._is_path(node.func)):
            self._of_path(node.func, node, place)

    def _of_path(self, function: ast.Attribute, node: ast.Call, place: SourcePosition) -> None:
        paths = self._values.texts(function.value)
        if function.attr in _METHODS:
            run(
                self._trace,
                [*_METHODS[function.attr], *paths, *(self._values.text(a) for a in node.args)],
                place,
            )
        elif function.attr in _WRITING or (
            function.attr == "open" and self._is_writing(node.args[:1])
        ):
            self._writes(paths, "write", place)
        elif function.attr in _READING or function.attr == "open":
            self._reads(paths, place)

    def _is_writing(self, modes: Sequence[ast.expr]) -> bool:
        return any(not set(self._values.text(mode)).isdisjoint("wax+") for mode in modes)


def _is_namespace(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "__dict__"


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not node.value


def _mode(node: ast.expr) -> str:
    return (
        f"{node.value:o}"
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
        else MAYBE_EMPTY
    )


def _is_proc(call: ast.Call) -> bool:
    """Return True if the call lists /proc."""
    first = call.args[0] if call.args else None
    return (
        isinstance(first, ast.Constant)
        and isinstance(first.value, str)
        and re.fullmatch(r"/proc/?(\[0-9\]\*|\*)?", first.value) is not None
    )


def _unconditional(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the simple statements that a loop runs for each item, including those in `try`."""
    for statement in body:
        match statement:
            case ast.Try(inner) | ast.With(_, inner):
                yield from _unconditional(inner)
            case ast.If(test, inner) if "isdigit" in ast.unparse(test):
                yield from _unconditional(inner)
            case ast.If() | ast.For() | ast.While() | ast.FunctionDef() | ast.ClassDef():
                continue
            case _:
                yield statement
