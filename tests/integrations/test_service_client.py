"""Requests to a service of the platform: authentication, retries, and timeouts."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest

from kit.certificates import self_signed
from kit.platform_services import PlatformServices, platform_services
from kit.token_issuer import SECRET
from opsjobs.clock import TurnedClock
from opsjobs.composition.platform import build_integrations
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.services.authorization import ClientCredentials
from opsjobs.integrations.services.client import (
    RENEWED_SECONDS,
    ServiceClient,
    ServiceOptions,
    ServiceRefused,
)
from opsjobs.integrations.services.health import ServiceHealth
from opsjobs.integrations.services.profile import load_profile
from opsjobs.integrations.services.targets import TargetService
from opsjobs.integrations.token_issuers import AuthService
from opsjobs.settings import load
from opsjobs.telemetry.logs import bound
from opsjobs.telemetry.metrics import Metrics

NOW = datetime(2026, 11, 27, tzinfo=UTC)
PATH = "/api/v3/targets/7"


@asynccontextmanager
async def client_of(
    platform: PlatformServices, *, clock: TurnedClock | None = None, **more: str
) -> AsyncIterator[tuple[ServiceClient, Metrics]]:
    environ = {
        "TARGET_SERVICE_URL": platform.url("target"),
        "OPSJOBS_SERVICE_TIMEOUT": "60",
        **more,
    }
    metrics = Metrics()
    integrations = build_integrations(load(environ), clock or TurnedClock(NOW), metrics)
    service = integrations.get("TARGET")
    assert service is not None
    try:
        yield service.client, metrics
    finally:
        await integrations.close()


def outcomes(metrics: Metrics) -> Counter[str]:
    found = Counter[str]()
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "opsjobs_service_requests_total":
                found[sample.labels["outcome"]] += int(sample.value)
    return found


async def test_each_mode_authenticates_in_its_way() -> None:
    with platform_services() as platform:
        platform.add_target("7", "web-1", "192.0.2.7", 22)
        modes: list[tuple[dict[str, str], str, str]] = [
            ({"TARGET_SERVICE_AUTH": "bearer"}, "authorization", "Bearer s3cret-of-ours"),
            ({"TARGET_SERVICE_AUTH": "api_key"}, "x-api-key", "s3cret-of-ours"),
        ]
        for environ, header, value in modes:
            environ["TARGET_SERVICE_SECRET"] = "s3cret-of-ours"
            async with client_of(platform, **environ) as (client, _):
                assert (await client.get(PATH)).body["name"] == "web-1"
            assert platform.calls[-1].headers[header] == value
        async with client_of(platform) as (client, _):
            await client.get(PATH)
        sent = platform.calls[-1].headers
        assert "authorization" not in sent
        assert sent["user-agent"] == "OpsConductor-Client/job-execution"


async def test_a_signed_token_is_short_lived_and_names_its_service() -> None:
    clock = TurnedClock(NOW)
    environ = {"TARGET_SERVICE_AUTH": "service_jwt", "JWT_SECRET_KEY": SECRET}
    with platform_services() as platform:
        platform.add_target("7", "web-1", "192.0.2.7", 22)
        async with client_of(platform, clock=clock, **environ) as (client, _):
            await client.get(PATH)
        token = platform.calls[-1].headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(
        token, SECRET, ["HS256"], audience="target-service", options={"verify_exp": False}
    )
    assert claims["sub"] == "job-execution"
    assert claims["exp"] - NOW.timestamp() == 60


async def test_the_request_id_goes_along_as_the_correlation_id() -> None:
    with platform_services() as platform:
        platform.add_target("7", "web-1", "192.0.2.7", 22)
        async with client_of(platform) as (client, _):
            with bound(request_id="r-1"):
                await client.get(PATH)
            assert platform.calls[-1].headers["x-correlation-id"] == "r-1"
            await client.get(PATH)
            assert len(platform.calls[-1].headers["x-correlation-id"]) == 36


@pytest.mark.parametrize(
    ("fault", "attempts", "outcome", "message"),
    [
        ("500", 3, "error", "it answers 500"),
        ("slow", 2, "timeout", "it did not answer within"),
        ("garbage", 1, "invalid", "it answers 200 with something that is not JSON"),
        ("endless", 1, "invalid", "it answers with more than 8MiB"),
        ("redirect", 1, "invalid", "sends us on to 127.0.0.1, which is not followed"),
        ("refused", 1, "rejected", "Check TARGET_SERVICE_AUTH and TARGET_SERVICE_SECRET"),
    ],
)
async def test_a_fault_is_named_and_only_what_may_pass_is_retried(
    fault: str, attempts: int, outcome: str, message: str
) -> None:
    with platform_services() as platform:
        platform.faults["target"] = fault
        more = {"OPSJOBS_SERVICE_TIMEOUT": "3"} if fault == "slow" else {}
        async with client_of(platform, **more) as (client, metrics):
            with pytest.raises(ServiceUnavailable) as caught:
                await client.get(PATH)
            status = client.health.status()
        assert message in str(caught.value)
        assert str(caught.value).startswith("the Target Service at 127.0.0.1:")
        assert len(platform.calls) == attempts
        assert outcomes(metrics)[outcome] >= 1
        assert (status.name, status.state, status.profile) == (
            "target",
            "failing",
            "opsconductor-v3",
        )
        assert message.split(",", maxsplit=1)[0] in str(status.last_error)


async def test_what_is_not_idempotent_is_sent_once() -> None:
    with platform_services() as platform:
        platform.faults["target"] = "500"
        async with client_of(platform) as (client, _):
            with pytest.raises(ServiceUnavailable):
                await client.post("/api/v3/targets/batch", {"target_ids": []}, idempotent=False)
        assert len(platform.calls) == 1


async def test_a_service_that_is_down_is_spared_and_tried_again_after_a_pause() -> None:
    clock = TurnedClock(NOW)
    with platform_services() as platform:
        platform.add_target("7", "web-1", "192.0.2.7", 22)
        platform.faults["target"] = "500"
        async with client_of(platform, clock=clock) as (client, metrics):
            for _ in range(4):
                with pytest.raises(ServiceUnavailable):
                    await client.get(PATH)
            assert len(platform.calls) == 5
            assert outcomes(metrics)["circuit_open"] >= 2
            assert client.health.status().state == "open"
            platform.faults.clear()
            clock.turn(3)
            assert (await client.get(PATH)).status == 200
            status = client.health.status()
            assert (status.state, status.since) == ("ok", clock.now())


async def test_an_object_that_is_not_there_is_no_fault_of_the_service() -> None:
    with platform_services() as platform:
        async with client_of(platform) as (client, _):
            for _ in range(6):
                with pytest.raises(ServiceRefused) as caught:
                    await client.get(PATH)
                assert caught.value.status == 404
            assert client.health.status().state == "ok"


async def test_a_credential_is_cached_for_a_minute_but_not_that_there_is_none() -> None:
    clock = TurnedClock(NOW)
    calls = load_profile("opsconductor-v3").targets
    assert calls is not None
    with platform_services() as platform:
        async with client_of(platform, clock=clock) as (client, _):
            service = TargetService(client, calls, clock)
            assert await service.credential("7") is None
            platform.credentials["7"] = {"username": "deploy", "ssh_key": "PEM", "domain": ""}
            found = await service.credential("7")
            assert found is not None
            assert (found.type, found.username) == ("ssh_key", "deploy")
            platform.credentials["7"] = {"username": "ada", "password": "pw", "domain": "CORP"}
            assert await service.credential("7") == found
            clock.turn(61)
            for _ in range(5):  # the timers of the cache run on the loop
                await asyncio.sleep(0)
            changed = await service.credential("7")
            assert changed is not None
            assert (changed.type, changed.username) == ("password", "CORP\\ada")


async def test_a_token_of_the_token_endpoint_is_kept_until_it_ends_or_is_rejected() -> None:
    given: list[str] = []

    async def request() -> Any:
        given.append(f"token-{len(given)}")
        return {"access_token": given[-1], "token_type": "Bearer", "expires_in": 300}

    clock = TurnedClock(NOW)
    with platform_services() as platform:
        platform.add_target("7", "web-1", "192.0.2.7", 22)
        url = platform.url("target")
        client = ServiceClient(
            ServiceOptions("target", url),
            ClientCredentials(request, clock),
            ServiceHealth("target", url, "opsconductor-v3", clock),
            clock,
        )
        try:
            await client.get(PATH)
            await client.get(PATH)
            assert given == ["token-0"]
            clock.turn(271)
            await client.get(PATH)
            assert given == ["token-0", "token-1"]
            platform.takes = lambda call: call.headers["authorization"] == "Bearer token-2"
            await client.get(PATH)
            assert given == ["token-0", "token-1", "token-2"]
        finally:
            await client.close()


async def test_our_revoked_token_is_renewed_once_where_a_401_may_mean_the_token_that_is_checked() -> (
    None
):
    """While it was invalid, every token of every user was reported as invalid."""
    given: list[str] = []

    async def request() -> Any:
        given.append(f"ours-{len(given)}")
        return {"access_token": given[-1], "token_type": "Bearer", "expires_in": 3_600}

    clock = TurnedClock(NOW)
    with platform_services() as platform:
        platform.add_user("ada", "operator")
        url, profile = platform.url("auth"), load_profile("opsconductor-v3")
        assert profile.auth is not None
        client = ServiceClient(
            ServiceOptions("auth", url),
            ClientCredentials(request, clock),
            ServiceHealth("auth", url, "opsconductor-v3", clock),
            clock,
        )
        service = AuthService(client, profile.auth)
        try:
            assert await service.validate("ada")
            clock.turn(RENEWED_SECONDS + 1)
            platform.takes = lambda call: call.headers["authorization"] == "Bearer ours-1"
            assert await service.validate("ada")
            assert given == ["ours-0", "ours-1"]
            # A new token of ours is trusted: attackers who guess cause no requests for tokens.
            platform.takes = lambda _: False
            for guess in ("a", "b", "c"):
                assert await service.validate(guess) is None
            assert given == ["ours-0", "ours-1"]
        finally:
            await client.close()


async def test_the_token_endpoint_is_verified_by_the_same_authority_as_the_services(
    tmp_path: Path,
) -> None:
    chain, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    answer = b'{"access_token": "t-1", "token_type": "Bearer", "expires_in": 300}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"grant_type=client_credentials")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    wanted = {
        "TARGET_SERVICE_AUTH": "client_credentials",
        "TARGET_SERVICE_SECRET": "s3cret-of-ours",
        "OPSJOBS_SERVICE_TOKEN_URL": url,
    }
    with platform_services() as platform:
        platform.add_target("7", "web-1", "192.0.2.7", 22)
        platform.takes = lambda call: call.headers.get("authorization") == "Bearer t-1"
        async with client_of(platform, OPSJOBS_SERVICE_CA_FILE=str(chain), **wanted) as (client, _):
            assert (await client.get(PATH)).status == 200
        async with client_of(platform, **wanted) as (client, _):
            with pytest.raises(ServiceUnavailable) as caught:
                await client.get(PATH)
    assert "the token endpoint at 127.0.0.1 does not answer" in str(caught.value)
    assert "name its authority in OPSJOBS_SERVICE_CA_FILE" in str(caught.value)
    server.close()
