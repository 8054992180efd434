"""Point 2: JWKS with a pinned URL or discovery, a time to live, and rare fetches.

Keys are fetched again at most once a minute, and outages are survived.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kit.token_issuer import AUDIENCE, ISSUER, Answers, answering, good, jwk, private, signed
from opsjobs.clock import TurnedClock
from opsjobs.identity.jws import (
    KEPT_WITHOUT_ANSWER_SECONDS,
    REFETCH_SECONDS,
    PublishedKeys,
)
from opsjobs.identity.tokens import SignedTokens
from opsjobs.integrations.json_client import BYTES_MAX, JsonClient
from opsjobs.integrations.token_issuers import DiscoveredIssuer, PinnedIssuer
from opsjobs.model.errors import Unauthorised, Unavailable
from opsjobs.model.jwt_algorithms import BY_KEY_PAIR
from opsjobs.model.token_claims import ClaimRules

TTL = 300.0
OLD, NEW = {"keys": [jwk("rsa", "old")]}, {"keys": [jwk("rsa", "old"), jwk("p256", "new")]}


class TokenChecker:
    """Verifies tokens by the keys that a server publishes, at times that a test sets."""

    def __init__(self, answers: Answers, issuer: Any = None) -> None:
        self.clock = TurnedClock(datetime(2026, 11, 27, tzinfo=UTC))
        self.asking = JsonClient(seconds=5)
        issuer = issuer(self.asking) if issuer else PinnedIssuer(self.asking, f"{answers.url}/keys")
        keys = PublishedKeys(issuer.jwks, self.clock, algorithms=BY_KEY_PAIR, ttl_seconds=TTL)
        self.tokens = SignedTokens(keys, ClaimRules(ISSUER, (AUDIENCE,)), self.clock)

    def token(self, kid: str | None = "old", key: str = "rsa", algorithm: str = "RS256") -> str:
        return signed(
            good(self.clock.now().timestamp()),
            private(key),
            algorithm,
            **({"kid": kid} if kid else {}),
        )

    async def takes(self, *of: Any) -> bool:
        try:
            await self.tokens.authenticate(self.token(*of))
        except Unauthorised:
            return False
        return True


async def test_keys_are_fetched_once_for_their_time_and_an_unknown_one_at_most_once_a_minute() -> (
    None
):
    with answering() as issuer:
        issuer.at["/keys"] = (200, OLD)
        checker = TokenChecker(issuer)
        assert [await checker.takes() for _ in range(5)] == [True] * 5
        assert issuer.count("/keys") == 1
        issuer.at["/keys"] = (200, NEW)
        new = ("new", "p256", "ES256")
        assert [await checker.takes(*new) for _ in range(20)] == [
            False
        ] * 20  # they were fetched just before
        assert [await checker.takes(f"invented-{n}") for n in range(20)] == [False] * 20
        assert issuer.count("/keys") == 1
        checker.clock.turn(REFETCH_SECONDS)
        assert await checker.takes(*new)
        assert [await checker.takes(f"invented-{n}") for n in range(20)] == [False] * 20
        assert issuer.count("/keys") == 2
        checker.clock.turn(TTL)
        assert await checker.takes()
        assert issuer.count("/keys") == 3
        await checker.asking.close()


async def test_a_key_that_is_taken_back_is_good_no_longer_than_its_time() -> None:
    with answering() as issuer:
        issuer.at["/keys"] = (200, NEW)
        checker = TokenChecker(issuer)
        assert await checker.takes()
        issuer.at["/keys"] = (200, {"keys": [jwk("p256", "new")]})
        checker.clock.turn(TTL)
        assert not await checker.takes()
        assert await checker.takes(
            None, "p256", "ES256"
        )  # there is only one now, so a token need not name it
        await checker.asking.close()


@pytest.mark.parametrize(
    "outage",
    [
        (500, {}),
        (302, {}),
        (200, b"<html>"),
        (200, {"keys": []}),
        (200, {"keys": [{"kty": "oct", "k": "AAAA", "kid": "old"}]}),
        (200, []),
        (200, {"keys": [{}] * 101}),
        (200, b"[" * 100_000),
        (200, b'{"keys": [' + b" " * BYTES_MAX + b"]}"),
        (200, {"keys": [{"kty": "RSA", "n": "!", "e": "AQAB", "kid": "old"}, 7, None]}),
    ],
)
async def test_the_last_good_keys_survive_an_outage_for_a_day(
    outage: tuple[int, Any],
) -> None:
    with answering() as issuer:
        issuer.at["/keys"] = outage
        checker = TokenChecker(issuer)
        with pytest.raises(Unavailable):
            await checker.takes()  # there never were any: the token cannot be verified
        issuer.at["/keys"] = (200, OLD)
        checker.clock.turn(3)
        assert await checker.takes()
        issuer.at["/keys"] = outage
        for _ in range(3):
            checker.clock.turn(TTL)
            assert await checker.takes()
        asked = len(issuer.asked)
        assert await checker.takes()
        assert len(issuer.asked) == asked  # not for each token, as long as it lasts
        checker.clock.turn(KEPT_WITHOUT_ANSWER_SECONDS)
        with pytest.raises(Unavailable):
            await checker.takes()
        await checker.asking.close()


async def test_discovery_is_believed_of_its_own_issuer_only() -> None:
    with answering() as server:
        well_known = "/.well-known/openid-configuration"

        async def told(document: Any, *, plain_http: bool = True) -> Any:
            server.at[well_known] = (200, document)
            asking = JsonClient()
            try:
                return await DiscoveredIssuer(asking, server.url, plain_http=plain_http).jwks()
            finally:
                await asking.close()

        server.at["/keys"] = (200, OLD)
        good_one = {"issuer": server.url, "jwks_uri": f"{server.url}/keys"}
        assert await told(good_one) == OLD
        for document in (
            {**good_one, "issuer": "https://evil.example.org"},
            {**good_one, "issuer": server.url + "/"},
            {**good_one, "jwks_uri": "file:///etc/passwd"},
            {**good_one, "jwks_uri": 7},
            {},
            [],
        ):
            with pytest.raises(Exception, match=r"another issuer|names no jwks_uri"):
                await told(document)
        with pytest.raises(Exception, match="names no jwks_uri"):
            await told(good_one, plain_http=False)
