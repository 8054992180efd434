"""Point 1: JWT with configured algorithms of one family, strict headers and claims.

A matrix of forged tokens is all 401.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from kit.token_issuer import (
    AUDIENCE,
    ISSUER,
    SECRET,
    answering,
    by_hand,
    good,
    jwk,
    pem,
    private,
    private_pem,
    resigned,
    signed,
)
from opsjobs import settings
from opsjobs.model.secret import Secret
from opsjobs.settings import IdentitySettings
from opsjobs.store.transaction import Database

SHARED = IdentitySettings(jwt_secret_key=Secret(SECRET), jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
HS = {"alg": "HS256", "typ": "JWT"}


def flipped(token: str) -> str:
    head, _, signature = token.rpartition(".")
    return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def of_other_claims(token: str) -> str:
    """Return a token with the signature of one and the claims of another."""
    header, _, signature = token.split(".")
    return ".".join((header, by_hand({}, good(roles=["admin"])).split(".")[1], signature))


def claims_text(**claims: Any) -> str:
    return json.dumps(good(**claims))


# Each is signed by the right secret unless its name says otherwise.
FORGED: Mapping[str, Callable[[], str]] = {
    "alg none": lambda: by_hand({"alg": "none", "typ": "JWT"}, good()),
    "alg None": lambda: by_hand({"alg": "None"}, good()),
    "alg nOnE with a signature": lambda: resigned({"alg": "nOnE"}, good()),
    "alg empty": lambda: resigned({"alg": ""}, good()),
    "alg null": lambda: resigned({"alg": None}, good()),
    "alg a list": lambda: resigned({"alg": ["HS256"]}, good()),
    "alg missing": lambda: resigned({"typ": "JWT"}, good()),
    "alg in lower case": lambda: resigned({"alg": "hs256"}, good()),
    "another of the family": lambda: signed(good(), SECRET, "HS384"),
    "a longer one of the family": lambda: signed(good(), SECRET, "HS512"),
    "by a key pair of one's own": lambda: signed(good(), private("rsa"), "RS256"),
    "ES256": lambda: signed(good(), private("p256"), "ES256"),
    "EdDSA": lambda: signed(good(), private("ed25519"), "EdDSA"),
    "no signature": lambda: by_hand(HS, good()),
    "an empty secret": lambda: resigned(HS, good(), ""),
    "another secret": lambda: signed(good(), "x" * 32),
    "the secret and a line end": lambda: signed(good(), SECRET + "\n"),
    "a changed signature": lambda: flipped(signed(good())),
    "a short signature": lambda: signed(good())[:-8],
    "claims of another token": lambda: of_other_claims(signed(good())),
    "jku": lambda: signed(good(), jku="https://evil.example.org/keys"),
    "x5u": lambda: signed(good(), x5u="https://evil.example.org/chain"),
    "x5c": lambda: signed(good(), x5c=["MIIB"]),
    "jwk": lambda: resigned({**HS, "jwk": {"kty": "oct", "k": "AAAA"}}, good()),
    "crit": lambda: resigned({**HS, "crit": ["exp"]}, good()),
    "b64": lambda: resigned({**HS, "b64": False, "crit": ["b64"]}, good()),
    "zip": lambda: resigned({**HS, "zip": "DEF"}, good()),
    "an encrypted type": lambda: signed(good(), typ="JWE"),
    "an id token's type": lambda: signed(good(), typ="logout+jwt"),
    "kid a path": lambda: signed(good(), "x" * 32, kid="../../../../dev/null"),
    "kid SQL": lambda: signed(good(), "x" * 32, kid="' union select 'x"),
    "kid a number": lambda: resigned({**HS, "kid": 7}, good()),
    "kid of ours": lambda: signed(good(), kid="opsjobs/000000000000"),
    "kid of a service that is not there": lambda: signed(good(), kid="service/portal"),
    "no exp": lambda: signed(good(exp=None)),
    "exp passed": lambda: signed(good(exp=int(time.time()) - 31)),
    "exp text": lambda: signed(good(exp=str(int(time.time()) + 300))),
    "exp true": lambda: resigned(HS, good(exp=True)),
    "exp NaN": lambda: resigned(HS, claims_text(exp=5).replace('"exp": 5', '"exp": NaN')),
    "exp Infinity": lambda: resigned(HS, claims_text(exp=5).replace('"exp": 5', '"exp": Infinity')),
    "exp a number without end": lambda: resigned(
        HS, claims_text(exp=5).replace('"exp": 5', '"exp": 1e400')
    ),
    "exp twice": lambda: resigned(
        HS, claims_text(exp=5).replace('"exp": 5', f'"exp": 5, "exp": {int(time.time()) + 300}')
    ),
    "exp a list": lambda: resigned(HS, good(exp=[int(time.time()) + 300])),
    "nbf to come": lambda: signed(good(nbf=int(time.time()) + 31)),
    "iat to come": lambda: signed(good(iat=int(time.time()) + 31)),
    "a refresh token by its type": lambda: signed(good(type="refresh")),
    "a refresh token by its token_type": lambda: signed(good(token_type="refresh")),
    "an id token by its token_use": lambda: signed(good(token_use="id")),
    "an id token by its typ": lambda: resigned(HS, good(typ="ID")),
    "a type that is none": lambda: resigned(HS, good(type=["access"])),
    "no sub": lambda: signed(good(sub=None)),
    "sub empty": lambda: signed(good(sub="")),
    "sub an object": lambda: resigned(HS, good(sub={"name": "ada"})),
    "sub with NUL": lambda: signed(good(sub="ada\x00")),
    "sub with a line end": lambda: signed(good(sub="ada\nroot")),
    "sub a lone surrogate": lambda: resigned(HS, claims_text(sub="S").replace('"S"', '"\\ud800"')),
    "sub of 10,000 characters": lambda: signed(good(sub="x" * 10_000)),
    "no iss": lambda: signed(good(iss=None)),
    "another iss": lambda: signed(good(iss=ISSUER + ".evil.example.org")),
    "iss a list": lambda: resigned(HS, good(iss=[ISSUER])),
    "no aud": lambda: signed(good(aud=None)),
    "another aud": lambda: signed(good(aud="billing")),
    "aud a part of ours": lambda: signed(good(aud="ops")),
    "aud a list of others": lambda: signed(good(aud=["billing", "mail"])),
    "aud an object": lambda: resigned(HS, good(aud={"opsjobs": True})),
    "roles an object": lambda: signed(good(roles={"admin": True})),
    "roles of numbers": lambda: signed(good(roles=[1])),
    "roles with NUL": lambda: signed(good(roles=["a\x00b"])),
    "roles with a lone surrogate": lambda: resigned(
        HS, claims_text(roles=["S"]).replace('"S"', '"\\udfff"')
    ),
    "permissions with NUL": lambda: signed(good(permissions="jobs:read\x00")),
    "a scope with NUL": lambda: signed(good(scope_labels="env=\x00")),
    "grants with a lone surrogate": lambda: resigned(
        HS,
        claims_text(opsjobs_grants=[{"role": "viewer", "scope": "env=S"}]).replace(
            "env=S", "env=\\ud800"
        ),
    ),
    "kid a lone surrogate": lambda: by_hand(
        json.dumps({**HS, "kid": "service/S"}).replace("/S", "/\\ud800"), "{}", raw=True
    ),
    "kid with NUL": lambda: resigned({**HS, "kid": "service/\x00"}, good()),
    "kid of 1,000 characters": lambda: signed(good(), kid="k" * 1_000),
    "1,000 roles": lambda: signed(good(roles=["r"] * 1_000)),
    "a scope that is none": lambda: signed(good(scope_labels="env=staging,,")),
    "a scope of what it is not": lambda: signed(good(scope_labels="env!=prod")),
    "grants that are none": lambda: signed(good(opsjobs_grants=[{"role": "emperor"}])),
    "claims a list": lambda: by_hand(HS, [good()]),
    "claims no JSON": lambda: by_hand(json.dumps(HS), "{", raw=True),
    "claims 10,000 deep": lambda: by_hand(json.dumps(HS), "[" * 2_500 + "]" * 2_500, raw=True),
    "header no JSON": lambda: by_hand("ada", json.dumps(good()), raw=True),
    "header with a key twice": lambda: by_hand(
        '{"alg":"none","alg":"HS256"}', json.dumps(good()), raw=True
    ),
    "two parts": lambda: signed(good()).rpartition(".")[0] + ".",
    "four parts": lambda: signed(good()) + ".AAAA",
    "five parts, encrypted": lambda: "a.b.c.d.e",
    "three dots and nothing": lambda: "..",
    "no base64": lambda: "é.è.à",
    "padded": lambda: signed(good()).replace(".", "==.", 1),
    "over 8 KiB": lambda: signed(good(note="x" * 8_200)),
}


async def statuses(ada: ApiClient, tokens: Mapping[str, str]) -> dict[str, int]:
    """Return the status of each of them at a route for any valid token."""
    return {
        name: (
            await ada.http.get("/jobs", headers={"Authorization": f"Bearer {token}".encode()})
        ).status_code
        for name, token in tokens.items()
    }


async def test_forged_tokens_are_all_401_where_a_secret_is_shared(
    database: Database,
) -> None:
    assert len(FORGED) >= 40
    async with api_client(database, identity=SHARED) as ada:
        answered = await statuses(ada, {name: make() for name, make in FORGED.items()})
        assert {name: status for name, status in answered.items() if status != 401} == {}
        said = good(type="access", token_type="Bearer", token_use="access")
        tokens = {
            "good": signed(good()),
            "with its kid": signed(good(), kid="k1"),
            "says that it is for access": signed(said),
        }
        assert set((await statuses(ada, tokens)).values()) == {200}


async def test_a_forged_token_is_told_in_words_without_being_repeated(
    database: Database,
) -> None:
    async with api_client(database, identity=SHARED) as ada:
        told = problem(
            await ada.http.get(
                "/jobs", headers={"Authorization": f"Bearer {FORGED['exp passed']()}"}
            ),
            401,
            "token_invalid",
        )
        assert told["detail"] == "The token is not valid: it has expired."


async def test_clocks_may_differ_by_the_leeway_and_no_more(database: Database) -> None:
    now = int(time.time())
    lenient = SHARED.model_copy(update={"jwt_leeway": 30.0})
    async with api_client(database, identity=lenient) as ada:
        tokens = {
            "just over": signed(good(exp=now - 1)),
            "not quite yet": signed(good(nbf=now + 5, iat=now + 5)),
            "over": signed(good(exp=now - 40)),
        }
        assert await statuses(ada, tokens) == {"just over": 200, "not quite yet": 200, "over": 401}
    with pytest.raises(settings.SettingsError, match="OPSJOBS_JWT_LEEWAY is '31s'"):
        settings.load({"OPSJOBS_JWT_LEEWAY": "31s"})


PUBLISHED = {"/keys": (200, {"keys": [
    jwk("rsa", "r1"), jwk("p256", "e1", use="sig"), jwk("ed25519", "d1", alg="EdDSA"), jwk("weak-rsa", "w1"),
    jwk("other-rsa", "enc1", use="enc"), {"kty": "oct", "k": "bjB0", "kid": "s1"}, jwk("p384", "only-512", alg="ES512"),
]})}  # fmt: skip

BY_KEY_PAIR: Mapping[str, Callable[[], str]] = {
    "HS256 by the public key's text": lambda: resigned({**HS, "kid": "r1"}, good(), pem("rsa")),
    "HS256 by the public key's JWK": lambda: resigned(
        {**HS, "kid": "r1"}, good(), json.dumps(jwk("rsa", "r1"))
    ),
    "HS256 by the modulus": lambda: resigned({**HS, "kid": "r1"}, good(), jwk("rsa", "r1")["n"]),
    "HS256 by a secret in the JWKS": lambda: resigned({**HS, "kid": "s1"}, good(), "n0t"),
    "none": lambda: by_hand({"alg": "none", "kid": "r1"}, good()),
    "RS256 by another key": lambda: signed(good(), private("other-rsa"), "RS256", kid="r1"),
    "a kid that is not published": lambda: signed(good(), private("rsa"), "RS256", kid="r2"),
    "no kid where there are many keys": lambda: signed(good(), private("rsa"), "RS256"),
    "a key of 1,024 bits": lambda: signed(good(), private_pem("weak-rsa"), "RS256", kid="w1"),
    "a key for encryption": lambda: signed(good(), private("other-rsa"), "RS256", kid="enc1"),
    "a key of another algorithm": lambda: signed(good(), private("p384"), "ES384", kid="only-512"),
    "RSA's kid, another curve's key": lambda: signed(good(), private("p256"), "ES256", kid="r1"),
    "the key of another kid": lambda: signed(good(), private("rsa"), "RS256", kid="e1"),
    "ES256 by another key": lambda: signed(good(), private("other-p256"), "ES256", kid="e1"),
    "EdDSA by another key": lambda: signed(good(), private("other-ed25519"), "EdDSA", kid="d1"),
    "jwk of one's own": lambda: signed(
        good(), private("other-rsa"), "RS256", kid="r1", jwk=jwk("other-rsa", "r1")
    ),
    "jku of one's own": lambda: signed(
        good(), private("other-rsa"), "RS256", kid="r1", jku="https://evil.example.org/keys"
    ),
    "a changed signature": lambda: flipped(signed(good(), private("rsa"), "RS256", kid="r1")),
    "no exp": lambda: signed(good(exp=None), private("rsa"), "RS256", kid="r1"),
    "another aud": lambda: signed(good(aud="billing"), private("ed25519"), "EdDSA", kid="d1"),
    "another iss": lambda: signed(
        good(iss="https://evil.example.org"), private("p256"), "ES256", kid="e1"
    ),
}
BY_KEY_PAIR_GOOD: Mapping[str, Callable[[], str]] = {
    "RS256": lambda: signed(good(), private("rsa"), "RS256", kid="r1"),
    "RS512": lambda: signed(good(), private("rsa"), "RS512", kid="r1"),
    "PS256": lambda: signed(good(), private("rsa"), "PS256", kid="r1"),
    "ES256": lambda: signed(good(), private("p256"), "ES256", kid="e1"),
    "EdDSA": lambda: signed(good(), private("ed25519"), "EdDSA", kid="d1"),
}


async def test_forged_tokens_are_all_401_where_keys_are_published(
    database: Database,
) -> None:
    with answering() as issuer:
        issuer.at |= PUBLISHED
        wanted = IdentitySettings(
            jwks_url=f"{issuer.url}/keys", jwt_issuer=ISSUER, jwt_audience=AUDIENCE
        )
        async with api_client(database, identity=wanted) as ada:
            answered = await statuses(ada, {name: make() for name, make in BY_KEY_PAIR.items()})
            assert {name: status for name, status in answered.items() if status != 401} == {}
            answered = await statuses(
                ada, {name: make() for name, make in BY_KEY_PAIR_GOOD.items()}
            )
            assert {name: status for name, status in answered.items() if status != 200} == {}
            assert issuer.count("/keys") == 1  # at most once a minute, whatever was requested
            await ada.services.authentication.close()


async def test_one_algorithm_of_the_family_where_one_is_set(database: Database) -> None:
    with answering() as issuer:
        issuer.at |= PUBLISHED
        async with api_client(
            database,
            identity=IdentitySettings(jwks_url=f"{issuer.url}/keys", jwt_algorithm="ES256"),
        ) as ada:
            answered = await statuses(
                ada, {name: make() for name, make in BY_KEY_PAIR_GOOD.items()}
            )
            assert answered == {name: 200 if name == "ES256" else 401 for name in BY_KEY_PAIR_GOOD}
            await ada.services.authentication.close()


async def test_without_any_configuration_no_token_but_ours_is_taken(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        assert set(
            (
                await statuses(
                    ada, {"good": signed(good()), **{n: m() for n, m in BY_KEY_PAIR_GOOD.items()}}
                )
            ).values()
        ) == {401}


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"JWT_SECRET_KEY": SECRET, "OPSJOBS_JWKS_URL": "https://id.example.org/keys"},
            "are both set",
        ),
        ({"JWT_SECRET_KEY": SECRET, "JWT_ALGORITHM": "RS256"}, "works with public keys"),
        (
            {"OPSJOBS_JWKS_URL": "https://id.example.org/keys", "JWT_ALGORITHM": "HS256"},
            "works with a shared secret",
        ),
        ({"JWT_ALGORITHM": "HS256"}, "there is no key: set JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": SECRET, "JWT_ALGORITHM": "none"}, "write one of"),
    ],
)
def test_a_mix_of_families_is_refused_at_the_door(environ: dict[str, str], told: str) -> None:
    with pytest.raises(settings.SettingsError, match=told):
        settings.load(environ)
