"""Point 12: production refuses settings that are good for trying out only, and says what to write instead."""

from __future__ import annotations

import pytest

from opsjobs import settings
from opsjobs.cli.app import run

KEY = "dzpPopuI4_KNx-qnj3WNpMLS2v0Vek-qyopYqciI7cE"
STRONG = {
    "ENVIRONMENT": "production",
    "ENCRYPTION_KEYS": KEY,
    "OPSJOBS_ADMIN_TOKEN": "opsc_zQ4bTn0vWm8cR2xLk6sYd1uPe9hJf3gA",
    "DATABASE_URL": "postgresql://opsjobs@db.example.org/opsjobs?sslmode=verify-full",
    "REDIS_URL": "rediss://:h7Gt4@redis.example.org:6379/0",
    "AUTH_SERVICE_URL": "https://auth.example.org",
}
WEAK = [
    ({"ENCRYPTION_KEYS": ""}, "ENCRYPTION_KEYS is not set"),
    ({"ENCRYPTION_KEYS": "A" * 43}, "key 1 is not random"),
    ({"ENCRYPTION_KEYS": f"{KEY},{'A' * 43}"}, "key 2 is not random"),
    ({"OPSJOBS_ADMIN_TOKEN": "opsc_0123456789abcde"}, "OPSJOBS_ADMIN_TOKEN has 20 characters"),
    ({"OPSJOBS_ADMIN_TOKEN": "change-me-change-me-change-me-change-me"}, "public or easy to guess"),
    ({"DEBUG": "true"}, "DEBUG is on"),
    ({"DATABASE_URL": "postgresql://opsjobs@db.example.org/opsjobs"}, "without TLS"),
    ({"DATABASE_URL": "postgresql://opsjobs@10.0.0.7/opsjobs?sslmode=prefer"}, "without TLS"),
    ({"DATABASE_URL": "postgresql:///opsjobs?host=db.example.org"}, "without TLS"),
    ({"REDIS_URL": "redis://redis.example.org:6379/0"}, "REDIS_URL has no password"),
    ({"AUTH_SERVICE_URL": "http://auth.example.org"}, "AUTH_SERVICE_URL is not https"),
    (
        {"OPSJOBS_SERVICE_TOKEN_URL": "http://id.example.org/token"},
        "OPSJOBS_SERVICE_TOKEN_URL is not https",
    ),
]


@pytest.mark.parametrize(("weak", "told"), WEAK, ids=[told for _, told in WEAK])
def test_each_weak_setting_is_refused_by_name_and_not_repeated(
    weak: dict[str, str], told: str
) -> None:
    with pytest.raises(settings.SettingsError) as refused:
        settings.load({**STRONG, **weak})
    assert told in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert not any(
        value in str(refused.value)
        for name, value in {**STRONG, **weak}.items()
        if "KEY" in name and value
    )
    settings.load({**STRONG, **weak, "ENVIRONMENT": "staging"})


def test_strong_settings_start_and_what_does_not_leave_the_machine_needs_no_tls() -> None:
    loaded = settings.for_service(settings.load(STRONG))
    assert not loaded.api.docs
    local = {
        "DATABASE_URL": "postgresql://opsjobs@127.0.0.1/opsjobs",
        "REDIS_URL": "unix:///run/valkey.sock",
        "AUTH_SERVICE_URL": "http://auth:3001",
    }
    settings.load({**STRONG, **local})
    settings.load(
        {**STRONG, "DATABASE_URL": "postgresql:///opsjobs?host=/home/ada/.local/share/opsjobs"}
    )


def test_the_command_says_it_beforehand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**STRONG, "ENVIRONMENT": "test", "DEBUG": "on"}.items():
        monkeypatch.setenv(name, value)
    assert run(["config", "check"]) == 0
    assert run(["config", "check", "--production"]) == 1
    assert "DEBUG is on" in capsys.readouterr().err
    assert settings.load().telemetry.log_level == "DEBUG"
