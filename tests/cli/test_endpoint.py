"""Finding the service: by the environment, or by the local `up`'s data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsjobs.cli.endpoint import find_endpoint
from opsjobs.cli.errors import CommandFailed
from opsjobs.model.secret import Secret
from opsjobs.settings import ClientSettings


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """Create the data folder of an `up`."""
    (tmp_path / "endpoint").write_text("http://127.0.0.1:8003\n")
    (tmp_path / "admin-token").write_text("opsc_local\n")
    return tmp_path


def test_the_local_up_is_found_with_its_token(running: Path) -> None:
    place = find_endpoint(ClientSettings(), running)
    assert (place.url, place.token, place.local) == (
        "http://127.0.0.1:8003",
        Secret("opsc_local"),
        True,
    )


def test_the_environment_wins(running: Path) -> None:
    place = find_endpoint(
        ClientSettings(url="https://jobs.example.org/", token=Secret("opsc_ada")), running
    )
    assert (place.url, place.token, place.local) == (
        "https://jobs.example.org",
        Secret("opsc_ada"),
        False,
    )


def test_the_local_token_is_never_shown_to_another_service(running: Path) -> None:
    assert find_endpoint(ClientSettings(url="https://jobs.example.org"), running).token is None


def test_the_local_token_serves_where_the_url_is_the_local_one(running: Path) -> None:
    assert find_endpoint(ClientSettings(url="http://127.0.0.1:8003/"), running).token == Secret(
        "opsc_local"
    )


def test_another_token_can_be_used_with_the_local_up(running: Path) -> None:
    assert find_endpoint(ClientSettings(token=Secret("opsc_ben")), running).token == Secret(
        "opsc_ben"
    )


def test_without_a_running_service_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        find_endpoint(ClientSettings(), tmp_path / "none")
    assert "`opsjobs up`" in str(caught.value)
    assert "OPSJOBS_URL" in str(caught.value)
