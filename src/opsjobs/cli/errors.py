"""Errors of the commands: exit codes, and refusals of the service in terms of options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum

from opsjobs.model.errors import Failure
from opsjobs.model.execution import ExecutionStatus


class ExitCode(IntEnum):
    """Exit codes that scripts can rely on."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_SUCCEEDED = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5
    CONFLICT = 6
    WAITING = 7
    TIMEOUT = 124
    INTERRUPTED = 130


class CommandFailed(Failure):
    """The command failed: `message` is printed on stderr, `exit_code` is the exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_OF_STATUS = {
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    410: ExitCode.NOT_FOUND,
    412: ExitCode.CONFLICT,
    422: ExitCode.USAGE,
}
_OF_CODE = {
    "unknown_target": ExitCode.NOT_FOUND,
    "no_targets": ExitCode.NOT_FOUND,
    "safety_blocked": ExitCode.NOT_ALLOWED,
}


def get_refusal_exit_code(status: int, code: str) -> ExitCode:
    """Return the exit code for a refused request, by its problem code, else its HTTP status."""
    return _OF_CODE.get(code) or _OF_STATUS.get(status, ExitCode.ERROR)


def get_execution_exit_code(status: str, *, interrupted: bool = False) -> ExitCode:
    """Return the exit code for an ended execution.

    `interrupted`: this command's Ctrl-C requested the cancel.
    """
    if status == ExecutionStatus.COMPLETED:
        return ExitCode.OK
    if status == ExecutionStatus.TIMEOUT:
        return ExitCode.TIMEOUT
    if status == ExecutionStatus.CANCELLED and interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.NOT_SUCCEEDED


# --- terms of options


_REPLACED: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"override_safety: true and a reason"), "--override-safety REASON"),
    (re.compile(r"`?\breuse_name\b`?(?!:)"), "--reuse-name"),
    (re.compile(r"GET /([a-z-]+)/(\d+)\b(?!/)"), r"`opsjobs \1 show \2`"),
    (re.compile(r"GET /(approvals|dead-letters)\b(?!/)"), r"`opsjobs \1 list`"),
    (re.compile(r"\(POST /jobs/\{id\}/execute\)"), "(`opsjobs jobs run NAME`)"),
    (re.compile(r"\(PATCH, or (`opsjobs [a-z -]+`)\)"), r"(\1)"),
    (
        re.compile(r"\b([Ee]xecution) (\d+)\b(.*): (.*)see its /targets"),
        r"\1 \2\3: \4see `opsjobs executions show \2`",
    ),
    (
        re.compile(r"name ids, groups or a selector that fit known targets"),
        "`opsjobs targets list -l SELECTOR` shows what a selector matches",
    ),
    (
        re.compile(r"^There is no (target|group|credential|execution|approval|file) (\S+)\.$"),
        r"There is no \1 \2: `opsjobs \1s list` shows them.",
    ),
    (re.compile(r"'\?\.$", re.MULTILINE), "'?"),
)

_OF_SCHEDULES = {
    "type": "--cron, --at or --every",
    "at": "--at",
    "local_time": "--at",
    "cron": "--cron",
    "every": "--every",
    "interval": "--interval",
    "timezone": "--timezone",
    "weekdays": "--on",
    "time": "--time",
    "day": "--day",
    "start_at": "--start",
    "end_at": "--end",
    "calendars": "--calendar",
    "misfire": "--misfire",
    "misfire_window": "--misfire-window",
    "overlap": "--overlap",
    "dst_gap": "--dst-gap",
    "dst_fold": "--dst-fold",
    "max_firings": "--max-firings",
    "jitter": "--jitter",
    "anchor": "--anchor",
    "name": "--name",
}
_SELECTION = {
    "targets": "-t, -g or -l",
    "targets/ids": "--target",
    "targets/groups": "--group",
    "targets/selector": "--selector",
}
_LAUNCH = {
    **_SELECTION,
    "parameters": "--param",
    "reason": "--reason",
    "override_safety": "--override-safety",
}
_RUN = {
    **_LAUNCH,
    "actions/command": "COMMAND",
    "actions/script": "--script",
    "actions/script_base64": "--script",
    "actions/args": "COMMAND",
    "actions/interpreter": "--interpreter",
    "actions/env": "--env",
    "actions/cwd": "--cwd",
    "actions/timeout": "--timeout",
    "actions/become": "--become",
    "actions/become/user": "--become-user",
    "actions/become/method": "--become-method",
    "actions/become/credential": "--become-credential",
    "policy/max_parallel": "--parallel",
}
_TARGET = {
    "port": "--port",
    "credential": "--credential",
    "groups": "--group",
    "jump": "--jump",
    "zone": "--zone",
    "slots": "--slots",
    "transport": "--transport",
    "host_key_policy": "--host-key-policy",
}
_SECRETS = {
    "private_key": "--key",
    "passphrase": "--passphrase-file",
    "certificate": "--certificate",
    "password": "--password",
    "keytab": "--keytab",
    "value": "--secret-file",
}
_CREDENTIAL = {
    **_SECRETS,
    "name": "NAME",
    "type": "--type",
    "username": "--username",
    "principal": "--username",
    "source/path": "--vault-path",
    "source/role": "--vault-role",
    "source/mount": "--vault-mount",
    "source/fields": "--vault-field",
    "source/version": "--vault-version",
    "source/namespace": "--vault-namespace",
    "source/authority": "--ssh-ca",
    "source/principals": "--principal",
    "source/validity": "--validity",
}
_GROUP = {
    "description": "--description",
    "targets": "--target",
    "groups": "--group",
    "selector": "--selector",
}
_CALENDAR = {
    "name": "NAME",
    "timezone": "--timezone",
    "description": "--description",
    "windows/dates": "--date",
    "windows/yearly": "--yearly",
    "windows/weekdays": "--on",
    "windows/start": "--start",
    "windows/end": "--end",
    "windows/from": "--from",
    "windows/until": "--until",
}
_TRIGGER = {
    "verify": "--verify",
    "parameters": "--from-body",
    "when": "--when",
    "max_calls_per_minute": "--max-calls",
    "expires_at": "--expires",
    "description": "--description",
}

OPTIONS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    (r"/jobs/\d+/schedules", "schedules add", _OF_SCHEDULES),
    (r"/schedules/\d+", "schedules set", _OF_SCHEDULES),
    (r"/schedules/preview", "schedules preview", {**_OF_SCHEDULES, "from": "--from"}),
    (r"/run", "run", _RUN),
    (r"/jobs/\d+/execute", "jobs run", _LAUNCH),
    (r"/jobs/\d+/clone", "jobs clone", {"name": "--name"}),
    (
        r"/executions/[^/]+/retry",
        "executions retry",
        {
            "which": "--which",
            "targets": "--target",
            "reason": "--reason",
            "override_safety": "--override-safety",
        },
    ),
    (
        r"/targets",
        "targets add",
        {**_TARGET, "name": "NAME", "host": "HOST", "labels": "--label", "host_keys": "--host-key"},
    ),
    (
        r"/targets/[^/]+",
        "targets set",
        {
            **_TARGET,
            "labels": "label",
            "name": "--name",
            "host": "--host",
            "platform": "--platform",
            "durable": "--durable",
        },
    ),
    (
        r"/targets/[^/]+/maintenance",
        "targets maintenance",
        {"until": "--until", "duration": "--for", "reason": "--reason", "off": "--end"},
    ),
    (r"/jobs/[^/]+/triggers", "triggers add", {**_TRIGGER, "name": "NAME"}),
    (r"/triggers/[^/]+", "triggers set", _TRIGGER),
    (r"/calendars(/[^/]+)?", "calendars add", _CALENDAR),
    (r"/target-groups", "groups add", {**_GROUP, "name": "NAME"}),
    (r"/target-groups/[^/]+", "groups set", {**_GROUP, "name": "--name"}),
    (r"/credentials", "credentials add", _CREDENTIAL),
    (r"/credentials/[^/]+/rotate", "credentials rotate", _SECRETS),
    (
        r"/credentials/[^/]+/bound-to",
        "credentials bind",
        {"targets": "--target", "groups": "--group", "jobs": "--job"},
    ),
)
"""Requests of the commands: path, command, and the option or argument of each field."""

_STATUS = {"status": "--status"}

QUERY_OPTIONS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    (r"/events", "events", {"type": "--kinds"}),
    (r"(/jobs/[^/]+)?/executions", "executions list", _STATUS),
    (r"/executions/[^/]+/targets", "executions show", _STATUS),
    (
        r"/executions/[^/]+/groups",
        "executions groups",
        {"action": "--action", "stream": "--stream", "normalise": "--normalise"},
    ),
    (
        r"/executions/[^/]+/search",
        "executions search",
        {
            "q": "TEXT",
            "pattern": "TEXT",
            "context": "--context",
            "target": "--target",
            "action": "--action",
        },
    ),
    (r"/executions/[^/]+/log", "executions diff", {"stream": "--stream", "action": "--action"}),
    (r"/executions/[^/]+/baseline", "executions diff", {"target": "TARGET"}),
    (r"/executions/[^/]+/artifacts", "executions artifacts", {"target_name": "--target"}),
    (r"/approvals", "approvals list", {**_STATUS, "execution_id": "--execution"}),
    (
        r"/audit",
        "audit list",
        {
            "actor": "--actor",
            "action": "--action",
            "thing": "--thing",
            "thing_id": "--thing",
            "thing_name": "--name",
            "request_id": "--request",
            "at_after": "--since",
            "at_before": "--until",
        },
    ),
    (r"/audit/export", "audit export", {"after": "--after"}),
    (r"/audit/verify", "audit verify", {"head": "--head"}),
    (r"/calendars/[^/]+/check", "calendars check", {"at": "--at"}),
    (
        r"/dead-letters",
        "dead-letters list",
        {
            **_STATUS,
            "job": "--job",
            "target": "--target",
            "error": "--error",
            "execution": "--execution",
            "since": "--since",
        },
    ),
    (r"/deliveries", "notifications deliveries", {**_STATUS, "to": "--to"}),
    (r"/webhooks/[^/]+/deliveries", "webhooks deliveries", {**_STATUS, "event": "--event"}),
    (r"/files", "files upload", {"name": "--name"}),
    (r"/jobs/export", "jobs export", {"name": "JOB", "tag": "--tag"}),
    (r"(/schedules/[^/]+)?/firings", "schedules firings", _STATUS),
    (
        r"/schedules/moments",
        "schedules moments",
        {"from": "--from", "to": "--to", "limit": "--limit"},
    ),
    (
        r"/targets",
        "targets list",
        {"selector": "--selector", "groups": "--group", "health": "--health"},
    ),
    (r"/targets/labels", "targets labels", {"key": "KEY"}),
    (r"/targets/[^/]+/runs", "targets runs", {**_STATUS, "job": "--job"}),
)
"""Path and command of requests, with the option or argument of each query parameter."""

_BY_PATH = tuple((re.compile(path), table) for path, _, table in OPTIONS)
_BY_QUERY = tuple((re.compile(path), table) for path, _, table in QUERY_OPTIONS)
_POINTER = re.compile(r"^( *)(/\S+?)(?=: )", re.MULTILINE)


def translate_refusal(words: str, path: str, parameters: Iterable[str] = ()) -> str:
    """Return a refusal at this path with options and commands for fields and routes.

    `parameters`: the refused query parameters; one of several values ends with its position.
    """
    words = _name_query_options(words, path, parameters)
    table = next((table for of, table in _BY_PATH if of.fullmatch(path)), None)
    if table is not None:
        words = _POINTER.sub(lambda found: found[1] + _find_option(found[2], table), words)
    for pattern, replacement in _REPLACED:
        words = pattern.sub(replacement, words)
    return words


def _name_query_options(words: str, path: str, parameters: Iterable[str]) -> str:
    table = next((table for of, table in _BY_QUERY if of.fullmatch(path)), {})
    for parameter in dict.fromkeys(parameters):
        option = table.get(parameter.split(".")[0])
        if option is not None:
            name = re.escape(parameter)
            named = rf"^( *)(?:query parameter {name}(?=: )|{name}(?=: )|The filter {name}\b)"
            words = re.sub(named, rf"\g<1>{option}", words, flags=re.MULTILINE)
    return words


def _find_option(pointer: str, table: Mapping[str, str]) -> str:
    """Return the option of a field with the name that follows it, or else the pointer.

    >>> _find_option("/targets/ids/0", _LAUNCH), _find_option("/parameters/env", _LAUNCH)
    ('--target', '--param env')
    """
    steps = [step for step in pointer.split("/")[1:] if not step.isdigit()]
    if steps[:1] == ["schedule"]:  # of a preview
        del steps[0]
    for length in range(len(steps), 0, -1):
        option = table.get("/".join(steps[:length]))
        if option is not None:
            return " ".join([option, *steps[length:]])
    return pointer
