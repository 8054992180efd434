"""A stand-in for powershell.exe and cmd.exe, which the stand-in host starts.

It is not PowerShell. It performs the helper scripts of opsjobs, which it knows by their first line,
and understands a few statements: Write-Output, Write-Host, Write-Error, [Console]::Out.Write and
Error.WriteLine, [Console]::In.ReadToEnd(), assignments, $env:NAME, $args[0], Start-Sleep, throw and
exit. Anything else ends it with a message. It imports nothing but the standard library and the
other stand-ins.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from opsjobs.standalone.lab.wsman import spool_stand_in
from opsjobs.standalone.lab.wsman.stand_in_command import make_command

_BOOTSTRAP = "$ProgressPreference='SilentlyContinue'\n$i=[Console]::OpenStandardInput()"
_HELPER = re.compile(r"# opsjobs-helper (\w+) (\d+)")
_VALUE = r"""(?P<value>"[^"]*"|'(?:[^']|'')*'|\$[\w:]+(?:\[\d+\])?|[\w.:/\\-]+)"""
_STATEMENT = re.compile(r"""(?:[^;\n"']|"[^"]*"|'(?:[^']|'')*')+""")
_VARIABLE = re.compile(r"\$(env:)?(\w+)(?:\[(\d+)\])?")


class NotUnderstood(Exception):
    """A statement that this stand-in does not know."""


