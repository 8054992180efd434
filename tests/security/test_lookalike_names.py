"""Names that look alike are one name: invisible and confusable characters are refused.

The rest is composed.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import api_client, job
from opsjobs.model.naming import check_name
from opsjobs.model.token_claims import is_name
from opsjobs.store.transaction import Database

BAD = {
    "zero width space": ("web\u200b-1", "U+200B ZERO WIDTH SPACE"),
    "zero width joiner": ("web\u200d-1", "U+200D"),
    "byte order mark": ("web-1\ufeff", "U+FEFF"),
    "soft hyphen": ("web\u00ad-1", "U+00AD SOFT HYPHEN"),
    "right-to-left override": ("web\u202e1-", "U+202E RIGHT-TO-LEFT OVERRIDE"),
    "isolate": ("web\u2066-1", "U+2066"),
    "tag": ("web\U000e0041-1", "U+E0041"),
    "variation selector": ("web\ufe0f-1", "U+FE0F"),
    "hangul filler": ("web\u3164", "U+3164"),
    "braille blank": ("web\u28001", "U+2800"),
    "C1": ("web\u009b31m", "U+009B"),
    "next line": ("web\u00851", "U+0085"),
    "delete": ("web\x7f1", "U+007F"),
    "line separator": ("web\u20281", "U+2028"),
    "no-break space": ("web\u00a01", "U+00A0 NO-BREAK SPACE"),
    "private use": ("web\ue000", "U+E000"),
    "trailing blank": ("web-1 ", "begins or ends with a blank"),
    "cyrillic a": ("\u0430dmin", "U+0430 CYRILLIC SMALL LETTER A"),
    "greek o": ("r\u03bfot", "U+03BF GREEK SMALL LETTER OMICRON"),
    "armenian o": ("r\u0585ot", "U+0585"),
    "fullwidth": ("\uff57eb", "U+FF57"),
    "mathematical": ("\U0001d430eb", "U+1D430"),
    "minus": ("web\u22121", "looks like '-'"),
    "hyphen": ("web\u20101", "looks like '-'"),
    "fraction slash": ("web\u20441", "looks like '/'"),
    "mark without a letter": ("\u0301web", "U+0301"),
}
GOOD = [
    "web-1", "Web 1 (old) [x] @home & co.", "\u00e9l\u00e8ve", "Gr\u00f6\u00dfe", "\u0441\u0435\u0440\u0432\u0435\u0440-1",
    "web-\u0441\u0435\u0440\u0432\u0435\u0440", "\u03b4\u03af\u03ba\u03c4\u03c5\u03bf",
    "\u6771\u4eac-1", "\u0645\u0644\u0641", "\ud55c\uad6d", "deploy \u2013 prod \u2026", "\U0001f680 launch",
]  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_name_with_such_a_character_is_refused_and_the_character_named(
    kind: str,
) -> None:
    name, words = BAD[kind]
    with pytest.raises(ValueError, match="the name") as refused:
        check_name(name)
    assert words in str(refused.value)
    assert str(refused.value).isascii(), "the message cannot be misread itself"
    assert not is_name(name), "nor does a token of the platform name somebody so"


@pytest.mark.parametrize("name", GOOD)
def test_names_in_any_language_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_two_spellings_of_one_name_are_one() -> None:
    assert check_name("Zoe\u0308") == "Zo\u00eb"


async def test_nothing_takes_such_a_name_and_composed_ones_are_found_in_both_spellings(
    database: Database,
) -> None:
    bad = BAD["zero width space"][0]
    login: dict[str, Any] = {"type": "password", "username": "root", "password": "s3cret-s3cret"}
    grants = [{"role": "viewer"}]
    once = {"type": "once", "execute_at": "2199-01-01T00:00:00Z"}
    async with api_client(database) as ada:
        made = await ada.http.post("/jobs", json=job("job"))
        for path, body in (
            ("/targets", {"name": bad, "host": "10.0.0.1"}),
            ("/targets", {"name": "web-1", "host": "10.0.0.1", "groups": [bad]}),
            ("/targets", {"name": "web-1", "host": "10.0.0.1", "labels": {"role": bad}}),
            ("/target-groups", {"name": bad}),
            ("/credentials", {"name": bad, **login}),
            ("/calendars", {"name": bad, "windows": []}),
            ("/users", {"name": bad, "password": "a long password 77", "grants": grants}),
            ("/api-keys", {"name": bad, "role": "viewer"}),
            ("/services", {"name": bad, "public_key": "x", "grants": grants}),
            ("/jobs", job(bad)),
            ("/jobs", job("other", tags=[f"env={bad}"])),
            ("/jobs", job("other", policy={"exclusive": [bad]})),
            (f"{made.headers['location']}/clone", {"name": bad}),
            (f"{made.headers['location']}/schedules", {"name": bad, **once}),
        ):
            answer = await ada.http.post(path, json=body)
            assert answer.status_code == 422, (path, answer.text)
            assert "U+200B ZERO WIDTH SPACE" in answer.text, (path, answer.text)
        answer = await ada.http.post(
            f"/files?name={bad}", content=b"x", headers={"Content-Type": "application/octet-stream"}
        )
        assert answer.status_code == 422
        composed, decomposed = "Zo\u00eb", "Zoe\u0308"
        assert (
            await ada.http.post("/targets", json={"name": decomposed, "host": "10.0.0.1"})
        ).json()["name"] == composed
        assert (
            await ada.http.post("/targets", json={"name": composed, "host": "10.0.0.1"})
        ).status_code == 409
        run = {"actions": [{"command": "id"}], "targets": {"ids": [decomposed]}}
        assert (await ada.http.post("/run", json=run)).status_code == 202
