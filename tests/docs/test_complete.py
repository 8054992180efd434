"""Everything that the service has is documented, and everything documented exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import typer

from docs.pages import ROOT, coded, first_column, headings, read, rows, section
from docs.reference import application, written
from opsjobs.api.authentication import OPEN_ROUTES
from opsjobs.api.system import fleet_gauges
from opsjobs.cli.app import app as command
from opsjobs.cli.errors import ExitCode
from opsjobs.model.errors import Unavailable
from opsjobs.model.events import EventType
from opsjobs.model.execution import ErrorCode
from opsjobs.model.job import JobDraft
from opsjobs.settings import describe
from opsjobs.store.system_status import Queue, Upkeep
from opsjobs.telemetry.metrics import Metrics

SOURCE = ROOT / "src" / "opsjobs"
# The calls that define an ErrorCode, and do not use it.
_NOT_GIVEN_BY = ("model", "failpoints.py")
# The status of each class; None: the call names it.
_REFUSALS = {
    "Invalid": 422,
    "Conflict": 409,
    "Gone": 410,
    "NotFound": 404,
    "Precondition": None,
    "TooMany": 429,
    "Unauthorised": 401,
    "Forbidden": 403,
    "Problem": None,
    "cls": None,
}


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield every module below these folders of the source, with its path in it."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        if not folders or name.startswith(folders):
            yield name, ast.parse(path.read_text())


# --- settings


def test_every_setting_is_documented_as_it_is() -> None:
    expected = [
        [
            f"`{d.name}`",
            f"`{d.default}`" if d.default else "",
            f"{'*secret* ' if d.secret else ''}{d.description}",
        ]
        for d in describe({})
    ]
    found = [row for row in rows("docs/reference/settings.md") if row[0].startswith("`")]
    as_rows = "\n".join(f"| {' | '.join(row)} |" for row in expected if row not in found)
    assert found == expected, (
        f"docs/reference/settings.md has other rows than opsjobs.settings.describe(); it lacks:\n{as_rows}"
    )


# --- routes


def test_the_table_of_routes_is_the_one_that_the_routes_make() -> None:
    page = read("docs/reference/api.md")
    assert page == written(page), "write it again: PYTHONPATH=tests python -m docs.reference"


def test_every_field_of_a_job_is_explained() -> None:
    page = read("docs/reference/job-schema.md")
    schema = JobDraft.model_json_schema(by_alias=False)
    parts = [schema, *schema["$defs"].values()]
    fields = {field for part in parts for field in part.get("properties", {})}
    assert sorted(field for field in fields if not re.search(rf"\b{field}\b", page)) == []


def test_every_route_is_in_the_description_that_the_service_serves() -> None:
    served = {
        f"{m.upper()} {path}"
        for path, operations in application().openapi()["paths"].items()
        for m in operations
    }
    assert {w for w in first_column("docs/reference/api.md") if re.match(r"[A-Z]+ /", w)} == served


def test_the_open_doors_are_named() -> None:
    conventions = section("docs/reference/api.md", "## Conventions")
    assert set(coded(conventions.split("**Refusals**")[0])) >= OPEN_ROUTES


def refusals_in_the_page() -> set[tuple[str, int]]:
    """Return each code of a refusal with the statuses that the page names for it."""
    return {
        (word, int(row[1]))
        for row in rows("docs/reference/error-codes.md")
        if len(row) == 3 and row[1].isdigit()
        for word in coded(row[0])
    }


def test_every_code_of_a_refusal_is_documented() -> None:
    documented = {code for code, _ in refusals_in_the_page()}
    given = {code for code, _ in _refusals()}
    assert given - documented == set(), "codes that docs/reference/error-codes.md does not explain"
    assert documented - given == set(), "codes that nothing gives"


def test_every_code_of_a_refusal_has_the_status_that_it_is_given_with() -> None:
    given = {(code, status) for code, status in _refusals() if status is not None}
    assert given - refusals_in_the_page() == set()


def _refusals() -> Iterator[tuple[str, int | None]]:
    """Yield the codes of refused requests, each with its status if the call names it.

    Codes that are composed at run time are listed here.
    """
    yield from (("unknown_target", 422), ("unknown_credential", 422), ("invalid", 422))
    yield from (("channel_unavailable", 422), ("channel_id_missing", 422), ("unknown_webhook", 422))
    yield from ((failure.code, 503) for failure in (Unavailable, *Unavailable.__subclasses__()))
    for _, tree in trees("api", "engine", "identity", "integrations", "model", "safety", "store"):
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            yield from _refusals_of_call(call)


def _refusals_of_call(call: ast.Call) -> Iterator[tuple[str, int | None]]:
    """Yield the codes that a call creates.

    `Conflict("name_taken", …)`, `NotFound.for_ref("job", …)`, `find(…, "file", …)`, `_invalid(…,
    "too_deep")`.
    """
    texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    codes = [text for text in texts if re.fullmatch(r"[a-z0-9_]+", text)]
    match call.func:
        case ast.Attribute(value=ast.Name(id="NotFound"), attr="for_ref"):
            yield from ((f"{noun.lower().replace(' ', '_')}_not_found", 404) for noun in texts[:1])
        case ast.Name(id="find" | "lock"):
            yield from ((f"{noun.lower().replace(' ', '_')}_not_found", 404) for noun in texts[:1])
        case ast.Name(id="check_unused"):
            yield from ((code, 409) for code in codes[:1])
        case ast.Name(id="_invalid"):
            yield from ((code, 422) for code in codes[-1:])
        case ast.Name(id="fault" | "TemplateFault" | "ValueRefused") if isinstance(
            call.args[0], ast.Constant
        ):
            yield from ((code, 422) for code in codes[:1])
        case ast.Name(id=name) if name in _REFUSALS:
            yield from ((code, _REFUSALS[name] or _status_word(call)) for code in codes[:1])


def _status_word(call: ast.Call) -> int | None:
    """Return the status that a call names:

    `Problem(scope, 413, …)`, `Precondition(…, status=412)`.
    """
    values = [*call.args, *(word.value for word in call.keywords if word.arg == "status")]
    numbers = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, int)]
    return numbers[0] if numbers else None


# --- commands


def leaves(group: Any, name: str = "opsjobs") -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    for word in group.list_commands(None):
        found, full = group.get_command(None, word), f"{name} {word}"
        yield from leaves(found, full) if hasattr(found, "commands") else [(full, found)]


def test_every_command_has_a_section_with_its_options() -> None:
    commands = dict(leaves(typer.main.get_command(command)))
    sections = [h for h in headings("docs/reference/cli.md", 3) if h.startswith("opsjobs")]
    assert sorted(sections) == sorted(commands)
    for name, found in commands.items():
        expected = [
            w
            for p in found.params
            for w in (p.opts if p.param_type_name == "option" else [(p.metavar or p.name).strip()])
        ]
        table = [
            w
            for line in section("docs/reference/cli.md", f"### `{name}`").splitlines()
            if line.startswith("| `")
            for w in coded(line[: line.index("|", 2)])
        ]
        assert table == expected, f"the options of `{name}` in docs/reference/cli.md"


def test_every_command_that_messages_name_exists() -> None:
    full = {name.removeprefix("opsjobs ") for name, _ in leaves(typer.main.get_command(command))}
    groups = {name.split()[0] for name in full if " " in name}
    wrong = []
    for path in (*SOURCE.rglob("*.py"), *(ROOT / "console/src").rglob("*.tsx")):
        for words in re.findall(
            r"(?:`|<code>|with: |See: )opsjobs ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", path.read_text()
        ):
            named = words if words.split()[0] in groups else words.split()[0]
            if named not in full | groups:
                wrong.append(f"{path.relative_to(ROOT)}: opsjobs {words}")
    assert wrong == []


def described(parameter: Any) -> str:
    """Return the help of an option or an argument, with its choices and its default."""
    text = " ".join((parameter.help or "").split())
    choices = [str(c) for c in parameter.type_descriptor.choices or ()]
    named = len(choices) > 8 or parameter.metavar or all(c in text for c in choices)
    if choices and not named:
        listed = ", ".join(f"`{c}`" for c in choices[:-1])
        text = f"{text.rstrip('.')}: {listed} or `{choices[-1]}`."
    default = parameter.default
    untold = default in (None, False, 0, "") or {"--limit", "--output"} & {*parameter.opts}
    return text if untold or "default" in text else f"{text} Default: `{default}`."


def test_every_option_is_described_as_its_help_does() -> None:
    wrong = []
    for name, found in leaves(typer.main.get_command(command)):
        lines = section("docs/reference/cli.md", f"### `{name}`").splitlines()
        rows_ = [line for line in lines if line.startswith("| `")]
        for parameter, row in zip(found.params, rows_, strict=True):
            text = row[row.index(" | ", 2) + 3 :].removesuffix(" |").replace("`", "")
            if text != described(parameter).replace("`", ""):
                wrong.append(f"{name}: {row}")
    assert wrong == []


def test_every_exit_code_is_documented() -> None:
    assert {int(row[0]) for row in rows("docs/reference/cli.md") if row[0].isdigit()} == {
        int(code) for code in ExitCode
    }


# --- events, metrics, error codes


def test_every_event_is_documented() -> None:
    assert sorted(first_column("docs/reference/events.md")) == sorted(e.value for e in EventType)


def test_every_metric_is_documented() -> None:
    of_process = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in Metrics().registry.collect()
    }
    gauges = fleet_gauges(
        {"running": 1},
        [Queue("default", 0, 0, 0, None, 0)],
        [],
        Upkeep({"scheduler": 0.0}, 0, 0, 0, 0, 0, 0, 0),
    )
    of_fleet = dict(re.findall(r"# TYPE (\S+) (\S+)", gauges.decode()))
    documented = {
        row[0].strip("`"): row[1]
        for row in rows("docs/reference/metrics.md")
        if row[0].startswith("`")
    }
    # The metrics of the process itself exist on Linux only.
    documented = {
        n: t
        for n, t in documented.items()
        if n in of_process or not n.startswith("opsjobs_process_")
    }
    assert documented == {**of_process, **of_fleet}


def explained() -> list[str]:
    """Return the error codes of runs that have a section."""
    return re.findall(r"^### `(\w+)`$", read("docs/reference/error-codes.md"), re.MULTILINE)


def test_every_error_code_that_is_given_is_explained() -> None:
    given = {
        ErrorCode[node.attr].value
        for name, tree in trees()
        if not name.startswith(_NOT_GIVEN_BY)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ErrorCode"
    }
    assert sorted(explained()) == sorted(given)


def test_every_error_code_is_explained_with_the_status_that_it_makes() -> None:
    for code in explained():
        told = section("docs/reference/error-codes.md", f"### `{code}`").strip()
        assert told.startswith(f"*{ErrorCode(code).run_status.value}.*"), code


def test_error_codes_that_are_never_given_are_named_as_such() -> None:
    line = next(
        row
        for row in read("docs/reference/error-codes.md").splitlines()
        if row.startswith("Codes that exist")
    )
    assert set(coded(line)) == {c.value for c in ErrorCode} - set(explained())
