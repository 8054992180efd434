"""Settings: names, forms, files, faults, and their display."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from opsjobs import settings
from opsjobs.model.secret import Secret

KEY = "dzpPopuI4_KNx-qnj3WNpMLS2v0Vek-qyopYqciI7cE"


def test_without_any_variable_everything_has_its_default() -> None:
    found = settings.load({})
    assert (found.database.url, found.redis.url) == ("", None)
    assert (
        found.worker.zone,
        found.worker.lease_seconds,
        found.worker.poll_seconds,
        found.worker.concurrency,
    ) == (
        "default",
        15,
        1,
        200,
    )
    assert (found.execution.connection_timeout, found.execution.command_timeout) == (30, 300)
    assert found.execution.output_limit_bytes == 10 << 20
    assert (found.api.host, found.api.port, found.api.docs, found.api.body_limit_bytes) == (
        "127.0.0.1",
        8003,
        True,
        1 << 20,
    )
    assert found.telemetry.metrics_port is None


def test_the_prefixed_name_wins_over_the_seeds() -> None:
    assert (
        settings.load(
            {"COMMAND_TIMEOUT": "7s", "OPSJOBS_COMMAND_TIMEOUT": "5m"}
        ).execution.command_timeout
        == 300
    )
    assert settings.load({"COMMAND_TIMEOUT": "7s"}).execution.command_timeout == 7


def test_our_own_settings_are_not_read_without_the_prefix() -> None:
    assert settings.load({"ZONE": "berlin", "HOST": "0.0.0.0"}).worker.zone == "default"
    assert settings.load({"OPSJOBS_ZONE": "berlin"}).worker.zone == "berlin"


def test_durations_and_sizes_take_units() -> None:
    found = settings.load(
        {
            "CONNECTION_TIMEOUT": "1.5m",
            "OPSJOBS_POLL_SECONDS": "250ms",
            "OPSJOBS_OUTPUT_LIMIT_BYTES": "64KiB",
        }
    )
    assert found.execution.connection_timeout == 90
    assert found.worker.poll_seconds == 0.25
    assert found.execution.output_limit_bytes == 65_536


def test_an_empty_value_is_not_set() -> None:
    assert settings.load({"REDIS_URL": "", "MAX_TARGETS_PER_JOB": "  "}).redis.url is None


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{'z' * 43}\n")
    assert settings.load({"ENCRYPTION_KEYS_FILE": str(file)}).security.encryption_keys == (
        Secret(KEY),
        Secret("z" * 43),
    )
    assert settings.load({"OPSJOBS_ENCRYPTION_KEYS_FILE": str(file)}).security.encryption_keys[
        0
    ] == Secret(KEY)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("COMMAND_TIMEOUT", "abc", "COMMAND_TIMEOUT is 'abc': write a duration"),
        ("OPSJOBS_LEASE_SECONDS", "1s", "OPSJOBS_LEASE_SECONDS is '1s': write a duration from 3s"),
        ("MAX_TARGETS_PER_JOB", "-1", "write a whole number from 1 to 1000000"),
        ("OPSJOBS_API_PORT", "99999", "write a whole number from 0 to 65535"),
        ("OPSJOBS_DOCS", "perhaps", "write on or off"),
        ("LOG_LEVEL", "loud", "write one of DEBUG, INFO, WARNING, ERROR"),
        ("OPSJOBS_TARGET_DENY", "10.0.0.0/33", "write networks separated by commas"),
        ("OPSJOBS_ZONE", "../../etc", "write lower-case letters"),
        (
            "DATABASE_URL",
            "mysql://ada:geheim@db/x",
            "DATABASE_URL is mysql://ada:***@db/x: write an address such as postgresql://",
        ),
        ("OPSJOBS_DATA_DIR", "here", "write an absolute path"),
        (
            "ENCRYPTION_KEYS_FILE",
            "/nowhere/at/all",
            "which cannot be read (No such file or directory)",
        ),
    ],
)
def test_an_invalid_value_is_named_with_what_to_write(
    variable: str, text: str, message: str
) -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.load({variable: text})
    assert message in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.load({"COMMAND_TIMEOUT": "abc", "METRICS_PORT": "x", "ENABLE_METRICS": "maybe"})
    assert len(str(caught.value).splitlines()) == 3


def test_an_invalid_secret_is_redacted() -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.load({"OPSJOBS_ADMIN_TOKEN": "tooshort"})
    assert "OPSJOBS_ADMIN_TOKEN is ***" in str(caught.value)
    assert "tooshort" not in str(caught.value)


def test_a_secret_in_two_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        settings.SettingsError, match="ENCRYPTION_KEYS and ENCRYPTION_KEYS_FILE are both set"
    ):
        settings.load({"ENCRYPTION_KEYS": KEY, "ENCRYPTION_KEYS_FILE": str(tmp_path / "x")})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"ENCRYPTION_KEYS": KEY, "OPSJOBS_ADMIN_TOKEN": "x" * 20},
    ],
)
def test_production_refuses_missing_and_short_secrets(environ: dict[str, str]) -> None:
    with pytest.raises(settings.SettingsError, match="ENVIRONMENT is production"):
        settings.load({"ENVIRONMENT": "production", **environ})


@pytest.mark.parametrize(
    "keys", ["short", f"{KEY},short", "k" * 44, "not-base64-at-all!-not-at-all!-no-no-no-no-!!"]
)
def test_an_invalid_encryption_key_is_refused(keys: str) -> None:
    with pytest.raises(settings.SettingsError, match="32 random bytes"):
        settings.load({"ENCRYPTION_KEYS": keys})


def test_production_turns_the_docs_page_off_by_default() -> None:
    safe = {"ENVIRONMENT": "production", "ENCRYPTION_KEYS": KEY}
    assert settings.load(safe).api.docs is False
    assert settings.load({**safe, "OPSJOBS_DOCS": "on"}).api.docs is True


def test_a_service_needs_a_database_and_keys() -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.for_service(settings.load({}))
    assert "DATABASE_URL is not set" in str(caught.value)
    assert "ENCRYPTION_KEYS is not set" in str(caught.value)


def test_networks_are_parsed() -> None:
    found = settings.load({"OPSJOBS_TARGET_ALLOW": "10.0.0.0/8, 127.0.0.1"}).security.target_allow
    assert found == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("127.0.0.1/32"))


def test_the_description_redacts_secrets_and_shows_origins(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("opsc_very-secret-token")
    environ = {
        "OPSJOBS_TOKEN_FILE": str(token),
        "DATABASE_URL": "postgres://ada:geheim@db/x?password=geheim",
        "ENCRYPTION_KEYS": KEY,
    }
    docs = {doc.name: doc for doc in settings.describe(environ)}
    assert (docs["OPSJOBS_TOKEN"].value, docs["OPSJOBS_TOKEN"].origin) == ("***", str(token))
    assert docs["DATABASE_URL"].value == "postgres://ada:***@db/x?password=***"
    assert (docs["COMMAND_TIMEOUT"].value, docs["COMMAND_TIMEOUT"].origin) == ("300s", "default")
    assert docs["ENCRYPTION_KEYS"].alias == "OPSJOBS_ENCRYPTION_KEYS"
    everything = repr(docs)
    assert "geheim" not in everything
    assert KEY not in everything


def test_every_setting_has_one_line_of_description() -> None:
    for doc in settings.describe({}):
        assert doc.description.endswith("."), doc.name
        assert "\n" not in doc.description


def test_the_repr_of_settings_redacts_secrets() -> None:
    assert KEY not in repr(
        settings.load({"ENCRYPTION_KEYS": KEY, "OPSJOBS_ADMIN_TOKEN": KEY}).security
    )


def test_a_misspelt_setting_is_found_and_what_runs_find_on_targets_is_not() -> None:
    found = settings.unknown(
        {
            "OPSJOBS_LEASE_SECOND": "1",
            "OPSJOBS_HOST": "web-1",
            "OPSJOBS_PARAM_X": "1",
            "OPSJOBS_QQQ": "1",
        }
    )
    assert found == {"OPSJOBS_LEASE_SECOND": "OPSJOBS_LEASE_SECONDS", "OPSJOBS_QQQ": None}


def test_the_client_is_not_stopped_by_a_servers_mistakes() -> None:
    client, folder = settings.load_client(
        {
            "ENVIRONMENT": "production",
            "COMMAND_TIMEOUT": "abc",
            "OPSJOBS_URL": "https://jobs.example.org",
            "OPSJOBS_DATA_DIR": "/srv/d",
        }
    )
    assert client.url == "https://jobs.example.org"
    assert folder == Path("/srv/d")
