"""`opsjobs triggers`: URLs that launch a job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, RequestRefused, connect, is_id, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, tell
from opsjobs.cli.render import Column, Form, ago, show_list, show_one
from opsjobs.model.trigger import CallVerification

app = typer.Typer(
    help="Triggers: URLs that launch a job, for GitHub, GitLab and other senders.",
    no_args_is_help=True,
)

Trigger = Annotated[str, typer.Argument(metavar="TRIGGER", help="Name, JOB/NAME, id or uuid.")]
Triggers = Annotated[
    list[str], typer.Argument(metavar="TRIGGER", help="Names, JOB/NAME, ids or uuids.")
]
SAME_NAME_SHOWN = 10
COLUMNS = (
    Column("id", lambda t: t["id"]),
    Column("name", lambda t: t["name"]),
    Column("job", lambda t: t["job_name"]),
    Column("verify", lambda t: t["verify"]),
    Column("enabled", lambda t: t["enabled"]),
    Column("calls", lambda t: t["calls"]),
    Column("last call", lambda t: render_last_call(t["last_call"])),
    Column("expires", lambda t: t["expires_at"], wide=True),
    Column("owner", lambda t: t["owner"], wide=True),
    Column("path", lambda t: t["path"], wide=True),
    Column("uuid", lambda t: t["uuid"], wide=True),
)
CALL_COLUMNS = (
    Column("when", lambda c: ago(c["at"])),
    Column("outcome", lambda c: c["outcome"]),
    Column("execution", lambda c: c["execution_id"]),
    Column("code", lambda c: c["code"]),
    Column("times", lambda c: c["times"] if c["times"] > 1 else None),
    Column("reason", lambda c: c["reason"]),
    Column("from", lambda c: c["address"], wide=True),
    Column("delivery", lambda c: c["delivery"], wide=True),
)
_CONDITION = re.compile(
    r"(?P<place>/[^=~!]*(?:~[01][^=~!]*)*|[A-Za-z0-9-]+)(?P<test>=~|=|!|)(?P<value>.*)", re.DOTALL
)
_JSON_SCALAR = re.compile(r"true|false|-?(?:0|[1-9][0-9]{0,17})")


def render_last_call(call: Json | None) -> str | None:
    """Return the last call for a cell: `launched, 3h ago`."""
    return f"{call['outcome']}, {ago(call['at'])}" if call else None


@dataclass(frozen=True, slots=True)
class Changes:
    """Fields of a trigger as options; None: not given."""

    verify: Annotated[
        CallVerification | None,
        typer.Option(help="The form in which calls prove the secret."),
    ]
    from_body: Annotated[
        list[str] | None,
        typer.Option(
            "--from-body",
            metavar="NAME=POINTER",
            help="A parameter from the JSON body, such as branch=/ref. May be repeated.",
        ),
    ]
    from_header: Annotated[
        list[str] | None,
        typer.Option(
            "--from-header",
            metavar="NAME=HEADER",
            help="A parameter from a header. May be repeated.",
        ),
    ]
    param: options.Params
    when: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Launch only if /POINTER or HEADER is =VALUE, matches =~PATTERN, exists (no test) "
            "or does not (!). May be repeated: all must hold.",
        ),
    ]
    max_calls: Annotated[
        int | None,
        typer.Option("--max-calls", metavar="N", help="Calls a minute; more are refused."),
    ]
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When it expires: in 30d, at a time such as 2027-01-31T00:00:00Z, or never.",
        ),
    ]
    description: Annotated[str | None, typer.Option(help="A description.")]

    def body(self) -> Json:
        """Return the fields that are given. Raises CommandFailed."""
        body: Json = {}
        if self.verify is not None:
            body["verify"] = self.verify.value
        if sources := self._sources():
            body["parameters"] = sources
        if self.when is not None:
            body["when"] = [parse_condition(text) for text in self.when]
        if self.max_calls is not None:
            body["max_calls_per_minute"] = self.max_calls
        if self.expires is not None:
            never = self.expires == "never"
            body["expires_at"] = None if never else options.expiry("--expires", self.expires)
        if self.description is not None:
            body["description"] = self.description
        return body

    def _sources(self) -> Json:
        given = (
            ("--from-body", "pointer", self.from_body),
            ("--from-header", "header", self.from_header),
            ("--param", "value", self.param),
        )
        return {
            name: {kind: value}
            for option, kind, pairs in given
            for name, value in options.pairs(option, pairs).items()
        }


def parse_condition(text: str) -> Json:
    """Return the condition of `--when`. Raises CommandFailed.

    >>> parse_condition("/ref=refs/heads/main")
    {'pointer': '/ref', 'equals': 'refs/heads/main'}
    >>> parse_condition("X-GitHub-Event=~push|release")
    {'header': 'X-GitHub-Event', 'matches': 'push|release'}
    >>> parse_condition("/deleted=false"), parse_condition("/head_commit!")
    ({'pointer': '/deleted', 'equals': False}, {'pointer': '/head_commit', 'exists': False})
    """
    found = _CONDITION.fullmatch(text)
    if found is None or (found["test"] in ("", "!") and found["value"]):
        raise CommandFailed(
            f"--when: {text!r} is no condition. Write /POINTER=VALUE, HEADER=VALUE, "
            "/POINTER=~PATTERN, or only /POINTER.",
            ExitCode.USAGE,
        )
    kind = "pointer" if found["place"].startswith("/") else "header"
    tests: dict[str, Json] = {
        "=": {"equals": _parse_scalar(found["value"]) if kind == "pointer" else found["value"]},
        "=~": {"matches": found["value"]},
        "!": {"exists": False},
        "": {"exists": True},
    }
    return {kind: found["place"], **tests[found["test"]]}


def _parse_scalar(text: str) -> str | int | bool:
    """Return a value in its JSON type: true, false and whole numbers are not strings."""
    if not _JSON_SCALAR.fullmatch(text):
        return text
    return text == "true" if text in ("true", "false") else int(text)


@app.command("list")
def list_triggers(
    *,
    job: Annotated[
        str | None,
        typer.Option("--job", metavar="JOB", help="Only those of this job, by name or id."),
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 100,
) -> None:
    """List triggers, the newest first, each with its last call."""
    with connect() as client:
        path = (
            f"{path_of('job', client.by_name('job', job)['id'])}/triggers" if job else "/triggers"
        )
        found, more = client.items(path, limit=limit)
    named = [{"name": _ref(one)} for one in found] if output is Form.NAME else found
    show_list(named, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def show(trigger: Trigger, output: options.Output = Form.TABLE) -> None:
    """Show one trigger: its fields, its URL and its last call, without its secret."""
    with connect() as client:
        it = _with_url(client, find_trigger(client, trigger))
    if output in (Form.TABLE, Form.WIDE):
        last = it.get("last_call")
        it = {name: value for name, value in it.items() if value not in (None, [], {}, "")}
        if last:
            why = f": {last['reason']}" if last["reason"] else ""
            it["last_call"] = f"{last['outcome']}, {ago(last['at'])}{why}"
    show_one(it, output)


@app.command()
@options.spread(Changes, "changes")
def add(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Name, id or uuid of the job.")],
    name: Annotated[str, typer.Argument(help="The name, such as github-push.")],
    *,
    changes: Changes,
    output: options.Output = Form.TABLE,
) -> None:
    """Create a URL that launches a job; show it with its secret, this once.

    Without --verify, a call has the header `Authorization: Bearer SECRET`.
    """
    with connect() as client:
        launched = client.by_name("job", job)
        made = client.post(
            f"{path_of('job', launched['id'])}/triggers", {"name": name, **changes.body()}
        )
        _show_secret(client, made, output)


@app.command("set")
@options.spread(Changes, "changes")
def set_trigger(trigger: Trigger, *, changes: Changes) -> None:
    """Change a trigger. You become its owner; its URL and its secret stay.

    Options that are not given change nothing; the sources of parameters are replaced together, and
    so are the conditions.
    """
    body = changes.body()
    if not body:
        raise CommandFailed(
            "nothing to change. See the options with: opsjobs triggers set --help", ExitCode.USAGE
        )
    with connect() as client:
        old = find_trigger(client, trigger)
        if "parameters" in body:
            # A merge patch would keep the sources that are not given.
            kept = dict.fromkeys(old["parameters"].keys() - body["parameters"].keys())
            body["parameters"] = {**_whole(old, body["parameters"]), **kept}
        changed = client.patch(path_of("trigger", old["id"]), body)
    tell(f"trigger {plain(_ref(changed))} is changed")


@app.command()
def enable(triggers: Triggers) -> None:
    """Enable triggers: their calls launch again."""
    _switch(triggers, "enable")


@app.command()
def disable(triggers: Triggers) -> None:
    """Disable triggers: their calls are refused with 404."""
    _switch(triggers, "disable")


@app.command()
def rotate(trigger: Trigger, output: options.Output = Form.TABLE) -> None:
    """Replace the secret of a trigger, and show the new one, this once.

    The old one is refused at once. You become the owner of the trigger.
    """
    with connect() as client:
        found = find_trigger(client, trigger)
        changed = client.post(f"{path_of('trigger', found['id'])}/rotate")
        _show_secret(client, changed, output)


@app.command()
def calls(trigger: Trigger, output: options.Output = Form.TABLE) -> None:
    """List the last 100 calls of a trigger, the newest first: their outcomes, and the reasons."""
    with connect() as client:
        found = client.get(f"{path_of('trigger', find_trigger(client, trigger)['id'])}/calls")
    show_list(found["items"], CALL_COLUMNS, output, name="outcome")


@app.command("rm")
def remove(triggers: Triggers) -> None:
    """Remove triggers. Executions that they launched stay and continue."""
    with connect() as client:
        for ref in triggers:
            gone = find_trigger(client, ref)
            client.delete(path_of("trigger", gone["id"]))
            tell(f"trigger {plain(_ref(gone))} is removed")


def find_trigger(client: Client, ref: str) -> Json:
    """Return the trigger with this id, uuid or name. Raises CommandFailed.

    A name that triggers of several jobs share is given as JOB/NAME.
    """
    if is_id(ref) and (found := client.find(path_of("trigger", ref))):
        return found
    job, slash, name = ref.rpartition("/")
    items: list[Json] = []
    for wanted in ({"name": name, "job_name": job}, {"name": ref}) if slash else ({"name": ref},):
        items, _ = client.items("/triggers", limit=SAME_NAME_SHOWN, **wanted)
        if items:
            break
    if not items:
        raise RequestRefused(
            f"There is no trigger {plain(ref)}: `opsjobs triggers list` shows them.",
            404,
            "trigger_not_found",
        )
    if len(items) > 1:
        raise CommandFailed(
            f"several triggers have the name {plain(ref)}: name the one you mean "
            f"({plain(', '.join(map(_ref, items)))}).",
            ExitCode.USAGE,
        )
    return items[0]


def _whole(old: Json, sources: Json) -> Json:
    """Return the sources with the fields of their predecessors removed (null)."""
    return {
        name: {**dict.fromkeys(old["parameters"].get(name, {})), **source}
        for name, source in sources.items()
    }


def _switch(triggers: Sequence[str], verb: str) -> None:
    with connect() as client:
        for ref in triggers:
            found = find_trigger(client, ref)
            changed = client.post(f"{path_of('trigger', found['id'])}/{verb}")
            tell(f"trigger {plain(_ref(changed))} is {verb}d")


def _show_secret(client: Client, trigger: Json, output: Form) -> None:
    it = _with_url(client, trigger)
    if output in (Form.TABLE, Form.WIDE):
        show_one({"trigger": _ref(it), "url": it["url"], "secret": it["secret"]}, output)
    else:
        show_one(it, output)
    tell("the secret is shown this once: store it where the calls come from")


def _with_url(client: Client, trigger: Json) -> dict[str, Any]:
    return {**trigger, "url": client.endpoint.url.rstrip("/") + trigger["path"]}


def _ref(trigger: Json) -> str:
    """Return JOB/NAME, which is unique; a name alone may be shared."""
    return f"{trigger['job_name']}/{trigger['name']}"
