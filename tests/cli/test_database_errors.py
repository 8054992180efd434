"""Errors of `opsjobs db` and of the start of `up` about unusable databases: no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit import backing_servers
from store.test_database_checks import made

COMMANDS = (
    ("opsjobs", "db", "check"),
    ("opsjobs", "db", "upgrade"),
    ("opsjobs.standalone.prepare", "/nowhere"),
)


def run_failing(url: str, *command: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines on stderr."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "ENCRYPTION_KEYS": backing_servers.AUDIT_KEY.reveal() + "=",
        "HOME": "/nowhere",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unsupported_database_encoding_is_a_one_line_error(
    databases: backing_servers.Databases, command: tuple[str, ...]
) -> None:
    with made(databases, "LATIN1") as url:
        code, lines = run_failing(url, *command)
    assert (code, len(lines)) == (1, 1), lines
    assert "has the encoding LATIN1" in lines[0]
    assert "create database NAME template template0 encoding 'UTF8'" in lines[0]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_schema_without_create_rights_is_a_one_line_error(
    databases: backing_servers.Databases, command: tuple[str, ...]
) -> None:
    name = databases.create()
    try:
        databases._admin.execute("create role lodger")
        code, lines = run_failing(
            f"{databases.url_of(name)}&options=-c%20role%3Dlodger%20-c%20search_path%3Dpg_catalog",
            *command,
        )
    finally:
        databases.drop(name)
        databases._admin.execute("drop role lodger")
    assert (code, len(lines)) == (1, 1), lines
    assert "The role lodger may not create tables in the schema pg_catalog." in lines[0]
