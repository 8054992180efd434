"""Checks for Windows hosts: commands as their shell reads them, scripts, and uploads."""

from __future__ import annotations

from typing import Any

import pytest

from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.model.target import Target, Transport
from opsjobs.model.winrm import WinrmOptions
from opsjobs.safety.check import check_text
from opsjobs.safety.job_inputs import texts_of


def windows(engine: str) -> Target:
    """Return a Windows host over WinRM."""
    options = WinrmOptions.model_validate({"engine": engine})
    where = ("1", "win-1", "10.0.0.9", 5986, Transport.WINRM)
    return Target(*where, platform="windows", winrm=options)


def check(action: dict[str, Any], engine: str = "winrs") -> tuple[set[str], str]:
    """Return the rules with findings in the action, and the worst verdict."""
    actions = [
        {"key": "zero", "type": "command", "command": "ver"},
        {"key": "one", "type": "command", **action},
    ]
    texts = texts_of(actions, {"dir": "C:\\Windows\\System32"}, [windows(engine)])
    findings = [
        f for t in texts for f in (*t.findings, *check_text(t.interpreter, t.text, given=t.given))
    ]
    worst = max((f.severity for f in findings), default=SafetyVerdict.ALLOW, key=ORDER.index)
    return {finding.rule for finding in findings}, worst.value


ORDER = (
    SafetyVerdict.ALLOW,
    SafetyVerdict.WARN,
    SafetyVerdict.NEEDS_APPROVAL,
    SafetyVerdict.BLOCK,
)
OF_CMD = [
    ("del /f /s /q C:\\*", "windows-delete-system", "block"),
    ("rd /s /q C:\\Windows", "windows-delete-system", "block"),
    ("rmdir /S /Q %SystemDrive%\\", "windows-delete-system", "block"),
    ("rd /s /q C:\\Data", "windows-delete-tree", "warn"),
    ("format D: /q /y", "windows-disks", "block"),
    ("diskpart /s wipe.txt", "windows-disks", "block"),
    ("reg delete HKLM\\SOFTWARE\\App /f", "windows-registry", "needs_approval"),
    ("shutdown /r /t 0", "windows-stop-machine", "needs_approval"),
    ("vssadmin delete shadows /all /quiet", "windows-delete-backups", "block"),
    ("wevtutil cl Security", "windows-delete-logs", "needs_approval"),
    ("net stop Spooler", "windows-stop-service", "warn"),
    ('powershell -c "Remove-Item -Recurse C:\\"', "windows-delete-system", "block"),
    ("cmd /c rd /s /q C:\\", "windows-delete-system", "block"),
    ("\n" * 5_000 + "format D: /q /y", "windows-disks", "block"),
]
OF_POWERSHELL = [
    ("Remove-Item -Recurse C:\\", "windows-delete-system", "block"),
    ("rm -r -fo C:\\Windows", "windows-delete-system", "block"),
    ("Format-Volume -DriveLetter D", "windows-disks", "block"),
    ("Clear-Disk -Number 1 -RemoveData", "windows-disks", "block"),
    ("Stop-Computer -Force", "windows-stop-machine", "needs_approval"),
    ("Restart-Computer", "windows-stop-machine", "needs_approval"),
    ("Remove-Item HKLM:\\SOFTWARE\\App -Recurse", "windows-registry", "needs_approval"),
    ("vssadmin.exe delete shadows /all", "windows-delete-backups", "block"),
    ("reg.exe delete HKLM\\SOFTWARE\\App /f", "windows-registry", "needs_approval"),
    ("'select disk 0','clean' | diskpart", "windows-disks", "block"),
    ("cmd /c 'del /s /q C:\\*'", "windows-delete-system", "block"),
]


@pytest.mark.parametrize(
    "text",
    [
        "rd /s /q " + "x " * 3_000 + "C:\\",
        "call " * 3_000 + "format D: /q /y",
        "for %%i in (" + "x " * 100 + "C:\\) do rd /s /q %%i",
        "".join(f"set a=x{n}\n" for n in range(100)) + "set a=C:\\\nrd /s /q %a%",
    ],
)
def test_more_than_is_read_of_a_line_is_said(text: str) -> None:
    verdicts = {finding.severity for finding in check_text("cmd", text)}
    assert SafetyVerdict.NEEDS_APPROVAL in verdicts


@pytest.mark.parametrize(("command", "rule", "verdict"), OF_CMD)
def test_a_command_is_read_as_cmd_does(command: str, rule: str, verdict: str) -> None:
    for action in (
        {"command": command},
        {"type": "script", "interpreter": "cmd", "script": command},
    ):
        rules, worst = check(action)
        assert (rule in rules, worst) == (True, verdict)


@pytest.mark.parametrize(("command", "rule", "verdict"), OF_POWERSHELL)
def test_a_pipeline_and_a_script_are_read_as_powershell_does(
    command: str, rule: str, verdict: str
) -> None:
    script = {"type": "script", "interpreter": "powershell", "script": command}
    for action, engine in (({"command": command}, "psrp"), (script, "winrs")):
        rules, worst = check(action, engine)
        assert (rule in rules, worst) == (True, verdict)


@pytest.mark.parametrize(
    "command", ["dir C:\\Windows", "del C:\\Temp\\x.txt", "rd /s /q C:\\Build\\out", "systeminfo"]
)
def test_the_usual_is_still_usual(command: str) -> None:
    assert check({"command": command}) == (set(), "allow")


@pytest.mark.parametrize(
    ("destination", "rule", "verdict"),
    [
        ("C:\\Windows\\System32\\winload.exe", "windows-write-boot", "block"),
        ("C:/Windows/System32/sethc.exe", "windows-place-unseen-program", "needs_approval"),
        ("${dir}\\utilman.exe", "windows-place-unseen-program", "needs_approval"),
        ("C:\\ProgramData\\ssh\\administrators_authorized_keys", "windows-place-unseen-program",
         "needs_approval"),
        ("C:\\ProgramData\\Microsoft\\Windows\\Start Menu\\Programs\\StartUp\\x.cmd",
         "windows-place-unseen-program", "needs_approval"),
        ("${actions.zero.stdout}", "upload-to-trusted-place", "needs_approval"),
    ],
)  # fmt: skip
def test_a_file_that_comes_to_where_windows_runs_it_is_judged(
    destination: str, rule: str, verdict: str
) -> None:
    upload = {"type": "file_transfer", "direction": "upload", "source": "1"}
    rules, worst = check({**upload, "destination": destination})
    assert (rule in rules, worst) == (True, verdict)


@pytest.mark.parametrize(
    "destination",
    ["C:\\ProgramData\\app\\app.conf", "app.conf", "D:\\it's here\\x", "/etc/cron.d/x"],
)
def test_other_uploads_to_windows_pass(destination: str) -> None:
    upload = {"type": "file_transfer", "direction": "upload", "source": "1"}
    assert check({**upload, "destination": destination}) == (set(), "allow")
