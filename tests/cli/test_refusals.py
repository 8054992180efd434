"""Refusals of the service in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.fake_api import problem, serve_api
from opsjobs.cli.app import app
from opsjobs.cli.client import Client, RequestRefused
from opsjobs.cli.endpoint import ServiceEndpoint
from opsjobs.cli.errors import OPTIONS, QUERY_OPTIONS, translate_refusal
from opsjobs.model.secret import Secret
from opsjobs.store.reference import _CHANGED_WITH, name_taken


@pytest.mark.parametrize(
    ("service", "shown"),
    [
        (
            "It passes with override_safety: true and a reason.",
            "It passes with --override-safety REASON.",
        ),
        ("or set `reuse_name`, as an administrator", "or set --reuse-name, as an administrator"),
        (
            "It is approved, see GET /approvals/1.",
            "It is approved, see `opsjobs approvals show 1`.",
        ),
        ("see GET /dead-letters.", "see `opsjobs dead-letters list`."),
        (
            "No run of execution 6 ended unsuccessful: it is completed, see its /targets.",
            (
                "No run of execution 6 ended unsuccessful: it is completed, "
                "see `opsjobs executions show 6`."
            ),
        ),
        (
            "Change that one (PATCH, or `opsjobs targets set`).",
            "Change that one (`opsjobs targets set`).",
        ),
        (
            "Launch a job (POST /jobs/{id}/execute), or ask an administrator for commands:run.",
            "Launch a job (`opsjobs jobs run NAME`), or ask an administrator for commands:run.",
        ),
        ("There is no file 9.", "There is no file 9: `opsjobs files list` shows them."),
        (
            "/a: there is no such field; did you mean 'b'?.",
            "/a: there is no such field; did you mean 'b'?",
        ),
    ],
)
def test_a_refusal_names_options_and_commands(service: str, shown: str) -> None:
    with (
        serve_api(lambda _: problem(409, "no", service)) as api,
        api.client() as client,
        pytest.raises(RequestRefused) as refused,
    ):
        client.get("/jobs")
    assert str(refused.value) == shown


@pytest.mark.parametrize(
    ("path", "service", "shown"),
    [
        ("/jobs/5/schedules", "/type: it is required.", "--cron, --at or --every: it is required."),
        ("/schedules/3", "/local_time: it is in the past.", "--at: it is in the past."),
        ("/schedules/preview", "/schedule/weekdays/0: it is no day.", "--on: it is no day."),
        ("/jobs", "/type: it is required.", "/type: it is required."),
    ],
)
def test_a_refused_schedule_names_its_options(path: str, service: str, shown: str) -> None:
    with (
        serve_api(lambda _: problem(422, "no", service)) as api,
        api.client() as client,
        pytest.raises(RequestRefused) as refused,
    ):
        client.post(path, {})
    assert str(refused.value) == shown


@pytest.mark.parametrize(
    ("path", "pointer", "shown"),
    [
        ("/run", "/actions/0/timeout", "--timeout"),
        ("/run", "/actions/0/become/user", "--become-user"),
        ("/run", "/policy/max_parallel", "--parallel"),
        ("/jobs/5/execute", "/targets/selector", "--selector"),
        ("/jobs/5/execute", "/parameters/env", "--param env"),
        ("/targets", "/name", "NAME"),
        ("/targets", "/labels/env", "--label env"),
        ("/targets/7", "/name", "--name"),
        ("/targets/7/maintenance", "/duration", "--for"),
        ("/target-groups/7", "/selector", "--selector"),
        ("/credentials", "/private_key", "--key"),
        ("/credentials", "/source/path", "--vault-path"),
        ("/jobs", "/actions/0/timeout", "/actions/0/timeout"),
        ("/jobs/apply", "/jobs/0/name", "/jobs/0/name"),
        ("/targets/import", "/targets/0/name", "/targets/0/name"),
    ],
)
def test_a_pointer_into_a_body_is_shown_as_the_option_that_filled_it(
    path: str, pointer: str, shown: str
) -> None:
    assert (
        translate_refusal(f"{pointer}: it is wrong.\n  {pointer}: so is this.", path)
        == f"{shown}: it is wrong.\n  {shown}: so is this."
    )


@pytest.mark.parametrize(
    ("path", "parameter", "service", "shown"),
    [
        (
            "/events",
            "type.0",
            "query parameter type.0: there is no event 'job.exploded'.",
            "--kinds: there is no event 'job.exploded'.",
        ),
        ("/calendars/3/check", "at", "at: it is no time.", "--at: it is no time."),
        (
            "/webhooks/3/deliveries",
            "status",
            "The filter status cannot be read: it is no status.",
            "--status cannot be read: it is no status.",
        ),
        ("/jobs", "q", "query parameter q: it is long.", "query parameter q: it is long."),
    ],
)
def test_a_query_parameter_is_shown_as_the_option_that_filled_it(
    path: str, parameter: str, service: str, shown: str
) -> None:
    errors = [
        {"detail": service.split(": ", 1)[1][:-1], "in": "query", "parameter": parameter},
        {"detail": "it is wrong", "in": "query", "parameter": parameter},
    ]
    answer = problem(422, "invalid", f"{service[:-1]}.", errors=errors)
    with (
        serve_api(lambda _: answer) as api,
        api.client() as client,
        pytest.raises(RequestRefused) as refused,
    ):
        client.get(path)
    first, second = str(refused.value).splitlines()
    name = re.search(r"--\w+", shown)
    assert (first, second) == (shown, f"  {name[0] if name else parameter}: it is wrong")


def test_options_are_named_if_the_service_is_below_a_path_too() -> None:
    with serve_api(lambda _: problem(422, "no", "/port: it is wrong.")) as api:
        place = ServiceEndpoint(
            f"{api.url}/ops", Secret("opsc_ada"), local=True, data_dir=Path("/nowhere")
        )
        with Client(place) as client, pytest.raises(RequestRefused) as refused:
            client.post("/targets", {})
    assert api.requests[0].path == "/ops/targets"
    assert str(refused.value) == "--port: it is wrong."


@pytest.mark.parametrize("noun", [*_CHANGED_WITH, "API key"])
def test_a_taken_name_is_told_in_english_with_a_command_that_exists(noun: str) -> None:
    detail = name_taken(noun, "web").detail
    article = "an" if noun == "API key" else "a"
    assert detail.startswith(f"There is already {article} {noun} named 'web': ")
    found: Any = typer.main.get_command(app)
    for word in _CHANGED_WITH.get(noun, "tokens rm").split():
        found = found.get_command(None, word)
        assert found is not None, detail


@pytest.mark.parametrize(
    ("command", "table"), [(command, table) for _, command, table in OPTIONS + QUERY_OPTIONS]
)
def test_each_option_that_is_named_in_place_of_a_field_exists(
    command: str, table: Mapping[str, str]
) -> None:
    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.get_command(None, word)
        assert found is not None, command
    known = {name for parameter in found.params for name in parameter.opts}
    arguments = [parameter for parameter in found.params if parameter.param_type_name == "argument"]
    known |= {
        word
        for argument in arguments
        for word in re.findall(r"[A-Z]+", f"{argument.name}".upper() + f" {argument.metavar}")
    }
    named = {word for words in table.values() for word in re.findall(r"--[a-z-]+|[A-Z]{2,}", words)}
    assert named <= known
