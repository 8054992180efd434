"""Point 12: production refuses settings that are only for trials, and says what to write."""

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
SIGN_ON = {
    "OPSJOBS_JWT_ISSUER": "https://id.example.org",
    "OPSJOBS_OIDC_CLIENT_ID": "opsjobs",
    "OPSJOBS_PUBLIC_URL": "https://jobs.example.org",
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
    (
        {**SIGN_ON, "OPSJOBS_PUBLIC_URL": "http://jobs.example.org"},
        "OPSJOBS_PUBLIC_URL is not https",
    ),
]
# Single sign-on that cannot work, in production or not.
CONTRADICTIONS = [
    ({"OPSJOBS_PUBLIC_URL": ""}, "OPSJOBS_PUBLIC_URL is not set"),
    ({"OPSJOBS_PUBLIC_URL": "https://example.org/jobs"}, "more than scheme, host and port"),
    ({"OPSJOBS_PUBLIC_URL": "https://ada@example.org"}, "more than scheme, host and port"),
    ({"OPSJOBS_PUBLIC_URL": "https://["}, "more than scheme, host and port"),
    ({"OPSJOBS_JWT_ISSUER": ""}, "OPSJOBS_JWT_ISSUER is no URL"),
    ({"OPSJOBS_JWT_ISSUER": "platform"}, "OPSJOBS_JWT_ISSUER is no URL"),
    ({"OPSJOBS_OIDC_SCOPES": "profile email"}, "OPSJOBS_OIDC_SCOPES has no openid"),
    ({"OPSJOBS_OIDC_SCOPES": "openid  email"}, "write words separated by one blank"),
    ({"OPSJOBS_OIDC_CLIENT_ID": "ops jobs"}, "write the client id alone"),
    (
        {"OPSJOBS_OIDC_CLIENT_ID": "", "OPSJOBS_OIDC_CLIENT_SECRET": "0123456789"},
        "OPSJOBS_OIDC_CLIENT_SECRET is set, and OPSJOBS_OIDC_CLIENT_ID is not",
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


@pytest.mark.parametrize(("wrong", "told"), CONTRADICTIONS, ids=[str(w) for w, _ in CONTRADICTIONS])
def test_single_sign_on_that_cannot_work_is_refused(wrong: dict[str, str], told: str) -> None:
    settings.load(SIGN_ON)
    settings.load({**STRONG, **SIGN_ON, "OPSJOBS_PUBLIC_URL": "http://localhost:8003/"})
    with pytest.raises(settings.SettingsError) as refused:
        settings.load({**SIGN_ON, **wrong})
    assert told in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert "0123456789" not in str(refused.value)


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
