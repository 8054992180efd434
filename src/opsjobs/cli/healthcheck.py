"""The command `healthcheck`, for containers and scripts."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Annotated
from urllib.parse import urlsplit

import typer

from opsjobs import settings
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import tell

TIMEOUT_SECONDS = 5.0
ANSWER_BYTES_MAX = 65_536
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  compared, not listened on


def healthcheck(
    url: Annotated[
        str | None,
        typer.Argument(
            help="The probe to ask (default: /livez at METRICS_PORT).", show_default=False
        ),
    ] = None,
) -> None:
    """Check whether a process on this machine is healthy. Exit code 1 if not.

    Every api, worker and scheduler serves /livez and /readyz at METRICS_PORT; the API also at its
    own port.
    """
    asked = url or _default_url()
    if urlsplit(asked).scheme != "http" or not urlsplit(asked).hostname:
        raise CommandFailed(
            f"{asked!r} is not the URL of a probe: write http://HOST:PORT/livez.", ExitCode.USAGE
        )
    fault = _ask_probe(asked)
    if fault is not None:
        raise CommandFailed(f"{asked}: {fault}")
    tell(f"{asked}: ok")


def _default_url() -> str:
    wanted = settings.load().telemetry
    if wanted.metrics_port is None or not wanted.enable_metrics:
        raise CommandFailed(
            "METRICS_PORT is not set, or ENABLE_METRICS is off: set it to the port of the process, "
            "or name a URL such as http://127.0.0.1:8003/readyz.",
            ExitCode.USAGE,
        )
    host = wanted.metrics_host
    return f"http://{_WILDCARDS.get(host, host)}:{wanted.metrics_port}/livez"


def _ask_probe(url: str) -> str | None:
    """Return the fault that the probe reports, or why it does not answer; None if all is well."""
    # No proxy of the environment: the process is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as refused:
        with refused:
            return _reasons(refused.read(ANSWER_BYTES_MAX)) or f"status {refused.code}"
    except (OSError, http.client.HTTPException, ValueError) as away:
        return f"no answer ({getattr(away, 'reason', away)})"


def _reasons(answer: bytes) -> str:
    try:
        return "; ".join(map(str, json.loads(answer)["reasons"]))
    except (ValueError, KeyError, TypeError):
        return ""
