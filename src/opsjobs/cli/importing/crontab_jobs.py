"""The job and the schedule of a crontab entry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from opsjobs.cli.importing.crontab import CrontabEntry, is_template

SCHEDULE = "crontab"
TAG = "crontab"
NAME_CHARACTERS_MAX = 200
DIGEST_CHARACTERS = 8
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@=-]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=\S*\s+")
_GUARD = re.compile(
    r"\s*(?:cd|test|\[|\[\[|command|if|\.|source)\s[^&|;]*(?:&&|\|\||;)[\s{(]*(?:then\s+)?"
)
_SHELLS = ("sh", "bash", "python", "python3", "php", "perl")
_WRAPPERS = frozenset(
    ("sudo", "nice", "ionice", "chronic", "exec", "time", "nohup", "env", "setsid", *_SHELLS)
)


@dataclass(frozen=True, slots=True)
class CrontabOptions:
    """Options that apply to every entry."""

    targets: Mapping[str, Any]
    prefix: str
    timezone: str
    timeout: str
    user: str | None = None
    credential: str | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """The job and the schedule of one entry."""

    place: str
    source: str
    job: dict[str, Any]
    schedule: dict[str, Any]


def source_of(file: str, options: CrontabOptions, *, system: bool) -> str:
    """Return the tag of all jobs of one crontab.

    A user's crontab is identified by the user, regardless of the path of its copy; a system crontab
    by its file.
    """
    parts = (options.prefix, options.user or "", PurePosixPath(file).name if system else "")
    return f"{TAG}:{sha256(chr(0).join(parts).encode()).hexdigest()[:DIGEST_CHARACTERS]}"


def plan_jobs(
    entries: Sequence[tuple[CrontabEntry, str]], options: CrontabOptions
) -> list[PlannedJob]:
    """Return the job and schedule of all entries, each with the tag of its crontab.

    Equal entries get equal names on each import; a duplicate gets a number.
    """
    seen: dict[str, int] = {}
    found = []
    for entry, source in entries:
        name = _name(entry, options)
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        found.append(
            PlannedJob(
                entry.place, source, _job(entry, name, source, options), _schedule(entry, options)
            )
        )
    return found


def prefix_of(selection: Mapping[str, Any]) -> str:
    """Return the name prefix for a selection, so that crontabs of machines do not collide."""
    words = [
        *selection.get("ids", ()),
        *selection.get("groups", ()),
        *([selection["selector"]] if "selector" in selection else ()),
    ]
    text = _NOT_IN_A_NAME.sub("-", "-".join(words)).strip("-")
    return f"{text[:60]}-" if text else "cron-"


def _name(entry: CrontabEntry, options: CrontabOptions) -> str:
    """Return a name from the command and the user, not the time.

    So an entry whose time changes keeps its job.
    """
    user = entry.user or options.user or ""
    digest = sha256("\0".join((user, entry.command, entry.stdin or "")).encode()).hexdigest()[
        :DIGEST_CHARACTERS
    ]
    parts = [part for part in (user, _program(entry.command), digest) if part]
    return f"{options.prefix}{'-'.join(parts)}"[:NAME_CHARACTERS_MAX]


def _program(command: str) -> str:
    """Return the program's name for display, without `cd … &&`, assignments and wrappers."""
    rest = command.strip().lstrip("({ ")
    while (guard := _GUARD.match(rest)) is not None and guard.end() < len(rest):
        rest = rest[guard.end() :]
    while (assignment := _ASSIGNMENT.match(rest)) is not None:
        rest = rest[assignment.end() :]
    words = rest.split()
    while len(words) > 1 and (
        PurePosixPath(words[0]).name in _WRAPPERS or words[0].startswith("-") or words[0].isdigit()
    ):
        words = words[1:]
    name = PurePosixPath(words[0]).name if words else ""
    return _NOT_IN_A_NAME.sub("-", name).strip("-.")[:40]


def _job(entry: CrontabEntry, name: str, source: str, options: CrontabOptions) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name, "tags": [TAG, source]}
    if entry.note:
        body["description"] = entry.note[:2_000]
    if options.targets:
        body["targets"] = dict(options.targets)
    return {**body, "actions": [_action(entry, options)]}


def _action(entry: CrontabEntry, options: CrontabOptions) -> dict[str, Any]:
    settings = entry.settings
    action: dict[str, Any] = _program_of(entry)
    action["timeout"] = options.timeout
    env = {**settings.env, **({"HOME": settings.home} if settings.home else {})}
    if env:
        action["env"] = env
    if settings.home:
        action["cwd"] = settings.home
    if entry.stdin is not None:
        action["stdin"] = entry.stdin
    if (user := entry.user or options.user) is not None:
        action["become"] = {
            "user": user,
            **({"credential": options.credential} if options.credential else {}),
        }
    return action


def _program_of(entry: CrontabEntry) -> dict[str, Any]:
    """Return a command action.

    It is a script if the crontab sets a shell, or if opsjobs would expand a placeholder in the
    command.
    """
    if entry.settings.shell is None and not is_template(entry.command):
        return {"type": "command", "command": entry.command}
    return {
        "type": "script",
        "interpreter": entry.settings.shell or "/bin/sh",
        "script": f"{entry.command}\n",
    }


def _schedule(entry: CrontabEntry, options: CrontabOptions) -> dict[str, Any]:
    """Return the schedule with cron's behaviour: misfires are skipped, runs may overlap."""
    body: dict[str, Any] = {
        "name": SCHEDULE,
        "type": "cron",
        "cron": entry.when,
        "timezone": entry.settings.zone or options.timezone,
        "misfire": "skip",
        "overlap": "skip" if entry.single else "allow",
    }
    if entry.settings.delay_minutes:
        body["jitter"] = f"{entry.settings.delay_minutes}m"
    return body if options.enabled else {**body, "enabled": False}
