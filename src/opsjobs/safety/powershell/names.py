"""Names of PowerShell: aliases, environment variables, and parameters in their scopes.

The scopes are those of functions and of the script itself; `$_` is the item of a pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tree_sitter import Node

from opsjobs.safety.symbolic_words import HOME, LATER, MAYBE_EMPTY, SOMETHING

ALIASES = {
    **dict.fromkeys(("rm", "ri", "del", "erase", "rd", "rmdir"), "remove-item"),
    "iex": "invoke-expression",
    **dict.fromkeys(("iwr", "curl", "wget"), "invoke-webrequest"),
    "irm": "invoke-restmethod",
    "icm": "invoke-command",
    **dict.fromkeys(("saps", "start"), "start-process"),
    **dict.fromkeys(("gps", "ps"), "get-process"),
    **dict.fromkeys(("spps", "kill"), "stop-process"),
    "gsv": "get-service",
    "spsv": "stop-service",
    **dict.fromkeys(("mv", "mi", "move"), "move-item"),
    **dict.fromkeys(("cp", "cpi", "copy"), "copy-item"),
    **dict.fromkeys(("ren", "rni"), "rename-item"),
    **dict.fromkeys(("ls", "dir", "gci"), "get-childitem"),
    **dict.fromkeys(("cat", "gc", "type"), "get-content"),
    **dict.fromkeys(("echo", "write"), "write-output"),
    **dict.fromkeys(("%", "foreach"), "foreach-object"),
    **dict.fromkeys(("?", "where"), "where-object"),
    "sc": "set-content",
    "ac": "add-content",
    "clc": "clear-content",
    "ni": "new-item",
    "rp": "remove-itemproperty",
    "sp": "set-itemproperty",
    **dict.fromkeys(("gwmi", "gcim"), "get-wmiobject"),
    "rwmi": "remove-wmiobject",
    "rcim": "remove-ciminstance",
    "iwmi": "invoke-wmimethod",
    "icim": "invoke-cimmethod",
    "nal": "new-alias",
    "sal": "set-alias",
    "ipmo": "import-module",
    "clhy": "clear-history",
    "cli": "clear-item",
    "cls": "clear-host",
}
PROGRAMS = frozenset({"sc.exe"})
"""Programs whose names are aliases of something else without their ending."""
FETCHES = (
    "invoke-webrequest",
    "invoke-restmethod",
    "downloadstring",
    "downloaddata",
    "downloadfile",
    "webclient",
    "iwr",
    "irm",
    "getstringasync",
    "start-bitstransfer",
)
ENVIRONMENT = {
    "systemroot": "C:\\Windows",
    "windir": "C:\\Windows",
    "systemdrive": "C:",
    "homedrive": "C:",
    "programfiles": "C:\\Program Files",
    "programfiles(x86)": "C:\\Program Files (x86)",
    "programdata": "C:\\ProgramData",
    "allusersprofile": "C:\\ProgramData",
    "public": "C:\\Users\\Public",
    "comspec": "C:\\Windows\\System32\\cmd.exe",
    "userprofile": HOME,
    "homepath": HOME,
    "home": HOME,
    "appdata": HOME + "\\AppData\\Roaming",
    "localappdata": HOME + "\\AppData\\Local",
    "temp": "C:\\Temp\\" + SOMETHING,
    "tmp": "C:\\Temp\\" + SOMETHING,
    "computername": SOMETHING,
    "opsjobs_unknown": LATER,
    "username": SOMETHING,
}
"""Variables of the environment that every Windows machine has, lower case."""
CONSTANTS = {
    "true": "True",
    "false": "False",
    "null": "",
    "home": HOME,
    "pshome": "C:\\Windows\\System32\\WindowsPowerShell\\v1.0",
    "pid": SOMETHING,
    "psscriptroot": SOMETHING,
    "_": SOMETHING,
    "pwd": SOMETHING,
}


SCRIPT = ""
"""The scope of the script itself; a function's is its name."""
_EACH = frozenset({"foreach-object", "%", "foreach", "where-object", "?", "where"})


@dataclass
class Scopes:
    """The parameters of each scope, and the scope of the current node."""

    parameters: dict[str, list[str]] = field(default_factory=dict)
    """The parameters of each scope in order, in lower case."""
    defaults: dict[tuple[str, str], Node] = field(default_factory=dict)
    scope: str = SCRIPT
    """The scope of the current node."""
    is_open: bool = False
    """True if the script's arguments are unknown."""
    items: Sequence[str] = ()
    """The values of `$_` at the current node."""
    _given: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _fed: dict[int, Sequence[str]] = field(default_factory=dict)

    def declare(self, scope: str, name: str, default: Node | None) -> None:
        """Add a parameter of a function, or of the script."""
        self.parameters.setdefault(scope, []).append(name)
        if default is not None:
            self.defaults[scope, name] = default

    def bind(self, scope: str, words: Sequence[str]) -> None:
        """Bind the words of a call to parameters: `-Path X`, `-Path:X`, or by position.

        The words left over are `$args`.
        """
        names = self.parameters.get(scope, [])
        free = list(names)
        rest: list[str] = []
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            option, colon, _ = word.lower().partition(":")
            named = [
                name
                for name in names
                if len(option) > 1 and option[:1] == "-" and name.startswith(option[1:])
            ]
            if named:
                if named[0] in free:
                    free.remove(named[0])
                if colon:
                    self._give(scope, named[0], word.partition(":")[2])
                elif waiting and not waiting[0].startswith("-"):
                    self._give(scope, named[0], waiting.pop(0))
            else:
                rest.append(word)
        for name, word in zip(free, rest, strict=False):
            self._give(scope, name, word)
        for word in rest[len(free) :]:
            self._give(scope, "args", word)

    def _give(self, scope: str, name: str, value: str) -> None:
        self._given.setdefault((scope, name), []).append(value)

    def feed(self, command: Node, name: str, fed: Sequence[str] | None) -> None:
        """Set the values of `$_` in the blocks of a command that gets input from a pipe."""
        elements = command.child_by_field_name("command_elements")
        if fed and name in _EACH and elements is not None:
            self._fed.update({node.start_byte: fed for node in elements.named_children})

    def enter(self, node: Node) -> None:
        """Make the scope of this node the current one."""
        self.scope, self.items = SCRIPT, ()
        if not self.parameters and not self._fed:
            return
        parent = node.parent
        while parent is not None and self.scope == SCRIPT:
            if parent.type == "function_statement":
                self.scope = name_of(parent)
            elif (
                parent.start_byte in self._fed
                and not self.items
                and parent.type == "array_literal_expression"
            ):
                self.items = self._fed[parent.start_byte]
            parent = parent.parent

    def look_up(self, name: str) -> list[str] | None:
        """Return the values of a parameter here, without its default; None if there is none."""
        for scope in dict.fromkeys((self.scope, SCRIPT)):
            if (given := self._given.get((scope, name))) is not None:
                return given
            is_open = scope == SCRIPT and self.is_open
            if name in self.parameters.get(scope, ()) or (is_open and name == "args"):
                return [LATER if is_open else MAYBE_EMPTY]
        return None

    def default(self, name: str) -> Node | None:
        """Return the default of a parameter, for calls that do not pass it."""
        return self.defaults.get((self.scope, name)) or self.defaults.get((SCRIPT, name))


def name_of(function: Node) -> str:
    """Return the name of a function in lower case."""
    name = next((c for c in function.named_children if c.type == "function_name"), None)
    return (name.text or b"").decode(errors="replace").lower() if name is not None else SCRIPT
