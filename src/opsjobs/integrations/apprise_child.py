"""The process that sends one notification by apprise, and connects to nothing else.

Run as `python -m opsjobs.integrations.apprise_child`.

Standard input is JSON: url, title, body, allow (networks). The last line of standard output is
JSON: sent, final, error. Whatever a service of apprise does, this process connects to public
addresses only, and to those of `allow`: each address is checked at the moment of the connect, after
the name was resolved and after each redirect. It starts no programs.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import sys
from typing import Any

import apprise

from opsjobs.model.addresses import Network, is_allowed, networks

ERROR_CHARACTERS_MAX = 500
_CONNECTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_PROGRAMS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
)


class ConnectRefused(Exception):
    """An address that may not be connected to."""


def guard(allow: tuple[Network, ...], refused: list[str]) -> None:
    """Refuse connections to other addresses, and all programs, for the life of this process."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _PROGRAMS:
            raise PermissionError(f"{event} is not allowed here")
        if event not in _CONNECTS:
            return
        address = arguments[1] if len(arguments) > 1 else None
        if address is None:  # sendmsg on a connected socket
            return
        host = address[0] if isinstance(address, tuple) else None
        # The resolver of the system connects to its servers without Python.
        if isinstance(host, str) and _is_address(host) and is_allowed(host, allow):
            return
        refused.append(str(host if host is not None else address)[:100])
        raise ConnectRefused

    sys.addaudithook(hook)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class _LastLog(logging.Handler):
    """Keeps what apprise logs about a failure: it raises nothing, and returns nothing else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def send(url: str, title: str, body: str, allow: tuple[Network, ...]) -> dict[str, Any]:
    """Send one notification; return `sent`, and `error` if it was not."""
    logs, refused = _LastLog(), list[str]()
    logging.getLogger("apprise").addHandler(logs)
    service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if service is None:
        return {"sent": False, "final": True, "error": "apprise does not know this kind of URL"}
    guard(allow, refused)
    apobj = apprise.Apprise()
    apobj.add(service)
    sent = bool(apobj.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT))
    if refused:
        error = f"the address {refused[0]} is not public; list its network in OPSJOBS_APPRISE_ALLOW"
        return {"sent": False, "final": True, "error": error}
    return {"sent": sent, "final": False, "error": None if sent else _reason(logs.lines, url)}


def _reason(lines: list[str], url: str) -> str:
    """Return what apprise logged last, unless it holds a part of the URL: that is a secret."""
    parts = [part for part in url.replace("?", "/").replace("&", "/").split("/") if len(part) > 3]
    for line in reversed(lines):
        if not any(part in line for part in parts):
            return line[:ERROR_CHARACTERS_MAX]
    return "apprise could not send it, and gives no reason that may be shown"


def main() -> None:
    """Send what standard input says."""
    given = json.load(sys.stdin)
    try:
        result = send(given["url"], given["title"], given["body"], networks(given["allow"]))
    except Exception as failed:  # noqa: BLE001  the parent reports it
        result = {"sent": False, "final": False, "error": type(failed).__name__}
    sys.stdout.write(f"\n{json.dumps(result)}\n")


if __name__ == "__main__":
    main()
