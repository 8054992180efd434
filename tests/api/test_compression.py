"""JSON is compressed for clients that accept it, and nothing else is."""

from __future__ import annotations

import json

import pytest
from starlette.datastructures import Headers

from api.live import live_api
from opsjobs.api.middleware import BYTES_MIN, accepts_gzip
from opsjobs.store.transaction import Database


@pytest.mark.parametrize(
    ("written", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.001", True),
        ("*", True),
        ("*, gzip;q=0", False),
        ("identity", False),
        ("gzip;q=much", False),
    ],
)
def test_gzip_is_accepted_if_its_weight_is_over_0(written: str, accepted: bool) -> None:
    assert accepts_gzip(Headers({"accept-encoding": written})) is accepted


@pytest.mark.parametrize("count", [12, 1_000])
async def test_a_long_answer_is_compressed_and_says_so(database: Database, count: int) -> None:
    async with live_api(database) as api:
        names = [f"web-{number}-{'x' * 80}" for number in range(count)]
        await api.targets(*names)
        await api.http.post(
            "/run", json={"actions": [{"command": "true"}], "targets": {"ids": names}}
        )
        plain = await api.http.get("/executions/1/matrix", headers={"accept-encoding": "identity"})
        packed = await api.http.get("/executions/1/matrix", headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(plain.content) / 4
        assert "accept-encoding" in packed.headers["vary"].lower()
        assert packed.content == plain.content
        assert len(json.loads(plain.content)["columns"]["id"]) == count


async def test_short_answers_streams_and_answers_with_an_etag_stay_as_they_are(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        await api.http.post(
            "/jobs",
            json={
                "name": "long",
                "description": "x" * BYTES_MIN,
                "targets": {"ids": ["web-1"]},
                "actions": [{"command": "true"}],
            },
        )
        await api.http.post("/jobs/1/execute")
        await api.http.post("/executions/1/cancel")
        packs = {"accept-encoding": "gzip"}
        for path in (
            "/version/none",
            "/jobs/1",
            "/executions/1/log?format=ndjson",
            "/executions/1/events",
        ):
            answer = await api.http.get(path, headers=packs)
            assert "content-encoding" not in answer.headers, path
        assert (await api.http.get("/jobs", headers=packs)).headers["content-encoding"] == "gzip"
