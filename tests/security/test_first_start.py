"""Point 12: the first start creates the keys, two installations differ.

Production refuses public values.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from api.kit import api_client, problem
from kit.token_issuer import SECRET
from opsjobs import settings
from opsjobs.clock import TurnedClock
from opsjobs.identity.jws import UnverifiedToken
from opsjobs.identity.tokens import OwnTokens
from opsjobs.model.errors import Unauthorised
from opsjobs.store.envelope import new_key
from opsjobs.store.transaction import Database

PRODUCTION = {
    "ENVIRONMENT": "production",
    "ENCRYPTION_KEYS": "dzpPopuI4_KNx-qnj3WNpMLS2v0Vek-qyopYqciI7cE",
}
ISSUED = {"OPSJOBS_JWT_ISSUER": "https://id.example.org", "OPSJOBS_JWT_AUDIENCE": "opsjobs"}
SESSION = UUID(int=7)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"JWT_SECRET_KEY": "short"}, "JWT_SECRET_KEY has 5 bytes"),
        (
            {"JWT_SECRET_KEY": "your-secret-key-change-in-production-please"},
            "public or easy to guess",
        ),
        ({"JWT_SECRET_KEY": "CHANGE-ME-0123456789-abcdefghijklmnop"}, "public or easy to guess"),
        ({"JWT_SECRET_KEY": "a" * 64}, "easy to guess"),
        ({"JWT_SECRET_KEY": "abcabcabcabcabcabcabcabcabcabcabcabc"}, "easy to guess"),
        ({"JWT_SECRET_KEY": SECRET, "OPSJOBS_JWT_ISSUER": ""}, "OPSJOBS_JWT_ISSUER is not set"),
        ({"JWT_SECRET_KEY": SECRET, "OPSJOBS_JWT_AUDIENCE": ""}, "OPSJOBS_JWT_AUDIENCE is not set"),
        (
            {"OPSJOBS_JWKS_URL": "https://id.example.org/keys", "OPSJOBS_JWT_AUDIENCE": ""},
            "OPSJOBS_JWT_AUDIENCE is not set",
        ),
        ({"OPSJOBS_JWKS_URL": "http://id.example.org/keys"}, "OPSJOBS_JWKS_URL is not https"),
        ({"OPSJOBS_JWT_ISSUER": "http://id.example.org"}, "OPSJOBS_JWT_ISSUER is not https"),
        ({"JWT_ALGORITHM": "HS256", "OPSJOBS_JWT_ISSUER": ""}, "there is no key"),
        ({"OPSJOBS_TRUSTED_PROXIES": "0.0.0.0/0"}, "contains all addresses"),
    ],
)
def test_production_refuses_weak_settings_of_tokens_without_repeating_them(
    environ: dict[str, str], told: str
) -> None:
    with pytest.raises(settings.SettingsError, match=told) as caught:
        settings.load({**PRODUCTION, **ISSUED, **environ})
    assert environ.get("JWT_SECRET_KEY", "?!") not in str(caught.value)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"JWT_SECRET_KEY": SECRET, **ISSUED},
        {"OPSJOBS_JWKS_URL": "https://id.example.org/keys", **ISSUED},
        ISSUED,
        {"AUTH_SERVICE_URL": "http://auth:3001"},
    ],
)
def test_production_starts_with_strong_ones(environ: dict[str, str]) -> None:
    settings.load({**PRODUCTION, **environ})


def test_elsewhere_a_weak_secret_is_the_users_own_choice() -> None:
    assert settings.load({"JWT_SECRET_KEY": "dev"}).identity.jwt_secret_key is not None


def test_a_token_of_one_installation_is_none_in_another() -> None:
    clock = TurnedClock(datetime(2026, 11, 27, tzinfo=UTC))
    ours, theirs = new_key(), new_key()
    token, seconds = OwnTokens([ours], clock, minutes=15).issue(SESSION, "ada")
    assert seconds == 900
    with pytest.raises(Unauthorised, match="another installation"):
        OwnTokens([theirs], clock, minutes=15).session(UnverifiedToken.read(token))
    # Another key is put before it, as in a rotation: its signatures stay valid until it is removed.
    rotated = OwnTokens([theirs, ours], clock, minutes=15)
    assert rotated.session(UnverifiedToken.read(token)) == SESSION
    assert (
        UnverifiedToken.read(rotated.issue(SESSION, "ada")[0]).kid
        != UnverifiedToken.read(token).kid
    )
    clock.turn(900)
    with pytest.raises(Unauthorised, match="expired"):
        rotated.session(UnverifiedToken.read(token))


async def test_a_copy_of_the_keys_is_not_enough_where_the_login_is_not(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        own = OwnTokens(
            ada.services.settings.security.encryption_keys, ada.services.clock, minutes=15
        )
        token, _ = own.issue(SESSION, "ada")
        problem(
            await ada.http.get("/auth/me", headers={"Authorization": f"Bearer {token}"}),
            401,
            "token_invalid",
        )