class Interpreter:
    """A few statements of PowerShell."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._variables: dict[str, str] = {}
        self._rules: list[tuple[re.Pattern[str], Callable[[re.Match[str]], None]]] = [
            (_rule(r"exit(?:\s+" + _VALUE + ")?"), self._exit),
            (_rule(r"(?:Write-Output|Write-Host|echo)\s+" + _VALUE), self._say),
            (_rule(r"(?:Write-Error|throw)\s+" + _VALUE), self._throw),
            (_rule(r"\[Console\]::Out\.Write\(" + _VALUE + r"\)"), self._write),
            (_rule(r"\[Console\]::Error\.WriteLine\(" + _VALUE + r"\)"), self._complain),
            (_rule(r"\[Console\]::In\.ReadToEnd\(\)"), self._copy_input),
            (_rule(r"Start-Sleep\s+-Milliseconds\s+" + _VALUE), self._pause),
            (_rule(r"Start-Sleep(?:\s+-Seconds)?\s+" + _VALUE), self._sleep),
            (_rule(r"\$(?P<name>\w+)\s*=\s*" + _VALUE), self._assign),
            (_rule(r"Write-(?P<stream>Warning|Verbose|Debug)\s+" + _VALUE), self._warn),
            (_rule(_VALUE), self._say),
        ]

    def run(self, text: str) -> None:
        """Run all statements."""
        for statement in _statements(text):
            for pattern, perform in self._rules:
                if (found := pattern.fullmatch(statement)) is not None:
                    perform(found)
                    break
            else:
                raise NotUnderstood(statement)

    def _value(self, match: re.Match[str]) -> str:
        written = match["value"] or ""
        if written.startswith("'"):
            return written[1:-1].replace("''", "'")
        if written.startswith('"'):
            return _VARIABLE.sub(self._variable, written[1:-1])
        known = _VARIABLE.fullmatch(written)
        return self._variable(known) if known is not None else written

    def _variable(self, match: re.Match[str]) -> str:
        environment, name, index = match.groups()
        if environment:
            return os.environ.get(name, "")
        if name == "args" and index is not None:
            return self._arguments[int(index)] if int(index) < len(self._arguments) else ""
        return self._variables.get(name, "")

    def _exit(self, match: re.Match[str]) -> None:
        sys.exit(int(self._value(match) or 0))

    def _say(self, match: re.Match[str]) -> None:
        _put(1, self._value(match) + "\r\n")

    def _write(self, match: re.Match[str]) -> None:
        _put(1, self._value(match))

    def _complain(self, match: re.Match[str]) -> None:
        _put(2, self._value(match) + "\r\n")

    def _throw(self, match: re.Match[str]) -> None:
        self._complain(match)
        sys.exit(1)

    def _copy_input(self, _found: re.Match[str]) -> None:
        while data := os.read(0, 65536):
            os.write(1, data)

    def _warn(self, match: re.Match[str]) -> None:
        _put(1, f"{match['stream'].upper()}: {self._value(match)}\r\n")

    def _sleep(self, match: re.Match[str]) -> None:
        time.sleep(float(self._value(match)))

    def _pause(self, match: re.Match[str]) -> None:
        time.sleep(float(self._value(match)) / 1000)

    def _assign(self, match: re.Match[str]) -> None:
        self._variables[match["name"]] = self._value(match)


class PipelineFailed(Exception):
    """A pipeline that ended with an error."""


class PipelineRecorder(Interpreter):
    """The same statements in a pipeline: what they write are records, as lines of JSON."""

    def __init__(self, arguments: list[str], objects: list[Any]) -> None:
        super().__init__(arguments)
        self._objects = objects
        self.exit_code = 0
        """The exit code of the last program."""
        more: list[tuple[str, Callable[[re.Match[str]], None]]] = [
            (r"Write-(?P<stream>Warning|Verbose|Debug|Error)\s+" + _VALUE, self._record),
            (r"Write-(?P<stream>Information|Host)\s+" + _VALUE, self._inform),
            (r"Write-Progress\s+(?P<activity>\w+)\s+" + _VALUE + r"\s+(?P<percent>\d+)",
             self._progress),
            (r"throw\s+" + _VALUE, self._fail),
            (r"\[pscustomobject\]@\{(?P<pairs>[^}]*)\}", self._object),
            (r"Write-Large\s+" + _VALUE, self._large),
            (r"\$input", self._pass_on),
            (r"sh\s+-c\s+" + _VALUE, self._run_program),
            (r"exit(?:\s+" + _VALUE + ")?", self._leave),
        ]  # fmt: skip
        self._rules = [*((_rule(pattern), work) for pattern, work in more), *self._rules]

    def _say(self, match: re.Match[str]) -> None:
        _report_record("output", self._value(match))

    def _write(self, match: re.Match[str]) -> None:
        self._say(match)

    def _record(self, match: re.Match[str]) -> None:
        _report_record(match["stream"].lower(), self._value(match))

    def _inform(self, match: re.Match[str]) -> None:
        _report_record("information", self._value(match))

    def _progress(self, match: re.Match[str]) -> None:
        _report_record(
            "progress",
            {
                "activity": match["activity"],
                "status": self._value(match),
                "percent": int(match["percent"]),
            },
        )

    def _fail(self, match: re.Match[str]) -> None:
        raise PipelineFailed(self._value(match))

    def _object(self, match: re.Match[str]) -> None:
        pairs = [pair.partition("=") for pair in match["pairs"].split(";") if pair.strip()]
        _report_record(
            "output", {name.strip(): value.strip().strip("'") for name, _, value in pairs}
        )

    def _large(self, match: re.Match[str]) -> None:
        _report_record("output", "x" * int(self._value(match)))

    def _pass_on(self, _found: re.Match[str]) -> None:
        for one in self._objects:
            _report_record("output", one)

    def _run_program(self, match: re.Match[str]) -> None:
        done = subprocess.run(  # noqa: S603  this stand-in runs what it is sent
            ["/bin/sh", "-c", self._value(match)], capture_output=True, text=True, check=False
        )
        for stream, text in (("output", done.stdout), ("error", done.stderr)):
            for line in text.splitlines():
                _report_record(stream, line)
        self.exit_code = done.returncode

    def _leave(self, match: re.Match[str]) -> None:
        _report_record("exit", int(self._value(match) or 0))
        sys.exit(0)


def _report_record(stream: str, value: Any) -> None:
    _put(1, json.dumps({"stream": stream, "value": value}) + "\n")


def _run_pipeline() -> int:
    """Run the commands of a pipeline, which standard input describes."""
    asked = json.loads(sys.stdin.buffer.read())
    first = asked["commands"][0]
    try:
        if first["text"].startswith("# opsjobs-helper pipeline 1"):
            _perform_pipeline(dict(first["parameters"])["p"], asked["input"])
        elif all(command["script"] for command in asked["commands"]):
            for command in asked["commands"]:
                arguments = [str(value) for name, value in command["parameters"] if name is None]
                PipelineRecorder(arguments, asked["input"]).run(command["text"])
        else:
            _run_cmdlet(first, asked["input"])
    except (PipelineFailed, NotUnderstood) as error:
        _report_record("failed", str(error))
    return 0


def _perform_pipeline(given: Any, objects: list[Any]) -> None:
    """Do what the helper `pipeline` would."""
    if given["folder"]:
        if not Path(given["folder"]).is_dir():
            raise PipelineFailed(f"{given['nonce']} folder")
        os.chdir(given["folder"])
    os.environ.update(given["environment"])
    recorder = PipelineRecorder([str(one) for one in given["arguments"]], objects)
    recorder.run(given["text"])
    if given["command"] and recorder.exit_code:
        _report_record("exit", recorder.exit_code)


def _run_cmdlet(command: Any, objects: list[Any]) -> None:
    """Run a command that was sent by its name, as to an endpoint without a language."""
    if command["text"] == "Get-Command":
        _report_record("output", "Get-Command")
    elif command["text"] == "Get-Parameters":
        for name, value in command["parameters"]:
            _report_record("output", f"{name}={value!r}")
    elif command["text"] in ("Write-Output", "echo"):
        for value in [*(value for _, value in command["parameters"]), *objects]:
            _report_record("output", value)
    else:
        raise PipelineFailed(f"The term '{command['text']}' is not recognized")


def _rule(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _statements(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            for found in _STATEMENT.finditer(line):
                if statement := found[0].strip():
                    yield statement


def _put(descriptor: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(descriptor, data) :]


# --- the helper scripts of opsjobs


def _perform_helper() -> int:
    """Read a helper and its parameters from standard input, and do what the helper would."""
    header = b""
    while (byte := _read_exactly(1)) != b"\n":
        header += byte
    sizes = [int(size) for size in header.split()]
    helper, parameters = _read_exactly(sizes[0]).decode(), json.loads(_read_exactly(sizes[1]))
    found = _HELPER.match(helper)
    helpers: dict[str, Callable[[Any], int]] = {
        "run 1": _run,
        "clean 1": _clean,
        "spool 1": _keep_runs,
        "disk 1": _serve_files,
    }
    name = " ".join(found.groups()) if found is not None else ""
    if name not in helpers:
        raise NotUnderstood(helper.partition("\n")[0])
    return helpers[name](parameters)


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(97)
        data += piece
    return data


def _run(given: Any) -> int:
    """Run a program with files."""
    argv = next(filter(None, map(_find_program, given["interpreters"])), None)
    if argv is None:
        return _report(given, "W interpreter", 1)
    folder = _place(given)
    folder.mkdir(mode=0o700)
    try:
        started = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
        (folder / "owner").write_text(f"{os.getpid()} {started}")
        arguments = given["before"]
        if given.get("script") is not None:
            file = folder / given["file"]
            file.write_bytes(_read_exactly(given["script"]))
            arguments += f'"{file}"'
        environment = dict(os.environ)
        if given["secrets"]:
            (folder / "secrets").mkdir()
            for secret in given["secrets"]:
                value = _read_exactly(secret["size"])
                (folder / "secrets" / secret["name"]).write_bytes(value)
            environment["OPSJOBS_SECRETS"] = str(folder / "secrets")
        _report(given, "B", 0)
        # The program gets the signal as well, and its folder is removed before this one ends.
        signal.signal(signal.SIGTERM, lambda *_: None)
        arguments += given["after"]
        done = subprocess.run(  # noqa: S603  this stand-in runs what it is sent
            [*argv, *_split(arguments)], env=environment, check=False
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -done.returncode)
    return done.returncode


def _clean(given: Any) -> int:
    """Remove the folder of a program."""
    shutil.rmtree(_place(given), ignore_errors=True)
    return 0


def _keep_runs(given: Any) -> int:
    """Go on as the helper of durable runs, with these parameters."""
    if given["op"] == "start":
        argv = next(filter(None, map(_find_program, given["interpreters"])), None)
        arguments = given["before"]
        if given.get("script") is not None:
            file = Path(os.environ["HOME"], ".opsjobs", "runs", given["key"], given["file"])
            arguments += f'"{file}"'
        given["argv"] = argv and [*argv, *_split(arguments + given["after"])]
    spool_stand_in.perform(given)
    return 0


def _serve_files(_given: Any) -> int:
    """Go on as the helper that serves files; what follows on the input is for it."""
    command = make_command("disk_stand_in")
    os.execv(command[0], command)  # noqa: S606  this stand-in runs what it is sent


def _place(given: Any) -> Path:
    return Path(tempfile.gettempdir(), f"opsjobs-{given['place']}")


def _report(given: Any, words: str, code: int) -> int:
    _put(2, f"{given['nonce']} {words}\n")
    return code


def _find_program(name: str) -> list[str] | None:
    plain = name.removesuffix(".exe")
    if plain in ("cmd", "powershell"):
        return make_command("powershell_stand_in", plain)
    found = shutil.which(plain)
    return [found] if found is not None else None


def _split(line: str) -> list[str]:
    """Split a command line as Windows programs do; what follows `/c` stays whole, for cmd."""
    switches = "/d /s /c "
    if line.startswith(switches):
        return ["/d", "/s", "/c", line.removeprefix(switches).removeprefix('"').removesuffix('"')]
    words: list[str] = []
    word, quoted, begun, at = "", False, False, 0
    while at < len(line):
        run = len(line[at:]) - len(line[at:].lstrip("\\"))
        if run and line[at + run : at + run + 1] == '"':
            word += "\\" * (run // 2) + ('"' if run % 2 else "")
            at += run + run % 2
            continue
        if line[at] == '"':
            quoted, begun = not quoted, True
        elif line[at] in " \t" and not quoted:
            if begun or word:
                words.append(word)
            word, begun = "", False
        else:
            word += line[at]
        at += 1
    return [*words, word] if begun or word else words


# --- the two programs


def _cmd(arguments: list[str]) -> int:
    """Run the line after /c in /bin/sh; a .cmd file is run by /bin/sh, without its CRs."""
    line = arguments[-1] if arguments else ":"
    words = _split(line.replace("^", ""))
    if words and words[0].endswith((".cmd", ".bat")):
        script = Path(words[0]).read_text().replace("\r", "").replace("@echo off\n", "")
        argv = ["/bin/sh", "-c", script, *words]
    else:
        argv = ["/bin/sh", "-c", line]
    os.execv("/bin/sh", argv)  # noqa: S606  this stand-in runs what it is sent


def _powershell(arguments: list[str]) -> int:
    while arguments:
        flag = arguments.pop(0).lower()
        if flag in ("-encodedcommand", "-enc", "-e", "-ec"):
            text = base64.b64decode(arguments[0]).decode("utf-16-le")
            if text.startswith(_BOOTSTRAP):
                return _perform_helper()
            Interpreter(arguments[1:]).run(text)
            return 0
        if flag == "-file":
            Interpreter(arguments[1:]).run(Path(arguments[0]).read_text(encoding="utf-8-sig"))
            return 0
        if flag in ("-executionpolicy", "-outputformat"):
            arguments.pop(0)
        elif flag == "-command":
            Interpreter([]).run(" ".join(arguments))
            return 0
        elif not flag.startswith("-"):
            Interpreter([]).run(" ".join([flag, *arguments]))
            return 0
    raise NotUnderstood("an interactive session")


def main() -> int:
    """Run one of the programs, and return its exit code."""
    name, *arguments = sys.argv[1:]
    if name == "records":
        return _run_pipeline()
    try:
        return _cmd(arguments) if name == "cmd" else _powershell(arguments)
    except NotUnderstood as statement:
        _put(2, f"this stand-in is not PowerShell, and does not understand: {statement}\r\n")
        return 1
