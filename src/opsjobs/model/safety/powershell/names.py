"""Names of PowerShell: aliases, and what the environment of a Windows machine holds."""

from __future__ import annotations

from opsjobs.model.safety.words import HOME, SOMETHING

ALIASES = {
    **dict.fromkeys(("rm", "ri", "del", "erase", "rd", "rmdir"), "remove-item"),
    "iex": "invoke-expression",
    **dict.fromkeys(("iwr", "curl", "wget"), "invoke-webrequest"),
    "irm": "invoke-restmethod",
    "icm": "invoke-command",
    **dict.fromkeys(("saps", "start"), "start-process"),
    **dict.fromkeys(("spps", "kill"), "stop-process"),
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
    "iwmi": "invoke-wmimethod",
    "icim": "invoke-cimmethod",
    "nal": "new-alias",
    "sal": "set-alias",
    "ipmo": "import-module",
    "clhy": "clear-history",
    "cli": "clear-item",
    "cls": "clear-host",
}
FETCHES = ("invoke-webrequest", "invoke-restmethod", "downloadstring", "downloaddata", "downloadfile", "webclient", "iwr", "irm", "getstringasync", "start-bitstransfer")
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
    "username": SOMETHING,
}
"""Variables of the environment that every Windows machine has, lower case."""
CONSTANTS = {"true": "True", "false": "False", "null": "", "home": HOME, "pshome": "C:\\Windows\\System32\\WindowsPowerShell\\v1.0", "pid": SOMETHING, "psscriptroot": SOMETHING, "_": SOMETHING, "pwd": SOMETHING}
